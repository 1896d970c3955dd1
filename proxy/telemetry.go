package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
)

// Spans and metrics follow the HTTP semantic conventions of OpenTelemetry
// 1.43.0, written by hand: otelhttp on this path was measured to cost a
// quarter of the throughput.

const scope = "larkside/proxy"

// statusClientGone is what is recorded, never sent, when the caller hung up
// before an answer; the number is nginx's.
const statusClientGone = 499

// maxSeries bounds the cache of attribute sets. Methods, routes, outcomes and
// callers are few; statuses are Lark's.
const maxSeries = 4096

type telemetry struct {
	cfg     Config
	tracer  trace.Tracer
	latency metric.Float64Histogram
	lookups metric.Int64Counter
	byFound map[session.Lookup][]metric.AddOption

	// series is replaced, never changed, so that reading it takes no lock.
	series atomic.Pointer[map[labels][]metric.RecordOption]
	mu     sync.Mutex // for replacing series
}

// labels are one series of the latency histogram.
type labels struct {
	method, route string
	status        int
	outcome       Outcome
	caller        string
}

func newTelemetry(c Config) (*telemetry, error) {
	meter := otel.Meter(scope)
	latency, err1 := meter.Float64Histogram("http.server.request.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of HTTP server requests."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10))
	lookups, err2 := meter.Int64Counter("larkside.token.lookups",
		metric.WithUnit("{lookup}"), metric.WithDescription("Where the tokens of requests were found."))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("creating instruments: %w", err)
	}
	t := &telemetry{cfg: c, tracer: otel.Tracer(scope), latency: latency, lookups: lookups,
		byFound: make(map[session.Lookup][]metric.AddOption)}
	for _, l := range []session.Lookup{session.FromCache, session.FromDatabase, session.Refreshed, session.Waited, session.Missing} {
		t.byFound[l] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("result", string(l))))}
	}
	t.series.Store(new(map[labels][]metric.RecordOption))
	return t, nil
}

// serverSpan and clientSpan are the options of every such span; attributes
// are added to recorded ones only.
var (
	serverSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}
	clientSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}
)

// begin makes the exchange of a request.
func (p *proxy) begin(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{started: time.Now(), method: r.Method, w: writer{ResponseWriter: w}}
	ctx := r.Context()
	if len(r.Header["Traceparent"]) > 0 {
		ctx = otel.GetTextMapPropagator().Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	x.Context, x.span = p.telemetry.tracer.Start(ctx, method(r.Method), serverSpan...)
	x.in = r.WithContext(x)
	if _, ok := r.Header["Upgrade"]; ok {
		// Stripped in any case; ReverseProxy fails on some values before that.
		x.in.Header = r.Header.Clone()
		delete(x.in.Header, "Upgrade")
	}
	return x
}

// end records how the request went. It runs also when the handler panics,
// which is how net/http breaks off an answer.
func (p *proxy) end(x *exchange) {
	x.upload.close()
	if x.peek != nil {
		p.peeks.put(x.peek)
	}
	status := x.w.status
	if !x.done {
		status = x.aborted()
	}
	l := labels{method(x.in.Method), p.route(x), status, x.outcome, x.caller}
	took := time.Since(x.started)
	p.telemetry.latency.Record(x, took.Seconds(), p.telemetry.options(l)...)
	p.telemetry.endServer(x, l)
	if p.cfg.AccessLog {
		p.log.LogAttrs(x, slog.LevelInfo, "request",
			slog.String("method", l.method), slog.String("route", l.route), slog.Int("status", l.status),
			slog.String("outcome", string(l.outcome)), slog.String("caller", l.caller), slog.Duration("duration", took))
	}
}

// aborted sets the outcome of an answer that broke off, and returns the status
// to record: what was sent, or what would have been.
func (x *exchange) aborted() int {
	if x.outcome != ClientGone {
		x.outcome = Aborted
		if x.Err() != nil {
			x.outcome = ClientGone
		}
	}
	switch {
	case x.w.status != 0:
		return x.w.status
	case x.outcome == ClientGone:
		return statusClientGone
	}
	return http.StatusInternalServerError
}

// route is the template of x's path, out of a bounded set.
func (p *proxy) route(x *exchange) string {
	switch {
	case x.path == "":
		return "other"
	case p.cfg.Route != nil:
		return p.cfg.Route(x.in.Method, x.path)
	}
	if i := matchAny(p.cfg.InjectPaths, x.path); i >= 0 {
		return p.cfg.InjectPaths[i]
	}
	return "other"
}

// method is m as a label: an unknown one must not make a series.
func method(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE":
		return m
	}
	return "_OTHER"
}

// options returns the attribute set of l, built once.
func (t *telemetry) options(l labels) []metric.RecordOption {
	if o, ok := (*t.series.Load())[l]; ok {
		return o
	}
	set := attribute.NewSet(
		semconv.HTTPRequestMethodKey.String(l.method), semconv.HTTPRoute(l.route),
		semconv.HTTPResponseStatusCode(l.status),
		attribute.String("outcome", string(l.outcome)), attribute.String("caller", l.caller))
	o := []metric.RecordOption{metric.WithAttributeSet(set)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := *t.series.Load(); len(old) < maxSeries {
		next := maps.Clone(old)
		if next == nil {
			next = make(map[labels][]metric.RecordOption)
		}
		next[l] = o
		t.series.Store(&next)
	}
	return o
}

func (t *telemetry) endServer(x *exchange, l labels) {
	if x.span.IsRecording() {
		x.span.SetName(l.method + " " + l.route)
		x.span.SetAttributes(semconv.HTTPRequestMethodKey.String(l.method), semconv.HTTPRoute(l.route),
			semconv.HTTPResponseStatusCode(l.status), attribute.String("larkside.outcome", string(l.outcome)))
		if l.caller != "" {
			x.span.SetAttributes(attribute.String("larkside.caller", l.caller))
		}
		if x.lookup != "" {
			x.span.SetAttributes(attribute.String("larkside.token.lookup", string(x.lookup)))
		}
		if t.cfg.UserAttr != nil && x.key.OpenID != "" {
			if user := t.cfg.UserAttr(x.key); user != "" {
				x.span.SetAttributes(attribute.String("larkside.user", user))
			}
		}
		// Conventions: of a server span only 5xx is an error.
		if l.status >= 500 || !x.done {
			x.span.SetAttributes(semconv.ErrorTypeKey.String(string(l.outcome)))
			x.span.SetStatus(codes.Error, "")
		}
	}
	x.span.End()
}

// token asks tokens for x's token and counts where it was.
func (t *telemetry) token(x *exchange, tokens TokenSource) (*session.Access, session.Lookup, error) {
	var ctx context.Context = x
	var span trace.Span
	if x.span.IsRecording() {
		ctx, span = t.tracer.Start(x, "token.lookup")
		defer span.End()
	}
	access, lookup, err := tokens.Token(ctx, x.key)
	if err != nil {
		lookup = session.Missing
	}
	if span != nil {
		span.SetAttributes(attribute.String("result", string(lookup)))
		if err != nil {
			span.SetStatus(codes.Error, "")
		}
	}
	t.lookups.Add(x, 1, t.byFound[lookup]...)
	return access, lookup, err
}

// startAttempt begins the client span of one request to Lark, and puts it into
// the request's context. It returns nil when nothing is recorded.
func (t *telemetry) startAttempt(x *exchange, out **http.Request) trace.Span {
	ctx := (*out).Context()
	var span trace.Span
	if x.span.IsRecording() {
		ctx, span = t.tracer.Start(ctx, method(x.in.Method), clientSpan...)
		span.SetAttributes(semconv.HTTPRequestMethodKey.String(method(x.in.Method)),
			semconv.ServerAddress((*out).URL.Hostname()), semconv.URLScheme((*out).URL.Scheme))
		*out = (*out).WithContext(ctx)
	}
	if t.cfg.PropagateTrace {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier((*out).Header))
	}
	return span
}

func (t *telemetry) endAttempt(x *exchange, span trace.Span, res *http.Response, found larkError, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
		span.SetStatus(codes.Error, "")
	} else {
		span.SetAttributes(semconv.HTTPResponseStatusCode(res.StatusCode))
		if id := res.Header.Get("X-Tt-Logid"); id != "" {
			span.SetAttributes(attribute.String("lark.log_id", id))
		}
		if found.Code != 0 {
			span.SetAttributes(attribute.Int("lark.code", found.Code))
		}
		// Conventions: of a client span 4xx is an error too.
		if res.StatusCode >= 400 {
			span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(res.StatusCode)))
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}

func errorType(err error) string {
	var row *Failure
	switch {
	case errors.As(err, &row):
		return row.Name
	case errors.Is(err, context.Canceled):
		return string(ClientGone)
	}
	return "_OTHER"
}
