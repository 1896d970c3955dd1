package sdk

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// The versions of the SDKs that the recipes are run with. Go's is in go.mod.
const (
	nodeSDK   = "@larksuiteoapi/node-sdk@1.74.0"
	pythonSDK = "lark-oapi==1.3.5"
)

// recipeUser is the user that the recipes name.
const recipeUser = "ou_7d8a6e6df7621556ce0d21922b676706"

// The Go recipe is a program that one can paste.
func TestGoRecipe(t *testing.T) {
	root, err := process.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	testRecipe(t, "go", func(t *testing.T, text string) *exec.Cmd {
		// In the product's module, so that it needs no network, and by an overlay,
		// so that nothing is written there.
		file, overlay, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "recipe")
		write(t, file, text)
		replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "test/sdk/recipe/main.go"): file}})
		if err != nil {
			t.Fatal(err)
		}
		write(t, overlay, string(replace))
		args := []string{"build", "-overlay", overlay, "-o", program}
		if process.RaceEnabled {
			args = append(args, "-race") // the SDK is compiled already
		}
		build := exec.CommandContext(t.Context(), "go", append(args, "./test/sdk/recipe")...)
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return exec.CommandContext(t.Context(), program)
	})
}

func TestNodeRecipe(t *testing.T) {
	dir := t.TempDir()
	install(t, nodeSDK, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "1", "--prefix", dir, nodeSDK)
	testRecipe(t, "js", func(t *testing.T, text string) *exec.Cmd {
		file := filepath.Join(dir, "recipe.mjs")
		write(t, file, text)
		return exec.CommandContext(t.Context(), "node", file)
	})
}

func TestPythonRecipe(t *testing.T) {
	dir := t.TempDir()
	install(t, pythonSDK, "python3", "-m", "pip", "install", "--quiet", "--retries", "0", "--target", dir, pythonSDK)
	testRecipe(t, "python", func(t *testing.T, text string) *exec.Cmd {
		file := filepath.Join(t.TempDir(), "recipe.py")
		write(t, file, text)
		cmd := exec.CommandContext(t.Context(), "python3", file)
		cmd.Env = append(os.Environ(), "PYTHONPATH="+dir)
		return cmd
	})
}

// install runs a package manager. Without it, or without a way to its registry, the
// test is skipped by name.
func install(t *testing.T, what string, command ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("installs from a registry")
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("LEFT OUT: there is no %s here", command[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Skipf("LEFT OUT: %s can't install %s: %v\n%s", command[0], what, err, out)
	}
}

// testRecipe runs a recipe of deploy/docs/sdks.md as it stands there, but for
// Larkside's address: for a user with a session, and for one without. program makes
// the recipe's text a command.
func testRecipe(t *testing.T, language string, program func(t *testing.T, text string) *exec.Cmd) {
	page, err := os.ReadFile("../../deploy/docs/sdks.md")
	if err != nil {
		t.Fatal(err)
	}
	recipes := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(page), -1)
	if len(recipes) != 1 || strings.Count(recipes[0][1], "http://127.0.0.1:8080") != 1 {
		t.Fatalf("want one %s recipe that names Larkside's address once, got %q", language, recipes)
	}
	run := func(t *testing.T, openIDs ...string) (string, *larktest.Platform) {
		lark := larktest.Start(t, nil)
		lark.AddUser(larktest.User{OpenID: recipeUser})
		p := process.Seeded(t, process.Options{Lark: lark}, openIDs...)
		cmd := program(t, strings.Replace(recipes[0][1], "http://127.0.0.1:8080", p.URL, 1))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, out, stderr.String())
		}
		larktest.NoViolations(t, lark)
		return string(out), lark
	}
	t.Run("with a session", func(t *testing.T) {
		if out, _ := run(t, recipeUser); !strings.HasSuffix(out, "notes\norders\n") {
			t.Errorf("want the tables' names, got\n%s", out)
		}
	})
	t.Run("without a session", func(t *testing.T) {
		out, lark := run(t)
		words := strings.Fields(out)
		if len(words) == 0 || !strings.HasPrefix(words[len(words)-1], lark.URL) {
			t.Fatalf("want the link at the end, got\n%s", out)
		}
		// It is the link of this user's consent: they can follow it.
		process.Approve(t, lark, words[len(words)-1], recipeUser)
	})
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
