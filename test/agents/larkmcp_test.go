package agents

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"larkside/test/larktest"
)

// larkMCP is the version of Lark's own MCP server for the local machine.
const larkMCP = "@larksuiteoapi/lark-mcp@0.5.1"

// installLarkMCP returns the command of lark-mcp. Without npm, or without a way to
// its registry, the test is skipped by name.
func installLarkMCP(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("LEFT OUT: there is no %s here", program)
		}
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// Its login keeps tokens by a native module, which would have to be compiled.
	// Larkside keeps them here.
	npm := exec.CommandContext(ctx, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", dir, larkMCP)
	if out, err := npm.CombinedOutput(); err != nil {
		t.Skipf("LEFT OUT: npm can't install %s: %v\n%s", larkMCP, err, out)
	}
	return filepath.Join(dir, "node_modules", ".bin", "lark-mcp")
}

// Lark's own MCP server works with Larkside as its domain and the placeholder as its
// secret: nobody logs in, and each call is the default user's. A tool that insists on
// a user's token gets the placeholder for one.
func TestLarkMCP(t *testing.T) {
	if testing.Short() {
		t.Skip("installs from npm")
	}
	t.Parallel()
	command := installLarkMCP(t)
	p := start(t, map[string]string{"DEFAULT_USER": larktest.Alice, "INJECT_PATHS": "/open-apis/docx/,/open-apis/wiki/"}, larktest.Alice)
	own := len(p.Lark.Calls(larktest.To(larktest.TenantEndpoint))) // Larkside's, at the start
	for _, mode := range [][]string{nil, {"--token-mode", "user_access_token", "-u", "u-larkside"}} {
		t.Run(strings.Join(mode, " "), func(t *testing.T) {
			args := append([]string{"mcp", "-a", larktest.AppID, "-s", "larkside", "-d", p.URL, "-t", "docx.v1.document.rawContent"}, mode...)
			cmd := exec.CommandContext(t.Context(), command, args...)
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = 5 * time.Second
			client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
			session, err := client.Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			tools, err := session.ListTools(t.Context(), nil)
			if err != nil || len(tools.Tools) != 1 || tools.Tools[0].Name != "docx_v1_document_rawContent" {
				t.Fatalf("%+v, %v", tools, err)
			}
			before := len(p.Lark.Calls(isDocument))
			arguments := map[string]any{"path": map[string]any{"document_id": "doc1"}, "params": map[string]any{}}
			res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: tools.Tools[0].Name, Arguments: arguments})
			if err != nil || res.IsError || len(res.Content) != 1 {
				t.Fatalf("%+v, %v", res, err)
			}
			if text := res.Content[0].(*mcp.TextContent).Text; !strings.Contains(text, larktest.Alice) {
				t.Errorf("%s", text)
			}
			if calls := p.Lark.Calls(isDocument); len(calls) != before+1 || calls[before].Owner != larktest.Alice {
				t.Errorf("%+v", calls)
			}
		})
	}
	if got := p.Lark.Calls(larktest.To(larktest.TenantEndpoint))[own:]; len(got) != 0 {
		t.Errorf("the placeholder secret went to Lark: %+v", got)
	}
}

func isDocument(c larktest.Call) bool { return strings.HasPrefix(c.Path, "/open-apis/docx/") }
