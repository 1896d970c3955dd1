package larktest

import (
	"encoding/json"
	"strings"
	"testing"
)

func control(t *testing.T, p *Platform, method, path, body string) reply {
	t.Helper()
	return call(t, p, method, "/larktest/"+path, "", body)
}

func wantStatus(t *testing.T, r reply, status int) {
	t.Helper()
	if r.Status != status {
		t.Errorf("HTTP %d, want %d: %s", r.Status, status, r.Raw)
	}
}

func itemsOf(t *testing.T, r reply) []any {
	t.Helper()
	wantStatus(t, r, 200)
	list, ok := r.Fields["items"].([]any)
	if !ok {
		t.Errorf("no items: %s", r.Raw)
	}
	return list
}

// Everything that another process needs for a whole round.
func TestControlRound(t *testing.T) {
	p, rec := startWithEvents(t)
	added := control(t, p, "POST", "users", `{"open_id":"ou_dave","name":"Dave"}`)
	wantStatus(t, added, 200)
	wantStatus(t, control(t, p, "PATCH", "apps/"+AppID, `{"redirect_uris":["http://app.test/cb"]}`), 200)
	messageID(t, post(t, p, tenant(t, p), "ou_dave", authCard, ""))
	messages := itemsOf(t, control(t, p, "GET", "messages?open_id=ou_dave&min=1&wait=10s", ""))
	first := messages[0].(map[string]any)
	if first["links"].([]any)[0] != "https://example.com/go?a=1&b=2" || len(first["buttons"].([]any)) != 2 {
		t.Errorf("message: %v", first)
	}
	clicked := control(t, p, "POST", "click", `{"message_id":"`+first["id"].(string)+`","button":1}`)
	wantStatus(t, clicked, 200)
	if len(rec.events) != 1 {
		t.Errorf("%d events", len(rec.events))
	}
	d := startDevice(t, p, "offline_access")
	wantStatus(t, control(t, p, "POST", "approve", `{"code":"`+d.text("verification_uri_complete")+`","open_id":"ou_dave"}`), 200)
	wantStatus(t, control(t, p, "POST", "decline", `{"code":"`+d.text("user_code")+`","open_id":"ou_dave"}`), 409)
	if devices := itemsOf(t, control(t, p, "GET", "devices", "")); devices[0].(map[string]any)["state"] != "approved" {
		t.Errorf("devices: %v", devices)
	}
	link, _ := json.Marshal(map[string]string{"url": consentURL(p), "open_id": "ou_dave"})
	if r := control(t, p, "POST", "consent", string(link)); !strings.HasPrefix(r.text("redirect"), "http://app.test/cb?code=") {
		t.Errorf("consent: %s", r.Raw)
	}
	if r := control(t, p, "POST", "refuse", string(link)); !strings.Contains(r.text("redirect"), "access_denied") {
		t.Errorf("refuse: %s", r.Raw)
	}
	tokens := control(t, p, "POST", "grant", `{"open_id":"ou_dave"}`)
	want(t, refreshCall(t, p, tokens.text("refresh_token")), 200, 0)
	wantStatus(t, control(t, p, "POST", "expire", `{"open_id":"ou_dave","kinds":["user_access_token"]}`), 200)
	want(t, call(t, p, "GET", tablesPath, tokens.text("access_token"), ""), 401, 99991677)
	wantStatus(t, control(t, p, "POST", "revoke", `{"open_id":"ou_dave","by":"user"}`), 200)
	if len(rec.events) != 2 {
		t.Errorf("%d events after revoking", len(rec.events))
	}
	wantStatus(t, control(t, p, "POST", "events", `{"app_id":"`+AppID+`","type":"x.y_v1","body":{}}`), 200)
	if lines := itemsOf(t, control(t, p, "GET", "ledger?open_id=ou_dave", "")); len(lines) != 4 {
		t.Errorf("ledger: %v", lines)
	}
	if calls := itemsOf(t, control(t, p, "GET", "calls?endpoint=api&last=1", "")); len(calls) != 1 || calls[0].(map[string]any)["code"] != float64(99991677) {
		t.Errorf("calls: %v", calls)
	}
	if v := itemsOf(t, control(t, p, "GET", "violations?kind=expired_token", "")); len(v) != 1 {
		t.Errorf("violations: %v", v)
	}
	if s := control(t, p, "GET", "summary", ""); s.Fields["redemptions"].(map[string]any)["answered"] != float64(1) {
		t.Errorf("summary: %s", s.Raw)
	}
}

func TestControlFaults(t *testing.T) {
	p, _ := startAt(t, Config{})
	tokens := granted(t, p, Alice)
	id := control(t, p, "POST", "faults", `{"endpoint":"token","code":20050,"times":-1,"delay":"1ms"}`)
	wantStatus(t, id, 200)
	want(t, refreshCall(t, p, tokens.RefreshToken), 500, 20050)
	list := itemsOf(t, control(t, p, "GET", "faults", ""))
	if line := list[0].(map[string]any); line["hits"] != float64(1) || line["delay"] != "1ms" || line["code"] != float64(20050) {
		t.Errorf("faults: %v", list)
	}
	wantStatus(t, control(t, p, "POST", "faults/1/release", ""), 200)
	wantStatus(t, control(t, p, "DELETE", "faults/1", ""), 200)
	wantStatus(t, control(t, p, "DELETE", "faults/1", ""), 404)
	want(t, refreshCall(t, p, tokens.RefreshToken), 200, 0)
	control(t, p, "POST", "faults", `{"endpoint":"api","status":500,"times":-1}`)
	wantStatus(t, control(t, p, "DELETE", "faults", ""), 200)
	if len(p.Faults()) != 0 {
		t.Error("faults are left")
	}
}

func TestControlErrors(t *testing.T) {
	p, _ := startAt(t, Config{})
	wantStatus(t, control(t, p, "POST", "faults", `{"endpiont":"token"}`), 400)
	wantStatus(t, control(t, p, "POST", "faults", `{"delay":"soon"}`), 400)
	wantStatus(t, control(t, p, "POST", "approve", `{"code":"x","open_id":"`+Alice+`"}`), 404)
	wantStatus(t, control(t, p, "POST", "expire", `{"open_id":"ou_nobody"}`), 404)
	wantStatus(t, control(t, p, "PATCH", "apps/cli_x", `{}`), 404)
	wantStatus(t, control(t, p, "PATCH", "users/"+Alice, `{"status":1}`), 400)
	wantStatus(t, control(t, p, "PATCH", "users/"+Alice, `{"status":"frozen"}`), 200)
	if u, _ := p.User(Alice); u.Status != Frozen || u.Name != "Alice Zhang" {
		t.Errorf("patched: %+v", u)
	}
	for _, r := range []reply{control(t, p, "GET", "apps", ""), control(t, p, "GET", "calls", "")} {
		if strings.Contains(string(r.Raw), AppSecret) {
			t.Error("the app's secret is shown")
		}
	}
	if r := control(t, p, "GET", "", ""); r.Fields["GET /larktest/summary"] == nil {
		t.Errorf("help: %s", r.Raw)
	}
	if _, _, page := visit(t, browser(t), p.URL+"/"); !strings.Contains(page, "Lark emulator") || !strings.Contains(page, AppID) {
		t.Errorf("index: %s", page)
	}
}
