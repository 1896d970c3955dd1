package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"larkside/cmd/larkside/settings"
	"larkside/proxy"
	"larkside/telemetry"
)

// socketMode lets the owner and the group of the process connect.
const socketMode = 0o660

// listen opens the listener that setting (without LARKSIDE_) names. Its error
// names the variable and says what to do. The listener of a Unix socket removes
// its file when it is closed.
func listen(ctx context.Context, setting string, a settings.Address) (net.Listener, error) {
	if a.Network == "unix" {
		if err := removeStaleSocket(ctx, a.Addr); err != nil {
			return nil, fmt.Errorf("%s%s: %w", settings.Prefix, setting, err)
		}
	}
	l, err := bind(ctx, a.Network, a.Addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s%s: %s is in use by another process; stop that or choose another address", settings.Prefix, setting, a)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s%s: no permission to listen on %s", settings.Prefix, setting, a)
	case err != nil:
		return nil, fmt.Errorf("%s%s: %w", settings.Prefix, setting, err)
	}
	if a.Network == "unix" {
		if err := os.Chmod(a.Addr, socketMode); err != nil {
			l.Close()
			return nil, fmt.Errorf("%s%s: %w", settings.Prefix, setting, err)
		}
	}
	return l, nil
}

// bind opens a listener. The file of a Unix socket is narrower than socketMode if
// the umask is.
func bind(ctx context.Context, network, addr string) (net.Listener, error) {
	var c net.ListenConfig
	if network == "unix" {
		c.Control = narrowSocket
	}
	return c.Listen(ctx, network, addr)
}

// removeStaleSocket removes what a process that was killed left behind: a
// socket on which nobody answers, never a file of another kind.
func removeStaleSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s is in use by another process; stop that or choose another path", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s exists, and whether another process uses it can't be told: %w", path, err)
	}
	return os.Remove(path)
}

// writePatience is how long a client may take nothing of what it is sent. Time
// and size of an answer are not limited.
const writePatience = 5 * time.Minute

// patientListener ends the connections of clients that do not read: a write
// that waits longer than patience fails.
type patientListener struct {
	net.Listener
	patience time.Duration
}

func (l patientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: conn, patience: l.patience}, nil
}

// patientConn renews its deadline before a write that would have less than
// patience; the server writes at most a buffer at a time. A handler may set an
// earlier deadline.
type patientConn struct {
	net.Conn
	patience time.Duration

	mu sync.Mutex
	// set is the deadline that was asked for; zero: none.
	set time.Time
	// due is the deadline of Conn.
	due time.Time
}

func (c *patientConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	err := c.renew()
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// renew gives patience to a write that begins now, or up to a quarter more: to set
// a deadline costs a timer, and most writes then need none. c.mu is held.
func (c *patientConn) renew() error {
	enough := time.Now().Add(c.patience)
	if !c.due.Before(enough) {
		return nil
	}
	c.due = enough.Add(c.patience / 4)
	if !c.set.IsZero() && c.set.Before(c.due) {
		c.due = c.set
	}
	return c.Conn.SetWriteDeadline(c.due)
}

// SetWriteDeadline ends writes at t, if patience does not end them before. The
// zero time leaves that to patience alone.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Equal(c.set) {
		return nil // after each answer net/http takes back a deadline that it never set
	}
	c.set, c.due = t, time.Time{}
	return c.renew()
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *patientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite is how net/http lets a client read an answer behind which the
// connection ends.
func (c *patientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// listener is one of the four.
type listener struct {
	name   string
	net    net.Listener
	server *http.Server
}

// listenAll opens every listener that is on, before any of them serves.
func (s *server) listenAll(ctx context.Context, operators, pages http.Handler) (all []*listener, err error) {
	for _, one := range []struct {
		name, setting string
		address       settings.Address
		handler       http.Handler
	}{
		{"proxy", "LISTEN", s.cfg.Listen, &s.app},
		{"admin", "ADMIN_LISTEN", s.cfg.AdminListen, operators},
		{"authz", "AUTHZ_LISTEN", s.cfg.AuthzListen, &s.authz},
		{"consent", "CONSENT_LISTEN", s.cfg.ConsentListen, pages},
	} {
		if one.address.Off() {
			continue
		}
		l, err := listen(ctx, one.setting, one.address)
		if err != nil {
			for _, open := range all {
				open.net.Close()
			}
			return nil, err
		}
		server := proxy.NewServer(one.handler)
		server.ErrorLog = slog.NewLogLogger(s.log.With("listener", one.name).Handler(), slog.LevelDebug)
		if one.name == "authz" {
			// gRPC is HTTP/2, without TLS here as all listeners.
			server.Protocols = new(http.Protocols)
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
		}
		if one.name != "proxy" {
			// Requests are small: one that has not arrived within this time never
			// will. The limit ends when a request has been read, so that long work
			// and the stream of events are not cut off.
			server.ReadTimeout = 30 * time.Second
		}
		if one.name == "admin" {
			// A browser that watches must not hold up the stop.
			server.RegisterOnShutdown(s.console.Close)
		}
		var serving net.Listener = patientListener{l, writePatience}
		if one.name != "consent" { // whose clients are people
			serving = proxy.NewListener(serving)
		}
		all = append(all, &listener{one.name, serving, server})
		s.announce(one.name, l.Addr())
	}
	return all, nil
}

func (l *listener) serve() error {
	if err := l.server.Serve(l.net); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on the %s listener: %w", l.name, err)
	}
	return nil
}

// stop lets running requests finish until ctx ends, then cuts them.
func (l *listener) stop(ctx context.Context) error {
	if err := l.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("the %s listener: %w", l.name, err), l.server.Close())
	}
	return nil
}

// swapHandler serves by the handler that was set last. Before the first one it
// answers 503.
type swapHandler struct{ handler atomic.Pointer[http.Handler] }

func (s *swapHandler) set(h http.Handler) { s.handler.Store(&h) }

func (s *swapHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	w.Header().Set(telemetry.RequestIDHeader, telemetry.NewRequestID())
	w.Header().Set("Retry-After", "1")
	http.Error(w, "starting", http.StatusServiceUnavailable)
}

// inFlight counts the running requests of one listener. The stop waits for them
// while the listener is still open, so that a request that comes meanwhile is told
// that this instance is draining, instead of being refused. An atomic counter costs
// each request less than a WaitGroup with its lock.
type inFlight struct {
	next    http.Handler
	running atomic.Int64
}

func (f *inFlight) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.running.Add(1)
	defer f.running.Add(-1)
	f.next.ServeHTTP(w, r)
}

// wait returns when nothing runs, or ctx ends. A request that begins right after
// is left to http.Server.Shutdown.
func (f *inFlight) wait(ctx context.Context) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for f.running.Load() > 0 {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}
