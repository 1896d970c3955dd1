// Package http1 is a lean way to one upstream over HTTP/1.1.
//
// [Transport] does what net/http's Transport does for a reverse proxy, on the
// goroutine that asks: no two goroutines and four channel operations for each
// exchange, which is where a proxy spends a good part of its time. Messages are
// written and read by net/http itself ([http.Request.Write],
// [http.ReadResponse]), so what is a valid message, and where it ends, is
// decided by the same code. What it does not do (Expect: 100-continue,
// upgrades, other hosts) goes to its Fallback.
//
// A connection that holds a single byte nobody asked for is never used again:
// an answer can't be taken for the next request's.
//
// It differs from net/http's Transport in this: interim answers count into the
// limit on the header's size, however many are passed on; a change of protocols
// that nobody asked for is an error; a request is sent at most twice, the second
// time on a new connection, however many idle ones there are; an idle connection
// that upstream closed is noticed when it is taken or has been idle for too
// long, not at once; Request.Cancel is not heeded; and of httptrace only
// Got1xxResponse, WroteHeaders and WroteRequest are called, beside those of
// dialling.
package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Config is one upstream. Scheme, Host and Fallback are required.
type Config struct {
	// Scheme is http or https, Host what requests have as URL.Host: a name or
	// address, with a port where it is not the scheme's own.
	Scheme, Host string
	// Dialer makes the connections. Nil: the zero one.
	Dialer *net.Dialer
	// TLS is for https. Nil: the zero one. ServerName and NextProtos are set
	// here.
	TLS *tls.Config
	// HandshakeTimeout bounds the TLS handshake, HeaderTimeout the time from the
	// last byte of a request to the end of its answer's header. 0: no limit.
	HandshakeTimeout, HeaderTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request, MaxIdle
	// how many are. 0: not at all.
	IdleTimeout time.Duration
	MaxIdle     int
	// MaxHeaderBytes bounds an answer's header, all its interim answers (1xx)
	// included. 0: 10 MiB, as in net/http.
	MaxHeaderBytes int64
	// Fallback takes the requests that this transport leaves alone.
	Fallback http.RoundTripper
}

// Transport is an [http.RoundTripper] for one upstream. It is safe for
// concurrent use.
type Transport struct {
	c       Config
	address string
	idle    stack
	reaping atomic.Bool
	// epoch counts the calls of CloseIdleConnections.
	epoch atomic.Int64
	// foreign: upstream speaks no HTTP/1.1.
	foreign atomic.Bool
	pieces  sync.Pool // of *[copySize]byte
}

// New returns a Transport.
func New(c Config) *Transport {
	if c.Dialer == nil {
		c.Dialer = new(net.Dialer)
	}
	if c.MaxHeaderBytes <= 0 {
		c.MaxHeaderBytes = 10 << 20
	}
	u := url.URL{Host: c.Host}
	host, port := u.Hostname(), u.Port()
	if ascii, err := httpguts.PunycodeHostPort(host); err == nil {
		host = ascii
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[c.Scheme]
	}
	if c.Scheme == "https" {
		if c.TLS == nil {
			c.TLS = new(tls.Config)
		}
		c.TLS = c.TLS.Clone()
		c.TLS.ServerName = host
		c.TLS.NextProtos = []string{"http/1.1"}
		// What is written is one record, and so one write to the socket: an answer
		// is awaited behind it.
		c.TLS.DynamicRecordSizingDisabled = true
		if c.TLS.ClientSessionCache == nil {
			c.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		}
	}
	return &Transport{c: c, address: net.JoinHostPort(host, port)}
}

// RoundTrip sends r and returns the answer as soon as its header is there. The
// body streams. Errors of a request whose context is done are the context's.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.takes(r) {
		return t.c.Fallback.RoundTrip(r)
	}
	if err := valid(r); err != nil {
		closeBody(r)
		return nil, err
	}
	if cause := context.Cause(r.Context()); cause != nil {
		closeBody(r)
		return nil, cause
	}
	c, err := t.connection(r)
	for {
		if err != nil {
			if err == errForeign {
				return t.c.Fallback.RoundTrip(r)
			}
			closeBody(r)
			return nil, orCause(r.Context(), err)
		}
		res, again, err2 := c.exchange(r)
		if err2 == nil {
			return res, nil
		}
		if again {
			r, again = rewound(r)
		}
		if !again {
			return nil, orCause(r.Context(), err2)
		}
		// The other idle connections may be as dead: a new one is not, and so
		// this is the last time.
		c, err = t.dial(r.Context())
	}
}

// rewound is r with its body from the beginning. It is false if that can't be
// had.
func rewound(r *http.Request) (*http.Request, bool) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, true
	}
	if r.GetBody == nil {
		return r, false
	}
	again, err := r.GetBody()
	if err != nil {
		return r, false
	}
	next := *r
	next.Body = again
	return &next, true
}

// orCause is why ctx is done, or else err.
func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fmt.Errorf("http1: %w", err)
}

// takes reports whether r is an exchange that can be done here.
func (t *Transport) takes(r *http.Request) bool {
	return r.URL != nil && r.URL.Scheme == t.c.Scheme && r.URL.Host == t.c.Host && !t.foreign.Load() &&
		r.Method != http.MethodConnect && !r.Close && r.Header != nil &&
		r.Header["Expect"] == nil && r.Header["Upgrade"] == nil && r.Header["Connection"] == nil
}

// valid refuses what could be read as more than one header or request. The
// method's and the target's turn comes in http.Request.Write, and before that
// when the request was received.
func valid(r *http.Request) error {
	if r.Method != "" && !httpguts.ValidHeaderFieldName(r.Method) { // both are tokens
		return fmt.Errorf("http1: invalid method %q", r.Method)
	}
	for _, header := range []http.Header{r.Header, r.Trailer} {
		for name, values := range header {
			if !httpguts.ValidHeaderFieldName(name) {
				return fmt.Errorf("http1: invalid header name %q", name)
			}
			for _, v := range values {
				if !httpguts.ValidHeaderFieldValue(v) {
					return fmt.Errorf("http1: invalid value in header %q", name) // it may be a token
				}
			}
		}
	}
	return nil
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

// errForeign: upstream speaks another protocol than HTTP/1.1.
var errForeign = errors.New("upstream speaks no HTTP/1.1")

// connection is an idle one that is still good, or a new one.
func (t *Transport) connection(r *http.Request) (*conn, error) {
	for {
		c, since := t.idle.pop()
		if c == nil {
			return t.dial(r.Context())
		}
		now := time.Now()
		var limit time.Time
		if t.c.HeaderTimeout > 0 && atOnce(r) {
			limit = now.Add(t.c.HeaderTimeout)
		}
		if now.Sub(since) < t.c.IdleTimeout && c.quiet(now, limit) {
			c.reused = true
			return c, nil
		}
		c.close()
	}
}

func (t *Transport) dial(ctx context.Context) (*conn, error) {
	raw, err := t.c.Dialer.DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	c := newConn(t, raw)
	if t.c.Scheme != "https" {
		return c, nil
	}
	if t.c.HandshakeTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.c.HandshakeTimeout)
		defer cancel()
	}
	if err := c.encrypt(ctx, t.c.TLS); err != nil {
		raw.Close()
		// crypto/tls has its own type for alerts that it received, and tells it
		// to nobody; the text is the same.
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() == noApplicationProtocol.Error() {
			t.foreign.Store(true)
			return nil, errForeign
		}
		return nil, fmt.Errorf("TLS handshake with upstream: %w", err)
	}
	return c, nil
}

// noApplicationProtocol is TLS's no_application_protocol (RFC 7301 section 3.2).
const noApplicationProtocol tls.AlertError = 120
