// Package test holds what no single package can: who may import whom, that the
// documents say what the code does, and that secrets stay where they are. The
// packages below it run the whole of Larkside.
package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	gopath "path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the architecture: which of our packages a package's own code may
// import (its tests may import anything). Whatever is not named here may import
// nothing of ours. What is below test may import all but the packages below
// cmd.
var mayImport = map[string][]string{
	"cmd/larkside":          {"cmd/larkside/doctor", "cmd/larkside/operate", "cmd/larkside/settings", "proxy", "proxy/admin", "proxy/console", "proxy/edge", "proxy/extauthz", "proxy/userjwt", "refresh", "session", "session/consent", "session/lark", "session/seal", "session/store", "telemetry"},
	"cmd/larkside/doctor":   {"proxy", "session", "session/consent", "session/lark", "session/seal", "session/store"},
	"cmd/larkside/operate":  {"cmd/larkside/settings", "proxy/admin", "session", "session/seal", "session/store", "telemetry"},
	"cmd/larkside/settings": {"session", "session/seal", "session/store"},
	"cmd/demo":              {"test/larktest", "test/port"},
	"proxy":                 {"proxy/edge", "session", "telemetry"},
	"proxy/edge":            {"session", "telemetry"},
	"proxy/extauthz":        {"proxy"},
	"proxy/userjwt":         {"session", "session/singleflight", "telemetry"},
	"proxy/admin":           {"proxy/edge", "session", "session/store", "telemetry"},
	"proxy/console":         {"proxy/edge", "session", "session/store", "telemetry"},
	"refresh":               {"session", "session/lark", "session/singleflight", "session/store", "telemetry"},
	"session/consent":       {"session", "session/lark", "session/singleflight", "session/store", "telemetry"},
	"session/lark":          {"session", "telemetry"},
	"session/store":         {"session", "session/seal", "session/singleflight", "telemetry"},
	"session/seal":          {"session"},
	"session/singleflight":  {},
	"session":               {},
	"telemetry":             {},
	// Not even session/lark: a shared struct would hide a shared mistake.
	"test/larktest": {},
	// The demo has it too.
	"test/port": {},
	// Tests inside refresh and session/consent use these.
	"test/dbtest":    {"session", "session/seal", "session/store", "test/larktest", "test/port"},
	"test/inprocess": {"session", "session/lark", "session/store", "test/dbtest", "test/larktest"},
}

// The architecture holds. Files are parsed here, since the output of a go list
// subprocess is nothing that the test cache would know about.
func TestImports(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
				return fs.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		checkImports(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkImports(t *testing.T, path string) {
	pkg := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), "../"))
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	allowed, known := mayImport[pkg]
	free := !known && strings.HasPrefix(pkg, "test") // scenarios and tools
	if !known && !free {
		t.Errorf("package %s is not in the table", pkg)
		return
	}
	for _, spec := range file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		ours, found := strings.CutPrefix(name, "larkside/")
		// What is below cmd/larkside is the command's own.
		private := strings.HasPrefix(ours, "cmd/") && !strings.HasPrefix(pkg, "cmd/larkside")
		if found && (private || !free && !slices.Contains(allowed, ours)) {
			t.Errorf("%s imports %s, which %s may not", path, name, pkg)
		}
		if name == "github.com/larksuite/oapi-sdk-go/v3" && !free {
			t.Errorf("%s imports the root of Lark's SDK, which links every service there is", path)
		}
	}
}

// onlyTested are the modules that go.mod has for the tests of the product's
// packages and for nothing else. All are small, or are there anyway since what
// the product needs needs them. What is large and for one kind of test gets a
// module of its own: test/agents, test/browser, test/deploy, test/load, test/tools.
var onlyTested = []string{
	"github.com/creack/pty",
	"github.com/google/go-cmp",
	"github.com/santhosh-tekuri/jsonschema/v6",
	"go.opentelemetry.io/proto/otlp",
	"golang.org/x/net",
	"google.golang.org/protobuf",
}

// Who builds the product or its image downloads what that needs.
func TestRequirements(t *testing.T) {
	used := map[string]bool{}
	for _, dir := range []string{"cmd", "proxy", "refresh", "session", "telemetry"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range file.Imports {
				name, _ := strconv.Unquote(spec.Path.Value)
				for ; name != "."; name = gopath.Dir(name) { // the package, and each module that could hold it
					used[name] = true
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	required := regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(read(t, "go.mod"), -1)
	if len(required) < 10 {
		t.Fatalf("only %q are required: does this test still understand go.mod?", required)
	}
	for _, module := range required {
		switch name := module[1]; {
		case !used[name] && !slices.Contains(onlyTested, name):
			t.Errorf("%s is in go.mod, and no package of the product imports it", name)
		case used[name] && slices.Contains(onlyTested, name):
			t.Errorf("%s is in the list of what only tests need, and the product imports it", name)
		}
	}
	if strings.Contains(read(t, "go.mod"), "\ntool ") {
		t.Error("go.mod names a tool: tools are in test/tools/go.mod")
	}
}
