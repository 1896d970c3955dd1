package edge_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"larkside/proxy"
	"larkside/proxy/admin"
	"larkside/proxy/edge"
	"larkside/session"
)

var update = flag.Bool("update", false, "write the tables of deploy/docs/errors.md anew")

const errorsPage = "../../deploy/docs/errors.md"

// The tables of deploy/docs/errors.md are what the code says.
func TestErrorsPage(t *testing.T) {
	text, err := os.ReadFile(errorsPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, table := range []struct{ name, content string }{
		{"expected", failureTable(edge.Expected)},
		{"mistake", failureTable(edge.Mistake)},
		{"admin", failureTable(edge.AdminOnly)},
		{"shared", sharedNames() + "\n"},
		{"reason", wordTable("`error.reason`", session.Reasons())},
		{"card", wordTable("`error.card`", session.CardResults())},
	} {
		begin, end := "<!-- begin "+table.name+" -->\n", "<!-- end "+table.name+" -->\n"
		before, rest, ok1 := strings.Cut(page, begin)
		content, after, ok2 := strings.Cut(rest, end)
		if !ok1 || !ok2 {
			t.Fatalf("%s has no lines %q and %q", errorsPage, begin, end)
		}
		if content == table.content {
			continue
		}
		if !*update {
			t.Errorf("%s: table %q is not what the code says; go test ./proxy/edge -run ErrorsPage -update writes it anew", errorsPage, table.name)
		}
		page = before + begin + table.content + end + after
	}
	if *update {
		if err := os.WriteFile(errorsPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Each failure says what it means and what to do, and stands in the table of those
// who meet it.
func TestDescriptions(t *testing.T) {
	ofApps := proxy.Failures()
	for _, f := range failures() {
		if f.Meaning == "" || f.Operator == "" || strings.HasSuffix(f.Meaning, ".") || strings.HasSuffix(f.App, ".") || strings.HasSuffix(f.Operator, ".") {
			t.Errorf("%s: a text is missing, or ends with a full stop: %+v", f.Name, f)
		}
		if app := slices.Contains(ofApps, f); app != (f.App != "") || app != (f.Kind != edge.AdminOnly) {
			t.Errorf("%s: kind %q, and the app's part is %q", f.Name, f.Kind, f.App)
		}
		if !slices.Contains([]edge.Kind{edge.Expected, edge.Mistake, edge.AdminOnly}, f.Kind) {
			t.Errorf("%s stands in no table", f.Name)
		}
	}
}

// failures returns each failure once, in the order of their codes.
func failures() []edge.Failure {
	all := append(proxy.Failures(), admin.Failures()...)
	slices.SortFunc(all, func(a, b edge.Failure) int { return a.Code - b.Code })
	return slices.Compact(all)
}

func failureTable(kind edge.Kind) string {
	var b strings.Builder
	if kind == edge.AdminOnly {
		b.WriteString("| error | it means | do |\n|---|---|---|\n")
	} else {
		b.WriteString("| error | it means | the app | the operator |\n|---|---|---|---|\n")
	}
	for _, f := range failures() {
		if f.Kind != kind {
			continue
		}
		fmt.Fprintf(&b, "| %d `%s` %d | %s |", f.Status, f.Name, f.Code, f.Meaning)
		if kind != edge.AdminOnly {
			fmt.Fprintf(&b, " %s |", f.App)
		}
		fmt.Fprintf(&b, " %s |\n", f.Operator)
	}
	return b.String()
}

// sharedNames lists what the admin API answers, too, and another table describes.
func sharedNames() string {
	var names []string
	for _, f := range admin.Failures() {
		if f.Kind != edge.AdminOnly {
			names = append(names, "`"+f.Name+"`")
		}
	}
	return strings.Join(names, ", ")
}

func wordTable(of string, words []session.Word) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | it means | do |\n|---|---|---|\n", of)
	for _, w := range words {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", w.Word, w.Meaning, w.Do)
	}
	return b.String()
}
