package store

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

	"larkside/session"
)

// server makes connections to a PostgreSQL server. Its URL may change while the
// pool is open, to one with a new password: open connections go on, and those
// opened next use the new URL.
type server struct {
	url atomic.Pointer[string]
	// patient is set while statements may take any time, as those of a
	// migration do.
	patient atomic.Bool
}

// set parses raw and uses it from now on. If it fails, the URL stays as it was.
func (s *server) set(raw session.Secret) error {
	u, err := url.Parse(raw.Expose())
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return fmt.Errorf("%w: want postgres://…", ErrSetup) // the parser would quote the password
	}
	query := u.Query()
	if !query.Has("binary_parameters") {
		// Parse, bind and execute go in one message. A look-up is one round
		// trip then, and PgBouncer in transaction mode can't separate the
		// three.
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

// Connect implements [driver.Connector].
func (s *server) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := pq.NewConnector(*s.url.Load())
	if err != nil {
		return nil, err
	}
	c.Dialer(dialer{s})
	return c.Connect(ctx)
}

// silence is how long a connection waits for the server's answer to a
// statement. It bounds statements whose context has no deadline, and ends those
// whose server is gone without having closed the connection.
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

// impatient is a connection whose reads end after silence. The driver reads
// only while a statement runs.
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

// Driver implements [driver.Connector].
func (s *server) Driver() driver.Driver { return &pq.Driver{} }

func connectPostgres(ctx context.Context, raw session.Secret, maxConns int) (*connection, error) {
	s := new(server)
	if err := s.set(raw); err != nil {
		return nil, err
	}
	db := sqlx.NewDb(sql.OpenDB(s), dialectPostgres)
	if maxConns == 0 {
		// More connections than the processors can serve only make all
		// statements slower, and requests that are served from the cache, too.
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
	return &connection{db: &database{DB: db, system: "postgresql"}, dialect: dialectPostgres, server: s}, nil
}
