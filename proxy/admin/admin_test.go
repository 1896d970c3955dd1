package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"larkside/proxy"
	"larkside/proxy/admin"
	"larkside/proxy/edge"
	"larkside/session"
	"larkside/telemetry"
)

// answer is what came back from the real listener.
type answer struct {
	status int
	header http.Header
	body   string
}

// json decodes the body into a map.
func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("body %q: %v", a.body, err)
	}
	return m
}

// name is error.type of an answer that is a failure, checked against the header.
func (a answer) name(t *testing.T) string {
	t.Helper()
	about, ok := a.json(t)["error"].(map[string]any)
	if !ok {
		return ""
	}
	if about["type"] != a.header.Get("X-Larkside-Error") {
		t.Errorf("error.type %v, X-Larkside-Error %q", about["type"], a.header.Get("X-Larkside-Error"))
	}
	if id := a.header.Get("X-Larkside-Request-Id"); id == "" || about["request_id"] != id {
		t.Errorf("error.request_id %v, X-Larkside-Request-Id %q", about["request_id"], id)
	}
	return about["type"].(string)
}

// serve starts the handler and returns a function that sends requests to it.
// Headers are name, value pairs; "Host" is the request's host.
func serve(t *testing.T, cfg admin.Config) func(method, path, body string, headers ...string) answer {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	server := httptest.NewServer(admin.New(cfg))
	t.Cleanup(server.Close)
	return func(method, path, body string, headers ...string) answer {
		t.Helper()
		return send(t, server.Client(), server.URL, method, path, body, headers...)
	}
}

func send(t *testing.T, client *http.Client, base, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Content-Type" {
			req.Header.Del("Content-Type")
		}
		req.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(content)}
}

func TestHealth(t *testing.T) {
	checks := []admin.Check{{Name: "schema", OK: true}, {Name: "app", OK: true}}
	ask := serve(t, admin.Config{Ready: func(context.Context) []admin.Check { return checks }})
	if got := ask("GET", "/healthz", ""); got.status != 200 {
		t.Errorf("/healthz: %+v", got)
	}
	if got := ask("GET", "/readyz", ""); got.status != 200 || got.json(t)["ready"] != true {
		t.Errorf("/readyz with every check good: %+v", got)
	}
	checks[1] = admin.Check{Name: "app", Detail: "Lark refuses cli_a1: secret wrong"}
	got := ask("GET", "/readyz", "")
	if got.status != 503 || got.json(t)["ready"] != false || !strings.Contains(got.body, "secret wrong") {
		t.Errorf("/readyz with one check bad: %+v", got)
	}
	if got := ask("GET", "/healthz", ""); got.status != 200 {
		t.Errorf("an instance that is not ready must not be restarted: %+v", got)
	}
	if got := ask("HEAD", "/healthz", ""); got.status != 200 || got.body != "" {
		t.Errorf("HEAD /healthz: %+v", got)
	}
}

func TestReadyWithoutChecks(t *testing.T) {
	got := serve(t, admin.Config{})("GET", "/readyz", "")
	if got.status != 200 || got.body != `{"checks":[],"ready":true}`+"\n" {
		t.Errorf("%+v", got)
	}
}

func TestMetricsAndQuit(t *testing.T) {
	quit := 0
	ask := serve(t, admin.Config{
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "larkside_build_info 1\n") }),
		Quit:    func() { quit++ },
	})
	if got := ask("GET", "/metrics", ""); got.body != "larkside_build_info 1\n" {
		t.Errorf("/metrics: %+v", got)
	}
	if got := ask("GET", "/quitquitquit", ""); got.status != 405 || quit != 0 {
		t.Errorf("a link must not stop the process: %+v, quit %d", got, quit)
	}
	if got := ask("POST", "/quitquitquit", ""); got.status != 200 || quit != 1 {
		t.Errorf("POST /quitquitquit: %+v, quit %d", got, quit)
	}
}

// While the database is awaited there is no session to show, which is something else
// than a user without one.
func TestWaiting(t *testing.T) {
	ask := serve(t, admin.Config{Waiting: true, Ready: func(context.Context) []admin.Check {
		return []admin.Check{{Name: "serving", OK: true}, {Name: "started", Detail: "no database yet"}}
	}})
	for _, request := range []string{"GET /api/v1/sessions", "GET /api/v1/sessions/cli_a1/ou_1", "POST /api/v1/backup", "POST /api/v1/sessions/purge", "DELETE /api/v1/sessions/cli_a1/ou_1"} {
		method, path, _ := strings.Cut(request, " ")
		got := ask(method, path, "")
		if got.status != 503 || got.name(t) != "store_unavailable" || !strings.Contains(got.body, "no database yet") || got.header.Get("Retry-After") != "1" {
			t.Errorf("%s: %+v", request, got)
		}
	}
	if got := ask("GET", "/api/v1/openapi.json", ""); got.status != 200 {
		t.Errorf("the description: %d", got.status)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	ask := serve(t, admin.Config{})
	for _, path := range []string{"/", "/nope", "/metrics", "/api/v1/sessions", "/api/v1/audit", "/quitquitquit"} {
		got := ask("GET", path, "")
		if got.status != 404 || got.name(t) != "not_found" || got.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("GET %s without that part: %+v", path, got)
		}
	}
	got := ask("DELETE", "/healthz", "")
	if got.status != 405 || got.name(t) != "method_not_allowed" || got.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("DELETE /healthz: %+v", got)
	}
	if got.header.Get("Cache-Control") != "no-store" || got.json(t)["code"] == 0.0 {
		t.Errorf("not the envelope of a failure: %+v", got)
	}
}

// Everything but health and metrics is closed to web pages and strange hosts.
func TestWebPagesAreRefused(t *testing.T) {
	ask := serve(t, admin.Config{
		Quit:       func() {},
		Metrics:    http.NotFoundHandler(),
		Console:    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}),
		AllowHosts: []string{"larkside.internal"},
	})
	for _, tc := range []struct {
		sentence string
		headers  []string
		refused  bool
	}{
		{"a client on this machine", nil, false},
		{"a client that says localhost", []string{"Host", "LOCALHOST:8081"}, false},
		{"a client that says localhost with a final dot", []string{"Host", "localhost.:8081"}, false},
		{"a client that says [::1]", []string{"Host", "[::1]:8081"}, false},
		{"a configured name, with any port", []string{"Host", "larkside.internal:9999"}, false},
		{"a name that an attacker points here (DNS rebinding)", []string{"Host", "evil.example:8081"}, true},
		{"a name that begins like a loopback one", []string{"Host", "localhost.evil.example"}, true},
		{"a pod's address", []string{"Host", "10.1.2.3:8081"}, true},
		{"the console's own page", []string{"Host", "localhost:8081", "Origin", "http://localhost:8081", "Sec-Fetch-Site", "same-origin"}, false},
		{"an address typed into a browser", []string{"Sec-Fetch-Site", "none"}, false},
		{"a page of another site", []string{"Sec-Fetch-Site", "cross-site"}, true},
		{"a page of another port of this machine", []string{"Host", "localhost:8081", "Sec-Fetch-Site", "same-site"}, true},
		{"an old browser's page of another port", []string{"Host", "localhost:8081", "Origin", "http://localhost:3000"}, true},
		{"a sandboxed frame", []string{"Origin", "null"}, true},
		{"two origins", []string{"Host", "localhost", "Origin", "http://localhost", "Origin", "http://localhost"}, true},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			for _, at := range [][2]string{{"POST", "/quitquitquit"}, {"GET", "/"}} {
				got := ask(at[0], at[1], "", tc.headers...)
				if refused := got.status == 403; refused != tc.refused {
					t.Errorf("%s %s: %+v", at[0], at[1], got)
				}
				if tc.refused && got.name(t) != "host_not_allowed" {
					t.Errorf("%s %s: %+v", at[0], at[1], got)
				}
			}
			for _, path := range []string{"/healthz", "/readyz"} {
				if got := ask("GET", path, "", tc.headers...); got.status != 200 {
					t.Errorf("GET %s is open to all: %+v", path, got)
				}
			}
		})
	}
}

// No browser gets to a Unix socket, so Host says nothing there.
func TestUnixSocketHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(admin.New(admin.Config{Quit: func() {}}))
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	if got := send(t, client, "http://larkside", "POST", "/quitquitquit", ""); got.status != 200 {
		t.Errorf("%+v", got)
	}
}

// lock is one for a key that does not change.
func lock(key string) *edge.AdminKey {
	return edge.NewAdminKey(func() session.Secret { return session.NewSecret(key) }, nil)
}

func TestKey(t *testing.T) {
	key := session.NewSecret("canary-admin-key")
	ask := serve(t, admin.Config{Quit: func() {}, Key: edge.NewAdminKey(func() session.Secret { return key }, nil)})
	for _, tc := range []struct {
		sentence string
		headers  []string
		status   int
	}{
		{"no key", nil, 401},
		{"a wrong key", []string{"Authorization", "Bearer canary-admin-kez"}, 401},
		{"the beginning of the key", []string{"Authorization", "Bearer canary"}, 401},
		{"an empty key", []string{"Authorization", "Bearer "}, 401},
		{"another scheme", []string{"Authorization", "Basic canary-admin-key"}, 401},
		{"the key", []string{"Authorization", "Bearer canary-admin-key"}, 200},
		{"the scheme in lower case", []string{"Authorization", "bearer canary-admin-key"}, 200},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			got := ask("POST", "/quitquitquit", "", tc.headers...)
			if got.status != tc.status {
				t.Errorf("%+v", got)
			}
			if tc.status == 401 && (got.name(t) != "admin_unauthenticated" || got.header.Get("WWW-Authenticate") == "") {
				t.Errorf("%+v", got)
			}
			if strings.Contains(got.body, "canary") {
				t.Errorf("the answer shows the key: %s", got.body)
			}
		})
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := ask("GET", path, ""); got.status != 200 {
			t.Errorf("%s needs no key: %+v", path, got)
		}
	}
	if got := ask("GET", "/nope", ""); got.status != 401 {
		t.Errorf("without the key one must not learn which paths exist: %+v", got)
	}
	key = session.NewSecret("second")
	if got := ask("POST", "/quitquitquit", "", "Authorization", "Bearer canary-admin-key"); got.status != 401 {
		t.Errorf("a replaced key still works: %+v", got)
	}
}

// Who tries keys is told to wait, whatever path is tried. The right key works
// meanwhile.
func TestManyWrongKeys(t *testing.T) {
	ask := serve(t, admin.Config{Quit: func() {}, Key: lock("canary-admin-key")})
	try := func(path, key string) answer {
		return ask("POST", path, "", "Authorization", "Bearer "+key, "X-Forwarded-For", key)
	}
	for i := range 10 {
		if got := try("/quitquitquit", fmt.Sprint("canary-", i)); got.status != 401 {
			t.Fatalf("wrong key %d: %+v", i, got)
		}
	}
	for _, path := range []string{"/quitquitquit", "/api/v1/sessions", "/nope"} {
		got := try(path, "canary-11")
		if got.status != 429 || got.name(t) != "admin_rate_limited" || got.header.Get("Retry-After") == "" || strings.Contains(got.body, "canary") {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got := try("/quitquitquit", "canary-admin-key"); got.status != 200 {
		t.Errorf("the right key: %+v", got)
	}
	if got := ask("POST", "/quitquitquit", ""); got.status != 401 {
		t.Errorf("without a key: %+v", got)
	}
	if got := ask("GET", "/healthz", "", "Authorization", "Bearer x"); got.status != 200 {
		t.Errorf("/healthz: %+v", got)
	}
}

// One name means one code on both listeners.
func TestCodesAgreeWithTheProxy(t *testing.T) {
	byName, byCode := map[string]int{}, map[int]string{}
	for _, f := range proxy.Failures() {
		byName[f.Name], byCode[f.Code] = f.Code, f.Name
	}
	for _, f := range admin.Failures() {
		if code, ok := byName[f.Name]; ok && code != f.Code {
			t.Errorf("%s is %d here and %d on the proxy", f.Name, f.Code, code)
		}
		if name, ok := byCode[f.Code]; ok && name != f.Name {
			t.Errorf("%d is %s here and %s on the proxy", f.Code, f.Name, name)
		}
		if f.Code/1000 != 18000+f.Status {
			t.Errorf("%s: code %d does not follow from status %d", f.Name, f.Code, f.Status)
		}
	}
}

// What nobody foresaw goes to the log, not to the client.
func TestUnforeseenErrors(t *testing.T) {
	var log bytes.Buffer
	handler, err := telemetry.NewHandler(&log, telemetry.FormatText, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	ask := serve(t, admin.Config{
		Log: slog.New(handler),
		SyncUsers: func(context.Context, func(admin.UserSync), admin.Actor) (admin.UserSync, error) {
			return admin.UserSync{}, errors.New("boom-42")
		},
	})
	got := ask("POST", "/api/v1/users/sync", "")
	if got.status != 500 || got.name(t) != "internal_error" || strings.Contains(got.body, "boom") {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(log.String(), "boom-42") || !strings.Contains(log.String(), "request_id="+got.header.Get("X-Larkside-Request-Id")) {
		t.Errorf("log %q", &log)
	}
}
