package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// driverConn is what database/sql asks of the driver's connections.
type driverConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// serverConn is a connection of the pool. The pool drops it when an error says
// that the server at its other end is not the one to talk to any more.
type serverConn struct {
	driverConn
	s *server
	// opened is when it was made, and generation is the server's at that time.
	opened     time.Time
	generation int64
	over       bool
}

// newsAfter is the age from which a connection that is found read-only says
// something about the others: it took writes before.
const newsAfter = time.Second

// judge looks at the error of a statement. One that no longer has a server, or
// only a read-only one, was not executed: [driver.ErrBadConn] makes database/sql
// execute it on another connection.
func (c *serverConn) judge(err error) error {
	state := sqlState(err)
	switch {
	case state == pqerror.ReadOnlySQLTransaction:
		if time.Since(c.opened) > newsAfter {
			c.s.generation.CompareAndSwap(c.generation, c.generation+1)
		}
	case state == pqerror.AdminShutdown, state == pqerror.CrashShutdown, state == pqerror.CannotConnectNow,
		state == pqerror.DatabaseDropped, state == pqerror.IdleSessionTimeout:
	case strings.HasPrefix(string(state), "08"): // connection exceptions, as poolers report them
		c.over = true
		return err
	default:
		return err
	}
	c.over = true
	return fmt.Errorf("%w: %w", driver.ErrBadConn, err)
}

// sqlState returns the SQLSTATE of an error of PostgreSQL's, else "".
func sqlState(err error) pqerror.Code {
	if e, ok := errors.AsType[*pq.Error](err); ok {
		return e.Code
	}
	return ""
}

// Close implements [driver.Conn]. The pool calls it once.
func (c *serverConn) Close() error {
	c.s.pool.open.Add(-1)
	return c.driverConn.Close()
}

// IsValid implements [driver.Validator]. The pool keeps no connection that is
// not valid.
func (c *serverConn) IsValid() bool {
	return !c.over && c.generation == c.s.generation.Load() && c.driverConn.IsValid()
}

// ResetSession implements [driver.SessionResetter]. The pool calls it before it
// uses a connection again.
func (c *serverConn) ResetSession(ctx context.Context) error {
	if !c.IsValid() {
		return driver.ErrBadConn
	}
	return c.driverConn.ResetSession(ctx)
}

func (c *serverConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.driverConn.QueryContext(ctx, query, args)
	return rows, c.judge(err)
}

func (c *serverConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	result, err := c.driverConn.ExecContext(ctx, query, args)
	return result, c.judge(err)
}

func (c *serverConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.driverConn.PrepareContext(ctx, query)
	return stmt, c.judge(err)
}

func (c *serverConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.driverConn.BeginTx(ctx, opts)
	return tx, c.judge(err)
}
