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
	"unicode"

	"larkside/proxy"
	"larkside/proxy/admin"
)

// operating is the page for whoever is on call. It leaves errors, reasons and the
// results of cards to the page of errors.
const (
	operating  = "deploy/docs/operating.md"
	errorsPage = "deploy/docs/errors.md"
)

// Whoever sees a name at night finds it in a table of one of the two pages.
func TestOperatingNamesEverything(t *testing.T) {
	kinds := map[string][]string{
		"error":               failures(),
		"reason":              named(t, "session/errors.go", `Reason = "(\w+)"`),
		"class of a refresh":  named(t, "refresh/metrics.go", `Class = "(\w+)"`),
		"outcome":             named(t, "proxy/outcome.go", `Outcome = "(\w+)"`),
		"result of a card":    named(t, "session/challenge.go", `CardResult = "(\w+)"`),
		"check of the doctor": checks(t),
		"log line":            complaints(t),
	}
	for _, rule := range alerts(t) {
		kinds["alert"] = append(kinds["alert"], rule["alert"])
	}
	inErrors := []string{"error", "reason", "result of a card"}
	for kind, names := range kinds {
		page := operating
		if slices.Contains(inErrors, kind) {
			page = errorsPage
		}
		text := read(t, page)
		if len(names) < 5 {
			t.Errorf("only %q was found of kind %s: does this test still understand the code?", names, kind)
		}
		for _, name := range names {
			if !strings.Contains(text, "`"+name+"`") {
				t.Errorf("%s: %s %q is missing", page, kind, name)
			}
		}
	}
}

// Names that the code has no more are looked for in vain by whoever greps for
// them: of alerts, log lines, checks and labels the tables have no others.
func TestOperatingNamesNothingElse(t *testing.T) {
	known := slices.Concat(checks(t), complaints(t),
		named(t, "refresh/metrics.go", `Class = "(\w+)"`), named(t, "proxy/outcome.go", `Outcome = "(\w+)"`),
		[]string{"outcome", "class", "error"}) // the headings of tables
	for _, rule := range alerts(t) {
		known = append(known, rule["alert"])
	}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(read(t, operating), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			if !slices.Contains(known, name[1]) && !strings.Contains(row[1], "/readyz") {
				t.Errorf("%s has a row for %q, which the code does not have", operating, name[1])
			}
		}
	}
}

// The console's page of errors says each of them in Chinese, and its table has no
// others.
func TestConsoleKnowsEveryLogLine(t *testing.T) {
	const table = "proxy/console/messages.go"
	file, err := parser.ParseFile(token.NewFileSet(), "../"+table, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	chinese := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if pair, ok := n.(*ast.KeyValueExpr); ok {
			chinese[stringOf(t, pair.Key)] = stringOf(t, pair.Value)
		}
		return true
	})
	lines := complaints(t)
	for _, line := range lines {
		if !strings.ContainsFunc(chinese[line], func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
			t.Errorf("%s has no Chinese for %q", table, line)
		}
	}
	for line := range chinese {
		if !slices.Contains(lines, line) {
			t.Errorf("%s has %q, which the code does not log", table, line)
		}
	}
}

// What the doctor says of a code of Lark's is in the table too.
func TestOperatingCodes(t *testing.T) {
	_, table, ok := strings.Cut(read(t, "cmd/larkside/doctor/remedies.go"), "var remedies = ")
	if !ok {
		t.Fatal("remedies.go has no table of codes")
	}
	codes := regexp.MustCompile(`(\d{5,}): `).FindAllStringSubmatch(table, -1)
	if len(codes) < 20 {
		t.Fatalf("%d codes", len(codes))
	}
	text := read(t, operating)
	for _, code := range codes {
		if !regexp.MustCompile(`(?m)^\| [^|]*\b` + code[1] + `\b`).MatchString(text) {
			t.Errorf("%s: code %s has no row", operating, code[1])
		}
	}
}

// drillTest is a test as the table of drills names it: refresh.TestCircuitOpens.
var drillTest = regexp.MustCompile("`([a-z0-9/]+)\\.(Test\\w+)`")

// Each drill names the test that does it again, or says that there is none. A test
// that was renamed would be looked for in vain.
func TestDrills(t *testing.T) {
	_, section, ok := strings.Cut(read(t, operating), "\n## Drills\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| ([^*|]+) \|.*\|([^|]*)\|$`).FindAllStringSubmatch(section, -1)
	if !ok || len(rows) < 20 {
		t.Fatalf("%s has %d drills: does this test still understand it?", operating, len(rows))
	}
	for _, row := range rows[1:] { // the first is the heading
		if !drillTest.MatchString(row[2]) && !strings.HasPrefix(row[2], " not tested") {
			t.Errorf("%s: no test shows what happens when %s", operating, row[1])
		}
	}
	for _, page := range []string{operating, "deploy/docs/operating.zh-CN.md"} {
		for _, name := range drillTest.FindAllStringSubmatch(read(t, page), -1) {
			files, err := filepath.Glob(filepath.Join("..", name[1], "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(files, func(file string) bool {
				return strings.Contains(read(t, strings.TrimPrefix(file, "../")), "\nfunc "+name[2]+"(t *testing.T) {")
			}) {
				t.Errorf("%s names %s, and %s has no such test", page, name[2], name[1])
			}
		}
	}
}

// failures are the names of all errors that Larkside answers.
func failures() (names []string) {
	for _, f := range proxy.Failures() {
		names = append(names, f.Name)
	}
	for _, f := range admin.Failures() {
		names = append(names, f.Name)
	}
	return names
}

func named(t *testing.T, file, pattern string) (names []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1) {
		names = append(names, m[1])
	}
	return names
}

// checks are the names of the doctor's lines, without the app that some are
// about.
func checks(t *testing.T) []string {
	var names []string
	for _, file := range []string{"doctor.go", "examine.go"} {
		for _, name := range named(t, "cmd/larkside/doctor/"+file, `(?:\.(?:ok|warn|fail)\(|name := )"([\w ]+)"`) {
			names = append(names, strings.TrimSpace(name))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// complaints are the lines of the log that somebody acts on: those of level
// warn and error.
func complaints(t *testing.T) (lines []string) {
	message := map[string]int{ // the argument that is the message
		"Warn": 0, "Error": 0, "WarnContext": 1, "ErrorContext": 1,
		"Log": 2, "logThrottled": 1, "logUnlessStopping": 1,
	}
	calls(t, func(method string, args []ast.Expr) {
		at, ok := message[method]
		if !ok || at >= len(args) {
			return
		}
		if line := stringOf(t, args[at]); line != "" {
			lines = append(lines, line)
		}
	})
	slices.Sort(lines)
	return slices.Compact(lines)
}

// stringOf is the value of a string in the source; "" for anything else.
func stringOf(t *testing.T, e ast.Expr) string {
	t.Helper()
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	value, err := strconv.Unquote(lit.Value)
	if err != nil {
		t.Fatal(err)
	}
	return value
}
