package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// doctorEnv is the environment of a doctor who visits lark, with a database of
// its own.
func doctorEnv(t *testing.T, lark *larktest.Platform, more ...string) []string {
	return append([]string{
		"LARKSIDE_APP_ID=" + larktest.AppID, "LARKSIDE_APP_SECRET=" + larktest.AppSecret,
		"LARKSIDE_OPEN_URL=" + lark.URL, "LARKSIDE_ACCOUNTS_URL=" + lark.URL,
		"LARKSIDE_DATABASE_URL=sqlite:" + filepath.Join(dbtest.TempDir(t), "doctor.db"),
		"LARKSIDE_SCOPES=task:task:read",
	}, more...)
}

// doctored runs the real doctor and returns its lines that are not ok, each with
// what to do.
func doctored(t *testing.T, env []string) (status int, bad []string, all string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), process.Binary(t), "doctor")
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	bad = regexp.MustCompile(`(?m)^(?:warn|fail) .*(?:\n +→ .*)?`).FindAllString(string(out), -1)
	return cmd.ProcessState.ExitCode(), bad, string(out)
}

// The doctor passes where nothing is wrong, and finds each misconfiguration that
// Lark's console and what stands before Lark can have, with one sentence that
// says what to do.
func TestDoctor(t *testing.T) {
	lark := larktest.Start(t, &larktest.Config{AllowUnknown: true})
	if status, bad, all := doctored(t, doctorEnv(t, lark)); status != 0 || len(bad) != 0 {
		t.Errorf("nothing is wrong: %d\n%s", status, all)
	}
	app := func(edit func(*larktest.App)) func(*larktest.Platform) []string {
		return func(lark *larktest.Platform) []string {
			lark.UpdateApp(larktest.AppID, edit)
			return nil
		}
	}
	fault := func(f larktest.Fault) func(*larktest.Platform) []string {
		return func(lark *larktest.Platform) []string {
			f.Times = -1
			lark.Fault(f)
			return nil
		}
	}
	env := func(env ...string) func(*larktest.Platform) []string {
		return func(*larktest.Platform) []string { return env }
	}
	for _, tc := range []struct {
		sentence, do string
		// change makes it wrong, and may return settings.
		change func(*larktest.Platform) []string
	}{
		{"another secret", "copy App Secret", env("LARKSIDE_APP_SECRET=wrong")},
		{"an app of another brand", "LARKSIDE_BRAND", env("LARKSIDE_APP_ID=cli_a1b2c3d4e5f6a7b8")},
		{"disabled", "enable the app", app(func(a *larktest.App) { a.Disabled = true })},
		{"not installed", "not installed", app(func(a *larktest.App) { a.NotInstalled = true })},
		{"not published", "publish a version", app(func(a *larktest.App) { a.Unpublished = true })},
		{"no bot", "add the Bot feature", app(func(a *larktest.App) { a.BotOff = true })},
		{"a bot that is not active", "publish a version", app(func(a *larktest.App) { a.BotStatus = new(4) })},
		{"a scope that is missing", "Permissions & Scopes", app(func(a *larktest.App) { a.Scopes = scopesWithout("task:") })},
		{"a scope for the tenant only", "user token scopes", app(func(a *larktest.App) {
			a.Scopes, a.TenantScopes = scopesWithout("task:"), []string{"task:task:read"}
		})},
		{"no offline_access", "enable offline_access", app(func(a *larktest.App) { a.Scopes = scopesWithout("offline_access") })},
		{"a bot that may not send", "im:message:send_as_bot", app(func(a *larktest.App) { a.Scopes = scopesWithout("im:") })},
		{"a configuration that can't be read", "application:application:self_manage", app(func(a *larktest.App) { a.Scopes = scopesWithout("application:") })},
		{"an address that is not allowed", "IP allow list", app(func(a *larktest.App) { a.AllowIPs = []string{"192.0.2.0/24"} })},
		{"refreshing switched off", `"refresh user_access_token"`, func(lark *larktest.Platform) []string {
			lark.Switch(func(s *larktest.Switches) { s.RefreshOffFirst = true })
			lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RefreshOff = true })
			return nil
		}},
		{"a redirect URL that is not registered", "Redirect URLs", env("LARKSIDE_PUBLIC_URL=https://x.example", "LARKSIDE_CONSENT_LISTEN=127.0.0.1:0")},
		{"a proxy's login page", "something else answers", fault(larktest.Fault{Path: "/open-apis/", Body: "<html>Sign in</html>"})},
		{"a firewall before the device flow", "fewer LARKSIDE_SCOPES", fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Status: 403})},
		{"a token endpoint without device flows", "leave LARKSIDE_TOKEN_URL out", func(lark *larktest.Platform) []string {
			return []string{"LARKSIDE_TOKEN_URL=" + lark.URL + "/oauth/v3/token"}
		}},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			lark := larktest.Start(t, &larktest.Config{AllowUnknown: true})
			_, bad, all := doctored(t, doctorEnv(t, lark, tc.change(lark)...))
			if len(bad) != 1 || !strings.Contains(bad[0], "→") || !strings.Contains(bad[0], tc.do) {
				t.Errorf("%d lines:\n%s", len(bad), all)
			}
		})
	}
}

// scopesWithout are the emulator's, but for those that begin so.
func scopesWithout(prefix string) []string {
	return slices.DeleteFunc(larktest.DefaultScopes(), func(s string) bool { return strings.HasPrefix(s, prefix) })
}

// With a person who clicks, the doctor goes the whole way. What it writes names
// nobody, and the emulator answers it the same a second time.
func TestDoctorLive(t *testing.T) {
	lark := newLark(t, nil)
	file := filepath.Join(t.TempDir(), "lark.json")
	cmd := exec.CommandContext(t.Context(), process.Binary(t), "doctor", "--live", alice, "--spend", "--record", file)
	cmd.Env = doctorEnv(t, lark)
	cmd.Stdin = strings.NewReader(strings.Repeat("y\n", 20))
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "→ Click the first button") {
			click(t, lark)
		}
	}
	if err := cmd.Wait(); err != nil || errOut.Len() > 0 {
		t.Fatalf("%v: %s\n%s", err, &errOut, &all)
	}
	if text := all.String(); strings.Contains(text, "DIFFERS") || !strings.Contains(text, "AS BELIEVED  the revoked access token") {
		t.Error(text)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{larktest.AppSecret, larktest.AppID, alice, "Alice", "Larktest Demo", "eyJ", "Bearer t-", "127.0.0.1"} {
		if strings.Contains(all.String()+string(text), secret) && secret != alice && secret != "127.0.0.1" || strings.Contains(string(text), secret) {
			t.Errorf("%q is shown or recorded", secret)
		}
	}
	for _, issued := range lark.Ledger(alice) {
		if !issued.Revoked && !issued.Spent {
			t.Errorf("%s %s was not revoked", issued.Kind, issued.ID)
		}
	}
	replay := exec.CommandContext(t.Context(), "go", "test", "larkside/test/larktest", "-run", "^TestRecording$", "-recording", file)
	if out, err := replay.CombinedOutput(); err != nil {
		t.Errorf("the emulator differs from its own recording: %v\n%s", err, out)
	}
}

// click authorizes by the latest card that has a link.
func click(t *testing.T, lark *larktest.Platform) {
	t.Helper()
	for _, m := range slices.Backward(lark.Messages(alice)) {
		if links := m.Links(); len(links) > 0 {
			process.Approve(t, lark, links[0], alice)
			return
		}
	}
	t.Error("no card has a link")
}

// Before it disturbs a user who has a session, the doctor asks.
func TestDoctorLiveWithSession(t *testing.T) {
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		process.Seed(t, db, lark, time.Minute, alice)
		p := process.Start(t, process.Options{Lark: lark, DB: db})
		cmd := exec.CommandContext(t.Context(), process.Binary(t), "doctor", "--live", alice, "--admin", p.AdminURL)
		cmd.Env = doctorEnv(t, lark, "LARKSIDE_DATABASE_URL="+db.URL, "LARKSIDE_ENCRYPTION_KEYS="+process.Keys)
		cmd.Stdin = strings.NewReader("n\n")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "This user has a session in the database") || len(lark.Messages(alice)) != 0 {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
