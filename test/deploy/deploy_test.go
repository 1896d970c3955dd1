// Package deploy has the tests of what stands in deploy/ and of the image: that
// a cluster takes the manifests, that they agree with each other and with what
// the real binary serves, and that the binary starts with the settings in them.
package deploy

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// root is the repository.
const root = "../.."

// afterGrace is what a stop may take after SHUTDOWN_GRACE: 12 s to store renewed
// tokens and 5 s to export telemetry, as deploy/docs/operating.md says.
const afterGrace = 17 * time.Second

// setting is one of "larkside env --defaults -o json".
type setting struct {
	Name, Default string
	Secret        bool
	File          string `json:"file_variable"`
}

// settings are what the real binary knows, by name.
func settings(t *testing.T) map[string]setting {
	t.Helper()
	r := process.Run(t, process.Options{Args: []string{"env", "--defaults", "-o", "json"}})
	var all []setting
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		t.Fatalf("larkside env --defaults -o json: %v\n%s", err, r.Stderr)
	}
	byName := map[string]setting{}
	for _, s := range all {
		byName[s.Name] = s
	}
	return byName
}

// Whatever is called LARKSIDE_ in deploy/ or the Dockerfile is a setting: also
// in comments, which people copy.
func TestSettingNames(t *testing.T) {
	t.Parallel()
	known := map[string]bool{
		"LARKSIDE_TEST_POSTGRES": true, "LARKSIDE_TEST_PGBIN": true, "LARKSIDE_TEST_TRAEFIK": true, // the tests' own
		"LARKSIDE_APPID": true, // the example of a wrong one
	}
	for _, s := range settings(t) {
		known[s.Name] = true
		if s.File != "" {
			known[s.File] = true
		}
	}
	name := regexp.MustCompile(`\bLARKSIDE_[A-Z0-9_]*[A-Z0-9]`)
	found := 0
	check := func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range name.FindAllString(string(text), -1) {
			found++
			if !known[n] {
				t.Errorf("%s: %s is no setting", path, n)
			}
		}
	}
	check(filepath.Join(root, "Dockerfile"))
	for _, path := range files(t, filepath.Join(root, "deploy"), "") {
		check(path)
	}
	if found < 50 {
		t.Errorf("only %d names found: the test looks in the wrong place", found)
	}
}

// files are all files below dir with this ending, sorted.
func files(t *testing.T, dir, ending string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "secrets" {
			return fs.SkipDir // what compose.yaml tells people to make
		}
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ending) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}
