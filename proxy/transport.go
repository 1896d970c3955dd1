package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
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
	if c.ResponseHeaderTimeout == 0 {
		c.ResponseHeaderTimeout = 30 * time.Second
	}
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: c.ResponseHeaderTimeout,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		// The default of 2 idle connections per host closes and dials on
		// nearly every request once more than two run at a time.
		MaxIdleConnsPerHost:    1024,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	if c.Proxy != nil {
		t.Proxy = http.ProxyURL(c.Proxy)
	}
	return t
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
