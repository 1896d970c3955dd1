package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq/pqerror"
)

const (
	shortestPause = 5 * time.Millisecond
	longestPause  = 250 * time.Millisecond
	// badTries is how often a transaction is begun anew because its connection
	// was of no use. database/sql does the same for single statements.
	badTries = 3
)

// again runs f, and runs it again after an error that leaves nothing of what f
// did: a serialization failure, a deadlock, or no free connection, for which
// the next try waits. When ctx ends, again returns f's error.
func again(ctx context.Context, f func() error) error {
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		err := f()
		switch sqlState(err) {
		case pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected, pqerror.TooManyConnections:
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(pause)): // or transactions that collided would collide again
		}
	}
}

// readCommitted is the isolation level of transactions: a database may have
// another one as its default, and the statements are written for this one.
var readCommitted = &sql.TxOptions{Isolation: sql.LevelReadCommitted}

// transact runs f in a transaction, within limit, and commits it if f returns
// nil. It may run f several times. Its own errors wrap
// [session.ErrUnavailable]; after one the outcome is unknown.
func (d *database) transact(ctx context.Context, doing string, limit time.Duration, f func(context.Context, *sqlx.Tx) error) error {
	return d.observe(ctx, "", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		bad := 0
		return again(ctx, func() error {
			for {
				committing, err := d.transactOnce(ctx, doing, f)
				if bad++; committing || !errors.Is(err, driver.ErrBadConn) || bad == badTries {
					return err
				}
			}
		})
	})
}

func (d *database) transactOnce(ctx context.Context, doing string, f func(context.Context, *sqlx.Tx) error) (committing bool, err error) {
	var options *sql.TxOptions
	if d.DriverName() == dialectPostgres {
		options = readCommitted
	}
	tx, err := d.BeginTxx(ctx, options)
	if err != nil {
		return false, unavailable(err, doing)
	}
	defer tx.Rollback() // does nothing after Commit
	if err := f(ctx, tx); err != nil {
		return false, err
	}
	if err := tx.Commit(); err != nil {
		return true, unavailable(err, doing)
	}
	return false, nil
}
