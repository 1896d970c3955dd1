package process

import (
	"testing"
	"time"

	"larkside/session"
	"larkside/session/seal"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// Keys is the ENCRYPTION_KEYS of processes on a database from this package.
const Keys = "test:VGhpcyBrZXkgaXMgZm9yIHRlc3RzIGFuZCBubyBvdGg="

// Each runs f on SQLite and on PostgreSQL, as [dbtest.Each] does.
func Each(t *testing.T, f func(t *testing.T, db *dbtest.DB)) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) { f(t, withKeys(t, db)) })
}

// SQLite is a database in a new file.
func SQLite(t testing.TB) *dbtest.DB { return withKeys(t, dbtest.SQLite(t)) }

// Postgres is a new database on the server; see [dbtest.Postgres].
func Postgres(t testing.TB) *dbtest.DB { return withKeys(t, dbtest.Postgres(t)) }

func withKeys(t testing.TB, db *dbtest.DB) *dbtest.DB {
	ring, err := seal.ParseKeyring(session.NewSecret(Keys))
	if err != nil {
		t.Fatal(err)
	}
	db.Keys = ring
	return db
}

// Seed stores a session for each user as if they had consented age ago, so that
// a test that is about something else need not wait for a consent. With an age
// beyond the emulator's AccessLife the access token counts as expired. On SQLite
// no process may be running.
func Seed(t testing.TB, db *dbtest.DB, lark *larktest.Platform, age time.Duration, openIDs ...string) {
	t.Helper()
	open, err := store.Open(t.Context(), store.Config{URL: session.NewSecret(db.URL), Keys: db.Keys})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	dbtest.Seed(t, open, lark, time.Now().Add(-age), openIDs...)
}
