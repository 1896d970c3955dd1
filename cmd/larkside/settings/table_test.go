package settings

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The table and the struct are one: a setting in only one of them would be
// refused as unknown, or never filled.
func TestTableAndStructAgree(t *testing.T) {
	var inTable, inStruct []string
	for _, s := range table {
		inTable = append(inTable, s.Name)
	}
	for i := range reflect.TypeFor[Settings]().NumField() {
		if name := reflect.TypeFor[Settings]().Field(i).Tag.Get("env"); name != "" {
			inStruct = append(inStruct, name)
		}
	}
	slices.Sort(inTable)
	slices.Sort(inStruct)
	if !slices.Equal(inTable, inStruct) {
		t.Errorf("table  %q\nstruct %q", inTable, inStruct)
	}
	for _, s := range table {
		if s.Meaning == "" || s.Takes == "" && s.OneOf == nil {
			t.Errorf("%s does not say what it means or takes", s.Name)
		}
		if s.Shows == nothing && s.Default != "" {
			t.Errorf("%s is a secret with a default", s.Name)
		}
	}
	for _, u := range notYet {
		if _, ok := findSetting(u.name); !ok {
			t.Errorf("notYet names %s, which is no setting", u.name)
		}
	}
}

// The README shows "larkside env -o markdown"; the Chinese one says the same in
// other words, so its names and defaults are compared.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if os.IsNotExist(err) {
		t.Skip("there is no README.md yet")
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), Markdown()) {
		t.Errorf("README.md does not have the output of \"larkside env -o markdown\":\n%s", Markdown())
	}
	chinese, err := os.ReadFile("../../../README.zh-CN.md")
	if os.IsNotExist(err) {
		t.Skip("there is no README.zh-CN.md yet")
	}
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| (.*?) \\|").FindAllStringSubmatch(string(chinese), -1)
	var names []string
	for _, row := range rows {
		names = append(names, row[1])
		if s, ok := findSetting(row[1]); ok && s.Default != "" && row[2] != s.defaultText() {
			t.Errorf("README.zh-CN.md: default of %s is %s, want %s", row[1], row[2], s.defaultText())
		}
	}
	for _, s := range table {
		if !slices.Contains(names, s.Name) {
			t.Errorf("README.zh-CN.md does not have a row for %s", s.Name)
		}
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
