package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/gofrs/flock"

	"larkside/session/seal"
)

const (
	dialectPostgres = "postgres"
	dialectSQLite   = "sqlite"
)

// connection is an open database, with what differs between the two kinds.
type connection struct {
	db      *database
	dialect string
	server  *server      // PostgreSQL
	lock    *flock.Flock // SQLite: held while open
	path    string       // SQLite
	steps   []step       // of the schema
}

func connect(ctx context.Context, cfg Config) (*connection, error) {
	c, err := dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if c.steps, err = readSteps(c.dialect); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the migrations: %w", err), c.close())
	}
	return c, nil
}

func dial(ctx context.Context, cfg Config) (*connection, error) {
	raw := cfg.URL.Expose()
	switch {
	case strings.HasPrefix(raw, "sqlite:"):
		return connectSQLite(strings.TrimPrefix(raw, "sqlite:"), cmp.Or(cfg.TestingOnlyDriver, "sqlite"), cfg.TestingOnlyShared)
	case strings.HasPrefix(raw, "postgres://"), strings.HasPrefix(raw, "postgresql://"):
		return connectPostgres(ctx, cfg.URL, cfg.MaxConns)
	}
	return nil, fmt.Errorf("%w: want postgres://… or sqlite:PATH", ErrSetup)
}

func (c *connection) close() error {
	err := c.db.Close()
	if c.lock != nil {
		err = errors.Join(err, c.lock.Close())
	}
	return err
}

// keyFile is where SQLite has its key, if none is configured.
func (c *connection) keyFile() string { return c.path + ".key" }

// keyring returns the configured ring, or with SQLite the one in PATH.key. It
// checks that the ring has every key that seals something in this database.
func (c *connection) keyring(ctx context.Context, configured *seal.Keyring) (*seal.Keyring, error) {
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
		// With sessions in the database a new key would be of no use to them.
		ring, err = seal.OpenFile(c.keyFile(), len(known) == 0)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("the key file %s is missing and the database holds sessions sealed with it: restore it", c.keyFile())
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSetup, err)
		}
	}
	for _, k := range known {
		if err := ring.Verify(k.ID, k.CheckValue); err != nil {
			return nil, fmt.Errorf("%w: sessions are stored under encryption key %q, which is missing or has other bytes: %w", ErrSetup, k.ID, err)
		}
	}
	return ring, nil
}
