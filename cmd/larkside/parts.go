package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/cmd/larkside/settings"
	"larkside/refresh"
	"larkside/session"
	"larkside/session/consent"
	"larkside/session/lark"
	"larkside/session/seal"
	"larkside/session/store"
)

// parts are what needs the database.
type parts struct {
	db       *store.DB
	source   *refresh.Source
	consents *consent.Manager
}

// openParts opens the store, waiting for a database that is not there yet, and
// builds what needs it. Both results are nil when ctx ends first.
func (s *server) openParts(ctx context.Context) (*parts, error) {
	ring, err := s.keyring()
	if err != nil {
		return nil, err
	}
	db, err := s.openStore(ctx, store.Config{
		Keys: ring, MaxConns: s.cfg.DatabaseMaxConns, ExpectSessions: s.cfg.ExpectSessions, Users: s.users,
		CacheSize: s.cfg.CacheSize, CacheTTL: s.cfg.CacheTTL, Log: s.log,
	})
	if db == nil {
		return nil, err
	}
	p, err := s.newParts(db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return p, nil
}

// keyring is nil where SQLite is to use its key file.
func (s *server) keyring() (*seal.Keyring, error) {
	if s.secrets.EncryptionKeys.Get().Empty() {
		return nil, nil
	}
	ring, err := seal.ParseKeyring(s.secrets.EncryptionKeys.Get())
	if err != nil {
		return nil, err
	}
	s.secrets.EncryptionKeys.OnChange(func(keys session.Secret) {
		if err := ring.Set(keys); err != nil {
			s.log.Error("the new encryption keys are not valid; the ones before stay", "error", err)
		}
	})
	return ring, nil
}

// openStore tries until the database is there, and has sessions if some are
// expected. It returns nil when ctx ends first.
func (s *server) openStore(ctx context.Context, c store.Config) (*store.DB, error) {
	for wait := 500 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		// The URL may be corrected in its file meanwhile.
		c.URL, c.ListenURL = s.secrets.DatabaseURL.Get(), s.secrets.DatabaseListenURL.Get()
		db, err := store.Open(ctx, c)
		switch {
		case err == nil:
			return db, nil
		case ctx.Err() != nil:
			return nil, nil
		case errors.Is(err, store.ErrRights):
			return nil, settings.Error{settings.Prefix + "DATABASE_URL: " + err.Error()}
		case errors.Is(err, store.ErrSetup), errors.Is(err, store.ErrSchemaNewer), errors.Is(err, store.ErrInUse):
			return nil, fmt.Errorf("%sDATABASE_URL: %w", settings.Prefix, err)
		}
		empty := errors.Is(err, store.ErrNoSessions)
		switch was := s.empty.Swap(empty); {
		case !empty:
			s.log.Warn("the database is not there yet; trying again", "retry_in", wait.String(), "error", err)
		case !was:
			s.log.Error("not ready: the database has no session, and EXPECT_SESSIONS=true says that there are some; nobody is asked for consent",
				"do", "check that DATABASE_URL leads to the right database; for a new one leave EXPECT_SESSIONS out until the first user has consented")
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(wait):
		}
	}
}

// followDatabase lets new connections have the URL's present password.
func (s *server) followDatabase(db *store.DB) {
	reconnect := func(session.Secret) {
		if err := db.Reconnect(s.secrets.DatabaseURL.Get(), s.secrets.DatabaseListenURL.Get()); err != nil {
			s.log.Error("the changed database URL is not used; the one before stays", "error", err)
		}
	}
	s.secrets.DatabaseURL.OnChange(reconnect)
	s.secrets.DatabaseListenURL.OnChange(reconnect)
	if s.cfg.Postgres() {
		reconnect(session.Secret{}) // it may have changed since the store was opened
	}
}

func (s *server) newParts(db *store.DB) (*parts, error) {
	// Each uses the other: the source tells the manager of sessions that ended, so
	// that their users are asked.
	var asking atomic.Pointer[consent.Manager]
	source, err := s.newSource(db, &asking)
	if err != nil {
		return nil, err
	}
	consents, err := s.newConsents(db, source)
	if err != nil {
		return nil, err
	}
	asking.Store(consents)
	return &parts{db, source, consents}, nil
}

// newSource makes what finds and renews tokens. It uses the manager of consents
// once that is set.
func (s *server) newSource(db *store.DB, asking *atomic.Pointer[consent.Manager]) (*refresh.Source, error) {
	apps := make(map[string]refresh.Lark)
	for id, client := range s.clients {
		apps[id] = client
	}
	return refresh.New(refresh.Config{
		Sessions: db.Sessions, Leases: db.Leases, Profiles: db.Profiles,
		Rates: db.Rates, Elections: db.Elections, Changes: db.Changes,
		Apps: apps, Threshold: s.cfg.RefreshThreshold, Limits: s.cfg.RefreshRate,
		Sweep: s.cfg.RefreshSweep, Sync: s.cfg.UserSync, Log: s.log,
		Ended: func(ctx context.Context, over *session.Session) {
			db.Audit.Write(ctx, store.AuditEntry{Actor: store.ByLark, Action: store.AuditLost, Key: over.Key,
				Result: string(over.State), Detail: string(over.Reason)})
			if consents := asking.Load(); consents != nil {
				consents.Ended(ctx, over)
			}
		},
		Discard: func(ctx context.Context, key session.Key, access, refresh session.Secret) {
			if consents := asking.Load(); consents != nil {
				consents.Discard(ctx, key, access, refresh)
			}
		},
		Users: s.users,
	})
}

// newConsents makes what asks users for consent.
func (s *server) newConsents(db *store.DB, source *refresh.Source) (*consent.Manager, error) {
	apps := make(map[string]consent.Lark)
	for id, client := range s.clients {
		apps[id] = &reportingClient{client, func(err error) { source.Report(id, err) }}
	}
	flow := session.DeviceFlow
	if s.cfg.Redirects() {
		flow = session.RedirectFlow
	}
	return consent.New(consent.Config{
		Sessions: db.Sessions, Retention: db.Retention, Keep: s.cfg.SessionRetention, Consents: db.Consents, Reminders: db.Reminders, Events: db.Events,
		Rates: db.Rates, Elections: db.Elections, Audit: db.Audit, Changes: db.Changes, Defaults: db.Defaults,
		Apps: apps, Flow: flow, Scopes: s.cfg.Scopes, PublicURL: string(s.cfg.PublicURL),
		ConsentTTL: s.cfg.ConsentTTL, Rate: s.cfg.ConsentRate[0], CardOff: !bool(s.cfg.Card),
		CardTitle: s.cfg.CardTitle, CardMessage: s.cfg.CardMessage, PrivacyURL: string(s.cfg.PrivacyURL), AppLink: s.cfg.AppLink(), ChatLink: s.cfg.ChatLink(),
		AwaitTurn: source.AwaitTurn, Callers: s.numberOfCallers(), Buttons: s.cfg.Events != "off", EventKeys: s.eventKeys(),
		TokenRefused: func(ctx context.Context, key session.Key, version int64) { source.ReplaceRefused(ctx, key, version) },
		Users:        s.users, Log: s.log,
	})
}

// numberOfCallers is nil where callers need no key: then all are one.
func (s *server) numberOfCallers() func() int {
	if len(s.cfg.CallerKeys) == 0 {
		return nil
	}
	return func() int {
		names := make(map[string]bool)
		for _, k := range s.secrets.CallerKeys.Get() {
			names[k.Name] = true
		}
		return len(names)
	}
}

// reportingClient reports how Lark takes the app when a consent is started or
// finished: an app that Lark refuses must not send cards.
type reportingClient struct {
	*lark.Client
	report func(error)
}

func (c *reportingClient) StartDevice(ctx context.Context, scopes []string) (lark.DeviceAuthorization, error) {
	d, err := c.Client.StartDevice(ctx, scopes)
	c.report(err)
	return d, err
}

func (c *reportingClient) Exchange(ctx context.Context, code session.Secret, redirectURI string, verifier session.Secret) (lark.Token, error) {
	t, err := c.Client.Exchange(ctx, code, redirectURI, verifier)
	c.report(err)
	return t, err
}

// eventKeys is nil where Lark posts no events.
func (s *server) eventKeys() *lark.EventKeys {
	if s.cfg.Events != "http" {
		return nil
	}
	return &lark.EventKeys{Token: s.secrets.EventToken.Get, EncryptKey: s.secrets.EventEncryptKey.Get}
}

// listenForEvents keeps one long connection for each app.
func (s *server) listenForEvents(ctx context.Context, work *errgroup.Group, consents *consent.Manager) {
	for _, client := range s.clients {
		work.Go(func() error {
			return ignoreCanceled(client.Listen(ctx, func(ctx context.Context, e *lark.Event) (any, error) {
				return consents.HandleEvent(ctx, e)
			}))
		})
	}
}

// storeGrace is the least time for which stop waits for tokens that Lark may
// have issued: enough for one call to the token endpoint and a write to the
// database.
const storeGrace = 12 * time.Second

// stop waits until the tokens that Lark issues now are stored, also when streams
// have used up the grace period. Otherwise their users would have to authorize
// again.
func (p *parts) stop(grace context.Context) error {
	until := time.Now().Add(storeGrace)
	if d, ok := grace.Deadline(); ok && d.After(until) {
		until = d
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(grace), until)
	defer cancel()
	// The last renewal may end a session and so begin a consent.
	return errors.Join(p.source.Shutdown(ctx), p.consents.Shutdown(ctx), p.db.Close())
}
