package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

// Lark's remote MCP server has a host of its own, takes the user's token in a header
// of its own, and speaks JSON-RPC 2.0 over MCP's streamable HTTP transport. A request
// for /mcp goes there, for a user by the rules of every other request. What differs
// is here: where the token goes, how Lark refuses it, and how an agent is told that
// its user has to authorize the app.

// mcpPath is the one path that goes to the MCP server.
const mcpPath = "/mcp"

const (
	// mcpTokenHeader has the user's token, without a scheme.
	mcpTokenHeader = "X-Lark-Mcp-Uat"
	// mcpToolsHeader is the only header of that family that comes from the app. It
	// narrows the tools.
	mcpToolsHeader = "X-Lark-Mcp-Allowed-Tools"
)

// newMCPOrigin returns where /mcp goes. The path of the URL stands for /mcp.
func newMCPOrigin(server *url.URL, transport http.RoundTripper) origin {
	if server == nil {
		return origin{}
	}
	o := newOrigin(server, transport)
	if strings.Trim(server.EscapedPath(), "/") == "" {
		o.prefix += "/"
	}
	return o
}

// destination returns where a request goes, and the path and query that follow the
// prefix of that origin.
func (p *proxy) destination(t *target) (to *origin, rest string) {
	if t.class.mcp {
		return &p.mcp, t.raw[len(pathOf(t.raw)):]
	}
	return &p.origin, t.raw
}

// firstEventWait is how long the header of a stream is held until its first event
// shows whether Lark refuses the token. A refusal comes at once; a tool may take
// minutes, and its caller must see that the stream has begun.
const firstEventWait = time.Second

// inspectMCP is [larkAnswer.inspect] for the MCP server. Nothing says how that
// refuses a token, so each way counts that a server has: the status 401, Lark's
// envelope, and a JSON-RPC error that holds Lark's code or envelope, by itself or as
// the first event of a stream.
func inspectMCP(ctx context.Context, res *http.Response, refusal func(code int, msg string) session.Refusal) larkError {
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	stream := kind == "text/event-stream"
	limit := peekLimit(res)
	if stream && res.Request.Method == http.MethodPost && res.StatusCode/100 == 2 {
		limit = peekSuccess + 1
	}
	var said larkError
	if limit > 0 {
		text, whole := readEarly(ctx, res, limit, stream)
		if whole && stream {
			text = firstEvent(text)
		}
		if whole {
			said = parseMCP(text)
		}
		said.refusal = refusal(said.Code, said.Msg)
	}
	if res.StatusCode == http.StatusUnauthorized && said.refusal == session.NotRefused {
		said.refusal, said.byStatus = session.TokenInvalid, true
	}
	return said
}

// parseMCP reads Lark's error out of a message.
func parseMCP(text []byte) larkError {
	var message struct {
		Error struct {
			Code    json.RawMessage `json:"code"`
			Message string          `json:"message"`
			Data    json.RawMessage `json:"data"`
		} `json:"error"`
	}
	if said := parseEnvelope(text); said.Code != 0 {
		return said
	}
	if json.Unmarshal(text, &message) != nil {
		return larkError{}
	}
	if said := parseEnvelope(message.Error.Data); said.Code != 0 {
		return said
	}
	code, err := strconv.Atoi(string(message.Error.Code))
	if err != nil {
		return larkError{}
	}
	return larkError{Code: code, Msg: message.Error.Message}
}

// eventEnd returns the length of the first event of a stream, or -1. The lines of a
// stream end with LF or CRLF (HTML, "server-sent events").
func eventEnd(text []byte) int {
	end := -1
	for _, blank := range []string{"\n\n", "\r\n\r\n"} {
		if i := bytes.Index(text, []byte(blank)); i >= 0 && (end < 0 || i < end) {
			end = i
		}
	}
	return end
}

// firstEvent returns the data of the first event.
func firstEvent(text []byte) []byte {
	if end := eventEnd(text); end >= 0 {
		text = text[:end]
	}
	var data []byte
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			data = append(data, bytes.TrimPrefix(value, []byte(" "))...)
		}
	}
	return data
}

// earlyBody is the body of an answer whose beginning is read ahead on a goroutine,
// for a while. What has not come by then is waited for by whoever reads the body.
type earlyBody struct {
	io.ReadCloser
	over   chan struct{} // closed when the goroutine has ended; head and err hold then
	head   []byte
	err    error
	handed atomic.Bool // nobody waits for the beginning any more
}

func (b *earlyBody) Read(p []byte) (int, error) {
	<-b.over
	switch {
	case len(b.head) > 0:
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	case b.err != nil:
		return 0, b.err
	}
	return b.ReadCloser.Read(p)
}

// readEarly reads the beginning of res: an event of a stream, or a whole body of at
// most limit bytes. whole is false if that did not come within firstEventWait, or is
// larger. It leaves res to be read as it came.
func readEarly(ctx context.Context, res *http.Response, limit int, stream bool) (text []byte, whole bool) {
	b := &earlyBody{ReadCloser: res.Body, over: make(chan struct{})}
	go func() {
		defer close(b.over)
		data := make([]byte, 0, min(limit, peekSuccess+1))
		for len(data) < limit && b.err == nil && !b.handed.Load() && !(stream && eventEnd(data) >= 0) {
			if len(data) == cap(data) {
				data = append(data, 0)[:len(data)]
			}
			var n int
			n, b.err = b.ReadCloser.Read(data[len(data):min(cap(data), limit)])
			data = data[:len(data)+n]
		}
		b.head = data
	}()
	res.Body = b
	timer := time.NewTimer(firstEventWait)
	defer timer.Stop()
	select {
	case <-b.over:
		return b.head, b.err == io.EOF || stream && eventEnd(b.head) >= 0
	case <-timer.C:
	case <-ctx.Done():
	}
	b.handed.Store(true)
	return nil, false
}

// jsonRPC is a message of JSON-RPC 2.0. A request has an id; an error that can't name
// one has null.
type jsonRPC struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method,omitempty"`
	Result  any             `json:"result,omitempty"`
	Error   *rpcError       `json:"error,omitempty"`
}

type rpcError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// toolResult is the result of a tool.
type toolResult struct {
	Content []textContent `json:"content"`
	IsError bool          `json:"isError"`
}

type textContent struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// authorizationNeeded is the code of a JSON-RPC error for authorization_required, of
// those that are free for servers.
const authorizationNeeded = -32001

// answerMCP answers an agent that its user has to authorize the app. For a call of a
// tool that is a result, which agents show to their user; for anything else it is an
// error with the status 401.
func (p *proxy) answerMCP(x *request, a *edge.Answer) {
	call := p.calledMethod(x)
	var envelope struct {
		Msg   string          `json:"msg"`
		Error json.RawMessage `json:"error"`
	}
	id := x.requestID()
	json.Unmarshal(a.Envelope(id), &envelope) // of an answer of ours: can't fail
	text := envelope.Msg
	if link := a.Challenge.AuthorizeURL; link != "" {
		text = "The user has to authorize the app once: ask them to open this link and approve, then try again: " + link
		if a.Challenge.Card == session.CardSent || a.Challenge.Card == session.CardAlreadySent {
			text += " (the app's bot has sent them the same link in chat)"
		}
	}
	status, said := http.StatusOK, jsonRPC{Version: "2.0", ID: call.ID}
	if call.Method == "tools/call" && call.ID != nil && string(call.ID) != "null" {
		said.Result = toolResult{Content: []textContent{{"text", text}}, IsError: true}
	} else {
		status = a.Status
		said.Error = &rpcError{Code: authorizationNeeded, Message: text, Data: envelope.Error}
	}
	var content bytes.Buffer
	enc := json.NewEncoder(&content)
	enc.SetEscapeHTML(false) // people read the link
	enc.Encode(said)         // strings and numbers into a buffer: it can't fail
	a.WriteAs(&x.w, x.in, id, status, content.Bytes())
}

// maxMCPCall is how much of a message is read to answer it here, in bytes.
const maxMCPCall = 64 << 10

// calledMethod returns the message that the agent has sent, as far as its answer
// needs it: nothing if it is no single message, or a large one.
func (p *proxy) calledMethod(x *request) (call jsonRPC) {
	if x.target.method != http.MethodPost || !x.body.hold(x.in, maxMCPCall) {
		return jsonRPC{}
	}
	x.body.rewind(x.in)
	text, err := io.ReadAll(io.LimitReader(x.in.Body, maxMCPCall))
	if err != nil || json.Unmarshal(text, &call) != nil {
		return jsonRPC{}
	}
	return call
}
