package store_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"golang.org/x/sync/errgroup"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// ask has many look up users who are not cached, at once, and returns an error
// of any.
func ask(t *testing.T, s *store.DB, users int) error {
	var g errgroup.Group
	for user := range users {
		g.Go(func() error {
			_, err := s.Sessions.Access(t.Context(), session.Key{AppID: "cli_a", OpenID: fmt.Sprint("ou_", user)})
			if errors.Is(err, session.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// A role may have fewer connections than the pool wants. What comes at once
// waits for those that there are, and the pool grows when the server lets it.
func TestServerHasNoMoreConnections(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	db := server.Limited(t, 4)
	log := new(lines)
	s := db.Open(t, func(c *store.Config) {
		c.MaxConns = 16
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	dbtest.Eventually(t, "notifications come", s.Changes.Listening)
	for range 5 {
		if err := ask(t, s, 288); err != nil {
			t.Error(err)
		}
	}
	if !log.has("PostgreSQL has no more connections") {
		t.Error("nothing says that the pool could not grow")
	}
	if log.has("did not answer") {
		t.Error("waiting for a connection counts as a failure of the database")
	}
	if n := s.MaxConns(); n >= 16 {
		t.Errorf("the pool still wants %d connections", n)
	}
	if _, err := server.DB(t).SQL(t).ExecContext(t.Context(), "ALTER ROLE limited CONNECTION LIMIT 100"); err != nil {
		t.Fatal(err)
	}
	dbtest.Eventually(t, "the pool may grow again", func() bool { return s.MaxConns() == 16 })
	if err := ask(t, s, 288); err != nil {
		t.Error(err)
	}
}

// Another replica has all connections of the role for a moment.
func TestServerHasNoConnectionAtAll(t *testing.T) {
	t.Parallel()
	server := dbtest.StartServer(t)
	db := server.Limited(t, 4)
	s := db.Open(t, func(c *store.Config) { c.ListenURL = session.NewSecret("off") })
	admin := server.DB(t).SQL(t)
	for _, statement := range []string{"ALTER ROLE limited CONNECTION LIMIT 0", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'"} {
		if _, err := admin.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() { done <- ask(t, s, 20) }()
	dbtest.Eventually(t, "the server refuses a connection", func() bool { return s.MaxConns() == 1 })
	if _, err := admin.ExecContext(t.Context(), "ALTER ROLE limited CONNECTION LIMIT 4"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
