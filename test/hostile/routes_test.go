package hostile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"larkside/test/larktest"
	"larkside/test/process"
)

const (
	callerKey = "key-of-the-caller"
	adminKey  = "key-of-the-operator"
)

// S12, S18, S20, S35: each route of each listener, and what looks like one,
// without a key, with a wrong one, and with the right one.
func TestRoutes(t *testing.T) {
	t.Parallel()
	p, front := begin(t, map[string]string{
		"CALLER_KEYS": "app:" + callerKey, "ADMIN_KEY": adminKey, "AUTHZ_LISTEN": "127.0.0.1:0", "CONSENT_LISTEN": "127.0.0.1:0", "PUBLIC_URL": "http://localhost:1",
		"TENANT_PATHS": "/open-apis/contact/", "EVENTS": "http", "EVENT_TOKEN": "event-token", "EVENT_ENCRYPT_KEY": "event-encrypt-key",
	})
	request := func(method, path, header string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: {host}\r\n" + header + "Connection: close\r\nContent-Length: 0\r\n\r\n"
	}
	const user = "X-Lark-User-Id: " + alice + "\r\n"

	t.Run("proxy", func(t *testing.T) {
		for _, path := range []string{
			"/", echo, "/open-apis/contact/v3/departments/0", "/open-apis/im/v1/chats", "/-/larkside/authz", "/-/larkside/authz" + echo, "/-/larkside/", "/-/larkside/x",
			"/open-apis/auth/v3/tenant_access_token/internal", "/healthz", "/readyz", "/metrics", "/quitquitquit", "/admin", "/debug/pprof/", "/api/v1/sessions",
			"/consent/start", "/consent/events", "/healthz/.." + echo, "//healthz", "/%2e/healthz", "/favicon.ico", "/robots.txt", "/.well-known/x",
		} {
			for _, key := range []string{
				"", "X-Larkside-Key:\r\n", "X-Larkside-Key: wrong\r\n", "X-Larkside-Key: " + strings.ToUpper(callerKey) + "\r\n", "X_Larkside_Key: " + callerKey + "\r\n",
				"X-Larkside-Key: " + callerKey + "\r\nX-Larkside-Key: wrong\r\n", "X-Larkside-Key: " + adminKey + "\r\n", "Authorization: Bearer " + callerKey + "\r\n",
				"X-Larkside-Key: " + callerKey + "\r\nHost: evil.example\r\n", "X-Larkside-Key: " + callerKey + "\r\nOrigin: https://evil.example\r\n",
			} {
				for _, method := range []string{"GET", "POST", "HEAD", "OPTIONS"} {
					answer := send(t, p.URL, request(method, path, key+user))
					if s := status(answer); s != 401 && s != 429 && s != 400 && s != 403 || s == 403 && !strings.Contains(answer, "host_not_allowed") {
						t.Errorf("%s %s with %q: %.200q", method, path, key, answer)
					}
				}
			}
		}
		if calls := front.taken(); len(calls) > 0 {
			t.Errorf("Lark got %d requests; the first: %+v", len(calls), calls[0])
		}
		right := "X-Larkside-Key: " + callerKey + "\r\n"
		for _, path := range []string{
			"/", "/healthz", "/readyz", "/metrics", "/quitquitquit", "/admin", "/debug/pprof/", "/api/v1/sessions", "/consent/start", "/consent/events", "/-/larkside/", "/-/larkside/x",
			"/-/larkside/authz", "/-/larkside/authz" + echo,
		} {
			if answer := send(t, p.URL, request("POST", path, right+user)); status(answer) != 403 || strings.Contains(answer, "Bearer ") {
				t.Errorf("%s with the right key: %.200q", path, answer)
			}
		}
		if n := len(front.taken()); n > 0 {
			t.Errorf("Lark got %d requests", n)
		}
		if answer := send(t, p.URL, request("GET", echo, right+user)); status(answer) != 200 || strings.Contains(answer, callerKey) {
			t.Errorf("with the right key: %.300q", answer)
		}
		for _, c := range front.taken() {
			for name := range c.header {
				if strings.Contains(strings.ToLower(name), "larkside") {
					t.Errorf("Lark got %s", name)
				}
			}
		}
	})

	t.Run("authz", func(t *testing.T) {
		const authz = "/-/larkside/authz"
		right := "X-Larkside-Key: " + callerKey + "\r\n"
		for _, path := range []string{
			"/", echo, authz, authz + echo, authz + "/open-apis/contact/v3/departments/0", "/-/larkside/", "/healthz", "/readyz", "/metrics", "/quitquitquit", "/debug/pprof/", "/api/v1/sessions",
			"/consent/start", "/consent/events", "/healthz/.." + authz + echo, "//healthz",
		} {
			for _, key := range []string{
				"", "X-Larkside-Key:\r\n", "X-Larkside-Key: wrong\r\n", "X_Larkside_Key: " + callerKey + "\r\n", right + "X-Larkside-Key: wrong\r\n", "X-Larkside-Key: " + adminKey + "\r\n",
				"Authorization: Bearer " + callerKey + "\r\n", right + "Host: evil.example\r\n", right + "Origin: https://evil.example\r\n",
			} {
				for _, method := range []string{"GET", "POST", "HEAD", "OPTIONS"} {
					answer := send(t, p.AuthzURL, request(method, path, key+user))
					if s := status(answer); s != 401 && s != 429 && s != 400 && s != 403 || s == 403 && !strings.Contains(answer, "host_not_allowed") || strings.Contains(answer, "Authorization: Bearer") {
						t.Errorf("%s %s with %q: %.200q", method, path, key, answer)
					}
				}
			}
		}
		for _, path := range []string{"/", echo, "/healthz", "/metrics", "/quitquitquit", "/api/v1/sessions", "/consent/start", "/-/larkside/", "/-/larkside/x", authz + authz + echo, authz + "/open-apis/im/v1/chats"} {
			if answer := send(t, p.AuthzURL, request("POST", path, right+user)); status(answer) != 403 || strings.Contains(answer, "Authorization: Bearer") {
				t.Errorf("%s with the right key: %.200q", path, answer)
			}
		}
		if answer := send(t, p.AuthzURL, request("GET", authz+echo, right+user)); status(answer) != 200 || !strings.Contains(answer, "Authorization: Bearer ") {
			t.Errorf("authz with the right key: %.300q", answer)
		}
		if calls := front.taken(); len(calls) > 0 {
			t.Errorf("Lark got %d requests; the first: %+v", len(calls), calls[0])
		}
	})

	t.Run("admin", func(t *testing.T) {
		session := "/api/v1/sessions/" + larktest.AppID + "/" + alice
		routes := []struct{ method, path string }{
			{"GET", "/api/v1/sessions"}, {"GET", session}, {"DELETE", session}, {"POST", session + "/refresh"}, {"GET", "/api/v1/consents"}, {"POST", "/api/v1/consents"},
			{"POST", "/api/v1/backup"}, {"POST", "/api/v1/sessions/purge"}, {"POST", "/api/v1/users/sync"}, {"GET", "/api/v1/audit"}, {"POST", "/quitquitquit"}, {"POST", "/api/v1/keys/rotate"},
		}
		for _, r := range routes {
			for _, path := range []string{r.path, r.path + "/", "//healthz/.." + r.path, "/healthz/.." + r.path, "/healthz%2f.." + r.path, "/metrics/../" + r.path, r.path + "?/healthz", r.path + ";/healthz", "/" + r.path} {
				for _, key := range []string{
					"", "Authorization: Bearer wrong\r\n", "Authorization: Bearer\r\n", "Authorization: Basic " + adminKey + "\r\n", "Authorization: Bearer " + callerKey + "\r\n",
					"X-Larkside-Key: " + adminKey + "\r\n", "Cookie: key=" + adminKey + "\r\n", "User-Agent: kube-probe/1.30\r\n", "Authorization: Bearer " + adminKey + "x\r\n",
				} {
					answer := send(t, p.AdminURL, request(r.method, path, key))
					// A redirect to the clean path says nothing; a form without
					// the console's own token is refused before its key is.
					if s := status(answer); s != 401 && s != 403 && s != 404 && s != 400 && s != 429 && s/100 != 3 || strings.Contains(answer, "open_id") {
						t.Errorf("%s %s with %q: %.300q", r.method, path, key, answer)
					}
				}
			}
			for _, header := range []string{"Host: evil.example\r\n", "Origin: https://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"} {
				text := request(r.method, r.path, "Authorization: Bearer "+adminKey+"\r\n"+header)
				if strings.HasPrefix(header, "Host") {
					text = strings.Replace(text, "Host: {host}\r\n", "", 1)
				}
				if answer := send(t, p.AdminURL, text); status(answer) != 403 {
					t.Errorf("%s %s with %q: %.300q", r.method, r.path, header, answer)
				}
			}
		}
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			answer := send(t, p.AdminURL, request("GET", path, ""))
			if status(answer) != 200 || strings.Contains(answer, alice) {
				t.Errorf("%s without a key: %.300q", path, answer)
			}
		}
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", echo, "/-/larkside/authz" + echo} {
			if answer := send(t, p.AdminURL, request("GET", path, user+"Authorization: Bearer "+adminKey+"\r\n")); status(answer) == 200 && !strings.Contains(answer, "text/html") {
				t.Errorf("%s on the admin listener: %.300q", path, answer)
			}
		}
		if a := p.Admin(t, "GET", session, "Authorization", "Bearer "+adminKey); a.Status != 200 || !strings.Contains(a.Body, `"active"`) {
			t.Errorf("the session: %d %s", a.Status, a.Body)
		}
	})

	t.Run("consent", func(t *testing.T) {
		for _, path := range []string{
			"/", "/healthz", "/metrics", "/readyz", "/quitquitquit", "/api/v1/sessions", echo, "/-/larkside/authz" + echo, "/consent", "/consent/", "/consent/start/", "/consent/start/..",
			"/consent/../api/v1/sessions", "//consent/start", "/consent/callback/x", "/CONSENT/start", "/debug/pprof/",
		} {
			for _, key := range []string{"", "X-Larkside-Key: " + callerKey + "\r\nAuthorization: Bearer " + adminKey + "\r\n" + user} {
				if answer := send(t, p.ConsentURL, request("GET", path, key)); status(answer) != 404 || !strings.Contains(answer, "Content-Security-Policy") {
					t.Errorf("%s: %.300q", path, answer)
				}
			}
		}
		for _, query := range []string{"", "?t=", "?t=x", "?t=" + strings.Repeat("a", 43), "?t=" + strings.Repeat("a", 43) + "&t=b", "?state=<script>", "?state=" + strings.Repeat("a", 43) + "&code=<script>alert(1)</script>", "?" + strings.Repeat("a=b&", 10_001)} {
			for _, path := range []string{"/consent/start", "/consent/callback"} {
				answer := send(t, p.ConsentURL, request("GET", path+query, ""))
				if status(answer) != 400 || strings.Contains(answer, "<script>") || strings.Contains(answer, "Location:") || !strings.Contains(answer, "Referrer-Policy: no-referrer") {
					t.Errorf("%s%.100s: %.300q", path, query, answer)
				}
			}
		}
		for _, body := range []string{"", "{}", `{"challenge":"x","token":"event-token","type":"url_verification"}`, `{"encrypt":"AAAA"}`, strings.Repeat("x", 2<<20)} {
			a := process.Do(t, process.NewRequest(t, "POST", p.ConsentURL+"/consent/events", "", body, "Content-Type", "application/json"))
			if a.Status/100 != 4 {
				t.Errorf("an unsigned event of %d bytes: %d %s", len(body), a.Status, a.Body)
			}
		}
		if n := len(front.taken()); n > 0 {
			t.Errorf("Lark got %d requests", n)
		}
	})
	select {
	case <-p.Ended():
		t.Fatal("the process has ended")
	default:
	}
}

// S33: what can't be loaded lets nobody in, at the start and later.
func TestUnreadableSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, key := filepath.Join(dir, "empty"), filepath.Join(dir, "key")
	for _, path := range []string{empty, key} {
		content := ""
		if path == key {
			content = "app:" + callerKey + "\n"
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, setting := range []string{"CALLER_KEYS_FILE", "ADMIN_KEY_FILE", "ENCRYPTION_KEYS_FILE", "APP_SECRET_FILE", "EVENT_TOKEN_FILE", "DATABASE_URL_FILE", "UPSTREAM_CA_FILE"} {
		for _, path := range []string{filepath.Join(dir, "missing"), dir, empty} {
			env := map[string]string{setting: path}
			if plain := strings.TrimSuffix(setting, "_FILE"); plain != "UPSTREAM_CA" {
				env[plain] = "" // not beside its file
			}
			if setting == "EVENT_TOKEN_FILE" {
				env["EVENTS"], env["CONSENT_LISTEN"], env["EVENT_ENCRYPT_KEY"] = "http", "127.0.0.1:0", "k"
			}
			if r := process.Run(t, process.Options{Env: env}); r.Status != 2 || !strings.Contains(r.Stderr, setting) || strings.Contains(r.Stderr, `"listening"`) {
				t.Errorf("%s=%s: exit status %d, %s", setting, path, r.Status, r.Stderr)
			}
		}
	}
	if r := process.Run(t, process.Options{Env: map[string]string{"ENCRYPTION_KEYS_COMMAND": "false"}}); r.Status == 0 || strings.Contains(r.Stderr, `"ready"`) {
		t.Errorf("a command that fails: exit status %d, %s", r.Status, r.Stderr)
	}
	// A file that goes away, or is emptied, while larkside runs opens nothing.
	p, _ := begin(t, map[string]string{"CALLER_KEYS_FILE": key})
	right := []string{"X-Larkside-Key", callerKey}
	if a := p.Get(t, echo, alice, right...); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	for _, spoil := range []func() error{
		func() error { return os.WriteFile(key, nil, 0o600) },
		func() error { return os.WriteFile(key, []byte("no colon"), 0o600) },
		func() error { return os.Remove(key) },
	} {
		n := len(p.Log().Lines())
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		p.Signal(syscall.SIGHUP)
		process.Eventually(t, "a word about the file", func() bool {
			for _, line := range p.Log().Lines()[n:] {
				if strings.Contains(line.Raw, "CALLER_KEYS") {
					return true
				}
			}
			return false
		})
		if a := p.Get(t, echo, alice); a.Status != 401 {
			t.Errorf("without a key: %d %s", a.Status, a.Body)
		}
	}
}
