package settings

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caarlos0/env/v11"
)

// Every field says what it takes and means. A secret has no default, and only
// what is named by an env tag is a setting.
func TestTags(t *testing.T) {
	for _, v := range table {
		if v.Meaning == "" || v.Takes == "" {
			t.Errorf("%s does not say what it means or takes", v.Name)
		}
		if v.Secret && v.Default != "" {
			t.Errorf("%s is a secret with a default", v.Name)
		}
		if v.File && v.shows == "all" {
			t.Errorf("%s comes from a file and is shown", v.Name)
		}
		if !slices.Contains([]string{"all", "url", "nothing"}, v.shows) {
			t.Errorf("%s shows %q", v.Name, v.shows)
		}
		for _, tag := range regexp.MustCompile(`(\w+):"`).FindAllStringSubmatch(string(v.field.Tag), -1) {
			known := []string{"group", "env", "envDefault", "default", "takes", "oneOf", "positive", "blank", "file", "shows", "meaning"}
			if _, there := v.field.Tag.Lookup(tag[1]); there && !slices.Contains(known, tag[1]) {
				t.Errorf("%s has a tag %q, which nobody reads", v.Name, tag[1])
			}
		}
	}
	if _, err := env.GetFieldParams(new(Settings)); err != nil {
		t.Error(err)
	}
}

// A heading stands once, above all settings of its group.
func TestGroups(t *testing.T) {
	var groups []string
	for i, v := range table {
		if beginsGroup(i) {
			groups = append(groups, v.Group)
		}
	}
	for i, group := range groups {
		if group == "" || slices.Contains(groups[:i], group) {
			t.Errorf("group %q has no heading, or two", group)
		}
		if strings.Count(Markdown(), "### "+group+"\n") != 1 || strings.Count(Text(), "# "+group+"\n") != 1 {
			t.Errorf("the output does not have the heading %q once", group)
		}
	}
	if len(groups) < 5 {
		t.Errorf("%d settings in only %d groups", len(table), len(groups))
	}
}

// deploy/docs/settings.md shows what "larkside env --defaults -o markdown" prints.
func TestDocument(t *testing.T) {
	page, err := os.ReadFile("../../../deploy/docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), Markdown()) {
		t.Errorf("deploy/docs/settings.md does not have the output of \"larkside env --defaults -o markdown\":\n%s", Markdown())
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"APPID":            "APP_ID",
		"ADMINKEY":         "ADMIN_KEY",
		"DATABSE_URL":      "DATABASE_URL",
		"ENCRYPTION_KEY":   "ENCRYPTION_KEYS",
		"LISTNE":           "LISTEN",
		"REFRESH_TRESHOLD": "REFRESH_THRESHOLD",
	} {
		if got := Nearest(word, names()); got != want {
			t.Errorf("nearest to %s is %s, want %s", word, got, want)
		}
	}
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "abc", 3}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"abc", "xabc", 1}, {"kitten", "sitting", 3}} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
