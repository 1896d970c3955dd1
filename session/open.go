package session

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq" // the postgres driver
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"modernc.org/sqlite"
)

// Config is what a [Store] needs.
type Config struct {
	// URL is postgres://… or sqlite:PATH. It may hold a password.
	URL Secret
	// ListenURL is a direct PostgreSQL connection for LISTEN, for when URL goes
	// through PgBouncer. Empty: URL. "off": changes are polled for instead.
	ListenURL Secret
	// Keys seals and opens. Nil is allowed for SQLite only: the ring is then
	// read from PATH.key, which is made at the first start.
	Keys *Keyring
	// CacheSize is the number of users whose access token is kept in memory.
	// 0: 100,000.
	CacheSize int
	// CacheTTL is how long an entry is served without asking the database
	// whether it still holds. 0: a minute.
	CacheTTL time.Duration
	// MaxConns bounds the connections to PostgreSQL. 0: two for each processor
	// that Go may use, between 6 and 16.
	MaxConns int
	// Now is the clock that judges expiry. Nil: time.Now. Leases and rates are
	// judged by the database's clock.
	Now func() time.Time
	// Log receives what an operator can act on. Nil: nowhere.
	Log *slog.Logger
	// TestingOnlyShared lets several stores of one process open one SQLite
	// file. They do not hear of each other's changes.
	TestingOnlyShared bool
}

const (
	dialectPostgres = "postgres"
	dialectSQLite   = "sqlite"
)

//go:embed migrations
var migrations embed.FS

var (
	// ErrSchemaNewer: a newer Larkside has raised the schema; this one would
	// not understand it.
	ErrSchemaNewer = errors.New("the database schema is newer than this program")
	// ErrInUse: another process has the SQLite file.
	ErrInUse = errors.New("the SQLite database is in use by another process")
	// ErrSetup wraps what no retry can mend: a bad URL, a wrong key.
	ErrSetup = errors.New("database set-up")
)

// registerNow makes larkside_now() known to the SQLite driver, whose functions
// are registered for the process. It runs on the caller's goroutine, so in a
// synctest bubble it tells the bubble's time.
var registerNow = sync.OnceValue(func() error {
	return sqlite.RegisterScalarFunction("larkside_now", 0,
		func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
			return time.Now().UnixMilli(), nil
		})
})

// connection is an opened database with what differs between the two kinds.
type connection struct {
	db      database
	dialect string
	server  *server      // PostgreSQL
	lock    *flock.Flock // SQLite: held while open
	path    string       // SQLite
}

func connect(ctx context.Context, cfg Config) (*connection, error) {
	raw := cfg.URL.Expose()
	switch {
	case strings.HasPrefix(raw, "sqlite:"):
		return connectSQLite(strings.TrimPrefix(raw, "sqlite:"), cfg.TestingOnlyShared)
	case strings.HasPrefix(raw, "postgres://"), strings.HasPrefix(raw, "postgresql://"):
		return connectPostgres(ctx, cfg.URL, cfg.MaxConns)
	}
	return nil, fmt.Errorf("%w: want postgres://… or sqlite:PATH", ErrSetup)
}

func connectSQLite(path string, shared bool) (*connection, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: sqlite: needs a path", ErrSetup)
	}
	if err := registerNow(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	// A lock file rather than SQLite's exclusive mode, so that backup tools can
	// read the database while it is served.
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
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	f.Close()
	options := url.Values{
		// FULL: a rotated refresh token that is lost in a power cut is lost for good.
		// cache_size: 512 KiB for each connection. Sessions are cached in front of
		// it, and files by the system.
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(5000)", "foreign_keys(1)", "cache_size(-512)"},
		"_txlock": {"immediate"},
	}
	db, err := sqlx.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	return &connection{db: database{DB: db, system: "sqlite"}, dialect: dialectSQLite, lock: l, path: path}, nil
}

func (c *connection) close() error {
	err := c.db.Close()
	if c.lock != nil {
		err = errors.Join(err, c.lock.Close())
	}
	return err
}

// migrate raises the schema, one replica at a time, and refuses a newer one.
func (c *connection) migrate(ctx context.Context) error {
	if c.server != nil {
		c.server.patient.Store(true)
		defer c.server.patient.Store(false)
	}
	files, err := fs.Sub(migrations, "migrations/"+c.dialect)
	if err != nil {
		return err
	}
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	dialect := goose.DialectSQLite3
	if c.dialect == dialectPostgres {
		dialect = goose.DialectPostgres
		// A table, not an advisory lock: those belong to a connection, which
		// PgBouncer in transaction mode does not keep.
		locker, err := lock.NewPostgresTableLocker(lock.WithTableLockTimeout(250*time.Millisecond, 480))
		if err != nil {
			return err
		}
		options = append(options, goose.WithLocker(locker))
	}
	provider, err := goose.NewProvider(dialect, c.db.DB.DB, files, options...)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	has, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema version: %w", err)
	}
	sources := provider.ListSources()
	knows := sources[len(sources)-1].Version
	switch {
	case has > knows:
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrSchemaNewer, has, knows)
	case has == knows:
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("raising the schema from version %d to %d: %w", has, knows, err)
	}
	return nil
}

// Migrate raises the schema and does nothing else.
func Migrate(ctx context.Context, cfg Config) error {
	c, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(c.migrate(ctx), c.close())
}

// keyring returns the configured ring, or for SQLite the one in PATH.key, and
// checks it against the keys that have sealed something in this database.
func (c *connection) keyring(ctx context.Context, configured *Keyring) (*Keyring, error) {
	var known []struct {
		ID         string `db:"id"`
		CheckValue []byte `db:"check_value"`
	}
	if err := c.db.SelectContext(ctx, &known, `SELECT id, check_value FROM encryption_keys`); err != nil {
		return nil, fmt.Errorf("reading the encryption keys in use: %w", err)
	}
	ring, err := configured, error(nil)
	if ring == nil {
		if c.dialect != dialectSQLite {
			return nil, fmt.Errorf("%w: PostgreSQL needs encryption keys", ErrSetup)
		}
		if ring, err = keyFile(c.path+".key", len(known) > 0); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSetup, err)
		}
	}
	for _, k := range known {
		if _, err := ring.open(k.CheckValue, checkPlace(k.ID)); err != nil {
			return nil, fmt.Errorf("%w: sessions are stored under encryption key %q, which is missing or has other bytes: %w", ErrSetup, k.ID, err)
		}
	}
	return ring, nil
}

func checkPlace(id string) place { return place{column: "encryption_keys.check_value", row: id} }

// keyFile reads the ring from path, or makes it. With inUse, sessions are
// stored under some key already: a new one would turn them all to waste.
func keyFile(path string, inUse bool) (*Keyring, error) {
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && inUse:
		return nil, fmt.Errorf("the key file %s is gone and the database holds sessions sealed with it: restore it", path)
	case errors.Is(err, fs.ErrNotExist):
		key := NewKey("local-" + time.Now().UTC().Format("20060102"))
		if err := writeKeyFile(path, key); err != nil {
			return nil, err
		}
		return ParseKeyring(key)
	case err != nil:
		return nil, err
	}
	ring, err := ParseKeyring(NewSecret(string(content)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ring, nil
}

func writeKeyFile(path string, key Secret) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(key.Expose() + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// noRows turns sql.ErrNoRows into otherwise, and any other failure of the
// database into [ErrUnavailable].
func noRows(err error, otherwise error, doing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", doing, otherwise)
	}
	return unavailable(err, doing)
}

func unavailable(err error, doing string) error {
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}
