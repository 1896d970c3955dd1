package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
	"larkside/proxy/admin"
	"larkside/session"
	"larkside/session/seal"
)

type result struct {
	status   int
	out, err string
}

// larkside runs a command line in the process.
func larkside(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	serve := &cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error { return errors.New("serve is not of this package") }}
	in := Invocation{Args: args, Environ: environ, Out: &out, ErrOut: &errOut, Build: BuildInfo("", "")}
	status := Execute(t.Context(), in, serve)
	return result{status, out.String(), errOut.String()}
}

func TestWrongUse(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		args     []string
		want     string
	}{
		{"a misspelt command", []string{"srve"}, `unknown command "srve", the nearest known one is "larkside serve"`},
		{"a misspelt command of a group", []string{"keys", "enw"}, `unknown command "enw", the nearest known one is "larkside keys new"`},
		{"a group without command", []string{"keys"}, `"larkside keys" needs a command`},
		{"a shell we have no completion for", []string{"completion", "fsh"}, `the nearest known one is "larkside completion fish"`},
		{"an unknown flag", []string{"env", "--jsn"}, "unknown flag: --jsn"},
		{"an argument too many", []string{"version", "2"}, `unknown command "2" for "larkside version"`},
		{"a flag's value", []string{"wait", "--timeout", "soon"}, `invalid argument "soon" for "--timeout"`},
		{"an unknown format", []string{"env", "-o", "yaml"}, `output format "yaml": want text or json, or markdown with --defaults`},
		{"an admin address without scheme", []string{"healthcheck", "--admin", "localhost:1"}, "--admin takes http://host:port or unix:/path.sock"},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			got := larkside(t, nil, tc.args...)
			if got.status != ExitUsage || !strings.Contains(got.err, tc.want) || got.out != "" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// "larkside env" says what is in force and where it comes from, never a secret, and
// also when something is wrong.
func TestEnv(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("web:"+canary+"-1,batch:"+canary+"-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=" + canary, "LARKSIDE_BRAND=lark", "LARKSIDE_CALLER_KEYS_FILE=" + file,
		"LARKSIDE_SCOPES=calendar:calendar:read", "LARKSIDE_DATABASE_URL=postgres://u:" + canary + "@db.example/x?password=" + canary,
		"LARKSIDE_ENCRYPTION_KEYS=" + seal.NewKey("k").Expose(), "LARKSIDE_UPSTREAM_PROXY=http://u:" + canary + "@proxy.example:3128"}
	text := larkside(t, environ, "env")
	if text.status != ExitDone || text.err != "" || strings.Contains(text.out, canary) {
		t.Errorf("%+v", text)
	}
	for name, want := range map[string]string{
		"APP_ID":             "environment  cli_a1",
		"APP_SECRET":         "environment  ***",
		"APPS":               "not set  -",
		"BRAND":              "environment  lark",
		"OPEN_URL":           "default  https://open.larksuite.com",
		"CALLER_KEYS":        "file " + file + "  web:***,batch:***",
		"SCOPES":             "environment  calendar:calendar:read offline_access",
		"DATABASE_URL":       "environment  postgres://u:xxxxx@db.example/x",
		"DATABASE_MAX_CONNS": "default  (two for each processor, 6 to 16)",
		"ENCRYPTION_KEYS":    "environment  ***",
		"CACHE_TTL":          "default  60s",
		"ADMIN_KEY":          "not set  -",
		"UPSTREAM_PROXY":     "environment  http://u:xxxxx@proxy.example:3128",
	} {
		line := regexp.MustCompile(`(?m)^LARKSIDE_` + name + ` +(.*)$`).FindStringSubmatch(text.out)
		if line == nil || regexp.MustCompile(` {2,}`).ReplaceAllString(line[1], "  ") != want {
			t.Errorf("%s: %q, want %s", name, line, want)
		}
	}
	var values []settings.Value
	asJSON := larkside(t, environ, "env", "-o", "json")
	if err := json.Unmarshal([]byte(asJSON.out), &values); err != nil || len(values) != len(settings.Variables()) || strings.Contains(asJSON.out, canary) {
		t.Errorf("%v, %d values", err, len(values))
	}
	wrong := larkside(t, []string{"LARKSIDE_BRAND=fieshu", "LARKSIDE_ADMIN_KEY=" + canary[:5], "LARKSIDE_NOPE=1"}, "env")
	if wrong.status != ExitUsage || !strings.Contains(wrong.err, "LARKSIDE_APP_ID: is empty") || !strings.Contains(wrong.err, "LARKSIDE_NOPE: ") ||
		!regexp.MustCompile(`(?m)^LARKSIDE_BRAND +environment +fieshu$`).MatchString(wrong.out) || strings.Contains(wrong.out+wrong.err, canary[:5]) {
		t.Errorf("%+v", wrong)
	}
}

// "larkside env --defaults" says everything, also when the settings are wrong, and
// no value.
func TestEnvDefaults(t *testing.T) {
	environ := []string{"LARKSIDE_APP_SECRET=" + canary, "LARKSIDE_NOPE=1"}
	text := larkside(t, environ, "env", "--defaults")
	markdown := larkside(t, environ, "env", "--defaults", "-o", "markdown")
	for _, s := range settings.Variables() {
		if !strings.Contains(text.out, settings.Prefix+s.Name+" (") || !strings.Contains(markdown.out, "| `"+s.Name+"` |") {
			t.Errorf("%s is missing", s.Name)
		}
	}
	if strings.Contains(text.out, canary) || text.status != ExitDone {
		t.Errorf("%+v", text)
	}
	for _, want := range []string{
		"LARKSIDE_APP_ID (required)\n", "LARKSIDE_CACHE_TTL (default: 60s)\n", "LARKSIDE_LOG_FORMAT (default: json (text on a terminal))\n",
		"APP_SECRET_FILE names", "# App and Lark\n\nLARKSIDE_APP_ID", "\n\n# Listeners\n\nLARKSIDE_LISTEN",
	} {
		if !strings.Contains(text.out, want) {
			t.Errorf("no %q", want)
		}
	}

	type view struct {
		Name, Group, Default string
		FileFrom             string `json:"file_variable"`
	}
	var views []view
	if err := json.Unmarshal([]byte(larkside(t, nil, "env", "--defaults", "-o", "json").out), &views); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(views, func(v view) bool { return v.Name == "LARKSIDE_DATABASE_URL" })
	if v := views[i]; len(views) != len(settings.Variables()) || v.Default != "sqlite:larkside.db" || v.Group != "Database and keys" || v.FileFrom != "LARKSIDE_DATABASE_URL_FILE" {
		t.Errorf("%+v", v)
	}
}

func TestVersion(t *testing.T) {
	got := larkside(t, nil, "version")
	if !regexp.MustCompile(`^larkside \S+ \(commit \S+, go1\.\S+, \w+/\w+\)\n$`).MatchString(got.out) {
		t.Errorf("%+v", got)
	}
	recorded := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}
	if got := vcsRevision(recorded); got != "abc+dirty" {
		t.Errorf("revision %q", got)
	}
}

// What it prints is what ENCRYPTION_KEYS takes, and never twice the same.
func TestKeysNew(t *testing.T) {
	first, second := larkside(t, nil, "keys", "new"), larkside(t, nil, "keys", "new")
	if first.status != ExitDone || first.out == second.out {
		t.Errorf("%+v, %+v", first, second)
	}
	if _, err := seal.ParseKeyring(session.NewSecret(first.out + "," + second.out)); err != nil {
		t.Error(err)
	}
	if got := NewKey(time.Date(2026, 3, 4, 23, 0, 0, 0, time.FixedZone("", -3600*5))); !regexp.MustCompile(`^20260305-[0-9a-f]{4}:`).MatchString(got) {
		t.Errorf("id of %s", got)
	}
}

func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	for range 2 {
		if got := larkside(t, []string{"LARKSIDE_DATABASE_URL=sqlite:" + path}, "migrate"); got.status != ExitDone {
			t.Errorf("%+v", got)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	for to, status := range map[string]int{"1": ExitDone, "0": ExitUsage, "-1": ExitUsage, "x": ExitUsage, "1000": ExitFailed} {
		if got := larkside(t, []string{"LARKSIDE_DATABASE_URL=sqlite:" + path}, "migrate", "--to="+to); got.status != status {
			t.Errorf("--to %s: %+v", to, got)
		}
	}
	if got := larkside(t, []string{"LARKSIDE_DATABASE_URL=x"}, "migrate"); got.status != ExitUsage {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, []string{"LARKSIDE_DATABASE_URL=sqlite:" + filepath.Join(path, "no", "x.db")}, "migrate"); got.status != ExitFailed || got.err == "" {
		t.Errorf("%+v", got)
	}
}

// serveAdmin serves an admin listener and returns its --admin.
func serveAdmin(t *testing.T, cfg admin.Config) string {
	t.Helper()
	server := httptest.NewServer(admin.New(cfg))
	t.Cleanup(server.Close)
	return server.URL
}

func TestHealthcheck(t *testing.T) {
	url := serveAdmin(t, admin.Config{})
	if got := larkside(t, nil, "healthcheck", "--admin", url); got != (result{}) {
		t.Errorf("%+v", got)
	}
	listen := "LARKSIDE_ADMIN_LISTEN=" + strings.TrimPrefix(url, "http://")
	if got := larkside(t, []string{listen}, "healthcheck"); got != (result{}) {
		t.Errorf("by the setting, without the app's own: %+v", got)
	}
	// No variable of the environment may send the question elsewhere.
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	if got := larkside(t, []string{strings.Replace(listen, "127.0.0.1", "0.0.0.0", 1)}, "healthcheck"); got != (result{}) {
		t.Errorf("a listener on all addresses: %+v", got)
	}
	if got := larkside(t, []string{"LARKSIDE_ADMIN_LISTEN=x"}, "healthcheck"); got.status != ExitUsage || !strings.HasPrefix(got.err, `LARKSIDE_ADMIN_LISTEN: got "x"`) {
		t.Errorf("a setting that is no address: %+v", got)
	}
	if got := larkside(t, []string{"LARKSIDE_ADMIN_LISTEN=127.0.0.1:0"}, "healthcheck"); got.status != ExitUsage {
		t.Errorf("port 0: %+v", got)
	}
	if got := larkside(t, nil, "healthcheck", "--admin", "http://127.0.0.1:1"); got.status != ExitFailed || !strings.Contains(got.err, "refused") {
		t.Errorf("nobody there: %+v", got)
	}
	broken := httptest.NewServer(http.NotFoundHandler())
	defer broken.Close()
	if got := larkside(t, nil, "healthcheck", "--admin", broken.URL); got.status != ExitFailed || !strings.Contains(got.err, "status 404") {
		t.Errorf("something else there: %+v", got)
	}
}

func TestHealthcheckOverUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(admin.New(admin.Config{}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	for _, args := range [][]string{{"healthcheck", "--admin", "unix:" + path}, {"wait", "--admin", "unix:" + path}} {
		if got := larkside(t, nil, args...); got != (result{}) {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if got := larkside(t, []string{"LARKSIDE_ADMIN_LISTEN=unix:" + path}, "healthcheck"); got != (result{}) {
		t.Errorf("by the setting: %+v", got)
	}
}

func TestWait(t *testing.T) {
	var asked atomic.Int32
	url := serveAdmin(t, admin.Config{Ready: func(context.Context) []admin.Check {
		return []admin.Check{{Name: "schema", OK: true}, {Name: "app cli_a1", OK: asked.Add(1) > 2, Detail: "refused by Lark"}}
	}})
	if got := larkside(t, nil, "wait", "--admin", url, "--timeout", "1m"); got != (result{}) || asked.Load() != 3 {
		t.Errorf("%+v after %d questions", got, asked.Load())
	}
	asked.Store(-1000)
	got := larkside(t, nil, "wait", "--admin", url, "--timeout", "50ms")
	if got.status != ExitFailed || !strings.Contains(got.err, "not ready (status 503; app cli_a1: refused by Lark)") {
		t.Errorf("%+v", got)
	}
}
