package larktest

import (
	"strings"
	"testing"
)

// A scope of the tenant's is no scope of the users': the authorize page says so
// to the person, and the app never hears of it.
func TestScopesByTokenType(t *testing.T) {
	p, _ := startWithRedirect(t)
	wantStatus(t, control(t, p, "PATCH", "apps/"+AppID, `{"tenant_scopes":["sheets:spreadsheet"],"user_scopes":["drive:drive"]}`), 200)
	status, location, page := visit(t, browser(t), consentURL(p, "scope", "offline_access sheets:spreadsheet"))
	if status != 400 || location != "" || !strings.Contains(page, "20027") || !strings.Contains(page, "sheets:spreadsheet") {
		t.Errorf("authorize page: %d, to %q: %s", status, location, page)
	}
	got := exchangeCode(t, p, v2Path, consent(t, p, "scope", "offline_access drive:drive"))
	if got.text("scope") != "drive:drive offline_access" {
		t.Errorf("granted: %s", got.Raw)
	}
	p.Switch(func(s *Switches) { s.RouteScopes = map[string][]string{"/open-apis/sheets/": {"sheets:spreadsheet"}} })
	want(t, call(t, p, "GET", sheetsPath, tenant(t, p), ""), 200, 0)
	want(t, call(t, p, "GET", sheetsPath, got.text("access_token"), ""), 400, 99991672)
	p.Switch(func(s *Switches) { s.RouteScopes = map[string][]string{"/open-apis/sheets/": {"drive:drive"}} })
	want(t, call(t, p, "GET", sheetsPath, got.text("access_token"), ""), 200, 0)
	want(t, call(t, p, "GET", sheetsPath, tenant(t, p), ""), 400, 99991672)
}

// One malformed scope and none is granted.
func TestMalformedDeviceScopes(t *testing.T) {
	p, _ := startAt(t, Config{})
	start := func(scope string) reply {
		return form(t, p.URL+"/oauth/v1/device_authorization", "client_id", AppID, "client_secret", AppSecret, "scope", scope)
	}
	for _, scope := range []string{"offline_access,auth:user.id:read", "offline_access\nauth:user.id:read", "offline_access  auth:user.id:read", "offline_access auth:", "offline_access Auth:User"} {
		r := start(scope)
		wantError(t, r, "invalid_scope")
		if _, coded := r.Fields["code"]; coded {
			t.Errorf("%q: %s", scope, r.Raw)
		}
	}
	want(t, start(""), 200, 0)
	want(t, start("offline_access no:such:scope"), 200, 0)
	turn(t, p, `{"device_refuses_unknown":true,"device_scope_code":20043}`)
	want(t, start("offline_access no:such:scope"), 400, 20043)
	want(t, start("offline_access contact:contact.base:readonly"), 200, 0)
	turn(t, p, `{"device_scope_limit":1}`)
	want(t, start("offline_access contact:contact.base:readonly"), 400, 20043)
	if devices := p.Devices(); len(devices) != 3 {
		t.Errorf("%d devices", len(devices))
	}
}

func TestScopeLimit(t *testing.T) {
	p, _ := startWithRedirect(t)
	visited := func(n int) int {
		status, _, _ := visit(t, browser(t), consentURL(p, "scope", strings.Repeat("auth:user.id:read ", n)))
		return status
	}
	if visited(200) != 200 || visited(201) != 400 {
		t.Error("the limit is not 200")
	}
	turn(t, p, `{"scope_limit":50}`)
	if visited(50) != 200 || visited(51) != 400 {
		t.Error("the limit is not 50")
	}
	turn(t, p, `{"scope_limit":-1}`)
	if visited(400) != 200 {
		t.Error("there is a limit")
	}
}

// violations are the subjects of an answer.
func violations(r reply) []string {
	detail, _ := r.Fields["error"].(map[string]any)
	list, _ := detail["permission_violations"].([]any)
	var subjects []string
	for _, v := range list {
		subject, _ := v.(map[string]any)["subject"].(string)
		subjects = append(subjects, subject)
	}
	return subjects
}

// Of the alternatives that Lark names not all are enabled on the app, and one
// is enough, unless it is not.
func TestAlternatives(t *testing.T) {
	p, _ := startAt(t, Config{})
	p.UpdateApp(AppID, func(a *App) { a.UserScopes = []string{"drive:drive", "sheets:spreadsheet:readonly"} })
	turn(t, p, `{"route_scopes":{"/open-apis/sheets/":["other:scope"],"GET /open-apis/sheets/v2/":["sheets:spreadsheet","drive:drive","sheets:spreadsheet:readonly"]}}`)
	read := func(scopes ...string) reply {
		return call(t, p, "GET", sheetsPath, granted(t, p, Alice, scopes...).AccessToken, "")
	}
	refused := read("offline_access")
	want(t, refused, 400, 99991679)
	if got := strings.Join(violations(refused), " "); got != "sheets:spreadsheet drive:drive sheets:spreadsheet:readonly" {
		t.Errorf("named: %s", got)
	}
	if !strings.HasSuffix(refused.text("msg"), "[sheets:spreadsheet, drive:drive, sheets:spreadsheet:readonly]") {
		t.Errorf("msg: %s", refused.text("msg"))
	}
	want(t, read("drive:drive"), 200, 0)

	p.Switch(func(s *Switches) {
		s.AllScopesNeeded = true
		s.RouteScopes["GET /open-apis/sheets/v2/"] = []string{"drive:drive", "sheets:spreadsheet:readonly"}
	})
	refused = read("drive:drive")
	want(t, refused, 400, 99991679)
	if got := violations(refused); len(got) != 1 || got[0] != "sheets:spreadsheet:readonly" {
		t.Errorf("still named: %v", got)
	}
	want(t, read("sheets:spreadsheet:readonly"), 200, 0) // added to what was granted before
}
