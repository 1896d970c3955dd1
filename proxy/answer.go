package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"larkside/session"
)

// Failure is one row of the table of answers that are Larkside's own. It is an
// error: whatever ends a request early returns one.
type Failure struct {
	// Name is error.type of the body, X-Larkside-Error, and the outcome label.
	Name string
	// Status is the HTTP status.
	Status int
	// Code is the body's code. It is 18, the status and three digits: outside
	// all that Lark answers, and so none at which an official SDK retries or
	// drops its own token.
	Code int
	// Message says what is wrong and what to do, in one sentence.
	Message string
}

func (f *Failure) Error() string { return f.Name }

var (
	invalidUserID         = &Failure{"invalid_user_id", 400, 18400001, "X-Lark-User-Id is not usable: send one open_id (ou_…), union_id (on_…) or user_id."}
	userIDRequired        = &Failure{"user_id_required", 400, 18400002, "The request names no user: send X-Lark-User-Id, or an Authorization of your own."}
	ambiguousPath         = &Failure{"ambiguous_path", 400, 18400003, "The path can be read in more than one way: send it without dot segments, empty segments, backslashes and control characters, also encoded ones."}
	unknownApp            = &Failure{"unknown_app", 400, 18400004, "X-Lark-App-Id names no configured app: use one of LARKSIDE_APP_ID and LARKSIDE_APPS, or leave it out."}
	authorizationRequired = &Failure{"authorization_required", 401, 18401001, "The user has to authorize the app: open error.authorize_url, then send the request again."}
	callerUnauthenticated = &Failure{"caller_unauthenticated", 401, 18401002, "X-Larkside-Key is missing or wrong: send the key of one of the configured callers."}
	pathNotAllowed        = &Failure{"path_not_allowed", 403, 18403001, "No user token may be sent to this path: add it to LARKSIDE_INJECT_PATHS if it should be."}
	hostNotAllowed        = &Failure{"host_not_allowed", 403, 18403002, "The request comes from a web page or names an unknown Host: call from the app, and list the name in LARKSIDE_ALLOW_HOSTS."}
	userDisabled          = &Failure{"user_disabled", 403, 18403003, "Lark says that this user has left or may not use the app: ask the tenant's administrator."}
	callerNotAllowed      = &Failure{"caller_not_allowed", 403, 18403004, "This caller may not do that: see LARKSIDE_CALLER_LIMITS."}
	methodNotAllowed      = &Failure{"method_not_allowed", 405, 18405001, "The method is not served here: use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS."}
	callerRateLimited     = &Failure{"caller_rate_limited", 429, 18429001, "This caller sends too much: wait as long as Retry-After says."}
	upstreamUnreachable   = &Failure{"upstream_unreachable", 502, 18502001, "Lark can't be reached: check the network from Larkside to the Open Platform."}
	storeUnavailable      = &Failure{"store_unavailable", 503, 18503001, "The session store can't be reached and this user isn't cached: try again after Retry-After."}
	refreshUnavailable    = &Failure{"refresh_unavailable", 503, 18503002, "The user's token has expired and can't be renewed at the moment, the authorization is kept: try again after Retry-After."}
	appMisconfigured      = &Failure{"app_misconfigured", 503, 18503003, "Lark refuses the app itself: its operator has to check secret, availability and token refresh in the developer console."}
	draining              = &Failure{"draining", 503, 18503004, "This instance is about to stop: send the request again."}
	upstreamTimeout       = &Failure{"upstream_timeout", 504, 18504001, "Lark did not answer in time: try again, or raise LARKSIDE_UPSTREAM_TIMEOUT."}
)

// Failures returns every answer that is Larkside's own, in the order of their
// codes.
func Failures() []Failure {
	all := []Failure{
		*invalidUserID, *userIDRequired, *ambiguousPath, *unknownApp,
		*authorizationRequired, *callerUnauthenticated,
		*pathNotAllowed, *hostNotAllowed, *userDisabled, *callerNotAllowed,
		*methodNotAllowed, *callerRateLimited, *upstreamUnreachable,
		*storeUnavailable, *refreshUnavailable, *appMisconfigured, *draining, *upstreamTimeout,
	}
	return slices.Clip(all)
}

// failure is a Failure with what this request adds to it.
type failure struct {
	*Failure
	// detail, if any, is the sentence to answer with instead of Message.
	detail string
	// retryAfter, if any, becomes Retry-After, in whole seconds rounded up.
	retryAfter time.Duration
	// reason and challenge belong to authorization_required.
	reason    session.Reason
	challenge session.Challenge
}

func (f *failure) Unwrap() error { return f.Failure }

// failureOf turns an error of this package or of package session into what is
// answered. Only here do errors become HTTP.
func (p *proxy) failureOf(x *exchange, err error) *failure {
	var whole *failure
	var row *Failure
	switch {
	case errors.As(err, &whole):
		return whole
	case errors.As(err, &row):
	case errors.Is(err, session.ErrUserDisabled):
		row = userDisabled
	case errors.Is(err, session.ErrAppMisconfigured):
		row = appMisconfigured
	case errors.Is(err, session.ErrRefreshUnavailable):
		row = refreshUnavailable
	case errors.Is(err, session.ErrUnavailable):
		row = storeUnavailable
	default:
		// Not in any part's contract: nothing is known, so nothing is sent.
		p.complaints.Log(x, slog.LevelError, "token lookup failed in an unforeseen way", "", "error", err)
		row = storeUnavailable
	}
	return &failure{Failure: row, retryAfter: retryAfter(row, err)}
}

// retryAfter is what err says, or for a 503 of the session's a default.
func retryAfter(row *Failure, err error) time.Duration {
	var retry *session.RetryError
	switch {
	case errors.As(err, &retry):
		return retry.After
	case row == appMisconfigured:
		return 30 * time.Second
	case row.Status == http.StatusServiceUnavailable:
		return time.Second
	}
	return 0
}

// requestIDHeader stands on each of Larkside's own answers, but for the 200 of
// authz, whose headers a mesh may copy. The log lines and the span of the request
// have the same id.
const requestIDHeader = "X-Larkside-Request-Id"

// body is Lark's envelope.
type body struct {
	Code  int       `json:"code"`
	Msg   string    `json:"msg"`
	Error bodyError `json:"error"`
}

type bodyError struct {
	Type         string             `json:"type"`
	RequestID    string             `json:"request_id"`
	Reason       session.Reason     `json:"reason,omitempty"`
	AuthorizeURL string             `json:"authorize_url,omitempty"`
	ExpiresIn    *int64             `json:"expires_in,omitempty"`
	Card         session.CardResult `json:"card,omitempty"`
}

// answer writes f.
func (x *exchange) answer(f *failure) {
	x.outcome = Outcome(f.Name)
	x.body.unwanted()
	h := x.w.Header()
	clear(h)
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Larkside-Error", f.Name)
	h.Set(requestIDHeader, x.requestID())
	x.noteWait(h)
	if f.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(max(1, seconds(f.retryAfter)), 10))
	}
	switch f.Failure {
	case authorizationRequired:
		challengeHeaders(h, f)
	case callerUnauthenticated:
		// RFC 9110 section 11.6.1: a 401 must name a scheme.
		h.Set("WWW-Authenticate", `Larkside realm="larkside"`)
	case methodNotAllowed:
		h.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		// What follows a CONNECT or TRACE on this connection isn't HTTP for us.
		h.Set("Connection", "close")
	case draining:
		h.Set("Connection", "close")
	}
	content := envelope(f, x.requestID())
	h.Set("Content-Length", strconv.Itoa(len(content)))
	x.w.WriteHeader(f.Status)
	if x.in.Method != http.MethodHead {
		x.w.Write(content)
	}
}

func envelope(f *failure, requestID string) []byte {
	b := body{Code: f.Code, Msg: f.Message, Error: bodyError{Type: f.Name, RequestID: requestID, Reason: f.reason}}
	if f.detail != "" {
		b.Msg = f.detail
	}
	if f.Failure == authorizationRequired {
		b.Error.Card = f.challenge.Card
		if f.challenge.AuthorizeURL != "" {
			expires := seconds(f.challenge.ExpiresIn)
			b.Error.AuthorizeURL, b.Error.ExpiresIn = f.challenge.AuthorizeURL, &expires
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // the link has an & in it, and people read it
	enc.Encode(b)            // of strings and ints into a buffer: can't fail
	return out.Bytes()
}

// seconds rounds up.
func seconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }
