package test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A Chinese page names the state of the English one that it translates, in its last
// line: what "git hash-object" prints for that page. A translation that is behind is
// no failure, so that nobody has to write Chinese to mend a comma.
//
//	<!-- translates deploy/docs/errors.md as of 1234…, see deploy/docs/contributing.md -->
var translates = regexp.MustCompile(`\n<!-- translates (\S+) as of ([0-9a-f]{40}), see deploy/docs/contributing\.md -->\n$`)

// Whoever changes an English page sees up to which commit its translation goes.
func TestTranslations(t *testing.T) {
	pages := []string{"README.zh-CN.md"}
	for _, name := range documents(t) {
		if strings.HasPrefix(name, "deploy/") && strings.HasSuffix(name, ".zh-CN.md") {
			pages = append(pages, name)
		}
	}
	for _, page := range pages {
		english := strings.TrimSuffix(page, ".zh-CN.md") + ".md"
		marked := translates.FindStringSubmatch(read(t, page))
		if marked == nil || marked[1] != english {
			t.Errorf("%s does not say at its end which state of %s it translates", page, english)
			continue
		}
		now, err := git("hash-object", english)
		if err != nil {
			t.Skipf("git does not say what has changed: %v", err)
		}
		if now == marked[2] {
			continue
		}
		upTo, err := git("log", "--find-object="+marked[2], "--reverse", "--max-count=1", "--format=%h (%as, %s)", "--", english)
		if err != nil || upTo == "" {
			upTo = "a commit that git does not find"
		}
		t.Logf("WARNING: %s is behind: it translates %s up to %s", page, english, upTo)
	}
}

// git runs git at the top of the repository.
func git(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = filepath.Join("..")
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}
