package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"larkside/cmd/larkside/operate"
	"larkside/session"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// console is what Lark answers about the app itself.
type console struct {
	bot, app string
}

func goodConsole() *console {
	return &console{
		bot: `{"code":0,"msg":"ok","bot":{"activate_status":2,"app_name":"Orders","open_id":"ou_bot"}}`,
		app: `{"code":0,"msg":"ok","data":{"app":{"scopes":[{"scope":"offline_access"},{"scope":"calendar:calendar:read"}],"redirect_urls":["https://x.example/consent/callback"]}}}`,
	}
}

// visited is an emulator and the environment of a doctor who visits it.
func visited(t *testing.T, c *console) (*larktest.Platform, []string) {
	t.Helper()
	answer := func(text *string) func(http.ResponseWriter, *http.Request, string) {
		return func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(*text))
		}
	}
	lark := larktest.Start(t, &larktest.Config{Routes: []larktest.Route{
		{Method: "GET", Pattern: "/open-apis/bot/v3/info", Takes: larktest.TakesTenant, Serve: answer(&c.bot)},
		{Method: "GET", Pattern: "/open-apis/application/v6/applications/:app_id", Takes: larktest.TakesTenant, Serve: answer(&c.app)},
	}})
	return lark, append(toLark(lark.URL), "LARKSIDE_DATABASE_URL=sqlite:"+filepath.Join(dbtest.TempDir(t), "x.db"))
}

func toLark(url string) []string {
	return []string{"LARKSIDE_APP_ID=" + larktest.AppID, "LARKSIDE_APP_SECRET=" + larktest.AppSecret,
		"LARKSIDE_OPEN_URL=" + url, "LARKSIDE_ACCOUNTS_URL=" + url}
}

// doctored is the doctor's verdict by the first word of each check.
func doctored(t *testing.T, environ []string, args ...string) map[string]checkResult {
	t.Helper()
	got := larkside(t, environ, append([]string{"doctor", "-o", "json"}, args...)...)
	var answer struct {
		OK     bool
		Checks []checkResult
	}
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || got.err != "" {
		t.Fatalf("%v: %+v", err, got)
	}
	failed := slices.ContainsFunc(answer.Checks, func(r checkResult) bool { return r.Status == checkFail })
	if answer.OK == failed || (got.status == operate.ExitFailed) != failed {
		t.Errorf("status %d, ok %v: %s", got.status, answer.OK, got.out)
	}
	for _, secret := range []string{canary, larktest.AppSecret} {
		if strings.Contains(got.out, secret) {
			t.Errorf("the doctor shows a secret: %s", got.out)
		}
	}
	by := map[string]checkResult{}
	for _, r := range answer.Checks {
		if r.Status == checkFail && r.Do == "" {
			t.Errorf("%s fails and nobody knows what to do: %+v", r.Name, r)
		}
		word, _, _ := strings.Cut(r.Name, " ")
		if _, there := by[word]; !there || r.Status != checkOK {
			by[word] = r
		}
	}
	return by
}

func TestDoctorWithNothingWrong(t *testing.T) {
	lark, environ := visited(t, goodConsole())
	got := larkside(t, environ, "doctor")
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	if got.status != operate.ExitDone || got.err != "" || len(lines) != 9 {
		t.Errorf("%+v", got)
	}
	for i, want := range []string{"settings: ", "database: SQLite, empty", "keys: nothing is sealed yet", "credentials of cli_", "card of cli_", "scopes of cli_", "token endpoint for cli_", "consent for cli_", "clock: within 10s of Lark's"} {
		if i < len(lines) && !strings.HasPrefix(lines[i], "ok    "+want) {
			t.Errorf("line %d is %s", i, lines[i])
		}
	}
	if n := len(lark.Messages(larktest.Alice)); n != 0 {
		t.Errorf("%d cards were sent", n)
	}
	path := strings.TrimPrefix(environ[len(environ)-1], "LARKSIDE_DATABASE_URL=sqlite:")
	if files, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(files) != 0 {
		t.Errorf("the doctor made %q", files)
	}
}

// Each misconfiguration at Lark is found, and which switch mends it.
func TestDoctorAtLark(t *testing.T) {
	for _, tc := range []struct {
		sentence, check string
		says, do        string
		change          func(*larktest.Platform, *console)
		environ         string
	}{
		{sentence: "a wrong secret", check: "credentials", says: "code 10015", do: "Credentials & Basic Info", environ: "LARKSIDE_APP_SECRET=" + canary},
		{sentence: "the same at the token endpoint", check: "token", says: "code 20002", do: "Credentials & Basic Info", environ: "LARKSIDE_APP_SECRET=" + canary},
		{sentence: "an app of another brand", check: "credentials", says: "code 10003", do: "LARKSIDE_BRAND", environ: "LARKSIDE_APP_ID=cli_none"},
		{sentence: "an app of another brand at the token endpoint", check: "token", says: "code 20048", do: "LARKSIDE_BRAND", environ: "LARKSIDE_APP_ID=cli_none"},
		{sentence: "an app that is not enabled", check: "credentials", says: "code 10014", do: "publish a version",
			change: func(p *larktest.Platform, _ *console) {
				p.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Disabled = true })
			}},
		{sentence: "an app that is not installed", check: "token", says: "code 20009", do: "not installed in the tenant",
			change: func(p *larktest.Platform, _ *console) {
				p.UpdateApp(larktest.AppID, func(a *larktest.App) { a.NotInstalled = true })
			}},
		{sentence: "refreshing switched off", check: "token", says: "code 20074", do: `switch "refresh user_access_token" on under Security Settings`,
			change: func(p *larktest.Platform, _ *console) {
				p.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20074})
			}},
		{sentence: "an address that is not on the list", check: "token", says: "code 99991401", do: "IP allow list",
			change: func(p *larktest.Platform, _ *console) {
				p.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 99991401, Status: 400})
			}},
		{sentence: "a token endpoint that is down", check: "token", says: "code 20072", do: "can't be reached",
			change: func(p *larktest.Platform, _ *console) {
				p.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20072, Times: -1})
			}},
		{sentence: "a scope that is not enabled, by the console", check: "scopes", says: "not enabled on the app: no:such:scope", do: "Permissions & Scopes",
			environ: "LARKSIDE_SCOPES=no:such:scope"},
		{sentence: "no bot", check: "card", says: "no bot", do: "Bot feature",
			change: func(_ *larktest.Platform, c *console) { c.bot = `{"code":11205,"msg":"app do not have bot"}` }},
		{sentence: "a bot that was not published", check: "card", says: "activate_status 0", do: "publish a version",
			change: func(_ *larktest.Platform, c *console) { c.bot = `{"code":0,"bot":{"activate_status":0}}` }},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			c := goodConsole()
			lark, environ := visited(t, c)
			if tc.change != nil {
				tc.change(lark, c)
			}
			r := doctored(t, append(environ, tc.environ))[tc.check]
			if r.Status != checkFail || !strings.Contains(r.Detail, tc.says) || !strings.Contains(r.Do, tc.do) {
				t.Errorf("%+v", r)
			}
		})
	}
}

// An app that may not read its own configuration is no failure.
func TestDoctorWithoutSelfManage(t *testing.T) {
	c := goodConsole()
	c.app = `{"code":210508,"msg":"insufficient permission level"}`
	_, environ := visited(t, c)
	if r := doctored(t, environ)["scopes"]; r.Status != checkWarn || !strings.Contains(r.Do, "application:application:self_manage") {
		t.Errorf("%+v", r)
	}
}

func TestDoctorRedirect(t *testing.T) {
	_, environ := visited(t, goodConsole())
	environ = append(environ, "LARKSIDE_CONSENT_LISTEN=127.0.0.1:0", "LARKSIDE_CARD=off")
	got := doctored(t, append(environ, "LARKSIDE_PUBLIC_URL=https://x.example"))
	if r := got["redirect"]; r.Status != checkOK || got["card"].Status != checkOK || got["consent"].Name != "" {
		t.Errorf("%+v", got)
	}
	if r := doctored(t, append(environ, "LARKSIDE_PUBLIC_URL=https://y.example"))["redirect"]; r.Status != checkFail || !strings.Contains(r.Detail, "https://y.example/consent/callback") {
		t.Errorf("%+v", r)
	}
}

// The clock is compared with the Date of Lark's answers.
func TestDoctorClock(t *testing.T) {
	for off, want := range map[time.Duration]checkStatus{0: checkOK, -time.Minute: checkWarn, time.Hour: checkFail} {
		platform := larktest.New(larktest.Config{AllowUnknown: true})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
			platform.ServeHTTP(w, r)
		}))
		environ := append(toLark(server.URL), "LARKSIDE_CARD=off", "LARKSIDE_DATABASE_URL=sqlite:"+filepath.Join(t.TempDir(), "x.db"))
		if r := doctored(t, environ)["clock"]; r.Status != want {
			t.Errorf("%s away: %+v", off, r)
		}
		server.Close()
		platform.Close()
	}
}

func TestDoctorDatabase(t *testing.T) {
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		_, environ := visited(t, goodConsole())
		environ = append(environ, "LARKSIDE_DATABASE_URL="+db.URL)
		with := func(keys string) map[string]checkResult {
			return doctored(t, append(slices.Clone(environ), "LARKSIDE_ENCRYPTION_KEYS="+keys))
		}
		if r := with(process.Keys)["database"]; r.Status != checkOK || !strings.Contains(r.Detail, "empty") {
			t.Errorf("before the first start: %+v", r)
		}
		store := db.Open(t, nil)
		if _, err := store.Put(t.Context(), session.Session{Key: session.Key{AppID: "cli_a1", OpenID: "ou_1"},
			AccessToken: session.NewSecret("u"), TokenType: "Bearer", IssuedAt: time.Now(), ExpiresAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		store.Close()
		got := with(process.Keys)
		if d, k := got["database"], got["keys"]; d.Status != checkOK || !strings.Contains(d.Detail, "schema version 3") || k.Status != checkOK || !strings.Contains(k.Detail, "test") {
			t.Errorf("%+v, %+v", d, k)
		}
		if r := with(operate.NewKey(time.Now()))["keys"]; r.Status != checkFail || !strings.Contains(r.Detail, `"test"`) {
			t.Errorf("without the key: %+v", r)
		}
		if r := with(operate.NewKey(time.Now()) + "," + process.Keys)["keys"]; r.Status != checkWarn || !strings.Contains(r.Do, "keys rotate") {
			t.Errorf("before a rotation: %+v", r)
		}
		if _, err := db.SQL(t).Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, " + map[bool]string{true: "true", false: "1"}[db.Postgres] + ")"); err != nil {
			t.Fatal(err)
		}
		if r := with(process.Keys)["database"]; r.Status != checkFail || !strings.Contains(r.Detail, "schema version 99") {
			t.Errorf("a newer schema: %+v", r)
		}
	})
}

func TestDoctorWithoutDatabase(t *testing.T) {
	_, environ := visited(t, goodConsole())
	r := doctored(t, append(environ, "LARKSIDE_DATABASE_URL=postgres://u:"+canary+"@127.0.0.1:1/x?sslmode=disable", "LARKSIDE_ENCRYPTION_KEYS="+operate.NewKey(time.Now())))["database"]
	if r.Status != checkFail || !strings.Contains(r.Detail, "refused") {
		t.Errorf("%+v", r)
	}
}

// Beside a running instance a SQLite database can't be opened, so the instance
// is asked.
func TestDoctorBesideAnInstance(t *testing.T) {
	db := process.SQLite(t)
	lark, environ := visited(t, goodConsole())
	p := process.Start(t, process.Options{Lark: lark, DB: db})
	environ = append(environ, "LARKSIDE_DATABASE_URL="+db.URL, "LARKSIDE_ENCRYPTION_KEYS="+process.Keys)
	if r := doctored(t, environ, "--admin", p.AdminURL)["database"]; r.Status != checkOK || !strings.Contains(r.Detail, "/readyz that it is ready") {
		t.Errorf("%+v", r)
	}
	if r := doctored(t, environ, "--admin", "http://127.0.0.1:1")["database"]; r.Status != checkWarn || !strings.Contains(r.Detail, "can't be asked") {
		t.Errorf("%+v", r)
	}
	if got := p.Get(t, "/-/larkside/x", ""); got.Status != 403 {
		t.Errorf("the instance after the visit: %d", got.Status)
	}
}

func TestDoctorSettings(t *testing.T) {
	got := larkside(t, []string{"LARKSIDE_APP_ID=cli_a1", "LARKSIDE_BRAND=x"}, "doctor")
	if got.status != operate.ExitFailed || strings.Count(got.out, "fail  settings: LARKSIDE_") != 2 || got.err != "" {
		t.Errorf("%+v", got)
	}
	command := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(command, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := doctored(t, append(toLark("http://127.0.0.1:1"), fmt.Sprint("LARKSIDE_ENCRYPTION_KEYS_COMMAND=", command)))["settings"]
	if r.Status != checkFail || !strings.Contains(r.Detail, "ENCRYPTION_KEYS_COMMAND") {
		t.Errorf("%+v", r)
	}
}

// Every code of Lark's that no retry and no user mends has its switch.
func TestDoctorKnowsEveryMisconfiguration(t *testing.T) {
	for _, code := range []int{20001, 20002, 20009, 20024, 20036, 20048, 20063, 20067, 20068, 20069, 20070, 20071, 20074, 20027, 20043} {
		if switches[code] == "" {
			t.Errorf("%d has none", code)
		}
	}
}
