package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"larkside/proxy"
	"larkside/session"
	larkapi "larkside/session/lark"
	"larkside/telemetry"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// record puts recording providers in place for one test.
func record(t *testing.T) (*tracetest.SpanRecorder, *metric.ManualReader) {
	spans, reader := tracetest.NewSpanRecorder(), metric.NewManualReader()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	t.Cleanup(func() {
		otel.SetTracerProvider(tracenoop.NewTracerProvider())
		otel.SetMeterProvider(metricnoop.NewMeterProvider())
		otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator())
	})
	return spans, reader
}

// The first meter provider that is set takes over what was made before it, with the
// callbacks of every proxy of an earlier test. That must not be a provider whose
// series a test looks at.
func TestMain(m *testing.M) {
	otel.SetMeterProvider(metricnoop.NewMeterProvider())
	os.Exit(m.Run())
}

// ended waits for n spans: a span ends after its answer was sent.
func ended(t *testing.T, spans *tracetest.SpanRecorder, n int) map[string]sdktrace.ReadOnlySpan {
	t.Helper()
	eventually(t, func() bool { return len(spans.Ended()) >= n })
	byName := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		byName[fmt.Sprint(s.SpanKind(), " ", s.Name())] = s
	}
	return byName
}

func attributes(kv []attribute.KeyValue) string {
	var all []string
	for _, a := range kv {
		all = append(all, fmt.Sprintf("%s=%s", a.Key, a.Value.String()))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestSpans(t *testing.T) {
	spans, _ := record(t)
	b := start(t, func(c *proxy.Config) {
		c.Route = func(method, path string) string { return "/tables" }
		c.UserAttr = func(session.Key) string { return "hash" }
	})
	b.get(table, "Traceparent: "+parent, "Baggage: secret=1")
	byName := ended(t, spans, 4)
	server, client, lookup := byName["server GET /tables"], byName["client GET /tables"], byName["internal token.lookup"]
	identify := byName["internal identify"]
	if server == nil || client == nil || lookup == nil || identify == nil {
		t.Fatalf("spans %v", byName)
	}
	if got := server.Parent().TraceID().String(); got != parent[3:35] {
		t.Errorf("trace %s", got)
	}
	if client.Parent().SpanID() != server.SpanContext().SpanID() || lookup.Parent().SpanID() != server.SpanContext().SpanID() {
		t.Error("spans are not children of the server span")
	}
	if got, want := attributes(identify.Attributes()), "lark.app_id=cli_a larkside.user.id_kind=open_id larkside.user=hash"; got != want {
		t.Errorf("identify: %s, want %s", got, want)
	}
	if got, want := attributes(server.Attributes()), "http.request.method=GET http.response.status_code=200 http.route=/tables "+
		"lark.app_id=cli_a larkside.outcome=proxied larkside.token.lookup=cache larkside.user=hash"; got != want {
		t.Errorf("server span: %s, want %s", got, want)
	}
	if got := attributes(client.Attributes()); !strings.Contains(got, "lark.log_id=log-1") || !strings.Contains(got, "http.response.status_code=200") {
		t.Errorf("client span: %s", got)
	}
	if got := b.lark.one(t); got.header.Get("Traceparent")+got.header.Get("Baggage") != "" {
		t.Error("the trace went to Lark unasked")
	}
}

func TestSpansOfFailures(t *testing.T) {
	spans, _ := record(t)
	b := start(t, nil)
	b.refuses(2, 400, invalidToken)
	b.get(table)
	ended(t, spans, 5)
	var coded []string
	for _, s := range spans.Ended() {
		if a := attributes(s.Attributes()); strings.Contains(a, "lark.code=99991668") {
			coded = append(coded, a)
		}
		if strings.Contains(fmt.Sprint(s.Attributes(), s.Events(), s.Status()), "ou_1") {
			t.Errorf("a user or a token in span %s", s.Name())
		}
	}
	if len(coded) != 1 {
		t.Errorf("Lark's code is in %d spans", len(coded))
	}

	spans.Reset()
	b = start(t, func(c *proxy.Config) { c.Upstream = nobody(t) })
	b.get(table)
	server := ended(t, spans, 4)["server GET /open-apis/apaas/"]
	if server == nil || server.Status().Code != codes.Error || !strings.Contains(attributes(server.Attributes()), "error.type=upstream_unreachable") {
		t.Errorf("server span %+v", server)
	}
}

// OTLP's strings are UTF-8, and an exporter drops the whole batch for one that
// isn't. A header's bytes are any bytes.
func TestSpanTextIsUTF8(t *testing.T) {
	spans, _ := record(t)
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Tt-Logid", "log-\xff") })
	b.get(table)
	client := ended(t, spans, 4)["client GET /open-apis/apaas/"]
	if got := attributes(client.Attributes()); !strings.Contains(got, "lark.log_id=log-\ufffd") {
		t.Errorf("client span: %s", got)
	}
}

func TestPropagateTrace(t *testing.T) {
	spans, _ := record(t)
	b := start(t, func(c *proxy.Config) { c.PropagateTrace = true })
	b.get(table, "Traceparent: "+parent, "Tracestate: a=b", "Baggage: secret=1")
	client := ended(t, spans, 4)["client GET /open-apis/apaas/"]
	got := b.lark.one(t).header
	want := fmt.Sprintf("00-%s-%s-01", parent[3:35], client.SpanContext().SpanID())
	if got.Get("Traceparent") != want || got.Get("Tracestate") != "a=b" || got.Get("Baggage") != "" {
		t.Errorf("Lark saw %q %q %q, want %q", got.Get("Traceparent"), got.Get("Tracestate"), got.Get("Baggage"), want)
	}
}

// series returns the label sets of an instrument.
func series(t *testing.T, reader *metric.ManualReader, name string) []string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var sets []string
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					sets = append(sets, attributes(p.Attributes.ToSlice()))
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					sets = append(sets, attributes(p.Attributes.ToSlice()))
				}
			}
		}
	}
	slices.Sort(sets)
	return sets
}

// What anyone can send makes no new series.
func TestMetrics(t *testing.T) {
	_, reader := record(t)
	b := start(t, func(c *proxy.Config) {
		c.CallerKeys = func() []proxy.Caller { return []proxy.Caller{{Name: "web", Key: session.NewSecret("k")}} }
	})
	for i := range 10 { // fewer wrong keys than are answered with 429
		b.tokens.grant(fmt.Sprint("ou_", i))
		b.raw(fmt.Sprintf("GET %s/%d?q=%d HTTP/1.1", table, i, i), fmt.Sprint("X-Lark-User-Id: ou_", i), "X-Larkside-Key: k")
		b.raw(fmt.Sprintf("X%d /nowhere/%d HTTP/1.1", i, i), "Authorization: Bearer own", "X-Larkside-Key: k")
		b.raw(fmt.Sprintf("GET /nowhere/%d HTTP/1.1", i), "X-Larkside-Key: wrong")
		b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "X-Larkside-Key: k")
	}
	want := []string{
		"caller= http.request.method=GET http.response.status_code=401 http.route=other outcome=caller_unauthenticated",
		"caller=web http.request.method=GET http.response.status_code=200 http.route=/open-apis/apaas/ outcome=proxied",
		"caller=web http.request.method=GET http.response.status_code=401 http.route=/open-apis/apaas/ outcome=authorization_required",
		"caller=web http.request.method=_OTHER http.response.status_code=200 http.route=other outcome=passed_through",
	}
	var got []string
	eventually(t, func() bool {
		got = series(t, reader, "http.server.request.duration")
		return slices.Equal(got, want)
	}, func() { t.Errorf("series %q", got) })
	if got := series(t, reader, "larkside.token.lookups"); !slices.Equal(got, []string{"result=cache", "result=missing"}) {
		t.Errorf("lookups %q", got)
	}
}

// anyToken has a token for whoever is asked about.
type anyToken struct{ oneToken }

func (anyToken) Token(_ context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	s := *benchSession()
	s.Key = key
	return session.NewAccess(&s), session.FromCache, nil
}

// Ten thousand users on ten thousand paths, known and invented, leave the number
// of series as it is: templates are Lark's.
func TestSeriesStayFew(t *testing.T) {
	_, reader := record(t)
	upstream, err := url.Parse("https://open.feishu.cn")
	if err != nil {
		t.Fatal(err)
	}
	routes := larkapi.NewRoutes()
	h, err := proxy.New(proxy.Config{
		UserTokenRefusal: larkapi.UserTokenRefusal, TenantTokenRefusal: larkapi.TenantTokenRefusal,
		Upstream: upstream, Transport: nullTransport{}, Apps: []string{"cli_a"}, InjectPaths: []string{"/"}, Tokens: anyToken{},
		Route: func(method, path string) string {
			if template, ok := routes.Match(method, path); ok {
				return template
			}
			return "other"
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{
		"/open-apis/contact/v3/users/ou_%d", "/open-apis/apaas/v1/workspaces/w%d/tables/t%[1]d/records",
		"/open-apis/contact/v3/users/ou_%d/x%[1]d", "/nowhere/%d?q=%[1]d", "/open-apis/contact/v3/users/%%2e%d",
	}
	send := func(from, to int) []string {
		for i := from; i < to; i++ {
			r := httptest.NewRequest("GET", fmt.Sprintf(paths[i%len(paths)], i), nil)
			r.Host = "127.0.0.1:8080"
			if i%2 == 1 {
				r.Method = fmt.Sprint("BREW", i)
			}
			r.Header.Set("X-Lark-User-Id", fmt.Sprint("ou_", i))
			h.ServeHTTP(&nullWriter{http.Header{}}, r)
		}
		return series(t, reader, "http.server.request.duration")
	}
	few := send(0, 100)
	many := send(100, 10_000)
	if !slices.Equal(few, many) {
		t.Errorf("from %d series to %d, the last %s", len(few), len(many), many[len(many)-1])
	}
	for _, want := range []string{"http.route=/open-apis/contact/v3/users/:user_id ", "http.route=/open-apis/apaas/v1/workspaces/:workspace_id/tables/:table_name/records ", "http.route=other "} {
		if !strings.Contains(strings.Join(few, "\n"), want) {
			t.Errorf("no series with %s: %q", want, few)
		}
	}
}

// How requests end is told apart, those that break off too.
func TestOutcomes(t *testing.T) {
	_, reader := record(t)
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("do") {
		case "abort":
			w.Header().Set("Content-Length", "100")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "hint":
			w.WriteHeader(400)
			fmt.Fprint(w, notForUsers)
		}
	})
	conn := b.dial()
	fmt.Fprintf(conn, "GET %s?do=abort HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\n\r\n", table, b.addr)
	buf := make([]byte, 1<<10)
	for err := error(nil); err == nil; _, err = conn.Read(buf) {
	}
	conn = b.dial()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 9\r\n\r\nabc", table, b.addr)
	conn.Close()
	b.get(table + "?do=hint")
	b.raw("GET " + pathIM + " HTTP/1.1")
	b.post("/open-apis/auth/v3/tenant_access_token/internal", `{"app_secret":"larkside"}`)
	b.authz().get("/-/larkside/authz" + table)
	eventually(t, func() bool {
		text := strings.Join(series(t, reader, "http.server.request.duration"), "\n")
		for _, want := range []string{
			"status_code=200 http.route=/open-apis/apaas/ outcome=aborted", "status_code=499 http.route=/open-apis/apaas/ outcome=client_gone",
			"outcome=wrong_token_kind", "outcome=tenant_token", "outcome=answered_here", "outcome=authorized",
		} {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return true
	}, func() { t.Errorf("series %s", strings.Join(series(t, reader, "http.server.request.duration"), "\n")) })
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// What an app was told, the log lines and the span of one request have the same
// id. Answers of Lark's have none.
func TestRequestIDs(t *testing.T) {
	spans, _ := record(t)
	var log lines
	handler, err := telemetry.NewHandler(&log, telemetry.FormatText, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, func(c *proxy.Config) { c.AccessLog, c.Log = true, slog.New(handler) })
	b.asker.err = errors.New("chat is down")
	refused := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "X-Larkside-Request-Id: FORGED")
	refused.isError(t, 401, "authorization_required")
	id := refused.Header.Get("X-Larkside-Request-Id")
	other := b.authz().raw("GET /-/larkside/authz/open-apis/x HTTP/1.1", "X-Lark-User-Id: ou_1")
	other.isError(t, 403, "path_not_allowed")
	placeholder := b.raw("POST /open-apis/auth/v3/tenant_access_token/internal HTTP/1.1", "Content-Length: 25\r\n\r\n"+`{"app_secret":"larkside"}`)
	seen := []string{id, other.Header.Get("X-Larkside-Request-Id"), placeholder.Header.Get("X-Larkside-Request-Id")}
	if slices.Sort(seen); seen[0] == "" || len(slices.Compact(seen)) != 3 {
		t.Errorf("ids %q", seen)
	}
	if a := b.get(table); a.StatusCode != 200 || a.Header.Get("X-Larkside-Request-Id") != "" {
		t.Errorf("answer %d of Lark's with id %q", a.StatusCode, a.Header.Get("X-Larkside-Request-Id"))
	}
	ended(t, spans, 4)
	eventually(t, func() bool {
		n := 0
		for _, s := range spans.Ended() {
			if strings.Contains(attributes(s.Attributes()), "larkside.request_id="+id) {
				n++
			}
		}
		return n == 1
	})
	eventually(t, func() bool { return strings.Count(log.String(), "\n") == 5 }) // four requests, one complaint
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "request_id=") || strings.Contains(line, "FORGED") {
			t.Errorf("line %s", line)
		}
	}
	if n := strings.Count(log.String(), "request_id="+id); n != 2 {
		t.Errorf("%d lines of the request, want the complaint and the access log's:\n%s", n, log.String())
	}
}

func TestAccessLog(t *testing.T) {
	for _, on := range []bool{false, true} {
		var log lines
		b := start(t, func(c *proxy.Config) {
			c.AccessLog = on
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		b.get(table + "?secret=query")
		if !on {
			b.get(table)
			if log.String() != "" {
				t.Errorf("logged %s", log.String())
			}
			continue
		}
		eventually(t, func() bool { return strings.Contains(log.String(), "\n") })
		line := log.String()
		for _, want := range []string{"level=INFO", "method=GET", "route=/open-apis/apaas/", "status=200", "outcome=proxied", "duration_seconds=0.0"} {
			if !strings.Contains(line, want) {
				t.Errorf("%s is missing in %s", want, line)
			}
		}
		for _, not := range []string{"secret", "ou_1"} {
			if strings.Contains(line, not) {
				t.Errorf("%s is in %s", not, line)
			}
		}
	}
}

// Nothing secret is in a log at debug level, whatever goes wrong.
func TestLogsHoldNoSecrets(t *testing.T) {
	var log lines
	b := start(t, func(c *proxy.Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	conn := b.dial()
	fmt.Fprintf(conn, "GET %s?q=canary HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nAuthorization: Bearer canary\r\n\r\n", table, b.addr)
	buf := make([]byte, 1<<10)
	for err := error(nil); err == nil; _, err = conn.Read(buf) {
	}
	eventually(t, func() bool { return log.String() != "" })
	for _, secret := range []string{"canary", token("ou_1", 1)} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%s is in the log: %s", secret, log.String())
		}
	}
}
