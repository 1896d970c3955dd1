package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
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
	"cmd/larkside":          {"cmd/larkside/doctor", "cmd/larkside/operate", "cmd/larkside/settings", "proxy", "proxy/admin", "proxy/console", "refresh", "session", "session/consent", "session/lark", "session/seal", "session/store", "telemetry"},
	"cmd/larkside/doctor":   {"proxy", "session", "session/consent", "session/lark", "session/seal", "session/store"},
	"cmd/larkside/operate":  {"cmd/larkside/settings", "proxy/admin", "session", "session/seal", "session/store", "telemetry"},
	"cmd/larkside/settings": {"session", "session/seal"},
	"cmd/demo":              {"test/larktest"},
	"proxy":                 {"session", "telemetry"},
	"proxy/admin":           {"session", "session/store", "telemetry"},
	"proxy/console":         {"session", "session/store", "telemetry"},
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
	"test/dbtest":   {"session", "session/seal", "session/store"},
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
