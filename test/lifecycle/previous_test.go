package lifecycle

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"larkside/test/larktest"
	"larkside/test/process"
)

const migrations = "session/store/migrations/postgres"

// previousProgram is larkside as it was before the newest step of the schema,
// built from the repository's history. There is none while the schema has one
// step: then it is this program, and the test proves less (see
// [TestPreviousProgramBesideThisOne]).
func previousProgram(t *testing.T) string {
	t.Helper()
	root, err := process.Root()
	if err != nil {
		t.Fatal(err)
	}
	steps, err := filepath.Glob(filepath.Join(root, migrations, "*.sql"))
	if err != nil || len(steps) == 0 {
		t.Fatalf("no steps: %v", err)
	}
	if len(steps) == 1 {
		t.Log("the schema has one step, so that no program is older than it: this one runs beside itself")
		return process.Binary(t)
	}
	git := func(args ...string) string {
		t.Helper()
		c := exec.Command("git", append([]string{"-C", root}, args...)...)
		var trouble bytes.Buffer
		c.Stderr = &trouble
		out, err := c.Output()
		switch {
		case err == nil:
		case os.Getenv("CI") != "":
			t.Fatalf("no history to build the previous program from; a checkout needs all of it: %v %s", err, &trouble)
		default:
			t.Skipf("no history to build the previous program from: %v %s", err, &trouble)
		}
		return strings.TrimSpace(string(out))
	}
	commit := "HEAD" // the newest step is not committed yet
	if added := git("log", "--diff-filter=A", "--format=%H", "--", slices.Max(steps)); added != "" {
		commit = strings.Fields(added)[0] + "^"
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "source.tar")
	git("archive", "--output", archive, commit)
	source, program := filepath.Join(dir, "source"), filepath.Join(dir, "larkside")
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{
		exec.Command("tar", "-xf", archive, "-C", source),
		exec.Command("go", "build", "-C", source, "-o", program, "./cmd/larkside"),
	} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	return program
}

// Both kinds of replica serve at once while an update is rolled out: the program
// from before the newest step starts on the raised schema, each renews what the
// other has stored, and each asks users.
//
// The schema has one step as yet, and no program from before it. Until there is a
// second, both replicas are this program. The test then shows that two replicas
// share sessions and consents, and says nothing about an older program. How a
// program meets a schema with a step that it does not know is in the store's
// TestNewerSchemaThatAdds and TestNewerSchemaIsRefused.
func TestPreviousProgramBesideThisOne(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the previous program; -short leaves it out")
	}
	previous := previousProgram(t)
	lark, db := larktest.Start(t, nil), process.Postgres(t)
	process.Seed(t, db, lark, 0, larktest.Alice)
	options := process.Options{Lark: lark, DB: db, Env: map[string]string{"SCOPES": "app_engine:workspace.table:read app_engine:workspace.table.record:read"}}
	replicas := []*process.Process{process.Start(t, options)}
	options.Program = previous
	replicas = append(replicas, process.Start(t, options))
	for _, p := range append(replicas, replicas...) {
		if got := p.Command(t, []string{"sessions", "refresh", larktest.Alice, "--admin", p.AdminURL}); got.Status != 0 {
			t.Errorf("refreshing: %+v", got)
		}
		for _, other := range replicas {
			if a := other.Get(t, call, larktest.Alice); a.Status != 200 || a.Owner() != larktest.Alice {
				t.Errorf("a call: %+v", a)
			}
		}
	}
	for i, openID := range []string{larktest.Bob, larktest.Carol} {
		replicas[i].Consent(t, call, openID)
		for _, other := range replicas {
			if a := other.Get(t, call, openID); a.Status != 200 || a.Owner() != openID {
				t.Errorf("a call of who has just consented: %+v", a)
			}
		}
	}
	larktest.NoViolations(t, lark)
}
