package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"larkside/proxy"
	"larkside/session"
	larkapi "larkside/session/lark"
	"larkside/test/port"
)

func sees(t *testing.T, got received, want string) {
	t.Helper()
	if auth := got.auth(); !slices.Equal(auth, []string{want}) {
		t.Errorf("upstream saw Authorization %q, want only %q", auth, want)
	}
}

var user1 = "Bearer " + token("ou_1", 1)

func TestInjects(t *testing.T) {
	b := start(t, nil)
	answer := b.get(table + "?page_size=1")
	if answer.StatusCode != 200 || answer.body != `{"code":0,"msg":"success"}` {
		t.Fatalf("answer %d %q", answer.StatusCode, answer.body)
	}
	got := b.lark.one(t)
	sees(t, got, user1)
	if got.uri != table+"?page_size=1" {
		t.Errorf("upstream saw %q", got.uri)
	}
	if want := strings.TrimPrefix(b.lark.URL, "http://"); got.host != want {
		t.Errorf("upstream saw Host %q, want %q", got.host, want)
	}
}

func TestUserByOtherNames(t *testing.T) {
	b := start(t, nil)
	for _, id := range []string{"on_1", "jane"} {
		b.lark.reset()
		if a := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: "+id); a.StatusCode != 200 {
			t.Fatalf("%s: status %d", id, a.StatusCode)
		}
		sees(t, b.lark.one(t), user1)
	}
	b.lark.reset()
	fields := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: on_unknown").isError(t, 401, "authorization_required")
	if fields["reason"] != "no_session" || fields["card"] != "failed" {
		t.Errorf("unknown union_id: %v", fields)
	}
	b.lark.none(t)
	if asked := b.asker.all(); len(asked) != 0 {
		t.Errorf("someone was asked: %v", asked)
	}
}

// A user is one of one app; a resolver that errs must not change that.
func TestUserOfAnotherApp(t *testing.T) {
	b := start(t, nil)
	a := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1", "X-Lark-App-Id: cli_b")
	a.isError(t, 401, "authorization_required")
	if asked := b.asker.all(); len(asked) != 1 || asked[0].key.AppID != "cli_b" {
		t.Errorf("asked %v", asked)
	}
	b.lark.none(t)
	for _, k := range []session.Key{{AppID: app, OpenID: "ou_1"}, {AppID: "cli_b"}, {}} {
		b := start(t, func(c *proxy.Config) { c.Resolver = always(k) })
		b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: on_1", "X-Lark-App-Id: cli_b").isError(t, 503, "store_unavailable")
		b.lark.none(t)
	}
}

// always is a Resolver that gives one answer.
type always session.Key

func (a always) Resolve(context.Context, string, string) (session.Key, error) {
	return session.Key(a), nil
}

func TestEveryMethodWithBody(t *testing.T) {
	b := start(t, nil)
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		b.lark.reset()
		a := b.raw(method + " " + table + " HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 11\r\n\r\n" + `{"ids":[1]}`)
		if a.StatusCode != 200 {
			t.Fatalf("%s: status %d %s", method, a.StatusCode, a.body)
		}
		got := b.lark.one(t)
		if got.method != method || got.body != `{"ids":[1]}` {
			t.Errorf("%s: upstream saw %s with %q", method, got.method, got.body)
		}
		sees(t, got, user1)
	}
}

// What a request without a user is sent with.
func TestWithoutUser(t *testing.T) {
	for _, c := range []struct {
		name, path string
		header     []string
		want       string // Authorization; "" for user_id_required
	}{
		{"own token", mail, []string{"Authorization: Bearer t-real"}, "Bearer t-real"},
		{"own token of another scheme", mail, []string{"Authorization: Basic eA=="}, "Basic eA=="},
		{"own token, even if Connection names it", mail, []string{"Authorization: Bearer t-real", "Connection: Authorization"}, "Bearer t-real"},
		{"own token on a tenant path", pathIM, []string{"Authorization: Bearer t-real"}, "Bearer t-real"},
		{"own token on an inject path", table, []string{"Authorization: Bearer u-real"}, "Bearer u-real"},
		{"two tokens", mail, []string{"Authorization: Bearer t-real", "Authorization: Bearer t-second"}, "Bearer t-real"},
		{"nothing on a tenant path", pathIM, nil, "Bearer t-cli_a"},
		{"nothing on a tenant path, other app", pathIM, []string{"X-Lark-App-Id: cli_b"}, "Bearer t-cli_b"},
		{"placeholder on a tenant path", pathIM, []string{"Authorization: Bearer t-larkside"}, "Bearer t-cli_a"},
		{"nothing", mail, nil, ""},
		{"nothing on an inject path", table, nil, ""},
		{"larkside", mail, []string{"Authorization: Bearer larkside"}, ""},
		{"t-larkside", mail, []string{"Authorization: bearer  t-larkside"}, ""},
		{"u-larkside", mail, []string{"Authorization: Bearer u-larkside"}, ""},
		{"None of the Python SDK", mail, []string{"Authorization: Bearer None"}, ""},
		{"empty", mail, []string{"Authorization: "}, ""},
		{"token call with another method", "/open-apis/auth/v3/tenant_access_token/internal", nil, ""},
		{"other token call", "/open-apis/auth/v3/app_ticket/resend", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, nil)
			a := b.raw(append([]string{"GET " + c.path + " HTTP/1.1"}, c.header...)...)
			if c.want == "" {
				a.isError(t, 400, "user_id_required")
				b.lark.none(t)
				return
			}
			if a.StatusCode != 200 {
				t.Fatalf("status %d %s", a.StatusCode, a.body)
			}
			sees(t, b.lark.one(t), c.want)
		})
	}
}

// The app's own Authorization never survives beside a user.
func TestOwnAuthorizationIsReplaced(t *testing.T) {
	b := start(t, nil)
	for _, own := range [][]string{
		{"Authorization: Bearer larkside"}, {"Authorization: Bearer u-someone"}, {"authorization: x", "AUTHORIZATION: y"},
	} {
		b.lark.reset()
		b.get(table, own...)
		sees(t, b.lark.one(t), user1)
	}
}

// An SDK whose token cache is on asks for its app's token first. It gets a
// placeholder.
func TestTokenCall(t *testing.T) {
	const tenantCall, appCall = "/open-apis/auth/v3/tenant_access_token/internal", "/open-apis/auth/v3/app_access_token/internal"
	b := start(t, nil)
	a := b.post(tenantCall, `{"app_id":"cli_a","app_secret":"larkside"}`)
	if a.StatusCode != 200 || a.body != `{"code":0,"msg":"ok","tenant_access_token":"t-larkside","expire":7200}` {
		t.Errorf("tenant: %d %s", a.StatusCode, a.body)
	}
	if a := b.post(appCall, `{"app_secret":"larkside"}`); !strings.Contains(a.body, `"app_access_token":"t-larkside"`) {
		t.Errorf("app: %d %s", a.StatusCode, a.body)
	}
	b.lark.none(t)
	for _, body := range []string{`{"app_id":"cli_a","app_secret":"real"}`, `not json`, `{"app_secret":"real","pad":"` + strings.Repeat("x", 100<<10) + `"}`} {
		b.lark.reset()
		if a := b.post(tenantCall, body); a.StatusCode != 200 {
			t.Fatalf("forwarded: %d %s", a.StatusCode, a.body)
		}
		got := b.lark.one(t)
		if got.body != body || len(got.auth()) != 0 || got.header.Get("X-Lark-User-Id") != "" {
			t.Errorf("upstream saw %d bytes, header %v", len(got.body), got.header)
		}
	}
}

// The token endpoints and what else takes or brings credentials are closed to
// users' tokens, whatever INJECT_PATHS says.
func TestClosedPaths(t *testing.T) {
	b := start(t, func(c *proxy.Config) { c.InjectPaths = []string{"/"} })
	for _, path := range []string{
		"/open-apis/authen/v2/oauth/token", "/open-apis/authen/v1/access_token", "/open-apis/authen/v1/refresh_access_token",
		"/open-apis/authen/v1/oidc/access_token", "/open-apis/authen/v1/user_info/", "/oauth/v3/token", "/oauth", "/anycross/trigger/callback/x", "/open-apis/auth",
		"/open-apis/AUTHEN/v1/access_token", "/open-apis/authen;x=1/v1/access_token", "/open-apis/%61uthen/v1/access_token", "/OAuth/v1",
	} {
		b.get(path).isError(t, 403, "path_not_allowed")
	}
	b.lark.none(t)
	b.get("/open-apis/authen/v1/user_info")
	sees(t, b.lark.one(t), user1)
}

// Many users at once, each with its own token.
func TestUsersKeptApart(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["Authorization"]) })
	const users, rounds = 40, 50
	var group sync.WaitGroup
	for i := range users {
		id := fmt.Sprintf("ou_%d", i)
		b.tokens.grant(id)
		group.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for range rounds {
				req, _ := http.NewRequest("POST", "http://"+b.addr+table, strings.NewReader(id))
				req.Header.Set("X-Lark-User-Id", id)
				res, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body := make([]byte, 100)
				n, _ := res.Body.Read(body)
				res.Body.Close()
				if got := string(body[:n]); !strings.HasPrefix(got, "[Bearer u-"+id+"-v") {
					t.Errorf("%s was served with %s", id, got)
				}
			}
		})
	}
	group.Wait()
}

// stranger returns somebody else's token, or one that has expired.
type stranger struct{ access *session.Access }

func (s stranger) Token(ctx context.Context, _ session.Key) (*session.Access, session.Lookup, error) {
	return s.access, session.FromCache, nil
}
func (s stranger) ReplaceRefused(context.Context, session.Key, int64) (*session.Access, error) {
	return s.access, nil
}

// The last look before a token is sent doesn't trust its source.
func TestTokenIsCheckedBeforeItIsSent(t *testing.T) {
	fake := newTokens()
	other := fake.access(key("ou_2"), fake.grant("ou_2"))
	expired := fake.grant("ou_1")
	expired.expires = expired.expires.Add(-2e12 * 3600)
	for name, c := range map[string]struct {
		access *session.Access
		want   string
	}{
		"another user's": {other, "store_unavailable"},
		"none":           {nil, "store_unavailable"},
		"expired":        {fake.access(key("ou_1"), expired), "refresh_unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, func(cfg *proxy.Config) { cfg.Tokens = stranger{c.access} })
			b.get(table).isError(t, 503, c.want)
			b.lark.none(t)
		})
	}
}

// An upstream with a path of its own, and one behind an outbound proxy.
func TestUpstreamPrefixAndOutboundProxy(t *testing.T) {
	b := start(t, func(c *proxy.Config) { c.Upstream = c.Upstream.JoinPath("/gate/way/") })
	b.get(table + "?a=%2F")
	if got := b.lark.one(t); got.uri != "/gate/way"+table+"?a=%2F" {
		t.Errorf("upstream saw %q", got.uri)
	}
	var outbound *url.URL
	b = start(t, func(c *proxy.Config) {
		outbound = c.Upstream
		c.Upstream = &url.URL{Scheme: "http", Host: "lark.invalid"}
		c.Transport = proxy.NewTransport(proxy.TransportConfig{Proxy: outbound})
	})
	b.get(table + "?a=%2F")
	if got := b.lark.one(t); got.uri != "http://lark.invalid"+table+"?a=%2F" || got.host != "lark.invalid" {
		t.Errorf("outbound proxy saw %q for host %q", got.uri, got.host)
	}
}

// S39: the environment does not choose where the token goes.
func TestNoEnvironmentProxy(t *testing.T) {
	for _, tr := range proxy.NewTransport(proxy.TransportConfig{}).Both() {
		if tr.Proxy != nil {
			t.Error("the transport asks for a proxy")
		}
	}
}

func TestSettings(t *testing.T) {
	good := func() proxy.Config {
		return proxy.Config{
			Upstream: &url.URL{Scheme: "https", Host: "x"}, Apps: []string{app}, Tokens: newTokens(),
			UserTokenRefusal: larkapi.UserTokenRefusal, TenantTokenRefusal: larkapi.TenantTokenRefusal,
		}
	}
	if _, err := proxy.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*proxy.Config){
		"no upstream":       func(c *proxy.Config) { c.Upstream = nil },
		"other scheme":      func(c *proxy.Config) { c.Upstream.Scheme = "ftp" },
		"upstream query":    func(c *proxy.Config) { c.Upstream.RawQuery = "a" },
		"no app":            func(c *proxy.Config) { c.Apps = nil },
		"no tokens":         func(c *proxy.Config) { c.Tokens = nil },
		"no refusals":       func(c *proxy.Config) { c.UserTokenRefusal = nil },
		"no tenant":         func(c *proxy.Config) { c.TenantPaths = []string{"/a/"} },
		"relative path":     func(c *proxy.Config) { c.InjectPaths = []string{"a/"} },
		"dotted path":       func(c *proxy.Config) { c.InjectPaths = []string{"/a/../b/"} },
		"encoded path":      func(c *proxy.Config) { c.InjectPaths = []string{"/%61/"} },
		"negative duration": func(c *proxy.Config) { c.MaxWait = -1 },
	} {
		c := good()
		spoil(&c)
		if _, err := proxy.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// An unreachable upstream's address, for tests that need nobody there.
func nobody(t *testing.T) *url.URL {
	return &url.URL{Scheme: "http", Host: port.Address(t)}
}
