package lark

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"

	"larkside/session"
	"larkside/telemetry"
)

const (
	// tokenLimit bounds answers of flat endpoints: two tokens of 4 KB at most.
	tokenLimit = 64 << 10
	// apiLimit bounds answers with data: an echoed card, fifty users.
	apiLimit = 2 << 20
)

var errTooLarge = errors.New("answer is too large")

// newTransport ignores HTTPS_PROXY on purpose: the hop that carries the app
// secret goes through a proxy only if the operator configured one for it.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		// Lark compresses nothing of this size, and what is not unpacked
		// can't be a bomb.
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// exchange is one operation's last request and what came back. It travels in
// the request's context, so that requests which the SDK makes are seen in the
// same way as ours: the SDK's errors hide the status and show whole bodies.
type exchange struct {
	op    string
	limit int64
	// secrets are what the request carries; no error may repeat them.
	secrets []session.Secret

	path   string
	unsent bool // provably nothing was sent
	status int
	header http.Header
	body   []byte
	fields fields
	err    error // of the transport, or of reading body or fields
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// recorder is the RoundTripper of all our requests: it makes the span, reads
// the answer within its limit and fills in the exchange.
type recorder struct {
	base   http.RoundTripper
	tracer trace.Tracer
	took   metric.Float64Histogram
}

func (t *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, errors.New("request without an exchange")
	}
	if req.URL.Path == larkcore.ApplyAppTicketPath {
		// The SDK answers code 10012, of whatever call, by asking for an app
		// ticket, and answers a 10012 to that in the same way, until the stack
		// is full and the process dies. Self-built apps have no tickets.
		return nil, errors.New("app tickets are not used")
	}
	ctx, span := t.tracer.Start(req.Context(), req.Method+" "+template(req.URL.Path),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(requestAttributes(req)...))
	defer span.End()

	*x = exchange{op: x.op, limit: x.limit, secrets: x.secrets, path: req.URL.Path}
	began := time.Now()
	resp, err := x.roundTrip(ctx, t.base, req)
	x.annotate(span)
	t.took.Record(ctx, time.Since(began).Seconds(), metric.WithAttributes(x.labels(req)...))
	return resp, err
}

func (x *exchange) roundTrip(ctx context.Context, base http.RoundTripper, req *http.Request) (*http.Response, error) {
	if x.err = ctx.Err(); x.err != nil {
		x.unsent = true
		return nil, x.err
	}
	// A connection that was wanted and never had: nothing was written. A
	// transport that tells us neither leaves the outcome unknown.
	var wanted, got atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { wanted.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	})
	resp, err := base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		x.err, x.unsent = err, wanted.Load() && !got.Load()
		return nil, err
	}
	defer resp.Body.Close()
	x.status, x.header = resp.StatusCode, resp.Header
	if x.body, err = readAll(resp.Body, x.limit); err != nil {
		x.err = fmt.Errorf("reading the answer: %w", err)
		return nil, x.err
	}
	if x.fields, x.err = parseFields(x.body); x.err != nil {
		x.err = fmt.Errorf("%w, but %s", x.err, cmp.Or(mediaType(x.header), "of no content type"))
	}
	resp.Body = io.NopCloser(bytes.NewReader(x.body))
	return resp, nil
}

// mediaType is the type that the answer claims, as far as it is one: a proxy's
// login page is recognised by it.
func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	kind, sub, _ := strings.Cut(t, "/")
	if err != nil || plainID(kind) == "" || plainID(sub) == "" {
		return ""
	}
	return t
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("%w: over %d bytes", errTooLarge, limit)
	}
	return body, err
}

// answered reports whether a whole answer came, be it JSON or not.
func (x *exchange) answered() bool {
	return x.status != 0 && (x.err == nil || errors.Is(x.err, errNotJSON))
}

// succeeded reports whether the status allows the body to count as a result.
// Lark's SDK takes 200 only; another 2xx with a rotated token in it is not
// worth a user's grant.
func (x *exchange) succeeded() bool { return x.status/100 == 2 }

func (x *exchange) logID() string {
	for _, name := range []string{"X-Tt-Logid", "X-Request-Id"} {
		if id := plainID(x.header.Get(name)); id != "" {
			return id
		}
	}
	return ""
}

// template is the path with its one variable part named.
func template(path string) string {
	const messages = "/open-apis/im/v1/messages/"
	if strings.HasPrefix(path, messages) {
		return messages + ":message_id"
	}
	return path
}

// requestAttributes follow the OpenTelemetry HTTP client conventions, but for
// url.full: queries stay out of traces.
func requestAttributes(req *http.Request) []attribute.KeyValue {
	a := []attribute.KeyValue{
		telemetry.HTTPMethod.String(req.Method),
		telemetry.Server.String(req.URL.Hostname()),
		telemetry.URLTemplate.String(template(req.URL.Path)),
	}
	if port, err := strconv.Atoi(req.URL.Port()); err == nil {
		a = append(a, telemetry.ServerPort.Int(port))
	}
	return a
}

// labels are those of the metric. Larkside calls a dozen addresses.
func (x *exchange) labels(req *http.Request) []attribute.KeyValue {
	a := []attribute.KeyValue{telemetry.HTTPMethod.String(req.Method), telemetry.URLTemplate.String(template(req.URL.Path))}
	if x.status != 0 {
		a = append(a, telemetry.HTTPStatus.Int(x.status))
	}
	if what := x.errorType(x.fields.code()); what != "" {
		a = append(a, telemetry.ErrorType.String(what))
	}
	return a
}

func (x *exchange) annotate(span trace.Span) {
	if !span.IsRecording() {
		return
	}
	if x.status != 0 {
		span.SetAttributes(telemetry.HTTPStatus.Int(x.status))
	}
	if id := x.logID(); id != "" {
		span.SetAttributes(telemetry.LarkLogID.String(id))
	}
	code := x.fields.code()
	if code != 0 {
		span.SetAttributes(telemetry.LarkCode.Int(code))
	}
	if what := x.errorType(code); what != "" {
		span.SetAttributes(telemetry.ErrorType.String(what))
		span.SetStatus(codes.Error, "")
	}
}

// errorType is a word of low cardinality, empty when all is well.
func (x *exchange) errorType(code int) string {
	var timeout net.Error
	switch {
	case x.status == 0 && errors.Is(x.err, context.Canceled):
		return "canceled"
	case x.status == 0 && errors.As(x.err, &timeout) && timeout.Timeout():
		return "timeout"
	case x.unsent:
		return "not_sent"
	case x.status == 0:
		return "no_answer"
	case !x.succeeded():
		return strconv.Itoa(x.status)
	case code != 0:
		return "lark_code"
	case x.err != nil && len(x.body) > 0:
		return "bad_answer"
	}
	return ""
}
