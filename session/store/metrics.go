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
	// again.
	backlogAge = 30 * time.Second
	// countTimeout is how long a scrape waits for one answer.
	countTimeout = time.Second
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
		metric.WithUnit("{session}"), metric.WithDescription("Idle sessions that are due for renewal, up to 10,000, counted once a minute by one replica, which alone reports them."))
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
	census := &census{db: d.db, now: d.Sessions.now, elections: d.Elections}
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
		if b := backlog.read(ctx); b != nil {
			o.ObserveInt64(keys, b.Keys)
			o.ObserveFloat64(lag, (time.Duration(b.Lag) * time.Millisecond).Seconds())
		}
		counted := census.read(ctx)
		for state, n := range counted.byState() {
			o.ObserveInt64(sessions, n, metric.WithAttributes(telemetry.State.String(string(state))))
		}
		if counted.due != nil {
			o.ObserveInt64(due, *counted.due)
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

// backlog is what every replica reports about the database. It costs little: of the
// rows that are due, only the first is read.
type backlog struct {
	db  *database
	now func() time.Time

	mu   sync.Mutex
	at   time.Time
	last *behind
}

type behind struct {
	Keys int64 `db:"keys"`
	Lag  int64 `db:"lag"` // milliseconds
}

// How long the first of the rows that queryDueForRefresh finds has been due, and the
// keys in use.
const queryBacklog = `SELECT (SELECT COUNT(*) FROM encryption_keys) AS keys, COALESCE($1 - (SELECT refresh_due_at FROM sessions
	WHERE ` + conditionDue + ` ORDER BY refresh_due_at LIMIT 1), 0) AS lag`

// read returns what the database said last. It returns nil while the database is
// down.
func (b *backlog) read(ctx context.Context) *behind {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.at) < backlogAge {
		return b.last
	}
	b.at = time.Now()
	b.last = count(ctx, b.db, b.last, func(ctx context.Context, now *behind) error {
		return b.db.DB.GetContext(ctx, now, queryBacklog, millis(b.now()))
	})
	return b.last
}

// count asks the database within countTimeout. If that is too short it returns what
// was known before: a table that takes long to count is no failure of the database.
// After any other error it returns nil.
func count[T any](ctx context.Context, db *database, before *T, ask func(ctx context.Context, now *T) error) *T {
	bounded, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	var now T
	err := ask(bounded, &now)
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

// census counts sessions, on one replica for all: thousands of rows are read for
// each number.
type census struct {
	db        *database
	now       func() time.Time
	elections *Elections

	mu   sync.Mutex
	at   time.Time
	last counted
}

// counted is what the database said last. A number is nil if it is not known,
// or if another replica reports it.
type counted struct {
	sessions *[]Count
	due      *int64
}

const (
	// mostDue bounds what is counted. More are as alarming.
	mostDue = 10_000
	// censusAge is how old the counts may get before a scrape counts again.
	censusAge = time.Minute
	// censusLead is how long a replica counts for all. It is longer than the
	// interval between scrapes.
	censusLead = 5 * time.Minute
)

const queryBacklogDue = `SELECT COUNT(*) FROM (SELECT 1 FROM sessions WHERE ` + conditionDue + ` LIMIT $2) AS due`

// read returns what was counted last. It knows nothing on a replica that does not
// count, and while the database is down.
func (c *census) read(ctx context.Context) counted {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < censusAge {
		return c.last
	}
	c.at = time.Now()
	bounded, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	if leads, err := c.elections.Lead(bounded, "count sessions", censusLead); err != nil || !leads {
		c.last = counted{}
		return c.last
	}
	c.last = counted{
		sessions: count(ctx, c.db, c.last.sessions, func(ctx context.Context, now *[]Count) error {
			return c.db.DB.SelectContext(ctx, now, queryCounts)
		}),
		due: count(ctx, c.db, c.last.due, func(ctx context.Context, now *int64) error {
			return c.db.DB.GetContext(ctx, now, queryBacklogDue, millis(c.now()), mostDue)
		}),
	}
	return c.last
}

// byState returns how many sessions are in each state, or nil if that is not known.
func (c counted) byState() map[session.State]int64 {
	if c.sessions == nil {
		return nil
	}
	states := map[session.State]int64{session.Active: 0, session.ConsentRequired: 0, session.Disabled: 0}
	for _, n := range *c.sessions {
		states[stateOf(string(n.State))] += int64(n.Sessions)
	}
	return states
}
