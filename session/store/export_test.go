package store

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/jmoiron/sqlx"

	"larkside/session"
)

// SetSettle shortens the wait of Reseal for other replicas.
func (d *DB) SetSettle(wait time.Duration) { d.settle = wait }

// ResealAround reads a batch of sessions to seal anew, calls between, stores
// the batch, and returns how many rows were replaced.
func (d *DB) ResealAround(ctx context.Context, between func()) (int, error) {
	r := newResealing(d, nil)
	rows, err := r.read(ctx, &sealedTables[0], []any{"", ""})
	if err != nil {
		return 0, err
	}
	between()
	_, err = r.replace(ctx, &sealedTables[0], rows)
	return r.done.Sealed, err
}

// SealedColumns are table.column of all that Reseal goes through.
func SealedColumns() []string {
	var all []string
	for _, t := range sealedTables {
		for _, column := range t.columns {
			all = append(all, t.name+"."+column)
		}
	}
	return all
}

// MaxConns is how many connections the pool may have now.
func (d *DB) MaxConns() int { return d.db.Stats().MaxOpenConnections }

// OnLoaded has f run between the answer of each look-up and the cache.
func (s *Sessions) OnLoaded(f func()) { s.testingOnlyLoaded = f }

// OnStored has f run between the answer of each write and the cache.
func (s *Sessions) OnStored(f func(*session.Session)) { s.testingOnlyStored = f }

// PollOnce looks for changes since a time of the database's clock.
func (c *Changes) PollOnce(ctx context.Context, since int64) int64 { return c.pollOnce(ctx, since) }

// Listening reports whether notifications come.
func (c *Changes) Listening() bool { return c.listening.Load() }

// Heard takes the news that another replica has stored a session.
func (c *Changes) Heard(s *session.Session) {
	c.changed("sessions", s.Key, s.Version, s.State)
}

// MigrateWith is Migrate of a program that has a second step: it makes up,
// down undoes it, and oldest is the least version that a program has to know.
func MigrateWith(ctx context.Context, cfg Config, to int64, up, down string, oldest int64) error {
	c, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	c.steps = append(c.steps, step{version: 2, oldest: oldest, up: up, down: down})
	return errors.Join(c.migrateOrBack(ctx, to, cfg.Log), c.close())
}

// Forget empties the cache of key, so that its row is read again.
func (s *Sessions) Forget(key session.Key) { s.cache.absent(key, s.cache.ticket(key)) }

// Backlog is what a scrape asks the database for.
type Backlog struct {
	b *backlog
	c *census
	// Failures counts the statements that were reported as failed.
	Failures int
}

// NewBacklog returns one of its own.
func (d *DB) NewBacklog() *Backlog {
	db := *d.db
	b := &Backlog{b: &backlog{db: &db, now: time.Now}, c: &census{db: &db, now: time.Now, elections: d.Elections}}
	db.failed = func(context.Context, error) { b.Failures++ }
	return b
}

// Read asks the database again. What is not known is -1.
func (b *Backlog) Read(ctx context.Context) (lag, due int64) {
	b.b.at, b.c.at = time.Time{}, time.Time{}
	lag, due = -1, -1
	if behind := b.b.read(ctx); behind != nil {
		lag = behind.Lag
	}
	if counted := b.c.read(ctx); counted.due != nil {
		due = *counted.due
	}
	return lag, due
}

// SetPatience sets how long a search looks through names.
func (d *Directory) SetPatience(patience time.Duration) { d.patience = patience }

// Census counts sessions by state as a scrape does, with a new count each time.
func (d *DB) Census(ctx context.Context) map[session.State]int64 {
	c := &census{db: d.db, now: time.Now, elections: d.Elections}
	return c.read(ctx).byState()
}

// NewsAfter is newsAfter.
const NewsAfter = newsAfter

// Lifetime is how long a connection of the pool is used. database/sql does not
// say it.
func (d *DB) Lifetime() time.Duration {
	return time.Duration(reflect.ValueOf(d.db.DB.DB).Elem().FieldByName("maxLifetime").Int())
}

// OpenConns is how many connections the pool has.
func (d *DB) OpenConns() int { return d.db.Stats().OpenConnections }

// Transact runs f in a transaction, as all transactions are run.
func (d *DB) Transact(ctx context.Context, f func(context.Context, *sqlx.Tx) error) error {
	return d.db.transact(ctx, "testing", queryTimeout, f)
}
