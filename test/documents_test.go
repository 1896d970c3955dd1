package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"larkside/session"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var block = regexp.MustCompile("(?ms)^```.*?^```$")

// Callers decide by the reason of a 401 and by what became of the card. The page of
// errors is made from the descriptions of these words, so each word has one.
func TestDescribedWords(t *testing.T) {
	for _, kind := range []struct {
		file, pattern string
		words         []session.Word
	}{
		{"session/errors.go", `Reason = "(\w+)"`, session.Reasons()},
		{"session/challenge.go", `CardResult = "(\w+)"`, session.CardResults()},
	} {
		var described []string
		for _, w := range kind.words {
			described = append(described, w.Word)
			if w.Meaning == "" || w.Do == "" {
				t.Errorf("%+v lacks a text", w)
			}
		}
		if want := named(t, kind.file, kind.pattern); !slices.Equal(described, want) {
			t.Errorf("%s has %q and describes %q", kind.file, want, described)
		}
	}
}

// settingRow is a row of the table of settings. That the table is what "larkside env
// --defaults" prints is checked in cmd/larkside/settings.
var settingRow = regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| .*$")

// A name that a reader copies has to be one that the program takes.
func TestDocumentedVariablesExist(t *testing.T) {
	known := []string{
		"LARKSIDE_TEST_POSTGRES", // of test/dbtest
		"LARKSIDE_TEST_PGBIN",    // of test/chaos
		"LARKSIDE_TEST_TRAEFIK",  // of test/forwardauth
		"LARKSIDE_APPID",         // the example of a wrong one
	}
	for _, row := range settingRow.FindAllStringSubmatch(read(t, "deploy/docs/settings.md"), -1) {
		known = append(known, "LARKSIDE_"+row[1])
		if strings.Contains(row[0], "`"+row[1]+"_FILE`") {
			known = append(known, "LARKSIDE_"+row[1]+"_FILE")
		}
	}
	for _, name := range append(documents(t), "deploy/compose.yaml") {
		for _, variable := range regexp.MustCompile(`LARKSIDE_[A-Z_]*[A-Z]`).FindAllString(read(t, name), -1) {
			if !slices.Contains(known, variable) {
				t.Errorf("%s names %s, which is no setting", name, variable)
			}
		}
	}
}

// Dashboards and alerts are built from the table of metrics: it has every one
// of ours, under the name that Prometheus sees.
func TestDocumentedMetrics(t *testing.T) {
	want := instruments(t)
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:larkside|http)_[a-z_]+)` \\|").FindAllStringSubmatch(read(t, "deploy/docs/metrics.md"), -1) {
		got = append(got, row[1])
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the table of metrics has\n%q\nand the code has\n%q", got, want)
	}
}

// instruments returns the Prometheus names of the instruments that the program
// makes, sorted.
func instruments(t *testing.T) (names []string) {
	kinds := []string{"Int64Counter", "Float64Histogram", "Int64ObservableGauge", "Int64Gauge", "Float64ObservableGauge", "Int64ObservableCounter", "Float64ObservableCounter"}
	calls(t, func(method string, args []ast.Expr) {
		name, ok := literal(args)
		if !ok || !slices.Contains(kinds, method) {
			return
		}
		name = strings.ReplaceAll(name, ".", "_")
		for _, option := range args[1:] {
			call, ok := option.(*ast.CallExpr)
			if f, isMethod := call.Fun.(*ast.SelectorExpr); !ok || !isMethod || f.Sel.Name != "WithUnit" {
				continue
			}
			switch unit, _ := literal(call.Args); {
			case unit == "s":
				name += "_seconds"
			case unit == "1":
				name += "_ratio"
			}
		}
		if strings.HasSuffix(method, "Counter") {
			name += "_total"
		}
		names = append(names, name)
	})
	slices.Sort(names)
	return names
}

// Every command that people are told to type is there.
func TestDocumentedCommands(t *testing.T) {
	source := ""
	for _, pattern := range []string{"../cmd/larkside/*.go", "../cmd/larkside/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source += read(t, strings.TrimPrefix(file, "../"))
		}
	}
	known := map[string]bool{"": true, "completion": true, "failed": true} // "larkside failed" is a log line
	for _, command := range regexp.MustCompile(`(?:Use: +|group\()"([a-z]+)[ "]`).FindAllStringSubmatch(source, -1) {
		known[command[1]] = true
	}
	for _, name := range documents(t) {
		for _, typed := range regexp.MustCompile("(?m)(?:`|`\\./|^\\./|&& )larkside ([a-z]+)(?: ([a-z]+))?").FindAllStringSubmatch(read(t, name), -1) {
			for _, word := range typed[1:] {
				if !known[word] {
					t.Errorf("%s: there is no command %q in %q", name, word, typed[0])
				}
			}
		}
	}
}

// A recipe that the README shows is the one of the page about SDKs, which test/sdk
// runs.
func TestDocumentedRecipe(t *testing.T) {
	page := read(t, "deploy/docs/sdks.md")
	for _, name := range []string{"README.md", "README.zh-CN.md", "deploy/docs/sdks.zh-CN.md"} {
		for _, language := range []string{"go", "js", "python", "java"} {
			for _, recipe := range regexp.MustCompile("(?ms)^```"+language+"\n.*?^```$").FindAllString(read(t, name), -1) {
				if !strings.Contains(page, recipe) {
					t.Errorf("%s has a recipe that deploy/docs/sdks.md does not have:\n%s", name, recipe)
				}
			}
		}
	}
}

// Links within the repository lead somewhere, to the heading that they name.
func TestDocumentedLinks(t *testing.T) {
	for _, name := range documents(t) {
		for _, link := range regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(read(t, name), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			to := name
			if link[1] != "" {
				to = filepath.Join(filepath.Dir(name), link[1])
			}
			if _, err := os.Stat(filepath.Join("..", to)); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if link[2] != "" && !slices.Contains(anchors(read(t, to)), link[2]) {
				t.Errorf("%s: %s has no heading %q", name, to, link[2])
			}
		}
	}
}

// documents are the pages for people.
func documents(t *testing.T) []string {
	t.Helper()
	names := []string{"CHANGELOG.md", "README.md", "README.zh-CN.md"}
	for _, pattern := range []string{"../deploy/*/README.md", "../deploy/docs/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			names = append(names, strings.TrimPrefix(page, "../"))
		}
	}
	return names
}

// anchors are the headings as links name them.
func anchors(text string) (all []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(block.ReplaceAllString(text, ""), -1) {
		plain := strings.Map(func(r rune) rune {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			case r == ' ':
				return '-'
			}
			return -1
		}, heading[1])
		all = append(all, plain)
	}
	return all
}

// calls visits every method call in the program's own code.
func calls(t *testing.T, visit func(method string, args []ast.Expr)) {
	t.Helper()
	for _, path := range sources(t) {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if method, ok := call.Fun.(*ast.SelectorExpr); ok {
					visit(method.Sel.Name, call.Args)
				}
			}
			return true
		})
	}
}

// sources are the files of the program's own code.
func sources(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "../test" || path == "../cmd/demo" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".."):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// literal returns the first argument if it is a string in quotes.
func literal(args []ast.Expr) (string, bool) {
	if len(args) == 0 {
		return "", false
	}
	lit, ok := args[0].(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}
