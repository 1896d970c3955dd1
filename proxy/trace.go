package proxy

import (
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"larkside/telemetry"
)

// Spans and metrics follow the HTTP semantic conventions of OpenTelemetry 1.43.0.
// They are written by hand since otelhttp was measured to cost a quarter of the
// throughput.

// statusClientGone is recorded, and never sent, for a caller that hung up before
// there was an answer. nginx uses the same number.
const statusClientGone = 499

// serverSpan and clientSpan are the options of all such spans. Attributes are added
// only to those that are recorded.
var (
	serverSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}
	clientSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}
)

// begin makes the request for r, and begins its span.
func (p *proxy) begin(w http.ResponseWriter, r *http.Request) *request {
	x := &request{started: time.Now()}
	x.w = writer{ResponseWriter: w}
	x.body.total = &p.kept
	ctx := r.Context()
	if c := serverConnOf(r); c != nil && r.ProtoMajor == 1 { // over HTTP/2 requests end one by one
		ctx = c.life.begin(p.cfg.HalfClosePatience)
	}
	if len(r.Header["Traceparent"]) > 0 {
		ctx = otel.GetTextMapPropagator().Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	x.Context, x.trace.server = p.tracer.Start(ctx, methodLabel(r.Method), serverSpan...)
	x.in = r.WithContext(x)
	if _, ok := r.Header["Upgrade"]; ok {
		// It is never forwarded, and ReverseProxy fails on some values before it asks
		// what to forward.
		x.in.Header = r.Header.Clone()
		delete(x.in.Header, "Upgrade")
	}
	return x
}

// end records what became of the request. It also runs when the handler panics.
func (p *proxy) end(x *request) {
	x.body.kept.close()
	x.answer.release(&p.buffers)
	status := x.w.status
	if !x.result.returned {
		status = x.abort()
	}
	l := labels{methodLabel(x.in.Method), p.route(x), status, x.result.outcome, x.who.caller}
	took := time.Since(x.started)
	if p.cfg.AccessLog {
		x.requestID() // now, so that the span has it too
	}
	p.metrics.recordRequest(x, took.Seconds(), l)
	p.endServer(x, l)
	if p.cfg.AccessLog {
		p.logAccess(x, l, took)
	}
}

// logAccess writes the access log's line of x.
func (p *proxy) logAccess(x *request, l labels, took time.Duration) {
	all := append(make([]slog.Attr, 0, 9),
		slog.String(telemetry.LogMethod, l.method), slog.String(telemetry.LogRoute, l.route), slog.Int(telemetry.LogStatus, l.status),
		slog.String(telemetry.LogOutcome, string(l.outcome)), slog.String(telemetry.LogCaller, l.caller),
		slog.Float64(telemetry.LogDuration, took.Round(time.Microsecond).Seconds()))
	for _, one := range []struct{ key, value string }{
		{telemetry.LogReason, string(x.result.reason)}, {telemetry.LogApp, x.who.app}, {telemetry.LogUser, p.userInSpans(x)},
	} {
		if one.value != "" {
			all = append(all, slog.String(one.key, one.value))
		}
	}
	p.cfg.Log.LogAttrs(x, slog.LevelInfo, "request", all...)
}

// abort sets the outcome of an answer that broke off. It returns the status to
// record: the one that was sent, or would have been.
func (x *request) abort() int {
	if x.result.outcome != ClientGone {
		x.result.outcome = Aborted
		if x.Err() != nil {
			x.result.outcome = ClientGone
		}
	}
	switch {
	case x.w.status != 0:
		return x.w.status
	case x.result.outcome == ClientGone:
		return statusClientGone
	}
	return http.StatusInternalServerError
}

func (p *proxy) endServer(x *request, l labels) {
	span := x.trace.server
	if span.IsRecording() {
		failed := l.status >= 400 || !x.result.returned
		p.endIdentify(x, failed)
		span.SetName(l.method + " " + l.route)
		all := append(make(attributes, 0, 12), telemetry.HTTPMethod.String(l.method), telemetry.HTTPRoute.String(l.route),
			telemetry.HTTPStatus.Int(l.status), telemetry.RequestOutcome.String(string(l.outcome)))
		all.add(telemetry.RequestCaller, l.caller)
		if id := x.id.Load(); id != nil {
			all.add(telemetry.SpanRequestID, *id)
		}
		all.add(telemetry.AppID, x.who.app)
		all.add(telemetry.TokenLookup, string(x.result.lookup))
		all.add(telemetry.Reason, string(x.result.reason))
		all.add(telemetry.Hint, x.result.hint)
		all.add(telemetry.User, p.userInSpans(x))
		if x.wait.applied {
			all = append(all, telemetry.Waited.Bool(true))
		}
		// By the conventions only a 5xx is an error of a server span.
		if l.status >= 500 || !x.result.returned {
			all.add(telemetry.ErrorType, string(l.outcome))
			span.SetStatus(codes.Error, "")
		}
		span.SetAttributes(all...)
	}
	span.End()
}

// startIdentify begins the span of finding out who calls, for whom, and whether they
// may. The span ends when a token is looked for, when the request is forwarded, or
// when it is refused.
func (p *proxy) startIdentify(x *request) {
	if x.trace.server.IsRecording() {
		x.trace.identify, _ = p.tracer.Start(x.Context, "identify")
	}
}

func (p *proxy) endIdentify(x *request, refused bool) {
	if x.trace.identify == nil {
		return
	}
	span := trace.SpanFromContext(x.trace.identify)
	x.trace.identify = nil
	all := make(attributes, 0, 5)
	all.add(telemetry.RequestCaller, x.who.caller)
	all.add(telemetry.AppID, x.who.app)
	all.add(telemetry.User, p.userInSpans(x))
	switch h := x.in.Header[userHeader]; {
	case len(h) > 0 && strings.HasPrefix(h[0], "ou_"):
		all.add(telemetry.IDKind, "open_id")
	case len(h) > 0:
		all.add(telemetry.IDKind, "alias")
	}
	if refused {
		all.add(telemetry.ErrorType, string(x.result.outcome))
		span.SetStatus(codes.Error, "")
	}
	span.SetAttributes(all...)
	span.End()
}

// startAttempt begins the client span of one request to Lark, and puts it into the
// request's context. resend is the number of attempts before it. It returns nil if
// no span is recorded.
func (p *proxy) startAttempt(x *request, out **http.Request, resend int) trace.Span {
	ctx := (*out).Context()
	var span trace.Span
	if x.trace.server.IsRecording() {
		p.endIdentify(x, false)
		name, route, u := methodLabel(x.in.Method), p.route(x), (*out).URL
		if route != otherRoute {
			name += " " + route
		}
		ctx, span = p.tracer.Start(ctx, name, clientSpan...)
		all := append(make(attributes, 0, 6), telemetry.HTTPMethod.String(methodLabel(x.in.Method)), telemetry.URLTemplate.String(route),
			telemetry.Server.String(u.Hostname()), telemetry.ServerPort.Int(portOf(u)), telemetry.URLScheme.String(u.Scheme))
		if resend > 0 {
			all = append(all, telemetry.HTTPResend.Int(resend))
		}
		span.SetAttributes(all...)
		*out = (*out).WithContext(ctx)
	}
	if p.cfg.PropagateTrace {
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

func endAttempt(span trace.Span, res *http.Response, said larkError, err error) {
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
		if said.Code != 0 {
			all = append(all, telemetry.LarkCode.Int(said.Code))
		}
		// By the conventions a 4xx is an error of a client span, too.
		if res.StatusCode >= 400 {
			all.add(telemetry.ErrorType, strconv.Itoa(res.StatusCode))
			span.SetStatus(codes.Error, "")
		}
	}
	span.SetAttributes(all...)
	span.End()
}

// attributes are collected and set at once, since the SDK allocates at each call.
type attributes []attribute.KeyValue

// add leaves out an empty value.
func (a *attributes) add(key attribute.Key, value string) {
	if value != "" {
		*a = append(*a, key.String(value))
	}
}

// userInSpans returns what stands for the user in spans, or "".
func (p *proxy) userInSpans(x *request) string {
	if p.cfg.UserAttr == nil || x.who.user.OpenID == "" {
		return ""
	}
	if x.trace.user == "" {
		x.trace.user = p.cfg.UserAttr(x.who.user)
	}
	return x.trace.user
}

// otherRoute stands for all paths of no known operation.
const otherRoute = "other"

// route returns the template of the request's path, out of a bounded set.
func (p *proxy) route(x *request) string {
	path := x.target.path
	switch {
	case path == "":
		return otherRoute
	case x.target.class.mcp:
		return mcpPath
	case p.cfg.Route != nil:
		return p.cfg.Route(x.target.method, path)
	}
	if i := matchAny(p.cfg.InjectPaths, path); i >= 0 {
		return p.cfg.InjectPaths[i]
	}
	return otherRoute
}

// methodLabel returns m as a label. Unknown methods share one, so that they make no
// new series.
func methodLabel(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE":
		return m
	}
	return "_OTHER"
}
