package larktest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// authCard is a card as a sidecar would send it.
const authCard = `{"schema":"2.0","config":{"update_multi":true,"enable_forward":false,"summary":{"content":"Authorization needed"}},
"header":{"title":{"tag":"plain_text","content":"Authorize","i18n_content":{"zh_cn":"请授权","ja_jp":"認証してください"}},"template":"blue"},
"body":{"elements":[{"tag":"markdown","content":"**Demo** needs your [permission](https://example.com/privacy)","i18n_content":{"zh_cn":"**演示**需要你的授权"}},
{"tag":"hr"},
{"tag":"button","type":"primary","text":{"tag":"plain_text","content":"Authorize","i18n_content":{"zh_cn":"授权"}},"behaviors":[{"type":"open_url","default_url":"https://example.com/go?a=1&b=2"}]},
{"tag":"button","text":{"tag":"plain_text","content":"Decline"},"behaviors":[{"type":"callback","value":{"do":"decline"}}]}]}}`

const doneCard = `{"schema":"2.0","config":{"update_multi":true},"header":{"title":{"tag":"plain_text","content":"Done"},"template":"green"},"body":{"elements":[{"tag":"markdown","content":"Thank you"}]}}`

// post sends content to a user by the given bearer.
func post(t *testing.T, p *Platform, bearer, openID, content, uuid string) reply {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"receive_id": openID, "msg_type": "interactive", "content": content, "uuid": uuid})
	return call(t, p, "POST", "/open-apis/im/v1/messages?receive_id_type=open_id", bearer, string(body))
}

func patchCard(t *testing.T, p *Platform, bearer, id, content string) reply {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"content": content})
	return call(t, p, "PATCH", "/open-apis/im/v1/messages/"+id, bearer, string(body))
}

func messageID(t *testing.T, r reply) string {
	t.Helper()
	want(t, r, 200, 0)
	id, _ := r.Fields["data"].(map[string]any)["message_id"].(string)
	if !strings.HasPrefix(id, "om_") {
		t.Fatalf("message id %q", id)
	}
	return id
}

func TestSendAndUpdate(t *testing.T) {
	p, clock := startAt(t, Config{})
	tat := tenant(t, p)
	id := messageID(t, post(t, p, tat, Alice, authCard, "u1"))
	m := p.Messages(Alice)
	if len(m) != 1 || m[0].ID != id || len(m[0].Links()) != 1 || m[0].Links()[0] != "https://example.com/go?a=1&b=2" || len(m[0].Buttons()) != 2 {
		t.Fatalf("messages: %+v", m)
	}
	want(t, patchCard(t, p, tat, id, doneCard), 200, 0)
	if m = p.Messages(Alice); len(m[0].Versions) != 2 || m[0].Content() != doneCard {
		t.Errorf("after the update: %+v", m[0])
	}
	if len(p.Messages(Bob)) != 0 {
		t.Error("Bob got Alice's message")
	}
	want(t, patchCard(t, p, tat, id, `{"elements":[]}`), 400, 230099) // 2.0 → 1.0
	want(t, patchCard(t, p, granted(t, p, Alice, "offline_access", "im:message").AccessToken, id, doneCard), 400, 230027)
	want(t, patchCard(t, p, tat, "c-token", doneCard), 400, 99992354)
	for range 4 { // one update was in this second already
		want(t, patchCard(t, p, tat, id, doneCard), 200, 0)
	}
	want(t, patchCard(t, p, tat, id, doneCard), 400, 230020)
	clock.forward(14*24*time.Hour + time.Second)
	want(t, patchCard(t, p, tenant(t, p), id, doneCard), 400, 230031)
}

func TestUUID(t *testing.T) {
	p, clock := startAt(t, Config{})
	first := messageID(t, post(t, p, tenant(t, p), Alice, authCard, "same"))
	if again := messageID(t, post(t, p, tenant(t, p), Alice, authCard, "same")); again != first {
		t.Error("the uuid was sent twice")
	}
	clock.forward(time.Hour)
	if later := messageID(t, post(t, p, tenant(t, p), Alice, authCard, "same")); later == first {
		t.Error("the uuid is remembered for more than an hour")
	}
	if n := len(p.Messages(Alice)); n != 2 {
		t.Errorf("%d messages", n)
	}
	p, _ = startAt(t, Config{Switches: Switches{DuplicateUUID: 230049}})
	post(t, p, tenant(t, p), Alice, authCard, "same")
	want(t, post(t, p, tenant(t, p), Alice, authCard, "same"), 400, 230049)
}

func TestSendCodes(t *testing.T) {
	asString := func(content string) string { b, _ := json.Marshal(content); return string(b) }
	body := func(id, content string) string {
		return `{"receive_id":"` + id + `","msg_type":"interactive","content":` + content + `}`
	}
	cases := []struct {
		name   string
		before func(*Platform)
		query  string
		body   string
		code   int
	}{
		{name: "content as an object", body: body(Alice, authCard), code: 230001},
		{name: "no receive_id_type", query: "?", body: body(Alice, asString(authCard)), code: 99992402},
		{name: "unknown id", body: body("ou_nobody", asString(authCard)), code: 230034},
		{name: "user id as open_id", body: body("4c87bec3", asString(authCard)), code: 230034},
		{name: "unknown chat", query: "?receive_id_type=chat_id", body: body("oc_x", asString(authCard)), code: 230002},
		{name: "over 30 KB", body: body(Alice, asString(`{"schema":"2.0","body":{"elements":[{"tag":"markdown","content":"`+strings.Repeat("x", 31<<10)+`"}]}}`)), code: 230025},
		{name: "resigned", before: func(p *Platform) { p.UpdateUser(Alice, func(u *User) { u.Status = Resigned }) }, code: 230029},
		{name: "outside availability", before: func(p *Platform) { p.UpdateUser(Alice, func(u *User) { u.Unavailable = []string{AppID} }) }, code: 230013},
		{name: "muted", before: func(p *Platform) { p.UpdateUser(Alice, func(u *User) { u.BotMuted = true }) }, code: 230053},
		{name: "bot off", before: func(p *Platform) { p.UpdateApp(AppID, func(a *App) { a.BotOff = true }) }, code: 230006},
		{name: "no scope", before: func(p *Platform) { p.UpdateApp(AppID, func(a *App) { a.Scopes = []string{} }) }, code: 99991672},
		{name: "long uuid", body: `{"receive_id":"` + Alice + `","msg_type":"text","content":"{}","uuid":"` + strings.Repeat("u", 51) + `"}`, code: 230001},
		{name: "text", body: `{"receive_id":"` + Alice + `","msg_type":"text","content":"{\"text\":\"hi\"}"}`, code: 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, _ := startAt(t, Config{})
			tat := tenant(t, p)
			if c.before != nil {
				c.before(p)
			}
			if c.query == "" {
				c.query = "?receive_id_type=open_id"
			}
			if c.body == "" {
				c.body = body(Alice, asString(authCard))
			}
			status := 400
			if c.code == 0 {
				status = 200
			}
			want(t, call(t, p, "POST", "/open-apis/im/v1/messages"+c.query, tat, c.body), status, c.code)
		})
	}
}

func TestSendRate(t *testing.T) {
	p, clock := startAt(t, Config{})
	tat := tenant(t, p)
	for range 5 {
		want(t, post(t, p, tat, Alice, authCard, ""), 200, 0)
	}
	want(t, post(t, p, tat, Alice, authCard, ""), 400, 230020)
	want(t, post(t, p, tat, Bob, authCard, ""), 200, 0)
	clock.forward(time.Second)
	want(t, post(t, p, tat, Alice, authCard, ""), 200, 0)
}

func TestReply(t *testing.T) {
	p, _ := startAt(t, Config{})
	tat := tenant(t, p)
	parent := messageID(t, post(t, p, tat, Alice, authCard, ""))
	body := `{"msg_type":"text","content":"{\"text\":\"re\"}","uuid":"r1"}`
	first := messageID(t, call(t, p, "POST", "/open-apis/im/v1/messages/"+parent+"/reply", tat, body))
	if again := messageID(t, call(t, p, "POST", "/open-apis/im/v1/messages/"+parent+"/reply", tat, body)); again != first {
		t.Error("the reply was sent twice")
	}
	if m := p.Messages(Alice); len(m) != 2 || m[1].ParentID != parent {
		t.Errorf("messages: %+v", m)
	}
	want(t, call(t, p, "POST", "/open-apis/im/v1/messages/om_x/reply", tat, body), 400, 99992354)
}

// Card JSON 2.0 refuses what it doesn't know; 1.0 passes.
func TestCardCheck(t *testing.T) {
	elements := func(e string) string { return `{"schema":"2.0","body":{"elements":[` + e + `]}}` }
	cases := []struct {
		name, card string
		sub        int
	}{
		{"auth card", authCard, 0},
		{"1.0", `{"config":{"wide_screen_mode":true},"elements":[{"tag":"action","actions":[]}]}`, 0},
		{"not JSON", `{`, 200621},
		{"no body", `{"schema":"2.0"}`, 200621},
		{"1.0 elements at the root", `{"schema":"2.0","body":{"elements":[]},"elements":[]}`, 200861},
		{"1.0 config", `{"schema":"2.0","config":{"wide_screen_mode":true},"body":{"elements":[]}}`, 200861},
		{"1.0 i18n_elements", `{"schema":"2.0","i18n_elements":{},"body":{"elements":[]}}`, 200861},
		{"update_multi false", `{"schema":"2.0","config":{"update_multi":false},"body":{"elements":[]}}`, 300302},
		{"action module", elements(`{"tag":"action","actions":[]}`), 200861},
		{"note", elements(`{"tag":"note","elements":[]}`), 200861},
		{"unknown tag", elements(`{"tag":"marquee"}`), 200621},
		{"button with url", elements(`{"tag":"button","url":"https://x","text":{"tag":"plain_text","content":"x"}}`), 200861},
		{"button with value", elements(`{"tag":"button","value":{},"text":{"tag":"plain_text","content":"x"}}`), 200861},
		{"button with a bare text", elements(`{"tag":"button","text":"x"}`), 200621},
		{"unknown behavior", elements(`{"tag":"button","behaviors":[{"type":"jump"}]}`), 200621},
		{"unknown behavior attribute", elements(`{"tag":"button","behaviors":[{"type":"open_url","url":"https://x"}]}`), 200861},
		{"nested", elements(`{"tag":"column_set","columns":[{"tag":"column","elements":[{"tag":"note"}]}]}`), 200861},
		{"unknown template", `{"schema":"2.0","header":{"title":{"tag":"plain_text","content":"x"},"template":"pink"},"body":{"elements":[]}}`, 200621},
		{"201 elements", elements(strings.TrimSuffix(strings.Repeat(`{"tag":"hr"},`, 201), ",")), 11310},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, problem := checkCard(c.card)
			switch {
			case problem == nil && c.sub != 0:
				t.Errorf("accepted, want %d", c.sub)
			case problem != nil && problem.code != c.sub:
				t.Errorf("got %d %s, want %d", problem.code, problem.detail, c.sub)
			}
		})
	}
}

// An update needs update_multi before and after.
func TestUpdateMulti(t *testing.T) {
	p, _ := startAt(t, Config{})
	tat := tenant(t, p)
	single := messageID(t, post(t, p, tat, Alice, `{"elements":[]}`, ""))
	want(t, patchCard(t, p, tat, single, `{"config":{"update_multi":true},"elements":[]}`), 400, 230099)
	multi := messageID(t, post(t, p, tat, Alice, `{"config":{"update_multi":true},"elements":[]}`, ""))
	want(t, patchCard(t, p, tat, multi, `{"elements":[]}`), 400, 230099)
	want(t, patchCard(t, p, tat, multi, doneCard), 200, 0)
}

func TestChatPage(t *testing.T) {
	p, _ := startAt(t, Config{})
	b := browser(t)
	messageID(t, post(t, p, tenant(t, p), Alice, authCard, ""))
	cases := []struct {
		query string
		texts []string
	}{
		{"", []string{"EMULATOR", "Chats", "Alice Zhang"}},
		{"?user=ou_nobody", []string{"There is nobody called"}},
		{"?user=" + Bob, []string{"No messages yet"}},
		{"?user=" + Alice, []string{"EMULATOR", "<h2>Authorize</h2>", "t-blue", "<b>Demo</b>", `href="https://example.com/privacy"`, `href="https://example.com/go?a=1&amp;b=2"`, "Decline", `action="/chat/click"`}},
		{"?user=" + Alice + "&lang=zh_cn&theme=dark", []string{"<h2>请授权</h2>", "<b>演示</b>", "授权</a>", `lang="zh-CN"`, `data-theme="dark"`}},
		{"?user=" + Alice + "&lang=ja_jp", []string{"<h2>認証してください</h2>", `lang="ja"`}},
	}
	for _, c := range cases {
		status, _, page := visit(t, b, p.URL+"/chat"+c.query)
		for _, text := range c.texts {
			if status != 200 || !strings.Contains(page, text) {
				t.Errorf("%s: HTTP %d lacks %q", c.query, status, text)
			}
		}
	}
}

// The chat is the client: what an AppLink opens there, it opens.
func TestChatOpensAppLinks(t *testing.T) {
	p, _ := startAt(t, Config{})
	applink := "https://applink.feishu.cn/client/web_url/open?mode=sidebar-semi&url=https%3A%2F%2Fexample.com%2Fgo%3Fa%3D1%26b%3D2"
	messageID(t, post(t, p, tenant(t, p), Alice, strings.ReplaceAll(authCard, "https://example.com/go?a=1&b=2", applink), ""))
	_, _, page := visit(t, browser(t), p.URL+"/chat?user="+Alice)
	if !strings.Contains(page, `href="https://example.com/go?a=1&amp;b=2"`) || strings.Contains(page, "applink") {
		t.Errorf("page: %s", page)
	}
}

// The page's long poll answers when a card comes or changes.
func TestChatChanges(t *testing.T) {
	p, _ := startAt(t, Config{})
	tat := tenant(t, p)
	id := messageID(t, post(t, p, tat, Alice, authCard, ""))
	for _, change := range []func(){
		func() { messageID(t, post(t, p, tat, Alice, authCard, "")) },
		func() { want(t, patchCard(t, p, tat, id, doneCard), 200, 0) },
	} {
		state := p.chatState(Alice)
		answered := make(chan int)
		go func() {
			status, _, _ := visit(t, http.DefaultClient, p.URL+"/chat/changes?user="+Alice+"&since="+state)
			answered <- status
		}()
		messageID(t, post(t, p, tat, Bob, authCard, "")) // none of Alice's business
		change()
		if status := <-answered; status != 200 {
			t.Errorf("long poll: %d", status)
		}
	}
}

// A card can't break out of the page that shows it.
func TestChatEscapes(t *testing.T) {
	p, _ := startAt(t, Config{})
	hostile, _ := json.Marshal(map[string]any{"schema": "2.0", "header": map[string]any{"title": map[string]string{"tag": "plain_text", "content": "<script>alert(1)</script>"}},
		"body": map[string]any{"elements": []any{
			map[string]string{"tag": "markdown", "content": "<img src=x onerror=alert(1)> [x](javascript:alert(1)) <font color=red>ok</font>"},
			map[string]any{"tag": "button", "type": `" onclick="alert(1)`, "text": map[string]string{"tag": "plain_text", "content": "b"}, "behaviors": []any{map[string]string{"type": "open_url", "default_url": "javascript:alert(1)"}}},
		}}})
	messageID(t, post(t, p, tenant(t, p), Alice, string(hostile), ""))
	r := newRequest(t, "GET", p.URL+"/chat?user="+Alice, "")
	got := send(t, r)
	page := string(got.Raw)
	for _, bad := range []string{"<script>alert", "<img src", `href="javascript`, `" onclick="`} {
		if strings.Contains(page, bad) {
			t.Errorf("page holds %q", bad)
		}
	}
	if !strings.Contains(page, `<span class="c-red">ok</span>`) {
		t.Error("font is not shown")
	}
	if policy := got.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
}

func TestCrossSitePost(t *testing.T) {
	p, _ := startAt(t, Config{})
	r := newRequest(t, "POST", p.URL+"/device", "decision=approve")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if got := send(t, r); got.Status != http.StatusForbidden {
		t.Errorf("cross-site POST: %d", got.Status)
	}
}
