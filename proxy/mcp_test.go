package proxy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"larkside/proxy"
	"larkside/session"
)

// startMCP runs a proxy whose MCP server is at another host name than its Open
// Platform; both are b.lark.
func startMCP(t *testing.T, change func(*proxy.Config)) *bed {
	return start(t, func(c *proxy.Config) {
		mcp := *c.Upstream
		mcp.Host, mcp.Path = "localhost:"+mcp.Port(), "/remote/mcp"
		c.MCP = &mcp
		if change != nil {
			change(c)
		}
	})
}

const (
	toolCall = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"fetch-doc"}}`
	toolList = `{"jsonrpc":"2.0","id":"a","method":"tools/list"}`
	accept   = "Accept: application/json, text/event-stream"
)

func (b *bed) mcp(openID, body string, header ...string) reply {
	b.t.Helper()
	lines := append([]string{"POST /mcp HTTP/1.1", accept, "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body))}, header...)
	if openID != "" {
		lines = append(lines, "X-Lark-User-Id: "+openID)
	}
	return b.raw(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

// The user's token goes to the MCP server in its own header and nowhere else, and
// none of that family comes from the app but the list of tools.
func TestMCP(t *testing.T) {
	b := startMCP(t, nil)
	got := b.mcp("ou_1", toolCall, "Authorization: Bearer u-foreign", "X-Lark-MCP-UAT: u-foreign", "X-Lark-MCP-TAT: t-foreign",
		"X_Lark_MCP_UAT: u-foreign", "X-Lark-MCP-Other: 1", "X-Lark-MCP-Allowed-Tools: fetch-doc,get-user", "Mcp-Session-Id: s1",
		"MCP-Protocol-Version: 2025-06-18", "Last-Event-ID: 4", "Cookie: a=b", "Accept-Encoding: gzip")
	if got.StatusCode != 200 {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	seen := b.lark.one(t)
	if seen.uri != "/remote/mcp" || !strings.HasPrefix(seen.host, "localhost:") || seen.body != toolCall || seen.auth() != nil {
		t.Errorf("%+v", seen)
	}
	want := map[string]string{
		"X-Lark-Mcp-Uat": token("ou_1", 1), "X-Lark-Mcp-Allowed-Tools": "fetch-doc,get-user", "Mcp-Session-Id": "s1",
		"Mcp-Protocol-Version": "2025-06-18", "Last-Event-Id": "4", "Accept-Encoding": "identity",
	}
	for name, value := range want {
		if got := seen.header[name]; len(got) != 1 || got[0] != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	for name := range seen.header {
		if l := strings.ToLower(strings.ReplaceAll(name, "_", "-")); (strings.HasPrefix(l, "x-lark") || l == "cookie") && want[name] == "" {
			t.Errorf("%s went to the MCP server", name)
		}
	}
	b.lark.reset()
	if got := b.get("/%6Dcp?x=1", "X-Lark-MCP-UAT: u-foreign"); got.StatusCode != 200 || b.lark.one(t).uri != "/remote/mcp?x=1" {
		t.Errorf("an escaped path, and a query: %d, %+v", got.StatusCode, b.lark.requests())
	}
	b.lark.reset()
	if got := b.get(table, "X-Lark-MCP-UAT: u-foreign"); got.StatusCode != 200 || b.lark.one(t).header["X-Lark-Mcp-Uat"] != nil {
		t.Errorf("the Open Platform got %+v", b.lark.requests())
	}
}

// Who is nobody, or elsewhere, gets no token.
func TestMCPRefuses(t *testing.T) {
	b := startMCP(t, nil)
	b.mcp("", toolCall).isError(t, 400, "user_id_required")
	b.mcp("ou_1", toolCall, "Origin: https://evil.example").isError(t, 403, "host_not_allowed")
	b.mcp("ou_1", toolCall, "Host: evil.example").isError(t, 403, "host_not_allowed")
	for path, name := range map[string]string{"/mcp/": "path_not_allowed", "/mcp/x": "path_not_allowed", "/MCP": "path_not_allowed", "//mcp": "ambiguous_path", "/mcp/..": "ambiguous_path", "/x/../mcp": "ambiguous_path"} {
		if got := b.get(path); got.Header.Get("X-Larkside-Error") != name {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.body)
		}
	}
	b.get("/-/larkside/authz/mcp").isError(t, 403, "path_not_allowed")
	b.lark.none(t)

	b = start(t, nil)
	b.mcp("ou_1", toolCall).isError(t, 403, "path_not_allowed")
	b.mcp("", toolCall).isError(t, 400, "user_id_required")
	b.lark.none(t)
}

// The default user's requests are those of an agent at their own machine.
func TestMCPDefaultUser(t *testing.T) {
	b := startMCP(t, defaulting)
	if got := b.mcp("", toolCall); got.StatusCode != 200 || b.lark.one(t).header.Get("X-Lark-Mcp-Uat") != token("ou_1", 1) {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	b.lark.reset()
	b.mcp("", toolCall, "Sec-Fetch-Site: cross-site").isError(t, 403, "host_not_allowed")
	b.raw("GET /mcp HTTP/1.1", "Accept: text/event-stream", "Sec-Fetch-Site: same-origin").isError(t, 403, "host_not_allowed")
	b.lark.none(t)
}

// A refused token is renewed once and the call sent again, however the MCP server
// refuses it.
func TestMCPTokenRefused(t *testing.T) {
	const good = `{"jsonrpc":"2.0","id":7,"result":{"content":[]}}`
	for _, tc := range []struct {
		sentence, kind string
		status         int
		body           string
	}{
		{"the envelope", "application/json", 401, `{"code":99991677,"msg":"expired"}`},
		{"the envelope with 400", "application/json", 400, `{"code":99991668,"msg":"invalid"}`},
		{"a status alone", "text/plain", 401, "Unauthorized"},
		{"a status without a body", "", 401, ""},
		{"a code in an error", "application/json", 200, `{"jsonrpc":"2.0","id":7,"error":{"code":99991677,"message":"expired"}}`},
		{"an envelope in an error", "application/json; charset=utf-8", 200, `{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"x","data":{"code":99991668,"msg":"invalid"}}}`},
		{"a code in an error with 401", "application/json", 401, `{"jsonrpc":"2.0","id":7,"error":{"code":99991677,"message":"expired"}}`},
		{"the first event of a stream", "text/event-stream", 200, "event: message\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\r\ndata: \"error\":{\"code\":99991677,\"message\":\"expired\"}}\r\n\r\n"},
		{"a stream that ends with its only event", "text/event-stream", 200, `data:{"jsonrpc":"2.0","id":7,"error":{"code":99991677}}`},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			b := startMCP(t, nil)
			b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
				b.lark.record(r)
				if r.Header.Get("X-Lark-Mcp-Uat") == token("ou_1", 1) {
					w.Header().Set("Content-Type", tc.kind)
					w.WriteHeader(tc.status)
					io.WriteString(w, tc.body)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				io.WriteString(w, good)
			})
			got := b.mcp("ou_1", toolCall)
			if got.StatusCode != 200 || got.body != good || b.tokens.refreshed() != 1 {
				t.Errorf("%d %s after %d refreshes", got.StatusCode, got.body, b.tokens.refreshed())
			}
			if all := b.lark.requests(); len(all) != 2 || all[1].body != toolCall || all[1].header.Get("X-Lark-Mcp-Uat") != token("ou_1", 2) {
				t.Errorf("%+v", all)
			}
		})
	}
}

// What is no refusal passes as it came: results that speak of codes, large and slow
// ones, and a 401 that another token does not mend.
func TestMCPPasses(t *testing.T) {
	for _, tc := range []struct {
		sentence, kind string
		status         int
		body           string
		refreshes      int
	}{
		{"a text with a code in it", "application/json", 200, `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"{\"code\":99991677}"}]}}`, 0},
		{"another error", "application/json", 200, `{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"code 99991677"}}`, 0},
		{"a large result", "application/json", 200, `{"jsonrpc":"2.0","id":7,"result":"` + strings.Repeat("x", 100_000) + `"}`, 0},
		{"a large first event", "text/event-stream", 200, "data: " + strings.Repeat("x", 100_000) + "\n\ndata: {}\n\n", 0},
		{"a refusal that comes second", "text/event-stream", 200, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\ndata: {\"error\":{\"code\":99991677}}\n\n", 0},
		{"no JSON", "application/json", 200, `}{`, 0},
		{"an empty answer", "application/json", 202, "", 0},
		{"a lost session", "text/plain", 404, "session not found", 0},
		{"a status that stays", "text/plain", 401, "this app may not use MCP", 1},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			b := startMCP(t, nil)
			b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tc.kind)
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.body)
			})
			got := b.mcp("ou_1", toolCall)
			if got.StatusCode != tc.status || got.body != tc.body || b.tokens.refreshed() != tc.refreshes || len(b.asker.all()) != 0 {
				t.Errorf("%d %.200s after %d refreshes, asked %v", got.StatusCode, got.body, b.tokens.refreshed(), b.asker.all())
			}
		})
	}
}

// A fresh token that is refused by a status alone has another reason, so nobody is
// asked.
func TestMCPStatusWithFreshToken(t *testing.T) {
	b := startMCP(t, nil)
	b.tokens.set("ou_1", func(g *grant) { g.refresh = &session.ConsentRequiredError{Reason: session.TokenRefused} })
	b.lark.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
	if got := b.mcp("ou_1", toolList); got.StatusCode != 401 || got.Header.Get("X-Larkside-Error") != "" || len(b.asker.all()) != 0 {
		t.Errorf("%d %s, asked %v", got.StatusCode, got.body, b.asker.all())
	}
}

// A stream begins for its caller although nothing has happened in it yet, and each
// event passes when it comes.
func TestMCPStreams(t *testing.T) {
	for _, method := range []string{"POST", "GET"} {
		t.Run(method, func(t *testing.T) {
			b := startMCP(t, nil)
			next := make(chan string)
			b.lark.answer(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
				for event := range next {
					io.WriteString(w, event)
					w.(http.Flusher).Flush()
				}
			})
			conn := b.dial()
			fmt.Fprintf(conn, "%s /mcp HTTP/1.1\r\nHost: %s\r\n%s\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 0\r\n\r\n", method, b.addr, accept)
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("no header before the first event: %v", err)
			}
			in := bufio.NewReader(res.Body)
			for _, event := range []string{"data: a", "data: b\n", "\ndata: c\n\n"} {
				next <- event
				got := make([]byte, len(event))
				if _, err := io.ReadFull(in, got); err != nil || string(got) != event {
					t.Fatalf("got %q, %v, want %q", got, err, event)
				}
			}
			close(next)
			if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

// rpcAnswer is what an agent reads of a message.
type rpcAnswer struct {
	JSONRPC string
	ID      any
	Result  *struct {
		Content []struct{ Type, Text string }
		IsError bool
	}
	Error *struct {
		Code    int
		Message string
		Data    map[string]any
	}
}

// Without a session an agent can tell its user what to do: by the result of a tool,
// by an error of anything else.
func TestMCPWithoutSession(t *testing.T) {
	b := startMCP(t, nil)
	const link = "https://accounts.feishu.cn/device?code=ou_2&x=1"
	for _, tc := range []struct {
		sentence, body string
		status         int
		id             any
	}{
		{"a tool", toolCall, 200, 7.0},
		{"a tool with an id of text", strings.Replace(toolCall, "7", `"x<&"`, 1), 200, "x<&"},
		{"a list", toolList, 401, "a"},
		{"the first message", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`, 401, 0.0},
		{"a notification", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, 401, nil},
		{"a tool without an id", `{"jsonrpc":"2.0","method":"tools/call"}`, 401, nil},
		{"several messages", "[" + toolCall + "]", 401, nil},
		{"a large message", `{"id":1,"method":"tools/call","params":"` + strings.Repeat("x", 70_000) + `"}`, 401, nil},
		{"no JSON", "x", 401, nil},
		{"nothing", "", 401, nil},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			got := b.mcp("ou_2", tc.body)
			var said rpcAnswer
			if err := json.Unmarshal([]byte(got.body), &said); err != nil || said.JSONRPC != "2.0" || said.ID != tc.id || got.StatusCode != tc.status {
				t.Fatalf("%d %s", got.StatusCode, got.body)
			}
			h := got.Header
			if h.Get("X-Larkside-Authorize-Url") != link || h.Get("X-Larkside-Error") != "authorization_required" || h.Get("Cache-Control") != "no-store" ||
				!strings.HasPrefix(h.Get("Content-Type"), "application/json") || h.Get("Retry-After") == "" || (h.Get("WWW-Authenticate") != "") != (tc.status == 401) {
				t.Errorf("header %v", h)
			}
			if tc.status == 200 {
				if said.Error != nil || !said.Result.IsError || len(said.Result.Content) != 1 || said.Result.Content[0].Type != "text" || !strings.Contains(said.Result.Content[0].Text, link) {
					t.Errorf("%s", got.body)
				}
				return
			}
			if said.Result != nil || said.Error.Code != -32001 || !strings.Contains(said.Error.Message, link) || said.Error.Data["type"] != "authorization_required" ||
				said.Error.Data["reason"] != "no_session" || said.Error.Data["authorize_url"] != link || said.Error.Data["request_id"] != h.Get("X-Larkside-Request-Id") {
				t.Errorf("%s", got.body)
			}
		})
	}
	b.lark.none(t)
	if !slices.ContainsFunc(b.asker.all(), func(a ask) bool { return a.key == key("ou_2") && a.Reason == session.NoSession }) {
		t.Errorf("asked %v", b.asker.all())
	}
	if got := b.raw("GET /mcp HTTP/1.1", "X-Lark-User-Id: ou_2"); got.StatusCode != 401 || !strings.Contains(got.body, "-32001") {
		t.Errorf("GET: %d %s", got.StatusCode, got.body)
	}
	if got := b.mcp("", toolCall, "X-Lark-User-Id: on_nobody"); got.StatusCode != 200 || !strings.Contains(got.body, "open_id") || !strings.Contains(got.body, `"isError":true`) {
		t.Errorf("an unknown name: %d %s", got.StatusCode, got.body)
	}
	if got := startMCP(t, func(c *proxy.Config) { c.ReplayBuffer = 0 }).mcp("ou_2", toolCall); got.StatusCode != 200 {
		t.Errorf("without a replay buffer: %d %s", got.StatusCode, got.body)
	}
}

// A refresh that fails for good, found out by Lark's answer, is told in the same way.
func TestMCPSessionEnds(t *testing.T) {
	b := startMCP(t, nil)
	b.tokens.set("ou_1", func(g *grant) { g.refresh = &session.ConsentRequiredError{Reason: session.RefreshTokenExpired} })
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"jsonrpc":"2.0","id":7,"error":{"code":99991677,"message":"expired"}}`)
	})
	got := b.mcp("ou_1", toolCall)
	var said rpcAnswer
	if json.Unmarshal([]byte(got.body), &said); got.StatusCode != 200 || said.ID != 7.0 || said.Result == nil || !said.Result.IsError {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

// The agent is held until its user has authorized, as any caller.
func TestMCPWaits(t *testing.T) {
	b := startMCP(t, nil)
	b.asker.began = make(chan struct{}, 1)
	done := make(chan reply)
	go func() { done <- b.mcp("ou_2", toolCall, "Prefer: wait=20") }()
	<-b.asker.began
	b.tokens.grant("ou_2")
	if got := <-done; got.StatusCode != 200 || got.Header.Get("Preference-Applied") != "wait" || b.lark.one(t).body != toolCall {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

// A scope that is missing is asked for, and the answer passed on.
func TestMCPScopeMissing(t *testing.T) {
	b := startMCP(t, nil)
	body := `{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"no","data":{"code":99991679,"msg":"no","error":{"permission_violations":[{"subject":"docx:document:readonly"}]}}}}`
	b.lark.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, body)
	})
	got := b.mcp("ou_1", toolCall)
	if got.body != body || got.Header.Get("X-Larkside-Authorize-Url") == "" {
		t.Errorf("%d %s %v", got.StatusCode, got.body, got.Header)
	}
	if asked := b.asker.all(); len(asked) != 1 || !slices.Equal(asked[0].AnyOf, []string{"docx:document:readonly"}) {
		t.Errorf("asked %v", asked)
	}
}
