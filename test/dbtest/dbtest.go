// Package dbtest gives tests a database: SQLite always, PostgreSQL when
// LARKSIDE_TEST_POSTGRES holds the URL of a server on which databases may be
// created. Without it the PostgreSQL half of a test is skipped by name; with
// CI set it fails, so that nothing is left out unseen.
package dbtest

import (
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	_ "github.com/lib/pq" // to create databases

	"larkside/session"
	"larkside/session/seal"
	"larkside/session/store"
)

// DB is an empty database of one test.
type DB struct {
	// URL is what store.Config takes.
	URL string
	// Postgres is whether several stores may share it.
	Postgres bool
	// Shared lets several stores of this process open one SQLite file, as if it
	// were replicas on PostgreSQL.
	Shared bool
	// Keys is the ring that Open uses.
	Keys *seal.Keyring
}

// Each runs f on SQLite and on PostgreSQL.
func Each(t *testing.T, f func(t *testing.T, db *DB)) {
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t)) })
}

// SQLite returns a database in a new file.
func SQLite(t testing.TB) *DB {
	return &DB{URL: "sqlite:" + filepath.Join(TempDir(t), "larkside.db"), Keys: keys(t)}
}

// TempDir returns a directory for one test, in memory where the system has
// such a place: SQLite waits for the disk at each commit, and thousands of
// commits would make a test wait for minutes.
func TempDir(t testing.TB) string {
	const memory = "/dev/shm"
	if info, err := os.Stat(memory); err != nil || !info.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "larkside-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Postgres returns a new database on the server, dropped when the test ends.
func Postgres(t testing.TB) *DB {
	server := os.Getenv("LARKSIDE_TEST_POSTGRES")
	if server == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("LARKSIDE_TEST_POSTGRES is not set; ./test/run sets it")
		}
		t.Skip("LARKSIDE_TEST_POSTGRES is not set; ./test/run sets it")
	}
	admin, err := sql.Open("postgres", server)
	if err != nil {
		t.Fatal(err)
	}
	name := "larkside_" + randomHex()
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Log(err)
		}
		admin.Close()
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal("LARKSIDE_TEST_POSTGRES is no URL")
	}
	u.Path = "/" + name
	return &DB{URL: u.String(), Postgres: true, Keys: keys(t)}
}

// Open opens a store, closed when the test ends. change may be nil.
func (d *DB) Open(t testing.TB, change func(*store.Config)) *store.DB {
	t.Helper()
	c := store.Config{URL: session.NewSecret(d.URL), Keys: d.Keys, TestingOnlyShared: d.Shared}
	if change != nil {
		change(&c)
	}
	s, err := store.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// SQL opens the database beside the store, to look at what lies in it.
func (d *DB) SQL(t testing.TB) *sql.DB {
	driver, dsn := "postgres", d.URL
	if !d.Postgres {
		driver, dsn = "sqlite", "file:"+d.URL[len("sqlite:"):]+"?_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// SQLBinary opens PostgreSQL as the store does: a statement is one round trip.
func (d *DB) SQLBinary(t testing.TB) *sql.DB {
	db, err := sql.Open("postgres", d.URL+"&binary_parameters=yes")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func keys(t testing.TB) *seal.Keyring {
	ring, err := seal.ParseKeyring(seal.NewKey("test"))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func randomHex() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// Role returns the PostgreSQL database d for a new role, which has no rights in
// it and ends with the test.
func (d *DB) Role(t testing.TB) *DB {
	t.Helper()
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal("the database's URL does not parse")
	}
	owner := d.SQL(t)
	name, password := "larkside_"+randomHex(), randomHex()
	if _, err := owner.Exec("CREATE ROLE " + name + " LOGIN PASSWORD '" + password + "'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := owner.Exec("DROP OWNED BY " + name + " CASCADE; DROP ROLE " + name); err != nil {
			t.Log(err)
		}
	})
	role := *d
	u.User = url.UserPassword(name, password)
	role.URL = u.String()
	return &role
}

// RoleName is the name of the role that d's URL has.
func (d *DB) RoleName() string {
	u, err := url.Parse(d.URL)
	if err != nil {
		return ""
	}
	return u.User.Username()
}
