// Package settings reads the LARKSIDE_* environment variables.
//
// [Settings] declares each variable once. The tags of a field say its name, its
// default, what it takes and what it means; the parser, the problems that it
// reports, the output of "larkside env --defaults" and the tables in
// deploy/docs/settings.md all come from there. [Parse] fills the struct and reports every problem at once.
//
// A secret may come from a file, which NAME_FILE names. [Secrets] has the
// present values: it reads the files again when they change and on SIGHUP.
package settings

import (
	"log/slog"
	"strings"
	"time"

	"larkside/session"
)

// Settings is the environment, parsed and free of contradictions. Secrets are
// the values at the start; see [Secrets] for the present ones.
//
// Each field has these tags:
//
//	group       on the first field of a group: the group's heading. The fields up to
//	            the next group belong to it
//	env         the variable without LARKSIDE_; ",required": it must be set
//	envDefault  the value of a variable that is not set
//	default     the default in words, where envDefault can't say it
//	takes       completes "takes …" in a problem; without it the type says it
//	oneOf       the accepted words, comma separated
//	positive    "true": a duration must be above 0
//	blank       "refused": a variable that is set to nothing is a problem
//	file        "true": the value may come from the file that NAME_FILE names
//	shows       how much of the value a problem may quote: all, nothing, or url
//	            (no password, no query); without it the type says it
//	meaning     for people: unit, bounds, consequence
//
// A tag can't hold a backquote, so ‘…’ marks what is code in Markdown.
type Settings struct {
	AppID string `group:"App and Lark" env:"APP_ID,required" takes:"the app's id, such as cli_a1b2c3" meaning:"the Lark app (self-built)"`

	AppSecret session.Secret `env:"APP_SECRET,required" file:"true" takes:"the app's secret" meaning:"its secret"`

	// Apps are without AppID.
	Apps NamedSecrets `env:"APPS" file:"true" takes:"app_id:secret, comma separated" meaning:"further apps, ‘app_id:secret,…’"`

	Brand string `env:"BRAND" envDefault:"feishu" oneOf:"feishu,lark" meaning:"‘feishu’ or ‘lark’: selects the hosts"`

	// OpenURL, AccountsURL and TokenURL are complete after parsing.
	OpenURL BaseURL `env:"OPEN_URL" default:"by brand" meaning:"base URL of the Open Platform (emulator, private deployment)"`

	AccountsURL BaseURL `env:"ACCOUNTS_URL" default:"by brand" meaning:"base URL of accounts (emulator, private deployment)"`

	TokenURL BaseURL `env:"TOKEN_URL" default:"‘{open}/open-apis/authen/v2/oauth/token’" meaning:"the OAuth token endpoint. It is kept with each grant, since a v2 endpoint may refuse what v3 issued. Feishu's ‘{accounts}/oauth/v3/token’ refuses codes that were asked for with PKCE"`

	// MCPURL is a URL after parsing, or empty for off.
	MCPURL MCPURL `env:"MCP_URL" envDefault:"off" takes:"on, off or an http or https URL" meaning:"‘on’ (‘https://mcp.feishu.cn/mcp’ or ‘https://mcp.larksuite.com/mcp’, by brand) or a URL: Lark's remote MCP server, reached at ‘/mcp’ of the proxy listener"`

	Listen Address `group:"Listeners" env:"LISTEN" envDefault:"127.0.0.1:8080" takes:"host:port or unix:/path.sock" meaning:"the proxy listener, for the app beside it: ‘host:port’ (port 0: any, the chosen one is logged) or ‘unix:/path.sock’ (mode 0660)"`

	AdminListen Address `env:"ADMIN_LISTEN" envDefault:"127.0.0.1:8081" takes:"host:port or unix:/path.sock" meaning:"the admin listener, for operators, kubelet and Prometheus"`

	// AuthzListen may be off.
	AuthzListen Address `env:"AUTHZ_LISTEN" envDefault:"off" takes:"host:port, unix:/path.sock or off" meaning:"the authz listener, for a mesh or gateway that forwards to Lark by itself: the one place that hands out a token"`

	// ConsentListen may be off.
	ConsentListen Address `env:"CONSENT_LISTEN" envDefault:"off" takes:"host:port, unix:/path.sock or off" meaning:"the consent listener, for users' browsers, through an ingress"`

	ShutdownGrace time.Duration `env:"SHUTDOWN_GRACE" envDefault:"30s" meaning:"how long running requests may finish after SIGTERM"`

	DatabaseURL session.Secret `group:"Database and keys" env:"DATABASE_URL" envDefault:"sqlite:larkside.db" file:"true" shows:"url" takes:"postgres://user:password@host/database or sqlite:PATH" meaning:"‘postgres://…’ (any number of replicas) or ‘sqlite:PATH’ (one process; a second one is refused)"`

	// DatabaseListenURL is empty for "the same as DatabaseURL", or "off".
	DatabaseListenURL session.Secret `env:"DATABASE_LISTEN_URL" default:"‘DATABASE_URL’" file:"true" shows:"url" takes:"postgres://user:password@host/database or off" meaning:"direct connection for LISTEN when ‘DATABASE_URL’ goes through PgBouncer; ‘off’: poll"`

	// DatabaseMaxConns 0 leaves it to the store.
	DatabaseMaxConns int `env:"DATABASE_MAX_CONNS" default:"two for each processor, 6 to 16" takes:"a whole number from 2 to 1000" meaning:"connections to PostgreSQL of one replica, beside the one that listens"`

	ExpectSessions bool `env:"EXPECT_SESSIONS" envDefault:"false" meaning:"set it to ‘true’ once there are sessions. A database without any is then taken for the wrong one: the replica is not ready, requests get 503 ‘store_unavailable’, and no user is asked"`

	// EncryptionKeys is empty where SQLite has its own key file, and where a
	// command prints the keys.
	EncryptionKeys session.Secret `env:"ENCRYPTION_KEYS" default:"SQLite: made at the first start" file:"true" takes:"id:base64(32 bytes), comma separated, as \"larkside keys new\" prints" meaning:"keys that seal tokens in the database, ‘id:base64(32 bytes)’, comma separated: the first seals, all open. PostgreSQL requires it; without it SQLite makes ‘PATH.key’"`

	EncryptionKeysCommand string `env:"ENCRYPTION_KEYS_COMMAND" shows:"nothing" takes:"a program and its arguments, separated by spaces" meaning:"a command whose output is the key list (KMS, Vault); run without a shell, at the start and on SIGHUP"`

	InjectPaths Paths `group:"Requests and upstream" env:"INJECT_PATHS" envDefault:"/open-apis/apaas/,/open-apis/spark/" meaning:"paths on which a user token may be injected; one that ends in ‘/’ is a prefix, any other is matched whole"`

	TenantPaths Paths `env:"TENANT_PATHS" meaning:"paths, written as in ‘INJECT_PATHS’, on which a request that names no user and has no token gets the app's tenant_access_token, so that the app needs no secret"`

	// MaxWait 0 means never.
	MaxWait time.Duration `env:"MAX_WAIT" envDefault:"60s" meaning:"upper bound of ‘Prefer: wait’; ‘0’: never wait"`

	// ReplayBuffer is in bytes.
	ReplayBuffer Size `env:"REPLAY_BUFFER" envDefault:"64KiB" meaning:"largest request body that can be sent again after a forced refresh"`

	UpstreamTimeout time.Duration `env:"UPSTREAM_TIMEOUT" envDefault:"30s" positive:"true" meaning:"how long to wait for Lark's response header"`

	// UpstreamCAs are added to the system's.
	UpstreamCAs Certificates `env:"UPSTREAM_CA_FILE" meaning:"a PEM file with root certificates that are trusted beside the system's"`

	// UpstreamProxy is a URL that parses, or empty.
	UpstreamProxy session.Secret `env:"UPSTREAM_PROXY" shows:"url" takes:"an http, https or socks5 URL" meaning:"an outbound proxy; the environment's ‘HTTPS_PROXY’ is ignored"`

	// Scopes always have offline_access.
	Scopes Scopes `group:"Consent and card" env:"SCOPES" envDefault:"offline_access" takes:"scopes as Lark writes them, such as im:message, separated by spaces or commas" meaning:"scopes that users are asked for; ‘offline_access’ is always added. The redirect flow takes at most 200; more than 50 may be too many for the device flow"`

	// ConsentFlow is decided by [Settings.Redirects].
	ConsentFlow string `env:"CONSENT_FLOW" envDefault:"auto" oneOf:"auto,device,redirect" meaning:"‘device’, ‘redirect’, or ‘auto’: redirect when ‘PUBLIC_URL’ is set"`

	// PublicURL may be empty.
	PublicURL BaseURL `env:"PUBLIC_URL" takes:"an https URL without user, query and fragment (http for a loopback host only)" meaning:"base URL under which browsers reach the consent listener; it may have a path, which the ingress may pass on or take away"`

	ConsentTTL time.Duration `env:"CONSENT_TTL" envDefault:"10m" positive:"true" meaning:"how long a user has to answer one consent"`

	// ConsentRate has exactly one entry.
	ConsentRate Rates `env:"CONSENT_RATE" envDefault:"5/1m" takes:"count/duration, such as 5/1m" meaning:"how many consents may be started for one user"`

	Card OnOff `env:"CARD" envDefault:"on" oneOf:"on,off" meaning:"‘off’: no card is sent, and the app's 401 alone has the link"`

	// CardLink is decided by [Settings.AppLink].
	CardLink string `env:"CARD_LINK" envDefault:"auto" oneOf:"auto,direct,applink" meaning:"‘applink’: the card's button opens the link inside the client, where the right account is signed in; ‘direct’: the link as it is; ‘auto’: ‘applink’ on feishu, ‘direct’ on lark"`

	// CardTitle and CardMessage are empty for the built-in text.
	CardTitle string `env:"CARD_TITLE" default:"built in" takes:"text" meaning:"title of the card; the built-in text is zh-CN, en, ja"`

	CardMessage string `env:"CARD_MESSAGE" default:"built in" takes:"text" meaning:"text of the card"`

	// PrivacyURL may be empty.
	PrivacyURL BaseURL `env:"PRIVACY_URL" meaning:"link to the privacy policy on the card and the consent pages"`

	Events string `group:"Events" env:"EVENTS" envDefault:"off" oneOf:"off,http,websocket" meaning:"‘http’: Lark sends card clicks and revocations to ‘/consent/events’, where they are verified; ‘websocket’: they come over Lark's long connection. Lark hands each event to one of an app's connections, so ‘websocket’ takes events away from an app that has its own"`

	EventToken session.Secret `env:"EVENT_TOKEN" file:"true" takes:"the app's Verification Token" meaning:"Verification Token of the app's event settings, for ‘EVENTS=http’"`

	EventEncryptKey session.Secret `env:"EVENT_ENCRYPT_KEY" file:"true" takes:"the app's Encrypt Key" meaning:"Encrypt Key of the app's event settings, for ‘EVENTS=http’"`

	CacheSize int `group:"Tokens and refresh" env:"CACHE_SIZE" envDefault:"100000" takes:"a whole number of at least 1" meaning:"how many users' access tokens are kept in memory (LRU)"`

	CacheTTL time.Duration `env:"CACHE_TTL" envDefault:"60s" positive:"true" meaning:"a cached token is checked against the database after this long at the latest"`

	// RefreshThreshold lies between 0 and 1.
	RefreshThreshold float64 `env:"REFRESH_THRESHOLD" envDefault:"0.1" takes:"a fraction above 0 and below 1" meaning:"a token is refreshed when less than this fraction of its life is left"`

	// RefreshSweep 0 means off.
	RefreshSweep time.Duration `env:"REFRESH_SWEEP" envDefault:"1m" meaning:"how often idle sessions are looked through; each is renewed before a fifth of its refresh token's life is left; ‘0’ off"`

	RefreshRate Rates `env:"REFRESH_RATE" envDefault:"40/1s,900/1m" meaning:"ceiling on all calls to the token endpoint, per app over all replicas (Lark allows 50/s and 1000/min). Code exchanges go first, then refreshes that a request waits for, then device polls, then the sweep"`

	// UserSync 0 means off.
	UserSync time.Duration `env:"USER_SYNC" envDefault:"24h" meaning:"how often name, email, mobile and status of known users are read; ‘0’ off"`

	SessionRetention time.Duration `env:"SESSION_RETENTION" envDefault:"2160h" positive:"true" meaning:"a session that can't be used any more is deleted after this long. The tokens of a user who has left or is frozen are revoked and dropped after 24 h in any case"`

	AuditRetention time.Duration `env:"AUDIT_RETENTION" envDefault:"2160h" positive:"true" meaning:"how long audit entries are kept"`

	CallerKeys NamedSecrets `group:"Callers, users, operators" env:"CALLER_KEYS" file:"true" takes:"name:key, comma separated, keys of at least 12 characters, none under two names" meaning:"‘name:key,…’: every request to the proxy and authz listeners must have one of these keys in ‘X-Larkside-Key’. A key has at least 12 characters and belongs to one name; a name may stand twice while its key is changed"`

	// CallerLimits are of callers in CallerKeys.
	CallerLimits CallerLimits `env:"CALLER_LIMITS" takes:"name:users=ou_a|ou_b;paths=/prefix/|/path;methods=GET|HEAD;rate=10/1s, comma separated, each field optional, names of CALLER_KEYS" meaning:"what callers may do: ‘name:users=ou_a|ou_b;paths=/open-apis/apaas/;methods=GET|HEAD;rate=10/1s,…’. Each field is optional: users by open_id or the name that is sent (such a caller gets no tenant token), paths as in ‘INJECT_PATHS’, methods, requests per time. A caller without an entry may do everything"`

	// UserJWTIssuer is empty where the app is believed. It is as tokens have it, also
	// with a slash at its end.
	UserJWTIssuer Issuer `env:"USER_JWT_ISSUER" takes:"an http or https URL without user, query and fragment, as the tokens have it in iss" meaning:"the OIDC issuer that proves who the user is: each request for a user must bring that user's JWT in ‘X-Larkside-User-Token’. The issuer's keys are found by discovery, through ‘UPSTREAM_CA_FILE’ and ‘UPSTREAM_PROXY’"`

	UserJWTAudience string `env:"USER_JWT_AUDIENCE" takes:"the audience (aud) of the tokens" meaning:"the audience that the JWT must have; required with ‘USER_JWT_ISSUER’"`

	UserJWTClaim string `env:"USER_JWT_CLAIM" envDefault:"sub" takes:"the name of a claim" meaning:"the claim of the JWT that holds the user's open_id, union_id or user_id"`

	// DefaultUser is an open_id, [SignedIn], or empty for nobody.
	DefaultUser string `env:"DEFAULT_USER" takes:"an open_id (ou_…) or login" meaning:"the user of each request on an inject path that names no user and has no token: an open_id, or ‘login’ for whoever signed in last by ‘larkside login’. It is for one person's own machine, so it requires a proxy listener on loopback or a Unix socket and no ‘CALLER_KEYS’"`

	AdminKey session.Secret `env:"ADMIN_KEY" file:"true" blank:"refused" takes:"a key of at least 16 characters" meaning:"bearer key of the admin API and console, at least 16 characters; a variable that is set but empty stops the start"`

	// AllowHosts are in lower case; empty: loopback names.
	AllowHosts Hosts `env:"ALLOW_HOSTS" default:"loopback names" meaning:"‘Host’ values accepted on the proxy and authz listeners (DNS rebinding) and, beside the loopback names, on the admin listener"`

	AllowRemote bool `env:"ALLOW_REMOTE" envDefault:"false" meaning:"‘true’: a proxy, authz or admin listener may be on a non-loopback address without ‘CALLER_KEYS’ or ‘ADMIN_KEY’, because something else guards it"`

	LogLevel slog.Level `group:"Logs and traces" env:"LOG_LEVEL" envDefault:"info" takes:"debug, info, warn or error" meaning:"the least severe lines that are written: ‘debug’, ‘info’, ‘warn’ or ‘error’"`

	// LogFormat is empty for "by terminal".
	LogFormat string `env:"LOG_FORMAT" default:"‘json’ (‘text’ on a terminal)" oneOf:"json,text" meaning:"‘json’ or ‘text’, one line each, on standard error"`

	AccessLog bool `env:"ACCESS_LOG" envDefault:"false" meaning:"a line per proxied request"`

	TraceUsers string `env:"TRACE_USERS" envDefault:"hash" oneOf:"hash,id,off" meaning:"‘hash’, ‘id’ or ‘off’: how users appear in spans and logs"`

	PropagateTrace bool `env:"PROPAGATE_TRACE" envDefault:"false" meaning:"send ‘traceparent’ on to Lark"`

	// Warnings are for the log at the start: settings that are allowed but
	// likely not meant.
	Warnings []string

	// files maps a variable's name to the file that its value came from.
	files map[string]secretFile
}

// SignedIn is the DefaultUser who signed in last by "larkside login".
const SignedIn = "login"

// Postgres reports whether the database is PostgreSQL rather than SQLite.
func (s *Settings) Postgres() bool { return isPostgres(s.DatabaseURL.Expose()) }

// SQLiteFile is the path of the SQLite database, "" with PostgreSQL.
func (s *Settings) SQLiteFile() string {
	path, _ := strings.CutPrefix(s.DatabaseURL.Expose(), "sqlite:")
	if s.Postgres() {
		return ""
	}
	return path
}

// ShownDatabase is the database's URL without password and query, "" if it is not
// certain where the password stands.
func (s *Settings) ShownDatabase() string {
	shown, _ := withoutLogin(s.DatabaseURL.Expose())
	return shown
}

// File is the path of the file that a setting came from, "" if it came from
// elsewhere. name is without LARKSIDE_.
func (s *Settings) File(name string) string { return s.files[name].path }

// Redirects reports whether users consent by redirect rather than by device
// flow.
func (s *Settings) Redirects() bool {
	return s.ConsentFlow == "redirect" || s.ConsentFlow == "auto" && s.PublicURL != ""
}

// AppLink is the base URL of the AppLinks by which the card's button opens its
// link inside Lark's client; empty when it opens the link as it is.
func (s *Settings) AppLink() string {
	switch {
	case s.CardLink == "direct", s.CardLink == "auto" && s.Brand == "lark":
		return ""
	}
	return s.ChatLink()
}

// ChatLink is the base URL of the AppLinks by which a consent page leads back to
// the chat.
func (s *Settings) ChatLink() string {
	if s.Brand == "lark" {
		return "https://applink.larksuite.com"
	}
	return "https://applink.feishu.cn"
}

// AppIDs are all configured apps, the main one first.
func (s *Settings) AppIDs() []string {
	ids := []string{s.AppID}
	for _, app := range s.Apps {
		ids = append(ids, app.Name)
	}
	return ids
}

// complete fills in the URLs that follow from the brand and from each other.
func (s *Settings) complete() {
	open, accounts, mcp := BaseURL("https://open.feishu.cn"), BaseURL("https://accounts.feishu.cn"), MCPURL("https://mcp.feishu.cn/mcp")
	if s.Brand == "lark" {
		open, accounts, mcp = "https://open.larksuite.com", "https://accounts.larksuite.com", "https://mcp.larksuite.com/mcp"
	}
	if s.MCPURL == mcpOn {
		s.MCPURL = mcp
	}
	if s.OpenURL == "" {
		s.OpenURL = open
	}
	if s.AccountsURL == "" {
		s.AccountsURL = accounts
	}
	if s.TokenURL == "" {
		s.TokenURL = s.OpenURL + "/open-apis/authen/v2/oauth/token"
	}
}
