package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"larkside/proxy"
	"larkside/session"
)

// defaulting makes ou_1 the default user of the first app.
func defaulting(c *proxy.Config) {
	c.DefaultUser = func(_ context.Context, appID string) (string, error) {
		if appID != app {
			return "", fmt.Errorf("no default user of %s: %w", appID, session.ErrNotFound)
		}
		return "ou_1", nil
	}
}

// A request that names nobody is the default user's, on an inject path only, and
// whoever names a user or brings a token gets what they ask for.
func TestDefaultUser(t *testing.T) {
	b := start(t, defaulting)
	b.tokens.grant("ou_2")
	for _, tc := range []struct {
		sentence, path string
		header         []string
		want           string // Authorization; or the name of a failure
	}{
		{"nothing", table, nil, "Bearer " + token("ou_1", 1)},
		{"a placeholder", table, []string{"Authorization: Bearer t-larkside"}, "Bearer " + token("ou_1", 1)},
		{"what the Python SDK sends", table, []string{"Authorization: Bearer None"}, "Bearer " + token("ou_1", 1)},
		{"another user", table, []string{"X-Lark-User-Id: ou_2"}, "Bearer " + token("ou_2", 1)},
		{"a token of its own", table, []string{"Authorization: Bearer u-own"}, "Bearer u-own"},
		{"a token of its own, Basic", table, []string{"Authorization: Basic eDp5"}, "Basic eDp5"},
		{"a tenant path", pathIM, nil, "Bearer t-" + app},
		{"no inject path", mail, nil, "user_id_required"},
		{"a path on which tokens are issued", "/open-apis/authen/v1/oidc/access_token", nil, "user_id_required"},
		{"a path with two readings", "/open-apis/apaas/%2e%2e/mail", nil, "ambiguous_path"},
		{"a user in another spelling, which is ignored", table, []string{"X_Lark_User_Id: ou_2"}, "Bearer " + token("ou_1", 1)},
		{"a malformed user", table, []string{"X-Lark-User-Id: "}, "invalid_user_id"},
		{"an app without one", table, []string{"X-Lark-App-Id: cli_b"}, "authorization_required"},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			b.lark.reset()
			got := b.raw(append([]string{"GET " + tc.path + " HTTP/1.1"}, tc.header...)...)
			if name := got.Header.Get("X-Larkside-Error"); name != "" || !strings.Contains(tc.want, " ") {
				if name != tc.want {
					t.Errorf("answer %d %s, want %s", got.StatusCode, got.body, tc.want)
				}
				b.lark.none(t)
				return
			}
			if auth := b.lark.one(t).auth(); len(auth) != 1 || auth[0] != tc.want {
				t.Errorf("Authorization %q, want %q", auth, tc.want)
			}
		})
	}
}

// No web page may use the default user: not one of another site, not one that got
// here by DNS rebinding, and not a file that somebody shared and a browser opened
// from this listener.
func TestDefaultUserIsNotForBrowsers(t *testing.T) {
	b := start(t, defaulting)
	const firefox = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	for sentence, header := range map[string][]string{
		"DNS rebinding":                    {"Host: evil.example:8080"},
		"DNS rebinding of an old browser":  {"Host: evil.example", firefox},
		"another site":                     {firefox, "Sec-Fetch-Site: cross-site"},
		"another site, with its Origin":    {"Origin: https://evil.example"},
		"another port of this machine":     {firefox, "Sec-Fetch-Site: same-site"},
		"a sandboxed frame":                {"Origin: null"},
		"a file that was opened from here": {firefox, "Sec-Fetch-Site: same-origin"},
		"a link that was clicked in chat":  {firefox, "Sec-Fetch-Site: none"},
		"an old browser":                   {firefox},
		"an old browser with a Referer":    {firefox, "Referer: https://evil.example/"},
		"an Origin in small letters":       {"origin: https://evil.example"},
		"two Origins":                      {"Origin: http://127.0.0.1", "Origin: http://evil.example"},
		"a placeholder of a token":         {"Authorization: Bearer larkside", "Sec-Fetch-Site: none"},
	} {
		t.Run(sentence, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
				got := b.raw(append([]string{method + " " + table + " HTTP/1.1", "Content-Length: 0"}, header...)...)
				if got.StatusCode != http.StatusForbidden || got.Header.Get("X-Larkside-Error") != "host_not_allowed" {
					t.Errorf("%s: %d %s", method, got.StatusCode, got.body)
				}
				if allowed := got.Header.Get("Access-Control-Allow-Origin"); allowed != "" {
					t.Errorf("%s: CORS allows %q", method, allowed)
				}
			}
			b.lark.none(t)
		})
	}
	t.Run("a preflight", func(t *testing.T) {
		got := b.raw("OPTIONS "+table+" HTTP/1.1", "Origin: https://evil.example", "Access-Control-Request-Method: POST",
			"Access-Control-Request-Headers: content-type,x-lark-user-id", "Access-Control-Request-Private-Network: true")
		if got.StatusCode != http.StatusForbidden || got.Header.Get("Access-Control-Allow-Private-Network") != "" {
			t.Errorf("%d %v", got.StatusCode, got.Header)
		}
		b.lark.none(t)
	})
	t.Run("a browser that names its user is as before", func(t *testing.T) {
		if got := b.get(table, firefox, "Sec-Fetch-Site: none"); got.StatusCode != 200 {
			t.Errorf("%d %s", got.StatusCode, got.body)
		}
	})
}

// Whoever asks by forward-auth is a mesh, which others call.
func TestDefaultUserIsNotForAMesh(t *testing.T) {
	b := start(t, defaulting)
	got := b.authz().raw("GET /-/larkside/authz" + table + " HTTP/1.1")
	got.isError(t, 400, "user_id_required")
	if auth := got.Header.Get("Authorization"); auth != "" {
		t.Errorf("Authorization %q", auth)
	}
}

// The default user's session ends like any other's. Before anybody has signed in the
// answer says what to do, and nobody is asked.
func TestDefaultUserWithoutSession(t *testing.T) {
	var found string
	var failing error = session.ErrNotFound
	b := start(t, func(c *proxy.Config) {
		c.DefaultUser = func(context.Context, string) (string, error) { return found, failing }
	})
	get := func() reply { return b.raw("GET " + table + " HTTP/1.1") }
	got := get()
	e := got.isError(t, 401, "authorization_required")
	if e["reason"] != "no_session" || e["card"] != "off" || !strings.Contains(got.body, "larkside login") || got.Header.Get("Retry-After") == "" {
		t.Errorf("%s", got.body)
	}
	if asked := b.asker.all(); len(asked) != 0 {
		t.Errorf("asked %v", asked)
	}
	failing = fmt.Errorf("reading: %w", session.ErrUnavailable)
	get().isError(t, 503, "store_unavailable")
	found, failing = "ou_new", nil
	if e := get().isError(t, 401, "authorization_required"); e["authorize_url"] == nil {
		t.Errorf("no link: %v", e)
	}
	if asked := b.asker.all(); len(asked) != 1 || asked[0].key != key("ou_new") {
		t.Errorf("asked %v", asked)
	}
	b.lark.none(t)
}
