package larktest

import (
	"crypto/subtle"
	"fmt"
	"regexp"
	"time"
)

// tenantToken returns the app's tenant token of one style: the same one while
// at least 30 minutes are left, else a new one beside it. [D] Lark "get custom
// app's tenant_access_token".
func (p *Platform) tenantToken(appID, style string, now time.Time) *token {
	key := style + " " + appID
	if t := p.tenant[key]; t != nil && !t.revoked && t.expires.Sub(now) >= min(30*time.Minute, p.config.TenantLife/4) {
		return t
	}
	kind := TenantToken
	if style == "app" {
		kind = AppToken
	}
	t := p.issue(&token{kind: kind, legacy: style != "v3", who: identity{app: appID}}, now, p.config.TenantLife)
	p.tenant[key] = t
	return t
}

// EndTenantTokens ends the life of every tenant and app token of an app that is
// out: each is refused (99991663), and the next fetch brings a new one.
func (p *Platform) EndTenantTokens(appID string) error {
	return p.eachTenantToken(appID, func(t *token) { t.revoked = true })
}

// SpoilTenantTokens has the tenant and app tokens of an app that are out refused,
// as [Platform.EndTenantTokens] does, while fetches go on to bring the refused
// one until less than 30 minutes of it are left. That is the documented rule,
// applied by a Lark that has not noticed. That Lark ever does so is UNCONFIRMED.
func (p *Platform) SpoilTenantTokens(appID string) error {
	return p.eachTenantToken(appID, func(t *token) { t.dead = true })
}

func (p *Platform) eachTenantToken(appID string, change func(*token)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.apps[appID] == nil {
		return fmt.Errorf("tenant tokens of %q: %w", appID, ErrNoApp)
	}
	for _, t := range p.tokens {
		if t.who.app == appID && t.who.user == nil {
			change(t)
		}
	}
	p.touch()
	return nil
}

// appIDShape is what Lark takes for an app id before it looks for one. [P] The
// ids in public examples; a malformed one is "invalid param".
var appIDShape = regexp.MustCompile(`^cli_[0-9a-z]{16,}$`)

// serveTenant is auth/v3/{tenant,app}_access_token/internal, whose errors come
// with HTTP 200. [P] probes of 2026-09-12, excitedjs/dreamux#417.
func serveTenant(p *Platform, x *exchange) answer {
	var in struct {
		AppID     string `json:"app_id"`
		AppSecret string `json:"app_secret"`
	}
	if err := x.decode(&in); err != nil || in.AppID == "" || in.AppSecret == "" {
		return tenantError(10003, "invalid param")
	}
	app := p.apps[in.AppID]
	switch {
	case app == nil && !appIDShape.MatchString(in.AppID):
		return tenantError(10003, "invalid param")
	case app == nil:
		return p.wrongCredentials("app id not exists")
	case subtle.ConstantTimeCompare([]byte(in.AppSecret), []byte(app.Secret)) != 1:
		return p.wrongCredentials("app secret invalid")
	case app.Disabled:
		return tenantError(10014, "app disabled")
	}
	x.call.AppID = app.ID
	now := p.now()
	t := p.tenantToken(app.ID, "tenant", now)
	body := object{{"code", 0}, {"msg", "ok"}, {"tenant_access_token", p.text(t)}, {"expire", seconds(t.expires.Sub(now))}}
	if x.vars["kind"] == "app_access_token" {
		body = body.with("app_access_token", p.text(p.tenantToken(app.ID, "app", now)))
	}
	return ok(body)
}

// wrongCredentials answers the code that Switches.TenantCredentialsCode says;
// msg is that of 10014.
func (p *Platform) wrongCredentials(msg string) answer {
	code := p.switches.TenantCredentialsCode
	switch code {
	case 10015:
		msg = "app secret error"
	case 99991543:
		msg = oauthCodes[code].description
	}
	return tenantError(code, msg)
}

func tenantError(code int, msg string) answer { return ok(object{{"code", code}, {"msg", msg}}) }
