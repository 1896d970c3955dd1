package store_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// write is a write of the store, which a read-only server refuses.
func write(t *testing.T, s *store.DB, openID string) error {
	_, err := s.Sessions.Put(t.Context(), session.Session{Key: session.Key{AppID: "cli_a", OpenID: openID}, TokenType: "Bearer",
		AccessToken: session.NewSecret("u-a"), RefreshToken: session.NewSecret("ur-a")})
	return err
}

// After a failover the old primary lives on, read-only, with the pool's
// connections. The first write finds that out, and comes through by itself.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := dbtest.StartServer(t)
	standby := primary.StartStandby(t)
	moving := startPooler(t, primary.Address()) // as a name or an address that moves to the new primary
	hosts := map[string]string{
		"h1:p1,h2:p2":       dbtest.ServerURL(standby.Address() + "," + primary.Address()),
		"host= and port=":   fmt.Sprintf("postgres:///postgres?user=postgres&sslmode=disable&host=127.0.0.1,127.0.0.1&port=%d,%d", primary.Port, standby.Port),
		"one that moves":    dbtest.ServerURL(moving.address()),
		"a host that hangs": dbtest.ServerURL(silentAddress(t) + "," + primary.Address() + "," + standby.Address()),
	}
	keys := primary.DB(t).Keys
	stores := map[string]*store.DB{}
	for name, url := range hosts {
		s := (&dbtest.DB{URL: url, Postgres: true, Keys: keys}).Open(t, nil)
		if err := write(t, s, "ou_before"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := ask(t, s, 20); err != nil { // several connections
			t.Fatalf("%s: %v", name, err)
		}
		stores[name] = s
	}
	opened := time.Now()
	admin := primary.DB(t).SQL(t)
	for _, demote := range []string{"ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"} {
		if _, err := admin.ExecContext(t.Context(), demote); err != nil {
			t.Fatal(err)
		}
	}
	dbtest.Eventually(t, "the old primary is read-only", func() bool {
		var readOnly string
		err := admin.QueryRowContext(t.Context(), "SHOW transaction_read_only").Scan(&readOnly)
		return err == nil && readOnly == "on"
	})
	standby.Promote()
	address := standby.Address()
	moving.target.Store(&address)
	dbtest.Eventually(t, "the connections are old enough to be news", func() bool { return time.Since(opened) > store.NewsAfter })
	for name, s := range stores {
		t.Run(name, func(t *testing.T) {
			if err := write(t, s, "ou_after"); err != nil {
				t.Errorf("the first write after the failover: %v", err)
			}
			// The other connections, which only read, leave the old primary, too,
			// without a write on each of them.
			var g errgroup.Group
			for range 20 {
				g.Go(func() error {
					_, err := s.Sessions.Load(t.Context(), session.Key{AppID: "cli_a", OpenID: "ou_after"})
					return err
				})
			}
			if err := g.Wait(); err != nil {
				t.Errorf("a look-up after that write: %v", err)
			}
		})
	}
}
