package telemetry_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"larkside/telemetry"
)

// clearOTel makes the test independent of the developer's own OTEL_* variables.
func clearOTel(t *testing.T) {
	for _, name := range []string{"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_SERVICE_NAME",
		"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
		"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"} {
		t.Setenv(name, "")
	}
}

func start(t *testing.T, cfg telemetry.Config) (stop func(), metrics http.Handler) {
	t.Helper()
	stopAll, metrics, err := telemetry.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := stopAll(t.Context()); err != nil {
			t.Error(err)
		}
	}
	return stop, metrics
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// The names that dashboards are built on are the contract's.
func TestPrometheusNames(t *testing.T) {
	clearOTel(t)
	stop, metrics := start(t, telemetry.Config{Version: "v1.2.3", Revision: "abc", GoVersion: "go1.26"})
	defer stop()
	meter := otel.Meter("larkside/test")

	duration, _ := meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s"))
	duration.Record(t.Context(), 0.2, metric.WithAttributes(
		telemetry.HTTPMethod.String("GET"), telemetry.HTTPRoute.String("other"), telemetry.HTTPStatus.Int(200),
		telemetry.Outcome.String("forwarded"), telemetry.Caller.String("")))
	lookups, _ := meter.Int64Counter("larkside.token.lookups")
	lookups.Add(t.Context(), 1, metric.WithAttributes(telemetry.Result.String("cache")))
	entries, _ := meter.Int64Gauge("larkside.cache.entries")
	entries.Record(t.Context(), 7)

	got := scrape(t, metrics)
	for _, want := range []string{
		`http_server_request_duration_seconds_count{caller="",http_request_method="GET",http_response_status_code="200",http_route="other",outcome="forwarded"} 1`,
		`larkside_token_lookups_total{result="cache"} 1`,
		`larkside_cache_entries 7`,
		`larkside_build_info{goversion="go1.26",revision="abc",version="v1.2.3"} 1`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if strings.Contains(got, "otel_scope") {
		t.Error("scope labels double every query's labels")
	}
}

// A caller that invents ids must not be able to fill the memory.
func TestSeriesAreLimited(t *testing.T) {
	clearOTel(t)
	stop, metrics := start(t, telemetry.Config{SeriesLimit: 10})
	defer stop()
	counter, _ := otel.Meter("larkside/test").Int64Counter("larkside.many")
	for i := range 1000 {
		counter.Add(t.Context(), 1, metric.WithAttributes(attribute.Int("i", i)))
	}
	got := scrape(t, metrics)
	if n := strings.Count(got, "larkside_many_total{"); n != 10 {
		t.Errorf("%d series, want 10", n)
	}
	if !strings.Contains(got, `larkside_many_total{otel_metric_overflow="true"} 991`) {
		t.Error("what comes after the limit is not counted")
	}
}

func TestTracesAreOffUntilAsked(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		env      map[string]string
	}{
		{"nothing is set", nil},
		{"the exporter is none although an endpoint is set", map[string]string{
			"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}},
		{"the SDK is disabled although an endpoint is set", map[string]string{
			"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			clearOTel(t)
			for name, value := range tc.env {
				t.Setenv(name, value)
			}
			stop, metrics := start(t, telemetry.Config{})
			defer stop()
			_, span := otel.Tracer("larkside/test").Start(t.Context(), "x")
			if span.IsRecording() || span.SpanContext().IsValid() {
				t.Error("a span records")
			}
			if !strings.Contains(scrape(t, metrics), "larkside_build_info") {
				t.Error("/metrics went away with the traces")
			}
		})
	}
}

// collector is an OTLP/HTTP receiver that keeps what it decoded.
type collector struct {
	traces  chan *coltracepb.ExportTraceServiceRequest
	metrics chan *colmetricpb.ExportMetricsServiceRequest
}

func newCollector(t *testing.T) (*collector, string) {
	c := &collector{make(chan *coltracepb.ExportTraceServiceRequest, 16), make(chan *colmetricpb.ExportMetricsServiceRequest, 16)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/v1/traces":
			message := &coltracepb.ExportTraceServiceRequest{}
			if err := proto.Unmarshal(body, message); err != nil {
				t.Error(err)
			}
			c.traces <- message
		case "/v1/metrics":
			message := &colmetricpb.ExportMetricsServiceRequest{}
			if err := proto.Unmarshal(body, message); err != nil {
				t.Error(err)
			}
			c.metrics <- message
		default:
			t.Errorf("export to %s", r.URL.Path)
		}
	}))
	t.Cleanup(server.Close)
	return c, server.URL
}

// An endpoint is all that has to be set; both signals arrive by the time stop
// returns, under the name of the service.
func TestOTLPExport(t *testing.T) {
	clearOTel(t)
	received, url := newCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")

	stop, metrics := start(t, telemetry.Config{Version: "v9"})
	_, span := otel.Tracer("larkside/test").Start(t.Context(), "token.lookup")
	if !span.IsRecording() {
		t.Error("the span does not record")
	}
	span.End()
	counter, _ := otel.Meter("larkside/test").Int64Counter("larkside.cards")
	counter.Add(t.Context(), 1)
	if !strings.Contains(scrape(t, metrics), "larkside_cards_total 1") {
		t.Error("with OTLP, Prometheus lost the metric")
	}
	stop()

	resources := (<-received.traces).ResourceSpans
	if got := resources[0].ScopeSpans[0].Spans[0].Name; got != "token.lookup" {
		t.Errorf("exported span %q", got)
	}
	attributes := map[string]string{}
	for _, a := range resources[0].Resource.Attributes {
		attributes[a.Key] = a.Value.GetStringValue()
	}
	for key, want := range map[string]string{
		"service.name": "larkside", "service.version": "v9", "deployment.environment.name": "staging"} {
		if attributes[key] != want {
			t.Errorf("resource %s = %q, want %q", key, attributes[key], want)
		}
	}
	if !strings.Contains((<-received.metrics).String(), "larkside.cards") {
		t.Error("the metric was not exported")
	}
}

func TestServiceNameFromEnvironmentWins(t *testing.T) {
	clearOTel(t)
	received, url := newCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url+"/v1/traces")
	t.Setenv("OTEL_SERVICE_NAME", "sales-bot-sidecar")
	stop, _ := start(t, telemetry.Config{})
	_, span := otel.Tracer("larkside/test").Start(t.Context(), "x")
	span.End()
	stop()
	if got := (<-received.traces).String(); !strings.Contains(got, "sales-bot-sidecar") {
		t.Errorf("OTEL_SERVICE_NAME is not in %s", got)
	}
	if len(received.metrics) != 0 {
		t.Error("metrics went to an endpoint for traces only")
	}
}

// The app decides for its own traces, the ratio for those that begin here.
func TestSamplerFromEnvironment(t *testing.T) {
	none := func(t *testing.T) context.Context { return t.Context() }
	app := func(flags trace.TraceFlags) func(*testing.T) context.Context {
		return func(t *testing.T) context.Context {
			return trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true}))
		}
	}
	for _, tc := range []struct {
		sampler, ratio string
		parent         func(*testing.T) context.Context
		want           bool
	}{
		{"", "", none, true},
		{"", "", app(0), false},
		{"always_off", "", none, false},
		{"parentbased_traceidratio", "1", none, true},
		{"parentbased_traceidratio", "0", none, false},
		{"parentbased_traceidratio", "0", app(trace.FlagsSampled), true},
	} {
		clearOTel(t)
		_, url := newCollector(t)
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url+"/v1/traces")
		t.Setenv("OTEL_TRACES_SAMPLER", tc.sampler)
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", tc.ratio)
		stop, _ := start(t, telemetry.Config{})
		_, span := otel.Tracer("larkside/test").Start(tc.parent(t), "x")
		if got := span.SpanContext().IsSampled(); got != tc.want {
			t.Errorf("OTEL_TRACES_SAMPLER=%s and _ARG=%s: sampled %v, want %v", tc.sampler, tc.ratio, got, tc.want)
		}
		span.End()
		stop()
	}
}

// "prometheus" is what /metrics is; a second listener would surprise.
func TestMetricsExporterPrometheusOpensNothing(t *testing.T) {
	clearOTel(t)
	t.Setenv("OTEL_METRICS_EXPORTER", "prometheus")
	t.Setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "-1") // would fail if it were opened
	stop, _ := start(t, telemetry.Config{})
	stop()
}

func TestUnknownExporterIsRefused(t *testing.T) {
	for _, signal := range []string{"TRACES", "METRICS"} {
		clearOTel(t)
		t.Setenv("OTEL_"+signal+"_EXPORTER", "jager")
		_, _, err := telemetry.Start(t.Context(), telemetry.Config{})
		if err == nil || !strings.Contains(err.Error(), "OTEL_"+signal+"_EXPORTER") || !strings.Contains(err.Error(), "jager") {
			t.Errorf("%s: error %v names neither the variable nor the value", signal, err)
		}
	}
}

func TestUnknownProtocolIsRefused(t *testing.T) {
	for _, signal := range []string{"TRACES", "METRICS"} {
		clearOTel(t)
		t.Setenv("OTEL_"+signal+"_EXPORTER", "otlp")
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
		_, _, err := telemetry.Start(t.Context(), telemetry.Config{})
		for _, want := range []string{`OTEL_EXPORTER_OTLP_PROTOCOL="http/json"`, "grpc", "http/protobuf"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want the variable, its value, and what it can be", signal, err)
			}
		}
	}
}

func BenchmarkSpanWhenOff(b *testing.B) {
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		b.Setenv(name, "")
	}
	stop, _, err := telemetry.Start(b.Context(), telemetry.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer stop(b.Context())
	tracer := otel.Tracer("larkside/test")
	b.ReportAllocs()
	for i := range b.N {
		_, span := tracer.Start(b.Context(), "x")
		if span.IsRecording() {
			span.SetAttributes(attribute.String("i", strconv.Itoa(i)))
		}
		span.End()
	}
}
