package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// built is the binary of this test process: compiled once, by whoever needs it
// first.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Main runs the tests and removes the binary that they have built.
func Main(m *testing.M) (status int) {
	defer func() {
		if built.dir != "" {
			os.RemoveAll(built.dir)
		}
	}()
	return m.Run()
}

// Binary is the path of the real larkside: that of LARKSIDE_TEST_BINARY, which
// test/run sets so that it is built once for all tests, else compiled on first
// use, with the race detector if the test has it.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("LARKSIDE_TEST_BINARY"); path != "" {
		return path
	}
	built.once.Do(func() { built.path, built.err = compile() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func compile() (string, error) {
	dir, err := os.MkdirTemp("", "larkside-binary-")
	if err != nil {
		return "", err
	}
	built.dir = dir
	path := filepath.Join(dir, "larkside")
	args := []string{"build", "-o", path}
	if RaceEnabled {
		args = append(args, "-race")
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	build := exec.Command("go", append(args, "./cmd/larkside")...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building larkside: %w\n%s", err, out)
	}
	return path, nil
}

// Root is the directory of larkside's module. A test in a module of its own
// builds larkside there, with the versions of dependencies that are shipped.
func Root() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "larkside").Output()
	if err != nil {
		return "", fmt.Errorf("where larkside's module is: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
