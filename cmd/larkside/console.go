package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"larkside/proxy/admin"
	webconsole "larkside/proxy/console"
	"larkside/session"
	"larkside/telemetry"
)

// newConsole makes the pages for people. It lives as long as the process, since
// browsers follow its events, and asks for the parts when it needs them; what
// changes something goes the way that the API's goes.
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
		Version: buildInfo().Version, Replica: host, Database: database, Started: time.Now(),
		Apps: s.cfg.AppIDs(), Key: s.secrets.AdminKey.Get,
		Ready: func(ctx context.Context) (checks []webconsole.Check) {
			for _, c := range s.ready(ctx) {
				checks = append(checks, webconsole.Check{Name: c.Name, Detail: c.Detail, OK: c.OK})
			}
			return checks
		},
		Store: func() webconsole.Store {
			if p := s.parts.Load(); p != nil {
				return p.store
			}
			return nil
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
		Refresh: func(ctx context.Context, key session.Key, from string) error {
			p := s.parts.Load()
			if p == nil {
				return errStarting
			}
			return p.refreshByHand(ctx, key, admin.Actor{Name: session.ByAdmin, Address: from})
		},
		Revoke: func(ctx context.Context, key session.Key, from string) error {
			p := s.parts.Load()
			if p == nil {
				return errStarting
			}
			return p.revokeByHand(ctx, key, admin.Actor{Name: session.ByAdmin, Address: from})
		},
		Ask: func(ctx context.Context, key session.Key, from string) (session.CardResult, error) {
			p := s.parts.Load()
			if p == nil {
				return "", errStarting
			}
			_, card, err := p.askByHand(ctx, key, nil, admin.Actor{Name: session.ByAdmin, Address: from})
			if errors.Is(err, session.ErrNotAsked) {
				err = nil // the card's result says it
			}
			return card, err
		},
		History: history, Recent: recent, OpenAPI: admin.OpenAPI(), Log: s.log,
	})
}

// refreshByHand renews a session because an operator wants it.
func (p *parts) refreshByHand(ctx context.Context, key session.Key, by admin.Actor) error {
	_, err := p.source.Refresh(ctx, key)
	p.audit(ctx, by, session.AuditRefresh, key, err)
	return err
}

// revokeByHand ends a session because an operator wants it.
func (p *parts) revokeByHand(ctx context.Context, key session.Key, by admin.Actor) error {
	err := p.flow.Revoke(ctx, key, session.Revoked)
	p.audit(ctx, by, session.AuditRevoke, key, err)
	return err
}

// askByHand has a user asked because an operator wants it.
func (p *parts) askByHand(ctx context.Context, key session.Key, scopes []string, by admin.Actor) (pending *session.Pending, card session.CardResult, err error) {
	defer func() { p.audit(ctx, by, session.AuditAsk, key, err) }()
	if err := p.source.Admitted(key.AppID); err != nil {
		return nil, "", err
	}
	started, challenge, err := p.flow.Start(ctx, key, scopes)
	if err == nil && challenge.AuthorizeURL == "" {
		err = &session.RetryError{Err: fmt.Errorf("%w: card %s", session.ErrNotAsked, challenge.Card), After: challenge.RetryAfter}
	}
	return &started, challenge.Card, err
}
