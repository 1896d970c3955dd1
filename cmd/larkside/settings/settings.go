package settings

import (
	"cmp"
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
type Settings struct {
	AppID     string         `env:"APP_ID"`
	AppSecret session.Secret `env:"APP_SECRET"`
	Apps      NamedSecrets   `env:"APPS"` // without APP_ID
	Brand     string         `env:"BRAND"`
	// The three URLs are complete after parsing and have no trailing slash.
	OpenURL     BaseURL `env:"OPEN_URL"`
	AccountsURL BaseURL `env:"ACCOUNTS_URL"`
	TokenURL    BaseURL `env:"TOKEN_URL"`

	Listen        Address `env:"LISTEN"`
	AdminListen   Address `env:"ADMIN_LISTEN"`
	ConsentListen Address `env:"CONSENT_LISTEN"` // may be off

	DatabaseURL session.Secret `env:"DATABASE_URL"`
	// DatabaseListenURL is empty for "as DatabaseURL", or "off".
	DatabaseListenURL session.Secret `env:"DATABASE_LISTEN_URL"`
	// EncryptionKeys is empty with SQLite's own key file and with a command.
	EncryptionKeys        session.Secret `env:"ENCRYPTION_KEYS"`
	EncryptionKeysCommand string         `env:"ENCRYPTION_KEYS_COMMAND"`

	InjectPaths Paths  `env:"INJECT_PATHS"`
	TenantPaths Paths  `env:"TENANT_PATHS"`
	Scopes      Scopes `env:"SCOPES"` // always with offline_access

	CacheSize        int           `env:"CACHE_SIZE"`
	CacheTTL         time.Duration `env:"CACHE_TTL"`
	RefreshThreshold float64       `env:"REFRESH_THRESHOLD"` // in (0,1)
	RefreshSweep     time.Duration `env:"REFRESH_SWEEP"`     // 0: off
	RefreshRate      Rates         `env:"REFRESH_RATE"`
	UserSync         time.Duration `env:"USER_SYNC"` // 0: off
	AuditRetention   time.Duration `env:"AUDIT_RETENTION"`

	ConsentFlow     string         `env:"CONSENT_FLOW"` // see config.redirects
	PublicURL       BaseURL        `env:"PUBLIC_URL"`   // without trailing slash; may be empty
	ConsentTTL      time.Duration  `env:"CONSENT_TTL"`
	ConsentRate     Rates          `env:"CONSENT_RATE"` // exactly one
	Card            OnOff          `env:"CARD"`
	CardTitle       string         `env:"CARD_TITLE"`   // empty: built in
	CardMessage     string         `env:"CARD_MESSAGE"` // empty: built in
	PrivacyURL      BaseURL        `env:"PRIVACY_URL"`  // may be empty
	Events          string         `env:"EVENTS"`
	EventToken      session.Secret `env:"EVENT_TOKEN"`
	EventEncryptKey session.Secret `env:"EVENT_ENCRYPT_KEY"`

	MaxWait      time.Duration  `env:"MAX_WAIT"`
	ReplayBuffer Size           `env:"REPLAY_BUFFER"` // bytes
	CallerKeys   NamedSecrets   `env:"CALLER_KEYS"`
	CallerLimits CallerLimits   `env:"CALLER_LIMITS"` // of callers in CallerKeys
	AdminKey     session.Secret `env:"ADMIN_KEY"`
	AllowHosts   Hosts          `env:"ALLOW_HOSTS"` // lower case; empty: loopback names
	AllowRemote  bool           `env:"ALLOW_REMOTE"`

	UpstreamTimeout time.Duration  `env:"UPSTREAM_TIMEOUT"`
	UpstreamCAs     Certificates   `env:"UPSTREAM_CA_FILE"` // added to the system's
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
	// Warnings are for the log at the start: allowed, but likely not meant.
	Warnings []string
}

// postgres reports whether the database is PostgreSQL rather than SQLite.
func (c *Settings) Postgres() bool { return isPostgres(c.DatabaseURL.Expose()) }

// redirects reports whether consent goes by redirect rather than device flow.
func (c *Settings) Redirects() bool {
	return c.ConsentFlow == "redirect" || c.ConsentFlow == "auto" && c.PublicURL != ""
}

// appIDs are all configured apps, the main one first.
func (c *Settings) AppIDs() []string {
	ids := []string{c.AppID}
	for _, app := range c.Apps {
		ids = append(ids, app.Name)
	}
	return ids
}

// settingsError is every problem with the settings, one line each, none of
// which holds a secret.
type Error []string

func (e Error) Error() string { return strings.Join(e, "\n") }

// parseConfig reads environ ("NAME=value") and reports every problem at once as
// a [settingsError]. A variable that is set to nothing counts as not set. With
// names (without LARKSIDE_) only problems with these are reported: a command
// that needs the database only can do without the app's secret.
func Parse(environ []string, names ...string) (*Settings, error) {
	p := newParser(environ, notYet)
	c := p.parse()
	if err := p.err(names); err != nil {
		return nil, err
	}
	return c, nil
}

// AdminAddress reads ADMIN_LISTEN alone: the container that asks need not have
// the other settings of the one that serves.
func AdminAddress(environ []string) (Address, error) {
	s, _ := findSetting("ADMIN_LISTEN")
	p := newParser(environ, nil)
	a, err := ParseAddress(cmp.Or(p.set[s.Name], s.Default))
	if err != nil || a.Off() {
		p.invalid(s.Name, err)
	}
	return a, p.err([]string{s.Name})
}

// AdminKey reads ADMIN_KEY or its file alone, as [AdminAddress] does.
func AdminKey(environ []string) (session.Secret, error) {
	s, _ := findSetting("ADMIN_KEY")
	p := newParser(environ, nil)
	p.readFile(s)
	return session.NewSecret(strings.TrimSpace(p.set[s.Name])), p.err([]string{s.Name})
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
		name, ours := strings.CutPrefix(full, Prefix)
		if !ours || given["KUBERNETES_SERVICE_HOST"] != "" && serviceLink.MatchString(name) {
			continue
		}
		if !slices.Contains(names(), name) {
			p.add(name, "got an unknown name, the nearest known one is "+Prefix+Nearest(name, names()))
		} else if given[full] != "" {
			p.set[name] = given[full]
		}
	}
	return p
}

// serviceLink matches what Kubernetes puts into every pod beside a Service that
// is called larkside or larkside-…; they are nobody's typing mistake.
var serviceLink = regexp.MustCompile(`^([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// names are all known names without LARKSIDE_, those for files included.
func names() []string {
	var names []string
	for _, s := range table {
		names = append(names, s.Name)
		if s.File {
			names = append(names, s.Name+"_FILE")
		}
	}
	return names
}

func (p *parser) parse() *Settings {
	for _, s := range table {
		if s.File {
			p.readFile(s)
		}
		p.refuseUnavailable(s)
	}
	c := &Settings{}
	p.fields(c)
	c.files = p.files
	c.complete()
	p.ranges(c)
	p.contradictions(c)
	c.Warnings = warnings(c)
	return c
}

// readFile takes a value from the file that NAME_FILE names.
func (p *parser) readFile(s Variable) {
	path, ok := p.set[s.Name+"_FILE"]
	if !ok {
		return
	}
	delete(p.set, s.Name+"_FILE")
	if _, both := p.set[s.Name]; both {
		p.add(s.Name, fmt.Sprintf("got a value and %s%s_FILE, takes one of the two", Prefix, s.Name))
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

func (p *parser) refuseUnavailable(s Variable) {
	i := slices.IndexFunc(p.notYet, func(u unavailable) bool { return u.name == s.Name })
	value, set := p.set[s.Name]
	if i < 0 || !set || slices.Contains(p.notYet[i].allowed, value) {
		return
	}
	p.add(s.Name, fmt.Sprintf("got %s, which is not available yet; leave it out", p.got(s)))
}

// fields fills c from what is set and from the defaults.
func (p *parser) fields(c *Settings) {
	values := map[string]string{}
	for _, s := range table {
		value, set := p.set[s.Name]
		if !set {
			value = s.Default
		}
		if !set && s.Shown == required && !p.bad(s.Name) {
			p.add(s.Name, "got nothing, takes "+s.takes())
		}
		values[Prefix+s.Name] = value
	}
	err := env.ParseWithOptions(c, env.Options{Environment: values, Prefix: Prefix, FuncMap: parsers})
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
		f, _ := reflect.TypeFor[Settings]().FieldByName(field.Name)
		p.invalid(f.Tag.Get("env"), field.Err)
	}
}

// complete fills in what follows from the brand.
func (c *Settings) complete() {
	open, accounts := BaseURL("https://open.feishu.cn"), BaseURL("https://accounts.feishu.cn")
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
func (p *parser) ranges(c *Settings) {
	for _, s := range table {
		if value, set := p.set[s.Name]; set && s.OneOf != nil {
			p.check(s.Name, slices.Contains(s.OneOf, value))
		}
	}
	p.check("APP_ID", appID.MatchString(c.AppID))
	p.check("LISTEN", !c.Listen.Off())
	p.check("ADMIN_LISTEN", !c.AdminListen.Off())
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
	p.check("PUBLIC_URL", strings.HasPrefix(string(c.PublicURL), "https://") || c.PublicURL.Loopback() || c.PublicURL == "")
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
func (p *parser) contradictions(c *Settings) {
	if id := repeatedApp(c.AppIDs()); id != "" && !p.bad("APP_ID", "APPS") {
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

func (p *parser) keyContradictions(c *Settings) {
	switch {
	case !c.EncryptionKeys.Empty() && c.EncryptionKeysCommand != "":
		p.add("ENCRYPTION_KEYS", "got a value and "+Prefix+"ENCRYPTION_KEYS_COMMAND, takes one of the two")
	case c.EncryptionKeys.Empty() && c.EncryptionKeysCommand == "" && c.Postgres():
		s, _ := findSetting("ENCRYPTION_KEYS")
		p.add(s.Name, "got nothing although "+Prefix+"DATABASE_URL is PostgreSQL, takes "+s.takes())
	}
	if listen := c.DatabaseListenURL.Expose(); !p.bad("DATABASE_LISTEN_URL") && isPostgres(listen) && !c.Postgres() {
		p.add("DATABASE_LISTEN_URL", "got a PostgreSQL URL although "+Prefix+"DATABASE_URL is SQLite, takes nothing then")
	}
}

// remoteContradiction refuses a listener that other machines reach and nothing guards.
func (p *parser) remoteContradiction(name string, a Address, keys string, open bool) {
	if p.bad(name, keys, "ALLOW_REMOTE") || a.Loopback() || !open {
		return
	}
	p.add(name, fmt.Sprintf("got %q without %s%s, takes a loopback address or unix:/path.sock, or any address with %[2]s%[3]s; or set %[2]sALLOW_REMOTE=true if something else guards it",
		a.String(), Prefix, keys))
}

func (p *parser) sameAddress(name string, a Address, other string, b Address) {
	if p.bad(name, other) || a.Off() || a != b || a.Port() == "0" {
		return
	}
	p.add(name, fmt.Sprintf("got %q, which is %s%s too, takes an address of its own", a.String(), Prefix, other))
}

func (p *parser) consentContradictions(c *Settings) {
	if c.Redirects() && !p.bad("CONSENT_FLOW", "PUBLIC_URL", "CONSENT_LISTEN") {
		if c.PublicURL == "" {
			p.add("CONSENT_FLOW", `got "redirect" without `+Prefix+"PUBLIC_URL, takes redirect only with it")
		}
		if c.ConsentListen.Off() {
			p.add("CONSENT_LISTEN", "got off although consent goes by redirect ("+Prefix+"PUBLIC_URL is set or "+Prefix+
				"CONSENT_FLOW=redirect), takes host:port or unix:/path.sock; "+Prefix+"CONSENT_FLOW=device needs none")
		}
	}
	if c.Events != "http" || p.bad("EVENTS", "CONSENT_LISTEN", "EVENT_TOKEN", "EVENT_ENCRYPT_KEY") {
		return
	}
	missing := map[string]bool{"CONSENT_LISTEN": c.ConsentListen.Off(), "EVENT_TOKEN": c.EventToken.Empty(), "EVENT_ENCRYPT_KEY": c.EventEncryptKey.Empty()}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if s, _ := findSetting(name); missing[name] {
			p.add(name, "got nothing although "+Prefix+"EVENTS=http, takes "+strings.TrimSuffix(s.takes(), " or off"))
		}
	}
}

// warnings are what is allowed but likely not meant.
func warnings(c *Settings) []string {
	var w []string
	for _, p := range c.InjectPaths {
		if neverInjected(p) {
			w = append(w, fmt.Sprintf("%sINJECT_PATHS names %s: no user token is ever injected there", Prefix, p))
		}
	}
	for _, u := range []struct {
		name string
		url  BaseURL
	}{{"OPEN_URL", c.OpenURL}, {"ACCOUNTS_URL", c.AccountsURL}, {"TOKEN_URL", c.TokenURL}} {
		if strings.HasPrefix(string(u.url), "http://") && !u.url.Loopback() {
			w = append(w, fmt.Sprintf("%s%s is plain http: tokens can be read on the way", Prefix, u.name))
		}
	}
	if c.Events == "websocket" {
		w = append(w, Prefix+"EVENTS=websocket takes events away from any other long connection of the app: Lark hands each event to one of them")
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
func (p *parser) got(s Variable) string {
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

// err is the problems with these settings, or all, in the table's order.
func (p *parser) err(of []string) error {
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

// parsers are the types of config that neither the environment library nor the
// type itself can parse. Their errors are reasons.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[session.Secret](): func(v string) (any, error) { return session.NewSecret(strings.TrimSpace(v)), nil },
	reflect.TypeFor[NamedSecrets]():   func(v string) (any, error) { return parseNamedSecrets(v) },
	reflect.TypeFor[Address]():        func(v string) (any, error) { return ParseAddress(v) },
	reflect.TypeFor[BaseURL]():        func(v string) (any, error) { return parseBaseURL(v) },
	reflect.TypeFor[Paths]():          func(v string) (any, error) { return parsePaths(v) },
	reflect.TypeFor[Scopes]():         func(v string) (any, error) { return parseScopes(v) },
	reflect.TypeFor[Hosts]():          func(v string) (any, error) { return parseHosts(v) },
	reflect.TypeFor[Rates]():          func(v string) (any, error) { return parseRates(v) },
	reflect.TypeFor[Size]():           func(v string) (any, error) { return parseSize(v) },
	reflect.TypeFor[CallerLimits]():   func(v string) (any, error) { return parseCallerLimits(v) },
	reflect.TypeFor[OnOff]():          func(v string) (any, error) { return OnOff(v == "on"), nil }, // OneOf judges
	reflect.TypeFor[Certificates]():   func(v string) (any, error) { return parseCertificates(v) },
}

// onOff is true for "on".
type OnOff bool

// namedSecret is one name:secret of a list.
type NamedSecret struct {
	Name   string // an app's id, a caller's name
	Secret session.Secret
}

type NamedSecrets []NamedSecret

// get returns the secret of the first entry with this name, or an empty one.
func (n NamedSecrets) Get(name string) session.Secret {
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
func parseNamedSecrets(list string) (NamedSecrets, error) {
	var all NamedSecrets
	for i, entry := range strings.FieldsFunc(list, listSeparator) {
		name, secret, ok := strings.Cut(entry, ":")
		if !ok || secret == "" || !validName.MatchString(name) {
			return nil, reason(fmt.Sprintf("entry %d is not name:secret with a name of A-Za-z0-9_.-", i+1))
		}
		all = append(all, NamedSecret{name, session.NewSecret(secret)})
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
type BaseURL string

func parseBaseURL(v string) (BaseURL, error) {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", reason("not an http or https URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(v, "#"):
		return "", reason("more than scheme, host, port and path")
	}
	return BaseURL(strings.TrimRight(v, "/")), nil
}

// loopback reports whether the URL's host is this machine.
func (b BaseURL) Loopback() bool {
	u, err := url.Parse(string(b))
	return err == nil && isLoopback(u.Hostname())
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// address is where a listener listens; the zero address is off.
type Address struct {
	Network string // tcp or unix
	Addr    string // host:port or an absolute path
}

func (a Address) Off() bool { return a.Network == "" }

// loopback reports whether only this machine can reach it. A host name other
// than localhost can mean anything.
func (a Address) Loopback() bool {
	if a.Network != "tcp" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Addr)
	return err == nil && isLoopback(host)
}

func (a Address) Port() string {
	if a.Network != "tcp" {
		return ""
	}
	_, port, _ := net.SplitHostPort(a.Addr)
	return port
}

func (a Address) String() string {
	switch a.Network {
	case "":
		return "off"
	case "unix":
		return "unix:" + a.Addr
	}
	return a.Addr
}

// maxSocketPath is the longest path that fits into a socket address on every
// system we know (macOS; Linux takes 107).
const maxSocketPath = 103

func ParseAddress(v string) (Address, error) {
	if v == "off" {
		return Address{}, nil
	}
	if path, ok := strings.CutPrefix(v, "unix:"); ok {
		if !filepath.IsAbs(path) || len(path) > maxSocketPath {
			return Address{}, reason(fmt.Sprintf("not an absolute path of at most %d bytes", maxSocketPath))
		}
		return Address{"unix", filepath.Clean(path)}, nil
	}
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return Address{}, reason("not host:port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return Address{}, reason("the port is not a number from 0 to 65535")
	}
	return Address{"tcp", net.JoinHostPort(host, port)}, nil
}

// paths are the syntax of INJECT_PATHS and TENANT_PATHS.
type Paths []string

func parsePaths(v string) (Paths, error) {
	var all Paths
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
type Scopes []string

// maxScopes is what Lark's authorize page takes at once (page dated 2026-03-19).
const maxScopes = 50

func parseScopes(v string) (Scopes, error) {
	var all Scopes
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
type Hosts []string

var validHost = regexp.MustCompile(`^(\*|[a-z0-9_.-]+(:[0-9]+)?|\[[0-9a-f:.]+\](:[0-9]+)?|[0-9a-f:.]+)$`)

func parseHosts(v string) (Hosts, error) {
	var all Hosts
	for _, host := range strings.FieldsFunc(strings.ToLower(v), listSeparator) {
		if !validHost.MatchString(host) {
			return nil, reason(fmt.Sprintf("%q", host))
		}
		all = append(all, host)
	}
	return all, nil
}

// rate allows Count in every span of Per.
type Rate struct {
	Count int
	Per   time.Duration
}

// rates hold together: the tightest one decides.
type Rates []Rate

func parseRates(v string) (Rates, error) {
	var all Rates
	for entry := range strings.SplitSeq(v, ",") {
		count, per, _ := strings.Cut(strings.TrimSpace(entry), "/")
		n, err := strconv.Atoi(count)
		d, err2 := time.ParseDuration(per)
		if err != nil || err2 != nil || n < 1 || d <= 0 {
			return nil, reason(fmt.Sprintf("%q", entry))
		}
		all = append(all, Rate{n, d})
	}
	return all, nil
}

// size is a number of bytes.
type Size int64

func parseSize(v string) (Size, error) {
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
	return Size(n * unit), nil
}

// certificates are extra roots; nil: none.
type Certificates struct{ Pool *x509.CertPool }

func parseCertificates(path string) (Certificates, error) {
	pem, err := readBounded(path)
	if err != nil {
		return Certificates{}, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // an image without roots has only the extra ones
	}
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return Certificates{}, reason("no certificate in it")
	}
	return Certificates{pool}, nil
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
