package settings

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"larkside/session"
	"larkside/session/seal"
)

// ranges checks what a type can't say.
func (p *parser) ranges(s *Settings) {
	for _, v := range table {
		value, set := p.set[v.Name]
		if set && v.OneOf != nil {
			p.check(v.Name, slices.Contains(v.OneOf, value))
		}
		if d, ok := reflect.ValueOf(s).Elem().FieldByIndex(v.field.Index).Interface().(time.Duration); ok {
			p.check(v.Name, d > 0 || d == 0 && !v.positive)
		}
	}
	p.check("APP_ID", appID.MatchString(s.AppID))
	p.check("LISTEN", !s.Listen.Off())
	p.check("ADMIN_LISTEN", !s.AdminListen.Off())
	p.accept("DATABASE_URL", checkDatabaseURL(s.DatabaseURL.Expose()))
	if listen := s.DatabaseListenURL.Expose(); listen != "" {
		p.accept("DATABASE_LISTEN_URL", checkListenURL(listen))
	}
	if !s.EncryptionKeys.Empty() {
		if _, err := seal.ParseKeyring(s.EncryptionKeys); err != nil {
			p.accept("ENCRYPTION_KEYS", reason(err.Error()))
		}
	}
	p.check("ENCRYPTION_KEYS_COMMAND", s.EncryptionKeysCommand == "" || strings.TrimSpace(s.EncryptionKeysCommand) != "")
	if _, set := p.set["DATABASE_MAX_CONNS"]; set {
		p.check("DATABASE_MAX_CONNS", s.DatabaseMaxConns >= 2 && s.DatabaseMaxConns <= 1000)
	}
	p.check("DEFAULT_USER", s.DefaultUser == "" || s.DefaultUser == SignedIn || openID.MatchString(s.DefaultUser))
	p.check("CACHE_SIZE", s.CacheSize >= 1)
	p.check("REFRESH_THRESHOLD", s.RefreshThreshold > 0 && s.RefreshThreshold < 1)
	p.check("PUBLIC_URL", strings.HasPrefix(string(s.PublicURL), "https://") || s.PublicURL.loopback() || s.PublicURL == "")
	p.check("CONSENT_RATE", len(s.ConsentRate) == 1)
	p.accept("CALLER_KEYS", checkCallerKeys(s.CallerKeys))
	p.check("ADMIN_KEY", s.AdminKey.Empty() || checkAdminKey(s.AdminKey) == nil)
	p.check("UPSTREAM_PROXY", s.UpstreamProxy.Empty() || isProxyURL(s.UpstreamProxy.Expose()))
}

var openID = regexp.MustCompile(`^ou_[A-Za-z0-9]{1,125}$`)

var appID = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)

// contradictions checks settings against each other. It leaves out a setting
// that is a problem by itself.
func (p *parser) contradictions(s *Settings) {
	if id := repeatedApp(s.AppIDs()); id != "" && !p.bad("APP_ID") {
		p.accept("APPS", reason("app "+id+" is configured twice"))
	}
	if !p.bad("ENCRYPTION_KEYS", "ENCRYPTION_KEYS_COMMAND", "DATABASE_URL") {
		p.keyContradictions(s)
	}
	p.remoteContradiction("LISTEN", s.Listen, "CALLER_KEYS", len(s.CallerKeys) == 0 && !s.AllowRemote)
	p.remoteContradiction("AUTHZ_LISTEN", s.AuthzListen, "CALLER_KEYS", len(s.CallerKeys) == 0 && !s.AllowRemote)
	p.remoteContradiction("ADMIN_LISTEN", s.AdminListen, "ADMIN_KEY", s.AdminKey.Empty() && !s.AllowRemote)
	p.sameAddresses([]listener{{"LISTEN", s.Listen}, {"ADMIN_LISTEN", s.AdminListen}, {"AUTHZ_LISTEN", s.AuthzListen}, {"CONSENT_LISTEN", s.ConsentListen}})
	p.consentContradictions(s)
	p.defaultUserContradictions(s)
	p.userJWTContradictions(s)
	if !p.bad("CALLER_KEYS") {
		p.accept("CALLER_LIMITS", s.CallerLimits.checkCallers(s.CallerKeys))
	}
}

func (p *parser) keyContradictions(s *Settings) {
	switch {
	case !s.EncryptionKeys.Empty() && s.EncryptionKeysCommand != "":
		p.add("ENCRYPTION_KEYS", "got a value and "+Prefix+"ENCRYPTION_KEYS_COMMAND, takes one of the two")
	case s.EncryptionKeys.Empty() && s.EncryptionKeysCommand == "" && s.Postgres():
		v, _ := find("ENCRYPTION_KEYS")
		p.add(v.Name, "is empty although "+Prefix+"DATABASE_URL is PostgreSQL; set it to "+v.Takes)
	}
	if listen := s.DatabaseListenURL.Expose(); !p.bad("DATABASE_LISTEN_URL") && isPostgres(listen) && !s.Postgres() {
		p.add("DATABASE_LISTEN_URL", "got a PostgreSQL URL although "+Prefix+"DATABASE_URL is SQLite; leave it out")
	}
}

// remoteContradiction refuses a listener that other machines reach and nothing
// guards.
func (p *parser) remoteContradiction(name string, a Address, keys string, open bool) {
	if p.bad(name, keys, "ALLOW_REMOTE") || a.loopback() || !open {
		return
	}
	p.add(name, fmt.Sprintf("got %q without %s%s, takes a loopback address or unix:/path.sock, or any address with %[2]s%[3]s; or set %[2]sALLOW_REMOTE=true if something else guards it",
		a.String(), Prefix, keys))
}

// defaultUserContradictions refuses a default user where others than the person at
// this machine could use it.
func (p *parser) defaultUserContradictions(s *Settings) {
	if s.DefaultUser == "" || p.bad("DEFAULT_USER") {
		return
	}
	refuse := func(because string) {
		p.add("DEFAULT_USER", fmt.Sprintf("got %q although %s; it is for one person's own machine", s.DefaultUser, because))
	}
	if !p.bad("USER_JWT_ISSUER") && s.UserJWTIssuer != "" {
		refuse(Prefix + "USER_JWT_ISSUER says that each user has to be proven: takes one of the two")
	}
	if !p.bad("LISTEN") && !s.Listen.loopback() {
		refuse(fmt.Sprintf("%sLISTEN is %q, which other machines may reach: takes a loopback address or unix:/path.sock there", Prefix, s.Listen))
	}
	if !p.bad("CALLER_KEYS") && len(s.CallerKeys) > 0 {
		refuse(Prefix + "CALLER_KEYS tells several callers apart: takes one of the two")
	}
	if !p.bad("ALLOW_HOSTS") && slices.Contains(s.AllowHosts, "*") {
		refuse(Prefix + "ALLOW_HOSTS is *, by which any web page could use it (DNS rebinding): takes names there")
	}
}

// userJWTContradictions checks the settings about users' JWTs. An issuer needs an
// audience, since its tokens are for many. An audience or a claim without an issuer
// would have no effect, although the operator meant users to prove themselves.
func (p *parser) userJWTContradictions(s *Settings) {
	if p.bad("USER_JWT_ISSUER") {
		return
	}
	if v, _ := find("USER_JWT_AUDIENCE"); s.UserJWTIssuer != "" && s.UserJWTAudience == "" {
		p.add(v.Name, "is empty although "+Prefix+"USER_JWT_ISSUER is set; set it to "+v.Takes)
	}
	for _, name := range []string{"USER_JWT_AUDIENCE", "USER_JWT_CLAIM"} {
		if _, set := p.set[name]; set && s.UserJWTIssuer == "" {
			p.add(name, "got a value without "+Prefix+"USER_JWT_ISSUER, takes one only with it")
		}
	}
}

// listener is a variable and where it says to listen.
type listener struct {
	name    string
	address Address
}

// sameAddresses refuses two listeners in one place.
func (p *parser) sameAddresses(all []listener) {
	for i, l := range all {
		for _, other := range all[:i] {
			if a := l.address; !p.bad(l.name, other.name) && !a.Off() && a == other.address && a.Port() != "0" {
				p.add(l.name, fmt.Sprintf("got %q, which is %s%s too, takes an address of its own", a.String(), Prefix, other.name))
				break
			}
		}
	}
}

func (p *parser) consentContradictions(s *Settings) {
	if n := len(s.Scopes); s.Redirects() && n > maxRedirectScopes && !p.bad("SCOPES", "CONSENT_FLOW", "PUBLIC_URL") {
		p.add("SCOPES", fmt.Sprintf("got %d scopes with offline_access although consent goes by redirect, takes at most %d then", n, maxRedirectScopes))
	}
	if s.Redirects() && !p.bad("CONSENT_FLOW", "PUBLIC_URL", "CONSENT_LISTEN") {
		if s.PublicURL == "" {
			p.add("CONSENT_FLOW", `got "redirect" without `+Prefix+"PUBLIC_URL, takes redirect only with it")
		}
		if s.ConsentListen.Off() {
			p.add("CONSENT_LISTEN", "is off although consent goes by redirect ("+Prefix+"PUBLIC_URL is set or "+Prefix+
				"CONSENT_FLOW=redirect); set it to host:port or unix:/path.sock; "+Prefix+"CONSENT_FLOW=device needs none")
		}
	}
	if s.Events != "http" || p.bad("EVENTS", "CONSENT_LISTEN", "EVENT_TOKEN", "EVENT_ENCRYPT_KEY") {
		return
	}
	if s.ConsentListen.Off() {
		p.add("CONSENT_LISTEN", "is off although "+Prefix+"EVENTS=http; set it to host:port or unix:/path.sock")
	}
	empty := map[string]bool{"EVENT_TOKEN": s.EventToken.Empty(), "EVENT_ENCRYPT_KEY": s.EventEncryptKey.Empty()}
	for _, name := range slices.Sorted(maps.Keys(empty)) {
		if v, _ := find(name); empty[name] {
			p.add(name, "is empty although "+Prefix+"EVENTS=http; set it to "+v.Takes)
		}
	}
}

// warnings names settings that are allowed but probably a mistake.
func warnings(s *Settings) []string {
	var w []string
	for _, path := range s.InjectPaths {
		if neverInjected(path) {
			w = append(w, fmt.Sprintf("%sINJECT_PATHS names %s: no user token is ever injected there", Prefix, path))
		}
	}
	for _, u := range []struct {
		name string
		url  BaseURL
	}{{"OPEN_URL", s.OpenURL}, {"ACCOUNTS_URL", s.AccountsURL}, {"TOKEN_URL", s.TokenURL}, {"MCP_URL", BaseURL(s.MCPURL)}} {
		if strings.HasPrefix(string(u.url), "http://") && !u.url.loopback() {
			w = append(w, fmt.Sprintf("%s%s is plain http: tokens can be read on the way", Prefix, u.name))
		}
	}
	if u := BaseURL(s.UserJWTIssuer); strings.HasPrefix(string(u), "http://") && !u.loopback() {
		w = append(w, Prefix+"USER_JWT_ISSUER is plain http: whoever is on the way can put keys of their own in, and be any user")
	}
	if n := len(s.Scopes); !s.Redirects() && n > sureDeviceScopes {
		w = append(w, fmt.Sprintf("%sSCOPES has %d scopes with offline_access: Lark's device flow takes %d, and may take no more", Prefix, n, sureDeviceScopes))
	}
	if s.Events == "websocket" {
		w = append(w, Prefix+"EVENTS=websocket takes events away from any other long connection of the app: Lark hands each event to one of them")
	}
	return w
}

// neverInjected reports whether a path prefix lies where no user token may go: where
// Lark hands out tokens, and where its customers have webhooks.
func neverInjected(path string) bool {
	for _, guarded := range []string{"/open-apis/auth/", "/open-apis/authen/", "/oauth/", "/anycross/"} {
		if strings.HasPrefix(path+"/", guarded) && path != "/open-apis/authen/v1/user_info" {
			return true
		}
	}
	return false
}

const (
	minCallerKey = 12 // characters
	minAdminKey  = 16
)

// checkCallerKeys refuses keys that can be guessed, and one key under two
// names: it would not tell which caller sent a request, and so whose limits
// hold. Its errors are reasons.
func checkCallerKeys(keys NamedSecrets) error {
	for i, k := range keys {
		if utf8.RuneCountInString(k.Secret.Expose()) < minCallerKey {
			return reason(fmt.Sprintf("the key of %q has fewer than %d characters", k.Name, minCallerKey))
		}
		for _, other := range keys[:i] {
			if other.Name != k.Name && other.Secret.Equal(k.Secret) {
				return reason(fmt.Sprintf("%q and %q have the same key", other.Name, k.Name))
			}
		}
	}
	return nil
}

func checkAdminKey(key session.Secret) error {
	if utf8.RuneCountInString(key.Expose()) < minAdminKey {
		return reason(fmt.Sprintf("fewer than %d characters", minAdminKey))
	}
	return nil
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
