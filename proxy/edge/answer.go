package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"larkside/session"
	"larkside/telemetry"
)

// RequestIDHeader stands on each failure. The log lines and the span of the
// request have the same id.
const RequestIDHeader = telemetry.RequestIDHeader

// Answer is a [Failure] with what one request adds to it. It is an error, too.
type Answer struct {
	*Failure
	// Detail is the sentence to answer with instead of Message; "": Message.
	Detail string
	// RetryAfter becomes the header of that name, in whole seconds rounded up;
	// 0: no header.
	RetryAfter time.Duration
	// Reason is why the user has to be asked, if so.
	Reason session.Reason
	// Challenge is what the user was asked, for [AuthorizationRequired].
	Challenge session.Challenge
}

// Unwrap returns the Failure, so that errors.Is finds it.
func (a *Answer) Unwrap() error { return a.Failure }

// For returns the answer to err: the Answer or [Failure] that err wraps, or the
// one for an error of package session that all listeners answer alike. It returns
// nil for any other error.
func For(err error) *Answer {
	var whole *Answer
	var f *Failure
	switch {
	case errors.As(err, &whole):
		return whole
	case errors.As(err, &f):
	case errors.Is(err, session.ErrAmbiguous):
		return &Answer{Failure: InvalidUserID, Detail: "This id belongs to two users at Lark or in the database: name the user by open_id (ou_…), and read all users' ids anew (larkside users sync)."}
	case errors.Is(err, session.ErrUserDisabled):
		f = UserDisabled
	case errors.Is(err, session.ErrAppMisconfigured):
		f = AppMisconfigured
	case errors.Is(err, session.ErrRefreshUnavailable):
		f = RefreshUnavailable
	case errors.Is(err, session.ErrUnavailable):
		f = StoreUnavailable
	default:
		return nil
	}
	return New(f, err)
}

// New returns the answer f to err, with what err says beyond f: when to try
// again, and why the user has to be asked.
func New(f *Failure, err error) *Answer {
	a := &Answer{Failure: f}
	var retry *session.RetryError
	switch {
	case errors.As(err, &retry):
		a.RetryAfter = retry.After
	case f == AppMisconfigured:
		a.RetryAfter = 30 * time.Second
	case f.Status == http.StatusServiceUnavailable, f == NotAsked:
		a.RetryAfter = time.Second
	}
	var consent *session.ConsentRequiredError
	if errors.As(err, &consent) {
		a.Reason = consent.Reason
	}
	return a
}

// Write answers r. It sets headers on w beside those that are there, and no body
// if r is a HEAD.
func (a *Answer) Write(w http.ResponseWriter, r *http.Request) {
	id := telemetry.RequestID(r.Context())
	if id == "" {
		id = telemetry.NewRequestID()
	}
	a.WriteAs(w, r, id, a.Status, a.Envelope(id))
}

// WriteAs is Write for a protocol that has errors of its own: it sends this status
// and this JSON, with the headers of a. WWW-Authenticate is left out with any other
// status than 401.
func (a *Answer) WriteAs(w http.ResponseWriter, r *http.Request, id string, status int, content []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(content)))
	h.Set("Cache-Control", "no-store")
	a.SetHeader(h)
	if status != http.StatusUnauthorized {
		h.Del("WWW-Authenticate")
	}
	h.Set(RequestIDHeader, id)
	if a.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(seconds(a.RetryAfter), 10))
	}
	if a.Challenge.AuthorizeURL != "" {
		h.Set("X-Larkside-Authorize-Url", a.Challenge.AuthorizeURL)
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(content) // nobody is left to tell when it fails
	}
}

// envelope is an error as Lark writes it.
type envelope struct {
	Code  int     `json:"code"`
	Msg   string  `json:"msg"`
	Error details `json:"error"`
}

type details struct {
	Type         string             `json:"type"`
	RequestID    string             `json:"request_id"`
	Reason       session.Reason     `json:"reason,omitempty"`
	AuthorizeURL string             `json:"authorize_url,omitempty"`
	ExpiresIn    *int64             `json:"expires_in,omitempty"`
	Card         session.CardResult `json:"card,omitempty"`
}

// Envelope returns the body of the answer: a JSON object and a newline.
func (a *Answer) Envelope(requestID string) []byte {
	e := envelope{a.Code, a.Message, details{Type: a.Name, RequestID: requestID, Reason: a.Reason, Card: a.Challenge.Card}}
	if a.Detail != "" {
		e.Msg = a.Detail
	}
	if a.Challenge.AuthorizeURL != "" {
		expires := int64(math.Ceil(a.Challenge.ExpiresIn.Seconds()))
		e.Error.AuthorizeURL, e.Error.ExpiresIn = a.Challenge.AuthorizeURL, &expires
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // people read the link, and it has an & in it
	enc.Encode(e)            // strings and numbers into a buffer: it can't fail
	return out.Bytes()
}

// seconds returns whole seconds, rounded up, and at least one.
func seconds(d time.Duration) int64 { return max(1, int64(math.Ceil(d.Seconds()))) }
