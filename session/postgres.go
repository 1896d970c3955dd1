package session

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// server is a PostgreSQL server as it is to be reached now. A password may
// change while the pool stands: what is open goes on, what is opened next uses
// the new one.
type server struct {
	url atomic.Pointer[string]
	// patient: statements may take their time, as those of a migration do.
	patient atomic.Bool
}

// set parses raw. On an error what was before stays.
func (s *server) set(raw Secret) error {
	u, err := url.Parse(raw.Expose())
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return fmt.Errorf("%w: want postgres://…", ErrSetup) // the parser would quote the password
	}
	query := u.Query()
	if !query.Has("binary_parameters") {
		// Parse, bind and execute in one message: a look-up is one round trip,
		// and PgBouncer in transaction mode can't tear it apart.
		query.Set("binary_parameters", "yes")
	}
	if !query.Has("connect_timeout") {
		query.Set("connect_timeout", "5")
	}
	u.RawQuery = query.Encode()
	text := u.String()
	if _, err := pq.NewConnector(text); err != nil {
		return fmt.Errorf("%w: the postgres URL does not parse", ErrSetup)
	}
	s.url.Store(&text)
	return nil
}

// Connect is [driver.Connector]'s.
func (s *server) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := pq.NewConnector(*s.url.Load())
	if err != nil {
		return nil, err
	}
	c.Dialer(dialer{s})
	return c.Connect(ctx)
}

// silence is how long a connection waits for the server while a statement is
// under way. It is for those statements that have no time of their own, or
// whose server is gone without a word.
const silence = 4 * queryTimeout

type dialer struct{ s *server }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &impatient{Conn: c, s: d.s}, nil
}

// impatient is a connection that is only read while a statement is under way.
type impatient struct {
	net.Conn
	s *server
	// limit is the driver's own deadline (connect_timeout), zero for none.
	limit time.Time
}

func (c *impatient) SetDeadline(t time.Time) error {
	c.limit = t
	return c.Conn.SetDeadline(t)
}

func (c *impatient) Read(b []byte) (int, error) {
	deadline := time.Now().Add(silence)
	if c.s.patient.Load() {
		deadline = time.Time{}
	}
	if !c.limit.IsZero() && (deadline.IsZero() || c.limit.Before(deadline)) {
		deadline = c.limit
	}
	if err := c.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Driver is [driver.Connector]'s.
func (s *server) Driver() driver.Driver { return &pq.Driver{} }

func connectPostgres(ctx context.Context, raw Secret, maxConns int) (*connection, error) {
	s := new(server)
	if err := s.set(raw); err != nil {
		return nil, err
	}
	db := sqlx.NewDb(sql.OpenDB(s), dialectPostgres)
	if maxConns == 0 {
		// With more than the processors can use, statements only get slower
		// together, and so does every hit beside them.
		maxConns = min(16, max(6, 2*runtime.GOMAXPROCS(0)))
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	if err := db.PingContext(ctx); err != nil {
		db.Close()
		host := ""
		if u, err := url.Parse(raw.Expose()); err == nil {
			host = u.Host
		}
		return nil, fmt.Errorf("connecting to PostgreSQL at %s: %w", host, err)
	}
	return &connection{db: database{DB: db, system: "postgresql"}, dialect: dialectPostgres, server: s}, nil
}

// Reconnect makes connections that are opened from now on use other URLs, such
// as ones with a new password; listen as [Config].ListenURL. On an error
// (it wraps [ErrSetup]) everything stays as it was. It is not for another
// database: what this store knows is of the one that it has opened.
func (s *Store) Reconnect(raw, listen Secret) error {
	if s.conn.server == nil {
		return fmt.Errorf("%w: SQLite's file is opened once", ErrSetup)
	}
	if err := s.conn.server.set(raw); err != nil {
		return err
	}
	if listen.Empty() {
		listen = raw
	}
	if old := s.listen.Swap(&listen); !old.Equal(listen) {
		select {
		case s.relisten <- struct{}{}:
		default:
		}
	}
	return nil
}
