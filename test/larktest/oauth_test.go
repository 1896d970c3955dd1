package larktest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// clock is a settable Now.
type clock struct{ at time.Time }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) forward(d time.Duration) { c.at = c.at.Add(d) }

func startAt(t *testing.T, config Config) (*Platform, *clock) {
	t.Helper()
	c := &clock{time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)}
	config.Now = c.now
	return Start(t, &config), c
}

// reply is any JSON answer.
type reply struct {
	Status int
	Header http.Header
	Raw    []byte
	Fields map[string]any
}

func (r reply) code() int {
	code, _ := r.Fields["code"].(float64)
	return int(code)
}

func (r reply) text(name string) string {
	s, _ := r.Fields[name].(string)
	return s
}

func send(t *testing.T, r *http.Request) reply {
	t.Helper()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := reply{Status: response.StatusCode, Header: response.Header, Raw: raw}
	json.Unmarshal(raw, &out.Fields)
	return out
}

func form(t *testing.T, target string, fields ...string) reply {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	r, _ := http.NewRequest("POST", target, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return send(t, r)
}

const (
	v2Path = "/open-apis/authen/v2/oauth/token"
	v3Path = "/oauth/v3/token"
)

// tokenCall posts to the v2 endpoint as the default app, tokenCallV3 to v3.
func tokenCall(t *testing.T, p *Platform, fields ...string) reply {
	t.Helper()
	return asApp(t, p, v2Path, fields...)
}

func tokenCallV3(t *testing.T, p *Platform, fields ...string) reply {
	t.Helper()
	return asApp(t, p, v3Path, fields...)
}

func asApp(t *testing.T, p *Platform, path string, fields ...string) reply {
	t.Helper()
	return form(t, p.URL+path, append([]string{"client_id", AppID, "client_secret", AppSecret}, fields...)...)
}

func refreshCall(t *testing.T, p *Platform, rt string) reply {
	t.Helper()
	return tokenCall(t, p, "grant_type", "refresh_token", "refresh_token", rt)
}

func call(t *testing.T, p *Platform, method, path, bearer, body string) reply {
	t.Helper()
	r, err := http.NewRequest(method, p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	r.Header.Set("Content-Type", jsonType)
	return send(t, r)
}

func want(t *testing.T, r reply, status, code int) {
	t.Helper()
	if r.Status != status || r.code() != code {
		t.Errorf("got HTTP %d code %d, want %d %d: %.300s", r.Status, r.code(), status, code, r.Raw)
	}
	if r.Header.Get("X-Tt-Logid") == "" {
		t.Error("no X-Tt-Logid")
	}
}

func granted(t *testing.T, p *Platform, openID string, scopes ...string) Tokens {
	t.Helper()
	tokens, err := p.Grant(AppID, openID, scopes...)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// Without rotation that kills the old refresh token and spares the old access
// token, a client that gets either wrong would pass.
func TestRotation(t *testing.T) {
	p, clock := startAt(t, Config{})
	first := granted(t, p, Alice)
	second := refreshCall(t, p, first.RefreshToken)
	want(t, second, 200, 0)
	if second.text("refresh_token") == first.RefreshToken || second.text("access_token") == first.AccessToken {
		t.Error("a token was handed out twice")
	}
	want(t, refreshCall(t, p, first.RefreshToken), 400, 20073)
	want(t, call(t, p, "GET", "/open-apis/apaas/v1/workspaces/w/tables", first.AccessToken, ""), 200, 0)
	want(t, call(t, p, "GET", "/open-apis/apaas/v1/workspaces/w/tables", second.text("access_token"), ""), 200, 0)
	clock.forward(2 * time.Hour)
	want(t, call(t, p, "GET", "/open-apis/apaas/v1/workspaces/w/tables", first.AccessToken, ""), 401, 99991677)
	redemptions := p.Redemptions(first.RefreshToken)
	if len(redemptions) != 2 || redemptions[0].Outcome != Answered || redemptions[1].Code != 20073 {
		t.Errorf("redemptions: %+v", redemptions)
	}
	if v := p.Violations(Replayed); len(v) != 1 || v[0].OpenID != Alice {
		t.Errorf("violations: %+v", v)
	}
}

func TestRefreshCodes(t *testing.T) {
	cases := []struct {
		name   string
		config Config
		before func(*Platform, *clock)
		v3     bool // issued there
		path   string
		fields []string
		code   int
		status int
	}{
		{name: "unknown token", fields: []string{"refresh_token", "eyJ.eyJ.x"}, code: 20026},
		{name: "no token", fields: []string{"refresh_token", ""}, code: 20001},
		{name: "idle for 7 days", before: func(_ *Platform, c *clock) { c.forward(7 * 24 * time.Hour) }, code: 20037},
		{name: "expired by hand", before: func(p *Platform, _ *clock) { p.Expire(Alice, RefreshToken) }, code: 20037},
		{name: "365 days", config: Config{RefreshLife: 400 * 24 * time.Hour}, before: func(_ *Platform, c *clock) { c.forward(365 * 24 * time.Hour) }, code: 20037},
		{name: "revoked", before: func(p *Platform, _ *clock) { p.Revoke(Alice) }, code: 20064},
		{name: "v2 refuses v3's", v3: true, path: v2Path, code: 20026},
		{name: "v2 takes v3's when told", config: Config{Switches: Switches{V2TakesV3: true}}, v3: true, path: v2Path, code: 0, status: 200},
		{name: "refresh switched off", before: func(p *Platform, _ *clock) { p.UpdateApp(AppID, func(a *App) { a.RefreshOff = true }) }, code: 20074},
		{name: "app off", before: func(p *Platform, _ *clock) { p.UpdateApp(AppID, func(a *App) { a.Disabled = true }) }, code: 20069},
		{name: "app not installed", before: func(p *Platform, _ *clock) { p.UpdateApp(AppID, func(a *App) { a.NotInstalled = true }) }, code: 20009},
		{name: "frozen", before: func(p *Platform, _ *clock) { p.UpdateUser(Alice, func(u *User) { u.Status = Frozen }) }, code: 20066},
		{name: "out of availability", before: func(p *Platform, _ *clock) { p.UpdateUser(Alice, func(u *User) { u.Unavailable = []string{AppID} }) }, code: 20010},
		{name: "no such user", before: func(p *Platform, _ *clock) { p.UpdateUser(Alice, func(u *User) { u.Missing = true }) }, code: 20008},
		{name: "wrong secret", fields: []string{"client_secret", "x"}, code: 20002},
		{name: "unknown app", fields: []string{"client_id", "cli_x"}, code: 20048},
		{name: "no grant type", fields: []string{"grant_type", ""}, code: 20001},
		{name: "odd grant type", fields: []string{"grant_type", "password"}, code: 20036},
		{name: "scope twice", fields: []string{"scope", "auth:user.id:read auth:user.id:read"}, code: 20067},
		{name: "scope not granted", fields: []string{"scope", "task:task:read"}, code: 20068},
		{name: "narrowed", fields: []string{"scope", "auth:user.id:read"}, code: 0, status: 200},
		{name: "injected 20050", before: func(p *Platform, _ *clock) { p.Fault(Fault{Endpoint: TokenEndpoint, Code: 20050}) }, code: 20050, status: 500},
		{name: "injected 20072", before: func(p *Platform, _ *clock) { p.Fault(Fault{Endpoint: TokenEndpoint, Code: 20072}) }, code: 20072, status: 503},
		{name: "injected 429", before: func(p *Platform, _ *clock) { p.Fault(Fault{Endpoint: TokenEndpoint, Code: 99991400}) }, code: 99991400, status: 429},
		{name: "injected 429 as 400", before: func(p *Platform, _ *clock) {
			p.Fault(Fault{Endpoint: TokenEndpoint, Code: 99991400, Status: 400})
		}, code: 99991400, status: 400},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, clock := startAt(t, c.config)
			tokens := granted(t, p, Alice)
			if c.v3 {
				tokens, _ = p.GrantV3(AppID, Alice)
			}
			if c.before != nil {
				c.before(p, clock)
			}
			path := v3Path
			if c.path != "" {
				path = c.path
			}
			fields := append([]string{"client_id", AppID, "client_secret", AppSecret, "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken}, c.fields...)
			status := c.status
			if status == 0 {
				status = 400
			}
			want(t, form(t, p.URL+path, fields...), status, c.code)
		})
	}
}

// consentURL is the authorize page's address with the given fields changed.
func consentURL(p *Platform, fields ...string) string {
	values := url.Values{"client_id": {AppID}, "response_type": {"code"}, "redirect_uri": {"http://app.test/cb"}, "state": {"s1"}, "scope": {"offline_access auth:user.id:read"}}
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	return p.URL + "/open-apis/authen/v1/authorize?" + values.Encode()
}

func s256(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
