package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"larkside/session"
	"larkside/session/seal"
	"larkside/telemetry"
)

// Config is what [Open] needs.
type Config struct {
	// URL is postgres://… or sqlite:PATH. It may hold a password.
	URL session.Secret
	// ListenURL is a direct PostgreSQL connection for LISTEN, for when URL goes
	// through PgBouncer. Empty: URL. "off": changes are polled for instead.
	ListenURL session.Secret
	// Keys seals and opens. With SQLite it may be nil: the keys are then read
	// from PATH.key, which is made at the first start.
	Keys *seal.Keyring
	// CacheSize is the number of users whose access token is kept in memory.
	// 0: 100,000.
	CacheSize int
	// CacheTTL is how long an entry is served before the database is asked
	// whether it still holds. 0: a minute.
	CacheTTL time.Duration
	// MaxConns bounds the connections to PostgreSQL. 0: two for each processor
	// that Go may use, between 6 and 16.
	MaxConns int
	// ExpectSessions makes Open return [ErrNoSessions] for a database without a
	// session, which is then left as it is.
	ExpectSessions bool
	// Users is how logs show users, so that a search finds who is in a log line.
	Users telemetry.Users
	// Now is the clock that judges expiry. Nil: time.Now.
	Now func() time.Time
	// Log receives what an operator can act on. Nil: no log.
	Log *slog.Logger
	// TestingOnlyShared lets several DBs of one process open one SQLite file.
	// They are not told of each other's changes.
	TestingOnlyShared bool
	// TestingOnlyDriver is the database/sql driver for SQLite, such as one that
	// counts statements. Empty: sqlite.
	TestingOnlyDriver string
	// TestingOnlyPing is how often the listening connection is tried. It may
	// take fifty times as long to answer. 0: every 15 s, and 5 s to answer.
	TestingOnlyPing time.Duration
}

var (
	// ErrSchemaNewer: a newer Larkside has raised the schema to a version that
	// this one does not work with.
	ErrSchemaNewer = errors.New("the database schema is newer than this program")
	// ErrInUse: another process has the SQLite file open.
	ErrInUse = errors.New("the SQLite database is in use by another process")
	// ErrNoSessions: there is no session although some are expected, so it is
	// likely the wrong database.
	ErrNoSessions = errors.New("the database has no session, and some are expected: is it the right one?")
	// ErrSetup wraps what trying again can't mend: a bad URL, a wrong key.
	ErrSetup = errors.New("database set-up")
	// ErrRights: the database role lacks a right, which the error names. It
	// wraps ErrSetup.
	ErrRights = fmt.Errorf("%w: the role's rights", ErrSetup)
)

// DB is an open database. It is safe for concurrent use.
//
// Any number of DBs may share one PostgreSQL database. A change made through
// one reaches the others' caches within a second.
type DB struct {
	Sessions  *Sessions
	Leases    *Leases
	Profiles  *Profiles
	Retention *Retention
	Reminders *Reminders
	Consents  *Consents
	Events    *Events
	Rates     *Rates
	Elections *Elections
	Audit     *Audit
	Directory *Directory
	Defaults  *Defaults
	Changes   *Changes

	conn   *connection
	db     *database
	sealer *sealer
	log    *slog.Logger
	// settle is how long Reseal waits for other replicas.
	settle time.Duration
	// unobserve ends the callbacks of the metrics.
	unobserve func()
}

// Open connects, raises the schema, checks the keys and starts to follow other
// replicas' changes. Errors that trying again can't mend wrap [ErrSetup],
// [ErrSchemaNewer] or [ErrInUse].
func Open(ctx context.Context, cfg Config) (*DB, error) {
	conn, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	d, err := open(ctx, conn, cfg)
	if err != nil {
		return nil, errors.Join(err, conn.close())
	}
	return d, nil
}

func open(ctx context.Context, conn *connection, cfg Config) (*DB, error) {
	if cfg.ExpectSessions {
		if any, err := conn.anySession(ctx); err != nil {
			return nil, err
		} else if !any {
			return nil, ErrNoSessions
		}
	}
	if err := conn.migrate(ctx, cfg.Log); err != nil {
		return nil, err
	}
	ring, err := conn.keyring(ctx, cfg.Keys)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if file := conn.keyFile(); cfg.Keys == nil && seal.IsOpenToAll(file) {
		cfg.Log.WarnContext(ctx, "every user of this machine may read the key file", "file", file, "do", "chmod 600 "+file)
	}
	if cfg.CacheTTL == 0 {
		cfg.CacheTTL = time.Minute
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = 100_000
	}
	if cfg.ListenURL.Empty() {
		cfg.ListenURL = cfg.URL
	}
	if err := checkListenURL(conn.dialect, cfg.ListenURL); err != nil {
		return nil, err
	}
	cache, err := newCache(cfg.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if conn.dialect == dialectSQLite {
		if conn.db.access, err = conn.db.PreparexContext(ctx, queryAccess); err != nil {
			return nil, unavailable(err, "preparing the look-up")
		}
	}
	return assemble(conn, ring, cache, cfg)
}

// assemble makes the DB of an open connection and starts to follow changes.
func assemble(conn *connection, ring *seal.Keyring, cache *cache, cfg Config) (*DB, error) {
	owner := randomID()
	db, sealer := conn.db, &sealer{Keyring: ring, db: conn.db, complaints: telemetry.NewComplaints(cfg.Log)}
	changes := newChanges(db, cache, cfg.ListenURL, cfg.Log)
	if cfg.TestingOnlyPing != 0 {
		changes.pingEvery, changes.answerWithin = cfg.TestingOnlyPing, 50*cfg.TestingOnlyPing
	}
	audit := &Audit{db: db, now: cfg.Now, log: cfg.Log}
	sessions := &Sessions{db: db, sealer: sealer, cache: cache, changes: changes, now: cfg.Now, ttl: cfg.CacheTTL}
	d := &DB{
		Sessions:  sessions,
		Leases:    &Leases{sessions: sessions, owner: owner, closed: changes.closed.Done()},
		Profiles:  &Profiles{db: db, sealer: sealer, now: cfg.Now},
		Retention: &Retention{sessions: sessions},
		Reminders: &Reminders{db: db, now: cfg.Now},
		Consents:  newConsents(sessions, audit, owner),
		Events:    &Events{db: db},
		Rates:     &Rates{db: db},
		Elections: &Elections{db: db, owner: owner},
		Audit:     audit,
		Directory: &Directory{db: db, ring: ring, users: cfg.Users, patience: searchFor},
		Defaults:  &Defaults{db: db, sealer: sealer},
		Changes:   changes,
		conn:      conn, db: db, sealer: sealer, log: cfg.Log, settle: resealSettle,
	}
	if err := d.instruments(cfg.CacheSize); err != nil {
		return nil, err
	}
	if conn.dialect == dialectPostgres { // SQLite has one process, which tells itself
		changes.follow()
	}
	return d, nil
}

// Close stops following changes and closes the database.
func (d *DB) Close() error {
	d.unobserve()
	d.Changes.close()
	return d.conn.close()
}

// ExpectSessions returns [ErrNoSessions] if there is no session in any state.
func (d *DB) ExpectSessions(ctx context.Context) error {
	any, err := d.conn.anySession(ctx)
	if err == nil && !any {
		return ErrNoSessions
	}
	return err
}

// Reconnect makes connections that are opened from now on use other URLs, such
// as ones with a new password. listen is as [Config].ListenURL. If it fails,
// with an error that wraps [ErrSetup], everything stays as it was. The URLs
// must lead to the same database: what is cached is of the one that was opened.
func (d *DB) Reconnect(raw, listen session.Secret) error {
	if d.conn.server == nil {
		return fmt.Errorf("%w: the SQLite file is opened once", ErrSetup)
	}
	if listen.Empty() {
		listen = raw
	}
	if err := checkListenURL(d.conn.dialect, listen); err != nil {
		return err
	}
	if err := d.conn.server.set(raw); err != nil {
		return err
	}
	d.Changes.listenAt(listen)
	return nil
}

// sealer seals and opens what is stored. It also keeps encryption_keys, the
// list of the keys that a start needs.
type sealer struct {
	*seal.Keyring
	db *database
	// complaints logs rows that somebody without a key has changed.
	complaints *telemetry.Complaints
	// noted holds, by a key's id, when the key was last written to the list.
	noted sync.Map
}

const queryKeyInUse = `INSERT INTO encryption_keys (id, check_value) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`

// noteKey writes the sealing key to the list. It does so again after notedFor,
// since Reseal may have struck the key off meanwhile.
func (s *sealer) noteKey(ctx context.Context) error {
	k := s.First()
	if at, ok := s.noted.Load(k.ID()); ok && time.Since(at.(time.Time)) < notedFor {
		return nil
	}
	return s.note(ctx, k)
}

func (s *sealer) note(ctx context.Context, k seal.EncryptionKey) error {
	at := time.Now()
	if _, err := s.db.ExecContext(ctx, queryKeyInUse, k.ID(), k.Check()); err != nil {
		return unavailable(err, "noting the encryption key in use")
	}
	s.noted.Store(k.ID(), at)
	return nil
}

// randomID returns 128 random bits in hex.
func randomID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}
