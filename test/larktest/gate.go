package larktest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Takes says which tokens an API route takes.
type Takes int

const (
	TakesBoth Takes = iota
	TakesUser
	TakesTenant
	takesNone // no gate: OAuth, tenant token, user_info
)

// Route is an API route that a test adds. It answers {"code":0} with data that
// names the token's owner, unless Serve is set.
type Route struct {
	Method string
	// Pattern is a path whose segments may be variables (:id); a final "*"
	// takes any rest.
	Pattern string
	Takes   Takes
	// Scopes are alternatives: the token needs one of them. None: no check.
	Scopes []string
	// Serve writes the answer; owner is the open_id, empty for a tenant token.
	Serve func(w http.ResponseWriter, r *http.Request, owner string)
}

// route is a row of the table.
type route struct {
	method, pattern string
	segments        []string
	endpoint        Endpoint
	takes           Takes
	scopes          []string
	limit           []rate
	oauth           bool
	serve           func(*Platform, *exchange) answer
	stream          func(*Platform, *exchange)
}

// match finds the route for an escaped path. Literal segments go before
// variables by the order of the table.
func (p *Platform) match(method, path string) (*route, map[string]string) {
	if path != mcpPath && !slices.ContainsFunc([]string{"/open-apis/", "/oauth/", "/callback/", "/ws/"}, func(family string) bool { return strings.HasPrefix(path, family) }) {
		return nil, nil
	}
	segments := strings.Split(path[1:], "/")
	for _, r := range p.routes {
		if r.method != method && r.method != "*" {
			continue
		}
		if vars, ok := r.matches(segments); ok {
			return r, vars
		}
	}
	return nil, nil
}

func (r *route) matches(segments []string) (map[string]string, bool) {
	var vars map[string]string
	for i, want := range r.segments {
		if want == "*" {
			return vars, true
		}
		if i >= len(segments) {
			return nil, false
		}
		name, variable := strings.CutPrefix(want, ":")
		if !variable {
			if want != segments[i] {
				return nil, false
			}
			continue
		}
		value, err := url.PathUnescape(segments[i])
		if err != nil || value == "" {
			return nil, false
		}
		if vars == nil {
			vars = map[string]string{}
		}
		vars[name] = value
	}
	return vars, len(segments) == len(r.segments)
}

// identify looks up whose token came and what the route wants of it, before
// any fault or gate.
func (p *Platform) identify(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x.scopes = p.scopesOf(x)
	if text, ok := x.credential(); ok {
		if t := p.find(text); t != nil && t.kind != RefreshToken {
			x.token = t
			x.own(p, t)
		}
	}
}

// own writes into the call whose token this is.
func (x *exchange) own(p *Platform, t *token) {
	x.call.AppID, x.call.TokenKind, x.call.TokenID = t.who.app, t.kind, t.id
	if t.who.user != nil {
		x.call.Owner = p.openID(t.who.app, t.who.user)
	}
}

func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	text, ok := strings.CutPrefix(values[0], "Bearer ")
	return text, ok && text != ""
}

// gate is the Open Platform's check of the token, in front of every API route.
// Source: Lark "generic error codes", and recorded probes for the HTTP status.
func (p *Platform) gate(x *exchange) (answer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inspect(x)
	if x.route.takes == takesNone {
		return answer{}, false
	}
	if a, refused := p.checkToken(x); refused {
		return a, true
	}
	// [D] 99991401 for the API routes; its HTTP status is a guess, UNCONFIRMED.
	if !p.apps[x.token.who.app].allows(x.r.RemoteAddr) {
		return x.refuse(99991401), true
	}
	if a, refused := p.checkScope(x); refused {
		return a, true
	}
	if wait := p.routeWait(x); wait > 0 {
		return x.rateLimited(wait), true
	}
	return answer{}, false
}

func (p *Platform) checkToken(x *exchange) (answer, bool) {
	text, ok := x.credential()
	t := x.token
	switch {
	case !ok:
		return x.refuse(99991661), true
	case t == nil && strings.HasPrefix(text, "t-"):
		p.violate(x, UnknownToken, identity{}, "tenant token")
		return x.refuse(99991663), true
	case t == nil:
		p.violate(x, UnknownToken, identity{}, "user token")
		return x.refuse(99991668), true
	case t.kind == AccessToken && x.route.takes == TakesTenant:
		return x.fail(http.StatusBadRequest, 99991668, userTokenNotSupported), true
	case t.kind != AccessToken && x.route.takes == TakesUser:
		return x.refuse(99991663), true
	}
	return p.checkLife(x, t)
}

func (p *Platform) checkLife(x *exchange, t *token) (answer, bool) {
	expired := !p.now().Before(t.expires)
	switch {
	case t.kind == AccessToken && t.revoked, t.who.user != nil && (t.who.user.Status != Active || t.who.user.Missing):
		return x.refuse(99991668), true
	case expired && t.kind == AccessToken:
		p.violate(x, ExpiredToken, t.who, "access token "+t.id)
		return x.refuse(99991677), true
	case expired, t.revoked, t.dead:
		return x.refuse(99991663), true
	case p.apps[t.who.app].Disabled:
		return x.refuse(99991662), true
	case p.apps[t.who.app].NotInstalled:
		return x.refuse(99991673), true
	}
	return answer{}, false
}

func (p *Platform) routeWait(x *exchange) (wait time.Duration) {
	if !p.config.RouteLimits || len(x.route.limit) == 0 {
		return 0
	}
	return p.admit(strings.Join([]string{"route", x.token.who.app, x.route.method, x.route.pattern}, " "), x.route.limit...)
}

// inspect books what must not have come here.
func (p *Platform) inspect(x *exchange) {
	var who identity
	if x.token != nil {
		who = x.token.who
	}
	for name := range x.r.Header {
		plain := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		if plain == "x-lark-user-id" || plain == "x-lark-app-id" || plain == "baggage" || plain == "cookie" || strings.HasPrefix(plain, "x-larkside-") {
			p.violate(x, LeakedHeader, who, name)
		}
	}
	// Each host has a header of its own for the token.
	foreign := mcpTokenHeader
	if x.route.endpoint == MCPEndpoint {
		foreign = "Authorization"
	}
	if len(x.r.Header[foreign]) > 0 {
		p.violate(x, LeakedHeader, who, foreign)
	}
	expected := x.r.Header.Get(ExpectUserHeader)
	if expected == "" {
		expected = x.r.URL.Query().Get("expect_user")
	}
	if expected != "" && x.call.Owner != "" && expected != x.call.Owner {
		p.violate(x, WrongUser, who, "the request was "+expected+"'s")
	}
}
