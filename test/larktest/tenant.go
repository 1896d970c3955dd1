package larktest

import (
	"crypto/subtle"
	"time"
)

// tenantToken returns the app's tenant token of one style: the same one while
// at least 30 minutes are left, else a new one beside it.
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

// serveTenant is auth/v3/{tenant,app}_access_token/internal, whose errors come
// with HTTP 200.
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
	case app == nil:
		return tenantError(10003, "invalid param")
	case subtle.ConstantTimeCompare([]byte(in.AppSecret), []byte(app.Secret)) != 1:
		return tenantError(10015, "app secret error")
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

func tenantError(code int, msg string) answer { return ok(object{{"code", code}, {"msg", msg}}) }
