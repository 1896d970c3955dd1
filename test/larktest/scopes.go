package larktest

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// scopeShape is what lark-cli takes for one. [S]
var scopeShape = regexp.MustCompile(`^[a-z0-9_.]+(:[a-z0-9_.]+)*$`)

// checkScope asks for one of the route's scopes: enabled on the app for this
// kind of token first, granted by the user then.
// [D] Lark "get OAuth code" and "generic error codes".
func (p *Platform) checkScope(x *exchange) (answer, bool) {
	need, app, kind := x.scopes, p.apps[x.token.who.app], x.token.kind
	enabled := func(s string) bool { return app.enabledFor(kind, s) }
	switch {
	case len(need) == 0:
		return answer{}, false
	case !slices.ContainsFunc(need, enabled):
		return x.refuse(99991672), true
	case kind != AccessToken:
		return answer{}, false
	}
	missing := slices.DeleteFunc(slices.Clone(need), func(s string) bool { return enabled(s) && slices.Contains(x.token.scope, s) })
	switch {
	case len(missing) == 0, len(missing) < len(need) && !p.switches.AllScopesNeeded:
		return answer{}, false
	case p.switches.AllScopesNeeded:
		x.scopes = missing
	}
	return x.refuse(99991679), true
}

// lacks names the scopes of the request, as subjects of the violations and in
// the text. Those that the app has not enabled are among them. [D]
func (x *exchange) lacks(code int, row apiCode) answer {
	violations := []map[string]string{}
	for _, s := range x.scopes {
		violations = append(violations, map[string]string{"type": "action_privilege_required", "subject": s})
	}
	a := x.fail(row.status, code, row.msg+"["+strings.Join(x.scopes, ", ")+"]")
	a.body = a.body.set("error", map[string]any{
		"log_id": x.logID, "permission_violations": violations, "helps": []map[string]string{{"url": "https://open.feishu.cn/app", "description": "developer console"}},
	})
	return a
}

// scopeProblem judges the scopes of an authorize link.
// [D] 20027; [P] 20043 for commas. Too many have no code in the documents:
// 20043 is a guess, UNCONFIRMED.
func (p *Platform) scopeProblem(a authorization, raw string) *pageProblem {
	limit := p.switches.ScopeLimit
	switch {
	case strings.Contains(raw, ","):
		return &pageProblem{20043, "scopes are separated by spaces"}
	case limit > 0 && len(a.scopes) > limit:
		return &pageProblem{20043, "more than " + itoa(limit) + " scopes"}
	}
	for _, s := range a.scopes {
		if !a.app.forUsers(s) && !(s == "offline_access" && p.switches.OfflineAccessDropped) {
			return &pageProblem{20027, s}
		}
	}
	return nil
}

// deviceScopes reads the scope parameter of device_authorization. A list with
// anything malformed in it is refused as a whole; scopes that the app has not
// enabled for users are dropped.
// [P] larksuite/cli#416 (the text, and a line break as the cause) and #746 (the
// silence about what is dropped).
func (p *Platform) deviceScopes(app *App, raw string) (kept, dropped []string, refused *answer) {
	limit := p.switches.DeviceScopeLimit
	asked := strings.Split(raw, " ")
	if raw == "" {
		asked = nil
	}
	for _, s := range asked {
		switch {
		case !scopeShape.MatchString(s), p.switches.DeviceRefusesUnknown && !p.knownScope(s), limit > 0 && len(asked) > limit:
			a := p.invalidScopes()
			return nil, nil, &a
		case app.forUsers(s):
			kept = append(kept, s)
		default:
			dropped = append(dropped, s)
		}
	}
	return kept, dropped, nil
}

func (p *Platform) invalidScopes() answer {
	body := object{{"error", "invalid_scope"}, {"error_description", "The provided scope list contains invalid or malformed scopes. Please ensure all scopes are valid."}}
	if code := p.switches.DeviceScopeCode; code != 0 {
		body = body.with("code", code)
	}
	return answer{status: http.StatusBadRequest, body: body}
}

// knownScope says whether a scope exists in this emulator's world.
func (p *Platform) knownScope(scope string) bool {
	if slices.Contains(DefaultScopes(), scope) {
		return true
	}
	for _, app := range p.apps {
		if app.enabledFor(AccessToken, scope) || app.enabledFor(TenantToken, scope) {
			return true
		}
	}
	return slices.ContainsFunc(p.routes, func(r *route) bool { return slices.Contains(r.scopes, scope) })
}
