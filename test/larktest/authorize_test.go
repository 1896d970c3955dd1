package larktest

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	redirectURI = "http://app.test/cb"
	verifier    = "a-verifier-of-forty-three-characters-or-more-0"
)

func startWithRedirect(t *testing.T) (*Platform, *clock) {
	t.Helper()
	return startAt(t, Config{Apps: []App{
		{ID: AppID, Secret: AppSecret, Name: "Larktest Demo", RedirectURIs: []string{redirectURI, "http://app.test/cb?x=1#frag"}},
		{ID: "cli_other", Secret: "other", RedirectURIs: []string{redirectURI}},
	}})
}

// consent approves as Alice and returns the code.
func consent(t *testing.T, p *Platform, fields ...string) string {
	t.Helper()
	target, err := p.Consent(consentURL(p, fields...), Alice)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(target)
	return u.Query().Get("code")
}

func TestAuthorizePageCodes(t *testing.T) {
	many := strings.Repeat("auth:user.id:read ", 201)
	cases := []struct {
		name   string
		fields []string
		code   string
	}{
		{"unknown app", []string{"client_id", "cli_x"}, "20048"},
		{"no app", []string{"client_id", ""}, "20001"},
		{"response_type", []string{"response_type", "token"}, "20001"},
		{"unregistered redirect_uri", []string{"redirect_uri", "http://app.test/cb/"}, "20029"},
		{"scope not enabled", []string{"scope", "mail:all:write"}, "20027"},
		{"commas", []string{"scope", "offline_access,auth:user.id:read"}, "20043"},
		{"201 scopes", []string{"scope", many}, "20043"},
		{"malformed challenge", []string{"code_challenge", "short"}, "20063"},
	}
	p, _ := startWithRedirect(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, location, page := visit(t, browser(t), consentURL(p, c.fields...))
			if status != 400 || location != "" || !strings.Contains(page, c.code) {
				t.Errorf("got %d, to %q: %s", status, location, page)
			}
			if _, err := p.Consent(consentURL(p, c.fields...), Alice); !errors.Is(err, ErrRefused) {
				t.Errorf("Consent: %v", err)
			}
		})
	}
}

func TestAuthorizeClicks(t *testing.T) {
	p, _ := startWithRedirect(t)
	b := browser(t)
	link := consentURL(p, "prompt", "consent")
	_, _, page := visit(t, b, link)
	for _, s := range []string{"EMULATOR", "Larktest Demo asks for access", "Know your user id", "Approve", "Decline"} {
		if !strings.Contains(page, s) {
			t.Errorf("page lacks %q", s)
		}
	}
	if status, location, _ := submit(t, b, link, "account", Alice, "decision", "decline"); status != 303 || location != redirectURI+"?error=access_denied&state=s1" {
		t.Errorf("declined: %d %s", status, location)
	}
	status, location, _ := submit(t, b, link, "account", Alice, "decision", "approve")
	if u, _ := url.Parse(location); status != 303 || u.Query().Get("state") != "s1" || len(u.Query().Get("code")) < 64 {
		t.Errorf("approved: %d %s", status, location)
	}
	// Granted before and no prompt: on to the app without a click, but never
	// with prompt=consent.
	code := func(location string) string { u, _ := url.Parse(location); return u.Query().Get("code") }
	want(t, tokenCall(t, p, "grant_type", "authorization_code", "code", code(location), "redirect_uri", redirectURI), 200, 0)
	if status, location, _ := visit(t, b, consentURL(p)); status != 302 || code(location) == "" {
		t.Errorf("second visit: %d %s", status, location)
	}
	if status, _, _ := visit(t, b, link); status != 200 {
		t.Errorf("second visit with prompt=consent: %d", status)
	}
	p.UpdateUser(Bob, func(u *User) { u.Unavailable = []string{AppID} })
	if status, location, page := submit(t, b, link, "account", Bob, "decision", "approve"); status != 403 || location != "" || !strings.Contains(page, "20010") {
		t.Errorf("outside availability: %d %s", status, location)
	}
}

func TestRedirectKeepsQueryAndFragment(t *testing.T) {
	p, _ := startWithRedirect(t)
	target, err := p.Refuse(consentURL(p, "redirect_uri", "http://app.test/cb?x=1#frag"), Alice)
	if err != nil || target != "http://app.test/cb?x=1&error=access_denied&state=s1#frag" {
		t.Errorf("got %q, %v", target, err)
	}
}

func TestCodeExchange(t *testing.T) {
	cases := []struct {
		name   string
		link   []string
		path   string
		before func(p *Platform, c *clock, code string)
		fields []string
		code   int
	}{
		{name: "plain", code: 0},
		{name: "plain on v3", path: v3Path, code: 0},
		{name: "PKCE plain by default", link: []string{"code_challenge", verifier}, fields: []string{"code_verifier", verifier}},
		{name: "PKCE", link: []string{"code_challenge", s256(verifier), "code_challenge_method", "S256"}, fields: []string{"code_verifier", verifier}},
		{name: "verifier missing", link: []string{"code_challenge", s256(verifier), "code_challenge_method", "S256"}, code: 20049},
		{name: "verifier wrong", link: []string{"code_challenge", s256(verifier), "code_challenge_method", "S256"}, fields: []string{"code_verifier", verifier + "x"}, code: 20049},
		{name: "verifier malformed", link: []string{"code_challenge", s256("x"), "code_challenge_method", "S256"}, fields: []string{"code_verifier", "x"}, code: 20049},
		{name: "v3 rejects a verifier without a challenge", path: v3Path, fields: []string{"code_verifier", verifier}, code: 20049},
		{name: "v2 tolerates it", fields: []string{"code_verifier", verifier}},
		{name: "redirect_uri differs", fields: []string{"redirect_uri", redirectURI + "/"}, code: 20071},
		{name: "redirect_uri missing", fields: []string{"redirect_uri", ""}, code: 20071},
		{name: "code missing", fields: []string{"code", ""}, code: 20001},
		{name: "code unknown", fields: []string{"code", "nope"}, code: 20003},
		{name: "expired", before: func(_ *Platform, c *clock, _ string) { c.forward(5 * time.Minute) }, code: 20004},
		{name: "another app's", fields: []string{"client_id", "cli_other", "client_secret", "other"}, code: 20024},
		{name: "frozen meanwhile", before: func(p *Platform, _ *clock, _ string) { p.UpdateUser(Alice, func(u *User) { u.Status = Frozen }) }, code: 20066},
		{name: "scope beyond the grant", fields: []string{"scope", "task:task:read"}, code: 20068},
		{name: "scope twice", fields: []string{"scope", "offline_access offline_access"}, code: 20067},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, clock := startWithRedirect(t)
			code := consent(t, p, c.link...)
			if c.before != nil {
				c.before(p, clock, code)
			}
			path := v2Path
			if c.path != "" {
				path = c.path
			}
			fields := append([]string{"client_id", AppID, "client_secret", AppSecret, "grant_type", "authorization_code", "code", code, "redirect_uri", redirectURI}, c.fields...)
			got := form(t, p.URL+path, fields...)
			if c.code != 0 {
				want(t, got, 400, c.code)
				return
			}
			want(t, got, 200, 0)
			want(t, form(t, p.URL+path, fields...), 400, 20065)
		})
	}
}

// One method of client authentication, and JSON as well as forms.
func TestClientAuthentication(t *testing.T) {
	p, _ := startAt(t, Config{})
	post := func(path, contentType, body string, basic bool) reply {
		r := newRequest(t, "POST", p.URL+path, body)
		r.Header.Set("Content-Type", contentType)
		if basic {
			r.SetBasicAuth(AppID, AppSecret)
		}
		return send(t, r)
	}
	formType, v3, v2 := "application/x-www-form-urlencoded", v3Path, v2Path
	inBody := "grant_type=client_credentials&client_id=" + AppID + "&client_secret=" + AppSecret
	asJSON := `{"grant_type":"client_credentials","client_id":"` + AppID + `","client_secret":"` + AppSecret + `"}`
	want(t, post(v3, formType, inBody, false), 200, 0)
	want(t, post(v3, jsonType, asJSON, false), 200, 0)
	want(t, post(v2, jsonType, asJSON, false), 200, 0)
	want(t, post(v3, formType, "grant_type=client_credentials", true), 200, 0)
	want(t, post(v3, formType, inBody, true), 400, 20070)
	want(t, post(v2, jsonType, asJSON, true), 400, 20070)
	want(t, post(v3, formType, "grant_type=client_credentials&client_assertion=x", true), 400, 20070)
	want(t, post(v2, formType, "grant_type=client_credentials", true), 400, 20001)
	want(t, post(v3, formType, "grant_type=client_credentials&client_id="+AppID, false), 400, 20001)
	want(t, post("/oauth/v1/device_authorization", formType, "scope=offline_access", true), 200, 0)
	want(t, post("/oauth/v1/device_authorization", formType, inBody, true), 400, 20070)
}

func TestRevoke(t *testing.T) {
	p, _ := startAt(t, Config{})
	tokens := granted(t, p, Alice)
	revoke := func(fields ...string) reply {
		return form(t, p.URL+"/oauth/v1/revoke", append([]string{"client_id", AppID, "client_secret", AppSecret}, fields...)...)
	}
	if r := revoke("token", tokens.AccessToken, "token_type_hint", "access_token"); r.Status != 200 || len(r.Raw) != 0 {
		t.Errorf("revoke: %d %q", r.Status, r.Raw)
	}
	want(t, call(t, p, "GET", "/open-apis/apaas/v1/workspaces/w/tables", tokens.AccessToken, ""), 400, 99991668)
	next := refreshCall(t, p, tokens.RefreshToken)
	want(t, next, 200, 0) // the refresh token outlives it
	if r := revoke("token", next.text("refresh_token"), "token_type_hint", "refresh_token"); r.Status != 200 {
		t.Errorf("revoke: %d %q", r.Status, r.Raw)
	}
	want(t, refreshCall(t, p, next.text("refresh_token")), 400, 20064)
	if r := revoke("token", "never-issued"); r.Status != 200 { // RFC 7009 section 2.2
		t.Errorf("revoke unknown: %d %q", r.Status, r.Raw)
	}
	if r := revoke("token", tokens.AccessToken, "token_type_hint", "id_token"); r.Status != 400 || r.text("error") != "unsupported_token_type" {
		t.Errorf("odd hint: %d %q", r.Status, r.Raw)
	}
	want(t, revoke("token", tokens.AccessToken, "client_secret", "x"), 400, 20002)
}

func TestTokenRate(t *testing.T) {
	p, clock := startAt(t, Config{})
	client := func() reply { return tokenCall(t, p, "grant_type", "client_credentials") }
	for range 50 {
		want(t, client(), 200, 0)
	}
	limited := client()
	want(t, limited, 429, 99991400)
	if limited.Header.Get("X-Ogw-Ratelimit-Reset") != "1" {
		t.Errorf("reset: %v", limited.Header)
	}
	clock.forward(time.Second)
	for range 50 {
		want(t, client(), 200, 0)
	}
	want(t, client(), 429, 99991400)
	clock.forward(time.Second)
	for range 18 {
		for range 50 {
			client()
		}
		clock.forward(time.Second)
	}
	if limited = client(); limited.Status != 429 || limited.Header.Get("X-Ogw-Ratelimit-Reset") == "1" {
		t.Errorf("1001st call in a minute: %d %v", limited.Status, limited.Header)
	}
}

// Scopes add up over authorizations; a narrowed token carries less for once.
func TestScopesAccumulate(t *testing.T) {
	p, _ := startAt(t, Config{})
	granted(t, p, Alice, "offline_access", "auth:user.id:read")
	tokens := granted(t, p, Alice, "offline_access", "task:task:read")
	if tokens.Scope != "auth:user.id:read task:task:read offline_access" {
		t.Errorf("scope %q", tokens.Scope)
	}
	narrow := tokenCall(t, p, "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken, "scope", "task:task:read")
	if narrow.text("scope") != "task:task:read" {
		t.Errorf("narrowed: %s", narrow.Raw)
	}
	if next := refreshCall(t, p, narrow.text("refresh_token")); next.text("scope") != tokens.Scope {
		t.Errorf("after narrowing: %s", next.text("scope"))
	}
}
