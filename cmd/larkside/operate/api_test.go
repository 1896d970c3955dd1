package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"larkside/proxy/admin"
	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// canary stands in every secret of these tests; nothing may show it.
const canary = "canary-7d1f-of-the-operator"

// A list goes on over all pages.
func TestSessionsListPages(t *testing.T) {
	open := dbtest.SQLite(t).Open(t, nil)
	const users = 1001
	for i := range users {
		_, err := open.Sessions.Put(t.Context(), session.Session{Key: session.Key{AppID: "cli_a1", OpenID: fmt.Sprintf("ou_%04d", i)},
			Profile: session.Profile{Name: "张\x1b[31m三\n"}, TokenType: "Bearer", AccessToken: session.NewSecret("u"), IssuedAt: time.Now(), ExpiresAt: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
	}
	url := serveAdmin(t, admin.Config{Apps: []string{"cli_a1"}, Sessions: open.Sessions, Directory: open.Directory})
	var sessions []apiSession
	if err := json.Unmarshal([]byte(larkside(t, nil, "sessions", "list", "--admin", url, "-o", "json").out), &sessions); err != nil || len(sessions) != users {
		t.Fatalf("%v, %d sessions", err, len(sessions))
	}
	// What a person calls themselves does not steer the terminal.
	text := larkside(t, nil, "sessions", "list", "--admin", url)
	if strings.Count(text.out, "\n") != users+1 || strings.Contains(text.out, "\x1b") || !strings.Contains(text.out, "张[31m三\n") {
		t.Errorf("%d lines", strings.Count(text.out, "\n"))
	}
}

// A grant without a refresh token ends with its access token, and the list shows it.
func TestSessionsListShowsWhatCanNotBeRenewed(t *testing.T) {
	open := dbtest.SQLite(t).Open(t, nil)
	now := time.Now()
	grant := session.Session{Key: session.Key{AppID: "cli_a1", OpenID: "ou_short"}, TokenType: "Bearer", AccessToken: session.NewSecret("u"), IssuedAt: now, ExpiresAt: now.Add(150 * time.Minute)}
	whole := grant
	whole.OpenID, whole.RefreshToken, whole.RefreshExpiresAt = "ou_whole", session.NewSecret("ur"), now.Add(180*time.Hour)
	for _, s := range []session.Session{grant, whole} {
		if _, err := open.Sessions.Put(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	url := serveAdmin(t, admin.Config{Apps: []string{"cli_a1"}, Sessions: open.Sessions, Directory: open.Directory})
	list := larkside(t, nil, "sessions", "list", "--admin", url).out
	lines := strings.Split(list, "\n")
	if len(lines) < 3 {
		t.Fatal(list)
	}
	column := strings.Index(lines[0], "REFRESH ENDS")
	for i, want := range []string{"-  ", "in 7d  "} { // by open_id
		if column < 0 || !strings.HasPrefix(lines[1+i][column:], want) {
			t.Errorf("want %q below REFRESH ENDS:\n%s", want, list)
		}
	}
}

func TestOperatingOverUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(admin.New(admin.Config{Key: edge.NewAdminKey(func() session.Secret { return session.NewSecret(canary) }, nil),
		RotateKeys: func(_ context.Context, progress func(store.Resealed), _ admin.Actor) (store.Resealed, error) {
			progress(store.Resealed{})
			return store.Resealed{Key: "k2", Sealed: 3, Retired: []string{"k1", "k0"}}, nil
		}}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "everything is sealed under k2 (3 rows were sealed anew); seals nothing any more and may leave LARKSIDE_ENCRYPTION_KEYS: k1, k0\n"
	if got := larkside(t, []string{"LARKSIDE_ADMIN_KEY_FILE=" + keyFile}, "keys", "rotate", "--admin", "unix:"+path); got != (result{out: want}) {
		t.Errorf("%+v", got)
	}
	got := larkside(t, []string{"LARKSIDE_ADMIN_KEY=wrong"}, "keys", "rotate", "--admin", "unix:"+path)
	if got.status != ExitFailed || !strings.Contains(got.err, "set LARKSIDE_ADMIN_KEY, or") {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, []string{"LARKSIDE_ADMIN_KEY_FILE=/none"}, "keys", "rotate"); got.status != ExitUsage || !strings.HasPrefix(got.err, "LARKSIDE_ADMIN_KEY_FILE: ") {
		t.Errorf("%+v", got)
	}
}

// Whoever answers nonsense, nothing or half is not taken for success.
func TestOperatingFailures(t *testing.T) {
	for sentence, tc := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"another server": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, "which no admin listener of Larkside answers"},
		"a redirect":     {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://x/", http.StatusFound) }, "status 302"},
		"half an answer": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"done":false}` + "\n")) }, "broke off before it was done"},
		"a late failure": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"done":false}` + "\n" + `{"code":18503001,"msg":"Down.","error":{"type":"store_unavailable"}}` + "\n"))
		}, "Down. (store_unavailable)"},
	} {
		server := httptest.NewServer(tc.answer)
		got := larkside(t, nil, "keys", "rotate", "--admin", server.URL)
		if got.status != ExitFailed || !strings.Contains(got.err, tc.says) || got.out != "" {
			t.Errorf("%s: %+v", sentence, got)
		}
		server.Close()
	}
	got := larkside(t, nil, "sessions", "list", "--admin", "http://127.0.0.1:1")
	if got.status != ExitFailed || !strings.Contains(got.err, "can't ask a running instance at http://127.0.0.1:1 (LARKSIDE_ADMIN_LISTEN or --admin names it)") {
		t.Errorf("%+v", got)
	}
}

func TestRelative(t *testing.T) {
	now := time.Now()
	for want, d := range map[string]time.Duration{"in 3d": 80 * time.Hour, "in 47h": 47 * time.Hour, "in 119m": 119*time.Minute + time.Second, "90s ago": -90 * time.Second, "0s ago": 0} {
		at := now.Add(d)
		if got := relative(&at, now); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
	if got := relative(nil, now); got != "-" {
		t.Error(got)
	}
}

func TestTypos(t *testing.T) {
	for _, tc := range [][2]string{
		{"sessions lst", `the nearest known one is "larkside sessions list"`},
		{"sessions list --state actve", `--state "actve": want active, consent_required or disabled`},
		{"consent list --state opne", `--state "opne": want pending, done, declined, expired, superseded or failed`},
		{"sessions", `"larkside sessions" needs a command`},
		{"sessions show", "accepts 1 arg(s), received 0"},
		{"consent sned ou_1", `"larkside consent send"`},
		{"users snyc", `"larkside users sync"`},
		{"keys rotate -o yaml", `output format "yaml": want text or json`},
	} {
		if got := larkside(t, nil, strings.Fields(tc[0])...); got.status != ExitUsage || !strings.Contains(got.err, tc[1]) {
			t.Errorf("%s: %+v", tc[0], got)
		}
	}
}

// Nothing is purged by half a command, and a dry run says what to do next.
func TestSessionsPurge(t *testing.T) {
	var asked []bool
	url := serveAdmin(t, admin.Config{Purge: func(_ context.Context, w admin.PurgeWish, progress func(admin.Purge), _ admin.Actor) (admin.Purge, error) {
		asked = append(asked, *w.DryRun)
		p := admin.Purge{DryRun: *w.DryRun, Sessions: 1}
		if !p.DryRun {
			p.Deleted, p.Consents, p.Unrevoked = 1, 2, 1
		}
		so := p
		so.Session = &admin.PurgedSession{AppID: "cli_a1", OpenID: "ou_1", Name: "Al\x1bice", State: session.Disabled, Reason: session.UserGone}
		progress(so)
		return p, nil
	}})
	purge := func(args ...string) result {
		t.Helper()
		return larkside(t, nil, append([]string{"sessions", "purge", "--admin", url}, args...)...)
	}
	for _, args := range [][]string{{}, {"--left"}, {"--yes"}, {"--left", "--yes", "--dry-run"}, {"--left", "--state", "active", "--yes"}, {"--state", "foo", "--yes"}} {
		if got := purge(args...); got.status != ExitUsage {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if len(asked) > 0 {
		t.Errorf("%d purges were asked for", len(asked))
	}
	if got := purge("--left", "--dry-run"); got.status != ExitDone || !strings.Contains(got.out, "ou_1") || strings.Contains(got.out, "\x1b") || !strings.Contains(got.out, "nothing was changed") {
		t.Errorf("%+v", got)
	}
	if got := purge("--left", "--yes"); got.status != ExitDone || !strings.Contains(got.out, "deleted 1 sessions and 2 consents") || !strings.Contains(got.out, "not taken back") {
		t.Errorf("%+v", got)
	}
	if got := purge("--left", "--dry-run", "-o", "json"); !strings.Contains(got.out, `"dry_run": true`) || !strings.Contains(got.out, `"open_id": "ou_1"`) {
		t.Errorf("%+v", got)
	}
}

// A backup is a new file of mode 0600, whole or not there.
func TestBackup(t *testing.T) {
	size := int64(6)
	var failure error
	url := serveAdmin(t, admin.Config{Backup: func(context.Context, admin.Actor) (io.ReadCloser, int64, error) {
		return io.NopCloser(strings.NewReader("SQLite")), size, failure
	}})
	dir := t.TempDir()
	file := filepath.Join(dir, "copy.db")
	backup := func(args ...string) result {
		t.Helper()
		return larkside(t, nil, append([]string{"backup", "--admin", url}, args...)...)
	}
	if got := backup(); got.status != ExitUsage {
		t.Errorf("without a file: %+v", got)
	}
	if got := backup(file); got.status != ExitDone || !strings.Contains(got.out, "6 bytes") {
		t.Errorf("%+v", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := backup(file)
	if content, err := os.ReadFile(file); got.status != ExitFailed || err != nil || string(content) != "mine" {
		t.Errorf("over another file: %+v, %q, %v", got, content, err)
	}
	size = 7 // the connection breaks before the last byte
	if got := backup(filepath.Join(dir, "cut.db")); got.status != ExitFailed || !strings.Contains(got.err, "broke off") {
		t.Errorf("cut off: %+v", got)
	}
	failure = store.ErrNoBackup
	if got := backup(filepath.Join(dir, "postgres.db")); got.status != ExitFailed || !strings.Contains(got.err, "pg_dump") {
		t.Errorf("of PostgreSQL: %+v", got)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
