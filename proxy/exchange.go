package proxy

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/telemetry"
)

// Outcome says how a request ended. The set is closed: these, and the names of
// [Failures].
type Outcome string

const (
	// Proxied: forwarded with the user's token, answered by Lark.
	Proxied Outcome = "proxied"
	// RefreshedReplayed: Lark refused the user's or tenant's token, its
	// successor was accepted.
	RefreshedReplayed Outcome = "refreshed_replayed"
	// RefreshedNotReplayed: the token was renewed, but the body was too large
	// to be sent again.
	RefreshedNotReplayed Outcome = "refreshed_not_replayed"
	// WrongTokenKind: the API takes tenant tokens only.
	WrongTokenKind Outcome = "wrong_token_kind"
	// ScopeMissing: the user was asked for more.
	ScopeMissing Outcome = "scope_missing"
	// AppScopeMissing: the app lacks the scope.
	AppScopeMissing Outcome = "app_scope_missing"
	// PassedThrough: forwarded with the app's own Authorization, or none.
	PassedThrough Outcome = "passed_through"
	// WithTenantToken: forwarded with the tenant's token.
	WithTenantToken Outcome = "tenant_token"
	// AnsweredHere: an SDK's call for its app token, answered on the spot.
	AnsweredHere Outcome = "answered_here"
	// Authorized: a mesh was told to go on.
	Authorized Outcome = "authorized"
	// ClientGone: the caller hung up first.
	ClientGone Outcome = "client_gone"
	// Aborted: the answer broke off.
	Aborted Outcome = "aborted"
)

// credential is what goes into the one Authorization header of a request.
type credential int

const (
	nothing credential = iota
	own
	tenantToken
	userToken
)

// injected reports whether Larkside added the credential, and so can renew it.
func (c credential) injected() bool { return c == tenantToken || c == userToken }

// exchange is everything that belongs to one request. It is the request's
// context at the same time, so that the hooks of ReverseProxy find it without
// a further allocation. It is never reused: contexts outlive their requests.
type exchange struct {
	context.Context
	w       writer
	half    halfClose
	in      *http.Request // as received; its context is this exchange
	started time.Time
	id      atomic.Pointer[string] // of the request; nil until it is needed

	caller string
	// allowed is what the caller may do; nil: everything.
	allowed *allowance
	method  string // that is judged: the original one, for a mesh
	raw     string // path and query as they came
	path    string // canonical
	class   class

	credential credential
	own        string // the app's own Authorization
	tenant     session.Secret
	app        string
	key        session.Key
	shown      string // of key in spans; "" until a span asks
	access     *session.Access

	body       *pacedBody // nil without one
	upload     *upload
	peek       *[]byte
	answerBody peeked
	last       *http.Response // what is passed on, for its trailers

	outcome Outcome
	err     error      // why nothing could be passed on
	hint    string     // X-Larkside-Hint of the answer
	link    string     // X-Larkside-Authorize-Url of the answer
	waited  bool       // Prefer: wait was applied
	until   time.Time  // until when it may be; zero before the first time
	span    trace.Span // the server span
	// identifying is of the span "identify" while that is open; nil when
	// nothing is recorded.
	identifying context.Context
	reason      session.Reason // why the user was asked
	lookup      session.Lookup
	done        bool // the handler returned; otherwise it panicked
}

// exchangeKey is the context key of an exchange.
type exchangeKey struct{}

// Value makes an exchange and its request's id findable in the contexts derived
// from it.
func (x *exchange) Value(key any) any {
	switch key.(type) {
	case exchangeKey:
		return x
	case telemetry.RequestIDKey:
		return x.requestID()
	}
	return x.Context.Value(key)
}

// requestID returns the id of the request, which is made when it is first asked
// for: most requests need none. Other goroutines may ask too, such as a refresh
// that logs what the request has caused.
func (x *exchange) requestID() string {
	if id := x.id.Load(); id != nil {
		return *id
	}
	id := telemetry.NewRequestID()
	x.id.CompareAndSwap(nil, &id)
	return *x.id.Load()
}

func exchangeOf(ctx context.Context) *exchange {
	return ctx.Value(exchangeKey{}).(*exchange)
}

// borrow makes sure of x.peek.
func (x *exchange) borrow(p *peeks) {
	if x.peek == nil {
		x.peek = p.get()
	}
}

// writer is the caller's ResponseWriter. It notes the status, and decides when
// to flush an answer of known length, where ReverseProxy would either never or
// after every write, the last one included.
type writer struct {
	http.ResponseWriter
	status int
	// left is how much of a body of known length is still to come.
	left int64
	half *halfClose
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader passes on 1xx without upstream's use of our names, and keeps
// net/http from guessing a Content-Type that Lark didn't send.
func (w *writer) WriteHeader(status int) {
	h := w.Header()
	if status < 200 {
		stripAnswer(h)
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.status = status
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil
	}
	w.ResponseWriter.WriteHeader(status)
	if w.left > peekSuccess {
		w.flush() // a smaller body comes with its header
	}
}

func (w *writer) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.half.moved()
	if w.left -= int64(n); w.left > 0 && err == nil {
		w.flush()
	}
	return n, err
}

func (w *writer) flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}
