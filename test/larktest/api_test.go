package larktest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func newRequest(t *testing.T, method, address, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tenant(t *testing.T, p *Platform) string {
	t.Helper()
	r := call(t, p, "POST", "/open-apis/auth/v3/tenant_access_token/internal", "", `{"app_id":"`+AppID+`","app_secret":"`+AppSecret+`"}`)
	want(t, r, 200, 0)
	return r.text("tenant_access_token")
}

const (
	tablesPath = apaas + "/workspaces/workspace_a/tables"
	oqlPath    = apaas + "/applications/ns/objects/oql_query"
	sheetsPath = "/open-apis/sheets/v2/spreadsheets/T/values/a%2Fb"
)

func TestGate(t *testing.T) {
	p, clock := startAt(t, Config{})
	alice, tat := granted(t, p, Alice), tenant(t, p)
	few := granted(t, p, Bob, "offline_access")
	revoked := granted(t, p, Carol)
	p.Revoke(Carol, AccessToken)
	cases := []struct {
		name, method, path, token string
		status, code              int
		msg                       string
	}{
		{"user token where it belongs", "GET", tablesPath, alice.AccessToken, 200, 0, ""},
		{"no token", "GET", tablesPath, "", 400, 99991661, "Missing access token"},
		{"unknown user token", "GET", tablesPath, "eyJ.eyJ.sig", 400, 99991668, "Invalid access token for authorization"},
		{"placeholder", "GET", tablesPath, "None", 400, 99991668, "Invalid access token"},
		{"revoked", "GET", tablesPath, revoked.AccessToken, 400, 99991668, "Invalid access token"},
		{"refresh token as access token", "GET", tablesPath, alice.RefreshToken, 400, 99991668, "Invalid access token"},
		{"tenant token on a user route", "GET", tablesPath, tat, 400, 99991663, ""},
		{"unknown tenant token", "GET", sheetsPath, "t-nope", 400, 99991663, ""},
		{"user token on a tenant route", "POST", oqlPath, alice.AccessToken, 400, 99991668, "user access token not support"},
		{"tenant token where it belongs", "POST", oqlPath, tat, 200, 0, ""},
		{"both: user", "GET", sheetsPath, alice.AccessToken, 200, 0, ""},
		{"both: tenant", "GET", sheetsPath, tat, 200, 0, ""},
		{"scope not granted", "GET", tablesPath, few.AccessToken, 400, 99991679, "required one of these privileges"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := call(t, p, c.method, c.path, c.token, "{}")
			want(t, r, c.status, c.code)
			if !strings.Contains(r.text("msg"), c.msg) {
				t.Errorf("msg %q", r.text("msg"))
			}
		})
	}
	clock.forward(3 * time.Hour)
	want(t, call(t, p, "GET", tablesPath, alice.AccessToken, ""), 401, 99991677)
	want(t, call(t, p, "POST", oqlPath, tat, "{}"), 400, 99991663)
	if v := p.Violations(ExpiredToken); len(v) != 1 || v[0].OpenID != Alice {
		t.Errorf("violations: %+v", v)
	}
}

func TestGateScopes(t *testing.T) {
	p, _ := startAt(t, Config{})
	few := granted(t, p, Bob, "offline_access")
	r := call(t, p, "GET", tablesPath, few.AccessToken, "")
	details, _ := r.Fields["error"].(map[string]any)
	violations, _ := details["permission_violations"].([]any)
	if len(violations) != 2 || violations[0].(map[string]any)["subject"] != "app_engine:workspace.table:read" {
		t.Errorf("permission_violations: %s", r.Raw)
	}
	p.UpdateApp(AppID, func(a *App) { a.Scopes = []string{"offline_access"} })
	want(t, call(t, p, "GET", tablesPath, few.AccessToken, ""), 400, 99991672)
	p.UpdateApp(AppID, func(a *App) { a.Disabled = true })
	want(t, call(t, p, "GET", sheetsPath, few.AccessToken, ""), 400, 99991662)
}

func TestUnknownPath(t *testing.T) {
	p, _ := startAt(t, Config{AllowUnknown: true})
	for _, path := range []string{"/open-apis/nope/v1", "/open-apis/apaas/v1/nope", "/open-apis//im/v1/messages", "/x", "/chat/../device", "/open-apis/apaas/v1/workspaces//tables"} {
		r := newRequest(t, "GET", p.URL, "")
		r.URL.Path = path
		got := send(t, r)
		if got.Status != 404 || string(got.Raw) != "404 page not found" || got.Header.Get("Content-Type") != "text/plain" || got.Header.Get("X-Tt-Logid") == "" {
			t.Errorf("%s: %d %q %v", path, got.Status, got.Raw, got.Header)
		}
	}
}

// What a user fetches is that user's, and writes show up for nobody else.
func TestOwnData(t *testing.T) {
	p, _ := startAt(t, Config{})
	alice, bob := granted(t, p, Alice).AccessToken, granted(t, p, Bob).AccessToken
	records := func(token string) (rows []map[string]any) {
		r := call(t, p, "GET", tablesPath+"/notes/records", token, "")
		want(t, r, 200, 0)
		data := r.Fields["data"].(map[string]any)
		if err := json.Unmarshal([]byte(data["items"].(string)), &rows); err != nil || int(data["total"].(float64)) != len(rows) {
			t.Fatalf("%v: %s", err, r.Raw)
		}
		return rows
	}
	want(t, call(t, p, "POST", tablesPath+"/notes/records", alice, `{"records":"[{\"title\":\"hers\"}]"}`), 200, 0)
	want(t, call(t, p, "PATCH", tablesPath+"/notes/records?filter=_id%3Deq.notes-1", alice, `{"record":"{\"title\":\"changed\",\"owner\":\"x\"}"}`), 200, 0)
	want(t, call(t, p, "DELETE", tablesPath+"/notes/records?filter=_id.eq.notes-2", alice, ``), 200, 0)
	want(t, call(t, p, "PATCH", tablesPath+"/notes/records_batch_update", alice, `{"records":"[{\"_id\":\"notes-3\",\"title\":\"batch\"}]"}`), 200, 0)
	want(t, call(t, p, "POST", tablesPath+"/notes/records", alice, `{"records":[]}`), 400, 2320001)
	titles := ""
	for _, r := range records(alice) {
		if r["owner"] != Alice {
			t.Errorf("owner %v", r["owner"])
		}
		titles += r["title"].(string) + ";"
	}
	if titles != "changed;batch;hers;" {
		t.Errorf("titles %s", titles)
	}
	for _, r := range records(bob) {
		if r["owner"] != Bob || !strings.HasPrefix(r["title"].(string), "Bob Li") {
			t.Errorf("Bob sees %v", r)
		}
	}
	tables := call(t, p, "GET", tablesPath, bob, "")
	owner := tables.Fields["data"].(map[string]any)["owner"].(map[string]any)
	if owner["open_id"] != Bob || owner["token"] != string(AccessToken) {
		t.Errorf("owner %v", owner)
	}
}

func TestWrongUserAndLeaks(t *testing.T) {
	p, _ := startAt(t, Config{})
	r := newRequest(t, "GET", p.URL+tablesPath, "")
	r.Header.Set("Authorization", "Bearer "+granted(t, p, Alice).AccessToken)
	r.Header.Set(ExpectUserHeader, Bob)
	r.Header["X_lark_user_id"] = []string{Alice}
	want(t, send(t, r), 200, 0)
	if len(p.Violations(WrongUser)) != 1 || len(p.Violations(LeakedHeader)) != 1 {
		t.Errorf("violations: %+v", p.Violations())
	}
}

func TestUserInfo(t *testing.T) {
	p, clock := startAt(t, Config{})
	token := granted(t, p, Alice, "offline_access", "contact:user.email:readonly").AccessToken
	info := func() reply { return call(t, p, "GET", "/open-apis/authen/v1/user_info", token, "") }
	data := info().Fields["data"].(map[string]any)
	if data["open_id"] != Alice || data["email"] != "alice@example.com" || data["mobile"] != nil || data["tenant_key"] == "" {
		t.Errorf("data %v", data)
	}
	for status, code := range map[Status]int{Frozen: 20022, Resigned: 20021, Exited: 20021} {
		p.UpdateUser(Alice, func(u *User) { u.Status = status })
		want(t, info(), 200, code)
	}
	p.UpdateUser(Alice, func(u *User) { u.Status, u.Unregistered = Active, true })
	want(t, info(), 200, 20023)
	p.UpdateUser(Alice, func(u *User) { u.Missing = true })
	want(t, info(), 200, 20008)
	clock.forward(3 * time.Hour)
	want(t, info(), 200, 20005)
	token = "eyJ.x.y"
	want(t, info(), 200, 20005)
	token = tenant(t, p)
	want(t, info(), 200, 20005)
}

func TestTenantToken(t *testing.T) {
	p, clock := startAt(t, Config{})
	first := tenant(t, p)
	clock.forward(90 * time.Minute)
	if tenant(t, p) != first {
		t.Error("another token with 30 minutes left")
	}
	clock.forward(time.Second)
	if tenant(t, p) == first {
		t.Error("the same token with less than 30 minutes left")
	}
	want(t, call(t, p, "POST", oqlPath, first, "{}"), 200, 0)
	path := "/open-apis/auth/v3/app_access_token/internal"
	if r := call(t, p, "POST", path, "", `{"app_id":"`+AppID+`","app_secret":"`+AppSecret+`"}`); !strings.HasPrefix(r.text("app_access_token"), "a-") {
		t.Errorf("app token: %s", r.Raw)
	}
	want(t, call(t, p, "POST", path, "", `{"app_id":"cli_x","app_secret":"x"}`), 200, 10003) // malformed
	want(t, call(t, p, "POST", path, "", `{"app_id":"`+AppID+`","app_secret":"x"}`), 200, 10014)
	want(t, call(t, p, "POST", path, "", `{"app_id":"cli_0123456789abcdef","app_secret":"x"}`), 200, 10014)
	want(t, call(t, p, "POST", path, "", `{`), 200, 10003)
	p.UpdateApp(AppID, func(a *App) { a.Disabled = true })
	want(t, call(t, p, "POST", path, "", `{"app_id":"`+AppID+`","app_secret":"`+AppSecret+`"}`), 200, 10014)
}

func TestContact(t *testing.T) {
	p, _ := startAt(t, Config{Apps: []App{{ID: AppID, Secret: AppSecret}, {ID: "cli_other", Secret: "other"}}})
	tat := tenant(t, p)
	p.UpdateUser(Bob, func(u *User) { u.Status = Frozen })
	p.UpdateUser(Carol, func(u *User) { u.Unavailable = []string{AppID} })
	batch := call(t, p, "GET", "/open-apis/contact/v3/users/batch?user_ids="+Alice+"&user_ids="+Bob+"&user_ids="+Carol+"&user_ids=ou_nobody", tat, "")
	items := batch.Fields["data"].(map[string]any)["items"].([]any)
	if len(items) != 2 || items[1].(map[string]any)["status"].(map[string]any)["is_frozen"] != true || items[0].(map[string]any)["email"] != "alice@example.com" {
		t.Errorf("batch: %s", batch.Raw)
	}
	user, _ := p.User(Alice)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/"+user.UserID+"?user_id_type=user_id", tat, ""), 200, 0)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/"+user.UnionID+"?user_id_type=union_id", tat, ""), 200, 0)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/"+Carol, tat, ""), 400, 41050)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/ou_nobody", tat, ""), 400, 99992351)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/nobody?user_id_type=user_id", tat, ""), 400, 41012)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/"+p.OpenIDIn("cli_other", Alice), tat, ""), 400, 99992361)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/batch", tat, ""), 400, 40001)
	want(t, call(t, p, "GET", "/open-apis/contact/v3/users/batch?"+strings.Repeat("user_ids=x&", 51), tat, ""), 400, 40001)
	want(t, call(t, p, "POST", "/open-apis/contact/v3/users/basic_batch?user_id_type=open_id", tat, `{"user_ids":["`+Alice+`"]}`), 200, 0)
}

func TestRouteLimits(t *testing.T) {
	p, _ := startAt(t, Config{RouteLimits: true})
	alice, bob := granted(t, p, Alice).AccessToken, granted(t, p, Bob).AccessToken
	for i := range 10 {
		want(t, call(t, p, "GET", tablesPath, []string{alice, bob}[i%2], ""), 200, 0)
	}
	want(t, call(t, p, "GET", tablesPath, alice, ""), 429, 99991400) // a limit of the app, not the user
}

func TestAdHocUsers(t *testing.T) {
	p, _ := startAt(t, Config{AdHocUsers: true, Apps: []App{{ID: AppID, Secret: AppSecret}, {ID: "cli_other", Secret: "other"}}})
	for _, app := range []string{AppID, "cli_other"} {
		id := "ou_from_" + app
		tokens, err := p.Grant(app, id)
		if err != nil {
			t.Fatal(err)
		}
		info := call(t, p, "GET", "/open-apis/authen/v1/user_info", tokens.AccessToken, "")
		if got := info.Fields["data"].(map[string]any)["open_id"]; got != id {
			t.Errorf("user_info of %s says %v", id, got)
		}
	}
	strict, _ := startAt(t, Config{})
	if _, err := strict.Grant(AppID, "ou_stranger"); err == nil {
		t.Error("a stranger was let in")
	}
}

// The tables must not shadow one another: every row is reachable by its own
// pattern.
func TestTableRowsReachable(t *testing.T) {
	p := New(Config{})
	for _, r := range p.routes {
		if r.method == "*" {
			continue
		}
		path := strings.ReplaceAll(r.pattern, ":kind", "tenant_access_token")
		if got, _ := p.match(r.method, strings.ReplaceAll(path, ":", "v-")); got != r {
			t.Errorf("%s %s is served by %v", r.method, r.pattern, got)
		}
	}
}
