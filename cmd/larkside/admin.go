package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"larkside/cmd/larkside/doctor"
	"larkside/cmd/larkside/settings"
	"larkside/proxy/admin"
	webconsole "larkside/proxy/console"
	"larkside/proxy/edge"
	"larkside/refresh"
	"larkside/session"
	"larkside/session/consent"
	"larkside/session/store"
	"larkside/telemetry"
)

// newAdmin returns the operators' handler. Without parts it has the probes and
// metrics of a process that is starting.
func (s *server) newAdmin(p *parts) http.Handler {
	c := admin.Config{
		Waiting: p == nil,
		Ready:   s.readiness, Metrics: s.metrics, Quit: s.quit, Key: s.adminKey,
		AllowHosts: s.cfg.AllowHosts, Apps: s.cfg.AppIDs(), Console: s.console, Log: s.log,
		UserAttr: func(k session.Key) string { return s.users.Show(k.OpenID) },
	}
	if p != nil {
		c.Sessions, c.Directory, c.Consents, c.Audit = p.db.Sessions, p.db.Directory, p.db.Consents.History, p.db.Audit.List
		c.Refresh, c.Revoke = p.refreshByHand, p.revokeByHand
		c.StartConsent = func(ctx context.Context, key session.Key, scopes []string, by admin.Actor) (*session.Consent, error) {
			pending, card, err := p.startConsentByHand(ctx, key, scopes, by)
			if pending != nil && card == session.CardAlreadySent {
				pending.Card = card // the consent was open before
			}
			return pending, err
		}
		if s.cfg.DefaultUser == settings.SignedIn {
			c.Login = s.login
		}
		c.Purge = func(ctx context.Context, w admin.PurgeWish, progress func(admin.Purge), by admin.Actor) (admin.Purge, error) {
			return p.purge(ctx, s.cfg.AppIDs(), w, progress, by)
		}
		c.SyncUsers = func(ctx context.Context, progress func(admin.UserSync), by admin.Actor) (admin.UserSync, error) {
			n, err := p.syncUsers(ctx, s.cfg.AppIDs(), progress)
			p.audit(ctx, by, store.AuditSync, session.Key{}, err)
			return n, err
		}
		c.Backup = func(ctx context.Context, by admin.Actor) (io.ReadCloser, int64, error) {
			copied, size, err := p.db.Backup(ctx)
			p.audit(ctx, by, store.AuditBackup, session.Key{}, err)
			return copied, size, err
		}
		c.RotateKeys = func(ctx context.Context, progress func(store.Resealed), by admin.Actor) (store.Resealed, error) {
			n, err := p.db.Reseal(ctx, progress)
			p.audit(ctx, by, store.AuditRotate, session.Key{}, err)
			return n, err
		}
	}
	return admin.New(c)
}

// newConsole makes the pages for people. It lives as long as the process,
// since browsers follow its events, and asks for the parts when it needs them.
// A change that an operator makes there goes the same way as one through the
// API.
func (s *server) newConsole(history *telemetry.History, recent *telemetry.Recent) *webconsole.Console {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	database := "SQLite"
	if s.cfg.Postgres() {
		database = "PostgreSQL"
	}
	return webconsole.New(webconsole.Config{
		Version: s.build.Version, Replica: host, Database: database, Started: time.Now(),
		Apps: s.cfg.AppIDs(), Key: s.adminKey,
		Ready: func(ctx context.Context) (checks []webconsole.Check) {
			for _, c := range s.readiness(ctx) {
				if !c.Advisory { // Resting says what Lark refuses
					checks = append(checks, webconsole.Check{Name: c.Name, Detail: c.Detail, OK: c.OK})
				}
			}
			return checks
		},
		Store: func() *webconsole.Store {
			p := s.parts.Load()
			if p == nil {
				return nil
			}
			return &webconsole.Store{Sessions: p.db.Sessions, Directory: p.db.Directory, Consents: p.db.Consents.History, Audit: p.db.Audit}
		},
		Budget: func(ctx context.Context, appID string) ([]session.Limit, []int, error) {
			if p := s.parts.Load(); p != nil {
				return p.source.Budget(ctx, appID)
			}
			return nil, nil, nil
		},
		Resting: func(appID string) error {
			if p := s.parts.Load(); p != nil {
				return p.source.Resting(appID)
			}
			return nil
		},
		AppRefusal: func(appID string) *webconsole.AppRefusal {
			p := s.parts.Load()
			if p == nil {
				return nil
			}
			why := p.source.Refusal(appID)
			if why == nil {
				return nil
			}
			english, chinese := doctor.Remedy(why)
			return &webconsole.AppRefusal{Err: why, Since: p.source.RefusedSince(appID), Remedy: english, RemedyChinese: chinese}
		},
		Refresh: func(ctx context.Context, key session.Key, from string) error {
			p, err := s.started()
			if err != nil {
				return err
			}
			return p.refreshByHand(ctx, key, admin.Actor{Name: store.ByAdmin, Address: from})
		},
		Revoke: func(ctx context.Context, key session.Key, from string) error {
			p, err := s.started()
			if err != nil {
				return err
			}
			return p.revokeByHand(ctx, key, admin.Actor{Name: store.ByAdmin, Address: from})
		},
		StartConsent: func(ctx context.Context, key session.Key, from string) (session.CardResult, error) {
			p, err := s.started()
			if err != nil {
				return "", err
			}
			_, card, err := p.startConsentByHand(ctx, key, nil, admin.Actor{Name: store.ByAdmin, Address: from})
			if errors.Is(err, session.ErrNotAsked) {
				err = nil // the card's result says it
			}
			return card, err
		},
		UserShown: s.users.Show,
		History:   history, Recent: recent, OpenAPI: admin.OpenAPI(), Log: s.log,
	})
}

// login has whoever opens a link become the default user. The stop of the process
// ends it.
func (s *server) login(ctx context.Context, appID string, progress func(admin.Login), by admin.Actor) (admin.Login, error) {
	p, err := s.started()
	if err != nil {
		return admin.Login{}, err
	}
	if err := p.source.CheckApp(appID); err != nil {
		return admin.Login{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.stopping:
			cancel(&consent.SignInError{Reason: "stopping"})
		case <-ctx.Done():
		}
	}()
	who, err := p.consents.SignIn(ctx, appID, func(link string, life time.Duration) {
		progress(admin.Login{AppID: appID, AuthorizeURL: link, ExpiresIn: int64(life.Seconds())})
	})
	var refused *consent.SignInError
	switch {
	case errors.As(err, &refused):
		return admin.Login{}, &edge.Answer{Failure: edge.NotSignedIn, Reason: refused.Reason}
	case err != nil:
		return admin.Login{}, err
	}
	return admin.Login{AppID: appID, OpenID: who.OpenID, Name: who.Profile.Name}, nil
}

// refreshByHand renews a session because an operator wants it.
func (p *parts) refreshByHand(ctx context.Context, key session.Key, by admin.Actor) error {
	_, err := p.source.Refresh(ctx, key)
	p.audit(ctx, by, store.AuditRefresh, key, err)
	return err
}

// revokeByHand ends a session because an operator wants it.
func (p *parts) revokeByHand(ctx context.Context, key session.Key, by admin.Actor) error {
	err := p.consents.Revoke(ctx, key, session.Revoked)
	p.audit(ctx, by, store.AuditRevoke, key, err)
	return err
}

// startConsentByHand has a user asked because an operator wants it.
func (p *parts) startConsentByHand(ctx context.Context, key session.Key, scopes []string, by admin.Actor) (pending *session.Consent, card session.CardResult, err error) {
	defer func() { p.audit(ctx, by, store.AuditAsk, key, err) }()
	if err := p.source.CheckApp(key.AppID); err != nil {
		return nil, "", err
	}
	started, challenge, err := p.consents.Start(ctx, key, scopes)
	if err == nil && challenge.AuthorizeURL == "" {
		err = &session.RetryError{Err: fmt.Errorf("%w: card %s", session.ErrNotAsked, challenge.Card), After: challenge.RetryAfter}
	}
	return &started, challenge.Card, err
}

// syncUsers reads all known users of these apps from Lark now.
func (p *parts) syncUsers(ctx context.Context, appIDs []string, progress func(admin.UserSync)) (admin.UserSync, error) {
	var total admin.UserSync
	for _, id := range appIDs {
		with := func(n refresh.Synced) admin.UserSync {
			sum := total
			sum.Users += n.Read + n.Disabled + n.Absent
			sum.Updated += n.Read + n.Disabled
			sum.Failed += n.Absent
			return sum
		}
		n, err := p.source.SyncUsers(ctx, id, time.Now(), func(n refresh.Synced) { progress(with(n)) })
		total = with(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// audit writes down what an operator did and what came of it.
func (p *parts) audit(ctx context.Context, by admin.Actor, action store.AuditAction, key session.Key, err error) {
	e := store.AuditEntry{Actor: by.Name, Action: action, Key: key, Result: "done", Detail: origin(by)}
	if err != nil {
		e.Result, e.Detail = "failed", e.Detail+": "+err.Error()
	}
	p.db.Audit.Write(ctx, e)
}

// origin says from where an operator has acted.
func origin(by admin.Actor) string {
	if by.Address == "" || by.Address == "@" {
		return "from the Unix socket"
	}
	return "from " + by.Address
}

// auditSweep is how often old entries are looked for.
const auditSweep = time.Hour

// forgetAudit deletes entries older than retention until ctx ends: soon after
// the start and then every auditSweep, on one replica at a time.
func (p *parts) forgetAudit(ctx context.Context, retention time.Duration, log *slog.Logger) error {
	for wait := time.Minute; ; wait = auditSweep {
		// The jitter keeps replicas apart that were started together.
		timer := time.NewTimer(wait + rand.N(wait/10))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		leads, err := p.db.Elections.Lead(ctx, "audit", auditSweep)
		if err == nil && leads {
			err = p.db.Audit.Forget(ctx, retention)
		}
		if err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "old audit entries could not be deleted", "error", err)
		}
	}
}
