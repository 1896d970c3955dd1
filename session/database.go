package session

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"larkside/telemetry"
)

// queryTimeout bounds each statement, the wait for a connection included: a
// database that hangs is one that is down.
const queryTimeout = 5 * time.Second

// database bounds every statement by queryTimeout, makes spans of those that
// explain a request, and tells of those that fail.
type database struct {
	*sqlx.DB
	system string // postgresql or sqlite, as the conventions spell them
	// access is queryAccess, parsed once: SQLite spends longer on that than on
	// the look-up. Nil on PostgreSQL, where PgBouncer may stand in between.
	access *sqlx.Stmt
	// failed is told of every statement that failed; nil: nobody is.
	failed func(context.Context, error)
}

func (d database) GetContext(ctx context.Context, dest any, query string, args ...any) error {
	return d.run(ctx, query, func(ctx context.Context) error { return d.DB.GetContext(ctx, dest, query, args...) })
}

// get is GetContext for the one statement that requests wait for. Drivers start
// a goroutine for each statement whose context may end, which costs as much as
// the statement: this one's doesn't. On PostgreSQL the connection bounds it
// (server.Connect); its callers wait no longer than they like.
func (d database) get(ctx context.Context, dest any, args ...any) error {
	return d.observe(ctx, queryAccess, func(context.Context) error {
		if d.access != nil {
			return d.access.GetContext(context.Background(), dest, args...)
		}
		return d.DB.GetContext(context.Background(), dest, queryAccess, args...)
	})
}

func (d database) SelectContext(ctx context.Context, dest any, query string, args ...any) error {
	return d.run(ctx, query, func(ctx context.Context) error { return d.DB.SelectContext(ctx, dest, query, args...) })
}

func (d database) ExecContext(ctx context.Context, query string, args ...any) (result sql.Result, err error) {
	err = d.run(ctx, query, func(ctx context.Context) error {
		result, err = d.DB.ExecContext(ctx, query, args...)
		return err
	})
	return result, err
}

func (d database) run(ctx context.Context, query string, statement func(context.Context) error) error {
	return d.observe(ctx, query, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		return statement(ctx)
	})
}

func (d database) observe(ctx context.Context, query string, statement func(context.Context) error) error {
	spanned, span := d.start(ctx, query)
	err := statement(spanned)
	// No row is an answer, and a caller that hangs up is not the database's.
	bad := err != nil && !errors.Is(err, sql.ErrNoRows) && !errors.Is(ctx.Err(), context.Canceled)
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

// start begins the span of a statement that explains a request, where one is
// recorded; else the span is nil.
func (d database) start(ctx context.Context, query string) (context.Context, trace.Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, nil
	}
	summary, what := explains(query)
	if summary == "" {
		return ctx, nil
	}
	return otel.Tracer("larkside/session").Start(ctx, summary+what, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(telemetry.DBSystem.String(d.system), telemetry.DBSummary.String(summary)))
}

// explains returns the summary of a statement on the way of a request, and what
// it is for if the summary doesn't say so; "" for the others.
func explains(query string) (summary, what string) {
	switch query {
	case queryLoad, queryAccess:
		return "SELECT sessions", ""
	case queryResolve:
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
