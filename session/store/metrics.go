package store

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"larkside/session"
	"larkside/telemetry"
)

const (
	// backlogAge is how old the database's answer may get before a scrape asks
	// again, and backlogTimeout is how long that scrape waits.
	backlogAge     = 30 * time.Second
	backlogTimeout = time.Second
)

// instruments makes the metrics. [DB.Close] ends the callbacks.
func (d *DB) instruments(cacheSize int) error {
	meter := otel.Meter("larkside/session/store")
	var errs [13]error
	d.Sessions.evictions, errs[0] = meter.Int64Counter("larkside.cache.evictions",
		metric.WithUnit("{session}"), metric.WithDescription("Access tokens that were evicted from the cache to make room."))
	d.Leases.claims, errs[1] = meter.Int64Counter("larkside.leases",
		metric.WithUnit("{lease}"), metric.WithDescription("Claims of the right to refresh a session: taken, held (by another owner), moved (the session changed), failed."))
	failures, err := meter.Int64Counter("larkside.database.failures",
		metric.WithUnit("{statement}"), metric.WithDescription("Statements that the database did not answer."))
	errs[2] = err
	entries, err := meter.Int64ObservableGauge("larkside.cache.entries",
		metric.WithUnit("{session}"), metric.WithDescription("Users whose access token is in the cache."))
	errs[3] = err
	capacity, err := meter.Int64ObservableGauge("larkside.cache.capacity",
		metric.WithUnit("{session}"), metric.WithDescription("Users for whose access token the cache has room."))
	errs[4] = err
	connections, err := meter.Int64ObservableGauge("larkside.database.connections",
		metric.WithUnit("{connection}"), metric.WithDescription("Open connections to the database: used and idle."))
	errs[5] = err
	most, err := meter.Int64ObservableGauge("larkside.database.connections.max",
		metric.WithUnit("{connection}"), metric.WithDescription("Connections to the database that may be open."))
	errs[6] = err
	waited, err := meter.Float64ObservableCounter("larkside.database.connections.wait",
		metric.WithUnit("s"), metric.WithDescription("Time that statements have waited for a free connection."))
	errs[7] = err
	listening, err := meter.Int64ObservableGauge("larkside.database.listening",
		metric.WithUnit("{connection}"), metric.WithDescription("Connections on which change notifications come: 1, or 0 while changes are polled for because none come."))
	errs[11] = err
	keys, err := meter.Int64ObservableGauge("larkside.encryption.keys",
		metric.WithUnit("{key}"), metric.WithDescription("Keys under which something is sealed; more than one: a rotation is not finished."))
	errs[8] = err
	due, err := meter.Int64ObservableGauge("larkside.sweep.due",
		metric.WithUnit("{session}"), metric.WithDescription("Idle sessions that are due for renewal, counted up to 10,000."))
	errs[9] = err
	lag, err := meter.Float64ObservableGauge("larkside.sweep.lag",
		metric.WithUnit("s"), metric.WithDescription("How long the idle session that waits longest has been due for renewal."))
	errs[10] = err
	sessions, err := meter.Int64ObservableGauge("larkside.sessions",
		metric.WithUnit("{session}"), metric.WithDescription("Stored sessions by state, counted once a minute by one replica, which alone reports them."))
	errs[12] = err
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	// Prometheus takes no increase from a series that begins above zero.
	failures.Add(context.Background(), 0)
	idle := metric.WithAttributes(telemetry.State.String("idle"))
	used := metric.WithAttributes(telemetry.State.String("used"))
	backlog := &backlog{db: d.db, now: d.Sessions.now}
	census := &census{db: d.db, elections: d.Elections}
	callback, err := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		stats := d.db.Stats()
		o.ObserveInt64(entries, int64(d.Sessions.cache.len()))
		o.ObserveInt64(capacity, int64(cacheSize))
		o.ObserveInt64(connections, int64(stats.Idle), idle)
		o.ObserveInt64(connections, int64(stats.InUse), used)
		o.ObserveInt64(most, int64(stats.MaxOpenConnections))
		o.ObserveFloat64(waited, stats.WaitDuration.Seconds())
		if d.conn.dialect == dialectPostgres && !d.Changes.off() {
			o.ObserveInt64(listening, int64(flag(d.Changes.listening.Load())))
		}
		b := backlog.read(ctx)
		if b.first != nil {
			o.ObserveInt64(keys, b.Keys)
			o.ObserveFloat64(lag, (time.Duration(b.Lag) * time.Millisecond).Seconds())
		}
		if b.due != nil {
			o.ObserveInt64(due, *b.due)
		}
		for state, n := range census.read(ctx) {
			o.ObserveInt64(sessions, n, metric.WithAttributes(telemetry.State.String(string(state))))
		}
		return nil
	}, entries, capacity, connections, most, waited, listening, keys, due, lag, sessions)
	d.unobserve = func() { callback.Unregister() }
	complaints := telemetry.NewComplaints(d.log)
	d.db.failed = func(ctx context.Context, err error) {
		failures.Add(ctx, 1)
		complaints.Log(ctx, slog.LevelWarn, "the database did not answer a statement", "", "error", err)
	}
	if d.conn.server != nil {
		d.conn.server.pool.refused = func(err error) {
			complaints.Log(context.Background(), slog.LevelWarn, "PostgreSQL has no more connections for this replica; statements wait for those that it has", "", "error", err)
		}
	}
	return err
}

// backlog counts what is the same for every replica, in the database.
type backlog struct {
	db  *database
	now func() time.Time

	mu   sync.Mutex
	at   time.Time
	last counts
}

// counts is what the database said last. A pointer is nil if it is not known.
type counts struct {
	*first
	due *int64
}

type first struct {
	Keys int64 `db:"keys"`
	Lag  int64 `db:"lag"` // milliseconds
}

// mostDue bounds what is counted. More are as alarming, and every replica counts
// them.
const mostDue = 10_000

const (
	// How long the first of the rows that queryDueForRefresh finds has been due,
	// and the keys in use.
	queryBacklog = `SELECT (SELECT COUNT(*) FROM encryption_keys) AS keys, COALESCE($1 - (SELECT refresh_due_at FROM sessions
	WHERE ` + conditionDue + ` ORDER BY refresh_due_at LIMIT 1), 0) AS lag`

	queryBacklogDue = `SELECT COUNT(*) FROM (SELECT 1 FROM sessions WHERE ` + conditionDue + ` LIMIT $2) AS due`
)

// read returns the last counts. They are not known while the database is down.
func (b *backlog) read(ctx context.Context) counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.at) < backlogAge {
		return b.last
	}
	b.at = time.Now()
	now := millis(b.now())
	b.last.first = count(ctx, b.db, b.last.first, queryBacklog, now)
	b.last.due = count(ctx, b.db, b.last.due, queryBacklogDue, now, mostDue)
	return b.last
}

// count runs a query within backlogTimeout. If that is too short it returns what
// was known before: a table that takes long to count is no failure of the
// database. After any other error it returns nil.
func count[T any](ctx context.Context, db *database, before *T, query string, args ...any) *T {
	bounded, cancel := context.WithTimeout(ctx, backlogTimeout)
	defer cancel()
	var now T
	err := db.DB.GetContext(bounded, &now, query, args...)
	switch {
	case err == nil:
		return &now
	case bounded.Err() != nil:
		return before
	case db.failed != nil:
		db.failed(ctx, err)
	}
	return nil
}

// census counts the sessions by state, on one replica for all.
type census struct {
	db        *database
	elections *Elections

	mu   sync.Mutex
	at   time.Time
	last map[session.State]int64
}

const (
	// censusAge is how old the counts may get before a scrape counts again, and
	// censusTimeout is how long that scrape waits.
	censusAge     = time.Minute
	censusTimeout = time.Second
	// censusLead is how long a replica counts for all. It is longer than the
	// interval between scrapes.
	censusLead = 5 * time.Minute
)

// read returns how many sessions are in each state. It returns nil on a replica
// that does not count, and while the database is down.
func (c *census) read(ctx context.Context) map[session.State]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < censusAge {
		return c.last
	}
	c.at = time.Now()
	bounded, cancel := context.WithTimeout(ctx, censusTimeout)
	defer cancel()
	if leads, err := c.elections.Lead(bounded, "count sessions", censusLead); err != nil || !leads {
		c.last = nil
		return nil
	}
	var rows []Count
	err := c.db.DB.SelectContext(bounded, &rows, queryCounts)
	switch {
	case err == nil:
		c.last = map[session.State]int64{session.Active: 0, session.ConsentRequired: 0, session.Disabled: 0}
		for _, r := range rows {
			c.last[stateOf(string(r.State))] += int64(r.Sessions)
		}
	case bounded.Err() != nil: // it takes long, which is no failure of the database
	default:
		c.last = nil
		if c.db.failed != nil {
			c.db.failed(ctx, err)
		}
	}
	return c.last
}
