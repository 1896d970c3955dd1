package chaos

import (
	"database/sql"
	"testing"

	"larkside/session"
	"larkside/session/seal"
	"larkside/test/dbtest"
	"larkside/test/process"
)

// through is the server's database as it is reached at address, such as that of
// a cutter.
func through(t *testing.T, address string) *dbtest.DB {
	ring, err := seal.ParseKeyring(session.NewSecret(process.Keys))
	if err != nil {
		t.Fatal(err)
	}
	return &dbtest.DB{URL: dbtest.ServerURL(address), Postgres: true, Keys: ring}
}

// count is a look at the sessions, once the server is up.
func count(t *testing.T, db *sql.DB, state string) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM sessions WHERE state = $1", state).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
