// Package agents has the tests with the MCP clients that people use: the official Go
// SDK's against /mcp, and Lark's own lark-mcp from npm. They are a module of their
// own, so that the product does not depend on them.
package agents

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// agent is an MCP client, and what it is told meanwhile.
type agent struct {
	*mcp.ClientSession
	progress chan float64
	changed  chan struct{}
}

// headers adds headers to each request, as an MCP client's configuration does.
type headers map[string]string

func (h headers) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, value := range h {
		r.Header.Set(name, value)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// connect makes an agent that has a URL and maybe a header in its configuration, and
// nothing else.
func connect(t *testing.T, p *process.Process, h headers) (*agent, error) {
	t.Helper()
	a := &agent{progress: make(chan float64, 10), changed: make(chan struct{}, 10)}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { a.progress <- r.Params.Progress },
		ToolListChangedHandler:      func(context.Context, *mcp.ToolListChangedRequest) { a.changed <- struct{}{} },
	})
	var err error
	a.ClientSession, err = client.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: p.URL + "/mcp", HTTPClient: &http.Client{Transport: h}, MaxRetries: -1,
	}, nil)
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

// call runs a tool and returns its text.
func (a *agent) call(t *testing.T, tool string, arguments map[string]any) (text string, isError bool) {
	t.Helper()
	params := &mcp.CallToolParams{Name: tool, Arguments: arguments}
	params.SetProgressToken("p1")
	res, err := a.CallTool(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Content) != 1 {
		t.Fatalf("%+v", res)
	}
	return res.Content[0].(*mcp.TextContent).Text, res.IsError
}

// start runs larkside in front of an emulator that is both of Lark's hosts.
func start(t *testing.T, env map[string]string, openIDs ...string) *process.Process {
	t.Helper()
	lark := larktest.Start(t, &larktest.Config{DeviceInterval: time.Second})
	o := process.Options{Lark: lark, Env: map[string]string{"MCP_URL": lark.URL + "/mcp"}}
	for name, value := range env {
		o.Env[name] = value
	}
	p := process.Seeded(t, o, openIDs...)
	t.Cleanup(func() {
		larktest.NoViolations(t, lark, larktest.LeakedHeader, larktest.WrongUser, larktest.ExpiredToken)
	})
	return p
}

// An agent that is given nothing but the URL is the default user; one that is given a
// header is whom that names. Calls and streams pass.
func TestGoSDK(t *testing.T) {
	t.Parallel()
	p := start(t, map[string]string{"DEFAULT_USER": larktest.Alice}, larktest.Alice, larktest.Bob)
	for openID, h := range map[string]headers{larktest.Alice: nil, larktest.Bob: {"X-Lark-User-Id": larktest.Bob}} {
		a, err := connect(t, p, h)
		if err != nil {
			t.Fatal(err)
		}
		tools, err := a.ListTools(t.Context(), nil)
		if err != nil || len(tools.Tools) != 3 {
			t.Errorf("tools: %+v, %v", tools, err)
		}
		for _, tool := range []string{"get-user", "fetch-doc"} {
			if text, isError := a.call(t, tool, map[string]any{"docID": "d1"}); isError || !strings.Contains(text, openID) {
				t.Errorf("%s as %s: %s", tool, openID, text)
			}
		}
		for _, want := range []float64{1, 2} {
			if got := <-a.progress; got != want {
				t.Errorf("progress %v, want %v", got, want)
			}
		}
		a.Close()
	}
	narrow, err := connect(t, p, headers{"X-Lark-MCP-Allowed-Tools": "get-user"})
	if err != nil {
		t.Fatal(err)
	}
	if tools, err := narrow.ListTools(t.Context(), nil); err != nil || len(tools.Tools) != 1 {
		t.Errorf("tools: %+v, %v", tools, err)
	}
}

// What the server says by itself reaches the agent over the stream that it opens.
func TestGoSDKStream(t *testing.T) {
	t.Parallel()
	p := start(t, map[string]string{"DEFAULT_USER": larktest.Alice}, larktest.Alice)
	a, err := connect(t, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), process.Patience)
	defer cancel()
	if !p.Lark.Emit(larktest.MCPGate, ctx.Done()) {
		t.Fatal("the agent has opened no stream")
	}
	select {
	case <-a.changed:
	case <-ctx.Done():
		t.Error("the news has not come")
	}
}

// A token that Lark refuses is renewed behind the agent's back, however it refuses.
func TestGoSDKTokenRefused(t *testing.T) {
	t.Parallel()
	for _, way := range []larktest.MCPRefusal{larktest.RefusesByStatus, larktest.RefusesBare, larktest.RefusesByCode, larktest.RefusesByData, larktest.RefusesInStream} {
		t.Run("by "+string(way), func(t *testing.T) {
			t.Parallel()
			p := start(t, map[string]string{"DEFAULT_USER": larktest.Alice}, larktest.Alice)
			p.Lark.Switch(func(s *larktest.Switches) { s.MCPRefusal = way })
			a, err := connect(t, p, nil)
			if err != nil {
				t.Fatal(err)
			}
			p.Lark.Revoke(larktest.Alice, larktest.AccessToken)
			if text, isError := a.call(t, "get-user", nil); isError || !strings.Contains(text, larktest.Alice) {
				t.Errorf("%s", text)
			}
		})
	}
}

// An agent whose user has no session any more can say what to do, and goes on once
// they have done it. One that begins so is told by an error.
func TestGoSDKWithoutSession(t *testing.T) {
	t.Parallel()
	p := start(t, nil, larktest.Alice)
	if _, err := connect(t, p, headers{"X-Lark-User-Id": larktest.Bob}); err == nil {
		t.Error("connected without a session")
	}
	a, err := connect(t, p, headers{"X-Lark-User-Id": larktest.Alice})
	if err != nil {
		t.Fatal(err)
	}
	p.Admin(t, "DELETE", "/api/v1/sessions/"+larktest.AppID+"/"+larktest.Alice)
	text, isError := a.call(t, "get-user", nil)
	_, link, _ := strings.Cut(text, "again: ")
	link, _, _ = strings.Cut(link, " ")
	if !isError || !strings.HasPrefix(link, p.Lark.URL) {
		t.Fatalf("%v %s", isError, text)
	}
	if err := p.Lark.Approve(link, larktest.Alice); err != nil {
		t.Fatal(err)
	}
	process.Eventually(t, "the tool works again", func() bool {
		text, isError := a.call(t, "get-user", nil)
		return !isError && strings.Contains(text, larktest.Alice)
	})
}
