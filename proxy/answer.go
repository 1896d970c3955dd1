package proxy

import (
	"log/slog"

	"larkside/proxy/edge"
)

// Failures returns the failures that this listener answers, in the order of
// their codes.
func Failures() []edge.Failure {
	return []edge.Failure{
		*edge.InvalidUserID, *edge.UserIDRequired, *edge.AmbiguousPath, *edge.UnknownApp, *edge.MalformedRequest,
		*edge.AuthorizationRequired, *edge.CallerUnauthenticated, *edge.UserUnproven,
		*edge.PathNotAllowed, *edge.HostNotAllowed, *edge.UserDisabled, *edge.CallerNotAllowed,
		*edge.MethodNotAllowed, *edge.CallerRateLimited, *edge.HeaderTooLarge, *edge.UpstreamUnreachable,
		*edge.StoreUnavailable, *edge.RefreshUnavailable, *edge.AppMisconfigured, *edge.Draining, *edge.UpstreamTimeout,
	}
}

// answerTo returns the answer to an error of this package or of package session.
func (p *proxy) answerTo(x *request, err error) *edge.Answer {
	if a := edge.For(err); a != nil {
		return a
	}
	// No part is documented to return such an error. So nothing is known about the
	// user, as with a store that is down, and nothing may be sent.
	p.complaints.Log(x, slog.LevelError, "token lookup failed in an unforeseen way", "", "error", err)
	return edge.New(edge.StoreUnavailable, err)
}

// answer writes a.
func (p *proxy) answer(x *request, a *edge.Answer) {
	x.result.outcome = Outcome(a.Name)
	x.body.paced.unwanted()
	h := x.w.Header()
	clear(h)
	x.wait.note(h)
	switch a.Failure {
	case edge.MethodNotAllowed:
		h.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		// What follows a CONNECT on its connection is not HTTP.
		h.Set("Connection", "close")
	case edge.Draining:
		h.Set("Connection", "close")
	}
	if x.target.class.mcp && a.Failure == edge.AuthorizationRequired {
		p.answerMCP(x, a)
		return
	}
	a.Write(&x.w, x.in)
}
