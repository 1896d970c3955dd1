package proxy

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

// forward sends the request to Lark and passes the answer back. If there is no
// answer to pass back since the user has to authorize, and the user does so while
// the request waits, it starts again.
func (p *proxy) forward(x *request) error {
	limit := 0 // a request that is never replayed needs no copy of its body
	if x.credential.injected() {
		limit = p.cfg.ReplayBuffer
	}
	if !x.body.take(x.in, limit) {
		return errCallerGone
	}
	for {
		x.body.rewind(x.in)
		x.answer.err = nil
		p.reverse.ServeHTTP(&x.w, x.in)
		if x.answer.err == nil {
			stripTrailers(x.w.Header(), x.answer.passed)
			return nil
		}
		if err := p.askAndWait(x, x.answer.err); err != nil {
			return err
		}
	}
}

// rewrite makes Out, which goes to Lark, of In, which came from the app. The raw
// path and query go out byte by byte, in URL.Opaque: net/http would encode
// URL.Path anew.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	x := requestOf(pr.In.Context())
	out := pr.Out
	to, rest := p.destination(&x.target)
	out.URL.Scheme, out.URL.Host = to.scheme, to.host
	out.URL.Opaque = to.prefix + rest
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery, out.URL.ForceQuery = "", "", "", false
	out.URL.User = nil
	out.Host = to.host
	if x.body.kept.complete() {
		// ReverseProxy guards a body against reads after the handler has returned.
		// Nothing of this one is left to read from the caller.
		out.Body = x.in.Body
	}
	out.Trailer = nil // an app could put an Authorization there
	stripRequest(out.Header)
	if x.credential.injected() {
		acceptReadable(out.Header)
	}
	if x.target.class.mcp {
		out.Header["Accept-Encoding"] = asIs // streams are looked into
	}
	if x.credential.kind == userToken {
		takeWait(out.Header)
	}
}

// RoundTrip sends out, and once more with another token if Lark refuses the one
// that Larkside added. It makes p the Transport of its ReverseProxy.
func (p *proxy) RoundTrip(out *http.Request) (*http.Response, error) {
	x := requestOf(out.Context())
	res, said, err := p.attempt(x, out, 0)
	if err != nil || said.refusal != session.TokenInvalid {
		p.noteRefusal(x, said)
		return res, err
	}

	replaced, err := p.replaceToken(x)
	reason, _ := reasonOf(err)
	switch {
	case reason == session.TokenRefused && said.byStatus:
		// The token is a fresh one, so the status has another reason.
		return res, nil
	case err != nil:
		res.Body.Close()
		return nil, err
	case !replaced:
		return res, nil
	}
	again, ok := x.body.again(out)
	if !ok {
		x.result.hint, x.result.outcome = hintNotReplayed, RefreshedNotReplayed
		return res, nil
	}
	res.Body.Close()
	before := x.result.outcome
	x.result.outcome = RefreshedReplayed

	res, said, err = p.attempt(x, again, 1)
	switch {
	case err != nil || said.refusal != session.TokenInvalid:
		p.noteRefusal(x, said)
		return res, err
	case x.credential.kind == tenantToken, said.byStatus:
		// The route takes only user tokens, or the status has another reason than the
		// token. The app has to know.
		x.result.outcome = before
		return res, nil
	}
	res.Body.Close()
	return nil, &session.ConsentRequiredError{Reason: session.TokenRefused}
}

// attempt sends out and returns Lark's answer, with what it says about the token
// that was sent. resend is the number of attempts before this one.
func (p *proxy) attempt(x *request, out *http.Request, resend int) (res *http.Response, said larkError, err error) {
	span := p.startAttempt(x, &out, resend)
	defer func() { endAttempt(span, res, said, err) }()
	to, _ := p.destination(&x.target)
	if err := x.credential.authorize(out, *to, x.target.class, x.who.user); err != nil {
		return nil, larkError{}, err
	}
	sent := time.Now()
	if res, err = p.cfg.Transport.RoundTrip(out); err != nil {
		return nil, larkError{}, p.unanswered(x, err, sent)
	}
	if res.StatusCode < 200 {
		// 101 would make ReverseProxy open a tunnel, which nobody asked for. A status
		// below 100 makes net/http's server panic.
		res.Body.Close()
		return nil, larkError{}, p.unanswered(x, errors.New("upstream answered with a status that ends no request"), sent)
	}
	if res.Request == nil {
		res.Request = out
	}
	stripAnswer(res.Header)
	switch {
	case x.credential.kind == userToken && x.target.class.mcp:
		said = inspectMCP(x, res, p.cfg.UserTokenRefusal)
	case x.credential.kind == userToken:
		said = x.answer.inspect(res, &p.buffers, p.cfg.UserTokenRefusal)
	case x.credential.kind == tenantToken:
		said = x.answer.inspect(res, &p.buffers, p.cfg.TenantTokenRefusal)
	}
	return res, said, nil
}

// unanswered returns the error for an attempt that brought no answer.
func (p *proxy) unanswered(x *request, err error, sent time.Time) error {
	if x.Err() != nil || x.body.kept.broken() {
		return errCallerGone // the caller caused it, and can't be told
	}
	failure := edge.UpstreamUnreachable
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	// A connection that can't be made in time is a failure to connect. A timeout
	// of Lark's is only its silence after the request. net/http doesn't tell its
	// two timeouts apart, but that of the TLS handshake comes earlier.
	dial := errors.As(err, &op) && op.Op == "dial"
	if !dial && errors.As(err, &timeout) && timeout.Timeout() && time.Since(sent) >= p.cfg.UpstreamTimeout {
		failure = edge.UpstreamTimeout
	}
	p.complaints.Log(x, slog.LevelWarn, "upstream did not answer", failure.Name, "failure", failure.Name, "error", err)
	return failure
}

// replaceToken puts another token in the place of the one that Lark refused. It
// reports false if there is no other tenant token. A user's token is replaced or
// the error says why not.
func (p *proxy) replaceToken(x *request) (replaced bool, err error) {
	if x.credential.kind == userToken {
		renewed, err := p.cfg.Tokens.ReplaceRefused(x, x.who.user, x.credential.access.Version)
		if err != nil {
			return false, err
		}
		x.credential.access = renewed
		return true, nil
	}
	other, err := p.cfg.Tenant.ReplaceTenantAccessToken(x, x.who.app, x.credential.tenant)
	if err != nil {
		p.complaints.Log(x, slog.LevelWarn, "replacing a refused tenant token failed", x.who.app, "app_id", x.who.app, "error", err)
		return false, nil
	}
	replaced = !other.Equal(x.credential.tenant)
	x.credential.tenant = other
	return replaced, nil
}

// noteRefusal notes what an answer that is passed on says about a token that is
// good, and asks the user for a scope that is missing.
func (p *proxy) noteRefusal(x *request, said larkError) {
	switch said.refusal {
	case session.WrongTokenKind:
		x.result.hint, x.result.outcome = hintTenantOnly, WrongTokenKind
	case session.AppScopeMissing:
		x.result.hint, x.result.outcome = hintAppScope, AppScopeMissing
	case session.ScopeMissing:
		x.result.outcome = ScopeMissing
		x.result.link = p.askForScope(x, said.scopes())
	}
}

// modifyAnswer adds Larkside's headers to an answer of Lark's, just before it is
// passed on.
func (p *proxy) modifyAnswer(res *http.Response) error {
	x := requestOf(res.Request.Context())
	x.answer.passed = res
	stripAnswer(res.Trailer)
	x.w.left = res.ContentLength
	if res.Request.Method == http.MethodHead {
		x.w.left = 0
	}
	if x.result.hint != "" {
		res.Header.Set("X-Larkside-Hint", x.result.hint)
	}
	if x.result.link != "" {
		res.Header.Set("X-Larkside-Authorize-Url", x.result.link)
	}
	x.wait.note(res.Header)
	return nil
}

// stripTrailers removes Larkside's own names from the trailers that upstream
// sent. They are known only after the body.
func stripTrailers(h http.Header, passed *http.Response) {
	if passed == nil || len(passed.Trailer) == 0 {
		return
	}
	for name := range h {
		if larkside(strings.TrimPrefix(name, http.TrailerPrefix)) {
			delete(h, name)
		}
	}
}
