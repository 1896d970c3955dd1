package larktest

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
)

// botActive is the activate_status of a bot that works. The others: 0 new, 1
// disabled by the tenant, 3 installed and not activated, 4 upgraded and not
// activated, 5 license expired, 6 plan expired.
const botActive = 2

// serveBot is bot/v3/info, which takes the tenant token and needs no scope.
// [D] Lark "get bot information" for the answer, which has no data field, and
// for 11205. [P] its HTTP status is 200: openclaw reports the message of the
// body, not the HTTP error that its client would throw. A [Fault] with Code and
// Status gives the other answer.
func serveBot(p *Platform, x *exchange) answer {
	app := p.apps[x.call.AppID]
	if !app.hasBot() {
		return x.refuse(11205)
	}
	allowed := app.AllowIPs
	if allowed == nil {
		allowed = []string{}
	}
	return ok(object{{"code", 0}, {"msg", "ok"}, {"bot", object{
		{"activate_status", app.botStatus()}, {"app_name", app.Name}, {"avatar_url", "https://s1-imfile.feishucdn.com/static-resource/v1/larktest"},
		{"ip_white_list", allowed}, {"open_id", "ou_" + digest("bot of "+app.ID)},
	}}})
}

// applicationScopes: either will do for the app itself, the second is needed
// for other apps.
var applicationScopes = []string{"application:application:self_manage", appInfoScope}

const appInfoScope = "admin:app.info:readonly"

// serveApplication is application/v6/applications/:app_id, which takes the
// tenant token.
// [D] Lark "get application information", 2025-07-10.
func serveApplication(p *Platform, x *exchange) answer {
	caller := p.apps[x.call.AppID]
	id := x.vars["app_id"]
	if id == "me" {
		id = caller.ID
	}
	app := p.apps[id]
	switch {
	case x.r.URL.Query().Get("lang") == "":
		return x.fail(http.StatusBadRequest, 99992402, "field validation failed: lang")
	case id != caller.ID && !caller.enabledFor(TenantToken, appInfoScope):
		return x.fail(http.StatusBadRequest, 210508, "insufficient permission level")
	case app == nil && !appIDShape.MatchString(id):
		return x.fail(http.StatusBadRequest, 210503, "invalid app_id")
	case app == nil:
		return x.fail(http.StatusBadRequest, 210506, "no such app")
	}
	return success(object{{"app", app.information()}})
}

// information is data.app. What only other kinds of apps have is left out.
func (a *App) information() object {
	status, online := 1, "oav_"+digest(a.ID)
	switch {
	case a.Disabled:
		status = 0
	case a.Unpublished:
		status, online = 2, ""
	}
	redirects := a.RedirectURIs
	if redirects == nil {
		redirects = []string{}
	}
	ability := "web_app"
	if a.hasBot() {
		ability = "bot"
	}
	return object{
		{"app_id", a.ID}, {"creator_id", Alice}, {"status", status}, {"scene_type", 0}, {"payment_type", 0},
		{"redirect_urls", redirects}, {"online_version_id", online}, {"unaudit_version_id", ""},
		{"app_name", a.Name}, {"avatar_url", ""}, {"description", "made up by the emulator"},
		{"scopes", a.scopeList()}, {"back_home_url", ""},
		{"i18n", []object{{{"i18n_key", "en_us"}, {"name", a.Name}, {"description", ""}, {"help_use", ""}}}},
		{"primary_language", "en_us"}, {"common_categories", []string{}},
		{"owner", object{{"type", 2}, {"owner_id", Alice}}},
		{"mobile_default_ability", ability}, {"pc_default_ability", ability},
	}
}

// digest makes an id of 32 hexadecimal digits that is always the same.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// scopeList has each scope once, with the kinds of tokens it is enabled for.
func (a *App) scopeList() []object {
	all := slices.Concat(a.Scopes, a.UserScopes, a.TenantScopes)
	slices.Sort(all)
	list := []object{}
	for _, scope := range slices.Compact(all) {
		kinds := []string{}
		if a.enabledFor(TenantToken, scope) {
			kinds = append(kinds, "tenant")
		}
		if a.forUsers(scope) {
			kinds = append(kinds, "user")
		}
		list = append(list, object{{"scope", scope}, {"description", scopeWords(scope)}, {"level", 1}, {"token_types", kinds}})
	}
	return list
}
