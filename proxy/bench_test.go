package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"larkside/proxy"
	"larkside/session"
	larkapi "larkside/session/lark"
)

// answer1K is what Lark answers in the benchmarks.
var answer1K = append([]byte(`{"code":0,"msg":"success","data":{"text":"`+string(bytes.Repeat([]byte("x"), 970))), `"}}`...)

// nullTransport answers at once, without a network.
type nullTransport struct{}

func (nullTransport) RoundTrip(out *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Request: out,
		Header: http.Header{
			"Content-Type":   {"application/json; charset=utf-8"},
			"Content-Length": {strconv.Itoa(len(answer1K))},
			"X-Tt-Logid":     {"20260101000000000000000000000001"},
		},
		ContentLength: int64(len(answer1K)),
		Body:          io.NopCloser(bytes.NewReader(answer1K)),
	}, nil
}

// oneToken has the same token for one user, without a lock.
type oneToken struct{ access *session.Access }

func (t oneToken) Token(context.Context, session.Key) (*session.Access, session.Lookup, error) {
	return t.access, session.FromCache, nil
}

func (t oneToken) ReplaceRefused(context.Context, session.Key, int64) (*session.Access, error) {
	return t.access, nil
}

// nullWriter is a ResponseWriter that keeps nothing.
type nullWriter struct{ header http.Header }

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) WriteHeader(int)             {}
func (w *nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *nullWriter) Flush()                      {}

func benchAccess() *session.Access { return session.NewAccess(benchSession()) }

func benchSession() *session.Session {
	return &session.Session{
		Key: session.Key{AppID: "cli_a", OpenID: "ou_1"}, State: session.Active, TokenType: "Bearer",
		AccessToken: session.NewSecret(string(bytes.Repeat([]byte("t"), 1500))),
		IssuedAt:    time.Now(), ExpiresAt: time.Now().Add(time.Hour), Version: 1,
	}
}

func benchProxy(tb testing.TB) http.Handler {
	upstream, _ := url.Parse("https://open.feishu.cn")
	h, err := proxy.New(proxy.Config{
		UserTokenRefusal: larkapi.UserTokenRefusal, TenantTokenRefusal: larkapi.TenantTokenRefusal,
		Upstream: upstream, Transport: nullTransport{}, Apps: []string{"cli_a"},
		InjectPaths: []string{"/open-apis/apaas/"}, Tokens: oneToken{benchAccess()},
		ReplayBuffer: 64 << 10,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// bareProxy is what the proxy is measured against: the same forwarding with
// nothing decided.
func bareProxy() http.Handler {
	upstream, _ := url.Parse("https://open.feishu.cn")
	access := benchAccess()
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(upstream)
			pr.Out.Header.Del("X-Lark-User-Id")
			access.Authorize(pr.Out.Header)
		},
		Transport:  nullTransport{},
		BufferPool: &pool{},
	}
}

type pool struct{ sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.Pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *pool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }

func benchRequest() *http.Request {
	r := httptest.NewRequest("GET", "/open-apis/apaas/v1/workspaces/w/tables?page_size=20", nil)
	r.Host = "127.0.0.1:8080"
	r.Header = http.Header{
		"X-Lark-User-Id": {"ou_1"}, "User-Agent": {"oapi-sdk-go/v3.12.0"},
		"Accept-Encoding": {"gzip"}, "Content-Type": {"application/json; charset=utf-8"}, "Accept": {"*/*"},
	}
	ctx, cancel := context.WithCancel(context.Background()) // as in a server
	_ = cancel
	return r.WithContext(ctx)
}

func serveOnce(h http.Handler, r *http.Request, w *nullWriter) {
	clear(w.header)
	h.ServeHTTP(w, r)
}

func bench(b *testing.B, h http.Handler) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r, w := benchRequest(), &nullWriter{http.Header{}}
		for pb.Next() {
			serveOnce(h, r, w)
		}
	})
}

func BenchmarkProxy(b *testing.B)            { bench(b, benchProxy(b)) }
func BenchmarkBareReverseProxy(b *testing.B) { bench(b, bareProxy()) }

// BenchmarkProxyTelemetry is BenchmarkProxy with metrics on and one trace in a
// hundred recorded, the default.
func BenchmarkProxyTelemetry(b *testing.B) {
	sampled(b)
	bench(b, benchProxy(b))
}

// The hop must stay cheap: what the hot path allocates beyond a bare
// ReverseProxy is counted, with metrics and traces on too.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools forget")
	}
	count := func(h http.Handler, more int) float64 {
		r, w := benchRequest(), &nullWriter{http.Header{}}
		for i := range more {
			r.Header[fmt.Sprint("X-More-", i)] = []string{"value"}
		}
		serveOnce(h, r, w)
		return testing.AllocsPerRun(500, func() { serveOnce(h, r, w) })
	}
	const most = 6
	check := func(t *testing.T) {
		few, many := count(benchProxy(t), 0)-count(bareProxy(), 0), count(benchProxy(t), 40)-count(bareProxy(), 40)
		t.Logf("%v allocations more than a bare ReverseProxy, %v with 40 headers more", few, many)
		if few > most || many > few+1 {
			t.Errorf("%v allocations more than a bare ReverseProxy, want at most %d; %v with 40 headers more", few, most, many)
		}
	}
	t.Run("telemetry off", check)
	t.Run("telemetry on", func(t *testing.T) {
		sampled(t)
		check(t)
	})
}

// sampled turns metrics on and records one trace in a hundred.
func sampled(tb testing.TB) {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(.01)))))
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())))
	tb.Cleanup(func() {
		otel.SetTracerProvider(tracenoop.NewTracerProvider())
		otel.SetMeterProvider(metricnoop.NewMeterProvider())
	})
}
