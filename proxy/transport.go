package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// TransportConfig says how the upstream is reached.
type TransportConfig struct {
	// RootCAs are the authorities that may sign the upstream's certificate. nil: the
	// system's.
	RootCAs *x509.CertPool
	// Proxy is an outbound proxy, http://, https:// or socks5://. nil: none.
	// HTTPS_PROXY and the like are never read: whoever can set them could read the
	// tokens.
	Proxy *url.URL
	// ResponseHeaderTimeout is the time from the last byte of a request to the header
	// of its answer. What streams after that is not limited. 0: 30 s.
	ResponseHeaderTimeout time.Duration
}

// Transport takes requests to one upstream that all users share. It is
// net/http's transport with two rules added; both are about HTTP/1.1, where the
// requests of many users follow one another on a connection. Over HTTP/2 each
// request is a stream of its own.
//
// A connection on which a body went out that the upstream may leave unread (see
// [mayStayUnread]) is closed after the answer. The next request on it would
// start behind the unread body: the upstream would take the body for the start
// of that request, and swallow another user's token with it.
//
// Idle connections can die without a sign, such as when a firewall forgets
// them. After a request that got no answer in time, the other idle connections
// are closed too, so that they don't cost one timeout each.
type Transport struct {
	// shared keeps its connections for the requests of all users.
	shared *http.Transport
	// single keeps no HTTP/1.1 connection after an answer. It is a transport of
	// its own since Request.Close would end an HTTP/2 connection as well, and
	// which protocol a request will get isn't known before it is sent.
	single *http.Transport
	// headerTimeout is that of both.
	headerTimeout time.Duration
	// epoch is when t was made, and emptied how long after it the idle
	// connections were last closed because of a timeout; 0: never.
	epoch   time.Time
	emptied atomic.Int64
}

// NewTransport returns a Transport. It speaks HTTP/2 where the upstream does,
// verifies TLS 1.2 or newer, follows no redirect and decompresses nothing. It
// repeats a request only where net/http does: on a reused connection that the
// upstream has closed, if nothing was sent yet or sending it twice is safe.
func NewTransport(c TransportConfig) *Transport {
	shared, single := c.Standard(), c.Standard()
	single.MaxIdleConnsPerHost = noneIdle
	single.TLSClientConfig.ClientSessionCache = shared.TLSClientConfig.ClientSessionCache
	return &Transport{shared: shared, single: single, headerTimeout: shared.ResponseHeaderTimeout, epoch: time.Now()}
}

const (
	connectTimeout, handshakeTimeout = 10 * time.Second, 10 * time.Second

	idleTimeout = 90 * time.Second
	// maxIdle connections are kept. net/http's default of 2 for a host closes
	// and dials on nearly every request once more than two run at a time.
	maxIdle = 1024
	// noneIdle makes net/http close each HTTP/1.1 connection after its answer.
	// HTTP/2 connections are kept elsewhere (http2Transport's own pool), and
	// this doesn't touch them. TestUnreadBodies and TestHTTP2IsShared hold both.
	noneIdle = -1
	// maxAnswerHeader is in bytes.
	maxAnswerHeader = 256 << 10
	// A silent HTTP/2 connection is asked whether it lives, and closed if it
	// doesn't answer. Together that is less than the time that a request may
	// wait for its answer, so a dead connection ends few of them.
	pingAfter, pingTimeout = 15 * time.Second, 10 * time.Second
)

// Standard returns net/http's transport with the limits that c and this package
// set, and no rules added. It is for Larkside's own calls, which belong to no
// user.
func (c TransportConfig) Standard() *http.Transport {
	if c.ResponseHeaderTimeout == 0 {
		c.ResponseHeaderTimeout = 30 * time.Second
	}
	// A connection that resumes a TLS session is made with a round trip less.
	sessions := tls.NewLRUClientSessionCache(0)
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs, ClientSessionCache: sessions},
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  c.ResponseHeaderTimeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    maxIdle,
		MaxResponseHeaderBytes: maxAnswerHeader,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	if c.Proxy != nil {
		t.Proxy = http.ProxyURL(c.Proxy)
	}
	return t
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	way := t.shared
	if mayStayUnread(r) {
		way = t.single
	}
	sent := time.Since(t.epoch)
	res, err := way.RoundTrip(r)
	if err == nil {
		return res, nil
	}
	if r.Context().Err() == nil && time.Since(t.epoch)-sent >= t.headerTimeout && silent(err) {
		t.suspectIdle(sent)
	}
	return nil, unquoted{err}
}

// unquoted is an error whose text has nothing of what the upstream sent.
type unquoted struct{ error }

func (e unquoted) Error() string { return withoutQuotes(e.error.Error()) }

func (e unquoted) Unwrap() error { return e.error }

// withoutQuotes cuts text where net/http quotes. It quotes an answer that is
// malformed, and that may hold anything, such as a token; errors are logged.
func withoutQuotes(text string) string {
	text, _, _ = strings.Cut(text, `"`)
	return strings.TrimSpace(text)
}

// mayStayUnread reports whether r has a body for which its method defines no
// meaning (RFC 9110 sections 9.3.1, 9.3.2, 9.3.5 and 9.3.7). A server may answer
// without reading it.
func mayStayUnread(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return false
	}
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return false
	}
	return true
}

// silent reports whether err is a timeout, but not one of connecting: that says
// nothing about the connections that are open. (The timeout of a TLS handshake
// is a type of net/http's own; it is told by coming too early.)
func silent(err error) bool {
	var timeout interface{ Timeout() bool }
	var op *net.OpError
	return errors.As(err, &timeout) && timeout.Timeout() && !(errors.As(err, &op) && op.Op == "dial")
}

// suspectIdle closes the idle connections because a request sent at sent got
// no answer. It keeps them if they were closed after that already: those of now
// are newer, or have answered since. So a route of Lark's that times out all the
// time doesn't keep the pool empty.
func (t *Transport) suspectIdle(sent time.Duration) {
	emptied := t.emptied.Load()
	if emptied > int64(sent) || !t.emptied.CompareAndSwap(emptied, int64(time.Since(t.epoch))) {
		return
	}
	t.CloseIdleConnections()
}

// CloseIdleConnections closes the connections that no request is using.
func (t *Transport) CloseIdleConnections() {
	t.shared.CloseIdleConnections()
	t.single.CloseIdleConnections()
}

// outbound reports whether requests go through an outbound proxy.
func (t *Transport) outbound() bool { return t.shared.Proxy != nil }

// buffers lends the buffers that bodies are copied through.
type buffers struct{ pool sync.Pool }

const copySize = 32 << 10

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[copySize]byte); ok {
		return buf[:]
	}
	return make([]byte, copySize)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[copySize]byte)(buf)) }
