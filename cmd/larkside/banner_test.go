package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// onTerminal starts larkside in dir on a terminal of its own, with settings
// NAME=value without LARKSIDE_, and returns what stands there when a line begins
// with last. The process is interrupted then and has to end well.
func onTerminal(t *testing.T, dir, last string, settings ...string) string {
	t.Helper()
	cmd := exec.Command(process.Binary(t))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LARKSIDE_APP_ID=" + larktest.AppID, "LARKSIDE_APP_SECRET=" + larktest.AppSecret,
		"LARKSIDE_LISTEN=127.0.0.1:0", "LARKSIDE_ADMIN_LISTEN=127.0.0.1:0"}
	for _, s := range settings {
		cmd.Env = append(cmd.Env, "LARKSIDE_"+s)
	}
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Skipf("no terminal to be had: %v", err)
	}
	defer terminal.Close()
	var all strings.Builder
	lines := bufio.NewReader(terminal)
	for seen := false; !seen; {
		line, err := lines.ReadString('\n')
		all.WriteString(strings.ReplaceAll(line, "\r\n", "\n"))
		if err != nil {
			t.Fatalf("it ended early: %v\n%s", err, all.String())
		}
		seen = strings.HasPrefix(line, last)
	}
	cmd.Process.Signal(syscall.SIGINT)
	io.Copy(io.Discard, lines) // until it has ended, which a terminal says by an error
	if err := cmd.Wait(); err != nil {
		t.Errorf("at the end: %v", err)
	}
	return all.String()
}

// A person who starts it at a terminal reads where everything is, who may reach
// it, and what to do about it.
func TestBanner(t *testing.T) {
	t.Parallel()
	lark := larktest.Start(t, nil)
	dir := dbtest.TempDir(t)
	first := onTerminal(t, dir, "Ready.", "OPEN_URL="+lark.URL, "ACCOUNTS_URL="+lark.URL)
	for _, want := range []string{
		`^Larkside \S+\n\n`,
		`  app       ` + larktest.AppID + ` at ` + lark.URL + `\n`,
		`  proxy     http://127\.0\.0\.1:\d+  \(every program on this machine, without a key\)\n`,
		`  console   http://127\.0\.0\.1:\d+/  \(`,
		`  database  ` + filepath.Join(dir, "larkside.db") + `  \(made just now\)\n`,
		`  its key   ` + filepath.Join(dir, "larkside.db.key") + `  \(made just now: back it up, apart from the database\)\n`,
		`(?s)  ! No LARKSIDE_ADMIN_KEY: .*\n\nReady\.`,
	} {
		if !regexp.MustCompile(want).MatchString(first) {
			t.Errorf("no %s in\n%s", want, first)
		}
	}
	if strings.Contains(first, "level=") || strings.Contains(first, larktest.AppSecret) {
		t.Errorf("log lines, or the secret, in\n%s", first)
	}
	if strings.Contains(first, "name no user") {
		t.Errorf("there is no default user, and\n%s", first)
	}
	for user, want := range map[string]string{
		"login": "Requests that name no user are yours once you have signed in: run \"larkside login\"", larktest.Alice: `Requests that name no user are those of ` + larktest.Alice + `\.\n`,
	} {
		if got := onTerminal(t, dir, "Requests that name no user", "OPEN_URL="+lark.URL, "ACCOUNTS_URL="+lark.URL, "DEFAULT_USER="+user); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	again := onTerminal(t, dir, "Ready.", "OPEN_URL="+lark.URL, "ACCOUNTS_URL="+lark.URL, "ADMIN_KEY=a-key-of-16-characters", "EVENTS=websocket")
	if strings.Contains(again, "made just now") || strings.Contains(again, "No LARKSIDE_ADMIN_KEY") || strings.Contains(again, "a-key-of") {
		t.Errorf("the second time:\n%s", again)
	}
	if !strings.Contains(again, "with a key of LARKSIDE_ADMIN_KEY") || !strings.Contains(again, "! LARKSIDE_EVENTS=websocket takes events") {
		t.Errorf("the second time:\n%s", again)
	}
}

// With LOG_FORMAT=json a terminal gets what a pod gets.
func TestNoBannerForJSON(t *testing.T) {
	t.Parallel()
	lark := larktest.Start(t, nil)
	out := onTerminal(t, dbtest.TempDir(t), "{", "OPEN_URL="+lark.URL, "ACCOUNTS_URL="+lark.URL, "LOG_FORMAT=json")
	if !strings.HasPrefix(out, "{") || strings.Contains(out, "Larkside ") {
		t.Errorf("got\n%s", out)
	}
}
