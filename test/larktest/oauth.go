package larktest

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// code is an authorization code.
type code struct {
	who         identity
	redirectURI string
	scopes      []string
	challenge   string
	method      string // S256 or plain
	issued      time.Time
	used        bool
	answered    bool
}

const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	// usedMemory is how long a spent code is told from one that never was.
	usedMemory = time.Hour
)

// Codes the RFCs name and Lark gives no number: they have no code field.
func rfcError(name, description string) answer {
	return answer{status: http.StatusBadRequest, body: object{{"error", name}, {"error_description", description}}}
}

// serveToken is both token endpoints.
func serveToken(p *Platform, x *exchange) answer {
	grant := x.form.Get("grant_type")
	switch {
	case x.v2() && p.switches.V2JSONOnly && !isJSON(x.r.Header.Get("Content-Type")):
		return oauthError(20063, "the body must be JSON")
	case grant == "":
		return oauthError(20001, "grant_type")
	case !p.takesGrant(x, grant):
		return oauthError(20036, "")
	}
	app, refused := p.client(x)
	if app == nil {
		return refused
	}
	if wait := p.admit("token "+app.ID, perSecond(p.config.TokenPerSecond), perMinute(p.config.TokenPerMinute)); wait > 0 {
		return x.rateLimited(wait)
	}
	switch grant {
	case "authorization_code":
		return p.exchangeCode(x, app)
	case "refresh_token":
		return p.refresh(x, app)
	case deviceGrant:
		return p.poll(x, app)
	}
	return p.clientCredentials(x, app)
}

// takesGrant: the device flow is polled at v2 only, see Switches.
func (p *Platform) takesGrant(x *exchange, grant string) bool {
	switch grant {
	case "authorization_code", "refresh_token", "client_credentials":
		return true
	case deviceGrant:
		return x.v2() && !p.switches.V2RefusesDevicePolls || !x.v2() && p.switches.V3TakesDevicePolls
	}
	return false
}

// v2 says whether the request came to the older token endpoint.
func (x *exchange) v2() bool { return strings.HasPrefix(x.call.Path, "/open-apis/") }

func (x *exchange) version() string {
	if x.v2() {
		return "v2"
	}
	return "v3"
}

// client authenticates the app, by one method only: HTTP Basic or the body,
// though v2 takes the body only.
// [D] 20070 for two methods at the token endpoint; the same at the others is a
// guess, UNCONFIRMED. [S] lark-cli starts the device flow with Basic; [P] the
// secret in the body works there too.
func (p *Platform) client(x *exchange) (*App, answer) {
	id, secret, basic := x.r.BasicAuth()
	basic = basic && !p.switches.BasicStripped
	inBody, assertion := x.form.Get("client_secret"), x.form.Get("client_assertion")
	methods := 0
	for _, used := range []bool{basic, inBody != "", assertion != ""} {
		if used {
			methods++
		}
	}
	if methods > 1 {
		return nil, oauthError(20070, "")
	}
	if basic && x.v2() {
		return nil, oauthError(20001, "client_secret: v2 takes it in the body only")
	}
	if !basic {
		id, secret = x.form.Get("client_id"), inBody
	}
	return p.checkClient(x, id, secret, methods)
}

func (p *Platform) checkClient(x *exchange, id, secret string, methods int) (*App, answer) {
	if id == "" {
		return nil, oauthError(20001, "client_id")
	}
	app := p.apps[id]
	if app == nil {
		return nil, oauthError(cmp.Or(p.switches.OAuthCredentialsCode, 20048), "")
	}
	x.call.AppID = id
	switch {
	case methods == 0:
		// [P] The words, larksuite/cli#509.
		return nil, oauthError(20001, "missing required parameter: client_secret")
	case subtle.ConstantTimeCompare([]byte(secret), []byte(app.Secret)) != 1:
		return nil, oauthError(cmp.Or(p.switches.OAuthCredentialsCode, 20002), "")
	case p.switches.AllowListCoversOAuth && !app.allows(x.r.RemoteAddr):
		return nil, oauthError(99991401, "")
	case app.Disabled:
		return nil, oauthError(20069, "")
	case app.NotInstalled:
		return nil, oauthError(20009, "")
	}
	return app, answer{}
}

// userProblem is why a user can get no tokens; 0 for none.
func userProblem(app string, u *User) int {
	switch {
	case u.Missing:
		return 20008
	case u.Status != Active:
		return 20066
	case !u.available(app):
		return 20010
	}
	return 0
}

func (p *Platform) exchangeCode(x *exchange, app *App) answer {
	if app.Unpublished {
		return oauthError(20069, "")
	}
	c := p.codes[x.form.Get("code")]
	if problem, detail := p.codeProblem(x, app, c); problem != 0 {
		return oauthError(problem, detail)
	}
	if problem := userProblem(app.ID, c.who.user); problem != 0 {
		return oauthError(problem, "")
	}
	scope, problem := narrow(x, c.scopes)
	if problem != 0 {
		return oauthError(problem, "")
	}
	c.used = true
	g := p.newGrant(c.who, c.scopes)
	a := p.tokenAnswer(x, g, scope, "")
	a.done = func(delivered bool) { c.answered = delivered }
	return a
}

func (p *Platform) codeProblem(x *exchange, app *App, c *code) (problem int, detail string) {
	switch {
	case x.form.Get("code") == "":
		return 20001, "code"
	case c == nil, !x.v2() && p.switches.V3AsOnLark:
		return 20003, ""
	case c.who.app != app.ID:
		return 20024, ""
	case c.used:
		if c.answered {
			p.violate(x, CodeReplayed, c.who, "authorization code")
		}
		return p.switches.UsedCodeCode, ""
	case p.now().Sub(c.issued) >= p.config.CodeLife:
		return 20004, ""
	case x.form.Get("redirect_uri") != c.redirectURI:
		return 20071, ""
	}
	return p.pkceProblem(c, x.form.Get("code_verifier"), x.v2())
}

var verifierShape = regexp.MustCompile(`^[A-Za-z0-9\-._~]{43,128}$`)

// pkceProblem checks RFC 7636 section 4.6. v2 tolerates a verifier for a code
// that was made without a challenge; v3 rejects it ([D], the differences listed
// on the v2 page), and each code that was made with one (see Switches). A code
// that v3 has refused can still be exchanged at v2 here: UNCONFIRMED.
func (p *Platform) pkceProblem(c *code, verifier string, v2 bool) (int, string) {
	switch {
	case c.challenge != "" && !v2 && !p.switches.V3TakesPKCE:
		return 20049, ""
	case c.challenge == "" && verifier == "", c.challenge == "" && v2:
		return 0, ""
	case c.challenge == "":
		return 20049, "code_verifier without code_challenge"
	case verifier == "":
		return 20049, "code_verifier is missing"
	case !verifierShape.MatchString(verifier):
		return 20049, "code_verifier is malformed"
	}
	if c.method == "S256" {
		sum := sha256.Sum256([]byte(verifier))
		verifier = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if subtle.ConstantTimeCompare([]byte(verifier), []byte(c.challenge)) != 1 {
		return 20049, ""
	}
	return 0, ""
}

// narrow reads the optional scope parameter, which makes this one access token
// carry less. nil means everything granted.
func narrow(x *exchange, granted []string) (scope []string, problem int) {
	asked := strings.Fields(x.form.Get("scope"))
	seen := map[string]bool{}
	for _, s := range asked {
		if seen[s] {
			return nil, 20067
		}
		seen[s] = true
		if !slices.Contains(granted, s) {
			return nil, 20068
		}
	}
	return asked, 0
}

func (p *Platform) refresh(x *exchange, app *App) answer {
	text := x.form.Get("refresh_token")
	switch {
	case text == "":
		return oauthError(20001, "refresh_token")
	case p.switches.RefreshOffFirst && app.refusesRefresh():
		return oauthError(20074, "")
	}
	t := p.find(text)
	if t == nil || t.kind != RefreshToken {
		p.violate(x, UnknownToken, identity{app: app.ID}, "refresh token that was never issued")
		return oauthError(20026, "")
	}
	x.own(p, t)
	if problem := p.refreshProblem(x, app, t); problem != 0 {
		t.redeemed = append(t.redeemed, Redemption{At: p.now(), Outcome: Refused, Code: problem, LogID: x.logID})
		return oauthError(problem, "")
	}
	scope, problem := narrow(x, p.granted(t.grant))
	if problem != 0 {
		return oauthError(problem, "")
	}
	return p.rotate(x, t, scope)
}

// refusesRefresh: the console's switch must be on and the version that has it
// published. [D] Lark "refresh user_access_token".
func (a *App) refusesRefresh() bool {
	return a.RefreshOff || a.Unpublished || !a.forUsers("offline_access")
}

func (p *Platform) refreshProblem(x *exchange, app *App, t *token) int {
	switch {
	case t.who.app != app.ID:
		return 20024
	case t.spent:
		if slices.ContainsFunc(t.redeemed, func(r Redemption) bool { return r.Outcome == Answered }) {
			p.violate(x, Replayed, t.who, "refresh token "+t.id)
		}
		if p.switches.ReplayEndsFamily {
			p.revokeWhere(func(other *token) bool { return other.grant == t.grant })
		}
		return p.switches.UsedRefreshCode
	case t.revoked:
		return 20064
	case !p.now().Before(t.expires), !p.now().Before(t.grant.at.Add(p.config.GrantLife)):
		return 20037
	case x.v2() && t.version == "v3" && !p.switches.V2TakesV3:
		return 20026
	case app.refusesRefresh():
		return 20074
	}
	return userProblem(app.ID, t.who.user)
}

// rotate spends t. The old access token stays as it is: Lark keeps it valid
// until its own expiry.
func (p *Platform) rotate(x *exchange, t *token, scope []string) answer {
	t.spent = true
	n := len(t.redeemed)
	t.redeemed = append(t.redeemed, Redemption{At: p.now(), Outcome: Unanswered, LogID: x.logID})
	a := p.tokenAnswer(x, t.grant, scope, t.id)
	a.done = func(delivered bool) {
		t.redeemed[n].Outcome = Unanswered
		if delivered {
			t.redeemed[n].Outcome = Answered
		}
	}
	return a
}

// tokenAnswer issues a pair and says so.
func (p *Platform) tokenAnswer(x *exchange, g *grant, scope []string, parent string) answer {
	if len(scope) == 0 {
		scope = p.granted(g)
	}
	access, refresh := p.pair(g, scope, parent, x.version())
	x.own(p, access)
	body := object{
		{"code", 0}, {"access_token", p.text(access)}, {"expires_in", seconds(access.life())},
		{"token_type", "Bearer"}, {"scope", strings.Join(scope, " ")},
	}
	if refresh != nil {
		body = body.with("refresh_token", p.text(refresh)).with("refresh_token_expires_in", seconds(refresh.life()))
	}
	return ok(body)
}

// seconds rounds down to whole ones: nobody is promised more than there is.
func seconds(d time.Duration) int { return int(d / time.Second) }

func (p *Platform) clientCredentials(x *exchange, app *App) answer {
	if !x.v2() && p.switches.V3AsOnLark {
		return oauthError(20050, "")
	}
	now := p.now()
	t := p.tenantToken(app.ID, "v3", now)
	return ok(object{{"code", 0}, {"access_token", p.text(t)}, {"expires_in", seconds(t.expires.Sub(now))}, {"token_type", "Bearer"}})
}

// serveRevoke is RFC 7009. Revoking an access token kills that token only;
// revoking a refresh token ends the grant's ability to refresh.
func serveRevoke(p *Platform, x *exchange) answer {
	app, refused := p.client(x)
	if app == nil {
		return refused
	}
	switch x.form.Get("token_type_hint") {
	case "", "access_token", "refresh_token":
	default:
		return rfcError("unsupported_token_type", "token_type_hint must be access_token or refresh_token")
	}
	if x.form.Get("token") == "" {
		return oauthError(20001, "token")
	}
	t := p.find(x.form.Get("token"))
	// RFC 7009 section 2.2: an invalid token is no error.
	if t != nil && t.who.app == app.ID {
		x.own(p, t)
		p.revokeToken(t)
	}
	return answer{status: http.StatusOK, empty: true}
}

func (p *Platform) revokeToken(t *token) {
	t.revoked = true
	if t.kind == RefreshToken {
		for _, other := range p.tokens {
			if other.kind == RefreshToken && other.grant == t.grant {
				other.revoked = true
			}
		}
	}
	p.touch()
}
