package larktest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// mcpPath is Lark's remote MCP server, which has a host of its own at Lark. It takes
// the user's token in a header of its own and speaks JSON-RPC 2.0 over streamable
// HTTP. [S] lark-cli's interceptor, openclaw-lark's tools; [P] several projects.
const mcpPath = "/mcp"

const (
	mcpTokenHeader = "X-Lark-Mcp-Uat"
	mcpToolsHeader = "X-Lark-Mcp-Allowed-Tools"
	// MCPGate is the name for [Platform.Emit] of the streams that clients open with
	// GET /mcp. Each event says that the list of tools has changed.
	MCPGate = "mcp"
)

var mcpRoutes = []route{
	{method: "POST", pattern: mcpPath, endpoint: MCPEndpoint, takes: TakesUser, stream: serveMCP},
	{method: "GET", pattern: mcpPath, endpoint: MCPEndpoint, takes: TakesUser, stream: serveMCPStream},
	{method: "DELETE", pattern: mcpPath, endpoint: MCPEndpoint, takes: TakesUser, stream: func(_ *Platform, x *exchange) { x.w.WriteHeader(http.StatusNoContent) }},
}

// MCPRefusal is how the MCP server refuses a token. What Lark's does: UNCONFIRMED.
type MCPRefusal string

const (
	// RefusesByStatus: HTTP 400 or 401 with the envelope of the Open Platform.
	RefusesByStatus MCPRefusal = ""
	// RefusesBare: HTTP 401 with a text that has no code.
	RefusesBare MCPRefusal = "bare"
	// RefusesByCode: HTTP 200 with a JSON-RPC error whose code is Lark's.
	RefusesByCode MCPRefusal = "code"
	// RefusesByData: HTTP 200 with a JSON-RPC error whose data is the envelope.
	RefusesByData MCPRefusal = "data"
	// RefusesInStream: as RefusesByCode, as the first event of a stream.
	RefusesInStream MCPRefusal = "stream"
)

// mcpTool is a tool as tools/list shows it.
type mcpTool struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	InputSchema map[string]any `json:"inputSchema"`
}

func textInput(name string) map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{name: map[string]any{"type": "string"}}}
}

// mcpTools are a few of Lark's. get-user is answered with JSON, fetch-doc streams.
var mcpTools = []mcpTool{
	{"fetch-doc", "Read a document.", textInput("docID")},
	{"get-user", "Read a user's profile.", textInput("userID")},
	{"search-doc", "Search documents.", textInput("query")},
}

// rpc is a JSON-RPC request, or a notification if it has no id.
type rpc struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name            string          `json:"name"`
		ProtocolVersion string          `json:"protocolVersion"`
		Arguments       map[string]any  `json:"arguments"`
		Meta            json.RawMessage `json:"_meta"`
	} `json:"params"`
}

// credential is the token that came, in the header that the route takes it in.
func (x *exchange) credential() (string, bool) {
	if x.route.endpoint != MCPEndpoint {
		return bearer(x.r)
	}
	values := x.r.Header[mcpTokenHeader]
	return strings.Join(values, ""), len(values) == 1 && values[0] != ""
}

// mcpRefused is how the MCP server says that the gate refused a.
func (p *Platform) mcpRefused(x *exchange, a answer) answer {
	var call rpc
	json.Unmarshal(x.body, &call)
	id := call.ID
	if id == nil {
		id = json.RawMessage("null")
	}
	problem := map[string]any{"code": a.code(), "message": a.body.get("msg")}
	body := func() []byte {
		text, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "error": problem})
		return text
	}
	refused := answer{status: http.StatusOK, body: a.body, contentType: "application/json"}
	switch p.Switches().MCPRefusal {
	case RefusesBare:
		return answer{status: http.StatusUnauthorized, body: a.body, raw: []byte("Unauthorized\n"), contentType: "text/plain"}
	case RefusesByCode:
		refused.raw = body()
	case RefusesByData:
		problem["code"], problem["data"] = -32000, a.body
		refused.raw = body()
	case RefusesInStream:
		refused.raw, refused.contentType = []byte("event: message\ndata: "+string(body())+"\n\n"), "text/event-stream"
	default:
		return a
	}
	return refused
}

// serveMCP answers one message. The body was read before the gate.
func serveMCP(p *Platform, x *exchange) {
	if accept := strings.Join(x.r.Header["Accept"], ","); !strings.Contains(accept, "application/json") || !strings.Contains(accept, "text/event-stream") {
		p.write(x, answer{status: http.StatusNotAcceptable, raw: []byte("Accept must have application/json and text/event-stream\n"), contentType: "text/plain"})
		return
	}
	var call rpc
	if err := x.decode(&call); err != nil {
		p.write(x, answer{status: http.StatusBadRequest, body: object{{"jsonrpc", "2.0"}, {"id", nil}, {"error", map[string]any{"code": -32700, "message": "parse error"}}}})
		return
	}
	if call.ID == nil {
		p.write(x, answer{status: http.StatusAccepted, empty: true})
		return
	}
	result := func(v any) {
		p.write(x, answer{status: http.StatusOK, body: object{{"jsonrpc", "2.0"}, {"id", call.ID}, {"result", v}}, contentType: "application/json"})
	}
	switch call.Method {
	case "initialize":
		x.w.Header().Set("Mcp-Session-Id", "session-of-"+x.call.Owner)
		result(map[string]any{
			"protocolVersion": cmp.Or(call.Params.ProtocolVersion, "2025-06-18"),
			"capabilities":    map[string]any{"tools": map[string]any{"listChanged": true}},
			"serverInfo":      map[string]any{"name": "larktest", "version": "1"},
		})
	case "ping":
		result(map[string]any{})
	case "tools/list":
		result(map[string]any{"tools": allowedTools(x.r)})
	case "tools/call":
		p.callTool(x, &call, result)
	default:
		p.write(x, answer{status: http.StatusOK, body: object{{"jsonrpc", "2.0"}, {"id", call.ID}, {"error", map[string]any{"code": -32601, "message": "method not found"}}}})
	}
}

// allowedTools are those that the header names; without one, all of them.
func allowedTools(r *http.Request) []mcpTool {
	header := strings.Join(r.Header[mcpToolsHeader], ",")
	if header == "" {
		return mcpTools
	}
	allowed := strings.FieldsFunc(header, func(c rune) bool { return c == ',' || c == ' ' })
	return slices.DeleteFunc(slices.Clone(mcpTools), func(t mcpTool) bool { return !slices.Contains(allowed, t.Name) })
}

// callTool runs a tool. Each says whose token came.
func (p *Platform) callTool(x *exchange, call *rpc, result func(any)) {
	name := call.Params.Name
	if !slices.ContainsFunc(allowedTools(x.r), func(t mcpTool) bool { return t.Name == name }) {
		p.write(x, answer{status: http.StatusOK, body: object{{"jsonrpc", "2.0"}, {"id", call.ID}, {"error", map[string]any{"code": -32602, "message": "unknown tool"}}}})
		return
	}
	text, _ := json.Marshal(map[string]any{"tool": name, "open_id": x.call.Owner, "arguments": call.Params.Arguments})
	said := map[string]any{"content": []any{map[string]any{"type": "text", "text": string(text)}}}
	if name != "fetch-doc" {
		result(said)
		return
	}
	p.book(x)
	control := http.NewResponseController(x.w)
	x.w.Header().Set("Content-Type", "text/event-stream")
	x.w.WriteHeader(http.StatusOK)
	control.Flush()
	send := func(v any) {
		event, _ := json.Marshal(v)
		fmt.Fprintf(x.w, "event: message\ndata: %s\n\n", event)
		control.Flush()
	}
	var meta struct {
		ProgressToken json.RawMessage `json:"progressToken"`
	}
	if json.Unmarshal(call.Params.Meta, &meta); meta.ProgressToken != nil {
		for n := 1; n <= 2; n++ {
			send(map[string]any{"jsonrpc": "2.0", "method": "notifications/progress",
				"params": map[string]any{"progressToken": meta.ProgressToken, "progress": n, "total": 2}})
		}
	}
	if gate, _ := call.Params.Arguments["gate"].(string); gate != "" && !p.mayEmit(x, gate, 0) {
		return
	}
	send(map[string]any{"jsonrpc": "2.0", "id": call.ID, "result": said})
}

// serveMCPStream is what the server says by itself.
func serveMCPStream(p *Platform, x *exchange) {
	p.book(x)
	control := http.NewResponseController(x.w)
	x.w.Header().Set("Content-Type", "text/event-stream")
	x.w.WriteHeader(http.StatusOK)
	control.Flush()
	for p.mayEmit(x, MCPGate, 0) {
		fmt.Fprint(x.w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n")
		control.Flush()
	}
}
