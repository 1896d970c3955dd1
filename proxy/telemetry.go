package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/telemetry"
)

// Spans and metrics follow the HTTP semantic conventions of OpenTelemetry
// 1.43.0, written by hand: otelhttp on this path was measured to cost a
// quarter of the throughput.

const scope = "larkside/proxy"

// statusClientGone is what is recorded, never sent, when the caller hung up
// before an answer; the number is nginx's.
const statusClientGone = 499

// maxSeries bounds the cache of attribute sets. It is more than the series that
// the SDK keeps (telemetry), so what is beyond it is one series anyway.
const maxSeries = 4096

type instruments struct {
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

func newInstruments(c Config, waiting chan struct{}) (*instruments, error) {
	meter := otel.Meter(scope)
	latency, err1 := meter.Float64Histogram("http.server.request.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of HTTP server requests."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10))
	lookups, err2 := meter.Int64Counter("larkside.token.lookups",
		metric.WithUnit("{lookup}"), metric.WithDescription("Where the tokens of requests were found."))
	_, err3 := meter.Int64ObservableGauge("larkside.requests.waiting",
		metric.WithUnit("{request}"), metric.WithDescription("Requests that are held until their user decides (Prefer: wait)."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(len(waiting)))
			return nil
		}))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("creating instruments: %w", err)
	}
	t := &instruments{cfg: c, tracer: otel.Tracer(scope), latency: latency, lookups: lookups,
		byFound: make(map[session.Lookup][]metric.AddOption)}
	for _, l := range []session.Lookup{session.FromCache, session.FromDatabase, session.Refreshed, session.Waited, session.Missing} {
		t.byFound[l] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(telemetry.Result.String(string(l))))}
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
	x.w.half = &x.half
	ctx := x.half.outlive(r.Context(), p.cfg.HalfClosePatience)
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
	x.half.done()
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
	if p.cfg.AccessLog {
		x.requestID() // the span, which ends first, is to have it too
	}
	p.telemetry.latency.Record(x, took.Seconds(), p.telemetry.options(l)...)
	p.telemetry.endServer(x, l)
	if p.cfg.AccessLog {
		p.log.LogAttrs(x, slog.LevelInfo, "request",
			slog.String(telemetry.LogMethod, l.method), slog.String(telemetry.LogRoute, l.route), slog.Int(telemetry.LogStatus, l.status),
			slog.String(telemetry.LogOutcome, string(l.outcome)), slog.String(telemetry.LogCaller, l.caller),
			slog.Float64(telemetry.LogDuration, took.Round(time.Microsecond).Seconds()))
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

// otherRoute stands for all paths that are no known operation's.
const otherRoute = "other"

// route is the template of x's path, out of a bounded set.
func (p *proxy) route(x *exchange) string {
	switch {
	case x.path == "":
		return otherRoute
	case p.cfg.Route != nil:
		return p.cfg.Route(x.method, x.path)
	}
	if i := matchAny(p.cfg.InjectPaths, x.path); i >= 0 {
		return p.cfg.InjectPaths[i]
	}
	return otherRoute
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
func (t *instruments) options(l labels) []metric.RecordOption {
	if o, ok := (*t.series.Load())[l]; ok {
		return o
	}
	set := attribute.NewSet(
		telemetry.HTTPMethod.String(l.method), telemetry.HTTPRoute.String(l.route), telemetry.HTTPStatus.Int(l.status),
		telemetry.Outcome.String(string(l.outcome)), telemetry.Caller.String(l.caller))
	o := []metric.RecordOption{metric.WithAttributeSet(set)}
	if len(*t.series.Load()) >= maxSeries {
		return o // and no lock that all requests share
	}
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

func (t *instruments) endServer(x *exchange, l labels) {
	if x.span.IsRecording() {
		failed := l.status >= 400 || !x.done
		t.endIdentify(x, failed)
		x.span.SetName(l.method + " " + l.route)
		all := append(make(attributes, 0, 12), telemetry.HTTPMethod.String(l.method), telemetry.HTTPRoute.String(l.route),
			telemetry.HTTPStatus.Int(l.status), telemetry.RequestOutcome.String(string(l.outcome)))
		all.add(telemetry.RequestCaller, l.caller)
		if id := x.id.Load(); id != nil {
			all.add(telemetry.SpanRequestID, *id)
		}
		all.add(telemetry.AppID, x.app)
		all.add(telemetry.TokenLookup, string(x.lookup))
		all.add(telemetry.Reason, string(x.reason))
		all.add(telemetry.Hint, x.hint)
		all.add(telemetry.User, t.user(x))
		if x.waited {
			all = append(all, telemetry.Waited.Bool(true))
		}
		// Conventions: of a server span only 5xx is an error.
		if l.status >= 500 || !x.done {
			all.add(telemetry.ErrorType, string(l.outcome))
			x.span.SetStatus(codes.Error, "")
		}
		x.span.SetAttributes(all...)
	}
	x.span.End()
}

// attributes are collected and set at once: the SDK makes room at every call.
type attributes []attribute.KeyValue

// add leaves out what is empty.
func (a *attributes) add(key attribute.Key, value string) {
	if value != "" {
		*a = append(*a, key.String(value))
	}
}

// user is how x's user appears in spans, or "".
func (t *instruments) user(x *exchange) string {
	if t.cfg.UserAttr == nil || x.key.OpenID == "" {
		return ""
	}
	if x.shown == "" {
		x.shown = t.cfg.UserAttr(x.key)
	}
	return x.shown
}

// startIdentify begins the span of finding out who calls, for whom, and whether
// they may. It ends when a token is looked for, the request goes out, or it is
// refused.
func (t *instruments) startIdentify(x *exchange) {
	if x.span.IsRecording() {
		x.identifying, _ = t.tracer.Start(x.Context, "identify")
	}
}

func (t *instruments) endIdentify(x *exchange, refused bool) {
	if x.identifying == nil {
		return
	}
	span := trace.SpanFromContext(x.identifying)
	x.identifying = nil
	all := make(attributes, 0, 5)
	all.add(telemetry.RequestCaller, x.caller)
	all.add(telemetry.AppID, x.app)
	all.add(telemetry.User, t.user(x))
	switch h := x.in.Header[userHeader]; {
	case len(h) > 0 && strings.HasPrefix(h[0], "ou_"):
		all.add(telemetry.IDKind, "open_id")
	case len(h) > 0:
		all.add(telemetry.IDKind, "alias")
	}
	if refused {
		all.add(telemetry.ErrorType, string(x.outcome))
		span.SetStatus(codes.Error, "")
	}
	span.SetAttributes(all...)
	span.End()
}

// token asks tokens for x's token and counts where it was.
func (t *instruments) token(x *exchange, tokens TokenSource) (*session.Access, session.Lookup, error) {
	t.endIdentify(x, false)
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
		all := attributes{telemetry.Result.String(string(lookup))}
		if err != nil {
			reason, _ := reasonOf(err)
			all.add(telemetry.Reason, string(reason))
			all.add(telemetry.ErrorType, lookupError(err))
			span.SetStatus(codes.Error, "")
		}
		span.SetAttributes(all...)
	}
	t.lookups.Add(x, 1, t.byFound[lookup]...)
	return access, lookup, err
}

// lookupError is why there is no token, by the name of the answer.
func lookupError(err error) string {
	switch _, asked := reasonOf(err); {
	case asked:
		return edge.AuthorizationRequired.Name
	case errors.Is(err, session.ErrUserDisabled):
		return edge.UserDisabled.Name
	case errors.Is(err, session.ErrAppMisconfigured):
		return edge.AppMisconfigured.Name
	case errors.Is(err, session.ErrRefreshUnavailable):
		return edge.RefreshUnavailable.Name
	case errors.Is(err, session.ErrUnavailable):
		return edge.StoreUnavailable.Name
	}
	return errorType(err)
}

// startAttempt begins the client span of one request to Lark, and puts it into
// the request's context. resend counts from 0. It returns nil when nothing is
// recorded.
func (p *proxy) startAttempt(x *exchange, out **http.Request, resend int) trace.Span {
	t := p.telemetry
	ctx := (*out).Context()
	var span trace.Span
	if x.span.IsRecording() {
		t.endIdentify(x, false)
		name, route, u := method(x.in.Method), p.route(x), (*out).URL
		if route != otherRoute {
			name += " " + route
		}
		ctx, span = t.tracer.Start(ctx, name, clientSpan...)
		all := append(make(attributes, 0, 6), telemetry.HTTPMethod.String(method(x.in.Method)), telemetry.URLTemplate.String(route),
			telemetry.Server.String(u.Hostname()), telemetry.ServerPort.Int(portOf(u)), telemetry.URLScheme.String(u.Scheme))
		if resend > 0 {
			all = append(all, telemetry.HTTPResend.Int(resend))
		}
		span.SetAttributes(all...)
		*out = (*out).WithContext(ctx)
	}
	if t.cfg.PropagateTrace {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier((*out).Header))
	}
	return span
}

func portOf(u *url.URL) int {
	switch port, err := strconv.Atoi(u.Port()); {
	case err == nil:
		return port
	case u.Scheme == "http":
		return 80
	}
	return 443
}

func (t *instruments) endAttempt(span trace.Span, res *http.Response, found larkError, err error) {
	if span == nil {
		return
	}
	var all attributes
	if err != nil {
		all.add(telemetry.ErrorType, errorType(err))
		span.SetStatus(codes.Error, "")
	} else {
		all = append(make(attributes, 0, 4), telemetry.HTTPStatus.Int(res.StatusCode))
		// OTLP's strings are UTF-8, unlike the bytes of a header. An exporter drops
		// the whole batch for one that isn't.
		all.add(telemetry.LarkLogID, strings.ToValidUTF8(res.Header.Get("X-Tt-Logid"), "\uFFFD"))
		if found.Code != 0 {
			all = append(all, telemetry.LarkCode.Int(found.Code))
		}
		// Conventions: of a client span 4xx is an error too.
		if res.StatusCode >= 400 {
			all.add(telemetry.ErrorType, strconv.Itoa(res.StatusCode))
			span.SetStatus(codes.Error, "")
		}
	}
	span.SetAttributes(all...)
	span.End()
}

func errorType(err error) string {
	var row *edge.Failure
	switch {
	case errors.As(err, &row):
		return row.Name
	case errors.Is(err, context.Canceled):
		return string(ClientGone)
	}
	return "_OTHER"
}
