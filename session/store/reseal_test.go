package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/seal"
	"larkside/session/store"
	"larkside/test/dbtest"
)

var (
	oldKey = seal.NewKey("old")
	newKey = seal.NewKey("new")
)

// ring is a ring of the keys, the first of which seals.
func ring(t *testing.T, keys ...session.Secret) *seal.Keyring {
	t.Helper()
	list := ""
	for _, k := range keys {
		list += k.Expose() + ","
	}
	r, err := seal.ParseKeyring(session.NewSecret(list))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// with opens a store on db with the keys. Several may be open at once.
func with(t *testing.T, db *dbtest.DB, keys ...session.Secret) *store.DB {
	t.Helper()
	s := db.Open(t, func(c *store.Config) { c.Keys, c.TestingOnlyShared = ring(t, keys...), !db.Postgres })
	s.SetSettle(0)
	return s
}

// startsWith is the error of a start with the keys.
func startsWith(t *testing.T, db *dbtest.DB, keys ...session.Secret) error {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: session.NewSecret(db.URL), Keys: ring(t, keys...), TestingOnlyShared: !db.Postgres})
	if err == nil {
		s.Close()
	}
	return err
}

// sealedUnder is how many records in the database begin as those of the key do.
func sealedUnder(t *testing.T, db *dbtest.DB, id string) int {
	t.Helper()
	n := 0
	for _, query := range []string{
		"SELECT access_token, refresh_token, profile, union_id_seal, user_id_seal FROM sessions", "SELECT seal, link, secret, NULL, NULL FROM consents",
	} {
		rows, err := db.SQL(t).Query(query)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var records [5][]byte
			if err := rows.Scan(&records[0], &records[1], &records[2], &records[3], &records[4]); err != nil {
				t.Fatal(err)
			}
			for _, record := range records {
				if bytes.HasPrefix(record, append([]byte{1, byte(len(id))}, id...)) {
					n++
				}
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func user(i int) session.Key {
	return session.Key{AppID: "cli_a", OpenID: fmt.Sprintf("ou_%03d", i)}
}

// After a rotation the old key opens nothing and the new one everything.
func TestReseal(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		const users = 120 // more than two batches
		before := with(t, db, oldKey)
		for i := range users {
			put(t, before, grant(user(i), fmt.Sprint(i)))
		}
		p, _, err := before.Consents.Begin(t.Context(), session.Consent{Key: user(0), Flow: session.DeviceFlow, Scopes: "x"}, time.Minute, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := before.Consents.SetLink(t.Context(), p, session.NewSecret("https://link"), session.NewSecret("device"), "", time.Second, time.Minute); err != nil {
			t.Fatal(err)
		}

		s := with(t, db, newKey, oldKey)
		reports := 0
		got, err := s.Reseal(t.Context(), func(store.Resealed) { reports++ })
		if err != nil || got.Key != "new" || got.Sealed != users+1 || got.Unreadable != 0 || !slices.Equal(got.Retired, []string{"old"}) || reports < 3 {
			t.Fatalf("%+v, %v, %d reports", got, err, reports)
		}
		if o, n := sealedUnder(t, db, "old"), sealedUnder(t, db, "new"); o != 0 || n != 5*users+3 {
			t.Errorf("%d records under the old key, %d under the new", o, n)
		}
		if got, err := s.Reseal(t.Context(), nil); err != nil || got.Sealed != 0 || len(got.Retired) != 0 {
			t.Errorf("again: %+v, %v", got, err)
		}
		if err := startsWith(t, db, oldKey); !errors.Is(err, store.ErrSetup) {
			t.Errorf("a start with the old key only: %v", err)
		}

		after := with(t, db, newKey)
		for i := range users {
			row := load(t, after, user(i))
			if row.AccessToken.Expose() != fmt.Sprint("access-", i) || row.RefreshToken.Expose() != fmt.Sprint("refresh-", i) ||
				row.Profile.Name != "Alice Canary" || row.Version != 1 {
				t.Fatalf("%+v", row)
			}
		}
		if c, err := after.Consents.Open(t.Context(), user(0)); err != nil || c.Link.Expose() != "https://link" || c.Secret.Expose() != "device" {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

// A pair that a refresh stores while its old row is being sealed anew stays.
func TestResealNeverOverwrites(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		old := with(t, db, oldKey, newKey)
		for i := range 3 {
			put(t, old, grant(user(i), "1"))
		}
		s := with(t, db, newKey, oldKey)
		sealed, err := s.ResealAround(t.Context(), func() {
			l := claim(t, old, user(1), 1, time.Minute)
			if _, err := old.Leases.Replace(t.Context(), l, renewed("2")); err != nil {
				t.Fatal(err)
			}
		})
		if err != nil || sealed != 2 {
			t.Fatalf("%d rows, %v", sealed, err)
		}
		if row := load(t, s, user(1)); row.RefreshToken.Expose() != "refresh-2" || row.Version != 2 {
			t.Fatalf("the renewed pair is gone: %+v", row)
		}
		if _, err := s.Reseal(t.Context(), nil); err != nil || sealedUnder(t, db, "old") != 0 {
			t.Errorf("%v; %d records under the old key", err, sealedUnder(t, db, "old"))
		}
	})
}

// Rotating is done while replicas refresh and read: nothing fails and nothing
// is lost.
func TestResealUnderLoad(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		const users, writers = 60, 3
		first := with(t, db, oldKey)
		for i := range users {
			put(t, first, grant(user(i), "0"))
		}
		first.Close()
		s, other := with(t, db, newKey, oldKey), with(t, db, newKey, oldKey)
		ctx, stop := context.WithCancel(t.Context())
		var work sync.WaitGroup
		var counts [users]int // of the refreshes, each user's by one writer
		for w := range writers {
			work.Go(func() {
				replica := []*store.DB{s, other}[w%2]
				for round := 1; ctx.Err() == nil; round++ {
					for i := w; i < users; i += writers {
						row, err := replica.Sessions.Load(t.Context(), user(i))
						if err != nil {
							t.Errorf("a read failed: %v", err)
							return
						}
						l, err := replica.Leases.Claim(t.Context(), row.Key, row.Version, time.Minute)
						if err == nil {
							_, err = replica.Leases.Replace(t.Context(), l, renewed(fmt.Sprint(round)))
						}
						if err == nil {
							err = replica.Profiles.Set(t.Context(), row.Key, session.Profile{Name: fmt.Sprint(round)}, "", "")
						}
						if err != nil {
							t.Errorf("a refresh failed: %v", err)
							return
						}
						counts[i] = round
					}
				}
			})
		}
		work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := other.Sessions.Load(t.Context(), user(i%users)); err != nil {
					t.Errorf("a read failed: %v", err)
					return
				}
			}
		})
		got, err := s.Reseal(t.Context(), nil)
		stop()
		work.Wait()
		if err != nil || !slices.Equal(got.Retired, []string{"old"}) || sealedUnder(t, db, "old") != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		after := with(t, db, newKey)
		for i, n := range counts {
			row := load(t, after, user(i))
			if row.RefreshToken.Expose() != fmt.Sprint("refresh-", n) || n > 0 && row.Profile.Name != fmt.Sprint(n) || row.Version != int64(n+1) {
				t.Errorf("user %d after %d refreshes: version %d", i, n, row.Version)
			}
		}
	})
}

// A replica that still seals under the old key is noticed, also when it writes
// after everything else is done; and the old key stays needed.
func TestResealBesideAStaleReplica(t *testing.T) {
	db := dbtest.Postgres(t)
	stale := with(t, db, oldKey, newKey)
	put(t, stale, grant(user(0), "0"))
	s := with(t, db, newKey, oldKey)
	got, err := s.Reseal(t.Context(), func(r store.Resealed) {
		if r.Settling {
			put(t, stale, grant(user(1), "1"))
		}
	})
	if !errors.Is(err, store.ErrReseal) || len(got.Retired) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := startsWith(t, db, newKey); !errors.Is(err, store.ErrSetup) {
		t.Errorf("a start that could not read that session: %v", err)
	}
	if got, err := s.Reseal(t.Context(), nil); err != nil || !slices.Equal(got.Retired, []string{"old"}) {
		t.Errorf("again, with nobody writing: %+v, %v", got, err)
	}
	if err := startsWith(t, db, newKey); err != nil {
		t.Error(err)
	}
}

// What no key opens is counted, kept, and keeps its key needed.
func TestResealUnreadable(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		keys := ring(t, oldKey)
		s := db.Open(t, func(c *store.Config) { c.Keys, c.TestingOnlyShared = keys, !db.Postgres })
		s.SetSettle(0)
		put(t, s, grant(user(0), "0"))
		if err := keys.Set(newKey); err != nil {
			t.Fatal(err)
		}
		got, err := s.Reseal(t.Context(), nil)
		if !errors.Is(err, store.ErrReseal) || got.Unreadable != 1 || got.Sealed != 0 || len(got.Retired) != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if err := startsWith(t, db, newKey, oldKey); err != nil || sealedUnder(t, db, "old") != 5 {
			t.Errorf("%v, %d records left", err, sealedUnder(t, db, "old"))
		}
	})
}

// Whatever is sealed is on the list of what a rotation goes through.
func TestResealKnowsEveryColumn(t *testing.T) {
	for kind, query := range map[string]string{
		"sqlite": `SELECT m.name || '.' || c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
			WHERE m.type = 'table' AND lower(c.type) = 'blob' AND m.name <> 'encryption_keys' ORDER BY 1`,
		"postgres": `SELECT table_name || '.' || column_name FROM information_schema.columns
			WHERE table_schema = 'public' AND data_type = 'bytea' AND table_name <> 'encryption_keys' ORDER BY 1`,
	} {
		t.Run(kind, func(t *testing.T) {
			open := map[string]func(testing.TB) *dbtest.DB{"sqlite": dbtest.SQLite, "postgres": dbtest.Postgres}[kind]
			db := open(t)
			db.Open(t, nil)
			rows, err := db.SQL(t).Query(query)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			var has []string
			for rows.Next() {
				var name string
				if err := rows.Scan(&name); err != nil {
					t.Fatal(err)
				}
				has = append(has, name)
			}
			want := store.SealedColumns()
			slices.Sort(want)
			slices.Sort(has)
			if !slices.Equal(has, want) {
				t.Errorf("the schema has %q, a rotation goes through %q", has, want)
			}
		})
	}
}
