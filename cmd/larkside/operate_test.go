package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/cmd/larkside/operate"
	"larkside/session"
	"larkside/telemetry"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// adminKey is a secret of these tests; nothing may show it.
const adminKey = canary + "-of-the-operator"

// operated is a running instance with sessions of Alice and Bob, and the
// environment of a shell beside it.
func operated(t *testing.T, db *dbtest.DB) (*larktest.Platform, *process.Process, []string) {
	t.Helper()
	lark := larktest.Start(t, nil)
	process.Seed(t, db, lark, time.Minute, larktest.Alice, larktest.Bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"ADMIN_KEY": adminKey}})
	return lark, p, []string{"LARKSIDE_ADMIN_LISTEN=" + strings.TrimPrefix(p.AdminURL, "http://"), "LARKSIDE_ADMIN_KEY=" + adminKey}
}

// listedSession is a session in an answer of the admin API.
type listedSession struct {
	AppID       string     `json:"app_id"`
	RefreshedAt *time.Time `json:"refreshed_at"`
}

func TestSessionsCommands(t *testing.T) {
	t.Parallel()
	lark, p, environ := operated(t, process.SQLite(t))

	list := larkside(t, environ, "sessions", "list")
	lines := strings.Split(strings.TrimSpace(list.out), "\n")
	if list.status != operate.ExitDone || len(lines) != 3 || !strings.HasPrefix(lines[0], "APP ") || !strings.Contains(list.out, larktest.Alice+"  active  -       in 11") {
		t.Errorf("%+v", list)
	}
	var sessions []listedSession
	if err := json.Unmarshal([]byte(larkside(t, environ, "sessions", "list", "-o", "json").out), &sessions); err != nil || len(sessions) != 2 || sessions[0].AppID != larktest.AppID {
		t.Errorf("%v, %+v", err, sessions)
	}

	show := larkside(t, environ, "sessions", "show", larktest.Alice)
	if show.status != operate.ExitDone || !strings.Contains(show.out, "open_id       "+larktest.Alice+"\n") || !strings.Contains(show.out, "refreshed     -\n") {
		t.Errorf("%+v", show)
	}
	var alice listedSession
	refreshed := larkside(t, environ, "sessions", "refresh", larktest.Alice, "--app", larktest.AppID, "-o", "json")
	if err := json.Unmarshal([]byte(refreshed.out), &alice); err != nil || alice.RefreshedAt == nil || refreshed.status != operate.ExitDone {
		t.Errorf("%+v", refreshed)
	}
	if got := len(lark.Calls(larktest.To(larktest.TokenEndpoint))); got != 1 {
		t.Errorf("%d calls to the token endpoint", got)
	}

	if got := larkside(t, environ, "sessions", "revoke", larktest.Bob); got.status != operate.ExitDone || got.out != "revoked the session of "+larktest.Bob+"\n" {
		t.Errorf("%+v", got)
	}
	if a := p.Get(t, records, larktest.Bob); a.Status != 401 || a.Envelope.Error.Reason != "revoked" {
		t.Errorf("after the revocation: %d %s", a.Status, a.Body)
	}
	if got := larkside(t, environ, "sessions", "list", "--state", "consent_required", "--app", larktest.AppID); !strings.Contains(got.out, "revoked") || strings.Contains(got.out, larktest.Alice) {
		t.Errorf("%+v", got)
	}

	nobody := larkside(t, environ, "sessions", "show", larktest.Carol)
	if nobody.status != operate.ExitFailed || !strings.Contains(nobody.err, "there is no session of "+larktest.Carol) {
		t.Errorf("%+v", nobody)
	}
	if got := larkside(t, environ, "sessions", "list", "--app", "cli_other"); got.status != operate.ExitDone || got.out != "" || got.err != "no sessions\n" {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, environ, "sessions", "list", "--app", "cli_other", "-o", "json"); got.out != "[]\n" {
		t.Errorf("%+v", got)
	}

	// All of it is in the audit trail.
	a := p.Admin(t, "GET", "/api/v1/audit", "Authorization", "Bearer "+adminKey)
	for _, want := range []string{`"actor":"admin","action":"refresh"`, `"action":"revoke"`, `"open_id":"` + larktest.Bob, `"detail":"from 127.0.0.1:`} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("the audit trail lacks %s: %s", want, a.Body)
		}
	}
}

func TestConsentSendAndUsersSync(t *testing.T) {
	t.Parallel()
	lark, _, environ := operated(t, process.SQLite(t))
	sent := larkside(t, environ, "consent", "send", larktest.Carol, "--scopes", "calendar:calendar:read")
	if sent.status != operate.ExitDone || !strings.Contains(sent.out, "is pending: ") || !strings.Contains(sent.out, "calendar:calendar:read") || !strings.Contains(sent.out, "and expires in ") {
		t.Errorf("%+v", sent)
	}
	if err := lark.Wait(t.Context(), func() bool { return len(lark.Messages(larktest.Carol)) == 1 }); err != nil {
		t.Error(err)
	}
	again := larkside(t, environ, "consent", "send", larktest.Carol, "-o", "json")
	if again.status != operate.ExitDone || !strings.Contains(again.out, `"state": "pending"`) || strings.Contains(again.out, "http") {
		t.Errorf("%+v", again)
	}
	if got := larkside(t, environ, "consent", "send", "ou_00000000000000000000000000000000"); got.status != operate.ExitFailed || !strings.Contains(got.err, "could not be asked") {
		t.Errorf("nobody: %+v", got)
	}
	if got := larkside(t, environ, "users", "sync"); got != (result{out: "2 users: 2 read, 0 could not be read\n"}) {
		t.Errorf("%+v", got)
	}
	// Who was read in this very millisecond is not read again.
	process.Eventually(t, "both are read again", func() bool {
		return strings.Contains(larkside(t, environ, "users", "sync", "-o", "json").out, `"users": 2`)
	})
}

// A user is found by whatever is at hand, and nobody else by a part of it.
func TestUserIsFound(t *testing.T) {
	t.Parallel()
	_, p, environ := operated(t, process.SQLite(t))
	if got := larkside(t, environ, "users", "sync"); got.status != operate.ExitDone {
		t.Fatalf("%+v", got)
	}
	users, err := telemetry.NewUsers(telemetry.HashUsers, session.NewSecret(larktest.AppSecret).Derive("users in logs and spans"))
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		OpenID  string `json:"open_id"`
		UnionID string `json:"union_id"`
		UserID  string `json:"user_id"`
		Name    string
	}
	if err := json.Unmarshal([]byte(larkside(t, environ, "sessions", "list", "-o", "json", "--search", larktest.Alice).out), &all); err != nil || len(all) != 1 {
		t.Fatalf("%v, %+v", err, all)
	}
	alice := all[0]
	for _, text := range []string{alice.OpenID, alice.UnionID, alice.UserID, alice.Name, strings.ToUpper(alice.Name), "alice@example.com", users.Show(larktest.Alice)} {
		if got := larkside(t, environ, "sessions", "show", text); got.status != operate.ExitDone || !strings.Contains(got.out, larktest.Alice) {
			t.Errorf("by %q: %+v", text, got)
		}
	}
	for _, text := range []string{"alice@", alice.Name[:2], users.Show(larktest.Alice)[:15]} {
		if got := larkside(t, environ, "sessions", "revoke", text); got.status != operate.ExitFailed || !strings.Contains(got.err, "there is no session of "+text) {
			t.Errorf("by %q: %+v", text, got)
		}
	}
	if got := larkside(t, environ, "sessions", "list", "--search", "alice@"); !strings.Contains(got.out, larktest.Alice) || strings.Contains(got.out, larktest.Bob) {
		t.Errorf("%+v", got)
	}

	// Who was asked and has not answered has no session, and is known all the same.
	if a := p.Get(t, records, larktest.Carol); a.Name() != "authorization_required" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	for _, text := range []string{larktest.Carol, users.Show(larktest.Carol)} {
		got := larkside(t, environ, "sessions", "show", text)
		if got.status != operate.ExitFailed || !regexp.MustCompile(`there is no session of \w+: asked \ds ago \(a card .*\), and has not answered; the link ends in \d+`).MatchString(got.err) {
			t.Errorf("by %q: %+v", text, got)
		}
		if got := larkside(t, environ, "consent", "list", "--user", text); got.status != operate.ExitDone || !strings.Contains(got.out, larktest.Carol+"  pending") {
			t.Errorf("by %q: %+v", text, got)
		}
	}
	if got := larkside(t, environ, "sessions", "revoke", larktest.Bob); got.status != operate.ExitDone {
		t.Fatalf("%+v", got)
	}
	p.Get(t, records, larktest.Bob)
	if got := larkside(t, environ, "sessions", "show", larktest.Bob); !regexp.MustCompile(`\nasked +asked \ds ago`).MatchString(got.out) {
		t.Errorf("%+v", got)
	}
}

// The lists of consents and of the audit trail, the newest first.
func TestConsentAndAuditLists(t *testing.T) {
	t.Parallel()
	_, _, environ := operated(t, process.SQLite(t))
	if got := larkside(t, environ, "consent", "list"); got.status != operate.ExitDone || got.out != "" || got.err != "no consents\n" {
		t.Errorf("%+v", got)
	}
	for _, user := range []string{larktest.Alice, larktest.Bob} {
		if got := larkside(t, environ, "consent", "send", user); got.status != operate.ExitDone || strings.Contains(got.out, "older card") {
			t.Errorf("%+v", got)
		}
	}
	process.Eventually(t, "a second card is not sent", func() bool {
		return strings.Contains(larkside(t, environ, "consent", "send", larktest.Bob).out, "an older card, sent ")
	})
	list := larkside(t, environ, "consent", "list", "--state", "pending", "-n", "1")
	if !strings.Contains(list.out, larktest.Bob+"  pending") || strings.Contains(list.out, larktest.Alice) || list.err != "these are the newest 1; -n 0 shows all\n" {
		t.Errorf("%+v", list)
	}
	var consents []map[string]any
	if err := json.Unmarshal([]byte(larkside(t, environ, "consent", "list", "-o", "json", "-n", "0").out), &consents); err != nil || len(consents) != 2 {
		t.Errorf("%v, %v", err, consents)
	}
	larkside(t, environ, "sessions", "revoke", larktest.Alice)
	audit := larkside(t, environ, "audit", "list")
	lines := strings.Split(audit.out, "\n")
	if !strings.HasPrefix(lines[0], "TIME ") || !strings.Contains(lines[1], "admin  revoke        done") || !strings.Contains(lines[2], "consent_send") {
		t.Errorf("%+v", audit)
	}
	if got := larkside(t, environ, "audit", "list", "--action", "revoke", "--user", larktest.Alice, "-o", "json"); strings.Count(got.out, `"action"`) != 1 {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, environ[:1], "audit", "list"); got.status != operate.ExitFailed || !strings.Contains(got.err, "set LARKSIDE_ADMIN_KEY") || strings.Contains(got.err, "Bearer") {
		t.Errorf("without the key: %+v", got)
	}
}

// Keys are rotated while two replicas answer requests, not one of which fails;
// then the old key is not needed, nor enough.
func TestKeysRotate(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := larktest.Start(t, nil)
		process.Seed(t, db, lark, time.Minute, larktest.Alice, larktest.Bob)
		fresh := operate.NewKey(time.Now())
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
		if got.Status != operate.ExitDone || !strings.HasSuffix(got.Stdout, "may leave LARKSIDE_ENCRYPTION_KEYS: test\n") {
			t.Fatalf("%+v", got)
		}
		for _, p := range replicas {
			p.Stop()
		}
		env := map[string]string{"ENCRYPTION_KEYS": process.Keys}
		if got := process.Run(t, process.Options{Lark: lark, DB: db, Env: env}); got.Status == operate.ExitDone || !strings.Contains(got.Stderr, "sessions are stored under encryption key") {
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
		larktest.NoViolations(t, lark)
	})
}
