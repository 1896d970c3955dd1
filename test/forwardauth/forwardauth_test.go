// Package forwardauth has the tests of deploy/forward-auth: real nginx and real
// Caddy with the files that are shipped, and a client that does what Envoy's
// ext_authz does, between an app and the emulator, asking the real larkside.
package forwardauth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const (
	alice, bob, carol = larktest.Alice, larktest.Bob, larktest.Carol

	helpers = "/open-apis/apaas/v1/larktest"
	echo    = helpers + "/echo"
	records = "/open-apis/apaas/v1/workspaces/workspace_test/tables/orders/records"
	// outside is no inject path.
	outside = "/open-apis/mail/v1/user_mailboxes"

	callerKey = "the-key-of-the-caller-app-0123456789"
)

// meshes are what stands between the app and Lark. Each start returns its
// address; it asks larkside at the one and sends to lark. Those that can keep
// larkside's names out of Lark's answers.
var meshes = []struct {
	name  string
	start func(t *testing.T, larkside string, lark *front) (addr string)
	names bool
}{
	{"nginx", startNginx, true},
	{"Caddy", startCaddy, true},
	{"ext_authz", startExtAuthz, false},
}

// stage is one mesh with all that is around it. Alice and Bob have authorized.
type stage struct {
	t        *testing.T
	lark     *larktest.Platform
	front    *front
	larkside *process.Process
	mesh     string
	names    bool
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, lark: larktest.Start(t, &larktest.Config{DeviceInterval: time.Second})}
	s.front = newFront(t, s.lark)
	db := process.SQLite(t)
	process.Seed(t, db, s.lark, 0, alice, bob)
	s.larkside = process.Start(t, s.options(db))
	return s
}

func (s *stage) options(db *dbtest.DB) process.Options {
	return process.Options{Lark: s.lark, DB: db, Env: map[string]string{
		"CALLER_KEYS": "app:" + callerKey,
		"SCOPES":      "app_engine:workspace.table:read app_engine:workspace.table.record:read",
		// Envoy asks with the Host that the app has sent.
		"ALLOW_HOSTS": "127.0.0.1,open.feishu.cn",
	}}
}

func (s *stage) larksideAddr() string { return strings.TrimPrefix(s.larkside.URL, "http://") }

// call sends one request for a user, or none, through the mesh, with the
// caller's key.
func (s *stage) call(line, openID string, header ...string) *process.Answer {
	s.t.Helper()
	return s.post(line, openID, "", header...)
}

func (s *stage) post(line, openID, body string, header ...string) *process.Answer {
	s.t.Helper()
	lines := append([]string{"X-Larkside-Key: " + callerKey}, header...)
	if openID != "" {
		lines = append(lines, "X-Lark-User-Id: "+openID)
	}
	return send(s.t, s.mesh, line, body, lines...)
}

// refused is a call of which nothing may reach Lark, and no token the app.
func (s *stage) refused(line, openID string, header ...string) *process.Answer {
	s.t.Helper()
	s.front.reset()
	a := s.call(line, openID, header...)
	if a.Status < 400 {
		s.t.Errorf("%d: %s", a.Status, a.Body)
	}
	if got := a.Header["Authorization"]; got != nil {
		s.t.Error("a token came with the refusal")
	}
	for _, r := range s.front.requests() {
		s.t.Errorf("%s %s has reached Lark", r.method, r.target)
	}
	return a
}

// served is a call that has to be answered with a user's own data.
func (s *stage) served(openID, line, body string, header ...string) received {
	s.t.Helper()
	s.front.reset()
	a := s.post(line, openID, body, header...)
	if a.Status != 200 || a.Owner() != openID {
		s.t.Fatalf("%s %q: want an answer to %s, got %d to %q: %s", line, header, openID, a.Status, a.Owner(), a.Body)
	}
	if got := a.Header["X-Larkside-Hint"]; s.names && got != nil {
		s.t.Errorf("Lark's answer says %q in larkside's name", got)
	}
	all := s.front.requests()
	if len(all) != 1 {
		s.t.Fatalf("Lark got %d requests", len(all))
	}
	all[0].proper(s.t)
	return all[0]
}

func TestForwardAuth(t *testing.T) {
	for _, mesh := range meshes {
		t.Run(mesh.name, func(t *testing.T) {
			s := newStage(t)
			s.mesh, s.names = mesh.start(t, s.larksideAddr(), s.front), mesh.names
			for _, test := range []struct {
				name string
				run  func(*stage)
			}{
				{"main job", (*stage).mainJob}, {"targets", (*stage).targets}, {"users apart", (*stage).usersApart},
				{"consent", (*stage).consent}, {"refusals", (*stage).refusals}, {"attacks", (*stage).attacks},
				{"own token", (*stage).ownToken}, {"streams", (*stage).streams},
				{"larkside gone", (*stage).gone},
			} {
				t.Run(test.name, func(t *testing.T) {
					sub := *s
					sub.t = t
					test.run(&sub)
				})
			}
			for _, v := range s.lark.Violations() {
				t.Errorf("violation: %s %s %s", v.Kind, v.OpenID, v.Detail)
			}
		})
	}
}

func (s *stage) mainJob() {
	r := s.served(alice, "GET "+echo, "")
	if r.method != "GET" || r.target != echo {
		s.t.Errorf("Lark got %s %s", r.method, r.target)
	}
	for _, size := range []int{1, 100 << 10, 3 << 20} {
		r := s.served(bob, "POST "+echo, strings.Repeat("x", size), "Content-Type: application/json; charset=utf-8")
		if r.method != "POST" || r.size != int64(size) || r.header.Get("Content-Type") != "application/json; charset=utf-8" {
			s.t.Errorf("%s with %d bytes of %q, want %d", r.method, r.size, r.header.Get("Content-Type"), size)
		}
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		if r := s.served(alice, method+" "+echo, "{}"); r.method != method {
			s.t.Errorf("%s became %s", method, r.method)
		}
	}
}

// The bytes that were judged are the bytes that are sent.
func (s *stage) targets() {
	for _, target := range []string{
		echo + "/a%2Fb", echo + "?a=b%20c&d=//e/../f&g=%2e%2e", echo + "/%E4%BD%A0?%zz", echo + "/a+b;c=d,e", echo + "/%41%7e",
	} {
		if r := s.served(alice, "GET "+target, ""); r.target != target {
			s.t.Errorf("%s became %s", target, r.target)
		}
	}
	if r := s.served(alice, "GET http://open.feishu.cn"+echo, "", "Host: open.feishu.cn"); r.target != echo {
		s.t.Errorf("the absolute form became %s", r.target)
	}
}

func (s *stage) usersApart() {
	var group sync.WaitGroup
	for i := range 60 {
		openID := []string{alice, bob}[i%2]
		group.Go(func() {
			r := process.NewRequest(s.t, "GET", "http://"+s.mesh+echo, openID, "", "X-Larkside-Key", callerKey, larktest.ExpectUserHeader, openID)
			if a, err := process.Try(r); err != nil || a.Status != 200 || a.Owner() != openID {
				s.t.Errorf("%s: %+v, %v", openID, a, err)
			}
		})
	}
	group.Wait()
}

// A user who has not authorized: the app gets what larkside says, the user
// authorizes, the next call goes through.
func (s *stage) consent() {
	a := s.refused("GET "+records, carol)
	e := a.Envelope.Error
	if a.Status != 401 || a.Name() != "authorization_required" || e.Type != a.Name() || e.Reason != "no_session" {
		s.t.Fatalf("%d %q %s", a.Status, a.Name(), a.Body)
	}
	if e.AuthorizeURL == "" || a.Header.Get("X-Larkside-Authorize-Url") != e.AuthorizeURL || e.ExpiresIn <= 0 {
		s.t.Errorf("no link: %v %s", a.Header, a.Body)
	}
	// With a body, and with another method, the same.
	if b := s.post("POST "+records, carol, strings.Repeat("x", 1<<20)); b.Status != 401 || b.Envelope.Error.AuthorizeURL != e.AuthorizeURL {
		s.t.Errorf("POST: %d %s", b.Status, b.Body)
	}
	s.same(a, "GET", records, "X-Lark-User-Id", carol)
	if err := s.lark.Approve(e.AuthorizeURL, carol); err != nil {
		s.t.Fatal(err)
	}
	process.Eventually(s.t, "a session", func() bool { return s.call("GET "+records, carol).Status == 200 })
	s.served(carol, "GET "+echo, "")
}

// same checks that a refusal is what larkside itself says, but for what counts
// down, whether the card is new, and which request it was.
func (s *stage) same(a *process.Answer, method, target string, header ...string) {
	s.t.Helper()
	r := s.larkside.Request(s.t, method, target, "", "", append(header, "X-Larkside-Key", callerKey)...)
	want := process.Do(s.t, r)
	if a.Status != want.Status || plain(s.t, a.Body) != plain(s.t, want.Body) {
		s.t.Errorf("%s %s: %d %s\nlarkside says %d %s", method, target, a.Status, a.Body, want.Status, want.Body)
	}
	for _, name := range []string{"Content-Type", "Cache-Control", "Www-Authenticate", "X-Larkside-Error", "X-Larkside-Authorize-Url", "Retry-After"} {
		if !slices.Equal(a.Header[name], want.Header[name]) {
			s.t.Errorf("%s %s: %s: %q, larkside says %q", method, target, name, a.Header[name], want.Header[name])
		}
	}
}

func plain(t *testing.T, body string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return body
	}
	if e, ok := v["error"].(map[string]any); ok {
		for _, name := range []string{"expires_in", "card", "request_id"} {
			delete(e, name)
		}
	}
	return fmt.Sprint(v)
}

// What larkside refuses does not reach Lark, and the app is told why.
func (s *stage) refusals() {
	for _, c := range []struct {
		line, user string
		header     []string
		status     int    // 0: any refusal will do
		name       string // "": the mesh may say it in its own words
	}{
		{"GET " + outside, alice, nil, 403, "path_not_allowed"},
		{"DELETE " + outside, alice, nil, 403, "path_not_allowed"},
		{"POST /open-apis/authen/v2/oauth/token", alice, nil, 403, "path_not_allowed"},
		{"GET /-/larkside/authz" + echo, alice, nil, 403, "path_not_allowed"},
		{"GET /larkside-authz", alice, nil, 0, ""},
		{"GET " + echo, "", nil, 400, "user_id_required"},
		{"GET " + echo, bob, []string{"X-Lark-User-Id: " + alice}, 400, "invalid_user_id"},
		{"GET " + echo, "ou_1,ou_2", nil, 400, "invalid_user_id"},
		{"GET " + echo, alice, []string{"X-Lark-App-Id: cli_none"}, 400, "unknown_app"},
		{"GET " + helpers + "/../../../im/v1/chats", alice, nil, 400, ""},
		{"GET " + helpers + "/%2e%2e/%2e%2e/%2e%2e/im/v1/chats", alice, nil, 400, ""},
		{"GET " + helpers + "/%252e%252e/im", alice, nil, 400, "ambiguous_path"},
		{"GET " + helpers + "%2f..%2f..%2fim", alice, nil, 400, ""},
		{"GET /" + echo, alice, nil, 400, "ambiguous_path"},
		{"GET " + helpers + `/..\..\im`, alice, nil, 400, ""},
		{"GET " + echo + "#/../../im", alice, nil, 400, ""},
		{"TRACE " + echo, alice, nil, 405, ""},
		{"CONNECT open.feishu.cn:443", alice, nil, 0, ""},
		{"GET " + echo, alice, []string{"Host: evil.example"}, 403, ""},
		{"GET http://evil.example" + echo, alice, []string{"Host: evil.example"}, 0, ""},
		{"GET " + echo, alice, []string{"Origin: https://evil.example"}, 403, "host_not_allowed"},
		{"GET " + echo, alice, []string{"Sec-Fetch-Site: cross-site"}, 403, "host_not_allowed"},
	} {
		a := s.refused(c.line, c.user, c.header...)
		if c.status != 0 && a.Status != c.status || c.name != "" && (a.Name() != c.name || a.Envelope.Error.Type != c.name) {
			s.t.Errorf("%s %q: want %d %s, got %d %s %s", c.line, c.header, c.status, c.name, a.Status, a.Name(), a.Body)
		}
	}
	s.front.reset()
	a := send(s.t, s.mesh, "GET "+echo, "", "X-Lark-User-Id: "+alice)
	if a.Status != 401 || a.Name() != "caller_unauthenticated" || len(s.front.requests()) > 0 {
		s.t.Errorf("without a key: %d %s, %d requests at Lark", a.Status, a.Body, len(s.front.requests()))
	}
	s.same(s.refused("GET "+outside, alice), "GET", outside, "X-Lark-User-Id", alice)
}

// Headers with which an app, or whoever speaks for it, would like to tell the
// mesh or larkside another story.
func (s *stage) attacks() {
	const forwardedURI, originalURI = "X-Forwarded-Uri: ", "X-Original-URI: "
	for _, header := range [][]string{
		{forwardedURI + echo}, {originalURI + echo}, {forwardedURI + echo, originalURI + echo},
		{forwardedURI + echo, forwardedURI + echo}, {"x-original-uri: " + echo, originalURI + echo},
		{forwardedURI + echo + "?"}, {"X-Original-URL: " + echo, "X-Rewrite-URL: " + echo}, {"X_Original_URI: " + echo},
		{forwardedURI + echo, "Connection: X-Forwarded-Uri, X-Original-URI, X-Forwarded-Method"},
		{"Authorization: Bearer x", forwardedURI + echo},
	} {
		if a := s.refused("GET "+outside, alice, header...); a.Status != 403 && a.Status != 400 {
			s.t.Errorf("%q: %d %s", header, a.Status, a.Body)
		}
	}
	s.refused("TRACE "+echo, alice, "X-Forwarded-Method: GET", "X-Original-Method: GET")

	for _, header := range [][]string{
		{forwardedURI + outside}, {originalURI + outside}, {"X-Forwarded-Method: TRACE", "X-Original-Method: TRACE"},
		{"Authorization: Bearer another"},
		{"X-Lark-User-Id: " + alice},
		{"Connection: Authorization, X-Lark-User-Id"}, {"Connection: authorization", "Connection: x-lark-user-id, keep-alive"},
		{"Cookie: session=1", "Cookie: a=b", "Baggage: user=1", "Prefer: wait=1"},
		{"X-Lark-App-Id: " + larktest.AppID},
		{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http", "Forwarded: for=1", "X-Real-IP: 10.0.0.1"},
		{"Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"},
		{"Proxy-Authorization: Basic eDp5"},
	} {
		r := s.served(alice, "GET "+echo, "", header...)
		if r.target != echo || r.method != "GET" {
			s.t.Errorf("%q: Lark got %s %s", header, r.method, r.target)
		}
	}
	// Some refuse these, some repair them; none passes them on.
	for _, header := range [][]string{
		{"X_Lark_User_Id: " + bob}, {"X-Lark_User-Id: " + bob}, {"X_LARK_USER_ID: " + bob}, {"X_Larkside_Key: 1"}, {"X-Lark-User-Id : " + bob},
		{"Authorization: Bearer another", "Authorization: Bearer third"}, {"Authorization : Bearer another"},
	} {
		s.front.reset()
		a := s.call("GET "+echo, alice, header...)
		for _, r := range s.front.requests() {
			r.proper(s.t)
		}
		if a.Status < 400 && a.Owner() != alice {
			s.t.Errorf("%q made it %s", header, a.Owner())
		}
	}
	// Whatever becomes of a trailer, the token in the header is Alice's.
	s.front.reset()
	a := s.post("POST "+echo, alice, "2\r\n{}\r\n0\r\nAuthorization: Bearer another\r\nX-Lark-User-Id: "+bob+"\r\n\r\n",
		"Transfer-Encoding: chunked", "Trailer: Authorization, X-Lark-User-Id")
	if a.Status != 200 || a.Owner() != alice {
		s.t.Errorf("with a trailer: %d %s", a.Status, a.Body)
	}
	for _, r := range s.front.requests() {
		r.proper(s.t)
		for name, values := range r.trailer { // Caddy announces the names
			if len(values) > 0 {
				s.t.Errorf("Lark got the trailer %s: %q", name, values)
			}
		}
	}
}

// An app that brings a token of its own, and names nobody, goes on with it.
func (s *stage) ownToken() {
	tokens, err := s.lark.Grant(larktest.AppID, bob)
	if err != nil {
		s.t.Fatal(err)
	}
	s.front.reset()
	a := s.call("GET "+echo, "", "Authorization: Bearer "+tokens.AccessToken)
	if a.Status != 200 || a.Owner() != bob {
		s.t.Errorf("%d %s", a.Status, a.Body)
	}
	// A placeholder counts as none. On the path where it is not an error it
	// must not reach Lark as if it were a token.
	s.refused("GET "+echo, "", "Authorization: Bearer larkside")
	s.front.reset()
	s.post("POST /open-apis/auth/v3/tenant_access_token/internal", "", `{"app_id":"x","app_secret":"y"}`, "Authorization: Bearer larkside")
	for _, r := range s.front.requests() {
		if r.header["Authorization"] != nil {
			s.t.Errorf("Lark got %q", r.header["Authorization"])
		}
	}
}

// Events come as they are sent.
func (s *stage) streams() {
	gate := "forwardauth"
	r := process.NewRequest(s.t, "GET", "http://"+s.mesh+helpers+"/sse?n=2&gate="+gate, alice, "", "X-Larkside-Key", callerKey)
	stop := make(chan struct{})
	timer := time.AfterFunc(process.Patience, func() { close(stop) })
	defer timer.Stop()
	emitted := make(chan bool, 1)
	go func() { emitted <- s.lark.Emit(gate, stop) }()
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if !<-emitted {
		s.t.Fatal("nobody asks for events")
	}
	buffer := make([]byte, 4096)
	n, err := res.Body.Read(buffer) // the second event waits for its turn
	if got := string(buffer[:n]); err != nil || !strings.Contains(got, alice) {
		s.t.Errorf("read %q, %v", got, err)
	}
	s.lark.Emit(gate, stop)
}

// Without larkside nothing goes to Lark. It is the last test of a stage.
func (s *stage) gone() {
	s.larkside.Stop()
	if a := s.refused("GET "+echo, alice); a.Status < 500 && a.Status != 403 {
		s.t.Errorf("%d %s", a.Status, a.Body)
	}
}
