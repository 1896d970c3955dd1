package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// answered are the redemptions of a user's refresh tokens that Lark answered.
func answered(lark *larktest.Platform, openID string) (n int) {
	for _, token := range lark.Ledger(openID) {
		for _, r := range token.Redemptions {
			if r.Outcome == larktest.Answered {
				n++
			}
		}
	}
	return n
}

// An expired token is renewed once for all who wait for it, over all replicas,
// and each of them is answered.
func TestOneRefreshForAll(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		process.Seed(t, db, lark, 3*time.Hour, alice)
		o := process.Options{Lark: lark, DB: db}
		replicas := []*process.Process{process.Start(t, o)}
		if db.Postgres {
			replicas = append(replicas, process.Start(t, o), process.Start(t, o))
		}
		const calls = 60
		results := make(chan string)
		for i := range calls {
			r := replicas[i%len(replicas)].Request(t, "GET", records, alice, "", larktest.ExpectUserHeader, alice)
			go func() {
				a, err := process.Try(r)
				switch {
				case err != nil:
					results <- err.Error()
				case a.Status != 200:
					results <- fmt.Sprint(a.Status, " ", a.Body)
				default:
					results <- ""
				}
			}()
		}
		for range calls {
			if problem := <-results; problem != "" {
				t.Error(problem)
			}
		}
		if n := answered(lark, alice); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
		larktest.NoViolations(t, lark)
	})
}

// Tokens that live for seconds are renewed again and again, and no call of an
// app that goes on calling fails or comes with an expired token.
func TestRenewedInTime(t *testing.T) {
	t.Parallel()
	lark := newLark(t, func(c *larktest.Config) { c.AccessLife = 2 * time.Second })
	db := process.SQLite(t)
	process.Seed(t, db, lark, 0, alice)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"REFRESH_THRESHOLD": "0.5"}})
	process.Eventually(t, "three renewals", func() bool {
		isDataOf(t, p.Get(t, records, alice), alice)
		return answered(lark, alice) >= 3
	})
	larktest.NoViolations(t, lark)
}

// What has been stored is there after kill -9: nobody is asked again.
func TestRestartKeepsSessions(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"SCOPES": scopes}})
		p.Consent(t, records, alice)
		issued := len(lark.Ledger(alice))
		p.Restart()
		isDataOf(t, p.Get(t, records, alice), alice)
		process.Card(t, lark, alice)
		if n := len(lark.Ledger(alice)); n != issued {
			t.Errorf("%d tokens issued before the restart, %d after", issued, n)
		}
		larktest.NoViolations(t, lark)
	})
}

// A token that Lark refuses is renewed and the request sent again, body and all;
// a second refusal asks the user.
func TestRefusedToken(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice, bob, carol)
	for _, openID := range []string{alice, bob} {
		if err := lark.Revoke(openID, larktest.AccessToken); err != nil {
			t.Fatal(err)
		}
	}
	a := process.Do(t, p.Request(t, "POST", echo, alice, `{"sent":"twice"}`, "Content-Type", "application/json"))
	if isDataOf(t, a, alice); !strings.Contains(a.Body, `"body_size":16`) {
		t.Errorf("the replay: %s", a.Body)
	}
	if err := lark.Revoke(bob, larktest.RefreshToken); err != nil {
		t.Fatal(err)
	}
	a = p.Get(t, records, bob)
	if is(t, a, 401, "authorization_required"); a.Envelope.Error.AuthorizeURL == "" || a.Envelope.Error.Reason == "no_session" {
		t.Errorf("%s", a.Body)
	}
	// The card is sent by the end of the session or by the call, whichever came
	// first. A call that came second does not wait for it.
	process.Await(t, lark, "a card", func() bool { return len(lark.Messages(bob)) > 0 })
	process.Card(t, lark, bob)
	// A body beyond REPLAY_BUFFER can't be sent again; the token is renewed all
	// the same.
	if err := lark.Revoke(carol, larktest.AccessToken); err != nil {
		t.Fatal(err)
	}
	a = process.Do(t, p.Request(t, "POST", echo, carol, strings.Repeat("x", 100<<10)))
	if a.Status != 401 && a.Status != 400 || a.Header.Get("X-Larkside-Hint") != "not-replayed" {
		t.Errorf("%d %q %s", a.Status, a.Header.Get("X-Larkside-Hint"), a.Body)
	}
	isDataOf(t, p.Get(t, records, carol), carol)
}

// An API that takes tenant tokens only is no reason to spend a refresh token.
func TestTenantOnlyAPI(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	a := p.Get(t, "/open-apis/apaas/v1/applications/package_x/roles/admin/member", alice)
	if a.Envelope.Code != 99991668 || a.Name() != "" || a.Header.Get("X-Larkside-Hint") == "" {
		t.Errorf("%d %v %s", a.Status, a.Header, a.Body)
	}
	if n := answered(lark, alice); n != 0 {
		t.Errorf("%d refreshes", n)
	}
}

// Requests without a user, as section 4.4 has them: tokens of the app's own go
// through untouched, placeholders count as none.
func TestWithoutUser(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	own, err := lark.Grant(larktest.AppID, bob)
	if err != nil {
		t.Fatal(err)
	}
	isDataOf(t, p.Get(t, records, "", "Authorization", "Bearer "+own.AccessToken), bob)
	isDataOf(t, p.Get(t, records, alice, "Authorization", "Bearer "+own.AccessToken), alice) // dropped and replaced
	for _, placeholder := range []string{"larkside", "t-larkside", "u-larkside", "None"} {
		is(t, p.Get(t, records, "", "Authorization", "Bearer "+placeholder), 400, "user_id_required")
		isDataOf(t, p.Get(t, records, alice, "Authorization", "Bearer "+placeholder), alice)
	}
}

// An SDK's call for its tenant token is answered on the spot when the secret is
// the placeholder, and is Lark's otherwise.
func TestTenantTokenCall(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark})
	own := len(lark.Calls(larktest.To(larktest.TenantEndpoint))) // Larkside's, at the start
	ask := func(kind, secret, openID string) *process.Answer {
		return process.Do(t, p.Request(t, "POST", "/open-apis/auth/v3/"+kind+"/internal", openID,
			fmt.Sprintf(`{"app_id":%q,"app_secret":%q}`, larktest.AppID, secret), "Content-Type", "application/json"))
	}
	for _, openID := range []string{"", alice} { // a client-wide header comes along
		for _, kind := range []string{"tenant_access_token", "app_access_token"} {
			a := ask(kind, "larkside", openID)
			if a.Status != 200 || !strings.Contains(a.Body, `"`+kind+`":"t-larkside"`) || !strings.Contains(a.Body, `"expire":7200`) {
				t.Errorf("%s: %d %s", kind, a.Status, a.Body)
			}
		}
	}
	if calls := lark.Calls(larktest.To(larktest.TenantEndpoint)); len(calls) != own {
		t.Errorf("%d calls for a placeholder reached Lark", len(calls))
	}
	a := ask("tenant_access_token", larktest.AppSecret, "")
	if a.Status != 200 || a.Envelope.Code != 0 || strings.Contains(a.Body, "t-larkside") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if calls := lark.Calls(larktest.To(larktest.TenantEndpoint)); len(calls) != own+1 || calls[own].AppID != larktest.AppID {
		t.Errorf("calls: %v", calls)
	}
	larktest.NoViolations(t, lark)
}

// On tenant paths a request that names nobody gets the app's own token, and only
// there.
func TestTenantPaths(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{"TENANT_PATHS": "/open-apis/contact/,/open-apis/apaas/v1/larktest/"}}, alice)
	for _, header := range [][]string{nil, {"Authorization", "Bearer t-larkside"}} {
		a := p.Get(t, "/open-apis/contact/v3/departments/0", "", header...)
		if a.Status != 200 || a.Envelope.Data.Owner.Token != "tenant_access_token" || a.Envelope.Data.Owner.AppID != larktest.AppID {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	isDataOf(t, p.Get(t, echo, alice), alice) // a user goes before
	is(t, p.Get(t, records, ""), 400, "user_id_required")
	larktest.NoViolations(t, lark)
}

// What the app and the browser send of themselves does not reach Lark.
func TestWhatLarkGets(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	r := p.Request(t, "DELETE", echo+"/x?q=%2F&empty", alice, `{"a body":"on DELETE"}`,
		"Cookie", "a=b", "Baggage", "k=v", "X-Lark-App-Id", larktest.AppID, "X-Larkside-Anything", "x",
		"Connection", "Authorization, X-Kept", "X-Kept", "y", "X-Own", "z", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	r.Header["X_Lark_User_Id"] = []string{bob}
	a := process.Do(t, r)
	isDataOf(t, a, alice)
	for _, gone := range []string{"User-Id", "User_Id", "App-Id", "Cookie", "Baggage", "X-Larkside", "X-Kept", "Traceparent"} {
		if strings.Contains(a.Body, gone) {
			t.Errorf("%s reached Lark: %s", gone, a.Body)
		}
	}
	for _, kept := range []string{`"X-Own"`, `"body_size":22`, `/x?q=%2F\u0026empty"`, `"method":"DELETE"`} {
		if !strings.Contains(a.Body, kept) {
			t.Errorf("%s is missing: %s", kept, a.Body)
		}
	}
	larktest.NoViolations(t, lark)
}

// Revoked by an operator, a session ends on every replica within a second, and
// at Lark.
func TestRevokedByOperator(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		process.Seed(t, db, lark, time.Minute, alice)
		o := process.Options{Lark: lark, DB: db}
		p := process.Start(t, o)
		other := p
		if db.Postgres {
			other = process.Start(t, o)
		}
		isDataOf(t, other.Get(t, records, alice), alice) // in its cache now
		if a := p.Admin(t, "DELETE", "/api/v1/sessions/"+larktest.AppID+"/"+alice); a.Status/100 != 2 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		revoked := time.Now()
		process.Eventually(t, "the end of the session", func() bool { return other.Get(t, records, alice).Status == 401 })
		if took := time.Since(revoked); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if a := other.Get(t, records, alice); a.Envelope.Error.Reason != "revoked" {
			t.Errorf("%s", a.Body)
		}
		process.Await(t, lark, "revocation at Lark", func() bool {
			for _, token := range lark.Ledger(alice) {
				if !token.Revoked {
					return false
				}
			}
			return true
		})
	})
}

// Lark's answers are input too: whatever comes instead of tokens, the session is
// kept, the log names what came, and the next good answer renews it.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	const page = "text/html; charset=utf-8"
	cases := []struct {
		sentence string
		fault    larktest.Fault
		named    string // in the log
	}{
		{"half an object", larktest.Fault{Status: 200, Body: `{"code":0,"access_tok`}, "JSON"},
		{"ten megabytes", larktest.Fault{Status: 200, Body: `{"code":0,"pad":"` + strings.Repeat("x", 10<<20) + `"}`}, "too large"},
		{"a page", larktest.Fault{Status: 200, Body: "<html>welcome</html>", ContentType: page}, "JSON"},
		{"a gateway's page", larktest.Fault{Status: 502, Body: "<html>bad gateway</html>", ContentType: page}, "502"},
		{"no token", larktest.Fault{Status: 200, Body: `{"code":0,"expires_in":7200,"token_type":"Bearer"}`}, "access_token"},
		{"nothing", larktest.Fault{Status: 200, Body: " "}, "JSON"},
		{"a list", larktest.Fault{Status: 200, Body: "[]"}, "JSON"},
		{"a code that nobody knows", larktest.Fault{Status: 400, Body: `{"code":29999,"error":"new_error"}`}, "29999"},
		{"no connection", larktest.Fault{Drop: true}, "EOF"},
	}
	for _, tc := range cases {
		// A process of its own: a second failure within a minute is only counted.
		t.Run(tc.sentence, func(t *testing.T) {
			t.Parallel()
			lark := newLark(t, nil)
			db := process.SQLite(t)
			process.Seed(t, db, lark, 3*time.Hour, alice)
			p := process.Start(t, process.Options{Lark: lark, DB: db})
			f := tc.fault
			f.Endpoint, f.Times = larktest.TokenEndpoint, -1
			fault := lark.Fault(f)
			before := len(p.Log().Lines())
			is(t, p.Get(t, records, alice), 503, "refresh_unavailable")
			p.Log().Await(t, "failed refresh that names "+tc.named, func(l process.Line) bool {
				return l.Level == "WARN" && strings.Contains(l.Text("error"), tc.named) && len(l.Raw) < 2000
			})
			if n := len(p.Log().Lines()[before:]); n > 5 {
				t.Errorf("%d lines for one failure", n)
			}
			fault.Remove()
			process.Eventually(t, "a renewal", func() bool { return p.Get(t, records, alice).Status == 200 })
			if n := len(lark.Messages("")); n > 0 {
				t.Errorf("%d cards", n)
			}
			larktest.NoViolations(t, lark)
		})
	}
}

// Lifetimes that can't be meant end no session, and are warned of.
func TestAbsurdLifetimes(t *testing.T) {
	t.Parallel()
	lark := newLark(t, func(c *larktest.Config) { c.AdHocUsers = true })
	db := process.SQLite(t)
	lives := []struct {
		sent any
		said string // in the log, behind the field's name
	}{{0, " is 0"}, {-1, " is -1"}, {1e12, " is 1000000000000"}, {"soon", ` is missing or unreadable ("\"soon`}, {nil, " is missing or unreadable (\"null"}}
	user := func(i int) string { return fmt.Sprintf("ou_%032d", i) }
	for i := range lives {
		process.Seed(t, db, lark, 3*time.Hour, user(i))
	}
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"TRACE_USERS": "id"}})
	for i, life := range lives {
		for _, field := range []string{"expires_in", "refresh_token_expires_in"} {
			said := field + life.said
			t.Run(said, func(t *testing.T) {
				fault := lark.Fault(larktest.Fault{
					Endpoint: larktest.TokenEndpoint, OpenID: user(i), Processed: true, Set: map[string]any{field: life.sent},
				})
				if a := p.Admin(t, "POST", "/api/v1/sessions/"+larktest.AppID+"/"+user(i)+"/refresh"); a.Status != 200 {
					t.Errorf("%d %s", a.Status, a.Body)
				}
				if fault.Hits() != 1 {
					t.Errorf("struck %d times", fault.Hits())
				}
				p.Log().Await(t, "warning of "+said, func(l process.Line) bool { return l.Level == "WARN" && strings.HasPrefix(l.Text("what"), said) })
				process.Eventually(t, "an answer", func() bool { return p.Get(t, records, user(i)).Status == 200 })
			})
		}
	}
	larktest.NoViolations(t, lark)
}
