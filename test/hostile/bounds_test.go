package hostile

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// S32: ids that somebody makes up bring no session, no card and no row, and
// memory does not grow with them.
func TestMadeUpUsers(t *testing.T) {
	t.Parallel()
	p, front := begin(t, nil)
	const ids = 1000
	ask := func(from, to int) {
		var group sync.WaitGroup
		slots := make(chan bool, 40)
		for i := from; i < to; i++ {
			r := p.Request(t, "GET", echo, fmt.Sprintf("ou_%032x", i), "")
			slots <- true
			group.Go(func() {
				defer func() { <-slots }()
				a, err := process.Try(r)
				if err != nil || a.Status != 401 || a.Envelope.Error.AuthorizeURL != "" {
					t.Errorf("%+v, %v", a, err)
				}
			})
		}
		group.Wait()
	}
	ask(0, 200)
	begun := peak(t, p.PID())
	ask(200, ids)
	ask(200, ids) // again
	if now := peak(t, p.PID()); now > begun+headroom()/2 {
		t.Errorf("memory went from %d MiB to %d MiB", begun, now)
	}
	db := p.DB.SQL(t)
	for query, most := range map[string]int{
		"SELECT count(*) FROM sessions":                         2, // alice and bob
		"SELECT count(*) FROM consents WHERE state = 'pending'": 0,
		"SELECT count(*) FROM consents":                         0,
	} {
		var n int
		if err := db.QueryRow(query).Scan(&n); err != nil {
			t.Fatal(query, err)
		}
		if n > most {
			t.Errorf("%s: %d, want at most %d", query, n, most)
		}
	}
	if n := len(p.Lark.Messages("")); n > 0 {
		t.Errorf("%d cards", n)
	}
	if n := len(p.Lark.Calls(larktest.To(larktest.DeviceEndpoint))); n > ids {
		t.Errorf("Lark was asked %d times about %d ids", n, ids)
	}
	front.unharmed(t, p, "made up users")
}

// S37: a user who has revoked, and one who has left, are served by no replica
// from its cache.
func TestRevokedOnAnotherReplica(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	f := newFront(t, larktest.Config{})
	process.Seed(t, db, f.lark, time.Minute, alice, bob)
	const token, key = "token-of-the-events", "key-of-the-events"
	env := map[string]string{
		"CACHE_TTL": "1h", "CONSENT_LISTEN": "127.0.0.1:0", "PUBLIC_URL": "http://localhost:1", "EVENTS": "http", "EVENT_TOKEN": token, "EVENT_ENCRYPT_KEY": key,
	}
	one := process.Start(t, process.Options{Lark: f.lark, DB: db, Env: env})
	two := process.Start(t, process.Options{Lark: f.lark, DB: db, Env: env})
	err := f.lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
		a.EventsURL, a.VerificationToken, a.EncryptKey = one.ConsentURL+"/consent/events", token, key
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{alice, bob} {
		if a := two.Get(t, echo, id); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	if _, err := f.lark.SendRevoked(t.Context(), alice, "user"); err != nil {
		t.Fatal(err)
	}
	process.Eventually(t, "the other replica knows", func() bool { return two.Get(t, echo, alice).Status == 401 })
	if a := two.Get(t, echo, alice); a.Envelope.Error.Reason != "revoked" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// Who has left is refused by Lark with the token that is cached; the renewal
	// that follows says so.
	if err := f.lark.UpdateUser(bob, func(u *larktest.User) { u.Status = larktest.Resigned }); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*process.Process{two, one} {
		process.Eventually(t, "bob is refused", func() bool { return p.Get(t, echo, bob).Name() == "user_disabled" })
	}
	if n := len(f.lark.Messages(bob)); n > 0 {
		t.Errorf("%d cards to somebody who has left", n)
	}
	larktest.NoViolations(t, f.lark, larktest.Replayed, larktest.WrongUser, larktest.UnknownToken)
}

// S39: the environment's proxies get nothing; the one of the setting does.
func TestEnvironmentProxies(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	x := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.RequestURI)
		mu.Unlock()
		w.WriteHeader(502)
	}))
	defer x.Close()
	var environ []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		environ = append(environ, name+"="+x.URL)
	}
	// Names that can't be resolved: loopback would never be proxied.
	for _, scheme := range []string{"http://", "https://"} {
		for _, explicit := range []bool{false, true} {
			env := map[string]string{
				"OPEN_URL": scheme + "open.larkside.invalid", "ACCOUNTS_URL": scheme + "accounts.larkside.invalid", "TENANT_PATHS": "/open-apis/contact/",
			}
			if explicit {
				env["UPSTREAM_PROXY"] = x.URL
			}
			f := newFront(t, larktest.Config{})
			db := process.SQLite(t)
			process.Seed(t, db, f.lark, time.Minute, alice)
			p := process.Start(t, process.Options{DB: db, Env: env, Environ: environ})
			p.Get(t, echo, alice)                               // the API
			p.Get(t, echo, carol)                               // the device flow
			p.Get(t, "/open-apis/contact/v3/departments/0", "") // the tenant's token
			p.Admin(t, "POST", "/api/v1/users/sync")            // the SDK's way
			p.Stop()
			mu.Lock()
			all := seen
			seen = nil
			mu.Unlock()
			if !explicit && len(all) > 0 {
				t.Errorf("%s: the environment's proxy got %q", scheme, all)
			}
			if explicit {
				for _, want := range []string{"open.larkside.invalid", "accounts.larkside.invalid"} {
					if !strings.Contains(strings.Join(all, "\n"), want) {
						t.Errorf("%s: the configured proxy got %q, nothing for %s", scheme, all, want)
					}
				}
			}
		}
	}
}
