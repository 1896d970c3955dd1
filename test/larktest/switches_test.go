package larktest

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// turn sets switches as another process would.
func turn(t *testing.T, p *Platform, fields string) {
	t.Helper()
	wantStatus(t, control(t, p, "PATCH", "switches", fields), 200)
}

func exchangeCode(t *testing.T, p *Platform, path, code string, fields ...string) reply {
	t.Helper()
	return asApp(t, p, path, append([]string{"grant_type", "authorization_code", "code", code, "redirect_uri", redirectURI}, fields...)...)
}

// A client that asks for its codes with PKCE and exchanges them at v3 passes
// everywhere but at Lark.
func TestV3RefusesPKCE(t *testing.T) {
	p, _ := startWithRedirect(t)
	link := []string{"code_challenge", s256(verifier), "code_challenge_method", "S256"}
	code := consent(t, p, link...)
	refused := exchangeCode(t, p, v3Path, code, "code_verifier", verifier)
	want(t, refused, 400, 20049)
	if refused.text("error_description") != "The PKCE code challenge failed." {
		t.Errorf("description: %s", refused.Raw)
	}
	want(t, exchangeCode(t, p, v3Path, code, "code_verifier", verifier+"x"), 400, 20049)
	want(t, exchangeCode(t, p, v3Path, code), 400, 20049)
	want(t, exchangeCode(t, p, v2Path, code, "code_verifier", verifier), 200, 0)

	turn(t, p, `{"v3_takes_pkce":true}`)
	want(t, exchangeCode(t, p, v3Path, consent(t, p, link...), "code_verifier", verifier+"x"), 400, 20049)
	want(t, exchangeCode(t, p, v3Path, consent(t, p, link...), "code_verifier", verifier), 200, 0)
}

func TestWhereDevicesArePolled(t *testing.T) {
	p, _ := startAt(t, Config{})
	at := func(path string) reply {
		d := startDevice(t, p, "offline_access")
		p.Approve(d.text("user_code"), Alice)
		return asApp(t, p, path, "grant_type", deviceGrant, "device_code", d.text("device_code"))
	}
	refused := at(v3Path)
	want(t, refused, 400, 20036)
	wantError(t, refused, "unsupported_grant_type")
	want(t, at(v2Path), 200, 0)
	turn(t, p, `{"v3_takes_device_polls":true,"v2_refuses_device_polls":true}`)
	want(t, at(v3Path), 200, 0)
	want(t, at(v2Path), 400, 20036)
}

func TestV2JSONOnly(t *testing.T) {
	p, _ := startAt(t, Config{})
	refreshJSON := func(rt string) reply {
		return call(t, p, "POST", v2Path, "", `{"grant_type":"refresh_token","client_id":"`+AppID+`","client_secret":"`+AppSecret+`","refresh_token":"`+rt+`"}`)
	}
	want(t, refreshCall(t, p, granted(t, p, Alice).RefreshToken), 200, 0)
	want(t, refreshJSON(granted(t, p, Alice).RefreshToken), 200, 0)
	turn(t, p, `{"v2_json_only":true}`)
	rt := granted(t, p, Alice).RefreshToken
	want(t, refreshCall(t, p, rt), 400, 20063)
	want(t, refreshJSON(rt), 200, 0)
	want(t, tokenCallV3(t, p, "grant_type", "client_credentials"), 200, 0)
}

// What is reported of accounts.larksuite.com. The code is still good at v2.
func TestV3AsOnLark(t *testing.T) {
	p, _ := startWithRedirect(t)
	turn(t, p, `{"v3_as_on_lark":true}`)
	code := consent(t, p)
	refused := exchangeCode(t, p, v3Path, code)
	want(t, refused, 400, 20003)
	wantError(t, refused, "invalid_grant")
	want(t, exchangeCode(t, p, v2Path, code), 200, 0)
	want(t, tokenCallV3(t, p, "grant_type", "client_credentials"), 500, 20050)
}

func TestReplayEndsFamily(t *testing.T) {
	for _, ends := range []bool{false, true} {
		p, _ := startAt(t, Config{Switches: Switches{ReplayEndsFamily: ends}})
		first := granted(t, p, Alice)
		second := refreshCall(t, p, first.RefreshToken)
		want(t, refreshCall(t, p, first.RefreshToken), 400, 20073)
		if ends {
			want(t, call(t, p, "GET", tablesPath, second.text("access_token"), ""), 400, 99991668)
			want(t, refreshCall(t, p, second.text("refresh_token")), 400, 20064)
			continue
		}
		want(t, refreshCall(t, p, second.text("refresh_token")), 200, 0)
	}
}

func TestConsentEndsEarlier(t *testing.T) {
	for _, ends := range []bool{false, true} {
		p, _ := startAt(t, Config{Switches: Switches{ConsentEndsEarlier: ends}})
		first, others := granted(t, p, Alice), granted(t, p, Bob)
		granted(t, p, Alice)
		if ends {
			want(t, call(t, p, "GET", tablesPath, first.AccessToken, ""), 400, 99991668)
			want(t, refreshCall(t, p, first.RefreshToken), 400, 20064)
		} else {
			want(t, refreshCall(t, p, first.RefreshToken), 200, 0)
		}
		want(t, refreshCall(t, p, others.RefreshToken), 200, 0)
	}
}

func TestSpentCodesByNumber(t *testing.T) {
	p, _ := startWithRedirect(t)
	turn(t, p, `{"used_refresh_code":20064,"used_code_code":20003}`)
	rt, code := granted(t, p, Alice).RefreshToken, consent(t, p)
	want(t, refreshCall(t, p, rt), 200, 0)
	want(t, refreshCall(t, p, rt), 400, 20064)
	want(t, exchangeCode(t, p, v2Path, code), 200, 0)
	want(t, exchangeCode(t, p, v2Path, code), 400, 20003)
	turn(t, p, `{"used_refresh_code":0}`)
	want(t, refreshCall(t, p, rt), 400, 20073)
}

// The number for wrong credentials differs by endpoint and by who reports it.
func TestCredentialsCodes(t *testing.T) {
	p, _ := startAt(t, Config{})
	tenantWith := func(id, secret string) reply {
		return call(t, p, "POST", "/open-apis/auth/v3/tenant_access_token/internal", "", `{"app_id":"`+id+`","app_secret":"`+secret+`"}`)
	}
	oauthWith := func(id, secret string) reply {
		return form(t, p.URL+v2Path, "grant_type", "client_credentials", "client_id", id, "client_secret", secret)
	}
	const nobody = "cli_0123456789abcdef"
	for _, r := range []struct {
		reply
		msg string
	}{{tenantWith(AppID, "x"), "app secret invalid"}, {tenantWith(nobody, "x"), "app id not exists"}} {
		want(t, r.reply, 200, 10014)
		if r.text("msg") != r.msg {
			t.Errorf("msg %q", r.text("msg"))
		}
	}
	want(t, oauthWith(AppID, "x"), 400, 20002)
	want(t, oauthWith(nobody, "x"), 400, 20048)
	turn(t, p, `{"tenant_credentials_code":99991543,"oauth_credentials_code":99991543}`)
	want(t, tenantWith(AppID, "x"), 200, 99991543)
	want(t, tenantWith(nobody, "x"), 200, 99991543)
	want(t, oauthWith(AppID, "x"), 400, 99991543)
	want(t, oauthWith(nobody, "x"), 400, 99991543)
	want(t, oauthWith(AppID, AppSecret), 200, 0)
	turn(t, p, `{"tenant_credentials_code":10015}`)
	want(t, tenantWith(AppID, "x"), 200, 10015)
}

// Basic or body, and a proxy that takes the header away.
func TestBasicStripped(t *testing.T) {
	p, _ := startAt(t, Config{})
	withBasic := func() reply {
		r := newRequest(t, "POST", p.URL+"/oauth/v1/device_authorization", "client_id="+AppID+"&scope=offline_access")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth(AppID, AppSecret)
		return send(t, r)
	}
	want(t, withBasic(), 200, 0)
	turn(t, p, `{"basic_stripped":true}`)
	stripped := withBasic()
	want(t, stripped, 400, 20001)
	if !strings.Contains(stripped.text("error_description"), "missing required parameter: client_secret") {
		t.Errorf("description: %s", stripped.Raw)
	}
	startDevice(t, p, "offline_access")
}

// Lark says now and then that a user who is there does not exist.
func TestUserWhoSeemsMissing(t *testing.T) {
	p, _ := startAt(t, Config{})
	tokens := granted(t, p, Alice)
	wantStatus(t, control(t, p, "POST", "faults", `{"endpoint":"token","grant_type":"refresh_token","open_id":"`+Alice+`","code":20008,"times":2}`), 200)
	want(t, refreshCall(t, p, granted(t, p, Bob).RefreshToken), 200, 0)
	for range 2 {
		want(t, refreshCall(t, p, tokens.RefreshToken), 400, 20008)
	}
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/"+Alice, tenant(t, p), ""), 200, 0)
	want(t, call(t, p, "GET", "/open-apis/authen/v1/user_info", tokens.AccessToken, ""), 200, 0)
	want(t, refreshCall(t, p, tokens.RefreshToken), 200, 0)
}

// Tenant tokens die before their end, and the next fetch may or may not help.
func TestTenantTokensEnd(t *testing.T) {
	p, clock := startAt(t, Config{})
	use := func(token string) reply { return call(t, p, "POST", oqlPath, token, "{}") }
	first := tenant(t, p)
	wantStatus(t, control(t, p, "POST", "tenant_tokens/end", `{"app_id":"`+AppID+`"}`), 200)
	want(t, use(first), 400, 99991663)
	second := tenant(t, p)
	if second == first {
		t.Error("the dead token was handed out again")
	}
	want(t, use(second), 200, 0)

	wantStatus(t, control(t, p, "POST", "tenant_tokens/end", `{"sticky":true}`), 200)
	want(t, use(second), 400, 99991663)
	clock.forward(90 * time.Minute)
	if tenant(t, p) != second {
		t.Error("another token with 30 minutes left")
	}
	clock.forward(time.Second)
	third := tenant(t, p)
	if third == second {
		t.Error("the dead token was handed out with less than 30 minutes left")
	}
	want(t, use(third), 200, 0)
	wantStatus(t, control(t, p, "POST", "tenant_tokens/end", `{"app_id":"cli_x"}`), 404)
	if p.EndTenantTokens("cli_x") == nil {
		t.Error("an app that is not there")
	}
}

// doc.go has a line for each switch, and for no other.
func TestDocHasEverySwitch(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "# Answers that are not settled")
	section, _, _ = strings.Cut(section, "\n// # ")
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^//   - ([a-z0-9_]+): `).FindAllStringSubmatch(section, -1) {
		documented = append(documented, m[1])
	}
	var fields []string
	for f := range reflect.TypeFor[Switches]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields = append(fields, name)
	}
	if !slices.Equal(documented, fields) {
		t.Errorf("doc.go lists %q, want %q", documented, fields)
	}
}

func TestSwitchesOverControl(t *testing.T) {
	p, _ := startAt(t, Config{})
	got := control(t, p, "GET", "switches", "")
	wantStatus(t, got, 200)
	if got.Fields["scope_limit"] != float64(200) || got.Fields["v3_takes_pkce"] != false || got.Fields["tenant_credentials_code"] != float64(10014) {
		t.Errorf("switches: %s", got.Raw)
	}
	wantStatus(t, control(t, p, "PATCH", "switches", `{"v3_takes_pcke":true}`), 400)
	wantStatus(t, control(t, p, "PATCH", "switches", `{"v3_takes_pkce":1}`), 400)
	turn(t, p, `{"route_scopes":{"/open-apis/sheets/":["a:b"]}}`)
	s := p.Switches()
	s.RouteScopes["/open-apis/sheets/"][0] = "changed"
	if p.Switches().RouteScopes["/open-apis/sheets/"][0] != "a:b" {
		t.Error("the copy is none")
	}
}
