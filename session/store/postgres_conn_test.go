package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// throughPooler opens a store whose only connection goes through p.
func throughPooler(t *testing.T, db *dbtest.DB, p *pooler) *store.DB {
	return db.Open(t, func(c *store.Config) {
		c.URL = session.NewSecret(strings.Replace(db.URL, hostOf(t, db.URL), p.address(), 1))
		c.ListenURL, c.MaxConns = session.NewSecret("off"), 1
	})
}

// A server that shuts down says so in the middle of a statement. Nothing was
// executed, so the statement goes to another connection by itself.
func TestServerShutsDown(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	p := startPooler(t, hostOf(t, db.URL))
	s := throughPooler(t, db, p)
	put(t, s, grant(alice, "1"))
	for _, r := range []refusal{
		{"", "FATAL", "57P01"}, {"", "ERROR", "57P01"}, {"", "FATAL", "57P02"}, {"", "ERROR", "57P03"}, {"", "FATAL", "57P04"}, {"", "FATAL", "57P05"},
	} {
		r.part = "FROM sessions WHERE app_id = $1 AND open_id = $2"
		p.refusal.Store(&r)
		if _, err := s.Sessions.Load(t.Context(), alice); err != nil {
			t.Errorf("%s %s: %v", r.severity, r.state, err)
		}
		if p.refusal.Load() != nil {
			t.Errorf("%s %s: it was not said", r.severity, r.state)
		}
	}
}

// A pooler tells in an error that it has lost the server. Whether the statement
// was executed nobody knows, so it fails, and the connection is not used again.
func TestPoolerLosesTheServer(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	p := startPooler(t, hostOf(t, db.URL))
	s := throughPooler(t, db, p)
	put(t, s, grant(alice, "1"))
	for _, state := range []string{"08000", "08003", "08006", "08P01"} {
		before := p.connections.Load()
		p.refusal.Store(&refusal{"FROM sessions WHERE app_id = $1 AND open_id = $2", "ERROR", state})
		if _, err := s.Sessions.Load(t.Context(), alice); !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("%s: %v", state, err)
		}
		for range 2 {
			if _, err := s.Sessions.Load(t.Context(), alice); err != nil {
				t.Errorf("after %s: %v", state, err)
			}
		}
		dbtest.Eventually(t, "a new connection after "+state, func() bool {
			_, err := s.Sessions.Load(t.Context(), alice)
			return err == nil && p.connections.Load() > before
		})
	}
}

// A host that hangs holds up the first connection only.
func TestHangingHostIsTriedOnce(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	hanging, taken := countingAddress(t)
	db.URL = strings.Replace(db.URL, hostOf(t, db.URL), hanging+","+hostOf(t, db.URL), 1)
	s := db.Open(t, func(c *store.Config) { c.ListenURL = session.NewSecret("off") })
	before := taken.Load()
	for range 3 {
		if err := ask(t, s, 50); err != nil {
			t.Error(err)
		}
	}
	if n := taken.Load() - before; n > 0 {
		t.Errorf("the host that hangs was tried %d times more", n)
	}
	if n := s.OpenConns(); n < 2 {
		t.Errorf("the test had %d connections", n)
	}
}

// A host's name may lead elsewhere by now.
func TestConnectionsHaveALifetime(t *testing.T) {
	s := dbtest.Postgres(t).Open(t, nil)
	if d := s.Lifetime(); d <= 0 || d > 15*time.Minute {
		t.Errorf("connections are used for %v", d)
	}
}
