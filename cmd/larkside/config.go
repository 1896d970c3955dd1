package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"larkside/session"
)

// config is the environment, parsed and free of contradictions. What each field
// means stands in [settings]; secrets are the values at the start, see [secrets]
// for the present ones.
type config struct {
	AppID     string         `env:"APP_ID"`
	AppSecret session.Secret `env:"APP_SECRET"`
	Apps      namedSecrets   `env:"APPS"` // without APP_ID
	Brand     string         `env:"BRAND"`
	// The three URLs are complete after parsing and have no trailing slash.
	OpenURL     baseURL `env:"OPEN_URL"`
	AccountsURL baseURL `env:"ACCOUNTS_URL"`
	TokenURL    baseURL `env:"TOKEN_URL"`

	Listen        address `env:"LISTEN"`
	AdminListen   address `env:"ADMIN_LISTEN"`
	ConsentListen address `env:"CONSENT_LISTEN"` // may be off

	DatabaseURL session.Secret `env:"DATABASE_URL"`
	// DatabaseListenURL is empty for "as DatabaseURL", or "off".
	DatabaseListenURL session.Secret `env:"DATABASE_LISTEN_URL"`
	// EncryptionKeys is empty with SQLite's own key file and with a command.
	EncryptionKeys        session.Secret `env:"ENCRYPTION_KEYS"`
	EncryptionKeysCommand string         `env:"ENCRYPTION_KEYS_COMMAND"`

	InjectPaths paths  `env:"INJECT_PATHS"`
	TenantPaths paths  `env:"TENANT_PATHS"`
	Scopes      scopes `env:"SCOPES"` // always with offline_access

	CacheSize        int           `env:"CACHE_SIZE"`
	CacheTTL         time.Duration `env:"CACHE_TTL"`
	RefreshThreshold float64       `env:"REFRESH_THRESHOLD"` // in (0,1)
	RefreshSweep     time.Duration `env:"REFRESH_SWEEP"`     // 0: off
	RefreshRate      rates         `env:"REFRESH_RATE"`
	UserSync         time.Duration `env:"USER_SYNC"` // 0: off
	AuditRetention   time.Duration `env:"AUDIT_RETENTION"`

	ConsentFlow     string         `env:"CONSENT_FLOW"` // see config.redirects
	PublicURL       baseURL        `env:"PUBLIC_URL"`   // without trailing slash; may be empty
	ConsentTTL      time.Duration  `env:"CONSENT_TTL"`
	ConsentRate     rates          `env:"CONSENT_RATE"` // exactly one
	Card            onOff          `env:"CARD"`
	CardTitle       string         `env:"CARD_TITLE"`   // empty: built in
	CardMessage     string         `env:"CARD_MESSAGE"` // empty: built in
	PrivacyURL      baseURL        `env:"PRIVACY_URL"`  // may be empty
	Events          string         `env:"EVENTS"`
	EventToken      session.Secret `env:"EVENT_TOKEN"`
	EventEncryptKey session.Secret `env:"EVENT_ENCRYPT_KEY"`

	MaxWait      time.Duration  `env:"MAX_WAIT"`
	ReplayBuffer size           `env:"REPLAY_BUFFER"` // bytes
	CallerKeys   namedSecrets   `env:"CALLER_KEYS"`
	CallerLimits callerLimits   `env:"CALLER_LIMITS"` // of callers in CallerKeys
	AdminKey     session.Secret `env:"ADMIN_KEY"`
	AllowHosts   hosts          `env:"ALLOW_HOSTS"` // lower case; empty: loopback names
	AllowRemote  bool           `env:"ALLOW_REMOTE"`

	UpstreamTimeout time.Duration  `env:"UPSTREAM_TIMEOUT"`
	UpstreamCAs     certificates   `env:"UPSTREAM_CA_FILE"` // added to the system's
	UpstreamProxy   session.Secret `env:"UPSTREAM_PROXY"`   // a URL that parses; may be empty

	PropagateTrace bool          `env:"PROPAGATE_TRACE"`
	TraceUsers     string        `env:"TRACE_USERS"`
	TraceErrors    bool          `env:"TRACE_ERRORS"`
	ShutdownGrace  time.Duration `env:"SHUTDOWN_GRACE"`
	LogLevel       slog.Level    `env:"LOG_LEVEL"`
	LogFormat      string        `env:"LOG_FORMAT"` // empty: by terminal
	AccessLog      bool          `env:"ACCESS_LOG"`

	// files maps a setting's name to the file its value came from.
	files map[string]secretFile
	// warnings are for the log at the start: allowed, but likely not meant.
	warnings []string
}

// postgres reports whether the database is PostgreSQL rather than SQLite.
func (c *config) postgres() bool { return isPostgres(c.DatabaseURL.Expose()) }

// redirects reports whether consent goes by redirect rather than device flow.
func (c *config) redirects() bool {
	return c.ConsentFlow == "redirect" || c.ConsentFlow == "auto" && c.PublicURL != ""
}

// appIDs are all configured apps, the main one first.
func (c *config) appIDs() []string {
	ids := []string{c.AppID}
	for _, app := range c.Apps {
		ids = append(ids, app.Name)
	}
	return ids
}

// settingsError is every problem with the settings, one line each, none of
// which holds a secret.
type settingsError []string

func (e settingsError) Error() string { return strings.Join(e, "\n") }

// parseConfig reads environ ("NAME=value") and reports every problem at once as
// a [settingsError]. A variable that is set to nothing counts as not set. With
// names (without LARKSIDE_) only problems with these are reported: a command
// that needs the database only can do without the app's secret.
func parseConfig(environ []string, names ...string) (*config, error) {
	p := newParser(environ, notYet)
	c := p.parse()
	if err := p.err(names); err != nil {
		return nil, err
	}
	return c, nil
}

// problem is one line of a settingsError. Names are without LARKSIDE_.
type problem struct {
	name     string // the setting's; of an unknown one what was written
	variable string // what the line begins with: name, or NAME_FILE
	text     string
}

// parser collects the problems of one reading.
type parser struct {
	// set maps names without LARKSIDE_ to what the user gave, by variable or file.
	set      map[string]string
	files    map[string]secretFile
	notYet   []unavailable
	problems []problem
}

func newParser(environ []string, notYet []unavailable) *parser {
	p := &parser{set: map[string]string{}, files: map[string]secretFile{}, notYet: notYet}
	given := env.ToMap(environ)
	for _, full := range slices.Sorted(maps.Keys(given)) {
		name, ours := strings.CutPrefix(full, prefix)
		if !ours || given["KUBERNETES_SERVICE_HOST"] != "" && serviceLink.MatchString(name) {
			continue
		}
		if !slices.Contains(variables(), name) {
			p.add(name, "got an unknown name, the nearest known one is "+prefix+nearest(name, variables()))
		} else if given[full] != "" {
			p.set[name] = given[full]
		}
	}
	return p
}

// serviceLink matches what Kubernetes puts into every pod beside a Service that
// is called larkside or larkside-…; they are nobody's typing mistake.
var serviceLink = regexp.MustCompile(`^([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// variables are all known names without LARKSIDE_, those for files included.
func variables() []string {
	var names []string
	for _, s := range settings {
		names = append(names, s.Name)
		if s.File {
			names = append(names, s.Name+"_FILE")
		}
	}
	return names
}

func (p *parser) parse() *config {
	for _, s := range settings {
		if s.File {
			p.readFile(s)
		}
		p.refuseUnavailable(s)
	}
	c := &config{}
	p.fields(c)
	c.files = p.files
	c.complete()
	p.ranges(c)
	p.contradictions(c)
	c.warnings = warnings(c)
	return c
}

// readFile takes a value from the file that NAME_FILE names.
func (p *parser) readFile(s setting) {
	path, ok := p.set[s.Name+"_FILE"]
	if !ok {
		return
	}
	delete(p.set, s.Name+"_FILE")
	if _, both := p.set[s.Name]; both {
		p.add(s.Name, fmt.Sprintf("got a value and %s%s_FILE, takes one of the two", prefix, s.Name))
		return
	}
	content, err := readBounded(path)
	if err != nil {
		p.problems = append(p.problems, problem{s.Name, s.Name + "_FILE",
			fmt.Sprintf("got %q (%v), takes the path of a readable file that is not empty", path, err)})
		return
	}
	p.set[s.Name] = content
	p.files[s.Name] = secretFile{path, content}
}

func (p *parser) refuseUnavailable(s setting) {
	i := slices.IndexFunc(p.notYet, func(u unavailable) bool { return u.name == s.Name })
	value, set := p.set[s.Name]
	if i < 0 || !set || slices.Contains(p.notYet[i].allowed, value) {
		return
	}
	p.add(s.Name, fmt.Sprintf("got %s, which is not available yet; leave it out", p.got(s)))
}

// fields fills c from what is set and from the defaults.
func (p *parser) fields(c *config) {
	values := map[string]string{}
	for _, s := range settings {
		value, set := p.set[s.Name]
		if !set {
			value = s.Default
		}
		if !set && s.Shown == required && !p.bad(s.Name) {
			p.add(s.Name, "got nothing, takes "+s.takes())
		}
		values[prefix+s.Name] = value
	}
	err := env.ParseWithOptions(c, env.Options{Environment: values, Prefix: prefix, FuncMap: parsers})
	var all env.AggregateError
	if err != nil && !errors.As(err, &all) {
		all.Errors = []error{err}
	}
	for _, err := range all.Errors {
		var field env.ParseError
		if !errors.As(err, &field) {
			p.add("", err.Error()) // a mistake of ours in the struct, not the user's
			continue
		}
		f, _ := reflect.TypeFor[config]().FieldByName(field.Name)
		p.invalid(f.Tag.Get("env"), field.Err)
	}
}

// complete fills in what follows from the brand.
func (c *config) complete() {
	open, accounts := baseURL("https://open.feishu.cn"), baseURL("https://accounts.feishu.cn")
	if c.Brand == "lark" {
		open, accounts = "https://open.larksuite.com", "https://accounts.larksuite.com"
	}
	if c.OpenURL == "" {
		c.OpenURL = open
	}
	if c.AccountsURL == "" {
		c.AccountsURL = accounts
	}
	if c.TokenURL == "" {
		c.TokenURL = c.OpenURL + "/open-apis/authen/v2/oauth/token"
	}
}

// ranges checks what a type can't say.
func (p *parser) ranges(c *config) {
	for _, s := range settings {
		if value, set := p.set[s.Name]; set && s.OneOf != nil {
			p.check(s.Name, slices.Contains(s.OneOf, value))
		}
	}
	p.check("APP_ID", appID.MatchString(c.AppID))
	p.check("LISTEN", !c.Listen.off())
	p.check("ADMIN_LISTEN", !c.AdminListen.off())
	p.check("DATABASE_URL", checkDatabaseURL(c.DatabaseURL.Expose()) == nil)
	if listen := c.DatabaseListenURL.Expose(); listen != "" && listen != "off" {
		p.check("DATABASE_LISTEN_URL", isPostgres(listen) && checkDatabaseURL(listen) == nil)
	}
	if !c.EncryptionKeys.Empty() {
		if _, err := session.ParseKeyring(c.EncryptionKeys); err != nil {
			p.invalid("ENCRYPTION_KEYS", reason(err.Error()))
		}
	}
	p.check("ENCRYPTION_KEYS_COMMAND", c.EncryptionKeysCommand == "" || strings.TrimSpace(c.EncryptionKeysCommand) != "")
	p.check("CACHE_SIZE", c.CacheSize >= 1)
	p.check("CACHE_TTL", c.CacheTTL > 0)
	p.check("REFRESH_THRESHOLD", c.RefreshThreshold > 0 && c.RefreshThreshold < 1)
	p.check("REFRESH_SWEEP", c.RefreshSweep >= 0)
	p.check("USER_SYNC", c.UserSync >= 0)
	p.check("AUDIT_RETENTION", c.AuditRetention > 0)
	p.check("PUBLIC_URL", strings.HasPrefix(string(c.PublicURL), "https://") || c.PublicURL.loopback() || c.PublicURL == "")
	p.check("CONSENT_TTL", c.ConsentTTL > 0)
	p.check("CONSENT_RATE", len(c.ConsentRate) == 1)
	p.check("MAX_WAIT", c.MaxWait >= 0)
	p.check("UPSTREAM_TIMEOUT", c.UpstreamTimeout > 0)
	p.check("UPSTREAM_PROXY", c.UpstreamProxy.Empty() || isProxyURL(c.UpstreamProxy.Expose()))
	p.check("SHUTDOWN_GRACE", c.ShutdownGrace >= 0)
}

var appID = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)

// contradictions checks settings against each other. A setting that is a
// problem by itself is left out of it.
func (p *parser) contradictions(c *config) {
	if id := repeatedApp(c.appIDs()); id != "" && !p.bad("APP_ID", "APPS") {
		p.invalid("APPS", reason("app "+id+" is configured twice"))
	}
	if !p.bad("ENCRYPTION_KEYS", "ENCRYPTION_KEYS_COMMAND", "DATABASE_URL") {
		p.keyContradictions(c)
	}
	p.remoteContradiction("LISTEN", c.Listen, "CALLER_KEYS", len(c.CallerKeys) == 0 && !c.AllowRemote)
	p.remoteContradiction("ADMIN_LISTEN", c.AdminListen, "ADMIN_KEY", c.AdminKey.Empty() && !c.AllowRemote)
	p.sameAddress("ADMIN_LISTEN", c.AdminListen, "LISTEN", c.Listen)
	p.sameAddress("CONSENT_LISTEN", c.ConsentListen, "LISTEN", c.Listen)
	p.sameAddress("CONSENT_LISTEN", c.ConsentListen, "ADMIN_LISTEN", c.AdminListen)
	p.consentContradictions(c)
	p.limitContradictions(c)
}

func (p *parser) keyContradictions(c *config) {
	switch {
	case !c.EncryptionKeys.Empty() && c.EncryptionKeysCommand != "":
		p.add("ENCRYPTION_KEYS", "got a value and "+prefix+"ENCRYPTION_KEYS_COMMAND, takes one of the two")
	case c.EncryptionKeys.Empty() && c.EncryptionKeysCommand == "" && c.postgres():
		s, _ := findSetting("ENCRYPTION_KEYS")
		p.add(s.Name, "got nothing although "+prefix+"DATABASE_URL is PostgreSQL, takes "+s.takes())
	}
	if listen := c.DatabaseListenURL.Expose(); !p.bad("DATABASE_LISTEN_URL") && isPostgres(listen) && !c.postgres() {
		p.add("DATABASE_LISTEN_URL", "got a PostgreSQL URL although "+prefix+"DATABASE_URL is SQLite, takes nothing then")
	}
}

// remoteContradiction refuses a listener that other machines reach and nothing guards.
func (p *parser) remoteContradiction(name string, a address, keys string, open bool) {
	if p.bad(name, keys, "ALLOW_REMOTE") || a.loopback() || !open {
		return
	}
	p.add(name, fmt.Sprintf("got %q without %s%s, takes a loopback address or unix:/path.sock, or any address with %[2]s%[3]s; or set %[2]sALLOW_REMOTE=true if something else guards it",
		a.String(), prefix, keys))
}

func (p *parser) sameAddress(name string, a address, other string, b address) {
	if p.bad(name, other) || a.off() || a != b || a.port() == "0" {
		return
	}
	p.add(name, fmt.Sprintf("got %q, which is %s%s too, takes an address of its own", a.String(), prefix, other))
}

func (p *parser) consentContradictions(c *config) {
	if c.redirects() && !p.bad("CONSENT_FLOW", "PUBLIC_URL", "CONSENT_LISTEN") {
		if c.PublicURL == "" {
			p.add("CONSENT_FLOW", `got "redirect" without `+prefix+"PUBLIC_URL, takes redirect only with it")
		}
		if c.ConsentListen.off() {
			p.add("CONSENT_LISTEN", "got off although consent goes by redirect ("+prefix+"PUBLIC_URL is set or "+prefix+
				"CONSENT_FLOW=redirect), takes host:port or unix:/path.sock; "+prefix+"CONSENT_FLOW=device needs none")
		}
	}
	if c.Events != "http" || p.bad("EVENTS", "CONSENT_LISTEN", "EVENT_TOKEN", "EVENT_ENCRYPT_KEY") {
		return
	}
	missing := map[string]bool{"CONSENT_LISTEN": c.ConsentListen.off(), "EVENT_TOKEN": c.EventToken.Empty(), "EVENT_ENCRYPT_KEY": c.EventEncryptKey.Empty()}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if s, _ := findSetting(name); missing[name] {
			p.add(name, "got nothing although "+prefix+"EVENTS=http, takes "+strings.TrimSuffix(s.takes(), " or off"))
		}
	}
}

// warnings are what is allowed but likely not meant.
func warnings(c *config) []string {
	var w []string
	for _, p := range c.InjectPaths {
		if neverInjected(p) {
			w = append(w, fmt.Sprintf("%sINJECT_PATHS names %s: no user token is ever injected there", prefix, p))
		}
	}
	for _, u := range []struct {
		name string
		url  baseURL
	}{{"OPEN_URL", c.OpenURL}, {"ACCOUNTS_URL", c.AccountsURL}, {"TOKEN_URL", c.TokenURL}} {
		if strings.HasPrefix(string(u.url), "http://") && !u.url.loopback() {
			w = append(w, fmt.Sprintf("%s%s is plain http: tokens can be read on the way", prefix, u.name))
		}
	}
	if c.Events == "websocket" {
		w = append(w, prefix+"EVENTS=websocket takes events away from any other long connection of the app: Lark hands each event to one of them")
	}
	return w
}

// neverInjected reports whether a path prefix lies in the part of Lark's API
// that hands out tokens.
func neverInjected(p string) bool {
	for _, guarded := range []string{"/open-apis/auth/", "/open-apis/authen/", "/oauth/"} {
		if strings.HasPrefix(p+"/", guarded) && p != "/open-apis/authen/v1/user_info" {
			return true
		}
	}
	return false
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

func (p *parser) check(name string, ok bool) {
	if !ok && !p.bad(name) {
		p.invalid(name, nil)
	}
}

// invalid adds the usual problem: what it got, what it takes. Only a [reason]
// is shown of err: other errors quote the value.
func (p *parser) invalid(name string, err error) {
	s, _ := findSetting(name)
	got := p.got(s)
	var why reason
	// The one wrong item of a list, unless it is all there is.
	if errors.As(err, &why) && string(why) != got {
		got += " (" + string(why) + ")"
	}
	p.add(name, fmt.Sprintf("got %s, takes %s", got, s.takes()))
}

// got is what may be seen of a setting's value.
func (p *parser) got(s setting) string {
	value := p.set[s.Name]
	const hidden = "a value that is not shown"
	if file, ok := p.files[s.Name]; ok {
		return fmt.Sprintf("the content of %q", file.path)
	}
	switch s.Shows {
	case whole:
		return strconv.Quote(value)
	case noLogin:
		if shown, ok := withoutLogin(value); ok {
			return strconv.Quote(shown)
		}
	}
	return hidden
}

// withoutLogin returns a URL without password and query, and false when it is
// not certain where the password stands.
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

// err is the problems with names, or all, in the table's order.
func (p *parser) err(names []string) error {
	var lines settingsError
	order := variables()
	slices.SortStableFunc(p.problems, func(a, b problem) int { return slices.Index(order, a.name) - slices.Index(order, b.name) })
	for _, x := range p.problems {
		if len(names) == 0 || slices.Contains(names, x.name) {
			lines = append(lines, prefix+x.variable+": "+x.text)
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

// parsers are the types of config that neither the environment library nor the
// type itself can parse. Their errors are reasons.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[session.Secret](): func(v string) (any, error) { return session.NewSecret(strings.TrimSpace(v)), nil },
	reflect.TypeFor[namedSecrets]():   func(v string) (any, error) { return parseNamedSecrets(v) },
	reflect.TypeFor[address]():        func(v string) (any, error) { return parseAddress(v) },
	reflect.TypeFor[baseURL]():        func(v string) (any, error) { return parseBaseURL(v) },
	reflect.TypeFor[paths]():          func(v string) (any, error) { return parsePaths(v) },
	reflect.TypeFor[scopes]():         func(v string) (any, error) { return parseScopes(v) },
	reflect.TypeFor[hosts]():          func(v string) (any, error) { return parseHosts(v) },
	reflect.TypeFor[rates]():          func(v string) (any, error) { return parseRates(v) },
	reflect.TypeFor[size]():           func(v string) (any, error) { return parseSize(v) },
	reflect.TypeFor[callerLimits]():   func(v string) (any, error) { return parseCallerLimits(v) },
	reflect.TypeFor[onOff]():          func(v string) (any, error) { return onOff(v == "on"), nil }, // OneOf judges
	reflect.TypeFor[certificates]():   func(v string) (any, error) { return parseCertificates(v) },
}

// onOff is true for "on".
type onOff bool

// namedSecret is one name:secret of a list.
type namedSecret struct {
	Name   string // an app's id, a caller's name
	Secret session.Secret
}

type namedSecrets []namedSecret

// get returns the secret of the first entry with this name, or an empty one.
func (n namedSecrets) get(name string) session.Secret {
	for _, s := range n {
		if s.Name == name {
			return s.Secret
		}
	}
	return session.Secret{}
}

var validName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)

// parseNamedSecrets reads "name:secret", separated by commas or white space. A
// name may stand twice with different secrets: so keys are rotated.
func parseNamedSecrets(list string) (namedSecrets, error) {
	var all namedSecrets
	for i, entry := range strings.FieldsFunc(list, listSeparator) {
		name, secret, ok := strings.Cut(entry, ":")
		if !ok || secret == "" || !validName.MatchString(name) {
			return nil, reason(fmt.Sprintf("entry %d is not name:secret with a name of A-Za-z0-9_.-", i+1))
		}
		all = append(all, namedSecret{name, session.NewSecret(secret)})
	}
	if all == nil {
		return nil, reason("the list is empty")
	}
	return all, nil
}

// repeatedApp returns the first app id that is there twice, or "".
func repeatedApp(ids []string) string {
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			return id
		}
	}
	return ""
}

func listSeparator(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }

// baseURL is an absolute http(s) URL without trailing slash, query and user.
type baseURL string

func parseBaseURL(v string) (baseURL, error) {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", reason("not an http or https URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(v, "#"):
		return "", reason("more than scheme, host, port and path")
	}
	return baseURL(strings.TrimRight(v, "/")), nil
}

// loopback reports whether the URL's host is this machine.
func (b baseURL) loopback() bool {
	u, err := url.Parse(string(b))
	return err == nil && isLoopback(u.Hostname())
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// address is where a listener listens; the zero address is off.
type address struct {
	network string // tcp or unix
	addr    string // host:port or an absolute path
}

func (a address) off() bool { return a.network == "" }

// loopback reports whether only this machine can reach it. A host name other
// than localhost can mean anything.
func (a address) loopback() bool {
	if a.network != "tcp" {
		return true
	}
	host, _, err := net.SplitHostPort(a.addr)
	return err == nil && isLoopback(host)
}

func (a address) port() string {
	if a.network != "tcp" {
		return ""
	}
	_, port, _ := net.SplitHostPort(a.addr)
	return port
}

func (a address) String() string {
	switch a.network {
	case "":
		return "off"
	case "unix":
		return "unix:" + a.addr
	}
	return a.addr
}

// maxSocketPath is the longest path that fits into a socket address on every
// system we know (macOS; Linux takes 107).
const maxSocketPath = 103

func parseAddress(v string) (address, error) {
	if v == "off" {
		return address{}, nil
	}
	if path, ok := strings.CutPrefix(v, "unix:"); ok {
		if !filepath.IsAbs(path) || len(path) > maxSocketPath {
			return address{}, reason(fmt.Sprintf("not an absolute path of at most %d bytes", maxSocketPath))
		}
		return address{"unix", filepath.Clean(path)}, nil
	}
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return address{}, reason("not host:port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return address{}, reason("the port is not a number from 0 to 65535")
	}
	return address{"tcp", net.JoinHostPort(host, port)}, nil
}

// paths are the syntax of INJECT_PATHS and TENANT_PATHS.
type paths []string

func parsePaths(v string) (paths, error) {
	var all paths
	for _, path := range strings.Split(v, ",") {
		path = strings.TrimSpace(path)
		if path == "" {
			continue
		}
		if !canonical(path) {
			return nil, reason(fmt.Sprintf("%q", path))
		}
		all = append(all, path)
	}
	return all, nil
}

// canonical reports whether path is in the form in which requests are judged.
func canonical(path string) bool {
	odd := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`%?#\`, r) }
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, odd) || strings.Contains(path, "//") {
		return false
	}
	dots := func(segment string) bool { return segment == "." || segment == ".." }
	return !slices.ContainsFunc(strings.Split(path, "/"), dots)
}

// scopes are what a user is asked for, offline_access included.
type scopes []string

// maxScopes is what Lark's authorize page takes at once (page dated 2026-03-19).
const maxScopes = 50

func parseScopes(v string) (scopes, error) {
	var all scopes
	for _, scope := range append(strings.FieldsFunc(v, listSeparator), "offline_access") {
		if !slices.Contains(all, scope) {
			all = append(all, scope)
		}
	}
	if len(all) > maxScopes {
		return nil, reason(fmt.Sprintf("%d scopes with offline_access", len(all)))
	}
	return all, nil
}

// hosts are Host values: a name or address with or without port, or "*".
type hosts []string

var validHost = regexp.MustCompile(`^(\*|[a-z0-9_.-]+(:[0-9]+)?|\[[0-9a-f:.]+\](:[0-9]+)?|[0-9a-f:.]+)$`)

func parseHosts(v string) (hosts, error) {
	var all hosts
	for _, host := range strings.FieldsFunc(strings.ToLower(v), listSeparator) {
		if !validHost.MatchString(host) {
			return nil, reason(fmt.Sprintf("%q", host))
		}
		all = append(all, host)
	}
	return all, nil
}

// rate allows Count in every span of Per.
type rate struct {
	Count int
	Per   time.Duration
}

// rates hold together: the tightest one decides.
type rates []rate

func parseRates(v string) (rates, error) {
	var all rates
	for entry := range strings.SplitSeq(v, ",") {
		count, per, _ := strings.Cut(strings.TrimSpace(entry), "/")
		n, err := strconv.Atoi(count)
		d, err2 := time.ParseDuration(per)
		if err != nil || err2 != nil || n < 1 || d <= 0 {
			return nil, reason(fmt.Sprintf("%q", entry))
		}
		all = append(all, rate{n, d})
	}
	return all, nil
}

// size is a number of bytes.
type size int64

func parseSize(v string) (size, error) {
	number, unit := v, int64(1)
	for suffix, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if cut, ok := strings.CutSuffix(v, suffix); ok {
			number, unit = cut, bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<40)/unit {
		return 0, reason("not a size of at most 1 TiB")
	}
	return size(n * unit), nil
}

// certificates are extra roots; nil: none.
type certificates struct{ pool *x509.CertPool }

func parseCertificates(path string) (certificates, error) {
	pem, err := readBounded(path)
	if err != nil {
		return certificates{}, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // an image without roots has only the extra ones
	}
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return certificates{}, reason("no certificate in it")
	}
	return certificates{pool}, nil
}

func isPostgres(raw string) bool {
	return strings.HasPrefix(raw, "postgres://") || strings.HasPrefix(raw, "postgresql://")
}

// checkDatabaseURL judges the form only. Its errors are reasons.
func checkDatabaseURL(raw string) error {
	if path, ok := strings.CutPrefix(raw, "sqlite:"); ok && path != "" {
		return nil
	}
	if _, err := url.Parse(raw); err != nil || !isPostgres(raw) {
		return reason("neither postgres://… nor sqlite:PATH")
	}
	return nil
}

func isProxyURL(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) && u.Hostname() != ""
}

// fileProblem is an error of the file system without the path, which the reader
// of the message has already.
func fileProblem(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
