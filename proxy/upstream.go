package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

// MissingScope is the reason that an [Asker] is given when a token is good but
// Lark asks for one more scope (99991679).
const MissingScope session.Reason = "missing_scope"

// The values of X-Larkside-Hint, on answers of Lark's that are passed on.
const (
	// hintNotReplayed: the token was renewed, but the body was too large to be
	// kept; the app can send the request again.
	hintNotReplayed = "not-replayed"
	// hintTenantOnly: the API takes no user's token; leave out X-Lark-User-Id.
	hintTenantOnly = "tenant-token-only"
	// hintAppScope: the app lacks a scope; enable it in the developer console
	// and publish.
	hintAppScope = "app-scope-missing"
)

// errMisdirected means a bug: a request with a credential was about to go
// where it must not.
var errMisdirected = errors.New("request is not for the configured upstream")

// origin is where requests go.
type origin struct {
	scheme, host string
	// prefix stands before every raw path: upstream's own path, and before
	// that, where an outbound proxy needs an absolute target, "//" and host.
	prefix string
}

// rewrite makes Out of In. The raw path and query go out byte by byte, by
// URL.Opaque: URL.Path would be encoded anew.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	out := pr.Out
	out.URL.Scheme, out.URL.Host = p.origin.scheme, p.origin.host
	out.URL.Opaque = p.origin.prefix + x.raw
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery, out.URL.ForceQuery = "", "", "", false
	out.URL.User = nil
	out.Host = p.origin.host
	if x.upload.held() {
		// Past ReverseProxy's guard against late reads of the caller's side, of
		// which nothing is left to read.
		out.Body = x.in.Body
	}
	out.Trailer = nil // an app could put an Authorization there
	stripRequest(out.Header)
	if x.credential.injected() {
		acceptReadable(out.Header)
	}
	if x.credential == userToken {
		takeWait(out.Header)
	}
}

// gzipOnly and asIs are shared by all requests and never changed.
var gzipOnly, asIs = []string{"gzip"}, []string{"identity"}

// acceptReadable leaves upstream only encodings in which an error's code can
// be read.
func acceptReadable(h http.Header) {
	accepted := h["Accept-Encoding"]
	switch {
	case len(accepted) == 0:
	case accepts(accepted, "gzip"):
		h["Accept-Encoding"] = gzipOnly
	default:
		h["Accept-Encoding"] = asIs
	}
}

func accepts(header []string, encoding string) bool {
	for _, line := range header {
		for item := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(item, ";")
			if strings.EqualFold(strings.TrimSpace(name), encoding) {
				return true
			}
		}
	}
	return false
}

// authorize sets the one Authorization header of out. This is the rule that
// must never break: a user's token goes to the configured upstream and nowhere
// else, on an inject path, before it expires, with its own user's request.
func (p *proxy) authorize(x *exchange, out *http.Request) error {
	delete(out.Header, "Authorization")
	if out.URL.Scheme != p.origin.scheme || out.URL.Host != p.origin.host || out.Host != p.origin.host {
		return errMisdirected
	}
	switch x.credential {
	case userToken:
		if !x.class.inject {
			return errMisdirected
		}
		if err := servable(x.access, x.key, time.Now()); err != nil {
			return err
		}
		x.access.Authorize(out.Header)
	case tenantToken:
		if !x.class.tenant {
			return errMisdirected
		}
		out.Header["Authorization"] = []string{"Bearer " + x.tenant.Expose()}
	case own:
		out.Header["Authorization"] = []string{x.own}
	}
	return nil
}

// servable is the last look at a token before it is sent.
func servable(a *session.Access, key session.Key, now time.Time) error {
	switch {
	case a == nil:
		return fmt.Errorf("token source returned nothing: %w", session.ErrUnavailable)
	case a.Key != key:
		return fmt.Errorf("token source returned another user's token: %w", session.ErrUnavailable)
	case !a.Usable(now):
		return &session.RetryError{Err: session.ErrRefreshUnavailable, After: time.Second}
	}
	return nil
}

// RoundTrip sends out, and once more if Lark refuses the token that was added:
// then it is renewed and the request replayed. It is the Transport of the
// ReverseProxy.
func (p *proxy) RoundTrip(out *http.Request) (*http.Response, error) {
	x := exchangeOf(out.Context())
	res, found, err := p.attempt(x, out, 0)
	switch {
	case err != nil || found.refusal != session.TokenInvalid:
		p.remark(x, found)
		return res, err
	case x.credential == tenantToken:
		return p.replaceTenantToken(x, out, res)
	}
	renewed, err := p.cfg.Tokens.Refused(x, x.key, x.access.Version)
	if err != nil {
		res.Body.Close()
		return nil, err
	}
	next, ok := x.again(out)
	if !ok {
		x.hint, x.outcome = hintNotReplayed, RefreshedNotReplayed
		return res, nil
	}
	res.Body.Close()
	x.access, x.outcome = renewed, RefreshedReplayed
	res, found, err = p.attempt(x, next, 1)
	if err == nil && found.refusal == session.TokenInvalid {
		res.Body.Close()
		return nil, &session.ConsentRequiredError{Reason: session.TokenRefused}
	}
	p.remark(x, found)
	return res, err
}

// replaceTenantToken sends out once more with another tenant token than the one
// that Lark refused in res, if there is another. Else res is passed on: a route
// that takes only user tokens refuses every tenant token.
func (p *proxy) replaceTenantToken(x *exchange, out *http.Request, res *http.Response) (*http.Response, error) {
	other, err := p.cfg.Tenant.ReplaceTenantAccessToken(x, x.app, x.tenant)
	if err != nil {
		p.complaints.Log(x, slog.LevelWarn, "replacing a refused tenant token failed", x.app, "app_id", x.app, "error", err)
		return res, nil
	}
	if other.Equal(x.tenant) {
		return res, nil
	}
	next, ok := x.again(out)
	if !ok {
		x.hint, x.outcome = hintNotReplayed, RefreshedNotReplayed
		return res, nil
	}
	res.Body.Close()
	x.tenant = other
	res, found, err := p.attempt(x, next, 1)
	if err == nil && found.refusal != session.TokenInvalid {
		x.outcome = RefreshedReplayed
	}
	return res, err
}

// again is out for another attempt, and false when the body can't be sent
// again. The header is a copy: the transport may still look at the first one's.
func (x *exchange) again(out *http.Request) (*http.Request, bool) {
	next := *out
	next.Header = out.Header.Clone()
	if x.upload != nil {
		var err error
		if next.Body, err = x.upload.reopen(); err != nil {
			return nil, false
		}
	}
	return &next, true
}

// attempt sends out and returns Lark's answer with what it says about the
// user's token. resend counts the attempts before this one.
func (p *proxy) attempt(x *exchange, out *http.Request, resend int) (res *http.Response, found larkError, err error) {
	span := p.startAttempt(x, &out, resend)
	defer func() { p.telemetry.endAttempt(span, res, found, err) }()
	if err := p.authorize(x, out); err != nil {
		return nil, larkError{}, err
	}
	sent := time.Now()
	if res, err = p.cfg.Transport.RoundTrip(out); err != nil {
		return nil, larkError{}, p.unanswered(x, err, sent)
	}
	if res.StatusCode < 200 {
		// A change of protocols, which nobody asked for and ReverseProxy would
		// make a tunnel of; or 099, at which net/http's server panics.
		res.Body.Close()
		return nil, larkError{}, p.unanswered(x, errors.New("upstream answered with a status that ends no request"), sent)
	}
	if res.Request == nil {
		res.Request = out
	}
	stripAnswer(res.Header)
	if x.credential.injected() {
		found = p.inspect(x, res)
	}
	return res, found, nil
}

// remark keeps what an answer that is passed on says beside its content.
func (p *proxy) remark(x *exchange, found larkError) {
	switch found.refusal {
	case session.WrongTokenKind:
		x.hint, x.outcome = hintTenantOnly, WrongTokenKind
	case session.AppScopeMissing:
		x.hint, x.outcome = hintAppScope, AppScopeMissing
	case session.ScopeMissing:
		x.outcome = ScopeMissing
		x.link = p.askForScope(x, found.scopes())
	}
}

// askForScope starts a consent for one of the alternatives and returns its link.
// It is "" when there is none: what was asked for in vain is not asked for again.
func (p *proxy) askForScope(x *exchange, alternatives []string) string {
	if len(alternatives) == 0 || p.cfg.Asker == nil {
		return ""
	}
	c, err := p.cfg.Asker.Ask(x, x.key, MissingScope, alternatives)
	if err != nil {
		// Lark's answer says what is missing; it is passed on all the same.
		p.complaints.Log(x, slog.LevelWarn, "asking for a missing scope failed", "", "scope", strings.Join(alternatives, " "), "error", err)
		return ""
	}
	return c.AuthorizeURL
}

// unanswered classifies the failure of an attempt that brought no answer.
func (p *proxy) unanswered(x *exchange, err error, sent time.Time) error {
	if x.Err() != nil || x.upload.broken() {
		return errCallerGone // the caller's doing; there is nobody to tell
	}
	row := edge.UpstreamUnreachable
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	// A connection that can't be made in time is a failure to connect; only
	// Lark's silence after the request is a timeout of Lark's. net/http gives
	// both of its own timeouts no name, but the second can't come early.
	dial := errors.As(err, &op) && op.Op == "dial"
	if !dial && errors.As(err, &timeout) && timeout.Timeout() && time.Since(sent) >= p.cfg.UpstreamTimeout {
		row = edge.UpstreamTimeout
	}
	p.complaints.Log(x, slog.LevelWarn, "upstream did not answer", row.Name, "failure", row.Name, "error", err)
	return row
}

// modify adds to an answer what is ours to say.
func (p *proxy) modify(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	x.last = res
	stripAnswer(res.Trailer)
	x.w.left = res.ContentLength
	if res.Request.Method == http.MethodHead {
		x.w.left = 0
	}
	if x.hint != "" {
		res.Header.Set("X-Larkside-Hint", x.hint)
	}
	if x.link != "" {
		res.Header.Set("X-Larkside-Authorize-Url", x.link)
	}
	x.noteWait(res.Header)
	return nil
}

// stripTrailers removes upstream's use of our names from the trailers, which
// are known only now.
func (x *exchange) stripTrailers() {
	if x.last != nil && len(x.last.Trailer) > 0 {
		h := x.w.Header()
		for name := range h {
			if larkside(strings.TrimPrefix(name, http.TrailerPrefix)) {
				delete(h, name)
			}
		}
	}
}
