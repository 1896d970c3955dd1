package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/telemetry"
)

// queryTimeout bounds each statement, including the wait for a connection. A
// database that hangs counts as down.
const queryTimeout = 5 * time.Second

// database runs statements. It bounds each by queryTimeout, makes spans of
// those that explain a request, and reports those that fail.
type database struct {
	*sqlx.DB
	system string // postgresql or sqlite, as the conventions spell them
	// access is queryAccess, parsed once: SQLite spends more time on parsing it
	// than on the look-up. It is nil with PostgreSQL, since PgBouncer may stand
	// in between.
	access *sqlx.Stmt
	// lookups has a place for each look-up that may hold a connection.
	lookups chan struct{}
	// failed is called for every statement that failed. Nil: no callback.
	failed func(context.Context, error)
}

func newDatabase(db *sqlx.DB, system string, maxConns int) *database {
	return &database{DB: db, system: system, lookups: make(chan struct{}, maxConns)}
}

func (d *database) GetContext(ctx context.Context, dest any, query string, args ...any) error {
	return d.run(ctx, query, func(ctx context.Context) error { return d.DB.GetContext(ctx, dest, query, args...) })
}

// getAccess is GetContext for queryAccess, the one statement that requests wait
// for. A driver starts a goroutine for each statement whose context may end,
// which costs as much as the statement, so this one's context does not end.
// With PostgreSQL the connection bounds it (server.Connect). Nothing would bound
// its wait for a connection, so it takes a place first, and does that within
// queryTimeout.
func (d *database) getAccess(ctx context.Context, dest any, args ...any) error {
	return d.observe(ctx, queryAccess, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		select {
		case d.lookups <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a connection: %w", ctx.Err())
		}
		defer func() { <-d.lookups }()
		return again(ctx, func() error {
			if d.access != nil {
				return d.access.GetContext(context.Background(), dest, args...)
			}
			return d.DB.GetContext(context.Background(), dest, queryAccess, args...)
		})
	})
}

func (d *database) SelectContext(ctx context.Context, dest any, query string, args ...any) error {
	return d.run(ctx, query, func(ctx context.Context) error { return d.DB.SelectContext(ctx, dest, query, args...) })
}

func (d *database) ExecContext(ctx context.Context, query string, args ...any) (result sql.Result, err error) {
	err = d.run(ctx, query, func(ctx context.Context) error {
		result, err = d.DB.ExecContext(ctx, query, args...)
		return err
	})
	return result, err
}

func (d *database) run(ctx context.Context, query string, statement func(context.Context) error) error {
	return d.observe(ctx, query, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		return again(ctx, func() error { return statement(ctx) })
	})
}

func (d *database) observe(ctx context.Context, query string, statement func(context.Context) error) error {
	spanned, span := d.start(ctx, query)
	err := statement(spanned)
	// An answer without a row is an answer, and a caller that hangs up is not
	// the database's fault.
	bad := err != nil && !errors.Is(err, sql.ErrNoRows) && !errors.Is(err, session.ErrConflict) && !errors.Is(ctx.Err(), context.Canceled)
	if bad && d.failed != nil {
		d.failed(ctx, err)
	}
	if span != nil {
		if bad {
			span.SetAttributes(telemetry.ErrorType.String("_OTHER"))
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
	return err
}

// start begins the span of a statement that explains a request. It returns a
// nil span for other statements, and when no trace is recorded.
func (d *database) start(ctx context.Context, query string) (context.Context, trace.Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, nil
	}
	summary, purpose := explain(query)
	if summary == "" {
		return ctx, nil
	}
	return otel.Tracer("larkside/session/store").Start(ctx, summary+purpose, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(telemetry.DBSystem.String(d.system), telemetry.DBSummary.String(summary)))
}

// explain returns the summary of a statement that a request waits for, and its
// purpose if the summary does not say it. It returns "" for other statements.
func explain(query string) (summary, purpose string) {
	switch query {
	case queryLoad, queryAccess:
		return "SELECT sessions", ""
	case byUnionID.find, byUserID.find:
		return "SELECT sessions", " (alias)"
	case queryClaim:
		return "UPDATE sessions", " (claim lease)"
	case queryReplace:
		return "UPDATE sessions", " (store pair)"
	case queryRelease:
		return "UPDATE sessions", " (release lease)"
	case queryEnd:
		return "UPDATE sessions", " (end)"
	}
	return "", ""
}

const queryNow = `SELECT larkside_now()`

// now returns the database's time.
func (d *database) now(ctx context.Context) (now int64, err error) {
	err = d.GetContext(ctx, &now, queryNow)
	return now, err
}

// forgetAtOnce is how many rows one statement of forget deletes. They are few, so
// that deleting many does not hold up others.
const forgetAtOnce = 1000

// forget deletes rows in an order, up to a place in it. upTo finds the place of
// row $2 of those up to $1, and delete deletes all up to $1. The places are
// arguments and not looked up by the statement that deletes: the planner knows
// then how few rows it is about, and uses the index.
func forget[T int64 | string](ctx context.Context, d *database, doing, upTo, delete string, last T) error {
	for {
		place := last
		err := d.GetContext(ctx, &place, upTo, last, forgetAtOnce-1)
		more := err == nil
		if more || errors.Is(err, sql.ErrNoRows) {
			_, err = d.ExecContext(ctx, delete, place)
		}
		if err != nil {
			return unavailable(err, doing)
		}
		if !more {
			return nil
		}
	}
}

// noRows turns sql.ErrNoRows into otherwise, and any other error of the
// database into [session.ErrUnavailable].
func noRows(err error, otherwise error, doing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", doing, otherwise)
	}
	return unavailable(err, doing)
}

// changedOne returns [session.ErrConflict] if a statement changed no row.
func changedOne(result sql.Result, err error, doing string) error {
	if err != nil {
		return unavailable(err, doing)
	}
	if n, err := result.RowsAffected(); err != nil {
		return unavailable(err, doing)
	} else if n == 0 {
		return fmt.Errorf("%s: %w", doing, session.ErrConflict)
	}
	return nil
}

func unavailable(err error, doing string) error {
	return fmt.Errorf("%s: %w: %w", doing, session.ErrUnavailable, err)
}

// millis is the database's form of a time: milliseconds since 1970, 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// flag is the form of b in both databases.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// oneOf returns value if it is one of known, else otherwise. It is for words
// that somebody may have written into the database.
func oneOf[T comparable](value, otherwise T, known ...T) T {
	if slices.Contains(known, value) {
		return value
	}
	return otherwise
}

// span returns the time from one number of milliseconds to another, at most most
// in either direction, whatever the numbers are.
func span(to, from int64, most time.Duration) time.Duration {
	limit := most.Milliseconds()
	switch {
	case to > from && (to-from < 0 || to-from > limit):
		return most
	case to < from && (to-from > 0 || to-from < -limit):
		return -most
	}
	return time.Duration(to-from) * time.Millisecond
}
