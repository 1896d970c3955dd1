package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/port"
	"larkside/test/process"
)

// tap stands in front of the emulator and notes every secret that passes.
type tap struct {
	lark *larktest.Platform

	mu      sync.Mutex
	secrets map[string]string // by value: what it is
}

// secretNames are the fields of forms, JSON and queries that hold one.
var secretNames = []string{
	"access_token", "refresh_token", "device_code", "tenant_access_token", "app_access_token", "token",
	"client_secret", "app_secret", "code", "code_verifier", "state", "user_code",
}

// newTap serves an emulator behind a tap.
func newTap(t *testing.T, c larktest.Config) *tap {
	x := &tap{secrets: map[string]string{}}
	server := httptest.NewUnstartedServer(x)
	t.Cleanup(server.Close)
	c.URL = "http://" + server.Listener.Addr().String()
	x.lark = larktest.New(c)
	t.Cleanup(x.lark.Close)
	server.Start()
	return x
}

func (x *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	x.note(string(body), r.Header.Get("Content-Type"))
	x.note(r.URL.RawQuery, "")
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		x.add("Authorization", token)
	}
	answer := httptest.NewRecorder()
	x.lark.ServeHTTP(answer, r)
	x.note(answer.Body.String(), answer.Header().Get("Content-Type"))
	if to, err := url.Parse(answer.Header().Get("Location")); err == nil {
		x.note(to.RawQuery, "")
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}

// note finds the secrets in a form, a query or JSON.
func (x *tap) note(text, contentType string) {
	if strings.HasPrefix(contentType, "application/json") {
		var fields map[string]any
		if json.Unmarshal([]byte(text), &fields) == nil {
			for _, name := range secretNames {
				if s, ok := fields[name].(string); ok {
					x.add(name, s)
				}
			}
		}
		return
	}
	fields, err := url.ParseQuery(text)
	if err != nil {
		return
	}
	for _, name := range secretNames {
		for _, s := range fields[name] {
			x.add(name, s)
		}
	}
}

func (x *tap) add(name, secret string) {
	if len(secret) < 8 {
		return // an OAuth code 0
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.secrets[secret] == "" { // an access token comes back as an Authorization
		x.secrets[secret] = name
	}
}

// needles are what to look for: of long secrets a few pieces, since a log might
// cut them.
func (x *tap) needles() map[string]string {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := map[string]string{}
	for secret, name := range x.secrets {
		if len(secret) < 200 {
			found[secret] = name
			continue
		}
		for _, at := range []int{0, len(secret) / 2, len(secret) - 40} {
			found[secret[at:at+40]] = name
		}
	}
	return found
}

// No secret shows: in a log line at debug level, a span, a metric, an answer of
// the admin listener, an error answer, a consent page, a column.
func TestSecretsStayHidden(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) { hideSecrets(t, db, "device") })
	t.Run("redirect", func(t *testing.T) { hideSecrets(t, process.SQLite(t), "redirect") })
}

const (
	canaryAdminKey  = "canary-of-the-admin-key"
	canaryCallerKey = "canary-of-the-callers-key"
	canaryDatabase  = "canary-of-the-database-password"
	canaryProxy     = "canary-of-the-proxy-password"
	canaryToken     = "canary-of-the-event-token"
	canaryEncrypt   = "canary-of-the-event-encrypt-key"
)

// withPassword puts one into a database's URL; the server of these tests trusts
// everybody.
func withPassword(t *testing.T, db *dbtest.DB) *dbtest.DB {
	t.Helper()
	if !db.Postgres {
		return db
	}
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), canaryDatabase)
	return &dbtest.DB{URL: u.String(), Postgres: true, Keys: db.Keys}
}

// notified collects what PostgreSQL tells its listeners until the returned
// function is called.
func notified(t *testing.T, db *dbtest.DB) (all func() string) {
	t.Helper()
	if !db.Postgres {
		return func() string { return "" }
	}
	l := pq.NewListener(db.URL, time.Second, time.Second, nil)
	var b strings.Builder
	done := make(chan bool)
	go func() {
		defer close(done)
		for n := range l.Notify {
			if n != nil { // else the connection is a new one
				b.WriteString(n.Extra + "\n")
			}
		}
	}()
	if err := l.Listen("larkside"); err != nil {
		t.Fatal(err)
	}
	return func() string {
		l.Close()
		<-done
		if b.Len() == 0 {
			t.Error("no NOTIFY was seen, so that proves nothing")
		}
		return b.String()
	}
}

func hideSecrets(t *testing.T, db *dbtest.DB, flow string) {
	ingress := process.NewBalancer(t)
	x := newTap(t, larktest.Config{
		DeviceInterval: time.Second,
		Apps:           []larktest.App{{ID: larktest.AppID, Secret: larktest.AppSecret, RedirectURIs: []string{ingress.URL + "/consent/callback"}}},
	})
	lark := x.lark
	process.Seed(t, db, lark, 3*time.Hour, bob) // to be renewed
	db = withPassword(t, db)
	told := notified(t, db)
	env := map[string]string{
		"SCOPES": scopes, "ADMIN_KEY": canaryAdminKey, "CALLER_KEYS": "app:" + canaryCallerKey, "ACCESS_LOG": "true", "TRACE_USERS": "id",
		"TENANT_PATHS": "/open-apis/contact/", "CONSENT_FLOW": flow,
	}
	if flow == "redirect" {
		env["PUBLIC_URL"], env["CONSENT_LISTEN"] = ingress.URL, "127.0.0.1:0"
		env["EVENTS"], env["EVENT_TOKEN"], env["EVENT_ENCRYPT_KEY"] = "http", canaryToken, canaryEncrypt
	}
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: env, Environ: []string{"OTEL_TRACES_EXPORTER=console", "OTEL_BSP_SCHEDULE_DELAY=50"}})
	x.add("admin key", canaryAdminKey)
	x.add("caller key", canaryCallerKey)
	x.add("encryption key", strings.TrimPrefix(process.Keys, "test:"))
	x.add("database password", canaryDatabase)
	x.add("proxy password", canaryProxy)
	x.add("event token", canaryToken)
	x.add("event encrypt key", canaryEncrypt)
	ingress.Set(t, p.ConsentURL)

	seen := map[string]string{} // by where
	call := func(path, openID string, header ...string) *process.Answer {
		a := p.Get(t, path, openID, append(header, "X-Larkside-Key", canaryCallerKey)...)
		if a.Name() != "" {
			// The link is meant for the user; all else is not to have one.
			link := a.Envelope.Error.AuthorizeURL
			shown := a.Body + fmt.Sprint(a.Header)
			if link != "" {
				shown = strings.ReplaceAll(shown, link, "")
			}
			seen[a.Name()+" of "+openID] = shown
		}
		return a
	}

	link := call(records, alice).Envelope.Error.AuthorizeURL
	if flow == "redirect" {
		b := newBrowser(t)
		at := b.get(link).Request.URL.String()
		b.post(at, url.Values{"account": {alice}, "decision": {"approve"}})
		seen["consent page"] = b.body
	} else {
		process.Approve(t, lark, link, alice)
	}
	process.Eventually(t, "a session", func() bool { return call(records, alice).Status == 200 })
	call(records, carol) // stays pending
	call("/open-apis/contact/v3/departments/0", "")
	// Answers of the token endpoint that can't be read, then one that can.
	echoing := `{"code":20050,"error":"server_error","error_description":"with client_secret ` + larktest.AppSecret + `"}`
	for _, f := range []larktest.Fault{{Code: 20050}, {Status: 502}, {Status: 500, Body: echoing}, {Set: map[string]any{"token_type": nil, "access_token": 7}, Processed: true}} {
		f.Endpoint = larktest.TokenEndpoint
		fault := lark.Fault(f)
		call(records, bob)
		fault.Remove()
	}
	process.Eventually(t, "an end of bob's", func() bool { s := call(records, bob).Status; return s == 200 || s == 401 })
	// A session that Lark ends, and one that an operator ends.
	if err := lark.Revoke(bob); err != nil {
		t.Fatal(err)
	}
	call(records, bob)
	call(records, alice, "X-Lark-App-Id", "cli_none")
	is(t, p.Get(t, records, alice, "X-Larkside-Key", "wrong"), 401, "caller_unauthenticated")

	key := []string{"Authorization", "Bearer " + canaryAdminKey}
	session := "/api/v1/sessions/" + larktest.AppID + "/" + alice
	for _, ask := range []struct{ method, path string }{
		{"GET", "/healthz"}, {"GET", "/readyz"}, {"GET", "/"}, {"GET", "/api/v1/sessions"}, {"GET", session}, {"POST", session + "/refresh"},
		{"GET", "/api/v1/audit"}, {"DELETE", session}, {"GET", "/api/v1/sessions"}, {"GET", "/metrics"}, {"GET", "/debug/pprof/cmdline"},
	} {
		seen["admin "+ask.method+" "+ask.path] = p.Admin(t, ask.method, ask.path, key...).Body
	}
	seen["admin without key"] = p.Admin(t, "GET", "/api/v1/sessions").Body
	consents := p.Admin(t, "GET", "/api/v1/consents", key...).Body
	if !strings.Contains(consents, carol) {
		t.Errorf("no consent of carol's: %s", consents)
	}
	seen["admin consents"] = consents
	askCommands(t, p, db, seen)

	p.Stop()
	seen["log"], seen["spans"] = p.Log().String(), p.Stdout()
	seen["NOTIFY"] = told()
	// What a crash leaves behind: every goroutine's stack, its arguments as words.
	p.Restart()
	call(records, bob)
	p.Signal(syscall.SIGQUIT)
	p.Wait()
	if seen["stacks"] = p.Log().String(); !strings.Contains(seen["stacks"], "goroutine ") {
		t.Error("no stacks, so they prove nothing")
	}
	for _, want := range []struct{ where, what string }{{"log", "DEBUG"}, {"log", "/open-apis/apaas"}, {"spans", "token.refresh"}, {"admin GET /metrics", "larkside_"}} {
		if !strings.Contains(seen[want.where], want.what) {
			t.Errorf("%s has no %q, so it proves nothing", want.where, want.what)
		}
	}
	seen["database"] = dump(t, db)
	needles := x.needles()
	kinds := map[string]int{}
	for needle, name := range needles {
		kinds[name]++
		for where, text := range seen {
			if at := strings.Index(text, needle); at >= 0 {
				t.Errorf("%s shows the %s: …%s…", where, name, text[max(0, at-200):min(len(text), at+60)])
			}
		}
	}
	if kinds["access_token"] == 0 || kinds["refresh_token"] == 0 || kinds["app_secret"]+kinds["client_secret"] == 0 ||
		flow == "device" && kinds["device_code"] == 0 || flow == "redirect" && kinds["code_verifier"] == 0 {
		t.Errorf("the tap has seen too little: %v", kinds)
	}
}

// askCommands notes what the commands print, and what a process shows of itself
// to others on its machine.
func askCommands(t *testing.T, p *process.Process, db *dbtest.DB, seen map[string]string) {
	t.Helper()
	for _, args := range [][]string{{"env"}, {"--help"}, {"help", "serve"}, {"version"}, {"sessions", "list"}, {"sessions", "list", "-o", "json"}, {"sessions", "show", alice}, {"no-such-command"}} {
		r := p.Command(t, args, "ADMIN_LISTEN="+strings.TrimPrefix(p.AdminURL, "http://"))
		seen["larkside "+strings.Join(args, " ")] = r.Stdout + r.Stderr
	}
	if db.Postgres { // SQLite is in use
		for _, format := range []string{"text", "json"} {
			r := p.Command(t, []string{"doctor", "-o", format})
			seen["larkside doctor "+format] = r.Stdout + r.Stderr
		}
	}
	// With a proxy that has a password and can't be reached.
	r := p.Command(t, []string{"doctor"}, "UPSTREAM_PROXY=http://user:"+canaryProxy+"@"+port.Address(t))
	if seen["larkside doctor, proxy"] = r.Stdout + r.Stderr; r.Status != 1 {
		t.Errorf("doctor without a way to Lark: exit status %d", r.Status)
	}
	// Settings that are refused are not repeated.
	for _, wrong := range []string{"UPSTREAM_PROXY=ftp://u:" + canaryProxy + "@x", "UPSTREAM_PROXY=http://u:" + canaryProxy + "@x:%zz", "ENCRYPTION_KEYS=" + canaryProxy, "CALLER_KEYS=" + canaryProxy, "DATABASE_URL=mysql://u:" + canaryProxy + "@x/y", "APPS=" + canaryProxy} {
		r := p.Command(t, []string{"serve"}, wrong)
		name, _, _ := strings.Cut(wrong, "=")
		if seen["a wrong "+name] = r.Stdout + r.Stderr; r.Status != 2 {
			t.Errorf("a wrong %s: exit status %d", name, r.Status)
		}
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID())); err == nil {
		seen["process arguments"] = string(line)
	}
}

// dump is all that lies in the database.
func dump(t *testing.T, db *dbtest.DB) string {
	t.Helper()
	var b strings.Builder
	if !db.Postgres {
		files, err := filepath.Glob(strings.TrimPrefix(db.URL, "sqlite:") + "*")
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, name := range files {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(content)
		}
		return b.String()
	}
	conn := db.SQL(t)
	rows, err := conn.Query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var all string
		// escape: bytea as text where it is text.
		err := conn.QueryRow(`SELECT coalesce(string_agg(t::text, E'\n'), '') FROM "` + name + `" t`).Scan(&all)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(all + "\n")
	}
	return b.String()
}
