package settings

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"larkside/session"
)

// Prefix begins the name of every variable of ours.
const Prefix = "LARKSIDE_"

// Variable is what the tags of one field of [Settings] say.
type Variable struct {
	Group    string // the heading under which people read it
	Name     string // without LARKSIDE_
	Required bool
	// Default is the value of a variable that is not set; empty: none.
	Default string
	// DefaultText is the default in words, where Default does not say it.
	DefaultText string
	// Takes completes "takes …" in a problem.
	Takes string
	// OneOf are the accepted words, where there are only a few.
	OneOf   []string
	Meaning string
	// File: the value may come from the file that NAME_FILE names.
	File bool
	// Secret: no part of a value is ever shown.
	Secret bool

	field    reflect.StructField
	positive bool
	// refusesBlank: a value of nothing is a problem rather than not set.
	refusesBlank bool
	shows        string
}

// table has every variable in the order of the struct.
var table = readTags()

// Variables are all settings, in the order in which people read them.
func Variables() []Variable { return slices.Clone(table) }

// readTags makes the table from the tags of [Settings].
func readTags() []Variable {
	var all []Variable
	group := ""
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Settings]()) {
		name, option, _ := strings.Cut(f.Tag.Get("env"), ",")
		if name == "" {
			continue
		}
		group = cmp.Or(f.Tag.Get("group"), group)
		v := Variable{
			Group: group, Name: name, Required: option == "required", Default: f.Tag.Get("envDefault"), DefaultText: f.Tag.Get("default"),
			Takes: f.Tag.Get("takes"), Meaning: f.Tag.Get("meaning"), File: f.Tag.Get("file") == "true",
			field: f, positive: f.Tag.Get("positive") == "true", refusesBlank: f.Tag.Get("blank") == "refused", shows: f.Tag.Get("shows"),
		}
		if words := f.Tag.Get("oneOf"); words != "" {
			v.OneOf = strings.Split(words, ",")
		}
		if v.Takes == "" {
			v.Takes = v.takesByType()
		}
		if v.shows == "" {
			v.shows = showsByType(f.Type)
		}
		v.Secret = v.shows == "nothing"
		all = append(all, v)
	}
	return all
}

// takesByType completes "takes …" for a variable whose tags do not.
func (v Variable) takesByType() string {
	switch {
	case v.OneOf != nil:
		last := len(v.OneOf) - 1
		return strings.Join(v.OneOf[:last], ", ") + " or " + v.OneOf[last]
	case v.positive:
		return "a duration above 0, such as 90s, 10m or 24h"
	}
	return map[reflect.Type]string{
		reflect.TypeFor[bool]():          "true or false",
		reflect.TypeFor[time.Duration](): "a duration, such as 90s, 10m or 24h, or 0",
		reflect.TypeFor[BaseURL]():       "an http or https URL without user, query and fragment",
		reflect.TypeFor[Paths]():         "paths that begin with /, comma separated, in plain form (no dot segments, //, %, ? or #)",
		reflect.TypeFor[Scopes]():        "at most 50 scopes, separated by spaces or commas",
		reflect.TypeFor[Rates]():         "count/duration, comma separated, such as 40/1s,900/1m",
		reflect.TypeFor[Size]():          "a size, such as 65536, 64KiB or 1MiB",
		reflect.TypeFor[Hosts]():         "host names, with or without port, comma separated, or *",
		reflect.TypeFor[Certificates]():  "the path of a PEM file with at least one certificate",
	}[v.field.Type]
}

func showsByType(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[session.Secret](), reflect.TypeFor[NamedSecrets]():
		return "nothing"
	case reflect.TypeFor[BaseURL](), reflect.TypeFor[MCPURL](), reflect.TypeFor[Issuer]():
		return "url"
	}
	return "all"
}

// find returns the variable with this name, and false if there is none.
func find(name string) (Variable, bool) {
	i := slices.IndexFunc(table, func(v Variable) bool { return v.Name == name })
	if i < 0 {
		return Variable{Name: name}, false
	}
	return table[i], true
}

// names are all known names without LARKSIDE_, those for files included.
func names() []string {
	var all []string
	for _, v := range table {
		all = append(all, v.Name)
		if v.File {
			all = append(all, v.Name+"_FILE")
		}
	}
	return all
}

// defaultText is the default as people read it; code stands in ‘…’.
func (v Variable) defaultText() string {
	switch {
	case v.Required:
		return "required"
	case v.DefaultText != "":
		return v.DefaultText
	case v.Default != "":
		return "‘" + v.Default + "’"
	}
	return "none"
}

// meaning adds that the value may come from a file; code stands in ‘…’.
func (v Variable) meaning() string {
	if !v.File {
		return v.Meaning
	}
	return v.Meaning + "; or from the file that ‘" + v.Name + "_FILE’ names"
}

// markdown and plain render text in which code stands in ‘…’.
var (
	markdown = strings.NewReplacer("‘", "`", "’", "`", "|", `\|`) // a bar also within code
	plain    = strings.NewReplacer("‘", "", "’", "")
)

// Markdown is the part of deploy/docs/settings.md that lists the settings: a heading
// and a table for each group.
func Markdown() string {
	var b strings.Builder
	for i, v := range table {
		if beginsGroup(i) {
			if i > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "### %s\n\n| variable | default | meaning |\n|---|---|---|\n", v.Group)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, markdown.Replace(v.defaultText()), markdown.Replace(v.meaning()))
	}
	return b.String()
}

// Text is for terminals and for the command's documentation. Each group has a
// heading. Each setting has its name and default on one line, and its meaning folded
// below.
func Text() string {
	var b strings.Builder
	for i, v := range table {
		if beginsGroup(i) {
			if i > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "# %s\n\n", v.Group)
		}
		standing := "default: " + plain.Replace(v.defaultText())
		if v.Required {
			standing = "required"
		}
		fmt.Fprintf(&b, "%s%s (%s)\n", Prefix, v.Name, standing)
		for _, line := range Fold(plain.Replace(v.meaning()), 72) {
			fmt.Fprintf(&b, "    %s\n", line)
		}
	}
	return b.String()
}

// beginsGroup reports whether the table's i-th setting is the first of its group.
func beginsGroup(i int) bool { return i == 0 || table[i].Group != table[i-1].Group }

// view is a setting in the output of [WriteJSON].
type view struct {
	Name     string   `json:"name"`
	Group    string   `json:"group"`
	Required bool     `json:"required"`
	Default  string   `json:"default"` // in words where no single value says it
	Takes    string   `json:"takes"`
	OneOf    []string `json:"one_of,omitempty"`
	Meaning  string   `json:"meaning"`
	Secret   bool     `json:"secret"`
	FileFrom string   `json:"file_variable,omitempty"`
}

// WriteJSON writes every setting for programs.
func WriteJSON(w io.Writer) error {
	views := []view{}
	for _, v := range table {
		one := view{Name: Prefix + v.Name, Group: v.Group, Required: v.Required, Takes: v.Takes, OneOf: v.OneOf,
			Meaning: plain.Replace(v.Meaning), Secret: v.Secret}
		if text := v.defaultText(); !v.Required && text != "none" {
			one.Default = plain.Replace(text)
		}
		if v.File {
			one.FileFrom = Prefix + v.Name + "_FILE"
		}
		views = append(views, one)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(views)
}

// Fold breaks text at spaces into lines of at most width bytes.
func Fold(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
