package saves

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync/atomic"
	"testing"
)

// statements counts what a database executes. BEGIN and COMMIT count as well.
type statements struct{ background, requested atomic.Int64 }

// byItself marks the context of what runs whether or not anybody calls.
type byItself struct{}

func (s *statements) add(ctx context.Context) {
	if ctx.Value(byItself{}) != nil {
		s.background.Add(1)
	} else {
		s.requested.Add(1)
	}
}

func (s *statements) reset() {
	s.background.Store(0)
	s.requested.Store(0)
}

var drivers atomic.Int64

// driver registers a SQLite driver that counts in s, and returns its name.
func (s *statements) driver(t testing.TB) string {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	name := fmt.Sprint("sqlite-counted-", drivers.Add(1))
	sql.Register(name, countingDriver{db.Driver(), s})
	return name
}

type countingDriver struct {
	driver.Driver
	count *statements
}

func (d countingDriver) Open(name string) (driver.Conn, error) {
	conn, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return &countingConn{conn.(sqliteConn), d.count, map[string]sqliteStmt{}}, nil
}

// sqliteConn and sqliteStmt are what database/sql uses of SQLite's driver.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.SessionResetter
	driver.Validator
}

type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// countingConn parses each statement once. SQLite spends most of its time on
// parsing, and a day has half a million statements.
type countingConn struct {
	sqliteConn
	count  *statements
	parsed map[string]sqliteStmt
}

func (c *countingConn) parse(ctx context.Context, query string) (sqliteStmt, error) {
	if stmt, ok := c.parsed[query]; ok {
		return stmt, nil
	}
	stmt, err := c.sqliteConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	c.parsed[query] = stmt.(sqliteStmt)
	return c.parsed[query], nil
}

func (c *countingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.count.add(ctx)
	stmt, err := c.parse(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args)
}

func (c *countingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.count.add(ctx)
	stmt, err := c.parse(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args)
}

func (c *countingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.sqliteConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return countingStmt{stmt.(sqliteStmt), c.count}, nil
}

func (c *countingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	c.count.add(ctx)
	tx, err := c.sqliteConn.BeginTx(ctx, o)
	return countingTx{tx, ctx, c.count}, err
}

func (c *countingConn) Close() error {
	for _, stmt := range c.parsed {
		stmt.Close()
	}
	return c.sqliteConn.Close()
}

type countingStmt struct {
	sqliteStmt
	count *statements
}

func (s countingStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.count.add(ctx)
	return s.sqliteStmt.ExecContext(ctx, args)
}

func (s countingStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.count.add(ctx)
	return s.sqliteStmt.QueryContext(ctx, args)
}

type countingTx struct {
	driver.Tx
	begun context.Context
	count *statements
}

func (tx countingTx) Commit() error {
	tx.count.add(tx.begun)
	return tx.Tx.Commit()
}
