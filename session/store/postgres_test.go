package store_test

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// named is url with an application_name, by which PostgreSQL's list of
// connections tells how each was opened.
func named(t *testing.T, raw, name string) session.Secret {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", name)
	u.RawQuery = q.Encode()
	return session.NewSecret(u.String())
}

// A parameter that neither the driver nor the server knows is named at the
// start, instead of a database that is waited for.
func TestUnknownParameter(t *testing.T) {
	db := dbtest.Postgres(t)
	_, err := store.Open(t.Context(), store.Config{URL: session.NewSecret(db.URL + "&pgbouncer=true"), Keys: db.Keys})
	if !errors.Is(err, store.ErrSetup) || !strings.Contains(err.Error(), `"pgbouncer"`) {
		t.Error(err)
	}
}

// A database URL that is changed at run time counts for the connections that
// are opened next, the listening one included, and what is not one for none.
func TestReconnect(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	raw := db.URL
	db.URL = named(t, raw, "before").Expose()
	s := db.Open(t, nil)
	watcher := (&dbtest.DB{URL: raw, Postgres: true, Keys: db.Keys}).SQL(t)
	// The last statement of a listening connection is LISTEN or a ping.
	connections := func(name string) (n, listening int) {
		err := watcher.QueryRowContext(t.Context(), `SELECT count(*), count(*) FILTER (WHERE query LIKE 'LISTEN%' OR query = '')
			FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`, name).Scan(&n, &listening)
		if err != nil {
			t.Fatal(err)
		}
		return n, listening
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for tick := time.NewTicker(10 * time.Millisecond); !ok(); {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal("no " + what)
			}
		}
	}
	await("listening connection", func() bool { _, l := connections("before"); return l == 1 })

	for _, bad := range []string{"sqlite:larkside.db", "mysql://x", "postgres://host:port/", ""} {
		if err := s.Reconnect(session.NewSecret(bad), session.Secret{}); !errors.Is(err, store.ErrSetup) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := s.Reconnect(named(t, raw, "after"), session.Secret{}); err != nil {
		t.Fatal(err)
	}
	await("listening connection with the new URL", func() bool { _, l := connections("after"); return l == 1 })
	await("end of the old one", func() bool { _, l := connections("before"); return l == 0 })
	// The pool's idle connection is still the old one.
	if _, err := watcher.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'before'`); err != nil {
		t.Fatal(err)
	}
	await("pooled connection with the new URL", func() bool {
		s.Sessions.Load(t.Context(), session.Key{AppID: "cli_a", OpenID: "ou_a"})
		n, _ := connections("after")
		return n >= 2
	})
}

// A scrape that the database does not answer in time shows what was known
// before, and that is no failure of the database.
func TestBacklogIsSlow(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	s := db.Open(t, nil)
	put(t, s, grant(alice, "1"))
	sql := db.SQL(t)
	if _, err := sql.Exec(`UPDATE sessions SET refresh_due_at = $1`, time.Now().Add(-time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	b := s.NewBacklog()
	lag, due := b.Read(t.Context())
	if lag < time.Hour.Milliseconds() || due != 1 {
		t.Fatalf("lag %d, %d due", lag, due)
	}
	tx, err := sql.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`LOCK TABLE sessions`); err != nil {
		t.Fatal(err)
	}
	if l, d := b.Read(t.Context()); l != lag || d != due || b.Failures != 0 {
		t.Errorf("while the count takes too long: lag %d, %d due, %d failures", l, d, b.Failures)
	}
	tx.Rollback()
	if _, err := sql.Exec(`ALTER TABLE sessions RENAME TO gone`); err != nil {
		t.Fatal(err)
	}
	if l, d := b.Read(t.Context()); l != -1 || d != -1 || b.Failures != 3 {
		t.Errorf("when the statement fails: lag %d, %d due, %d failures", l, d, b.Failures)
	}
}

// Deleting many rows takes several statements, and deletes no other.
func TestForgetMany(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		sql := db.SQL(t)
		for i := range 2500 {
			_, err := sql.Exec(`INSERT INTO events (id, expires_at) VALUES ($1, $2)`, strconv.Itoa(i), i/10)
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Events.Note(t.Context(), "cli_a", "kept", time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := s.Events.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		var left int
		if err := sql.QueryRow(`SELECT count(*) FROM events`).Scan(&left); err != nil || left != 1 {
			t.Errorf("%d are left, %v", left, err)
		}
	})
}
