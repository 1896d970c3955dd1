package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// factsPage says what Larkside believes about Lark.
const factsPage = "deploy/docs/lark.md"

var section = regexp.MustCompile(`\d+(?:\.\d+)?`)

// Whoever reads "facts 5.2" on the doctor's screen, or in a recording, finds
// that section.
func TestFactsHaveCitedSections(t *testing.T) {
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^##+ (`+section.String()+`) `).FindAllStringSubmatch(read(t, factsPage), -1) {
		if slices.Contains(sections, m[1]) {
			t.Errorf("%s: two sections have the number %s", factsPage, m[1])
		}
		sections = append(sections, m[1])
	}
	cited := citedFacts(t)
	if len(cited) < 20 {
		t.Errorf("only %q are cited: does this test still understand the doctor?", cited)
	}
	for _, n := range cited {
		if !slices.Contains(sections, n) {
			t.Errorf("the doctor cites facts %s, which is no section of %s", n, factsPage)
		}
	}
}

// citedFacts are the sections that the doctor cites: the third field of each
// belief, and what follows "facts" in a text.
func citedFacts(t *testing.T) (cited []string) {
	files, err := filepath.Glob("../cmd/larkside/doctor/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if kind, ok := n.Type.(*ast.Ident); !ok || kind.Name != "belief" || len(n.Elts) == 0 {
					return true
				}
				facts, ok := literal([]ast.Expr{n.Elts[len(n.Elts)-1]})
				if !ok || !regexp.MustCompile(`^`+section.String()+`(, `+section.String()+`)*$`).MatchString(facts) {
					t.Errorf("%s: a belief cites %q, which is no list of sections", name, facts)
				}
				cited = append(cited, section.FindAllString(facts, -1)...)
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
					for _, m := range regexp.MustCompile(`facts (`+section.String()+`)`).FindAllStringSubmatch(text, -1) {
						cited = append(cited, m[1])
					}
				}
			}
			return true
		})
	}
	return cited
}

// The page's table of codes says what the code does with them.
func TestFactsHaveTheCodes(t *testing.T) {
	source := read(t, "session/lark/error.go")
	classes := map[string]string{`""`: ""} // by the name of the constant
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+) Class = "(\w+)"`).FindAllStringSubmatch(source, -1) {
		classes[m[1]] = "`" + m[2] + "`"
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^\t(\d{5,}): +\{(\w+|""), (\w+|""), `).FindAllStringSubmatch(source, -1) {
		want = append(want, strings.Join([]string{m[1], classes[m[2]], classes[m[3]]}, " | "))
	}
	if len(want) < 25 {
		t.Fatalf("only %q were found: does this test still understand the code?", want)
	}
	_, page, _ := strings.Cut(read(t, factsPage), "\n### 2.5 ")
	page, _, _ = strings.Cut(page, "\n### ")
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d{5,}) \|[^|]*\| ?([^|]*) \| ?([^|]*) \|$`).FindAllStringSubmatch(page, -1) {
		got = append(got, strings.Join([]string{m[1], strings.TrimSpace(m[2]), strings.TrimSpace(m[3])}, " | "))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s has the codes\n%s\nand the code has\n%s", factsPage, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
