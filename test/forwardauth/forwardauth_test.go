// Package forwardauth has the tests of deploy/forward-auth: real nginx and real
// Caddy with the files that are shipped, and clients that do what Envoy's
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

	"larkside/test/larktest"
	"larkside/test/port"
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
// address; it asks larkside at the one and sends to lark.
var meshes = []struct {
	name  string
	start func(t *testing.T, larkside string, lark *front) (addr string)
	ways
}{
	{"nginx", startNginx, ways{names: true}},
	{"Caddy", startCaddy, ways{names: true}},
	{"Traefik", startTraefik, ways{names: true, traefik: true}},
	{"ext_authz over HTTP", startExtAuthz, ways{}},
	{"ext_authz over gRPC", startExtAuthzGRPC, ways{}},
	{"ext_authz over gRPC, headers joined", startExtAuthzJoined, ways{}},
}

// ways are what meshes do differently.
type ways struct {
	// names: it keeps larkside's names out of Lark's answers.
	names bool
	// traefik: before it asks, it writes %41 as A and ; in a query as %3B, and removes
	// the headers that Connection names. A host that it does not know is 404, and a server that it
	// does not trust is 500.
	traefik bool
}

// mesh is one of them, started, with larkside beside it and Lark behind it.
type mesh struct {
	t        *testing.T
	front    *front
	larkside *process.Process
	addr     string
	ways
}

// newMesh has no mesh yet between its larkside, to which Alice and Bob have
// consented, and its front.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	p := process.Seeded(t, process.Options{
		Lark: larktest.Start(t, &larktest.Config{DeviceInterval: time.Second}),
		Env: map[string]string{
			"AUTHZ_LISTEN": port.Address(t), // refuses connections when larkside is gone
			"CALLER_KEYS":  "app:" + callerKey,
			"SCOPES":       "app_engine:workspace.table:read app_engine:workspace.table.record:read",
			// Envoy asks with the Host that the app has sent.
			"ALLOW_HOSTS": "127.0.0.1,open.feishu.cn",
		},
	}, alice, bob)
	return &mesh{t: t, front: newFront(t, p.Lark), larkside: p}
}

// call sends one request for a user, or none, through the mesh, with the
// caller's key.
func (m *mesh) call(line, openID string, header ...string) *process.Answer {
	m.t.Helper()
	return m.post(line, openID, "", header...)
}

func (m *mesh) post(line, openID, body string, header ...string) *process.Answer {
	m.t.Helper()
	lines := append([]string{"X-Larkside-Key: " + callerKey}, header...)
	if openID != "" {
		lines = append(lines, "X-Lark-User-Id: "+openID)
	}
	return process.Send(m.t, m.addr, line, body, lines...)
}

// refused is a call of which nothing may reach Lark, and no token the app.
func (m *mesh) refused(line, openID string, header ...string) *process.Answer {
	m.t.Helper()
	m.front.reset()
	a := m.call(line, openID, header...)
	if a.Status < 400 {
		m.t.Errorf("%d: %s", a.Status, a.Body)
	}
	if got := a.Header["Authorization"]; got != nil {
		m.t.Error("a token came with the refusal")
	}
	for _, r := range m.front.requests() {
		m.t.Errorf("%s %s has reached Lark", r.method, r.target)
	}
	return a
}

// served is a call that has to be answered with a user's own data.
func (m *mesh) served(openID, line, body string, header ...string) received {
	m.t.Helper()
	m.front.reset()
	a := m.post(line, openID, body, header...)
	if a.Status != 200 || a.Owner() != openID {
		m.t.Fatalf("%s %q: want an answer to %s, got %d to %q: %s", line, header, openID, a.Status, a.Owner(), a.Body)
	}
	if got := a.Header["X-Larkside-Hint"]; m.names && got != nil {
		m.t.Errorf("Lark's answer says %q in larkside's name", got)
	}
	all := m.front.requests()
	if len(all) != 1 {
		m.t.Fatalf("Lark got %d requests", len(all))
	}
	all[0].proper(m.t)
	return all[0]
}

func TestForwardAuth(t *testing.T) {
	for _, kind := range meshes {
		t.Run(kind.name, func(t *testing.T) {
			m := newMesh(t)
			m.addr, m.ways = kind.start(t, process.Host(m.larkside.AuthzURL), m.front), kind.ways
			for _, test := range []struct {
				name string
				run  func(*mesh)
			}{
				{"main job", (*mesh).mainJob}, {"targets", (*mesh).targets}, {"users apart", (*mesh).usersApart},
				{"consent", (*mesh).consent}, {"refusals", (*mesh).refusals}, {"attacks", (*mesh).attacks},
				{"own token", (*mesh).ownToken}, {"streams", (*mesh).streams},
				{"larkside gone", (*mesh).gone},
			} {
				t.Run(test.name, func(t *testing.T) {
					sub := *m
					sub.t = t
					test.run(&sub)
				})
			}
			larktest.NoViolations(t, m.larkside.Lark)
		})
	}
}

func (m *mesh) mainJob() {
	r := m.served(alice, "GET "+echo, "")
	if r.method != "GET" || r.target != echo {
		m.t.Errorf("Lark got %s %s", r.method, r.target)
	}
	for _, size := range []int{1, 100 << 10, 3 << 20} {
		r := m.served(bob, "POST "+echo, strings.Repeat("x", size), "Content-Type: application/json; charset=utf-8")
		if r.method != "POST" || r.size != int64(size) || r.header.Get("Content-Type") != "application/json; charset=utf-8" {
			m.t.Errorf("%s with %d bytes of %q, want %d", r.method, r.size, r.header.Get("Content-Type"), size)
		}
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		if r := m.served(alice, method+" "+echo, "{}"); r.method != method {
			m.t.Errorf("%s became %s", method, r.method)
		}
	}
}

// The bytes that were judged are the bytes that are sent.
func (m *mesh) targets() {
	for _, target := range []string{
		echo + "/a%2Fb", echo + "?a=b%20c&d=//e/../f&g=%2e%2e", echo + "/%E4%BD%A0?%zz", echo + "/a+b;c=d,e", echo + "/%41%7e", echo + "?a=b;c=d",
	} {
		want := target
		if m.traefik {
			want = strings.NewReplacer("%41%7e", "A~", "?a=b;c", "?a=b%3Bc").Replace(target)
		}
		if r := m.served(alice, "GET "+target, ""); r.target != want {
			m.t.Errorf("%s became %s", target, r.target)
		}
	}
	if r := m.served(alice, "GET http://open.feishu.cn"+echo, "", "Host: open.feishu.cn"); r.target != echo {
		m.t.Errorf("the absolute form became %s", r.target)
	}
}

// In bursts, so that the proxy opens connections to both sides while others are
// kept: one that it opens to the wrong side is used by somebody's next request.
func (m *mesh) usersApart() {
	for range 5 {
		var group sync.WaitGroup
		for i := range 100 {
			openID := []string{alice, bob}[i%2]
			group.Go(func() {
				r := process.NewRequest(m.t, "GET", "http://"+m.addr+echo, openID, "", "X-Larkside-Key", callerKey, larktest.ExpectUserHeader, openID)
				if a, err := process.Try(r); err != nil || a.Status != 200 || a.Owner() != openID {
					m.t.Errorf("%s: %+v, %v", openID, a, err)
				}
			})
		}
		group.Wait()
	}
}

// A user who has not authorized: the app gets what larkside says, the user
// authorizes, the next call goes through.
func (m *mesh) consent() {
	a := m.refused("GET "+records, carol)
	e := a.Envelope.Error
	if a.Status != 401 || a.Name() != "authorization_required" || e.Type != a.Name() || e.Reason != "no_session" {
		m.t.Fatalf("%d %q %s", a.Status, a.Name(), a.Body)
	}
	if e.AuthorizeURL == "" || a.Header.Get("X-Larkside-Authorize-Url") != e.AuthorizeURL || e.ExpiresIn <= 0 {
		m.t.Errorf("no link: %v %s", a.Header, a.Body)
	}
	// With a body, and with another method, the same.
	if b := m.post("POST "+records, carol, strings.Repeat("x", 1<<20)); b.Status != 401 || b.Envelope.Error.AuthorizeURL != e.AuthorizeURL {
		m.t.Errorf("POST: %d %s", b.Status, b.Body)
	}
	m.same(a, "GET", records, "X-Lark-User-Id", carol)
	if err := m.larkside.Lark.Approve(e.AuthorizeURL, carol); err != nil {
		m.t.Fatal(err)
	}
	process.Eventually(m.t, "a session", func() bool { return m.call("GET "+records, carol).Status == 200 })
	m.served(carol, "GET "+echo, "")
}

// same checks that a refusal is what larkside itself says, but for what counts
// down, whether the card is new, and which request it was.
func (m *mesh) same(a *process.Answer, method, target string, header ...string) {
	m.t.Helper()
	r := m.larkside.Request(m.t, method, target, "", "", append(header, "X-Larkside-Key", callerKey)...)
	want := process.Do(m.t, r)
	if a.Status != want.Status || plain(m.t, a.Body) != plain(m.t, want.Body) {
		m.t.Errorf("%s %s: %d %s\nlarkside says %d %s", method, target, a.Status, a.Body, want.Status, want.Body)
	}
	for _, name := range []string{"Content-Type", "Cache-Control", "Www-Authenticate", "X-Larkside-Error", "X-Larkside-Authorize-Url", "Retry-After"} {
		if !slices.Equal(a.Header[name], want.Header[name]) {
			m.t.Errorf("%s %s: %s: %q, larkside says %q", method, target, name, a.Header[name], want.Header[name])
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
func (m *mesh) refusals() {
	evilHost := 403
	if m.traefik {
		evilHost = 404
	}
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
		{"GET " + echo, alice, []string{"Host: evil.example"}, evilHost, ""},
		{"GET http://evil.example" + echo, alice, []string{"Host: evil.example"}, 0, ""},
		{"GET " + echo, alice, []string{"Origin: https://evil.example"}, 403, "host_not_allowed"},
		{"GET " + echo, alice, []string{"Sec-Fetch-Site: cross-site"}, 403, "host_not_allowed"},
	} {
		a := m.refused(c.line, c.user, c.header...)
		if c.status != 0 && a.Status != c.status || c.name != "" && (a.Name() != c.name || a.Envelope.Error.Type != c.name) {
			m.t.Errorf("%s %q: want %d %s, got %d %s %s", c.line, c.header, c.status, c.name, a.Status, a.Name(), a.Body)
		}
	}
	m.front.reset()
	a := process.Send(m.t, m.addr, "GET "+echo, "", "X-Lark-User-Id: "+alice)
	if a.Status != 401 || a.Name() != "caller_unauthenticated" || len(m.front.requests()) > 0 {
		m.t.Errorf("without a key: %d %s, %d requests at Lark", a.Status, a.Body, len(m.front.requests()))
	}
	m.same(m.refused("GET "+outside, alice), "GET", outside, "X-Lark-User-Id", alice)
}

// Headers with which an app, or whoever speaks for it, would like to tell the
// mesh or larkside another story.
func (m *mesh) attacks() {
	const forwardedURI, originalURI = "X-Forwarded-Uri: ", "X-Original-URI: "
	for _, header := range [][]string{
		{forwardedURI + echo}, {originalURI + echo}, {forwardedURI + echo, originalURI + echo},
		{forwardedURI + echo, forwardedURI + echo}, {"x-original-uri: " + echo, originalURI + echo},
		{forwardedURI + echo + "?"}, {"X-Original-URL: " + echo, "X-Rewrite-URL: " + echo}, {"X_Original_URI: " + echo},
		{forwardedURI + echo, "Connection: X-Forwarded-Uri, X-Original-URI, X-Forwarded-Method"},
		{"Authorization: Bearer x", forwardedURI + echo},
	} {
		if a := m.refused("GET "+outside, alice, header...); a.Status != 403 && a.Status != 400 {
			m.t.Errorf("%q: %d %s", header, a.Status, a.Body)
		}
	}
	m.refused("TRACE "+echo, alice, "X-Forwarded-Method: GET", "X-Original-Method: GET")

	connection := [][]string{
		{"Connection: Authorization, X-Lark-User-Id"}, {"Connection: authorization", "Connection: x-lark-user-id, keep-alive"},
	}
	if m.traefik {
		for _, header := range connection {
			if a := m.refused("GET "+echo, alice, header...); a.Name() != "user_id_required" {
				m.t.Errorf("%q: %d %s", header, a.Status, a.Body)
			}
		}
		connection = nil
	}
	for _, header := range append(connection, [][]string{
		{forwardedURI + outside}, {originalURI + outside}, {"X-Forwarded-Method: TRACE", "X-Original-Method: TRACE"},
		{"Authorization: Bearer another"},
		{"X-Lark-User-Id: " + alice},
		{"Cookie: session=1", "Cookie: a=b", "Baggage: user=1", "Prefer: wait=1"},
		{"X-Lark-App-Id: " + larktest.AppID},
		{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http", "Forwarded: for=1", "X-Real-IP: 10.0.0.1"},
		{"Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"},
		{"Proxy-Authorization: Basic eDp5"},
	}...) {
		r := m.served(alice, "GET "+echo, "", header...)
		if r.target != echo || r.method != "GET" {
			m.t.Errorf("%q: Lark got %s %s", header, r.method, r.target)
		}
	}
	// Some refuse these, some repair them; none passes them on.
	for _, header := range [][]string{
		{"X_Lark_User_Id: " + bob}, {"X-Lark_User-Id: " + bob}, {"X_LARK_USER_ID: " + bob}, {"X_Larkside_Key: 1"}, {"X-Lark-User-Id : " + bob},
		{"Authorization: Bearer another", "Authorization: Bearer third"}, {"Authorization : Bearer another"},
	} {
		m.front.reset()
		a := m.call("GET "+echo, alice, header...)
		for _, r := range m.front.requests() {
			r.proper(m.t)
		}
		if a.Status < 400 && a.Owner() != alice {
			m.t.Errorf("%q made it %s", header, a.Owner())
		}
	}
	// Whatever becomes of a trailer, the token in the header is Alice's.
	m.front.reset()
	a := m.post("POST "+echo, alice, "2\r\n{}\r\n0\r\nAuthorization: Bearer another\r\nX-Lark-User-Id: "+bob+"\r\n\r\n",
		"Transfer-Encoding: chunked", "Trailer: Authorization, X-Lark-User-Id")
	if a.Status != 200 || a.Owner() != alice {
		m.t.Errorf("with a trailer: %d %s", a.Status, a.Body)
	}
	for _, r := range m.front.requests() {
		r.proper(m.t)
		for name, values := range r.trailer { // Caddy announces the names
			if len(values) > 0 {
				m.t.Errorf("Lark got the trailer %s: %q", name, values)
			}
		}
	}
}

// An app that brings a token of its own, and names nobody, goes on with it.
func (m *mesh) ownToken() {
	tokens, err := m.larkside.Lark.Grant(larktest.AppID, bob)
	if err != nil {
		m.t.Fatal(err)
	}
	m.front.reset()
	a := m.call("GET "+echo, "", "Authorization: Bearer "+tokens.AccessToken)
	if a.Status != 200 || a.Owner() != bob {
		m.t.Errorf("%d %s", a.Status, a.Body)
	}
	// A placeholder counts as none. On the path where it is not an error it
	// must not reach Lark as if it were a token.
	m.refused("GET "+echo, "", "Authorization: Bearer larkside")
	m.front.reset()
	m.post("POST /open-apis/auth/v3/tenant_access_token/internal", "", `{"app_id":"x","app_secret":"y"}`, "Authorization: Bearer larkside")
	for _, r := range m.front.requests() {
		if r.header["Authorization"] != nil {
			m.t.Errorf("Lark got %q", r.header["Authorization"])
		}
	}
}

// Events come as they are sent.
func (m *mesh) streams() {
	gate := "forwardauth"
	r := process.NewRequest(m.t, "GET", "http://"+m.addr+helpers+"/sse?n=2&gate="+gate, alice, "", "X-Larkside-Key", callerKey)
	stop := make(chan struct{})
	timer := time.AfterFunc(process.Patience, func() { close(stop) })
	defer timer.Stop()
	emitted := make(chan bool, 1)
	go func() { emitted <- m.larkside.Lark.Emit(gate, stop) }()
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	if !<-emitted {
		m.t.Fatal("nobody asks for events")
	}
	buffer := make([]byte, 4096)
	n, err := res.Body.Read(buffer) // the second event waits for its turn
	if got := string(buffer[:n]); err != nil || !strings.Contains(got, alice) {
		m.t.Errorf("read %q, %v", got, err)
	}
	m.larkside.Lark.Emit(gate, stop)
}

// Without larkside nothing goes to Lark. It is the last test of a mesh.
func (m *mesh) gone() {
	m.larkside.Stop()
	if a := m.refused("GET "+echo, alice); a.Status < 500 && a.Status != 403 {
		m.t.Errorf("%d %s", a.Status, a.Body)
	}
}
