package chaos

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/process"
)

// clockVariable is by how many seconds the clock of a program of [clockProgram]
// is off.
const clockVariable = "CHAOS_CLOCK"

// clockProgram builds larkside with a standard library whose time.Now is off.
// Larkside's own source is as it is: it knows nothing of this, and monotonic time
// stays right, as on a host whose clock is set wrong. Go asks the kernel for the
// time without libc, so that no LD_PRELOAD can do it, and a time namespace leaves
// the wall clock alone.
func clockProgram(t *testing.T) string {
	t.Helper()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time", "time.go")
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(source)
	for _, edit := range [][2]string{
		{"import (\n", "import (\n\t\"syscall\"\n"},
		{"func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n\tsec += clockOff\n"},
	} {
		if strings.Count(changed, edit[0]) != 1 {
			t.Fatalf("this version of Go has another time.Now: %s lacks %q", file, edit[0])
		}
		changed = strings.Replace(changed, edit[0], edit[1], 1)
	}
	changed += `
var clockOff = func() (off int64) {
	text, _ := syscall.Getenv("` + clockVariable + `")
	for _, c := range text {
		if '0' <= c && c <= '9' {
			off = 10*off + int64(c-'0')
		}
	}
	if len(text) > 0 && text[0] == '-' {
		return -off
	}
	return off
}()
`
	dir := dbtest.TempDir(t)
	replacement, overlay, program := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "larkside")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {file: replacement}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{replacement: []byte(changed), overlay: list} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := process.Root()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "-C", root, "-overlay", overlay, "-o", program}
	if process.RaceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "./cmd/larkside")...).CombinedOutput(); err != nil {
		t.Fatalf("building larkside with a wrong clock: %v\n%s", err, out)
	}
	return program
}

// checkClock fails the test unless the clock of a process that has just become
// ready is off by as much as it should be.
func checkClock(t *testing.T, log *process.Log) {
	t.Helper()
	line := log.Await(t, "ready", func(l process.Line) bool { return l.Msg == "ready" })
	at, err := time.Parse(time.RFC3339Nano, line.Text("time"))
	if err != nil {
		t.Fatal(err)
	}
	if off := time.Until(at); (off - *clock).Abs() > 20*time.Second {
		t.Fatalf("the replica's clock is off by %v, want %v", off, *clock)
	}
}
