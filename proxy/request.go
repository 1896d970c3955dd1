package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/telemetry"
)

// proxy is the handler, and the Transport of its own ReverseProxy.
type proxy struct {
	cfg     Config
	hosts   edge.Hosts
	callers callers
	paths   paths
	origin  origin // the Open Platform
	mcp     origin // the MCP server; zero: there is none
	reverse *httputil.ReverseProxy
	buffers peekBuffers
	// places are for the requests that wait for a consent.
	places *places
	// kept counts what is kept of requests' bodies.
	kept    keptTotal
	metrics *metrics
	tracer  trace.Tracer
	// complaints writes the lines that every request may have to write.
	complaints *telemetry.Complaints
}

// request is one request on its way through the proxy. It is the context of in,
// too, so that the hooks of ReverseProxy find it without another allocation. It is
// never reused, since contexts outlive their requests.
type request struct {
	context.Context
	in      *http.Request // as received; its context is this request
	w       writer
	started time.Time
	id      atomic.Pointer[string] // nil until it is needed

	who        who        // who asks, and for whom
	target     target     // what for
	credential credential // what goes into Authorization
	body       body       // the body of in
	wait       waiting    // how it waits for a consent
	answer     larkAnswer // what Lark answered
	result     result     // what became of it
	trace      tracing
}

// who is who asks, and for whom.
type who struct {
	caller string     // its name; "" where callers need no key
	limit  *allowance // what the caller may do; nil: everything
	app    string
	user   session.Key // zero without a user, or when nobody is known by the name
}

// tracing is the request in traces.
type tracing struct {
	server trace.Span
	// identify is the context of the span "identify" while that is open; nil when
	// no span is recorded.
	identify context.Context
	// user stands for the user in spans; "" until a span needs it.
	user string
}

// identifyContext returns the context for what finds out whose request it is.
func (x *request) identifyContext() context.Context {
	if x.trace.identify != nil {
		return x.trace.identify
	}
	return x
}

// errCallerGone ends a request whose caller can't be answered.
var errCallerGone = errors.New("caller is gone")

// requestKey is the context key of a request.
type requestKey struct{}

// Value finds the request, and its id, in the contexts that are derived from it.
func (x *request) Value(key any) any {
	switch key.(type) {
	case requestKey:
		return x
	case telemetry.RequestIDKey:
		return x.requestID()
	}
	return x.Context.Value(key)
}

// requestOf returns the request that ctx is derived from.
func requestOf(ctx context.Context) *request {
	return ctx.Value(requestKey{}).(*request)
}

// requestID returns the id of the request. It is made when it is first asked for,
// since most requests need none. Other goroutines may ask too, such as that of a
// refresh that the request has caused.
func (x *request) requestID() string {
	if id := x.id.Load(); id != nil {
		return *id
	}
	id := telemetry.NewRequestID()
	x.id.CompareAndSwap(nil, &id)
	return *x.id.Load()
}
