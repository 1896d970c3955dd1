package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"larkside/proxy/http1"
)

// TransportConfig is how upstream is reached.
type TransportConfig struct {
	// RootCAs are who may sign upstream's certificate; nil: the system's.
	RootCAs *x509.CertPool
	// Proxy is an outbound proxy, http:// or https:// or socks5://. nil: none.
	// HTTPS_PROXY and its kin are never read: they would show the token hop to
	// whoever set them.
	Proxy *url.URL
	// ResponseHeaderTimeout is the time from the last byte of a request to the
	// header of its answer; 0: 30 s. What streams after that is not limited.
	ResponseHeaderTimeout time.Duration
}

// NewTransport returns a transport sized for one upstream that many requests
// share. It speaks HTTP/2 where upstream does, verifies TLS 1.2 or newer,
// follows no redirect and decompresses nothing. Connecting and the TLS
// handshake may take 10 s each; an idle connection is kept for 90 s, and an
// HTTP/2 connection that is silent for 30 s is asked whether it lives.
func NewTransport(c TransportConfig) *http.Transport {
	t := &http.Transport{
		DialContext:            dialer().DialContext,
		TLSClientConfig:        c.tls(),
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  c.headerTimeout(),
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    maxIdle,
		MaxResponseHeaderBytes: maxAnswerHeader,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	if c.Proxy != nil {
		t.Proxy = http.ProxyURL(c.Proxy)
	}
	return t
}

// NewUpstream returns the way of the proxied requests to upstream: HTTP/1.1 on
// the goroutine of each request (package http1), with the limits of
// [NewTransport], which takes what that one leaves alone: a caller that waits
// for 100 Continue, an upstream that speaks HTTP/2 only, and everything when
// there is an outbound proxy.
func NewUpstream(upstream *url.URL, c TransportConfig) http.RoundTripper {
	standard := NewTransport(c)
	if c.Proxy != nil {
		return standard
	}
	return http1.New(http1.Config{
		Scheme: upstream.Scheme, Host: upstream.Host, Dialer: dialer(), TLS: c.tls(),
		HandshakeTimeout: handshakeTimeout, HeaderTimeout: c.headerTimeout(),
		IdleTimeout: idleTimeout, MaxIdle: maxIdle, MaxHeaderBytes: maxAnswerHeader, Fallback: standard,
	})
}

const (
	connectTimeout, handshakeTimeout = 10 * time.Second, 10 * time.Second

	idleTimeout = 90 * time.Second
	// maxIdle connections are kept. net/http's default of 2 for a host closes
	// and dials on nearly every request once more than two run at a time.
	maxIdle = 1024
	// maxAnswerHeader is in bytes.
	maxAnswerHeader = 256 << 10
)

func dialer() *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
}

func (c TransportConfig) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs}
}

func (c TransportConfig) headerTimeout() time.Duration {
	if c.ResponseHeaderTimeout == 0 {
		return 30 * time.Second
	}
	return c.ResponseHeaderTimeout
}

// NewServer returns a server with the limits that the proxy's listener needs:
// a header in 10 s and within 64 KiB, an idle connection for two minutes, and
// no limit on what streams; the handler of [New] sees to it that a body moves.
// OPTIONS * reaches h.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               64 << 10,
		DisableGeneralOptionsHandler: true,
	}
}

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
