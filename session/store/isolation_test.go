package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/sync/errgroup"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// A database may have an isolation level of its own, at which PostgreSQL gives
// up statements that meet. None of them may fail for it.
func TestIsolation(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			db := dbtest.Postgres(t)
			if _, err := db.SQL(t).ExecContext(t.Context(), fmt.Sprintf(`DO $$ BEGIN
				EXECUTE format('ALTER DATABASE %%I SET default_transaction_isolation = %%L', current_database(), '%s'); END $$`, level)); err != nil {
				t.Fatal(err)
			}
			s := db.Open(t, nil)
			key := func(n int) session.Key { return session.Key{AppID: "cli_a", OpenID: fmt.Sprint("ou_", n)} }
			granted := func(n int) session.Session {
				return session.Session{Key: key(n), TokenType: "Bearer", AccessToken: session.NewSecret(fmt.Sprint("u-", n)), RefreshToken: session.NewSecret("ur")}
			}
			var g errgroup.Group
			for user := range 8 {
				g.Go(func() error { // consents, each with a transaction
					consent, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: key(user), Flow: session.DeviceFlow, Scopes: "offline_access"}, time.Minute, time.Minute)
					if err != nil {
						return err
					}
					_, err = s.Consents.Finish(t.Context(), consent.ID, granted(user))
					return err
				})
				g.Go(func() error { // the same row, by all
					for range 10 {
						if _, err := s.Sessions.Put(t.Context(), granted(99)); err != nil {
							return err
						}
						if _, _, err := s.Rates.Take(t.Context(), "calls", []session.Limit{{N: 1000, Period: time.Second}}, 1); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			// The statements are written for this level: what is given up, they try
			// again, and what they would misread, they would not notice.
			err := s.Transact(t.Context(), func(ctx context.Context, tx *sqlx.Tx) error {
				var has string
				err := tx.GetContext(ctx, &has, "SHOW transaction_isolation")
				if has != "read committed" {
					t.Errorf("a transaction is %s", has)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Of transactions that wait for each other PostgreSQL gives one up. It is run
// again.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	s := db.Open(t, nil)
	other := session.Key{AppID: "cli_a", OpenID: "ou_other"}
	put(t, s, grant(alice, "1"))
	put(t, s, grant(other, "1"))
	both := make(chan struct{})
	var ready sync.WaitGroup
	ready.Add(2)
	go func() { ready.Wait(); close(both) }()
	var g errgroup.Group
	runs := new(atomic.Int64)
	for _, order := range [][]session.Key{{alice, other}, {other, alice}} {
		once := sync.OnceFunc(func() { ready.Done(); <-both }) // in the first run only
		g.Go(func() error {
			return s.Transact(t.Context(), func(ctx context.Context, tx *sqlx.Tx) error {
				runs.Add(1)
				for _, key := range order {
					if _, err := tx.ExecContext(ctx, "UPDATE sessions SET failures = failures + 1 WHERE open_id = $1", key.OpenID); err != nil {
						return err
					}
					once()
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if n := runs.Load(); n < 3 {
		t.Errorf("%d runs: nothing was given up", n)
	}
	for _, key := range []session.Key{alice, other} {
		if row, err := s.Sessions.Load(t.Context(), key); err != nil || row.Failures != 2 {
			t.Errorf("%s: %+v, %v", key.OpenID, row, err)
		}
	}
}

// A transaction that fails counts as a statement that fails, and is logged.
func TestTransactionFailure(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		log := new(lines)
		s := db.Open(t, func(c *store.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
		key := session.Key{AppID: "cli_a", OpenID: "ou_a"}
		consent, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: key, Flow: session.DeviceFlow, Scopes: "offline_access"}, time.Minute, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		granted := session.Session{Key: key, TokenType: "Bearer", AccessToken: session.NewSecret("u-a"), RefreshToken: session.NewSecret("ur-a")}
		if _, err := s.Consents.Finish(t.Context(), "no such consent", granted); !errors.Is(err, session.ErrConflict) {
			t.Error(err)
		}
		const line = "the database did not answer a statement"
		if log.has(line) {
			t.Error("a consent that is over counts as a failure of the database")
		}
		if _, err := db.SQL(t).ExecContext(t.Context(), `ALTER TABLE sessions RENAME TO elsewhere`); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Consents.Finish(t.Context(), consent.ID, granted); !errors.Is(err, session.ErrUnavailable) {
			t.Error(err)
		}
		if !log.has(line) {
			t.Error("a transaction that failed is not in the log")
		}
	})
}
