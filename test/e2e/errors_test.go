package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/test/larktest"
	"larkside/test/port"
	"larkside/test/process"
)

// Each row of the contract's table is answered by the real listener, and no row
// is forgotten here.
func TestErrors(t *testing.T) {
	t.Parallel()
	rows := map[string]func(*testing.T){
		"invalid_user_id":        invalidUserID,
		"user_id_required":       userIDRequired,
		"ambiguous_path":         ambiguousPath,
		"unknown_app":            unknownApp,
		"malformed_request":      malformedRequest,
		"authorization_required": authorizationRequired,
		"caller_unauthenticated": callerUnauthenticated,
		"user_unproven":          userUnproven,
		"caller_not_allowed":     callerNotAllowed,
		"caller_rate_limited":    callerRateLimited,
		"path_not_allowed":       pathNotAllowed,
		"host_not_allowed":       hostNotAllowed,
		"user_disabled":          userDisabled,
		"method_not_allowed":     methodNotAllowed,
		"header_too_large":       headerTooLarge,
		"upstream_unreachable":   upstreamUnreachable,
		"store_unavailable":      storeUnavailable,
		"refresh_unavailable":    refreshUnavailable,
		"app_misconfigured":      appMisconfigured,
		"draining":               draining,
		"upstream_timeout":       upstreamTimeout,
	}
	for _, f := range proxy.Failures() {
		if rows[f.Name] == nil {
			t.Errorf("%s is not tested", f.Name)
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			rows[f.Name](t)
		})
	}
}

// nothingSent: no API call reached Lark.
func nothingSent(t *testing.T, lark *larktest.Platform) {
	t.Helper()
	if calls := lark.Calls(larktest.To(larktest.API)); len(calls) > 0 {
		t.Errorf("%s %s was sent on", calls[0].Method, calls[0].Target)
	}
}

func invalidUserID(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	for sentence, ids := range map[string][]string{
		"differing repeats":   {alice, bob},
		"an empty one":        {""},
		"too long":            {strings.Repeat("a", 129)},
		"a blank inside":      {"ou_a b"},
		"two in one":          {alice + "," + bob},
		"outside ASCII":       {"ou_ä"},
		"a real and an empty": {alice, ""},
	} {
		r := p.Request(t, "GET", records, "", "")
		r.Header["X-Lark-User-Id"] = ids
		t.Run(sentence, func(t *testing.T) { is(t, process.Do(t, r), 400, "invalid_user_id") })
	}
	nothingSent(t, lark)
	// The Go SDK sends the header twice when it is set on client and call.
	r := p.Request(t, "GET", records, "", "")
	r.Header["X-Lark-User-Id"] = []string{alice, alice}
	isDataOf(t, process.Do(t, r), alice)
}

func userIDRequired(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	for _, authorization := range []string{"", "Bearer larkside", "Bearer t-larkside", "Bearer u-larkside", "Bearer None"} {
		r := p.Request(t, "GET", records, "", "")
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		is(t, process.Do(t, r), 400, "user_id_required")
	}
	nothingSent(t, lark)
}

func ambiguousPath(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	for _, path := range []string{
		"/open-apis/apaas/../im/v1/messages", "/open-apis/apaas/%2e%2e/im/v1/messages", "/open-apis/apaas/%252e%252e/im/v1/messages",
		"//open-apis/apaas/v1/apps", "/open-apis//apaas/v1/apps", "/open-apis/apaas/./v1/apps", "/open-apis/apaas%2f..%2fim",
		`/open-apis/apaas/..\im`, "/open-apis/apaas%5c..%5cim", "/open-apis/apaas/%00", "/open-apis/apaas/%0d%0aX:1",
	} {
		for _, openID := range []string{alice, ""} {
			is(t, p.Raw(t, "GET "+path, openID), 400, "ambiguous_path")
		}
	}
	nothingSent(t, lark)
	// An encoded slash inside a segment is an SDK's path variable.
	a := p.Raw(t, "GET "+echo+"/a%2Fb?c=%2F", alice)
	if isDataOf(t, a, alice); !strings.Contains(a.Body, `/a%2Fb?c=%2F"`) {
		t.Error(a.Body)
	}
}

func unknownApp(t *testing.T) {
	p := process.Seeded(t, process.Options{Lark: newLark(t, nil)}, alice)
	is(t, p.Get(t, records, alice, "X-Lark-App-Id", "cli_someone_elses"), 400, "unknown_app")
	isDataOf(t, p.Get(t, records, alice, "X-Lark-App-Id", larktest.AppID), alice)
}

func malformedRequest(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{"AUTHZ_LISTEN": "127.0.0.1:0"}}, alice)
	for _, url := range []string{p.URL, p.AdminURL, p.AuthzURL} {
		is(t, process.Send(t, process.Host(url), "GET "+records+"%zz", "", "X-Lark-User-Id: "+alice), 400, "malformed_request")
	}
	nothingSent(t, lark)
}

func headerTooLarge(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	is(t, process.Send(t, process.Host(p.URL), "GET "+records, "", "X-Lark-User-Id: "+alice, "X-Padding: "+strings.Repeat("a", 100<<10)), 431, "header_too_large")
	nothingSent(t, lark)
}

func authorizationRequired(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark})
	a := p.Get(t, records, alice)
	is(t, a, 401, "authorization_required")
	e := a.Envelope.Error
	if e.Reason != "no_session" || e.Card != "sent" || e.ExpiresIn <= 0 || !strings.HasPrefix(e.AuthorizeURL, lark.URL+"/oauth/v1/device/verify?flow_id=") {
		t.Errorf("%+v", e)
	}
	if got := a.Header.Get("WWW-Authenticate"); got != `Bearer realm="lark", error="invalid_token"` {
		t.Errorf("WWW-Authenticate %s", got)
	}
	if got := a.Header.Get("X-Larkside-Authorize-Url"); got != e.AuthorizeURL {
		t.Errorf("X-Larkside-Authorize-Url %s", got)
	}
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	nothingSent(t, lark)
}

func callerUnauthenticated(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{"CALLER_KEYS": "app:key-of-the-app,other:key-of-the-other"}}, alice)
	is(t, p.Get(t, records, alice), 401, "caller_unauthenticated")
	is(t, p.Get(t, records, alice, "X-Larkside-Key", "key-of-nobody"), 401, "caller_unauthenticated")
	nothingSent(t, lark)
	a := p.Get(t, echo, alice, "X-Larkside-Key", "key-of-the-other")
	if isDataOf(t, a, alice); strings.Contains(a.Body, "key-of-the-other") {
		t.Errorf("the key reached Lark: %s", a.Body)
	}
}

func callerNotAllowed(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{
		"CALLER_KEYS": "app:key-of-the-app,other:key-of-the-other", "CALLER_LIMITS": "app:users=" + alice + ";paths=/open-apis/apaas/v1/workspaces/",
	}}, alice, bob)
	is(t, p.Get(t, records, bob, "X-Larkside-Key", "key-of-the-app"), 403, "caller_not_allowed")
	is(t, p.Get(t, echo, alice, "X-Larkside-Key", "key-of-the-app"), 403, "caller_not_allowed")
	nothingSent(t, lark)
	isDataOf(t, p.Get(t, records, alice, "X-Larkside-Key", "key-of-the-app"), alice)
	isDataOf(t, p.Get(t, echo, bob, "X-Larkside-Key", "key-of-the-other"), bob) // has no limits
}

func callerRateLimited(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{
		"CALLER_KEYS": "app:key-of-the-app,other:key-of-the-other", "CALLER_LIMITS": "app:rate=3/1h",
	}}, alice)
	for range 3 {
		isDataOf(t, p.Get(t, records, alice, "X-Larkside-Key", "key-of-the-app"), alice)
	}
	a := p.Get(t, records, alice, "X-Larkside-Key", "key-of-the-app")
	if is(t, a, 429, "caller_rate_limited"); a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	isDataOf(t, p.Get(t, records, alice, "X-Larkside-Key", "key-of-the-other"), alice)
	if n := len(lark.Calls(larktest.To(larktest.API))); n != 4 {
		t.Errorf("%d calls reached Lark, want 4", n)
	}
}

func pathNotAllowed(t *testing.T) {
	lark := newLark(t, nil)
	// What must never be an inject path isn't, whatever the setting says.
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{"INJECT_PATHS": "/open-apis/apaas/,/open-apis/authen/,/open-apis/auth/,/oauth/"}}, alice)
	for _, path := range []string{
		"/open-apis/im/v1/messages", "/open-apis/apaasx/v1/apps", "/open-apis/APAAS/v1/apps", "/", "/-/larkside/", "/-/larkside/nothing",
		"/open-apis/authen/v2/oauth/token", "/oauth/v3/token",
	} {
		is(t, p.Get(t, path, alice), 403, "path_not_allowed")
	}
	nothingSent(t, lark)
	isDataOf(t, p.Get(t, "/open-apis/authen/v1/user_info", alice), "") // allowed; its data has no owner
}

func hostNotAllowed(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	is(t, p.Get(t, records, alice, "Host", "evil.example"), 403, "host_not_allowed")
	is(t, p.Get(t, records, alice, "Origin", "https://evil.example"), 403, "host_not_allowed")
	is(t, p.Get(t, records, alice, "Sec-Fetch-Site", "cross-site"), 403, "host_not_allowed")
	nothingSent(t, lark)
	isDataOf(t, p.Get(t, records, alice, "Host", "localhost"), alice)
}

func userDisabled(t *testing.T) {
	lark := newLark(t, nil)
	db := process.SQLite(t)
	process.Seed(t, db, lark, 3*time.Hour, alice)
	if err := lark.UpdateUser(alice, func(u *larktest.User) { u.Status = larktest.Resigned }); err != nil {
		t.Fatal(err)
	}
	p := process.Start(t, process.Options{Lark: lark, DB: db})
	is(t, p.Get(t, records, alice), 403, "user_disabled")
	nothingSent(t, lark)
	if n := len(lark.Messages(alice)); n > 0 {
		t.Errorf("%d cards to somebody who has left", n)
	}
}

func methodNotAllowed(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	for _, line := range []string{"TRACE " + records, "CONNECT evil.example:443"} {
		a := p.Raw(t, line, alice)
		if is(t, a, 405, "method_not_allowed"); a.Header.Get("Allow") == "" {
			t.Errorf("%s: no Allow (RFC 9110 section 15.5.6)", line)
		}
	}
	nothingSent(t, lark)
}

func upstreamUnreachable(t *testing.T) {
	p := process.Seeded(t, process.Options{Lark: newLark(t, nil), Env: map[string]string{"OPEN_URL": "http://" + port.Address(t)}}, alice)
	is(t, p.Get(t, records, alice), 502, "upstream_unreachable")
}

func storeUnavailable(t *testing.T) {
	db := process.Postgres(t)
	lark := newLark(t, nil)
	process.Seed(t, db, lark, time.Minute, alice, bob)
	way := process.Forward(t, db)
	way.Open(t)
	p := process.Start(t, process.Options{Lark: lark, DB: way.DB(t, db), Env: map[string]string{"CACHE_TTL": "1ms"}})
	isDataOf(t, p.Get(t, records, alice), alice)
	way.Cut()
	isDataOf(t, p.Get(t, records, alice), alice) // cached: goes on, though it can't be checked
	a := p.Get(t, records, bob)
	if is(t, a, 503, "store_unavailable"); a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	// A database that is away for a moment is no reason to send requests elsewhere.
	if ready := p.Admin(t, "GET", "/readyz"); ready.Status != 200 {
		t.Errorf("%d %s", ready.Status, ready.Body)
	}
	way.Open(t)
	process.Eventually(t, "the database is back", func() bool { return p.Get(t, records, bob).Status == 200 })
	larktest.NoViolations(t, lark)
}

func refreshUnavailable(t *testing.T) {
	lark := newLark(t, nil)
	db := process.SQLite(t)
	process.Seed(t, db, lark, 3*time.Hour, alice)
	fault := lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20050, Times: -1})
	p := process.Start(t, process.Options{Lark: lark, DB: db})
	a := p.Get(t, records, alice)
	if is(t, a, 503, "refresh_unavailable"); a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	nothingSent(t, lark)
	fault.Remove()
	process.Eventually(t, "a renewal", func() bool { return p.Get(t, records, alice).Status == 200 })
	if n := len(lark.Messages(alice)); n > 0 {
		t.Errorf("%d cards for a failure that passed", n)
	}
}

func appMisconfigured(t *testing.T) {
	lark := newLark(t, nil)
	db := process.SQLite(t)
	process.Seed(t, db, lark, 3*time.Hour, alice, bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db, AppSecret: "not-the-apps-secret", Unready: true})
	p.Log().AwaitText(t, "not ready: Lark refuses every app")
	for range 3 {
		is(t, p.Get(t, records, alice), 503, "app_misconfigured")
	}
	is(t, p.Get(t, records, bob), 503, "app_misconfigured")
	is(t, p.Get(t, records, carol), 503, "app_misconfigured") // without a session: no card either
	if n := len(lark.Messages("")); n > 0 {
		t.Errorf("%d cards", n)
	}
	if ready := p.Admin(t, "GET", "/readyz"); ready.Status != 503 || !strings.Contains(ready.Body, larktest.AppID) {
		t.Errorf("%d %s", ready.Status, ready.Body)
	}
	errors := p.Log().Find(func(l process.Line) bool { return l.Level == "ERROR" })
	if len(errors) != 1 || !strings.Contains(errors[0].Raw, "10014") {
		t.Errorf("want one error line with Lark's code, got %v", errors)
	}
}

func draining(t *testing.T) {
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	held := lark.Fault(larktest.Fault{Endpoint: larktest.API, Hang: true})
	running := make(chan *process.Answer, 1)
	r := p.Request(t, "GET", records, alice, "")
	go func() {
		a, err := process.Try(r)
		if err != nil {
			t.Error(err)
		}
		running <- a
	}()
	process.AwaitHit(t, held)
	p.Signal(syscall.SIGTERM)
	p.Log().AwaitText(t, "stopping")
	is(t, p.Get(t, records, alice), 503, "draining")
	held.Release()
	if a := <-running; a != nil {
		isDataOf(t, a, alice)
	}
	if status := p.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

func upstreamTimeout(t *testing.T) {
	p := process.Seeded(t, process.Options{Lark: newLark(t, nil), Env: map[string]string{"UPSTREAM_TIMEOUT": "300ms"}}, alice)
	is(t, p.Get(t, helpers+"/slow?delay=1m", alice), 504, "upstream_timeout")
}
