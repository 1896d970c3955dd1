package larktest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// mcp posts a message with a token.
func mcp(t *testing.T, p *Platform, token, body string, header ...string) (res *http.Response, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", p.URL+"/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("X-Lark-MCP-UAT", token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if res, err = http.DefaultClient.Do(r); err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(all)
}

// The MCP server takes the user's token in its own header, lists the tools that are
// allowed, and answers a call at once or by a stream.
func TestMCP(t *testing.T) {
	p := Start(t, nil)
	granted, err := p.Grant(AppID, Alice)
	if err != nil {
		t.Fatal(err)
	}
	token := granted.AccessToken
	_, text := mcp(t, p, token, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26"}}`)
	if !strings.Contains(text, `"2025-03-26"`) || !strings.Contains(text, `"tools"`) {
		t.Errorf("initialize: %s", text)
	}
	if res, text := mcp(t, p, token, `{"jsonrpc":"2.0","method":"notifications/initialized"}`); res.StatusCode != 202 || text != "" {
		t.Errorf("a notification: %d %s", res.StatusCode, text)
	}
	if _, text := mcp(t, p, token, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`, "X-Lark-MCP-Allowed-Tools", "get-user, nothing"); strings.Count(text, "inputSchema") != 1 || !strings.Contains(text, "get-user") {
		t.Errorf("tools/list: %s", text)
	}
	if _, text := mcp(t, p, token, `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"get-user"}}`); !strings.Contains(text, Alice) {
		t.Errorf("tools/call: %s", text)
	}
	res, text := mcp(t, p, token, `{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"fetch-doc","_meta":{"progressToken":"p"}}}`)
	if res.Header.Get("Content-Type") != "text/event-stream" || strings.Count(text, "data: ") != 3 || !strings.Contains(text, Alice) {
		t.Errorf("a stream: %s", text)
	}
	for body, want := range map[string]string{
		`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"nothing"}}`: "-32602",
		`{"jsonrpc":"2.0","id":6,"method":"nothing"}`:                                "-32601",
		`{`: "-32700",
	} {
		if _, text := mcp(t, p, token, body); !strings.Contains(text, want) {
			t.Errorf("%s: %s", body, text)
		}
	}
	if res, _ := mcp(t, p, token, `{}`, "Accept", "application/json"); res.StatusCode != 406 {
		t.Errorf("a client that takes no streams: %d", res.StatusCode)
	}
	for _, c := range p.Calls(To(MCPEndpoint)) {
		if c.Owner != Alice || strings.Contains(c.Header.Get("X-Lark-Mcp-Uat"), token) {
			t.Errorf("%+v", c)
		}
	}
	NoViolations(t, p)
	mcp(t, p, token, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, "Authorization", "Bearer "+token)
	if len(p.Violations(LeakedHeader)) != 1 {
		t.Error("a token in the header of the Open Platform is not noticed")
	}
}

// Each way to refuse a token is there.
func TestMCPRefusals(t *testing.T) {
	p := Start(t, nil)
	for way, want := range map[MCPRefusal]struct {
		status int
		body   string
	}{
		RefusesByStatus: {400, `"code":99991668`},
		RefusesBare:     {401, "Unauthorized"},
		RefusesByCode:   {200, `"error":{"code":99991668`},
		RefusesByData:   {200, `"code":-32000,"data":{`},
		RefusesInStream: {200, "data: {"},
	} {
		p.Switch(func(s *Switches) { s.MCPRefusal = way })
		res, text := mcp(t, p, "u-unknown", `{"jsonrpc":"2.0","id":9,"method":"tools/list"}`)
		if res.StatusCode != want.status || !strings.Contains(text, want.body) {
			t.Errorf("%q: %d %s", way, res.StatusCode, text)
		}
		if strings.HasPrefix(text, "{") && way != RefusesByStatus && !json.Valid([]byte(text)) {
			t.Errorf("%q: no JSON: %s", way, text)
		}
	}
}
