package settings

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"

	"larkside/session"
)

// Source is where the value of a setting comes from.
type Source string

const (
	FromEnvironment Source = "environment"
	FromFile        Source = "file"
	FromDefault     Source = "default"
	// FromNowhere: the setting has no value.
	FromNowhere Source = "not set"
)

// masked stands for a secret that is there.
const masked = "***"

// Value is the value of one setting that is in force, and where it comes from.
type Value struct {
	Name string `json:"name"` // with LARKSIDE_
	// Value never has a secret: *** stands for it.
	Value  string `json:"value"`
	Source Source `json:"source"`
	// File is where a value [FromFile] stands.
	File string `json:"file,omitempty"`
}

// InForce returns what is in force of each setting, in the order of
// [Variables]. The error is that of [Parse]: with problems the values show what
// would be in force.
func InForce(environ []string) ([]Value, error) {
	p := newParser(environ)
	s := p.parse()
	var all []Value
	for _, v := range table {
		all = append(all, p.inForce(v, s))
	}
	return all, p.err()
}

func (p *parser) inForce(v Variable, s *Settings) Value {
	one := Value{Name: Prefix + v.Name, Source: FromEnvironment}
	raw, set := p.set[v.Name]
	file, fromFile := p.files[v.Name]
	parsed := reflect.ValueOf(s).Elem().FieldByIndex(v.field.Index).Interface()
	switch {
	case fromFile:
		one.Source, one.File = FromFile, file.path
	case !set && v.Required:
		one.Source = FromNowhere
		return one
	case !set:
		one.Source = FromDefault
		raw = v.Default
	}
	one.Value = v.show(raw, parsed)
	switch {
	case set || one.Value != "":
	case v.DefaultText != "":
		one.Value = "(" + plain.Replace(v.DefaultText) + ")"
	default:
		one.Source = FromNowhere
	}
	return one
}

// show returns what may be seen of a value, given as it was written and parsed.
func (v Variable) show(raw string, parsed any) string {
	switch is := parsed.(type) {
	case NamedSecrets:
		var names []string
		for _, name := range is.names() {
			names = append(names, name+":"+masked)
		}
		return cmp.Or(strings.Join(names, ","), mask(raw))
	case Scopes: // with offline_access
		return strings.Join(is, " ")
	case BaseURL: // may follow from the brand
		raw = cmp.Or(string(is), raw)
	case session.Secret:
		if v.shows == "nothing" {
			return mask(raw)
		}
	}
	switch v.shows {
	case "all":
		return raw
	case "url":
		if shown, ok := v.withoutLogin(strings.TrimSpace(raw)); ok {
			return shown
		}
	}
	return mask(raw)
}

func mask(raw string) string {
	if raw == "" {
		return ""
	}
	return masked
}

// WriteValues writes values as a table for people, or as JSON.
func WriteValues(w io.Writer, values []Value, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(values)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VARIABLE\tFROM\tVALUE")
	for _, one := range values {
		from := string(one.Source)
		if one.File != "" {
			from += " " + one.File
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", one.Name, from, cmp.Or(one.Value, "-"))
	}
	return t.Flush()
}
