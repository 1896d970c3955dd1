package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

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
	// last is the address that the last connection was made with.
	last atomic.Pointer[string]
	// generation rises when a connection turns out to lead to a server that
	// takes writes no more. Connections of an earlier one are not used again.
	generation atomic.Int64
	pool       pool
}

// set parses raw and uses it from now on. If it fails, the URL stays as it was.
func (s *server) set(raw session.Secret) error {
	text, err := driverURL(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	s.url.Store(&text)
	return nil
}

// Connect implements [driver.Connector].
func (s *server) Connect(ctx context.Context) (driver.Conn, error) {
	cfg, err := pq.NewConfig(*s.url.Load())
	if err != nil {
		return nil, err
	}
	s.startWithLast(&cfg)
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, err
	}
	d := &dialer{s: s}
	c.Dialer(d)
	generation := s.generation.Load()
	made, err := c.Connect(ctx)
	if sqlState(err) == pqerror.TooManyConnections {
		s.pool.shrink(err)
	}
	if err != nil {
		return nil, err
	}
	s.pool.open.Add(1)
	s.last.Store(d.address.Load())
	return &serverConn{driverConn: made.(driverConn), s: s, opened: time.Now(), generation: generation}, nil
}

// startWithLast moves the host that the last connection was made with to the
// front: a host that hangs would hold up each new connection.
func (s *server) startWithLast(cfg *pq.Config) {
	last := s.last.Load()
	if last == nil || cfg.LoadBalanceHosts == pq.LoadBalanceHostsRandom {
		return
	}
	for i, h := range cfg.Multi {
		name := h.Host
		if h.Hostaddr.IsValid() {
			name = h.Hostaddr.String()
		}
		if net.JoinHostPort(name, strconv.Itoa(int(h.Port))) == *last {
			cfg.Multi[i] = pq.ConfigMultihost{Host: cfg.Host, Hostaddr: cfg.Hostaddr, Port: cfg.Port}
			cfg.Host, cfg.Hostaddr, cfg.Port = h.Host, h.Hostaddr, h.Port
			return
		}
	}
}

// silence is how long a connection waits for the server's answer to a
// statement. It bounds statements whose context has no deadline, and ends those
// whose server is gone without having closed the connection.
const silence = 4 * queryTimeout

// dialer makes the network connections of one attempt to connect.
type dialer struct {
	s *server
	// address is the one that was dialed last. The driver dials it again to
	// cancel a statement.
	address atomic.Pointer[string]
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.address.Store(&address)
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
	s.pool.start(db.DB, maxConns)
	if err := db.PingContext(ctx); err != nil {
		db.Close()
		host := ""
		if u, err := url.Parse(raw.Expose()); err == nil {
			host = u.Host
		}
		err = fmt.Errorf("connecting to PostgreSQL at %s: %w", host, err)
		if sqlState(err) == pqerror.UndefinedObject { // a parameter that is none
			err = fmt.Errorf("%w: %w", ErrSetup, err)
		}
		return nil, err
	}
	return &connection{db: newDatabase(db, "postgresql", s.pool.max), dialect: dialectPostgres, server: s}, nil
}
