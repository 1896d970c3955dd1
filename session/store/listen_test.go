package store_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// lines is a log that a test looks into.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// openListening opens a store whose listening connection leads through p.
func openListening(t *testing.T, db *dbtest.DB, p *pooler) (*store.DB, *lines) {
	log := new(lines)
	s := db.Open(t, func(c *store.Config) {
		c.ListenURL = session.NewSecret(strings.Replace(db.URL, hostOf(t, db.URL), p.address(), 1))
		c.Log = slog.New(slog.NewTextHandler(log, nil))
		c.TestingOnlyPing = 20 * time.Millisecond
	})
	return s, log
}

// learns fails the test unless s serves what another replica stores.
func learns(t *testing.T, s, other *store.DB, openID string) {
	t.Helper()
	key := session.Key{AppID: "cli_a", OpenID: openID}
	for _, token := range []string{"u-1", "u-2"} {
		g := session.Session{Key: key, TokenType: "Bearer", AccessToken: session.NewSecret(token), RefreshToken: session.NewSecret("ur-" + token)}
		stored, err := other.Sessions.Put(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		dbtest.Eventually(t, "the cache follows the other replica", func() bool {
			a, checked := s.Sessions.Cached(key)
			if !checked {
				a, err = s.Sessions.Access(t.Context(), key)
			}
			return err == nil && a.Version == stored.Version
		})
	}
}

// Whatever becomes of the listening connection, the process lives, says so, and
// still learns of other replicas' changes.
func TestListening(t *testing.T) {
	const lost, back = "change notifications do not come; changes are polled for until they do", "change notifications are back"
	tests := []struct {
		name string
		// spoil returns what ends the trouble.
		spoil func(*pooler) func()
		// says are the reasons of which one is in the log.
		says []string
	}{
		{"a ping is answered with an error", func(p *pooler) func() {
			p.refusing.Store(true)
			return func() { p.refusing.Store(false) }
		}, []string{"the pooler does not like this"}},
		{"the connection says nothing any more", func(p *pooler) func() { return p.hush() },
			// The silence begins before a ping, or before the notification behind it.
			[]string{"no answer within 1s", "a pooler in transaction mode"}},
		{"notifications are lost in a pooler", func(p *pooler) func() {
			p.deaf.Store(true)
			return func() { p.deaf.Store(false) }
		}, []string{"a pooler in transaction mode"}},
		{"the server has no more connections", func(p *pooler) func() {
			p.full.Store(true)
			p.drop()
			return func() { p.full.Store(false) }
		}, []string{"has ended"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db := dbtest.Postgres(t)
			p := startPooler(t, hostOf(t, db.URL))
			other := db.Open(t, nil)
			s, log := openListening(t, db, p)
			dbtest.Eventually(t, "notifications come", s.Changes.Listening)
			learns(t, s, other, "ou_before")
			mend := tt.spoil(p)
			defer mend()
			dbtest.Eventually(t, "the loss is noticed", func() bool { return log.has(lost) && slices.ContainsFunc(tt.says, log.has) && !s.Changes.Listening() })
			learns(t, s, other, "ou_meanwhile")
			mend()
			dbtest.Eventually(t, "notifications are back", func() bool { return log.has(back) && s.Changes.Listening() })
			learns(t, s, other, "ou_after")
		})
	}
}

// A pooler in transaction mode is there from the start, mostly.
func TestListeningNeverWorked(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	p := startPooler(t, hostOf(t, db.URL))
	p.deaf.Store(true)
	other := db.Open(t, nil)
	s, log := openListening(t, db, p)
	dbtest.Eventually(t, "a warning", func() bool { return log.has("a pooler in transaction mode") })
	learns(t, s, other, "ou_a")
	if s.Changes.Listening() {
		t.Error("it counts as listening")
	}
}

// Close does not wait for a host that takes connections and says nothing.
func TestCloseWhileListeningHangs(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	s := db.Open(t, func(c *store.Config) {
		c.ListenURL = session.NewSecret("postgres://u@" + silentAddress(t) + "/x?sslmode=disable&connect_timeout=3600")
	})
	s.Close()
}
