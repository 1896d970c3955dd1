package lark_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/larktest"
)

func onPlatform(t *testing.T, p *larktest.Platform, tokenPath string) *lark.Client {
	t.Helper()
	c, err := lark.New(lark.Config{
		AppID: larktest.AppID, Secret: func() session.Secret { return session.NewSecret(larktest.AppSecret) },
		OpenURL: p.URL, AccountsURL: p.URL, TokenURL: p.URL + tokenPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The whole life of a grant against the emulator, which shares nothing with
// this package: authorize page, exchange, user info, rotation, revocation.
func TestGrantOnPlatform(t *testing.T) {
	for _, tokenPath := range []string{"/oauth/v3/token", "/open-apis/authen/v2/oauth/token"} {
		t.Run(tokenPath, func(t *testing.T) {
			p := larktest.Start(t, nil)
			const redirect = "https://app.example/consent/callback"
			p.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RedirectURIs = []string{redirect} })
			c := onPlatform(t, p, tokenPath)

			if tokenPath == "/oauth/v3/token" { // which refuses PKCE by itself
				p.Switch(func(s *larktest.Switches) { s.V3TakesPKCE = true })
			}
			// RFC 7636, appendix B.
			proof := session.NewSecret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
			back, err := p.Consent(c.AuthorizeURL(redirect, "st", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", []string{"offline_access"}), larktest.Alice)
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(back)
			if err != nil || u.Query().Get("state") != "st" {
				t.Fatalf("%s, %v", back, err)
			}
			code := session.NewSecret(u.Query().Get("code"))
			first, err := c.Exchange(t.Context(), code, redirect, proof)
			if err != nil || len(first.Warnings) > 0 {
				t.Fatal(err, first.Warnings)
			}
			if _, err := c.Exchange(t.Context(), code, redirect, proof); asError(t, err).Class != lark.Reauthorize {
				t.Errorf("code used twice: %v", err)
			}
			if who, err := c.UserInfo(t.Context(), first.AccessToken); err != nil || who.OpenID != larktest.Alice || who.Profile.Name == "" {
				t.Errorf("%+v, %v", who, err)
			}
			second, err := c.Refresh(t.Context(), first.TokenURL, first.RefreshToken)
			if err != nil || second.TokenURL != p.URL+tokenPath {
				t.Fatal(second.TokenURL, err)
			}
			if _, err := c.Refresh(t.Context(), "", first.RefreshToken); asError(t, err).Reason != session.RefreshTokenUsed {
				t.Errorf("refresh token used twice: %v", err)
			}
			for _, err := range []error{
				c.Revoke(t.Context(), second.RefreshToken, "refresh_token"),
				c.Revoke(t.Context(), second.AccessToken, "access_token"),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if _, err := c.UserInfo(t.Context(), second.AccessToken); asError(t, err).Class != lark.Reauthorize {
				t.Errorf("revoked token: %v", err)
			}
			if _, err := c.Refresh(t.Context(), "", second.RefreshToken); asError(t, err).Class != lark.Reauthorize {
				t.Errorf("revoked refresh token: %v", err)
			}
		})
	}
}

// A grant that v3 issued goes on there, where v2 would refuse it, whatever the
// configured endpoint is.
func TestStoredGrantOfV3OnPlatform(t *testing.T) {
	const v2, v3 = "/open-apis/authen/v2/oauth/token", "/oauth/v3/token"
	p := larktest.Start(t, nil)
	c := onPlatform(t, p, v2)
	tokens, err := p.GrantV3(larktest.AppID, larktest.Alice, "offline_access")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Refresh(t.Context(), p.URL+v2, session.NewSecret(tokens.RefreshToken)); asError(t, err).Code != 20026 {
		t.Errorf("at v2: %v", err)
	}
	next, err := c.Refresh(t.Context(), p.URL+v3, session.NewSecret(tokens.RefreshToken))
	if err != nil || next.TokenURL != p.URL+v3 {
		t.Fatal(next.TokenURL, err)
	}
	if _, err := c.Refresh(t.Context(), next.TokenURL, next.RefreshToken); err != nil {
		t.Error(err)
	}
}

// Lost after the rotation and lost before it look the same from here.
func TestLostOnPlatform(t *testing.T) {
	p := larktest.Start(t, nil)
	c := onPlatform(t, p, "/oauth/v3/token")
	tokens, err := p.Grant(larktest.AppID, larktest.Alice, "offline_access")
	if err != nil {
		t.Fatal(err)
	}
	rt := session.NewSecret(tokens.RefreshToken)
	for _, fault := range []larktest.Fault{
		{Endpoint: larktest.TokenEndpoint, Drop: true},
		{Endpoint: larktest.TokenEndpoint, Code: 20050},
		{Endpoint: larktest.TokenEndpoint, Truncate: true},
	} {
		p.Fault(fault)
		if _, err := c.Refresh(t.Context(), "", rt); asError(t, err).Outcome != lark.Lost || asError(t, err).Class != lark.Retry {
			t.Errorf("%+v: %v", fault, err)
		}
	}
	p.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 99991400})
	if _, err := c.Refresh(t.Context(), "", rt); asError(t, err).RetryAfter == 0 {
		t.Errorf("rate limited: %v", err)
	}
}

func TestDeviceFlowOnPlatform(t *testing.T) {
	p := larktest.Start(t, nil)
	c := onPlatform(t, p, "/open-apis/authen/v2/oauth/token")
	d, err := c.StartDevice(t.Context(), []string{"offline_access"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PollDevice(t.Context(), d.DeviceCode); !errors.Is(err, lark.ErrAuthorizationPending) {
		t.Errorf("before the click: %v", err)
	}
	if err := p.Decline(d.UserCode, larktest.Alice); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PollDevice(t.Context(), d.DeviceCode); !errors.Is(err, lark.ErrAccessDenied) && !errors.Is(err, lark.ErrSlowDown) {
		t.Errorf("after the refusal: %v", err)
	}
	if d, err = c.StartDevice(t.Context(), []string{"offline_access"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Approve(d.VerificationURIComplete, larktest.Bob); err != nil {
		t.Fatal(err)
	}
	if tok, err := c.PollDevice(t.Context(), d.DeviceCode); err != nil || tok.RefreshToken.Empty() {
		t.Errorf("after the click: %v", err)
	}
}

func TestCardsAndUsersOnPlatform(t *testing.T) {
	p := larktest.Start(t, nil)
	c := onPlatform(t, p, "/oauth/v3/token")
	card := []byte(`{"schema":"2.0","config":{"update_multi":true},"header":{"title":{"tag":"plain_text","content":"Hi"}},"body":{"elements":[{"tag":"markdown","content":"x"}]}}`)
	id, err := c.SendCard(t.Context(), larktest.Alice, "auth-1", card)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.SendCard(t.Context(), larktest.Alice, "auth-1", card); err != nil || again != id && again != "" {
		t.Errorf("the same uuid: %q, %v", again, err)
	}
	if n := len(p.Messages(larktest.Alice)); n != 1 {
		t.Errorf("%d messages", n)
	}
	if err := c.UpdateCard(t.Context(), id, card); err != nil {
		t.Error(err)
	}
	if _, err := c.SendCard(t.Context(), "ou_0000000000000000000000000000dead", "auth-2", card); asError(t, err).Class != lark.InvalidID {
		t.Errorf("to nobody: %v", err)
	}
	p.UpdateUser(larktest.Bob, func(u *larktest.User) { u.Status = larktest.Resigned })
	users, err := c.Users(t.Context(), []string{larktest.Alice, larktest.Bob})
	if err != nil || len(users) != 2 {
		t.Fatalf("%+v, %v", users, err)
	}
	for _, u := range users {
		if want := map[string]string{larktest.Alice: "active", larktest.Bob: "resigned"}[u.OpenID]; u.Profile.Status != want {
			t.Errorf("%s is %q, want %q", u.OpenID, u.Profile.Status, want)
		}
	}
	if tok, err := c.TenantAccessToken(t.Context()); err != nil || tok.Empty() {
		t.Error(err)
	}
}

// Whichever version of the token endpoint is configured, and whichever of them
// takes what, a consent comes through at the latest when it is tried again.
func TestTokenEndpointVersions(t *testing.T) {
	const v2, v3 = "/open-apis/authen/v2/oauth/token", "/oauth/v3/token"
	for name, c := range map[string]struct {
		configured, want string
		switches         func(*larktest.Switches)
	}{
		"v2":                       {v2, v2, func(*larktest.Switches) {}},
		"v2 takes JSON only":       {v2, v2, func(s *larktest.Switches) { s.V2JSONOnly = true }},
		"v3, which refuses":        {v3, v2, func(*larktest.Switches) {}},
		"v3, which takes it":       {v3, v3, func(s *larktest.Switches) { s.V3TakesDevicePolls, s.V3TakesPKCE = true, true }},
		"v2 refuses, v3 takes it":  {v2, v3, func(s *larktest.Switches) { s.V2RefusesDevicePolls, s.V3TakesDevicePolls = true, true }},
		"v3 refuses, v2 JSON only": {v3, v2, func(s *larktest.Switches) { s.V2JSONOnly = true }},
	} {
		t.Run(name, func(t *testing.T) {
			p := larktest.Start(t, &larktest.Config{TokenPerSecond: -1, TokenPerMinute: -1})
			p.Switch(c.switches)
			client := onPlatform(t, p, c.configured)
			d, err := client.StartDevice(t.Context(), []string{"offline_access"})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Approve(d.VerificationURIComplete, larktest.Bob); err != nil {
				t.Fatal(err)
			}
			var token lark.Token
			for range 2 {
				if token, err = client.PollDevice(t.Context(), d.DeviceCode); err == nil {
					break
				}
			}
			if err != nil || token.TokenURL != p.URL+c.want {
				t.Fatalf("granted by %q, %v", token.TokenURL, err)
			}
			if next, err := client.Refresh(t.Context(), token.TokenURL, token.RefreshToken); err != nil || next.TokenURL != p.URL+c.want {
				t.Errorf("refreshed by %q, %v", next.TokenURL, err)
			}
		})
	}
}

// When both versions refuse, the configured one is asked again: neither is worse.
func TestBothTokenEndpointsRefuse(t *testing.T) {
	p := larktest.Start(t, &larktest.Config{TokenPerSecond: -1, TokenPerMinute: -1})
	p.Switch(func(s *larktest.Switches) { s.V2RefusesDevicePolls = true })
	client := onPlatform(t, p, "/open-apis/authen/v2/oauth/token")
	for range 4 {
		if _, err := client.PollDevice(t.Context(), session.NewSecret("d")); asError(t, err).Code != 20036 {
			t.Fatal(err)
		}
	}
	var asked []string
	for _, call := range p.Calls(larktest.To(larktest.TokenEndpoint)) {
		asked = append(asked, call.Path)
	}
	if got := strings.Join(asked, " "); got != "/open-apis/authen/v2/oauth/token /oauth/v3/token /open-apis/authen/v2/oauth/token /open-apis/authen/v2/oauth/token" {
		t.Error(got)
	}
}

// The secret and a refresh token go to whole addresses only: customers' webhooks
// live on Lark's host too.
func TestRefreshGoesNowhereElse(t *testing.T) {
	p := larktest.Start(t, nil)
	client := onPlatform(t, p, "/open-apis/authen/v2/oauth/token")
	for _, to := range []string{
		p.URL + "/anycross/trigger/callback/X", p.URL + "/open-apis/authen/v2/oauth/token?", p.URL + "/open-apis/authen/v2/oauth/token/../../../../../anycross/trigger/callback/X",
		p.URL + "/open-apis/authen/v1/oauth/token", "https://example.com/oauth/v3/token", p.URL,
	} {
		tokens, err := p.Grant(larktest.AppID, larktest.Alice, "offline_access")
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.Refresh(t.Context(), to, session.NewSecret(tokens.RefreshToken))
		if err != nil || got.TokenURL != p.URL+"/open-apis/authen/v2/oauth/token" || len(got.Warnings) == 0 {
			t.Errorf("%s: asked %q, %v, %v", to, got.TokenURL, got.Warnings, err)
		}
	}
	if calls := p.Calls(func(c larktest.Call) bool { return strings.Contains(c.Path, "anycross") }); len(calls) != 0 {
		t.Errorf("sent to %s", calls[0].Path)
	}
}

// Verify tells a refusal of the app from everything else, wherever Lark refuses.
func TestVerify(t *testing.T) {
	for name, c := range map[string]struct {
		app   func(*larktest.App)
		fault larktest.Endpoint // does not answer
		want  lark.Class        // empty: no error
	}{
		"accepted":                          {},
		"another secret":                    {app: func(a *larktest.App) { a.Secret = "another" }, want: lark.AppRefused},
		"refused by the device flow only":   {app: func(a *larktest.App) { a.NotInstalled = true }, want: lark.AppRefused},
		"Lark is out of reach":              {fault: larktest.TenantEndpoint, want: lark.Retry},
		"the accounts host is out of reach": {fault: larktest.DeviceEndpoint},
	} {
		t.Run(name, func(t *testing.T) {
			p := larktest.Start(t, nil)
			if c.app != nil {
				p.UpdateApp(larktest.AppID, c.app)
			}
			if c.fault != larktest.Any {
				p.Fault(larktest.Fault{Endpoint: c.fault, Drop: true, Times: -1})
			}
			err := onPlatform(t, p, "/oauth/v3/token").Verify(t.Context())
			if c.want == "" && err != nil || c.want != "" && asError(t, err).Class != c.want {
				t.Errorf("got %v", err)
			}
		})
	}
}
