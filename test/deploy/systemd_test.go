package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

const unitFile = root + "/deploy/systemd/larkside.service"

// unit is the service section: each setting's values in order.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") {
			all[name] = append(all[name], value)
		}
	}
	return all
}

// The real binary starts with the unit's environment and credentials, the
// commands of the unit are its own, and the stop leaves enough time.
func TestUnitStart(t *testing.T) {
	t.Parallel()
	u, known := unit(t), settings(t)
	dir := dbtest.TempDir(t)
	for _, c := range u["LoadCredential"] {
		name, _, _ := strings.Cut(c, ":")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secretValues("")[name]), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	o := process.Options{Lark: larktest.Start(t, nil), Env: map[string]string{"APP_SECRET": "", "DATABASE_URL": ""}}
	if err := os.Mkdir(filepath.Join(dir, u["StateDirectory"][0]), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, e := range u["Environment"] {
		name, value, _ := strings.Cut(e, "=")
		if known[name].Secret {
			t.Errorf("%s should be a credential", name)
		}
		// %d: the directory of the credentials; %S: that of states.
		o.Env[strings.TrimPrefix(name, "LARKSIDE_")] = strings.NewReplacer("%d", dir, "%S", dir).Replace(value)
	}
	running := process.Start(t, o)
	for _, line := range slices.Concat(u["ExecStart"], u["ExecStartPost"]) {
		command := strings.Fields(line)
		if command[0] != "/usr/local/bin/larkside" {
			t.Errorf("%s is not what the unit tells to install", command[0])
		}
		if command[1] != "serve" {
			if r := running.Command(t, append(command[1:], "--admin", running.AdminURL)); r.Status != 0 {
				t.Errorf("%q: exit status %d: %s", line, r.Status, r.Stderr)
			}
		}
	}
	grace, err := time.ParseDuration(o.Env["SHUTDOWN_GRACE"])
	stop, err2 := time.ParseDuration(u["TimeoutStopSec"][0])
	if err != nil || err2 != nil || stop <= grace+afterGrace {
		t.Errorf("TimeoutStopSec=%s, SHUTDOWN_GRACE %s: %v %v", u["TimeoutStopSec"], grace, err, err2)
	}
}

// A core dump would have every token in it.
func TestUnitDumpsNoCore(t *testing.T) {
	if core := unit(t)["LimitCORE"]; !slices.Equal(core, []string{"0"}) {
		t.Errorf("LimitCORE=%q", core)
	}
}

// systemd takes the unit without a warning, and finds it hardened.
func TestUnitHardened(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed, and nothing else here needs it, in CI neither")
	}
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "larkside")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "larkside.service")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/larkside", program)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", path).CombinedOutput()
	if err != nil {
		t.Skipf("this systemd-analyze can't judge a file: %v", err)
	}
	m := regexp.MustCompile(`Overall exposure level for larkside.service: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level:\n%s", out)
	}
	// From 0 (closed) to 10.
	if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > 2 {
		t.Errorf("exposure level %s: %v\n%s", m[1], err, out)
	}
}
