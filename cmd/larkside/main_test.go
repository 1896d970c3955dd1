package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	goparser "go/parser"
	"go/token"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// canary stands in every secret of these tests; nothing may show it.
const canary = "canary-7d1f"

type result struct {
	status   int
	out, err string
}

// larkside runs a command line in the process.
func larkside(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	in := operate.Invocation{Args: args, Environ: environ, Out: &out, ErrOut: &errOut, Build: operate.BuildInfo(version, revision)}
	status := operate.Execute(t.Context(), in, newServe(in), newDoctor(in))
	return result{status, out.String(), errOut.String()}
}

// Settings problems are one line each, on standard error, and nothing else.
func TestServeWithWrongSettings(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}} {
		got := larkside(t, []string{"LARKSIDE_APP_SECRET=" + canary, "LARKSIDE_BRAND=x"}, args...)
		lines := strings.Split(strings.TrimSuffix(got.err, "\n"), "\n")
		if got.status != operate.ExitUsage || len(lines) != 2 || !strings.HasPrefix(lines[0], "LARKSIDE_APP_ID: ") || strings.Contains(got.err, canary) {
			t.Errorf("larkside %q: %+v", args, got)
		}
	}
}

func TestHelp(t *testing.T) {
	got := larkside(t, nil, "--help")
	if got.status != operate.ExitDone {
		t.Errorf("%+v", got)
	}
	for _, command := range []string{"serve", "env", "version", "healthcheck", "wait", "migrate", "keys", "sessions", "consent", "audit", "users", "doctor", "completion"} {
		if !regexp.MustCompile(`(?m)^  ` + command + ` +\S`).MatchString(got.out) {
			t.Errorf("help does not have %s:\n%s", command, got.out)
		}
		if sub := larkside(t, nil, command, "--help"); sub.status != operate.ExitDone || !strings.Contains(sub.out, "Usage:") {
			t.Errorf("%s --help: %+v", command, sub)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := larkside(t, nil, "completion", shell); got.status != operate.ExitDone || !strings.Contains(got.out, "larkside") {
			t.Errorf("completion %s: %d", shell, got.status)
		}
	}
}

// "go doc ./cmd/larkside" is where a reader of the code looks for settings.
func TestCommandDocumentation(t *testing.T) {
	file, err := goparser.ParseFile(token.NewFileSet(), "main.go", nil, goparser.ParseComments|goparser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	indented := "\t" + strings.ReplaceAll(strings.TrimSuffix(settings.Text(), "\n"), "\n", "\n\t")
	want := strings.ReplaceAll(indented, "\n\t\n", "\n\n")
	if !strings.Contains(file.Doc.Text(), want) {
		t.Errorf("the documentation of the command does not have the table that \"larkside env --defaults\" prints:\n%s", want)
	}
}

// What the settings take, the proxy takes.
func TestCallerLimitsFitTheProxy(t *testing.T) {
	c, err := settings.Parse([]string{"LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=x", "LARKSIDE_CALLER_KEYS=web:key-of-web-one", "LARKSIDE_CALLER_LIMITS=web:users=ou_a;paths=/a/|/b;methods=GET|HEAD;rate=1/1h"})
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := settings.NewSecrets(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{cfg: c, secrets: secrets}
	if _, err := s.newProxy(); err != nil {
		t.Error(err)
	}
}

// TestSignalChild is the child process of TestSecondSignal.
func TestSignalChild(t *testing.T) {
	if os.Getenv("TEST_SIGNAL_CHILD") == "" {
		t.Skip("runs as the child of TestSecondSignal")
	}
	ctx, cancel := untilSignal(context.Background())
	defer cancel()
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println("draining")
	select {} // a drain that never ends
}

// Who presses Ctrl-C twice does not want to wait.
func TestSecondSignal(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSignalChild$")
	cmd.Env = append(os.Environ(), "TEST_SIGNAL_CHILD=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"ready", "draining"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("child says %q, want %q", lines.Text(), want)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != operate.ExitFailed {
		t.Errorf("exit status %d", status)
	}
}
