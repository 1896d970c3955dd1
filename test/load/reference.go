package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// The two proxies that larkside is compared with.

// referenceMain is the process of a reference proxy to target, a URL.
func referenceMain(ctx context.Context, name, target string) error {
	to, err := url.Parse(target)
	if err != nil {
		return err
	}
	pool := rootsFromEnv()
	tokens, err := newTokens()
	if err != nil {
		return err
	}
	var h http.Handler
	switch name {
	case "naive":
		h = naive(to, pool, tokens)
	case "tuned":
		h = tuned(to, pool, tokens)
	default:
		return fmt.Errorf("no reference proxy %q", name)
	}
	return serveChild(ctx, h)
}

func rootsFromEnv() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(os.Getenv("LOAD_ROOTS")))
	return pool
}

// serveChild serves h, and its runtime's statistics, until the parent is gone.
func serveChild(ctx context.Context, h http.Handler) error {
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stats, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ErrorLog: log.Default()}
	defer server.Close()
	go server.Serve(app)
	go http.Serve(stats, http.HandlerFunc(writeRuntimeStats))
	return report(ctx, places{Plain: app.Addr().String(), Stats: "http://" + stats.Addr().String()})
}

func writeRuntimeStats(w http.ResponseWriter, r *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	json.NewEncoder(w).Encode(runtimeStats{Mallocs: float64(m.Mallocs)})
}

// runtimeStats is what Go counts: objects allocated since the start, and the
// bytes of heap at which the next collection begins. That is twice what was live
// after the last one, as long as GOGC is not set.
type runtimeStats struct{ Mallocs float64 }

// tokens are the users' Authorization headers, behind an LRU of larkside's size.
type tokens struct {
	cache *lru.Cache[string, string]
}

func newTokens() (*tokens, error) {
	cache, err := lru.New[string, string](100_000)
	return &tokens{cache}, err
}

func (t *tokens) authorize(h http.Header) {
	user := h.Get("X-Lark-User-Id")
	h.Del("X-Lark-User-Id")
	token, ok := t.cache.Get(user)
	if !ok {
		i, known := userNumber(user)
		if !known {
			h.Del("Authorization")
			return
		}
		token = "Bearer " + accessToken(i, 0)
		t.cache.Add(user, token)
	}
	h.Set("Authorization", token)
}

// naive is what a first attempt looks like. The transport is net/http's default
// with the upstream's root added, and so keeps two connections.
func naive(to *url.URL, roots *x509.CertPool, t *tokens) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	transport.Proxy = nil
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to)
			pr.SetXForwarded()
			t.authorize(pr.Out.Header)
		},
		Transport: transport,
	}
}

// tuned is what net/http's ReverseProxy can do.
func tuned(to *url.URL, roots *x509.CertPool, t *tokens) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to)
			t.authorize(pr.Out.Header)
		},
		BufferPool: &buffers{},
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: roots},
			MaxIdleConnsPerHost:   1024,
			IdleConnTimeout:       90 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true,
		},
	}
}

type buffers struct{ pool sync.Pool }

const copySize = 32 << 10

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[copySize]byte); ok {
		return buf[:]
	}
	return make([]byte, copySize)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[copySize]byte)(buf)) }
