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
	for _, id := range openIDs {
		if _, err := open.Sessions.Put(t.Context(), granted(t, lark, id, time.Now().Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
}

func granted(t testing.TB, lark *larktest.Platform, openID string, at time.Time) session.Session {
	t.Helper()
	tokens, err := lark.Grant(larktest.AppID, openID)
	if err != nil {
		t.Fatal(err)
	}
	user, err := lark.User(openID)
	if err != nil {
		t.Fatal(err)
	}
	return session.Session{
		Key: session.Key{AppID: larktest.AppID, OpenID: openID}, UnionID: user.UnionID, UserID: user.UserID,
		AccessToken: session.NewSecret(tokens.AccessToken), RefreshToken: session.NewSecret(tokens.RefreshToken),
		TokenType: "Bearer", TokenURL: lark.URL + "/open-apis/authen/v2/oauth/token", Scope: tokens.Scope,
		IssuedAt: at, ExpiresAt: at.Add(tokens.ExpiresIn), RefreshExpiresAt: at.Add(tokens.RefreshExpiresIn),
		GrantedAt: at, SyncedAt: at,
	}
}
