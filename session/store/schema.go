package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq/pqerror"
	"modernc.org/sqlite"
)

// The schema changes in steps, the files in migrations. Each says which
// programs work with it, so that replicas of two versions can share a database:
// a step first adds, and a later one removes, when no program that is left needs
// what goes.
//
// No migration library does this, since each has a table of versions only. This
// one says in the table which older programs work with a step. Its lock ends
// with the transaction, so a process that is killed holds up nobody, and
// PgBouncer keeps it. Missing rights are told at once.

//go:embed migrations
var migrations embed.FS

// step is one change of the schema. It is made or undone in one transaction.
type step struct {
	version int64
	// oldest is the least version that a program has to know to work with a
	// database that has the step.
	oldest int64
	// down undoes the step. The first step has none: it would delete all.
	up, down string
}

var oldestProgram = regexp.MustCompile(`(?m)\A-- oldest program: (\d+)$`)

// undoMark stands before what undoes a step.
const undoMark = "\n-- Undo:\n"

// readSteps returns the steps for a dialect, in order. Their files are named
// 00001_what.sql.
func readSteps(dialect string) ([]step, error) {
	dir := "migrations/" + dialect
	files, err := fs.ReadDir(migrations, dir)
	if err != nil {
		return nil, err
	}
	var steps []step
	for i, f := range files {
		text, err := fs.ReadFile(migrations, dir+"/"+f.Name())
		if err != nil {
			return nil, err
		}
		s, err := parseStep(f.Name(), string(text))
		if err != nil {
			return nil, err
		}
		if s.version != int64(i+1) {
			return nil, fmt.Errorf("%s: want step %d", f.Name(), i+1)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

func parseStep(name, text string) (step, error) {
	var s step
	number, _, _ := strings.Cut(name, "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return s, fmt.Errorf("%s: want 00001_what.sql", name)
	}
	oldest := oldestProgram.FindStringSubmatch(text)
	if oldest == nil {
		return s, fmt.Errorf("%s: the first line has to be -- oldest program: N", name)
	}
	s.version = version
	if s.oldest, err = strconv.ParseInt(oldest[1], 10, 64); err != nil || s.oldest < 1 || s.oldest > version {
		return s, fmt.Errorf("%s: the oldest program knows a version between 1 and %d", name, version)
	}
	s.up, s.down, _ = strings.Cut(text, undoMark)
	if (version > 1) != (s.down != "") {
		return s, fmt.Errorf("%s: every step but the first has a way back, after %q", name, strings.TrimSpace(undoMark))
	}
	return s, nil
}

const (
	// lockTimeout is how long a step waits for the lock on a table. Readers of
	// that table queue behind it meanwhile.
	lockTimeout = 500 * time.Millisecond
	// stepPause lets those who queued go on before the step is tried again.
	stepPause = time.Second
	// migrateFor is how long a step is tried.
	migrateFor = 2 * time.Minute
	// migrationLock is the advisory lock of who changes the schema. It is
	// "larkside" in ASCII, so that no other program has it.
	migrationLock int64 = 0x6c61726b73696465
)

const (
	querySchemaTable = `CREATE TABLE IF NOT EXISTS larkside_schema (
	version bigint NOT NULL PRIMARY KEY,
	oldest  bigint NOT NULL,              -- the least version that a program has to know to work with this one
	made_at bigint NOT NULL               -- milliseconds since 1970 UTC
)`
	querySchema       = `SELECT version, oldest FROM larkside_schema ORDER BY version`
	querySchemaInsert = `INSERT INTO larkside_schema (version, oldest, made_at) VALUES ($1, $2, $3)`
	querySchemaDelete = `DELETE FROM larkside_schema WHERE version = $1`
)

// schema is what a database has.
type schema struct {
	// Version is that of the newest step, 0 for none.
	Version int64 `db:"version"`
	// Oldest is the least version that a program has to know.
	Oldest int64 `db:"oldest"`
}

// getter is a database or a transaction in it.
type getter interface {
	GetContext(ctx context.Context, dest any, query string, args ...any) error
	SelectContext(ctx context.Context, dest any, query string, args ...any) error
}

// readSchema returns what the database has. Only steps after knows, the
// version that this program knows, count for Oldest.
func (c *connection) readSchema(ctx context.Context, db getter, knows int64) (schema, error) {
	table := `SELECT count(*) FROM sqlite_master WHERE name = 'larkside_schema'`
	if c.dialect == dialectPostgres {
		// Not to_regclass: it may answer from before the wait for the lock.
		table = `SELECT count(*) FROM pg_class WHERE relname = 'larkside_schema' AND pg_table_is_visible(oid)`
	}
	var has schema
	var there int
	if err := db.GetContext(ctx, &there, table); err != nil || there == 0 {
		return has, err
	}
	var steps []schema
	if err := db.SelectContext(ctx, &steps, querySchema); err != nil {
		return has, err
	}
	for _, s := range steps {
		has.Version = max(has.Version, s.Version)
		if s.Version > knows {
			has.Oldest = max(has.Oldest, s.Oldest)
		}
	}
	return has, nil
}

// migrate raises the schema, one replica at a time. A newer schema stays as it
// is if this program works with it, and is refused otherwise. log may be nil.
func (c *connection) migrate(ctx context.Context, log *slog.Logger) error {
	knows := c.steps[len(c.steps)-1].version
	has, err := c.readSchema(ctx, c.db, knows)
	switch {
	case err != nil:
		return c.refused(ctx, err, "reading the schema version")
	case has.Oldest > knows:
		return fmt.Errorf("%w: it has version %d, which works with programs that know version %d or newer, and this one knows %d; use a newer larkside, or take the schema back with the newer one's \"larkside migrate --to %d\"",
			ErrSchemaNewer, has.Version, has.Oldest, knows, knows)
	case has.Version < knows:
		if err := c.migrateTo(ctx, knows, log); err != nil {
			return err
		}
	}
	return c.checkRights(ctx)
}

// migrateTo makes or undoes steps until the schema has a version.
func (c *connection) migrateTo(ctx context.Context, version int64, log *slog.Logger) error {
	if c.server != nil {
		c.server.patient.Store(true)
		defer c.server.patient.Store(false)
	}
	giveUp := time.Now().Add(migrateFor)
	for changed := false; ; {
		from, done, err := c.moveTowards(ctx, version)
		switch {
		case err == nil && done:
			if changed && log != nil {
				log.InfoContext(ctx, "the schema was changed", "version", version)
			}
			return nil
		case err == nil:
			changed, giveUp = from > 0, time.Now().Add(migrateFor)
			continue
		case errors.Is(err, ErrSchemaNewer):
			return err
		case !isBusy(err) || time.Now().After(giveUp):
			return c.refused(ctx, err, "changing the schema")
		}
		if log != nil {
			log.InfoContext(ctx, "the schema can't be changed yet: another session holds a lock that this needs; trying again", "error", err)
		}
		timer := time.NewTimer(stepPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("changing the schema: %w", context.Cause(ctx))
		}
	}
}

// moveTowards makes or undoes one step. from is the version that the schema had,
// 0 for none. done reports that this was the version that was asked for.
func (c *connection) moveTowards(ctx context.Context, version int64) (from int64, done bool, err error) {
	options := &sql.TxOptions{}
	if c.dialect == dialectPostgres {
		// What the one before has committed is to be seen behind the lock.
		options.Isolation = sql.LevelReadCommitted
	}
	tx, err := c.db.BeginTxx(ctx, options)
	if err != nil {
		return 0, false, err
	}
	defer tx.Rollback() // does nothing after Commit
	if c.dialect == dialectPostgres {
		// In SQLite a transaction locks out other writers.
		lock := fmt.Sprintf("SET LOCAL lock_timeout = %d; SELECT pg_advisory_xact_lock(%d)", lockTimeout.Milliseconds(), migrationLock)
		if _, err := tx.ExecContext(ctx, lock); err != nil {
			return 0, false, err
		}
	}
	has, err := c.readSchema(ctx, tx, 0)
	if err != nil {
		return 0, false, err
	}
	if has.Version > int64(len(c.steps)) {
		return has.Version, false, fmt.Errorf("%w: it has version %d, this program knows %d; the program that made it can take it back", ErrSchemaNewer, has.Version, len(c.steps))
	}
	switch {
	case has.Version < version:
		err = c.makeStep(ctx, tx, c.steps[has.Version])
	case has.Version > version:
		err = c.undoStep(ctx, tx, c.steps[has.Version-1])
	default:
		return has.Version, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	return has.Version, false, tx.Commit()
}

func (c *connection) makeStep(ctx context.Context, tx *sqlx.Tx, s step) error {
	if s.version == 1 {
		if _, err := tx.ExecContext(ctx, querySchemaTable); err != nil {
			return fmt.Errorf("making the version table: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, s.up); err != nil {
		return fmt.Errorf("making step %d: %w", s.version, err)
	}
	_, err := tx.ExecContext(ctx, querySchemaInsert, s.version, s.oldest, time.Now().UnixMilli())
	return err
}

func (c *connection) undoStep(ctx context.Context, tx *sqlx.Tx, s step) error {
	if _, err := tx.ExecContext(ctx, s.down); err != nil {
		return fmt.Errorf("undoing step %d: %w", s.version, err)
	}
	_, err := tx.ExecContext(ctx, querySchemaDelete, s.version)
	return err
}

// Migrate brings the schema to a version and does nothing else: to the newest
// that this program knows, or to an older one. 0 means the newest. Errors that
// trying again can't mend are those of [Open].
func Migrate(ctx context.Context, cfg Config, version int64) error {
	c, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(c.migrateOrBack(ctx, version, cfg.Log), c.close())
}

func (c *connection) migrateOrBack(ctx context.Context, version int64, log *slog.Logger) error {
	knows := c.steps[len(c.steps)-1].version
	switch {
	case version == 0:
		return c.migrate(ctx, log)
	case version < 1 || version > knows:
		return fmt.Errorf("%w: there is no schema version %d; this program knows 1 to %d", ErrSetup, version, knows)
	}
	return c.migrateTo(ctx, version, log)
}

// isBusy reports whether a transaction failed since another was in its way.
func isBusy(err error) bool {
	switch sqlState(err) {
	case pqerror.LockNotAvailable, pqerror.TRDeadlockDetected, pqerror.TRSerializationFailure:
		return true
	}
	return false
}

// isWrong reports whether SQLite says that a statement is wrong.
func isWrong(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == sqliteError
}

// sqliteError is SQLITE_ERROR: the statement is wrong, or does not fit the tables.
const sqliteError = 1

// refused wraps an error of a statement on the schema. It says what to grant if
// the role lacks a right. It wraps [ErrSetup] if trying again can't help.
func (c *connection) refused(ctx context.Context, err error, doing string) error {
	switch state := sqlState(err); {
	case state == pqerror.InsufficientPrivilege, state == pqerror.InvalidSchemaName: // no schema of the search path exists, or may be used
		return fmt.Errorf("%w: %s: %w; let %s: GRANT USAGE, CREATE ON SCHEMA %s TO %s; or run \"larkside migrate\" as the role that owns the tables, and give this one the rights that deploy/docs/operating.md lists",
			ErrRights, doing, err, "the role make tables", c.name(ctx, "coalesce(quote_ident(current_schema()), 'public')"), c.name(ctx, "quote_ident(current_user)"))
	case strings.HasPrefix(string(state), "42"), isWrong(err): // such as a table of another program that has the same name
		return fmt.Errorf("%w: %s: %w", ErrSetup, doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// name returns what an SQL expression says, or "…" if the database does not
// answer.
func (c *connection) name(ctx context.Context, expression string) string {
	var name string
	if err := c.db.GetContext(ctx, &name, "SELECT "+expression); err != nil {
		return "…"
	}
	return name
}

// The tables on which the role lacks a right that Larkside needs.
const queryRightsMissing = `SELECT coalesce(string_agg(t, ', '), '') FROM unnest(ARRAY[
		'sessions', 'consents', 'encryption_keys', 'leases', 'rates', 'events', 'audit', 'default_users']) AS t
	WHERE NOT (has_table_privilege(t, 'SELECT') AND has_table_privilege(t, 'INSERT')
		AND has_table_privilege(t, 'UPDATE') AND has_table_privilege(t, 'DELETE'))`

// checkRights returns [ErrRights] if the role may not do what the work needs.
// Without it the first request that needs the right would fail, hours later.
func (c *connection) checkRights(ctx context.Context) error {
	if c.dialect != dialectPostgres {
		return nil
	}
	var missing string
	if err := c.db.GetContext(ctx, &missing, queryRightsMissing); err != nil {
		return c.refused(ctx, err, "looking for the rights on the tables")
	}
	role := c.name(ctx, "quote_ident(current_user)")
	if missing != "" {
		return fmt.Errorf("%w: GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %s", ErrRights, missing, role)
	}
	if may := c.name(ctx, "has_function_privilege('larkside_now()', 'EXECUTE')::text"); may != "true" {
		return fmt.Errorf("%w: GRANT EXECUTE ON FUNCTION larkside_now() TO %s", ErrRights, role)
	}
	return nil
}
