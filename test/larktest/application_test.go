package larktest

import (
	"fmt"
	"testing"
)

const (
	botPath         = "/open-apis/bot/v3/info"
	applicationPath = "/open-apis/application/v6/applications/"
)

func inside(t *testing.T, r reply, names ...string) map[string]any {
	t.Helper()
	fields := r.Fields
	for _, name := range names {
		inner, ok := fields[name].(map[string]any)
		if !ok {
			t.Fatalf("no %s: %s", name, r.Raw)
		}
		fields = inner
	}
	return fields
}

func TestBotInfo(t *testing.T) {
	p, _ := startAt(t, Config{})
	p.UpdateApp(AppID, func(a *App) { a.Scopes = []string{"offline_access"} }) // none is needed
	info := func() reply { return call(t, p, "GET", botPath, tenant(t, p), "") }
	bot := inside(t, info(), "bot")
	if bot["activate_status"] != float64(2) || bot["app_name"] != "Larktest Demo" || bot["open_id"] == "" || bot["avatar_url"] == "" || fmt.Sprint(bot["ip_white_list"]) != "[]" {
		t.Errorf("bot: %v", bot)
	}
	want(t, call(t, p, "GET", botPath, granted(t, p, Alice).AccessToken, ""), 400, 99991668)
	p.UpdateApp(AppID, func(a *App) { a.BotOff = true })
	want(t, info(), 200, 11205)
}

func TestApplicationInfo(t *testing.T) {
	p, _ := startAt(t, Config{Apps: []App{
		{ID: AppID, Secret: AppSecret, Name: "Orders", RedirectURIs: []string{redirectURI},
			Scopes:     []string{"application:application:self_manage", "offline_access", "task:task:read"},
			UserScopes: []string{"drive:drive"}, TenantScopes: []string{"im:message", "task:task:read"}},
		{ID: "cli_other", Secret: "other"},
	}})
	get := func(id string) reply { return call(t, p, "GET", applicationPath+id+"?lang=en_us", tenant(t, p), "") }
	app := inside(t, get(AppID), "data", "app")
	if app["app_id"] != AppID || app["app_name"] != "Orders" || app["status"] != float64(1) || app["online_version_id"] == "" || fmt.Sprint(app["redirect_urls"]) != "["+redirectURI+"]" {
		t.Errorf("app: %v", app)
	}
	types := map[string]string{}
	for _, line := range app["scopes"].([]any) {
		scope := line.(map[string]any)
		if scope["description"] == "" || scope["level"] != float64(1) {
			t.Errorf("scope: %v", scope)
		}
		types[scope["scope"].(string)] = fmt.Sprint(scope["token_types"])
	}
	for scope, want := range map[string]string{
		"application:application:self_manage": "[tenant]", "offline_access": "[user]", "task:task:read": "[tenant user]",
		"drive:drive": "[user]", "im:message": "[tenant]",
	} {
		if types[scope] != want {
			t.Errorf("%s is for %s, want %s", scope, types[scope], want)
		}
	}
	want(t, get("me"), 200, 0)
	want(t, call(t, p, "GET", applicationPath+AppID, tenant(t, p), ""), 400, 99992402)
	want(t, get("cli_other"), 400, 210508)
	p.UpdateApp(AppID, func(a *App) { a.Scopes = append(a.Scopes, "admin:app.info:readonly") })
	want(t, get("cli_other"), 200, 0)
	want(t, get("x"), 400, 210503)
	want(t, get("cli_0123456789abcdef"), 400, 210506)
	p.UpdateApp(AppID, func(a *App) { a.Scopes = []string{"offline_access"} })
	refused := get(AppID)
	want(t, refused, 400, 99991672)
	if got := violations(refused); len(got) != 2 || got[0] != "application:application:self_manage" {
		t.Errorf("named: %v", got)
	}
}

// Everything that an operator can have wrong in the console, or in front of
// Lark, can be set from another process, and shows over plain HTTP.
func TestMisconfigurations(t *testing.T) {
	fewer := func(without ...string) string {
		text := ""
		for _, s := range DefaultScopes() {
			keep := true
			for _, w := range without {
				keep = keep && s != w
			}
			if keep {
				text += fmt.Sprintf("%q,", s)
			}
		}
		return `{"scopes":[` + text[:len(text)-1] + `]}`
	}
	for _, c := range []struct {
		name, app, switches, fault string
		see                        func(t *testing.T, p *Platform)
	}{
		{name: "no bot", app: `{"bot_off":true}`, see: func(t *testing.T, p *Platform) {
			want(t, call(t, p, "GET", botPath, tenant(t, p), ""), 200, 11205)
			want(t, post(t, p, tenant(t, p), Alice, authCard, ""), 400, 230006)
		}},
		{name: "bot not enabled", app: `{"bot_status":0}`, see: func(t *testing.T, p *Platform) {
			if bot := inside(t, call(t, p, "GET", botPath, tenant(t, p), ""), "bot"); bot["activate_status"] != float64(0) {
				t.Errorf("bot: %v", bot)
			}
			want(t, post(t, p, tenant(t, p), Alice, authCard, ""), 400, 230006)
		}},
		{name: "no version published", app: `{"unpublished":true}`, see: func(t *testing.T, p *Platform) {
			app := inside(t, call(t, p, "GET", applicationPath+"me?lang=zh_cn", tenant(t, p), ""), "data", "app")
			if app["online_version_id"] != "" || app["status"] != float64(2) {
				t.Errorf("app: %v", app)
			}
			want(t, call(t, p, "GET", botPath, tenant(t, p), ""), 200, 11205)
			want(t, refreshCall(t, p, granted(t, p, Alice).RefreshToken), 400, 20074)
			if _, err := p.Consent(consentURL(p), Alice); err == nil {
				t.Error("a user consented")
			}
			want(t, form(t, p.URL+"/oauth/v1/device_authorization", "client_id", AppID, "client_secret", AppSecret), 400, 20069)
		}},
		{name: "secret changed", app: `{"secret":"another"}`, see: func(t *testing.T, p *Platform) {
			want(t, tokenCall(t, p, "grant_type", "client_credentials"), 400, 20002)
			want(t, call(t, p, "POST", "/open-apis/auth/v3/tenant_access_token/internal", "", `{"app_id":"`+AppID+`","app_secret":"`+AppSecret+`"}`), 200, 10014)
		}},
		{name: "refreshing switched off", app: `{"refresh_off":true}`, see: func(t *testing.T, p *Platform) {
			want(t, refreshCall(t, p, granted(t, p, Alice).RefreshToken), 400, 20074)
			want(t, refreshCall(t, p, "eyJ.eyJ.x"), 400, 20026)
		}},
		{name: "refreshing switched off, seen first", app: `{"refresh_off":true}`, switches: `{"refresh_off_first":true}`, see: func(t *testing.T, p *Platform) {
			want(t, refreshCall(t, p, "eyJ.eyJ.x"), 400, 20074)
		}},
		{name: "offline_access not enabled", app: fewer("offline_access"), see: func(t *testing.T, p *Platform) {
			if status, _, _ := visit(t, browser(t), consentURL(p)); status != 400 {
				t.Errorf("authorize page: %d", status)
			}
			p.Switch(func(s *Switches) { s.OfflineAccessDropped = true })
			if got := exchangeCode(t, p, v2Path, consent(t, p)); got.Fields["refresh_token"] != nil || got.text("scope") != "auth:user.id:read" {
				t.Errorf("granted: %s", got.Raw)
			}
			d := startDevice(t, p, "offline_access auth:user.id:read")
			p.Approve(d.text("user_code"), Alice)
			if got := poll(t, p, d); got.code() != 0 || got.Fields["refresh_token"] != nil {
				t.Errorf("device: %s", got.Raw)
			}
		}},
		{name: "redirect URL not registered", app: `{"redirect_uris":["http://elsewhere.test/cb"]}`, see: func(t *testing.T, p *Platform) {
			if _, err := p.Consent(consentURL(p), Alice); err == nil {
				t.Error("it was taken")
			}
			app := inside(t, call(t, p, "GET", applicationPath+"me?lang=zh_cn", tenant(t, p), ""), "data", "app")
			if fmt.Sprint(app["redirect_urls"]) != "[http://elsewhere.test/cb]" {
				t.Errorf("app: %v", app)
			}
		}},
		{name: "no scope for messages", app: fewer("im:message", "im:message:send_as_bot"), see: func(t *testing.T, p *Platform) {
			want(t, post(t, p, tenant(t, p), Alice, authCard, ""), 400, 99991672)
		}},
		{name: "no scope for contacts", app: fewer("contact:contact.base:readonly", "contact:user.base:readonly"), see: func(t *testing.T, p *Platform) {
			want(t, call(t, p, "GET", "/open-apis/contact/v3/users/"+Alice, tenant(t, p), ""), 400, 99991672)
		}},
		{name: "address not on the list", app: `{"allow_ips":["192.0.2.1","198.51.100.0/24"]}`, see: func(t *testing.T, p *Platform) {
			want(t, call(t, p, "GET", botPath, tenant(t, p), ""), 400, 99991401)
			want(t, call(t, p, "GET", tablesPath, granted(t, p, Alice).AccessToken, ""), 400, 99991401)
			want(t, call(t, p, "GET", "/open-apis/authen/v1/user_info", granted(t, p, Alice).AccessToken, ""), 400, 99991401)
			want(t, refreshCall(t, p, granted(t, p, Alice).RefreshToken), 200, 0)
			p.Switch(func(s *Switches) { s.AllowListCoversOAuth = true })
			want(t, refreshCall(t, p, granted(t, p, Alice).RefreshToken), 400, 99991401)
			p.UpdateApp(AppID, func(a *App) { a.AllowIPs = []string{"127.0.0.0/8"} })
			want(t, refreshCall(t, p, granted(t, p, Alice).RefreshToken), 200, 0)
			want(t, call(t, p, "GET", botPath, tenant(t, p), ""), 200, 0)
		}},
		{name: "a proxy's login page with 200", fault: `{"path":"/open-apis/","body":"<html>sign in</html>","times":-1}`, see: func(t *testing.T, p *Platform) {
			for _, path := range []string{botPath, v2Path, "/open-apis/authen/v1/user_info"} {
				if r := call(t, p, map[bool]string{true: "POST", false: "GET"}[path == v2Path], path, "", "{}"); r.Status != 200 || r.Header.Get("Content-Type") != "text/html" || string(r.Raw) != "<html>sign in</html>" {
					t.Errorf("%s: %d %v %s", path, r.Status, r.Header, r.Raw)
				}
			}
		}},
		{name: "a firewall's 403 for a device flow", fault: `{"endpoint":"device","status":403}`, see: func(t *testing.T, p *Platform) {
			if r := call(t, p, "POST", "/oauth/v1/device_authorization", "", "{}"); r.Status != 403 || r.Header.Get("Content-Type") != "text/html" {
				t.Errorf("%d %v %s", r.Status, r.Header, r.Raw)
			}
		}},
		{name: "a route that is not there", fault: `{"path":"/open-apis/application/","status":404,"body":"404 page not found","content_type":"text/plain","times":-1}`, see: func(t *testing.T, p *Platform) {
			if r := call(t, p, "GET", applicationPath+"me?lang=zh_cn", tenant(t, p), ""); r.Status != 404 || string(r.Raw) != "404 page not found" || r.Header.Get("Content-Type") != "text/plain" {
				t.Errorf("%d %v %s", r.Status, r.Header, r.Raw)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _ := startWithRedirect(t)
			if c.app != "" {
				wantStatus(t, control(t, p, "PATCH", "apps/"+AppID, c.app), 200)
			}
			if c.switches != "" {
				turn(t, p, c.switches)
			}
			if c.fault != "" {
				wantStatus(t, control(t, p, "POST", "faults", c.fault), 200)
			}
			c.see(t, p)
		})
	}
}
