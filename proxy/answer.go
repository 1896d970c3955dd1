package proxy

import (
	"log/slog"

	"larkside/proxy/edge"
)

// Failures returns the failures that this listener answers, in the order of
// their codes.
func Failures() []edge.Failure {
	return []edge.Failure{
		*edge.InvalidUserID, *edge.UserIDRequired, *edge.AmbiguousPath, *edge.UnknownApp,
		*edge.AuthorizationRequired, *edge.CallerUnauthenticated,
		*edge.PathNotAllowed, *edge.HostNotAllowed, *edge.UserDisabled, *edge.CallerNotAllowed,
		*edge.MethodNotAllowed, *edge.CallerRateLimited, *edge.UpstreamUnreachable,
		*edge.StoreUnavailable, *edge.RefreshUnavailable, *edge.AppMisconfigured, *edge.Draining, *edge.UpstreamTimeout,
	}
}

// answerTo returns the answer to an error of this package or of package session.
func (p *proxy) answerTo(x *exchange, err error) *edge.Answer {
	if a := edge.For(err); a != nil {
		return a
	}
	// Not in any part's contract: nothing is known, so nothing is sent.
	p.complaints.Log(x, slog.LevelError, "token lookup failed in an unforeseen way", "", "error", err)
	return edge.New(edge.StoreUnavailable, err)
}

// answer writes a.
func (x *exchange) answer(a *edge.Answer) {
	x.outcome = Outcome(a.Name)
	x.body.unwanted()
	h := x.w.Header()
	clear(h)
	x.noteWait(h)
	switch a.Failure {
	case edge.MethodNotAllowed:
		h.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		// What follows a CONNECT or TRACE on this connection isn't HTTP for us.
		h.Set("Connection", "close")
	case edge.Draining:
		h.Set("Connection", "close")
	}
	a.Write(&x.w, x.in)
}
