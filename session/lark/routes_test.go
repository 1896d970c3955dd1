package lark

import (
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write routes.txt anew")

// operation matches what the SDK's generated code says about one operation.
var operation = regexp.MustCompile(`\.ApiPath = "([^"]+)"\s+\w+\.HttpMethod = http\.Method(\w+)`)

// After a change of the SDK's version the list has to be made anew: go generate
// ./session/lark.
func TestRoutesAreTheSDKs(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/larksuite/oapi-sdk-go/v3").Output()
	if err != nil {
		t.Fatalf("where the SDK is: %v", err)
	}
	want := sdkRoutes(t, filepath.Join(strings.TrimSpace(string(dir)), "service"))
	if *update {
		if err := os.WriteFile("routes.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if routesText != want {
		t.Error("routes.txt is not what the SDK has: run go generate ./session/lark")
	}
}

// sdkRoutes lists the operations in the SDK's source, sorted. Of two that differ
// in the names of their variables only, which no path tells apart, the first
// one stays.
func sdkRoutes(t *testing.T, dir string) string {
	t.Helper()
	byShape := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "resource.go" {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found := operation.FindAllSubmatch(source, -1)
		if n := strings.Count(string(source), `.ApiPath = "`); n != len(found) {
			t.Errorf("%s: %d of %d operations are understood", path, len(found), n)
		}
		for _, m := range found {
			line := strings.ToUpper(string(m[2])) + " " + string(m[1])
			shape := variable.ReplaceAllString(line, ":")
			if old, ok := byShape[shape]; !ok || line < old {
				byShape[shape] = line
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, line := range byShape {
		lines = append(lines, line)
	}
	slices.SortFunc(lines, func(a, b string) int {
		m, p, _ := strings.Cut(a, " ")
		n, q, _ := strings.Cut(b, " ")
		return cmp.Or(strings.Compare(p, q), strings.Compare(m, n))
	})
	return strings.Join(lines, "\n") + "\n"
}

var variable = regexp.MustCompile(`:\w+`)

func TestRoutes(t *testing.T) {
	r := NewRoutes()
	for _, tc := range []struct{ method, path, want string }{
		{"GET", "/open-apis/contact/v3/users/ou_1", "/open-apis/contact/v3/users/:user_id"},
		{"HEAD", "/open-apis/contact/v3/users/ou_1", "/open-apis/contact/v3/users/:user_id"},
		{"GET", "/open-apis/apaas/v1/workspaces/w/tables/t/records", "/open-apis/apaas/v1/workspaces/:workspace_id/tables/:table_name/records"},
		{"GET", "/open-apis/spark/v1/apps/a/views/v/records", "/open-apis/spark/v1/apps/:app_id/views/:view_name/records"},
		// What looks like a name is one only where nothing is called so.
		{"GET", "/open-apis/contact/v3/users/find_by_department", "/open-apis/contact/v3/users/find_by_department"},
		{"PATCH", "/open-apis/contact/v3/users/find_by_department", "/open-apis/contact/v3/users/:user_id"},
		{"POST", "/open-apis/apaas/v1/applications/n/objects/search/records", "/open-apis/apaas/v1/applications/:namespace/objects/:object_api_name/records"},
		// Not Lark's.
		{"DELETE", "/open-apis/apaas/v1/apps", ""},
		{"BREW", "/open-apis/apaas/v1/apps", ""},
		{"GET", "/open-apis/apaas/v1/apps/", ""},
		{"GET", "/open-apis/contact/v3/users/", ""},
		{"GET", "/open-apis/contact/v3/users/a/b/c/d", ""},
		{"GET", "/open-apis", ""}, {"GET", "/", ""}, {"GET", "", ""}, {"GET", "*", ""},
		{"GET", "/:x", ""}, {"GET", "/open-apis/contact/v3/:x/ou_1", ""},
	} {
		got, ok := r.Match(tc.method, tc.path)
		if got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s %s: %q, %v; want %q", tc.method, tc.path, got, ok, tc.want)
		}
	}
	// Every template matches itself, whatever its variables are called.
	for line := range strings.Lines(routesText) {
		method, template, _ := strings.Cut(strings.TrimSpace(line), " ")
		if got, _ := r.Match(method, variable.ReplaceAllString(template, "~")); got != template {
			t.Errorf("%s %s is taken for %q", method, template, got)
		}
	}
}

// Every request passes here.
func TestRoutesDoNotAllocate(t *testing.T) {
	r := NewRoutes()
	for _, path := range []string{"/open-apis/apaas/v1/workspaces/w/tables/t/records", "/nowhere/at/all"} {
		if n := testing.AllocsPerRun(100, func() { r.Match("GET", path) }); n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

// Whatever comes, the answer is a line of the list or nothing.
func FuzzRoutes(f *testing.F) {
	r := NewRoutes()
	f.Add("GET", "/open-apis/contact/v3/users/ou_1")
	f.Add("POST", "//:x/%2F/..")
	f.Fuzz(func(t *testing.T, method, path string) {
		template, ok := r.Match(method, path)
		if method == "HEAD" {
			method = "GET"
		}
		if ok != (template != "") || ok && !strings.Contains("\n"+routesText, fmt.Sprintf("\n%s %s\n", method, template)) {
			t.Errorf("%q %q: %q, %v", method, path, template, ok)
		}
	})
}

func BenchmarkRoutes(b *testing.B) {
	r := NewRoutes()
	b.ReportAllocs()
	for b.Loop() {
		r.Match("GET", "/open-apis/apaas/v1/workspaces/w/tables/t/records")
	}
}

func BenchmarkNewRoutes(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewRoutes()
	}
}
