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
	// tokenLimit bounds the answers of OAuth endpoints: two tokens of 4 KB at
	// most.
	tokenLimit = 64 << 10
	// apiLimit bounds the answers of APIs: an echoed card, fifty users.
	apiLimit = 2 << 20
)

var errTooLarge = errors.New("answer is too large")

// newTransport returns a transport that ignores HTTPS_PROXY. The app secret
// goes through a proxy only if the operator configured one for it.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		// Lark compresses no answer of this size, and a compressed answer could
		// unpack to any size.
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// call is an operation's last request and its answer. It is in the request's
// context, so that the SDK's requests are recorded like ours: the SDK's errors
// hide the status and show whole bodies.
type call struct {
	op    string
	limit int64
	// secrets are those in the request. No error may show them.
	secrets []session.Secret

	path   string
	unsent bool // nothing was sent, for certain
	status int
	header http.Header
	body   []byte
	fields fields
	err    error // of the transport, or of reading the body or its fields
}

type callKey struct{}

func withCall(ctx context.Context, x *call) context.Context {
	return context.WithValue(ctx, callKey{}, x)
}

// recorder is the RoundTripper of all requests. It makes the span, reads the
// answer within its limit and records both in the call.
type recorder struct {
	base   http.RoundTripper
	tracer trace.Tracer
	took   metric.Float64Histogram
}

func (t *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, errors.New("request without a call in its context")
	}
	if req.URL.Path == larkcore.ApplyAppTicketPath {
		// When any answer has code 10012, the SDK asks for an app ticket. When
		// the answer to that has it too, it asks again, until the stack is full
		// and the process dies. Self-built apps have no tickets.
		return nil, errors.New("app tickets are not used")
	}
	ctx, span := t.tracer.Start(req.Context(), req.Method+" "+template(req.URL.Path),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(requestAttributes(req)...))
	defer span.End()

	*x = call{op: x.op, limit: x.limit, secrets: x.secrets, path: req.URL.Path}
	began := time.Now()
	resp, err := x.roundTrip(ctx, t.base, req)
	x.annotate(span)
	t.took.Record(ctx, time.Since(began).Seconds(), metric.WithAttributes(x.labels(req)...))
	return resp, err
}

func (x *call) roundTrip(ctx context.Context, base http.RoundTripper, req *http.Request) (*http.Response, error) {
	if x.err = ctx.Err(); x.err != nil {
		x.unsent = true
		return nil, x.err
	}
	// If a connection was wanted and not got, nothing was written. If the
	// transport reports neither, the outcome is unknown.
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

// mediaType returns the media type of an answer, or "" if it has no valid one.
// An operator recognises a proxy's login page by it.
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

// answered reports whether a whole answer came, JSON or not.
func (x *call) answered() bool {
	return x.status != 0 && (x.err == nil || errors.Is(x.err, errNotJSON))
}

// succeeded reports whether the body may be a result, by the status. Lark's SDK
// accepts only 200. Another 2xx may hold a rotated token, and refusing that
// would cost a user's grant.
func (x *call) succeeded() bool { return x.status/100 == 2 }

func (x *call) logID() string {
	for _, name := range []string{"X-Tt-Logid", "X-Request-Id"} {
		if id := plainID(x.header.Get(name)); id != "" {
			return id
		}
	}
	return ""
}

// template returns path with a name for its variable part.
func template(path string) string {
	const messages = "/open-apis/im/v1/messages/"
	if strings.HasPrefix(path, messages) {
		return messages + ":message_id"
	}
	return path
}

// requestAttributes returns the attributes of OpenTelemetry's conventions for
// HTTP clients, without url.full: queries stay out of traces.
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

// labels returns the metric's labels. Larkside calls a dozen addresses.
func (x *call) labels(req *http.Request) []attribute.KeyValue {
	a := []attribute.KeyValue{telemetry.HTTPMethod.String(req.Method), telemetry.URLTemplate.String(template(req.URL.Path))}
	if x.status != 0 {
		a = append(a, telemetry.HTTPStatus.Int(x.status))
	}
	if what := x.errorType(x.fields.code()); what != "" {
		a = append(a, telemetry.ErrorType.String(what))
	}
	return a
}

func (x *call) annotate(span trace.Span) {
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

// errorType returns one of few words, or "" without an error.
func (x *call) errorType(code int) string {
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
