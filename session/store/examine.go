package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"larkside/session"
	"larkside/session/seal"
)

// Examination is what [Examine] found.
type Examination struct {
	// Absent reports whether there is no database file, or nothing in the
	// database. The first start makes it.
	Absent bool
	// Schema is the version of the database's schema, Knows that of this
	// program, and Oldest the least that a program has to know. Oldest is 0
	// if Schema is not newer than Knows.
	Schema, Knows, Oldest int64
	// Keys are the ids of the encryption keys in use.
	Keys []string
	// KeyFileOpen is the path of SQLite's own key file if it is used and every user
	// of the machine may read or change it; else "".
	KeyFileOpen string
	// NotRenewable counts the active sessions without a refresh token: each of
	// them ends with its access token.
	NotRenewable int
	// NoSessions reports whether there is no session in any state.
	NoSessions bool
	// KeysErr says why the configured keys can't open what is stored. It wraps
	// [ErrSetup], and is nil if they can.
	KeysErr error
}

// Examine looks at a database and changes nothing. Errors are [ErrInUse] if a
// process has the SQLite file open, [ErrSetup] if trying again can't help, and
// others if the database can't be reached.
func Examine(ctx context.Context, cfg Config) (*Examination, error) {
	if path, ok := strings.CutPrefix(cfg.URL.Expose(), "sqlite:"); ok {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return &Examination{Absent: true, NoSessions: true}, nil
		}
	}
	c, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	e, err := c.examine(ctx, cfg)
	return e, errors.Join(err, c.close())
}

const (
	queryHasSession   = `SELECT count(*) FROM sessions WHERE app_id = $1 AND open_id = $2 AND state = 'active'`
	queryNotRenewable = `SELECT count(*) FROM sessions WHERE state = 'active' AND refresh_token IS NULL`
)

// HasSession reports whether key has an active session in a database. It changes
// nothing. Errors are those of [Examine].
func HasSession(ctx context.Context, cfg Config, key session.Key) (bool, error) {
	e, err := Examine(ctx, cfg)
	if err != nil || e.Absent {
		return false, err
	}
	c, err := connect(ctx, cfg)
	if err != nil {
		return false, err
	}
	var n int
	err = c.db.GetContext(ctx, &n, queryHasSession, key.AppID, key.OpenID)
	if err != nil {
		err = fmt.Errorf("looking for a session: %w", err)
	}
	return n > 0, errors.Join(err, c.close())
}

func (c *connection) examine(ctx context.Context, cfg Config) (*Examination, error) {
	e := &Examination{}
	e.Knows = c.steps[len(c.steps)-1].version
	has, err := c.readSchema(ctx, c.db, e.Knows)
	if err != nil {
		return nil, fmt.Errorf("reading the schema version: %w", err)
	}
	e.Schema, e.Oldest = has.Version, has.Oldest
	if e.Absent = e.Schema == 0; e.Absent {
		e.NoSessions = true
		return e, nil
	}
	any, err := c.anySession(ctx)
	if err != nil {
		return nil, err
	}
	e.NoSessions = !any
	if err := c.db.SelectContext(ctx, &e.Keys, `SELECT id FROM encryption_keys ORDER BY id`); err != nil {
		return nil, fmt.Errorf("reading the encryption keys in use: %w", err)
	}
	if err := c.db.GetContext(ctx, &e.NotRenewable, queryNotRenewable); err != nil {
		return nil, fmt.Errorf("counting sessions without a refresh token: %w", err)
	}
	if file := c.keyFile(); cfg.Keys == nil && c.dialect == dialectSQLite && seal.IsOpenToAll(file) {
		e.KeyFileOpen = file
	}
	if cfg.Keys != nil || len(e.Keys) > 0 || c.dialect == dialectPostgres {
		// Without both, keyring would make SQLite's key file.
		_, e.KeysErr = c.keyring(ctx, cfg.Keys)
	}
	return e, nil
}

// Whether there is a table of sessions.
const (
	queryTablePostgres = `SELECT count(*) FROM pg_tables WHERE tablename = 'sessions' AND schemaname = ANY (current_schemas(false))`
	queryTableSQLite   = `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'sessions'`
)

const queryAnySession = `SELECT count(*) FROM (SELECT 1 FROM sessions LIMIT 1) AS one`

// anySession reports whether there is a session in any state. The database may
// be an empty one.
func (c *connection) anySession(ctx context.Context) (bool, error) {
	table := queryTableSQLite
	if c.dialect == dialectPostgres {
		table = queryTablePostgres
	}
	for _, query := range []string{table, queryAnySession} {
		var n int
		if err := c.db.GetContext(ctx, &n, query); err != nil {
			return false, unavailable(err, "looking for sessions")
		}
		if n == 0 {
			return false, nil
		}
	}
	return true, nil
}
