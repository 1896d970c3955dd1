package e2e

import (
	"net/http"
	"strings"
	"testing"

	"larkside/session"
	"larkside/telemetry"
	"larkside/test/larktest"
	"larkside/test/process"
)

// Each answer of Larkside's own has an id of its own, on every listener, and an
// error has the same one in its body.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark, Ingress: process.NewBalancer(t), Env: map[string]string{"ADMIN_KEY": "a-key-of-16-characters", "AUTHZ_LISTEN": "127.0.0.1:0"}})
	seen := map[string]string{}
	for _, one := range []struct {
		url    string
		status int
		header []string
	}{
		{p.URL + records, 400, nil},
		{p.URL + records, 401, []string{"X-Lark-User-Id", alice}},
		{p.URL + "/open-apis/im/v1/messages", 403, []string{"X-Lark-User-Id", alice}},
		{p.URL + "/open-apis//x", 400, nil},
		{p.URL + "/-/larkside/nothing", 403, nil},
		{p.AuthzURL + "/-/larkside/authz" + records, 401, []string{"X-Lark-User-Id", bob}},
		{p.AdminURL + "/healthz", 200, nil},
		{p.AdminURL + "/readyz", 200, nil},
		{p.AdminURL + "/api/v1/sessions", 401, nil},
		{p.AdminURL + "/api/v1/nothing", 401, nil},
		{p.AdminURL + "/login", 200, nil},
		{p.ConsentURL + "/", 404, nil},
		{p.ConsentURL + "/consent/start", 400, nil},
		{p.ConsentURL + "/consent/callback?state=x&code=y", 400, nil},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, one.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(one.header); i += 2 {
			r.Header.Set(one.header[i], one.header[i+1])
		}
		a := process.Do(t, r)
		id := a.Header.Get("X-Larkside-Request-Id")
		if a.Status != one.status || len(id) != 16 || seen[id] != "" {
			t.Errorf("%s: %d with id %q, which %q had: %s", one.url, a.Status, id, seen[id], a.Body)
		}
		if seen[id] = one.url; strings.Contains(a.Body, `"error":{`) && !strings.Contains(a.Body, `"request_id":"`+id+`"`) {
			t.Errorf("%s: id %s, body %s", one.url, id, a.Body)
		}
	}
}

// The access log says why a user was asked, who called, and for whom, by the hash
// by which spans and other lines show them. A user's first consent is one line.
func TestAccessLogAndFirstConsent(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{
		"ACCESS_LOG": "true", "LOG_LEVEL": "info", "CALLER_KEYS": "web:a-key-of-the-web-app", "SCOPES": scopes}})
	users, err := telemetry.NewUsers(telemetry.HashUsers, session.NewSecret(larktest.AppSecret).Derive("users in logs and spans"))
	if err != nil {
		t.Fatal(err)
	}
	call := func() *process.Answer { return p.Get(t, records, alice, "X-Larkside-Key", "a-key-of-the-web-app") }
	first := func() []process.Line {
		return p.Log().Find(func(l process.Line) bool { return l.Msg == "a user has consented for the first time" })
	}
	for round := range 2 {
		a := call()
		if a.Name() != "authorization_required" {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		line := p.Log().Await(t, "access log line", func(l process.Line) bool {
			return l.Msg == "request" && l.Text("request_id") == a.Header.Get("X-Larkside-Request-Id")
		})
		for key, want := range map[string]string{"status": "401", "caller": "web", "app_id": larktest.AppID, "user": users.Show(alice),
			"reason": []string{"no_session", "revoked"}[round]} {
			if line.Text(key) != want {
				t.Errorf("%s is %q, want %q: %s", key, line.Text(key), want, line.Raw)
			}
		}
		process.Approve(t, lark, a.Envelope.Error.AuthorizeURL, alice)
		process.Eventually(t, "a session", func() bool { return call().Status == 200 })
		if lines := first(); len(lines) != 1 || lines[0].Level != "INFO" || lines[0].Text("user") != users.Show(alice) {
			t.Errorf("after consent %d: %v", round+1, lines)
		}
		if a := p.Admin(t, "DELETE", "/api/v1/sessions/"+larktest.AppID+"/"+alice); a.Status != 204 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	if strings.Contains(p.Log().String(), alice) {
		t.Error("the log has the user's id in clear")
	}
}
