package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/proxy/admin"
	"larkside/session"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// canary stands in every secret of these tests; nothing may show it.
const canary = "canary-7d1f-of-the-operator"

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const records = "/open-apis/apaas/v1/workspaces/workspace_test/tables/orders/records"

// operated is a running instance with sessions of Alice and Bob, and the
// environment of a shell beside it.
func operated(t *testing.T, db *dbtest.DB) (*larktest.Platform, *process.Process, []string) {
	t.Helper()
	lark := larktest.Start(t, nil)
	process.Seed(t, db, lark, time.Minute, larktest.Alice, larktest.Bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"ADMIN_KEY": canary}})
	return lark, p, []string{"LARKSIDE_ADMIN_LISTEN=" + strings.TrimPrefix(p.AdminURL, "http://"), "LARKSIDE_ADMIN_KEY=" + canary}
}

func TestSessionsCommands(t *testing.T) {
	lark, p, environ := operated(t, process.SQLite(t))

	list := larkside(t, environ, "sessions", "list")
	lines := strings.Split(strings.TrimSpace(list.out), "\n")
	if list.status != ExitDone || len(lines) != 3 || !strings.HasPrefix(lines[0], "APP ") || !strings.Contains(list.out, larktest.Alice+"  active  -       in 11") {
		t.Errorf("%+v", list)
	}
	var sessions []apiSession
	if err := json.Unmarshal([]byte(larkside(t, environ, "sessions", "list", "-o", "json").out), &sessions); err != nil || len(sessions) != 2 || sessions[0].AppID != larktest.AppID {
		t.Errorf("%v, %+v", err, sessions)
	}

	show := larkside(t, environ, "sessions", "show", larktest.Alice)
	if show.status != ExitDone || !strings.Contains(show.out, "open_id       "+larktest.Alice+"\n") || !strings.Contains(show.out, "refreshed     -\n") {
		t.Errorf("%+v", show)
	}
	var alice apiSession
	refreshed := larkside(t, environ, "sessions", "refresh", larktest.Alice, "--app", larktest.AppID, "-o", "json")
	if err := json.Unmarshal([]byte(refreshed.out), &alice); err != nil || alice.RefreshedAt == nil || refreshed.status != ExitDone {
		t.Errorf("%+v", refreshed)
	}
	if got := len(lark.Calls(larktest.To(larktest.TokenEndpoint))); got != 1 {
		t.Errorf("%d calls to the token endpoint", got)
	}

	if got := larkside(t, environ, "sessions", "revoke", larktest.Bob); got.status != ExitDone || got.out != "revoked the session of "+larktest.Bob+"\n" {
		t.Errorf("%+v", got)
	}
	if a := p.Get(t, records, larktest.Bob); a.Status != 401 || a.Envelope.Error.Reason != "revoked" {
		t.Errorf("after the revocation: %d %s", a.Status, a.Body)
	}
	if got := larkside(t, environ, "sessions", "list", "--state", "consent_required", "--app", larktest.AppID); !strings.Contains(got.out, "revoked") || strings.Contains(got.out, larktest.Alice) {
		t.Errorf("%+v", got)
	}

	nobody := larkside(t, environ, "sessions", "show", larktest.Carol)
	if nobody.status != ExitFailed || !strings.Contains(nobody.err, "there is no session of "+larktest.Carol) {
		t.Errorf("%+v", nobody)
	}
	if got := larkside(t, environ, "sessions", "list", "--app", "cli_other"); got.status != ExitDone || got.out != "" || got.err != "no sessions\n" {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, environ, "sessions", "list", "--app", "cli_other", "-o", "json"); got.out != "[]\n" {
		t.Errorf("%+v", got)
	}

	// All of it is in the audit trail.
	a := p.Admin(t, "GET", "/api/v1/audit", "Authorization", "Bearer "+canary)
	for _, want := range []string{`"actor":"admin","action":"refresh"`, `"action":"revoke"`, `"open_id":"` + larktest.Bob, `"detail":"from 127.0.0.1:`} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("the audit trail lacks %s: %s", want, a.Body)
		}
	}
}

func TestConsentSendAndUsersSync(t *testing.T) {
	lark, _, environ := operated(t, process.SQLite(t))
	sent := larkside(t, environ, "consent", "send", larktest.Carol, "--scopes", "calendar:calendar:read")
	if sent.status != ExitDone || !strings.Contains(sent.out, "is pending: ") || !strings.Contains(sent.out, "calendar:calendar:read") || !strings.Contains(sent.out, "and expires in ") {
		t.Errorf("%+v", sent)
	}
	if err := lark.Wait(t.Context(), func() bool { return len(lark.Messages(larktest.Carol)) == 1 }); err != nil {
		t.Error(err)
	}
	again := larkside(t, environ, "consent", "send", larktest.Carol, "-o", "json")
	if again.status != ExitDone || !strings.Contains(again.out, `"state": "pending"`) || strings.Contains(again.out, "http") {
		t.Errorf("%+v", again)
	}
	if got := larkside(t, environ, "consent", "send", "ou_00000000000000000000000000000000"); got.status != ExitFailed || !strings.Contains(got.err, "could not be asked") {
		t.Errorf("nobody: %+v", got)
	}
	if got := larkside(t, environ, "users", "sync"); got != (result{out: "2 users: 2 read, 0 could not be read\n"}) {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, environ, "users", "sync", "-o", "json"); !strings.Contains(got.out, `"users": 2`) {
		t.Errorf("%+v", got)
	}
}

// A list goes on over all pages.
func TestSessionsListPages(t *testing.T) {
	keys, err := session.ParseKeyring(session.NewKey("k"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := session.Open(t.Context(), session.Config{URL: session.NewSecret("sqlite:" + filepath.Join(dbtest.TempDir(t), "x.db")), Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	const users = 1001
	for i := range users {
		_, err := store.Put(t.Context(), session.Session{Key: session.Key{AppID: "cli_a1", OpenID: fmt.Sprintf("ou_%04d", i)},
			Profile: session.Profile{Name: "张\x1b[31m三\n"}, TokenType: "Bearer", AccessToken: session.NewSecret("u"), IssuedAt: time.Now(), ExpiresAt: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
	}
	url := serveAdmin(t, admin.Config{Apps: []string{"cli_a1"}, Sessions: store})
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

func TestOperatingOverUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(admin.New(admin.Config{Key: func() session.Secret { return session.NewSecret(canary) },
		RotateKeys: func(_ context.Context, progress func(session.Resealed), _ admin.Actor) (session.Resealed, error) {
			progress(session.Resealed{})
			return session.Resealed{Key: "k2", Sealed: 3, Retired: []string{"k1", "k0"}}, nil
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
	if got.status != ExitFailed || !strings.Contains(got.err, "LARKSIDE_ADMIN_KEY. (admin_unauthenticated)") {
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

// Keys are rotated while two replicas answer requests, not one of which fails;
// then the old key is not needed, nor enough.
func TestKeysRotate(t *testing.T) {
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := larktest.Start(t, nil)
		process.Seed(t, db, lark, time.Minute, larktest.Alice, larktest.Bob)
		fresh := NewKey(time.Now())
		both := process.Options{Lark: lark, DB: db, Env: map[string]string{"ENCRYPTION_KEYS": fresh + "," + process.Keys, "CACHE_TTL": "1ms"}}
		replicas := []*process.Process{process.Start(t, both)}
		if db.Postgres {
			replicas = append(replicas, process.Start(t, both))
		}
		stop := make(chan struct{})
		var work sync.WaitGroup
		for i, openID := range []string{larktest.Alice, larktest.Bob, larktest.Alice, larktest.Bob} {
			p := replicas[i%len(replicas)]
			work.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					a, err := process.Try(p.Request(t, "GET", records, openID, ""))
					if err != nil || a.Status != 200 {
						t.Errorf("a request failed: %v %+v", err, a)
						return
					}
					if n%20 == 0 {
						a, err := process.Try(process.NewRequest(t, "POST", p.AdminURL+"/api/v1/sessions/-/"+openID+"/refresh", "", ""))
						if err != nil || a.Status != 200 && a.Status != 409 && a.Status != 503 {
							t.Errorf("a refresh failed: %v %+v", err, a)
						}
					}
				}
			})
		}
		got := replicas[0].Command(t, []string{"keys", "rotate", "--admin", replicas[0].AdminURL})
		close(stop)
		work.Wait()
		if got.Status != ExitDone || !strings.HasSuffix(got.Stdout, "may leave LARKSIDE_ENCRYPTION_KEYS: test\n") {
			t.Fatalf("%+v", got)
		}
		for _, p := range replicas {
			p.Stop()
		}
		env := map[string]string{"ENCRYPTION_KEYS": process.Keys}
		if got := process.Run(t, process.Options{Lark: lark, DB: db, Env: env}); got.Status == ExitDone || !strings.Contains(got.Stderr, "sessions are stored under encryption key") {
			t.Errorf("a start with the old key only: %+v", got)
		}
		env = map[string]string{"ENCRYPTION_KEYS": fresh}
		after := process.Start(t, process.Options{Lark: lark, DB: db, Env: env})
		for _, openID := range []string{larktest.Alice, larktest.Bob} {
			if a := after.Get(t, records, openID); a.Status != 200 || a.Owner() != openID {
				t.Errorf("%s after the rotation: %d %s", openID, a.Status, a.Body)
			}
		}
		if a := after.Admin(t, "GET", "/api/v1/audit?action=keys_rotate"); !strings.Contains(a.Body, `"result":"done"`) {
			t.Errorf("audit %s", a.Body)
		}
		for _, v := range lark.Violations() {
			t.Errorf("violation: %+v", v)
		}
	})
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
		{"sessions list --state actve", `--state "actve": the nearest known one is "active"`},
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
