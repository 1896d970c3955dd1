package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"larkside/session"
	"larkside/session/store"
)

// Failure is one row of the table of answers that are not what was asked for.
// Names and codes are those of the proxy listener where both have the row.
type Failure struct {
	// Name is error.type of the body and X-Larkside-Error.
	Name string
	// Status is the HTTP status.
	Status int
	// Code is the body's code: 18, the status, three digits.
	Code int
	// Message says what is wrong and what to do, in one sentence.
	Message string
}

func (f *Failure) Error() string { return f.Name }

var (
	invalidRequest     = &Failure{"invalid_request", 400, 18400005, "The request can't be read: see the API description."}
	unknownApp         = &Failure{"unknown_app", 400, 18400004, "No such app is configured: use one of LARKSIDE_APP_ID and LARKSIDE_APPS."}
	unauthenticated    = &Failure{"admin_unauthenticated", 401, 18401003, "The admin key is missing or wrong: send Authorization: Bearer with LARKSIDE_ADMIN_KEY."}
	hostNotAllowed     = &Failure{"host_not_allowed", 403, 18403002, "The request comes from a web page of another site or names an unknown Host: list the name in LARKSIDE_ALLOW_HOSTS."}
	userDisabled       = &Failure{"user_disabled", 403, 18403003, "Lark says that this user has left or may not use the app: ask the tenant's administrator."}
	notFound           = &Failure{"not_found", 404, 18404001, "There is nothing under this path."}
	methodNotAllowed   = &Failure{"method_not_allowed", 405, 18405001, "The method is not served here: see the Allow header."}
	consentRequired    = &Failure{"consent_required", 409, 18409001, "Only the user can renew this session: start a consent."}
	notAllSealed       = &Failure{"not_all_sealed", 409, 18409003, "Not everything could be sealed under the first key: give every replica the same keys, then rotate again."}
	notAsked           = &Failure{"not_asked", 409, 18409004, "The user could not be asked: Lark does not know the id, Lark failed, or too many were asked: see the log, and try again after Retry-After."}
	conflict           = &Failure{"conflict", 409, 18409002, "Someone else changed the session at the same time: look again."}
	internalError      = &Failure{"internal_error", 500, 18500001, "Something unforeseen failed: see the log."}
	storeUnavailable   = &Failure{"store_unavailable", 503, 18503001, "The session store can't be reached: try again after Retry-After."}
	refreshUnavailable = &Failure{"refresh_unavailable", 503, 18503002, "The session can't be renewed at the moment and is kept: try again after Retry-After."}
	appMisconfigured   = &Failure{"app_misconfigured", 503, 18503003, "Lark refuses the app itself: its operator has to check secret, availability and token refresh in the developer console."}
)

// Failures returns every row, in the order of the codes.
func Failures() []Failure {
	return []Failure{*unknownApp, *invalidRequest, *unauthenticated, *hostNotAllowed, *userDisabled, *notFound,
		*methodNotAllowed, *consentRequired, *conflict, *notAllSealed, *notAsked, *internalError, *storeUnavailable, *refreshUnavailable, *appMisconfigured}
}

// detailed is a row with a sentence for this request.
type detailed struct {
	*Failure
	detail string
}

func (d detailed) Unwrap() error { return d.Failure }

// failureOf finds the row for an error of this package or of package session.
func (a *admin) failureOf(r *http.Request, err error) *Failure {
	var row *Failure
	switch {
	case errors.As(err, &row):
	case errors.Is(err, session.ErrNotFound):
		row = notFound
	case errors.Is(err, session.ErrConsentRequired):
		row = consentRequired
	case errors.Is(err, session.ErrNotAsked):
		row = notAsked
	case errors.Is(err, store.ErrReseal):
		row = notAllSealed
	case errors.Is(err, session.ErrConflict), errors.Is(err, session.ErrLeased):
		row = conflict
	case errors.Is(err, session.ErrUserDisabled):
		row = userDisabled
	case errors.Is(err, session.ErrAppMisconfigured):
		row = appMisconfigured
	case errors.Is(err, session.ErrRefreshUnavailable):
		row = refreshUnavailable
	case errors.Is(err, session.ErrUnavailable):
		row = storeUnavailable
	default:
		a.Log.ErrorContext(r.Context(), "an admin request failed in an unforeseen way", "method", r.Method, "error", err)
		row = internalError
	}
	return row
}

// fail answers err in Lark's envelope.
func (a *admin) fail(w http.ResponseWriter, r *http.Request, err error) {
	row, envelope := a.envelope(r, err)
	if row.Status == http.StatusServiceUnavailable || row == notAsked {
		w.Header().Set("Retry-After", retryAfter(err))
	}
	w.Header().Set("X-Larkside-Error", row.Name)
	writeJSON(w, row.Status, envelope)
}

// envelope is the row for err and the body that says so.
func (a *admin) envelope(r *http.Request, err error) (*Failure, map[string]any) {
	row := a.failureOf(r, err)
	message := row.Message
	var special detailed
	if errors.As(err, &special) {
		message = special.detail
	}
	about := map[string]any{"type": row.Name}
	var consent *session.ConsentRequiredError
	if errors.As(err, &consent) {
		about["reason"] = consent.Reason
	}
	return row, map[string]any{"code": row.Code, "msg": message, "error": about}
}

// retryAfter is whole seconds.
func retryAfter(err error) string {
	after := time.Second
	var retry *session.RetryError
	if errors.As(err, &retry) {
		after = max(after, retry.After.Round(time.Second))
	}
	return strconv.Itoa(int(after / time.Second))
}

// writeJSON answers with v. An error means that v can't be written as JSON, and
// nothing is sent; when the peer is gone there is nobody to tell.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(content, '\n'))
	return nil
}
