package admin

import (
	"encoding/json"
	"errors"
	"net/http"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
)

// Failures returns the failures that this listener answers, in the order of
// their codes.
func Failures() []edge.Failure {
	return []edge.Failure{
		*edge.InvalidUserID, *edge.UnknownApp, *edge.InvalidRequest, *edge.AdminUnauthenticated, *edge.HostNotAllowed, *edge.UserDisabled,
		*edge.NotFound, *edge.MethodNotAllowed, *edge.ConsentRequired, *edge.Conflict, *edge.NotAllSealed, *edge.NotAsked, *edge.NotSignedIn,
		*edge.AdminRateLimited, *edge.InternalError, *edge.StoreUnavailable, *edge.RefreshUnavailable, *edge.AppMisconfigured,
	}
}

// invalid returns an invalid_request that is answered with this sentence.
func invalid(sentence string) error {
	return &edge.Answer{Failure: edge.InvalidRequest, Detail: sentence}
}

// answerTo returns the answer to an error of this package or of package session.
func (a *admin) answerTo(r *http.Request, err error) *edge.Answer {
	switch {
	case errors.Is(err, session.ErrNotFound):
		return edge.New(edge.NotFound, err)
	case errors.Is(err, session.ErrConsentRequired):
		return edge.New(edge.ConsentRequired, err)
	case errors.Is(err, session.ErrNotAsked):
		return edge.New(edge.NotAsked, err)
	case errors.Is(err, store.ErrReseal):
		return edge.New(edge.NotAllSealed, err)
	case errors.Is(err, session.ErrConflict), errors.Is(err, session.ErrLeased):
		return edge.New(edge.Conflict, err)
	}
	if answer := edge.For(err); answer != nil {
		return answer
	}
	a.Log.ErrorContext(r.Context(), "an admin request failed in an unforeseen way", "method", r.Method, "error", err)
	return edge.New(edge.InternalError, err)
}

// fail answers r with err.
func (a *admin) fail(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	a.answerTo(r, err).Write(w, r)
}

// writeJSON answers with v. It returns an error, and has sent nothing, if v can't be
// written as JSON. It returns none if the peer is gone, since nobody could be told.
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
