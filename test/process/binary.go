package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// Binary is the path of the real larkside, compiled on first use, with the race
// detector if the test has it.
func Binary(t testing.TB) string {
	t.Helper()
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
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "larkside/cmd/larkside")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building larkside: %w\n%s", err, out)
	}
	return path, nil
}
