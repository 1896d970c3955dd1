package larktest

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"
)

func startDevice(t *testing.T, p *Platform, scope string) reply {
	t.Helper()
	d := form(t, p.URL+"/oauth/v1/device_authorization", "client_id", AppID, "client_secret", AppSecret, "scope", scope)
	want(t, d, 200, 0)
	return d
}

func poll(t *testing.T, p *Platform, d reply) reply {
	t.Helper()
	return tokenCall(t, p, "grant_type", deviceGrant, "device_code", d.text("device_code"))
}

func wantError(t *testing.T, r reply, name string) {
	t.Helper()
	if r.Status != 400 || r.text("error") != name {
		t.Errorf("got HTTP %d %s, want error %s", r.Status, r.Raw, name)
	}
}

func TestDevicePolling(t *testing.T) {
	p, clock := startAt(t, Config{})
	d := startDevice(t, p, "offline_access auth:user.id:read")
	wantError(t, poll(t, p, d), "authorization_pending")
	wantError(t, poll(t, p, d), "slow_down")
	clock.forward(6 * time.Second) // the interval is 10 s by now
	wantError(t, poll(t, p, d), "slow_down")
	clock.forward(15 * time.Second)
	wantError(t, poll(t, p, d), "authorization_pending")
	if err := p.Approve(d.text("verification_uri_complete"), Bob); err != nil {
		t.Fatal(err)
	}
	clock.forward(15 * time.Second)
	got := poll(t, p, d)
	want(t, got, 200, 0)
	info := call(t, p, "GET", "/open-apis/authen/v1/user_info", got.text("access_token"), "")
	if data, _ := info.Fields["data"].(map[string]any); data["open_id"] != Bob {
		t.Errorf("user_info: %s", info.Raw)
	}
	clock.forward(15 * time.Second)
	wantError(t, poll(t, p, d), "invalid_grant")
	if len(p.Violations(CodeReplayed)) != 1 {
		t.Errorf("violations: %+v", p.Violations())
	}
}

func TestDeviceEnds(t *testing.T) {
	p, clock := startAt(t, Config{})
	declined := startDevice(t, p, "")
	if err := p.Decline(declined.text("user_code"), Alice); err != nil {
		t.Fatal(err)
	}
	wantError(t, poll(t, p, declined), "access_denied")
	expired := startDevice(t, p, "")
	clock.forward(240 * time.Second)
	wantError(t, poll(t, p, expired), "expired_token")
	if err := p.Approve(expired.text("user_code"), Alice); err == nil {
		t.Error("an expired code was approved")
	}
	wantError(t, tokenCall(t, p, "grant_type", deviceGrant, "device_code", "nope"), "invalid_grant")
}

// Scopes that the app lacks for users are left out of the grant, silently
// unless a switch says otherwise.
func TestDeviceTrimsScopes(t *testing.T) {
	p, clock := startAt(t, Config{})
	p.UpdateApp(AppID, func(a *App) { a.TenantScopes = []string{"docx:document:readonly"} })
	redeem := func() reply {
		d := startDevice(t, p, "offline_access mail:all:write docx:document:readonly")
		p.Approve(d.text("user_code"), Alice)
		clock.forward(time.Minute)
		return poll(t, p, d)
	}
	if got := redeem(); got.text("scope") != "offline_access" || got.Fields["status_message"] != nil {
		t.Errorf("got %s", got.Raw)
	}
	p.Switch(func(s *Switches) { s.DroppedScopesHint = true })
	if got := redeem(); !strings.Contains(got.text("status_message"), "mail:all:write docx:document:readonly") {
		t.Errorf("got %s", got.Raw)
	}
}

// No refresh token without offline_access, neither asked for nor enabled.
func TestOfflineAccess(t *testing.T) {
	p, _ := startAt(t, Config{})
	d := startDevice(t, p, "auth:user.id:read")
	p.Approve(d.text("user_code"), Alice)
	if got := poll(t, p, d); got.Fields["refresh_token"] != nil || got.Fields["refresh_token_expires_in"] != nil {
		t.Errorf("refresh token without asking: %s", got.Raw)
	}
	p.UpdateApp(AppID, func(a *App) { a.Scopes = []string{"auth:user.id:read"} })
	d = startDevice(t, p, "offline_access auth:user.id:read")
	p.Approve(d.text("user_code"), Alice)
	if got := poll(t, p, d); got.Fields["refresh_token"] != nil {
		t.Errorf("refresh token without the app's scope: %s", got.Raw)
	}
}

// browser follows no redirect, so that tests see where one leads.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func visit(t *testing.T, b *http.Client, address string) (status int, location, body string) {
	t.Helper()
	response, err := b.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode, response.Header.Get("Location"), readAll(t, response.Body)
}

func submit(t *testing.T, b *http.Client, address string, fields ...string) (status int, location, body string) {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	response, err := b.PostForm(address, values)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode, response.Header.Get("Location"), readAll(t, response.Body)
}

// The link has the form of Lark's, lives for four to ten minutes, and is no
// other's.
func TestDeviceLinks(t *testing.T) {
	p, _ := startAt(t, Config{RandomLives: true})
	first, second := startDevice(t, p, "offline_access"), startDevice(t, p, "offline_access")
	address, err := url.Parse(first.text("verification_uri_complete"))
	if err != nil || address.Path != "/oauth/v1/device/verify" || address.Query().Get("flow_id") == "" || address.Query().Get("user_code") != first.text("user_code") {
		t.Errorf("link: %s", address)
	}
	if first.text("verification_uri") != p.URL+"/oauth/v1/device/verify" {
		t.Errorf("link without code: %s", first.Raw)
	}
	mixed := address.Query()
	mixed.Set("user_code", second.text("user_code"))
	address.RawQuery = mixed.Encode()
	if _, _, page := visit(t, browser(t), address.String()); !strings.Contains(page, "no such code") {
		t.Errorf("another flow's code: %s", page)
	}
	lives := map[any]bool{}
	for range 20 {
		life := startDevice(t, p, "").Fields["expires_in"]
		if seconds, _ := life.(float64); seconds < 240 || seconds > 600 {
			t.Errorf("expires_in %v", life)
		}
		lives[life] = true
	}
	if len(lives) == 1 {
		t.Error("every link lives equally long")
	}
}

func TestDevicePage(t *testing.T) {
	p, _ := startAt(t, Config{})
	b := browser(t)
	d := startDevice(t, p, "offline_access auth:user.id:read")
	_, _, page := visit(t, b, d.text("verification_uri_complete"))
	for _, s := range []string{"EMULATOR", "Larktest Demo asks for access", d.text("user_code"), "Keep access while you are away", "Alice Zhang", "Bob Li"} {
		if !strings.Contains(page, s) {
			t.Errorf("device page lacks %q", s)
		}
	}
	_, _, page = submit(t, b, p.URL+devicePagePath, "user_code", d.text("user_code"), "account", Alice, "decision", "approve")
	if !strings.Contains(page, "Approved") {
		t.Errorf("after approving: %s", page)
	}
	if _, _, page = visit(t, b, d.text("verification_uri_complete")); !strings.Contains(page, "This code is approved") {
		t.Errorf("approved code is still offered: %s", page)
	}
	want(t, poll(t, p, d), 200, 0)
	if _, _, page = visit(t, b, p.URL+devicePagePath); !strings.Contains(page, "Code shown by the app") {
		t.Errorf("no form for a code: %s", page)
	}
	if _, _, page = visit(t, b, p.URL+devicePagePath+"?user_code=%3Cscript%3E"); !strings.Contains(page, "no such code") || strings.Contains(page, "<script>") {
		t.Errorf("unknown code: %s", page)
	}
}
