package doctor

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/seal"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const canary = "canary-3f1c9a77d2"

// visited is an emulator in which nothing is wrong, and a configuration for it.
func visited(t *testing.T) (*larktest.Platform, Config) {
	t.Helper()
	p := larktest.Start(t, &larktest.Config{AllowUnknown: true})
	change(t, p, func(a *larktest.App) {
		a.RedirectURIs = []string{"https://x.example/consent/callback"}
	})
	return p, Config{
		Apps: []lark.Config{toLark(p.URL)}, Scopes: []string{"offline_access", "task:task:read"}, Card: true,
		DatabaseURL: session.NewSecret("sqlite:" + filepath.Join(dbtest.TempDir(t), "x.db")),
	}
}

func change(t *testing.T, p *larktest.Platform, edit func(*larktest.App)) {
	t.Helper()
	if err := p.UpdateApp(larktest.AppID, edit); err != nil {
		t.Fatal(err)
	}
}

func toLark(url string) lark.Config {
	return lark.Config{
		AppID: larktest.AppID, Secret: func() session.Secret { return session.NewSecret(larktest.AppSecret) },
		OpenURL: url, AccountsURL: url, TokenURL: url + "/open-apis/authen/v2/oauth/token", Transport: &http.Transport{},
	}
}

// findings are those of one examination.
type findings []Finding

func examined(t *testing.T, c Config) findings {
	t.Helper()
	var text strings.Builder
	r := &Report{Out: &text}
	if err := Examine(t.Context(), c, r); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{canary, larktest.AppSecret} {
		if strings.Contains(text.String(), secret) {
			t.Errorf("the doctor shows a secret: %s", &text)
		}
	}
	for _, f := range r.findings {
		if f.Status == Fail && f.Do == "" {
			t.Errorf("%s fails and nobody knows what to do: %+v", f.Name, f)
		}
	}
	return r.findings
}

// of returns the worst finding about what, the first word of a name.
func (fs findings) of(what string) (worst Finding) {
	for _, f := range fs {
		word, _, _ := strings.Cut(f.Name, " ")
		if word == what && (worst.Name == "" || f.Status == Fail || f.Status == Warn && worst.Status == OK) {
			worst = f
		}
	}
	return worst
}

// not returns what is not ok.
func (fs findings) not() (bad findings) {
	for _, f := range fs {
		if f.Status != OK {
			bad = append(bad, f)
		}
	}
	return bad
}

func (fs findings) names() (names []string) {
	for _, f := range fs {
		word, _, _ := strings.Cut(f.Name, " ")
		names = append(names, word)
	}
	return names
}

func TestNothingWrong(t *testing.T) {
	lark, c := visited(t)
	got := examined(t, c)
	if want := strings.Fields("database keys credentials token scopes card consent clock"); !slices.Equal(got.names(), want) || len(got.not()) != 0 {
		t.Errorf("%+v", got)
	}
	if n := len(lark.Messages(larktest.Alice)); n != 0 {
		t.Errorf("%d cards were sent", n)
	}
	if d := lark.Devices(); len(d) != 1 || d[0].Polls != 1 || d[0].State != "pending" {
		t.Errorf("device flows: %+v", d)
	}
	path := strings.TrimPrefix(c.DatabaseURL.Expose(), "sqlite:")
	if files, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(files) != 0 {
		t.Errorf("the doctor made %q", files)
	}
}

// Each misconfiguration at Lark has one line, and it says which switch mends it.
// What depends on it has none.
func TestMisconfigurations(t *testing.T) {
	const (
		onlyCredentials = "database keys credentials clock"
		all             = "database keys credentials token scopes card consent clock"
	)
	type change = func(*larktest.Platform, *Config)
	app := func(edit func(*larktest.App)) change {
		return func(p *larktest.Platform, _ *Config) { p.UpdateApp(larktest.AppID, edit) }
	}
	fault := func(f larktest.Fault) change {
		return func(p *larktest.Platform, _ *Config) { f.Times = -1; p.Fault(f) }
	}
	config := func(edit func(*Config)) change { return func(_ *larktest.Platform, c *Config) { edit(c) } }
	wrongSecret := func(c *Config) {
		c.Apps[0].Secret = func() session.Secret { return session.NewSecret(canary) }
	}
	without := func(list []string, scope string) []string {
		return slices.DeleteFunc(list, func(s string) bool { return strings.HasPrefix(s, scope) })
	}
	for _, tc := range []struct {
		sentence, check string
		status          Status
		says, do        string
		change          change
		lines           string // the checks that have a line
	}{
		{"a wrong secret", "credentials", Fail, "code 10014", "copy App Secret from Credentials & Basic Info", config(wrongSecret), onlyCredentials},
		{"a wrong secret in the documents' words", "credentials", Fail, "code 10015", "copy App Secret from Credentials & Basic Info",
			func(p *larktest.Platform, c *Config) {
				p.Switch(func(s *larktest.Switches) { s.TenantCredentialsCode = 10015 })
				wrongSecret(c)
			}, onlyCredentials},
		{"a wrong secret in the words of Lark's command line client", "credentials", Fail, "code 99991543", "do not belong together",
			func(p *larktest.Platform, c *Config) {
				p.Switch(func(s *larktest.Switches) { s.TenantCredentialsCode = 99991543 })
				wrongSecret(c)
			}, onlyCredentials},
		{"an app of another brand", "credentials", Fail, "code 10014", "LARKSIDE_BRAND",
			config(func(c *Config) { c.Apps[0].AppID = "cli_a1b2c3d4e5f6a7b8" }), onlyCredentials},
		{"an app id that is none", "credentials", Fail, "code 10003", "LARKSIDE_BRAND",
			config(func(c *Config) { c.Apps[0].AppID = "cli_none" }), onlyCredentials},
		{"an app that is not enabled", "credentials", Fail, "code 10014", "have the tenant's administrator enable",
			app(func(a *larktest.App) { a.Disabled = true }), onlyCredentials},
		{"an app that is not installed", "token", Fail, "code 20009", "not installed in the tenant",
			app(func(a *larktest.App) { a.NotInstalled = true }), "database keys credentials token clock"},
		{"an app that is not published", "version", Fail, "no version", "publish a version",
			app(func(a *larktest.App) { a.Unpublished = true }), "database keys credentials token version clock"},
		{"refreshing switched off", "token", Fail, "code 20074", `switch "refresh user_access_token" on under Security Settings`,
			func(p *larktest.Platform, _ *Config) {
				p.Switch(func(s *larktest.Switches) { s.RefreshOffFirst = true })
				p.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RefreshOff = true })
			}, all},
		{"an address that is not on the list", "scopes", Warn, "code 99991401", "IP allow list",
			app(func(a *larktest.App) { a.AllowIPs = []string{"192.0.2.1"} }), "database keys credentials token scopes consent clock"},
		{"an address that is on no list for OAuth either", "token", Fail, "code 99991401", "IP allow list",
			func(p *larktest.Platform, _ *Config) {
				p.Switch(func(s *larktest.Switches) { s.AllowListCoversOAuth = true })
				p.UpdateApp(larktest.AppID, func(a *larktest.App) { a.AllowIPs = []string{"192.0.2.1"} })
			}, "database keys credentials token clock"},
		{"a token endpoint that is down", "token", Fail, "code 20072", "fails for the moment",
			fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20072}), all},
		{"a token endpoint that is no such thing", "token", Fail, "could not be checked", "LARKSIDE_TOKEN_URL",
			fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 404, Body: "404 page not found"}), all},
		{"an address where something else is", "credentials", Fail, "could not be checked", "LARKSIDE_OPEN_URL",
			fault(larktest.Fault{Endpoint: larktest.TenantEndpoint, Body: "<html>Sign in</html>"}), onlyCredentials},
		{"nothing at the address", "credentials", Fail, "refused", "can't be reached",
			config(func(c *Config) { c.Apps[0] = toLark("http://127.0.0.1:1") }), "database keys credentials"},

		{"a scope that is not enabled", "scopes", Fail, "not enabled on the app: no:such:scope", "Permissions & Scopes",
			config(func(c *Config) { c.Scopes = append(c.Scopes, "no:such:scope") }), all},
		{"a scope that is enabled for the app itself only", "scopes", Fail, "who get error 20027: task:task:read", "user token scopes",
			app(func(a *larktest.App) {
				a.Scopes, a.TenantScopes = without(a.Scopes, "task:"), []string{"task:task:read"}
			}), all},
		{"no offline_access", "scopes", Fail, "no refresh token", "enable offline_access as a user token scope",
			app(func(a *larktest.App) { a.Scopes = without(a.Scopes, "offline_access") }), all},
		{"a configuration that the app may not read", "scopes", Warn, "may not read", "application:application:self_manage",
			app(func(a *larktest.App) { a.Scopes = without(a.Scopes, "application:") }), all},

		{"no bot", "card", Fail, "no bot", "Bot feature", app(func(a *larktest.App) { a.BotOff = true }), all},
		{"a bot that was not activated", "card", Fail, "activate_status 3", "publish a version",
			app(func(a *larktest.App) { a.BotStatus = new(3) }), all},
		{"a bot that may not send", "scopes", Fail, "may send no messages", "im:message:send_as_bot",
			app(func(a *larktest.App) { a.Scopes = without(a.Scopes, "im:") }), all},
		{"a bot that is answered with nothing", "card", Warn, "could not be checked", "LARKSIDE_OPEN_URL",
			fault(larktest.Fault{Path: "/open-apis/bot/", Body: `{"code":0}`}), all},
		{"a gateway without that route", "card", Warn, "could not be checked", "something else answers at",
			fault(larktest.Fault{Path: "/open-apis/bot/", Status: 404, Body: "404 page not found"}), all},
		{"a gateway that fails", "scopes", Warn, "HTTP 503", "fails for the moment",
			func(p *larktest.Platform, _ *Config) {
				p.Fault(larktest.Fault{Path: "/open-apis/bot/", Status: 503, Times: -1})
				p.Fault(larktest.Fault{Path: "/open-apis/application/", Status: 503, Times: -1})
			}, "database keys credentials token scopes consent clock"},

		{"a list of scopes that is refused", "consent", Fail, "invalid_scope", "as Lark's console shows",
			fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Code: 20043}), all},
		{"a list of scopes that is refused without a code", "consent", Fail, "invalid_scope", "as Lark's console shows",
			func(p *larktest.Platform, c *Config) {
				p.Switch(func(s *larktest.Switches) { s.DeviceScopeLimit = 1 })
			}, all},
		{"a firewall that minds the scopes", "consent", Fail, "could not be checked", "fewer LARKSIDE_SCOPES",
			fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Status: 403, Body: "<html>Forbidden</html>"}), all},
		{"token endpoints that know no device flow", "consent", Fail, "unsupported_grant_type", "redirect flow",
			func(p *larktest.Platform, _ *Config) {
				p.Switch(func(s *larktest.Switches) { s.V2RefusesDevicePolls = true })
			}, all},
		{"a token endpoint that knows no device flow", "consent", Warn, "its other version does", "leave LARKSIDE_TOKEN_URL out",
			config(func(c *Config) {
				c.Apps[0].TokenURL = strings.Replace(c.Apps[0].TokenURL, "/open-apis/authen/v2/oauth/token", "/oauth/v3/token", 1)
			}), all},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			p, c := visited(t)
			tc.change(p, &c)
			got := examined(t, c)
			bad := got.not()
			if len(bad) != 1 {
				t.Fatalf("%d lines for one cause: %+v", len(bad), bad)
			}
			if f := got.of(tc.check); f.Status != tc.status || !strings.Contains(f.Detail, tc.says) || !strings.Contains(f.Do, tc.do) {
				t.Errorf("%+v", bad)
			}
			if names := strings.Join(got.names(), " "); names != tc.lines {
				t.Errorf("lines about %s", names)
			}
		})
	}
}

// Two apps at one Lark that can't be reached have one cause.
func TestSharedCause(t *testing.T) {
	_, c := visited(t)
	one, two := toLark("http://127.0.0.1:1"), toLark("http://127.0.0.1:1")
	two.AppID = "cli_b2"
	c.Apps = []lark.Config{one, two}
	if bad := examined(t, c).not(); len(bad) != 1 {
		t.Errorf("%+v", bad)
	}
	c.Apps[1] = toLark("http://127.0.0.1:2")
	if bad := examined(t, c).not(); len(bad) != 2 {
		t.Errorf("%+v", bad)
	}
}

func TestRedirect(t *testing.T) {
	_, c := visited(t)
	c.Card, c.RedirectURL = false, "https://x.example/consent/callback"
	got := examined(t, c)
	if len(got.not()) != 0 || got.of("redirect").Status != OK || got.of("consent").Name != "" {
		t.Errorf("%+v", got)
	}
	c.RedirectURL = "https://y.example/consent/callback"
	if f := examined(t, c).of("redirect"); f.Status != Fail || !strings.Contains(f.Detail, c.RedirectURL) {
		t.Errorf("%+v", f)
	}
}

// The clock is compared with the Date of Lark's answers.
func TestClock(t *testing.T) {
	for off, want := range map[time.Duration]Status{0: OK, -time.Minute: Warn, time.Hour: Fail} {
		platform := larktest.New(larktest.Config{AllowUnknown: true})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
			platform.ServeHTTP(w, r)
		}))
		_, c := visited(t)
		c.Apps = []lark.Config{toLark(server.URL)}
		if f := examined(t, c).of("clock"); f.Status != want {
			t.Errorf("%s away: %+v", off, f)
		}
		server.Close()
		platform.Close()
	}
}

func TestDatabase(t *testing.T) {
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		_, c := visited(t)
		c.DatabaseURL = session.NewSecret(db.URL)
		with := func(keys string) findings {
			c.EncryptionKeys = session.NewSecret(keys)
			return examined(t, c)
		}
		if f := with(process.Keys).of("database"); f.Status != OK || !strings.Contains(f.Detail, "empty") {
			t.Errorf("before the first start: %+v", f)
		}
		c.ExpectSessions = true
		if f := with(process.Keys).of("database"); f.Status != Fail || !strings.Contains(f.Detail, "LARKSIDE_EXPECT_SESSIONS") || f.Do == "" {
			t.Errorf("empty although sessions are expected: %+v", f)
		}
		put(t, db, session.NewSecret("r"))
		got := with(process.Keys)
		if d, k := got.of("database"), got.of("keys"); d.Status != OK || !strings.Contains(d.Detail, "schema version 1") || k.Status != OK || !strings.Contains(k.Detail, "test") {
			t.Errorf("%+v, %+v", d, k)
		}
		if len(got.not()) != 0 {
			t.Errorf("%+v", got.not())
		}
		newKey := seal.NewKey("other").Expose()
		if f := with(newKey).of("keys"); f.Status != Fail || !strings.Contains(f.Detail, `"test"`) {
			t.Errorf("without the key: %+v", f)
		}
		if f := with(newKey + "," + process.Keys).of("keys"); f.Status != Warn || !strings.Contains(f.Do, "keys rotate") {
			t.Errorf("before a rotation: %+v", f)
		}
		put(t, db, session.Secret{})
		if f := with(process.Keys).of("sessions"); f.Status != Warn || !strings.HasPrefix(f.Detail, "1 of them") || !strings.Contains(f.Do, "enable offline_access") {
			t.Errorf("a session without a refresh token: %+v", f)
		}
		for _, newer := range []struct {
			version, oldest int
			status          Status
		}{{98, 1, OK}, {99, 99, Fail}} {
			if _, err := db.SQL(t).Exec(fmt.Sprintf(`INSERT INTO larkside_schema VALUES (%d, %d, 0)`, newer.version, newer.oldest)); err != nil {
				t.Fatal(err)
			}
			if f := with(process.Keys).of("database"); f.Status != newer.status || !strings.Contains(f.Detail, fmt.Sprintf("schema version %d", newer.version)) {
				t.Errorf("a newer schema: %+v", f)
			}
		}
	})
}

// A key file that everybody may read protects nothing.
func TestKeyFileOpenToAll(t *testing.T) {
	_, c := visited(t)
	open, err := store.Open(t.Context(), store.Config{URL: c.DatabaseURL})
	if err != nil {
		t.Fatal(err)
	}
	open.Close()
	if f := examined(t, c).of("keys"); f.Status != OK {
		t.Errorf("mode 0600: %+v", f)
	}
	file := strings.TrimPrefix(c.DatabaseURL.Expose(), "sqlite:") + ".key"
	if err := os.Chmod(file, 0o604); err != nil {
		t.Fatal(err)
	}
	if f := examined(t, c).of("keys"); f.Status != Warn || f.Do != "chmod 600 "+file {
		t.Errorf("mode 0604: %+v", f)
	}
}

// put stores a session that has that refresh token.
func put(t *testing.T, db *dbtest.DB, refresh session.Secret) {
	t.Helper()
	open := db.Open(t, nil)
	defer open.Close()
	if _, err := open.Sessions.Put(t.Context(), session.Session{Key: session.Key{AppID: "cli_a1", OpenID: "ou_1"}, RefreshToken: refresh,
		AccessToken: session.NewSecret("u"), TokenType: "Bearer", IssuedAt: time.Now(), ExpiresAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutDatabase(t *testing.T) {
	_, c := visited(t)
	c.DatabaseURL = session.NewSecret("postgres://u:" + canary + "@127.0.0.1:1/x?sslmode=disable")
	c.EncryptionKeys = seal.NewKey("k")
	got := examined(t, c)
	if f := got.of("database"); f.Status != Fail || !strings.Contains(f.Detail, "refused") || len(got.not()) != 1 || got.of("keys").Name != "" {
		t.Errorf("%+v", got)
	}
}

// Every code of Lark's that no retry and no user mends has its remedy.
func TestRemedies(t *testing.T) {
	for _, code := range []int{20001, 20002, 20009, 20024, 20036, 20048, 20063, 20067, 20068, 20069, 20070, 20071, 20074, 20027, 20043, 99991543} {
		if remedies[code] == "" {
			t.Errorf("%d has none", code)
		}
	}
	for _, code := range []int{20002, 20009, 20048, 20069, 20074, 10003, 10014, 10015, 99991543, 99991662, 99991673, 1} {
		if english, chinese := Remedy(&lark.Error{Code: code}); english == "" || chinese == "" {
			t.Errorf("%d, which refuses the app: %q, in Chinese %q", code, english, chinese)
		}
	}
}
