package settings

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caarlos0/env/v11"

	"larkside/session"
)

// Error is every problem with the settings, one line each. No line holds a
// secret.
type Error []string

func (e Error) Error() string { return strings.Join(e, "\n") }

// Parse reads environ ("NAME=value") and reports every problem at once as an
// [Error]. A variable that is set to nothing counts as not set. With names
// (without LARKSIDE_) it reports problems with these only: a command that needs
// the database alone can do without the app's secret.
func Parse(environ []string, names ...string) (*Settings, error) {
	p := newParser(environ)
	s := p.parse()
	if err := p.err(names...); err != nil {
		return nil, err
	}
	return s, nil
}

// AdminAddress reads ADMIN_LISTEN alone: the container that asks need not have
// the other settings of the one that serves.
func AdminAddress(environ []string) (Address, error) {
	v, _ := find("ADMIN_LISTEN")
	p := newParser(environ)
	a, err := ParseAddress(cmp.Or(p.set[v.Name], v.Default))
	if err != nil || a.Off() {
		p.invalid(v.Name, err)
	}
	return a, p.err(v.Name)
}

// AdminKey reads ADMIN_KEY or its file alone, as [AdminAddress] does. It does
// not judge the key: the instance that is asked does.
func AdminKey(environ []string) (session.Secret, error) {
	v, _ := find("ADMIN_KEY")
	p := newParser(environ)
	p.readFile(v)
	return session.NewSecret(strings.TrimSpace(p.set[v.Name])), p.err(v.Name)
}

// problem is one line of an [Error]. Names are without LARKSIDE_.
type problem struct {
	name     string // the variable in the table; an unknown one as it was written
	variable string // what the line begins with: name, or NAME_FILE
	text     string
}

// parser collects the problems of one reading.
type parser struct {
	// set maps names without LARKSIDE_ to what the user gave, by variable or file.
	set      map[string]string
	files    map[string]secretFile
	problems []problem
}

func newParser(environ []string) *parser {
	p := &parser{set: map[string]string{}, files: map[string]secretFile{}}
	given := env.ToMap(environ)
	for _, full := range slices.Sorted(maps.Keys(given)) {
		name, ours := strings.CutPrefix(full, Prefix)
		if !ours || given["KUBERNETES_SERVICE_HOST"] != "" && serviceLink.MatchString(name) {
			continue
		}
		v, _ := find(name)
		switch {
		case !slices.Contains(names(), name):
			p.add(name, "got an unknown name, the nearest known one is "+Prefix+Nearest(name, names()))
		case strings.TrimSpace(given[full]) == "" && v.refusesBlank:
			p.add(name, "is empty; set it to "+v.Takes+", or leave the variable out to have no key")
		case given[full] != "":
			p.set[name] = given[full]
		}
	}
	return p
}

// serviceLink matches the variables that Kubernetes sets in every pod beside a
// Service that is called larkside or larkside-…. The operator did not set
// them.
var serviceLink = regexp.MustCompile(`^([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

func (p *parser) parse() *Settings {
	for _, v := range table {
		if v.File {
			p.readFile(v)
		}
	}
	s := &Settings{}
	p.fields(s)
	s.files = p.files
	s.complete()
	p.ranges(s)
	p.contradictions(s)
	s.Warnings = warnings(s)
	return s
}

// readFile takes a value from the file that NAME_FILE names.
func (p *parser) readFile(v Variable) {
	path, ok := p.set[v.Name+"_FILE"]
	if !ok {
		return
	}
	delete(p.set, v.Name+"_FILE")
	if _, both := p.set[v.Name]; both {
		p.add(v.Name, fmt.Sprintf("got a value and %s%s_FILE, takes one of the two", Prefix, v.Name))
		return
	}
	content, err := readBounded(path)
	if err != nil {
		p.problems = append(p.problems, problem{v.Name, v.Name + "_FILE",
			fmt.Sprintf("got %q (%v), takes the path of a readable file that is not empty", path, err)})
		return
	}
	p.set[v.Name] = content
	p.files[v.Name] = secretFile{path, content}
}

// fields fills s from what is set and from the defaults.
func (p *parser) fields(s *Settings) {
	values := map[string]string{}
	for name, value := range p.set {
		values[Prefix+name] = value
	}
	err := env.ParseWithOptions(s, env.Options{Environment: values, Prefix: Prefix, FuncMap: parsers})
	var all env.AggregateError
	if err != nil && !errors.As(err, &all) {
		all.Errors = []error{err}
	}
	for _, err := range all.Errors {
		var missing env.VarIsNotSetError
		var wrong env.ParseError
		switch {
		case errors.As(err, &missing):
			// A file that can't be read is a problem already.
			if v, _ := find(strings.TrimPrefix(missing.Key, Prefix)); !p.bad(v.Name) {
				p.add(v.Name, "is empty; set it to "+v.Takes)
			}
		case errors.As(err, &wrong):
			i := slices.IndexFunc(table, func(v Variable) bool { return v.field.Name == wrong.Name })
			p.invalid(table[i].Name, wrong.Err)
		default:
			p.add("", err.Error()) // a mistake of ours in the struct, not the user's
		}
	}
}

// parsers are the types of [Settings] that neither the environment library nor
// the type itself can parse. Their errors are reasons.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[session.Secret](): func(v string) (any, error) { return session.NewSecret(strings.TrimSpace(v)), nil },
	reflect.TypeFor[NamedSecrets]():   func(v string) (any, error) { return parseNamedSecrets(v) },
	reflect.TypeFor[Address]():        func(v string) (any, error) { return ParseAddress(v) },
	reflect.TypeFor[BaseURL]():        func(v string) (any, error) { return parseBaseURL(v) },
	reflect.TypeFor[Issuer]():         func(v string) (any, error) { return parseIssuer(v) },
	reflect.TypeFor[MCPURL]():         func(v string) (any, error) { return parseMCPURL(v) },
	reflect.TypeFor[Paths]():          func(v string) (any, error) { return parsePaths(v) },
	reflect.TypeFor[Scopes]():         func(v string) (any, error) { return parseScopes(v) },
	reflect.TypeFor[Hosts]():          func(v string) (any, error) { return parseHosts(v) },
	reflect.TypeFor[Rates]():          func(v string) (any, error) { return parseRates(v) },
	reflect.TypeFor[Size]():           func(v string) (any, error) { return parseSize(v) },
	reflect.TypeFor[CallerLimits]():   func(v string) (any, error) { return parseCallerLimits(v) },
	reflect.TypeFor[OnOff]():          func(v string) (any, error) { return OnOff(v == "on"), nil }, // oneOf judges
	reflect.TypeFor[Certificates]():   func(v string) (any, error) { return parseCertificates(v) },
}

func (p *parser) add(name, text string) {
	variable := name
	if _, ok := p.files[name]; ok {
		variable += "_FILE"
	}
	p.problems = append(p.problems, problem{name, variable, text})
}

// bad reports whether one of names is a problem already.
func (p *parser) bad(names ...string) bool {
	return slices.ContainsFunc(p.problems, func(x problem) bool { return slices.Contains(names, x.name) })
}

// check adds the usual problem unless the value is ok.
func (p *parser) check(name string, ok bool) {
	if !ok && !p.bad(name) {
		p.invalid(name, nil)
	}
}

// accept adds the usual problem if err says why the value is not taken.
func (p *parser) accept(name string, err error) {
	if err != nil && !p.bad(name) {
		p.invalid(name, err)
	}
}

// invalid adds the usual problem: what the variable got, what it takes. It
// shows err only if that is a [reason]: other errors quote the value.
func (p *parser) invalid(name string, err error) {
	v, _ := find(name)
	got := p.got(v)
	var why reason
	// The reason may be the one wrong item of a list. It may also be the whole
	// value, which stands there already.
	if errors.As(err, &why) && string(why) != got {
		got += " (" + string(why) + ")"
	}
	p.add(name, fmt.Sprintf("got %s, takes %s", got, v.Takes))
}

// got is what may be seen of a variable's value.
func (p *parser) got(v Variable) string {
	value := p.set[v.Name]
	if file, ok := p.files[v.Name]; ok {
		return fmt.Sprintf("the content of %q", file.path)
	}
	switch v.shows {
	case "all":
		return strconv.Quote(value)
	case "url":
		if shown, ok := v.withoutLogin(value); ok {
			return strconv.Quote(shown)
		}
	}
	return "a value that is not shown"
}

// withoutLogin returns the URL that a variable got without its secrets. A word
// where a URL may have a password may be that password.
func (v Variable) withoutLogin(raw string) (string, bool) {
	word := raw != "off" && !strings.ContainsAny(raw, ":@?=#/")
	if word && v.field.Type == reflect.TypeFor[session.Secret]() {
		return "", false
	}
	return withoutLogin(raw)
}

// withoutLogin returns a URL without password and query. It returns false when
// it is not certain where the password stands.
func withoutLogin(raw string) (string, bool) {
	if strings.HasPrefix(raw, "sqlite:") || !strings.ContainsAny(raw, ":@?=#/") {
		return raw, true
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || strings.Contains(raw, "@") && u.User == nil {
		return "", false
	}
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted(), true
}

// err is the problems with the variables of these names, or all, in the table's
// order.
func (p *parser) err(of ...string) error {
	var lines Error
	order := names()
	slices.SortStableFunc(p.problems, func(a, b problem) int { return slices.Index(order, a.name) - slices.Index(order, b.name) })
	for _, x := range p.problems {
		if len(of) == 0 || slices.Contains(of, x.name) {
			lines = append(lines, Prefix+x.variable+": "+x.text)
		}
	}
	if lines == nil {
		return nil
	}
	return lines
}

// reason says why a value is not taken without quoting it, so it may be shown
// even of a secret.
type reason string

func (r reason) Error() string { return string(r) }
