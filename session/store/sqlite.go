package store

import (
	"database/sql/driver"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/jmoiron/sqlx"
	"modernc.org/sqlite"
)

// registerNow registers larkside_now() with the SQLite driver, once for the
// process. The driver calls it on the caller's goroutine, so in a synctest
// bubble it returns the bubble's time.
var registerNow = sync.OnceValue(func() error {
	return sqlite.RegisterScalarFunction("larkside_now", 0,
		func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
			return time.Now().UnixMilli(), nil
		})
})

func connectSQLite(path, driverName string, shared bool) (*connection, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: sqlite: needs a path", ErrSetup)
	}
	if err := registerNow(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	// A lock file is used instead of SQLite's exclusive mode, so that backup
	// tools can read the database while it is served.
	lockFile := path + ".lock"
	if shared {
		lockFile += randomID()
	}
	l := flock.New(lockFile, flock.SetPermissions(0o600))
	switch ok, err := l.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	case !ok:
		return nil, fmt.Errorf("%w: %s; stop that one, or use PostgreSQL, which any number may share", ErrInUse, path)
	}
	if !shared {
		dropBackups(path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	f.Close()
	options := url.Values{
		// FULL: a rotated refresh token that is lost in a power cut is lost for
		// good. cache_size: 512 KiB for each connection. Sessions are cached in
		// front of it, and files by the system.
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(5000)", "foreign_keys(1)", "cache_size(-512)"},
		"_txlock": {"immediate"},
	}
	db, err := sqlx.Open(driverName, "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	const maxConns = 4
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	return &connection{db: newDatabase(db, "sqlite", maxConns), dialect: dialectSQLite, lock: l, path: path}, nil
}
