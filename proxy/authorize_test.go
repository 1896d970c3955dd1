package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"larkside/session"
)

// The rule that must never break, by itself: whatever goes wrong before it, a token
// goes to the configured upstream, on a path that takes it, with its user's request.
func TestAuthorize(t *testing.T) {
	alice, bob := session.Key{AppID: "cli_a", OpenID: "ou_1"}, session.Key{AppID: "cli_a", OpenID: "ou_2"}
	access := func(key session.Key, life time.Duration) *session.Access {
		return session.NewAccess(&session.Session{Key: key, State: session.Active, TokenType: "Bearer", AccessToken: session.NewSecret("u-token"), ExpiresAt: time.Now().Add(life)})
	}
	user := credential{kind: userToken, access: access(alice, time.Hour)}
	tenant := credential{kind: tenantToken, tenant: session.NewSecret("t-token")}
	to := origin{scheme: "https", host: "open.example"}
	inject := class{inject: true}
	for name, c := range map[string]struct {
		credential credential
		url, host  string
		path       class
		user       session.Key
		sent, mcp  string
		err        error
	}{
		"a user's token":                     {user, "https://open.example/x", "open.example", inject, alice, "Bearer u-token", "", nil},
		"to the MCP server":                  {user, "https://open.example/mcp", "open.example", class{mcp: true}, alice, "", "u-token", nil},
		"the tenant's":                       {tenant, "https://open.example/x", "open.example", class{tenant: true}, session.Key{}, "Bearer t-token", "", nil},
		"the app's own":                      {credential{kind: ownToken, own: "Bearer own"}, "https://open.example/x", "open.example", class{}, session.Key{}, "Bearer own", "", nil},
		"none":                               {credential{}, "https://open.example/x", "open.example", class{}, session.Key{}, "", "", nil},
		"another host":                       {user, "https://evil.example/x", "open.example", inject, alice, "", "", errMisdirected},
		"another Host":                       {user, "https://open.example/x", "evil.example", inject, alice, "", "", errMisdirected},
		"another port":                       {user, "https://open.example:8443/x", "open.example", inject, alice, "", "", errMisdirected},
		"another scheme":                     {user, "http://open.example/x", "open.example", inject, alice, "", "", errMisdirected},
		"the app's own to another host":      {credential{kind: ownToken, own: "Bearer own"}, "https://evil.example/x", "open.example", inject, alice, "", "", errMisdirected},
		"a path that takes no user's token":  {user, "https://open.example/x", "open.example", class{tenant: true}, alice, "", "", errMisdirected},
		"a path that takes no tenant's":      {tenant, "https://open.example/x", "open.example", inject, alice, "", "", errMisdirected},
		"the tenant's to the MCP server":     {tenant, "https://open.example/mcp", "open.example", class{mcp: true}, alice, "", "", errMisdirected},
		"a token that is another user's":     {user, "https://open.example/x", "open.example", inject, bob, "", "", session.ErrUnavailable},
		"a token that is another app's":      {user, "https://open.example/x", "open.example", inject, session.Key{AppID: "cli_b", OpenID: "ou_1"}, "", "", session.ErrUnavailable},
		"an expired one":                     {credential{kind: userToken, access: access(alice, -time.Second)}, "https://open.example/x", "open.example", inject, alice, "", "", session.ErrRefreshUnavailable},
		"nothing where there should be some": {credential{kind: userToken}, "https://open.example/x", "open.example", inject, alice, "", "", session.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			at, err := url.Parse(c.url)
			if err != nil {
				t.Fatal(err)
			}
			out := &http.Request{URL: at, Host: c.host, Header: http.Header{"Authorization": {"Bearer evil"}, mcpTokenHeader: {"evil"}}}
			if err := c.credential.authorize(out, to, c.path, c.user); !errors.Is(err, c.err) {
				t.Errorf("got %v, want %v", err, c.err)
			}
			if got := out.Header.Get("Authorization"); got != c.sent {
				t.Errorf("Authorization: %q, want %q", got, c.sent)
			}
			if got := out.Header.Get(mcpTokenHeader); got != c.mcp {
				t.Errorf("%s: %q, want %q", mcpTokenHeader, got, c.mcp)
			}
		})
	}
}
