package settings

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Prefix begins the name of every variable of ours.
const Prefix = "LARKSIDE_"

// Variable describes one variable. The table of them is the one truth: the
// parser takes defaults and wording from it, "larkside env" prints it, and the
// README and the command's documentation are tested against it.
type Variable struct {
	// Name is the variable without LARKSIDE_.
	Name string
	// Default is what an unset variable is read as; empty: nothing.
	Default string
	// Shown is the default in words, where Default does not say it.
	Shown string
	// Takes completes "takes …" in a problem.
	Takes string
	// OneOf are the accepted words, where there are only a few.
	OneOf []string
	// Meaning is for people: unit, bounds, consequence.
	Meaning string
	// File: the value may come from the file named by NAME_FILE.
	File bool
	// Shows says how much of a value may be seen in a problem.
	Shows visibility
}

type visibility int

const (
	whole   visibility = iota
	noLogin            // a URL, without password and query
	nothing            // a secret
)

const required = "required"

const (
	takesURL      = "an http or https URL without user, query and fragment"
	takesPositive = "a duration above 0, such as 90s, 10m or 24h"
	takesDuration = "a duration, such as 90s, 10m or 24h, or 0"
	takesPaths    = "paths that begin with /, comma separated, in plain form (no dot segments, //, %, ? or #)"
	takesRates    = "count/duration, comma separated, such as 40/1s,900/1m"
	takesText     = "text"
)

// table has all variables, in the order in which people read them.
var table = []Variable{
	{Name: "APP_ID", Shown: required, Takes: "the app's id, such as cli_a1b2c3", Meaning: "the Lark app (self-built)"},
	{Name: "APP_SECRET", Shown: required, Takes: "the app's secret", File: true, Shows: nothing, Meaning: "its secret"},
	{Name: "APPS", Takes: "app_id:secret, comma separated", File: true, Shows: nothing, Meaning: "further apps, `app_id:secret,…`"},
	{Name: "BRAND", Default: "feishu", OneOf: []string{"feishu", "lark"}, Meaning: "`feishu` or `lark`: selects the hosts"},
	{Name: "OPEN_URL", Shown: "by brand", Takes: takesURL, Shows: noLogin, Meaning: "base URL of the Open Platform (emulator, private deployment)"},
	{Name: "ACCOUNTS_URL", Shown: "by brand", Takes: takesURL, Shows: noLogin, Meaning: "base URL of accounts (emulator, private deployment)"},
	{Name: "TOKEN_URL", Shown: "feishu: `{accounts}/oauth/v3/token`; lark: `{open}/open-apis/authen/v2/oauth/token`", Takes: takesURL, Shows: noLogin,
		Meaning: "the OAuth token endpoint; kept with each grant, since a v2 endpoint may refuse what v3 issued"},
	{Name: "LISTEN", Default: "127.0.0.1:8080", Takes: "host:port or unix:/path.sock",
		Meaning: "the proxy listener, for the app beside it: `host:port` (port 0: any, the chosen one is logged) or `unix:/path.sock` (mode 0660)"},
	{Name: "ADMIN_LISTEN", Default: "127.0.0.1:8081", Takes: "host:port or unix:/path.sock",
		Meaning: "the admin listener, for operators, kubelet and Prometheus"},
	{Name: "CONSENT_LISTEN", Default: "off", Takes: "host:port, unix:/path.sock or off",
		Meaning: "the consent listener, for users' browsers, through an ingress"},
	{Name: "DATABASE_URL", Default: "sqlite:larkside.db", Takes: "postgres://user:password@host/database or sqlite:PATH", File: true, Shows: noLogin,
		Meaning: "`postgres://…` (any number of replicas) or `sqlite:PATH` (one process; a second one is refused)"},
	{Name: "DATABASE_LISTEN_URL", Shown: "`DATABASE_URL`", Takes: "postgres://user:password@host/database or off", File: true, Shows: noLogin,
		Meaning: "direct connection for LISTEN when `DATABASE_URL` goes through PgBouncer; `off`: poll"},
	{Name: "ENCRYPTION_KEYS", Shown: "SQLite: made at the first start", Takes: `id:base64(32 bytes), comma separated, as "larkside keys new" prints`, File: true, Shows: nothing,
		Meaning: "keys for the tokens at rest, `id:base64(32 bytes)`, comma separated; the first seals, all open; required for PostgreSQL. SQLite without it makes `PATH.key`"},
	{Name: "ENCRYPTION_KEYS_COMMAND", Takes: "a program and its arguments, separated by spaces", Shows: nothing,
		Meaning: "a command whose output is the key list (KMS, Vault); run without a shell, at the start and on SIGHUP"},
	{Name: "INJECT_PATHS", Default: "/open-apis/apaas/,/open-apis/spark/", Takes: takesPaths,
		Meaning: "path prefixes on which a user token may be injected; one that ends in `/` is a prefix, any other is matched whole"},
	{Name: "TENANT_PATHS", Takes: takesPaths,
		Meaning: "path prefixes on which a request that names no user and brings no token of its own gets the app's tenant_access_token, so that an app needs no secret at all"},
	{Name: "SCOPES", Default: "offline_access", Takes: "at most 50 scopes, separated by spaces or commas",
		Meaning: "scopes asked of the user; `offline_access` is always added"},
	{Name: "CACHE_SIZE", Default: "100000", Takes: "a whole number of at least 1", Meaning: "users' access tokens in the in-process LRU"},
	{Name: "CACHE_TTL", Default: "60s", Takes: takesPositive, Meaning: "an entry is checked against the database at the latest after this long"},
	{Name: "REFRESH_THRESHOLD", Default: "0.1", Takes: "a fraction above 0 and below 1",
		Meaning: "refresh when less than this fraction of the access token's life is left"},
	{Name: "REFRESH_SWEEP", Default: "1m", Takes: takesDuration,
		Meaning: "how often idle sessions are looked through; each is renewed before a fifth of its refresh token's life is left; `0` off"},
	{Name: "REFRESH_RATE", Default: "40/1s,900/1m", Takes: takesRates,
		Meaning: "ceiling on calls to the token endpoint per app over all replicas (Lark allows 50/s and 1000/min); a user who waits goes before the sweep"},
	{Name: "USER_SYNC", Default: "24h", Takes: takesDuration, Meaning: "how often name, email, mobile and status of known users are read; `0` off"},
	{Name: "AUDIT_RETENTION", Default: "2160h", Takes: takesPositive, Meaning: "how long audit entries are kept"},
	{Name: "CONSENT_FLOW", Default: "auto", OneOf: []string{"auto", "device", "redirect"}, Meaning: "`device`, `redirect`, or `auto`: redirect when `PUBLIC_URL` is set"},
	{Name: "PUBLIC_URL", Takes: "an https URL without user, query and fragment (http for a loopback host only)", Shows: noLogin,
		Meaning: "base URL under which browsers reach the consent listener"},
	{Name: "CONSENT_TTL", Default: "10m", Takes: takesPositive, Meaning: "life of one pending consent"},
	{Name: "CONSENT_RATE", Default: "5/1m", Takes: "count/duration, such as 5/1m", Meaning: "consents started per user"},
	{Name: "CARD", Default: "on", OneOf: []string{"on", "off"}, Meaning: "`off`: answer 401, send nothing"},
	{Name: "CARD_TITLE", Shown: "built in", Takes: takesText, Meaning: "title of the card; the built-in text is zh-CN, en, ja"},
	{Name: "CARD_MESSAGE", Shown: "built in", Takes: takesText, Meaning: "text of the card"},
	{Name: "PRIVACY_URL", Takes: takesURL, Shows: noLogin, Meaning: "link to the privacy policy on the card and the consent pages"},
	{Name: "EVENTS", Default: "off", OneOf: []string{"off", "http", "websocket"},
		Meaning: "`http`: card clicks and revocation events at `/consent/events`, verified; `websocket`: over Lark's long connection. Lark hands each event to one of an app's connections, so `websocket` takes events away from an app that has its own"},
	{Name: "EVENT_TOKEN", Takes: "the app's Verification Token", File: true, Shows: nothing, Meaning: "Verification Token of the app's event settings, for `EVENTS=http`"},
	{Name: "EVENT_ENCRYPT_KEY", Takes: "the app's Encrypt Key", File: true, Shows: nothing, Meaning: "Encrypt Key of the app's event settings, for `EVENTS=http`"},
	{Name: "MAX_WAIT", Default: "60s", Takes: takesDuration, Meaning: "upper bound of `Prefer: wait`; `0`: never wait"},
	{Name: "REPLAY_BUFFER", Default: "64KiB", Takes: "a size, such as 65536, 64KiB or 1MiB",
		Meaning: "largest request body that can be sent again after a forced refresh"},
	{Name: "CALLER_KEYS", Takes: "name:key, comma separated", File: true, Shows: nothing,
		Meaning: "`name:key,…`: every proxied request must prove itself with `X-Larkside-Key`; a name may stand twice while its key is changed"},
	{Name: "CALLER_LIMITS", Takes: "name:users=ou_a|ou_b;paths=/prefix/|/path;rate=10/1s, comma separated, each field optional, names of CALLER_KEYS",
		Meaning: "what callers may do, `name:users=ou_a|ou_b;paths=/open-apis/apaas/;rate=10/1s,…`, each field optional: users by open_id or the name that is sent (and then no tenant token), paths as in `INJECT_PATHS`, requests per time; a caller without an entry may do everything"},
	{Name: "ADMIN_KEY", Takes: "a key", File: true, Shows: nothing, Meaning: "bearer key of the admin API and console"},
	{Name: "ALLOW_HOSTS", Shown: "loopback names", Takes: "host names, with or without port, comma separated, or *",
		Meaning: "`Host` values accepted on the proxy listener (DNS rebinding) and, beside the loopback names, on the admin listener"},
	{Name: "ALLOW_REMOTE", Default: "false", Takes: "true or false",
		Meaning: "`true`: something else guards a proxy or admin listener on a non-loopback address, so it needs no `CALLER_KEYS` or `ADMIN_KEY`"},
	{Name: "UPSTREAM_TIMEOUT", Default: "30s", Takes: takesPositive, Meaning: "time to the upstream's response header"},
	{Name: "UPSTREAM_CA_FILE", Takes: "the path of a PEM file with at least one certificate", Meaning: "extra root certificates"},
	{Name: "UPSTREAM_PROXY", Takes: "an http, https or socks5 URL", Shows: noLogin, Meaning: "an outbound proxy (the environment's `HTTPS_PROXY` is not used)"},
	{Name: "PROPAGATE_TRACE", Default: "false", Takes: "true or false", Meaning: "send `traceparent` on to Lark"},
	{Name: "TRACE_USERS", Default: "hash", OneOf: []string{"hash", "id", "off"}, Meaning: "`hash`, `id` or `off`: how users appear in spans and logs"},
	{Name: "TRACE_ERRORS", Default: "false", Takes: "true or false",
		Meaning: "`true`: export the traces of requests that end with a status of 400 or more also where `OTEL_TRACES_SAMPLER` leaves them out; every request is recorded in memory for that"},
	{Name: "SHUTDOWN_GRACE", Default: "30s", Takes: takesDuration, Meaning: "how long running requests may finish after SIGTERM"},
	{Name: "LOG_LEVEL", Default: "info", Takes: "debug, info, warn or error", Meaning: "the least severe lines that are written"},
	{Name: "LOG_FORMAT", Shown: "`json` (`text` on a terminal)", OneOf: []string{"json", "text"}, Meaning: "`json` or `text`, one line each, on standard error"},
	{Name: "ACCESS_LOG", Default: "false", Takes: "true or false", Meaning: "a line per proxied request"},
}

// notYet lists what contract and table name but this version lacks: setting one
// is refused rather than silently taken. The values in allowed are fine.
var notYet = []unavailable{}

type unavailable struct {
	name    string
	allowed []string
}

// takes completes "takes …".
func (s Variable) takes() string {
	if s.Takes != "" {
		return s.Takes
	}
	last := len(s.OneOf) - 1
	return strings.Join(s.OneOf[:last], ", ") + " or " + s.OneOf[last]
}

// defaultText is the default as people read it, in Markdown.
func (s Variable) defaultText() string {
	switch {
	case s.Shown != "":
		return s.Shown
	case s.Default != "":
		return "`" + s.Default + "`"
	}
	return "none"
}

// meaning adds what the table's other columns imply, in Markdown.
func (s Variable) meaning() string {
	m := s.Meaning
	if s.File {
		m += "; or from the file that `" + s.Name + "_FILE` names"
	}
	if isNotYet(s.Name) {
		m += " (not available yet)"
	}
	return m
}

func isNotYet(name string) bool {
	return slices.ContainsFunc(notYet, func(u unavailable) bool { return u.name == name })
}

func findSetting(name string) (Variable, bool) {
	i := slices.IndexFunc(table, func(s Variable) bool { return s.Name == name })
	if i < 0 {
		return Variable{}, false
	}
	return table[i], true
}

// Markdown is the README's table of settings.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	for _, s := range table {
		meaning := strings.ReplaceAll(s.meaning(), "|", `\|`) // also within code
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Name, s.defaultText(), meaning)
	}
	return b.String()
}

// Text is for terminals and for the command's documentation: the name and
// the default on one line, the meaning folded below.
func Text() string {
	var b strings.Builder
	for _, s := range table {
		standing := "default: " + plain(s.defaultText())
		if s.Shown == required {
			standing = required
		}
		fmt.Fprintf(&b, "%s%s (%s)\n", Prefix, s.Name, standing)
		for _, line := range fold(plain(s.meaning()), 72) {
			fmt.Fprintf(&b, "    %s\n", line)
		}
	}
	return b.String()
}

func plain(markdown string) string { return strings.ReplaceAll(markdown, "`", "") }

// fold breaks text at spaces into lines of at most width bytes.
func fold(text string, width int) []string {
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

// Nearest returns the candidate with the fewest typing mistakes from word; the
// first of several.
func Nearest(word string, candidates []string) string {
	best, least := "", -1
	for _, c := range candidates {
		if d := distance(word, c); least < 0 || d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions,
// substitutions and swapped neighbours each count one.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// View is a setting in "larkside env -o json".
type View struct {
	Name      string   `json:"name"`
	Required  bool     `json:"required"`
	Default   string   `json:"default"` // in words where no single value says it
	Takes     string   `json:"takes"`
	OneOf     []string `json:"one_of,omitempty"`
	Meaning   string   `json:"meaning"`
	Secret    bool     `json:"secret"`
	FileFrom  string   `json:"file_variable,omitempty"`
	Available bool     `json:"available"`
}

// Variables are all settings, in the order in which people read them.
func Variables() []Variable { return slices.Clone(table) }

// WriteJSON writes every setting for programs.
func WriteJSON(w io.Writer) error {
	views := []View{}
	for _, s := range table {
		v := View{
			Name: Prefix + s.Name, Required: s.Shown == required, Takes: s.takes(), OneOf: s.OneOf,
			Meaning: plain(s.Meaning), Secret: s.Shows == nothing, Available: !isNotYet(s.Name),
		}
		if !v.Required && s.defaultText() != "none" {
			v.Default = plain(s.defaultText())
		}
		if s.File {
			v.FileFrom = Prefix + s.Name + "_FILE"
		}
		views = append(views, v)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(views)
}
