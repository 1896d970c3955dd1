package settings

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"larkside/session/seal"
)

// canary stands in every secret of these tests; no problem may show it.
const canary = "canary-7d1f"

// aKey is a valid ENCRYPTION_KEYS.
var aKey = seal.NewKey("k1").Expose()

// read parses the variables on top of an app's id and secret.
func read(t *testing.T, vars ...string) (*Settings, error) {
	t.Helper()
	environ := append([]string{"PATH=/bin", "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=" + canary}, vars...)
	return Parse(environ)
}

func mustRead(t *testing.T, vars ...string) *Settings {
	t.Helper()
	c, err := read(t, vars...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// problems are the lines of the error.
func problems(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var lines Error
	if !errors.As(err, &lines) {
		t.Fatalf("error %T %v", err, err)
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("a problem shows a secret: %v", err)
	}
	return lines
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// With nothing but the app's id and secret, every setting has the default of
// the contract's section 3.
func TestDefaults(t *testing.T) {
	c := mustRead(t)
	for name, got := range map[string][2]any{
		"APP_ID":                  {c.AppID, "cli_a1"},
		"APP_SECRET":              {c.AppSecret.Expose(), canary},
		"APPS":                    {len(c.Apps), 0},
		"BRAND":                   {c.Brand, "feishu"},
		"OPEN_URL":                {c.OpenURL, BaseURL("https://open.feishu.cn")},
		"ACCOUNTS_URL":            {c.AccountsURL, BaseURL("https://accounts.feishu.cn")},
		"TOKEN_URL":               {c.TokenURL, BaseURL("https://open.feishu.cn/open-apis/authen/v2/oauth/token")},
		"LISTEN":                  {c.Listen.String(), "127.0.0.1:8080"},
		"ADMIN_LISTEN":            {c.AdminListen.String(), "127.0.0.1:8081"},
		"AUTHZ_LISTEN":            {c.AuthzListen.String(), "off"},
		"CONSENT_LISTEN":          {c.ConsentListen.String(), "off"},
		"DATABASE_URL":            {c.DatabaseURL.Expose(), "sqlite:larkside.db"},
		"DATABASE_LISTEN_URL":     {c.DatabaseListenURL.Expose(), ""},
		"DATABASE_MAX_CONNS":      {c.DatabaseMaxConns, 0},
		"EXPECT_SESSIONS":         {c.ExpectSessions, false},
		"ENCRYPTION_KEYS":         {c.EncryptionKeys.Expose(), ""},
		"ENCRYPTION_KEYS_COMMAND": {c.EncryptionKeysCommand, ""},
		"INJECT_PATHS":            {c.InjectPaths, Paths{"/open-apis/apaas/", "/open-apis/spark/"}},
		"TENANT_PATHS":            {len(c.TenantPaths), 0},
		"SCOPES":                  {c.Scopes, Scopes{"offline_access"}},
		"CACHE_SIZE":              {c.CacheSize, 100000},
		"CACHE_TTL":               {c.CacheTTL, 60 * time.Second},
		"REFRESH_THRESHOLD":       {c.RefreshThreshold, 0.1},
		"REFRESH_SWEEP":           {c.RefreshSweep, time.Minute},
		"REFRESH_RATE":            {c.RefreshRate, Rates{{N: 40, Period: time.Second}, {N: 900, Period: time.Minute}}},
		"USER_SYNC":               {c.UserSync, 24 * time.Hour},
		"SESSION_RETENTION":       {c.SessionRetention, 2160 * time.Hour},
		"AUDIT_RETENTION":         {c.AuditRetention, 2160 * time.Hour},
		"CONSENT_FLOW":            {c.ConsentFlow, "auto"},
		"PUBLIC_URL":              {c.PublicURL, BaseURL("")},
		"CONSENT_TTL":             {c.ConsentTTL, 10 * time.Minute},
		"CONSENT_RATE":            {c.ConsentRate, Rates{{N: 5, Period: time.Minute}}},
		"CARD":                    {c.Card, OnOff(true)},
		"CARD_LINK":               {c.CardLink, "auto"},
		"CARD_TITLE":              {c.CardTitle, ""},
		"CARD_MESSAGE":            {c.CardMessage, ""},
		"PRIVACY_URL":             {c.PrivacyURL, BaseURL("")},
		"EVENTS":                  {c.Events, "off"},
		"EVENT_TOKEN":             {c.EventToken.Expose(), ""},
		"EVENT_ENCRYPT_KEY":       {c.EventEncryptKey.Expose(), ""},
		"MAX_WAIT":                {c.MaxWait, 60 * time.Second},
		"REPLAY_BUFFER":           {c.ReplayBuffer, Size(65536)},
		"CALLER_KEYS":             {len(c.CallerKeys), 0},
		"CALLER_LIMITS":           {len(c.CallerLimits), 0},
		"USER_JWT_ISSUER":         {c.UserJWTIssuer, Issuer("")},
		"USER_JWT_AUDIENCE":       {c.UserJWTAudience, ""},
		"USER_JWT_CLAIM":          {c.UserJWTClaim, "sub"},
		"ADMIN_KEY":               {c.AdminKey.Expose(), ""},
		"ALLOW_HOSTS":             {len(c.AllowHosts), 0},
		"MCP_URL":                 {c.MCPURL, MCPURL("")},
		"DEFAULT_USER":            {c.DefaultUser, ""},
		"ALLOW_REMOTE":            {c.AllowRemote, false},
		"UPSTREAM_TIMEOUT":        {c.UpstreamTimeout, 30 * time.Second},
		"UPSTREAM_CA_FILE":        {c.UpstreamCAs.Pool == nil, true},
		"UPSTREAM_PROXY":          {c.UpstreamProxy.Expose(), ""},
		"PROPAGATE_TRACE":         {c.PropagateTrace, false},
		"TRACE_USERS":             {c.TraceUsers, "hash"},
		"SHUTDOWN_GRACE":          {c.ShutdownGrace, 30 * time.Second},
		"LOG_LEVEL":               {c.LogLevel, slog.LevelInfo},
		"LOG_FORMAT":              {c.LogFormat, ""},
		"ACCESS_LOG":              {c.AccessLog, false},
	} {
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Errorf("%s is %v by default, want %v", name, got[0], got[1])
		}
		if _, ok := find(name); !ok {
			t.Errorf("%s is not in the table", name)
		}
	}
	if len(c.Warnings) != 0 {
		t.Errorf("the defaults warn: %q", c.Warnings)
	}
	if c.Redirects() || c.Postgres() {
		t.Error("the defaults are the device flow and SQLite")
	}
}

func TestBrandLark(t *testing.T) {
	c := mustRead(t, "LARKSIDE_BRAND=lark")
	if c.OpenURL != "https://open.larksuite.com" || c.AccountsURL != "https://accounts.larksuite.com" ||
		c.TokenURL != "https://open.larksuite.com/open-apis/authen/v2/oauth/token" {
		t.Errorf("%s %s %s", c.OpenURL, c.AccountsURL, c.TokenURL)
	}
}

// The button opens inside the client on Feishu, where that works, and is what
// the setting says anywhere.
func TestCardLink(t *testing.T) {
	const feishu, lark = "https://applink.feishu.cn", "https://applink.larksuite.com"
	for _, c := range []struct{ brand, link, want string }{
		{"feishu", "auto", feishu}, {"feishu", "applink", feishu}, {"feishu", "direct", ""},
		{"lark", "auto", ""}, {"lark", "applink", lark}, {"lark", "direct", ""},
	} {
		if got := mustRead(t, "LARKSIDE_BRAND="+c.brand, "LARKSIDE_CARD_LINK="+c.link).AppLink(); got != c.want {
			t.Errorf("%s, %s: %q", c.brand, c.link, got)
		}
	}
}

func TestTokenURLFollowsTheHosts(t *testing.T) {
	c := mustRead(t, "LARKSIDE_OPEN_URL=http://127.0.0.1:9000/", "LARKSIDE_ACCOUNTS_URL=http://127.0.0.1:9001")
	if c.OpenURL != "http://127.0.0.1:9000" || c.TokenURL != "http://127.0.0.1:9000/open-apis/authen/v2/oauth/token" {
		t.Errorf("%s %s", c.OpenURL, c.TokenURL)
	}
	c = mustRead(t, "LARKSIDE_BRAND=lark", "LARKSIDE_OPEN_URL=http://127.0.0.1:9000")
	if c.TokenURL != "http://127.0.0.1:9000/open-apis/authen/v2/oauth/token" {
		t.Errorf("%s", c.TokenURL)
	}
	c = mustRead(t, "LARKSIDE_TOKEN_URL=https://private.example/token")
	if c.TokenURL != "https://private.example/token" {
		t.Errorf("%s", c.TokenURL)
	}
}

func TestAccepted(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		vars     []string
		ok       func(*Settings) bool
	}{
		{"further apps", []string{"APPS=cli_b2:s2,cli_c3:s3:with:colons"}, func(c *Settings) bool {
			return slices.Equal(c.AppIDs(), []string{"cli_a1", "cli_b2", "cli_c3"}) && c.Apps.get("cli_c3").Expose() == "s3:with:colons"
		}},
		{"a caller with two keys while one is replaced", []string{"CALLER_KEYS=crm:key-number-one,crm:key-number-two"}, func(c *Settings) bool { return len(c.CallerKeys) == 2 }},
		{"a Unix socket", []string{"LISTEN=unix:/run/larkside/proxy.sock"}, func(c *Settings) bool {
			return c.Listen == Address{"unix", "/run/larkside/proxy.sock"}
		}},
		{"any port", []string{"LISTEN=127.0.0.1:0", "ADMIN_LISTEN=127.0.0.1:0"}, func(c *Settings) bool { return c.Listen == c.AdminListen }},
		{"IPv6 loopback", []string{"LISTEN=[::1]:8080"}, func(c *Settings) bool { return c.Listen.loopback() }},
		{"all addresses with keys", []string{"LISTEN=:8080", "CALLER_KEYS=crm:twelve-chars"}, func(c *Settings) bool { return !c.Listen.loopback() }},
		{"all addresses with a guard", []string{"LISTEN=0.0.0.0:8080", "ADMIN_LISTEN=[::]:8081", "ALLOW_REMOTE=true"}, nil},
		{"a remote authz listener with keys", []string{"AUTHZ_LISTEN=:8083", "CALLER_KEYS=crm:twelve-chars"}, func(c *Settings) bool { return c.AuthzListen.Addr == ":8083" }},
		{"a remote authz listener with a guard", []string{"AUTHZ_LISTEN=:8083", "ALLOW_REMOTE=true"}, nil},

		{"the brand's MCP server", []string{"MCP_URL=on", "BRAND=lark"}, func(c *Settings) bool { return c.MCPURL == "https://mcp.larksuite.com/mcp" }},
		{"an MCP server of one's own", []string{"MCP_URL=http://127.0.0.1:9/x/"}, func(c *Settings) bool { return c.MCPURL == "http://127.0.0.1:9/x" }},
		{"proven users", []string{"USER_JWT_ISSUER=https://id.example/realms/corp", "USER_JWT_AUDIENCE=larkside", "USER_JWT_CLAIM=open_id"}, func(c *Settings) bool {
			return c.UserJWTIssuer == "https://id.example/realms/corp" && c.UserJWTAudience == "larkside" && c.UserJWTClaim == "open_id"
		}},
		{"an issuer with a slash at its end, which is part of its name", []string{"USER_JWT_ISSUER=https://id.example/", "USER_JWT_AUDIENCE=x"}, func(c *Settings) bool { return c.UserJWTIssuer == "https://id.example/" && c.UserJWTClaim == "sub" }},
		{"a default user", []string{"DEFAULT_USER=ou_1"}, func(c *Settings) bool { return c.DefaultUser == "ou_1" }},
		{"a default user by login, over a Unix socket", []string{"DEFAULT_USER=login", "LISTEN=unix:/tmp/l.sock"}, func(c *Settings) bool { return c.DefaultUser == SignedIn }},
		{"a default user with hosts of other names", []string{"DEFAULT_USER=login", "ALLOW_HOSTS=localhost,host.docker.internal"}, nil},
		{"a remote consent listener, which is for browsers", []string{"CONSENT_LISTEN=:8082", "PUBLIC_URL=https://consent.example/lark/"}, func(c *Settings) bool {
			return c.Redirects() && c.PublicURL == "https://consent.example/lark"
		}},
		{"redirect with a loopback URL, for development", []string{"CONSENT_FLOW=redirect", "CONSENT_LISTEN=127.0.0.1:8082", "PUBLIC_URL=http://localhost:8082"}, (*Settings).Redirects},
		{"device flow in spite of a public URL", []string{"CONSENT_FLOW=device", "PUBLIC_URL=https://x.example"}, func(c *Settings) bool { return !c.Redirects() }},
		{"PostgreSQL with keys", []string{"DATABASE_URL=postgres://u:p@db/lark", "ENCRYPTION_KEYS=" + aKey, "DATABASE_LISTEN_URL=postgresql://u:p@direct/lark"}, (*Settings).Postgres},
		{"PostgreSQL with several hosts", []string{"DATABASE_URL=postgres://u:p@db1:5432,[::1]:5433/lark", "ENCRYPTION_KEYS=" + aKey}, (*Settings).Postgres},
		{"PostgreSQL with a command for the keys", []string{"DATABASE_URL=postgres://u:p@db/lark", "ENCRYPTION_KEYS_COMMAND=vault kv get keys", "DATABASE_LISTEN_URL=off"}, nil},
		{"SQLite with keys of one's own", []string{"DATABASE_URL=sqlite:/var/lib/larkside/x.db", "ENCRYPTION_KEYS=" + aKey + "," + seal.NewKey("k0").Expose()}, nil},
		{"scopes by spaces or commas, offline_access once", []string{"SCOPES=a:b offline_access,c:d"}, func(c *Settings) bool {
			return slices.Equal(c.Scopes, Scopes{"a:b", "offline_access", "c:d"})
		}},
		{"one path that is matched whole", []string{"INJECT_PATHS=/open-apis/im/v1/messages, /open-apis/apaas/"}, func(c *Settings) bool {
			return slices.Equal(c.InjectPaths, Paths{"/open-apis/im/v1/messages", "/open-apis/apaas/"})
		}},
		{"the sweep and the user sync off", []string{"REFRESH_SWEEP=0", "USER_SYNC=0"}, func(c *Settings) bool { return c.RefreshSweep == 0 && c.UserSync == 0 }},
		{"a size in bytes", []string{"REPLAY_BUFFER=100"}, func(c *Settings) bool { return c.ReplayBuffer == 100 }},
		{"a size in MiB", []string{"REPLAY_BUFFER=2MiB"}, func(c *Settings) bool { return c.ReplayBuffer == 2<<20 }},
		{"no replay", []string{"REPLAY_BUFFER=0"}, func(c *Settings) bool { return c.ReplayBuffer == 0 }},
		{"few connections", []string{"DATABASE_MAX_CONNS=2"}, func(c *Settings) bool { return c.DatabaseMaxConns == 2 }},
		{"one key for one caller, twice", []string{"CALLER_KEYS=crm:twelve-chars,crm:twelve-chars"}, nil},
		{"no card", []string{"CARD=off"}, func(c *Settings) bool { return !bool(c.Card) }},
		{"host names", []string{"ALLOW_HOSTS=Larkside.internal,[::1]:8080,10.0.0.1"}, func(c *Settings) bool {
			return slices.Equal(c.AllowHosts, Hosts{"larkside.internal", "[::1]:8080", "10.0.0.1"})
		}},
		{"a proxy with a password", []string{"UPSTREAM_PROXY=http://u:p@proxy:3128"}, func(c *Settings) bool { return c.UpstreamProxy.Expose() == "http://u:p@proxy:3128" }},
		{"debug", []string{"LOG_LEVEL=debug", "LOG_FORMAT=text"}, func(c *Settings) bool { return c.LogLevel == slog.LevelDebug && c.LogFormat == "text" }},
		{"events off, said aloud", []string{"EVENTS=off"}, nil},
		{"an empty variable counts as not set", []string{"CACHE_SIZE=", "APPS=", "ADMIN_KEY_FILE="}, func(c *Settings) bool { return c.CacheSize == 100000 }},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			var vars []string
			for _, v := range tc.vars {
				vars = append(vars, Prefix+v)
			}
			c, err := read(t, vars...)
			if err != nil {
				t.Fatal(err)
			}
			if tc.ok != nil && !tc.ok(c) {
				t.Errorf("%+v", c)
			}
		})
	}
}

// numbered is n scopes.
func numbered(n int) (scopes []string) {
	for i := range n {
		scopes = append(scopes, fmt.Sprintf("s:%d", i))
	}
	return scopes
}

// Each of these stops the start with one line that begins with the variable.
func TestProblems(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		vars     []string
		want     string // the one line
	}{
		{"an unknown brand", []string{"BRAND=larq"}, `LARKSIDE_BRAND: got "larq", takes feishu or lark`},
		{"an app id with spaces", []string{"APP_ID=cli a"}, `LARKSIDE_APP_ID: got "cli a", takes the app's id`},
		{"an app without secret", []string{"APPS=cli_b2"}, `LARKSIDE_APPS: got a value that is not shown (entry 1 is not name:secret`},
		{"an app twice", []string{"APPS=cli_b2:canary,cli_b2:canary"}, `LARKSIDE_APPS: got a value that is not shown (app cli_b2 is configured twice)`},
		{"the main app again", []string{"APPS=cli_a1:canary"}, `LARKSIDE_APPS: got a value that is not shown (app cli_a1 is configured twice)`},
		{"a URL without scheme", []string{"OPEN_URL=open.feishu.cn"}, `LARKSIDE_OPEN_URL: got "open.feishu.cn" (not an http or https URL), takes an http or https URL`},
		{"a URL with a password", []string{"ACCOUNTS_URL=https://u:canary@x.example"}, `LARKSIDE_ACCOUNTS_URL: got "https://u:xxxxx@x.example" (more than`},
		{"a URL with a query", []string{"TOKEN_URL=https://x.example/?token=canary"}, `LARKSIDE_TOKEN_URL: got "https://x.example/" (more than`},
		{"a port too high", []string{"LISTEN=127.0.0.1:65536"}, `LARKSIDE_LISTEN: got "127.0.0.1:65536" (the port is not a number from 0 to 65535), takes host:port`},
		{"a listener without port", []string{"LISTEN=localhost"}, `LARKSIDE_LISTEN: got "localhost" (not host:port)`},
		{"a relative socket path", []string{"LISTEN=unix:x.sock"}, `LARKSIDE_LISTEN: got "unix:x.sock" (not an absolute path`},
		{"no proxy listener", []string{"LISTEN=off"}, `LARKSIDE_LISTEN: got "off", takes host:port or unix:/path.sock`},
		{"a remote proxy listener without keys", []string{"LISTEN=:8080"}, `LARKSIDE_LISTEN: got ":8080" without LARKSIDE_CALLER_KEYS`},
		{"a host name may be anything", []string{"LISTEN=larkside.internal:8080"}, `LARKSIDE_LISTEN: got "larkside.internal:8080" without LARKSIDE_CALLER_KEYS`},
		{"a remote admin listener; the callers' keys are not for it", []string{"ADMIN_LISTEN=10.0.0.1:8081", "CALLER_KEYS=a:canary-of-twelve"}, `LARKSIDE_ADMIN_LISTEN: got "10.0.0.1:8081" without LARKSIDE_ADMIN_KEY`},
		{"a remote authz listener without keys", []string{"AUTHZ_LISTEN=:8083"}, `LARKSIDE_AUTHZ_LISTEN: got ":8083" without LARKSIDE_CALLER_KEYS`},
		{"an authz listener where apps send to", []string{"AUTHZ_LISTEN=127.0.0.1:8080"}, `LARKSIDE_AUTHZ_LISTEN: got "127.0.0.1:8080", which is LARKSIDE_LISTEN too`},
		{"two listeners on one address", []string{"ADMIN_LISTEN=127.0.0.1:8080"}, `LARKSIDE_ADMIN_LISTEN: got "127.0.0.1:8080", which is LARKSIDE_LISTEN too`},
		{"two listeners on one socket", []string{"LISTEN=unix:/a.sock", "ADMIN_LISTEN=unix:/a.sock"}, `LARKSIDE_ADMIN_LISTEN: got "unix:/a.sock", which is LARKSIDE_LISTEN too`},
		{"another database", []string{"DATABASE_URL=mysql://u:canary@h/d"}, `LARKSIDE_DATABASE_URL: got "mysql://u:xxxxx@h/d", takes postgres://`},
		{"a password with an unescaped character", []string{"DATABASE_URL=postgres://u:canary%zz@h/d"}, `LARKSIDE_DATABASE_URL: got a value that is not shown (in the user and the password, characters other than letters, digits and -._~ need percent-encoding: @ is %40, / is %2F, # is %23, ? is %3F, % is %25), takes`},
		{"a parameter that the driver lacks", []string{"DATABASE_URL=postgres://u:canary@h/d?channel_binding=require"}, `LARKSIDE_DATABASE_URL: got "postgres://u:xxxxx@h/d" (the driver has no channel_binding=require: take it out, and have the server prove itself by sslmode=verify-full), takes`},
		{"a parameter's value for LISTEN", []string{"DATABASE_LISTEN_URL=postgres://u:canary@h/d?sslmode=on"}, `LARKSIDE_DATABASE_LISTEN_URL: got "postgres://u:xxxxx@h/d" (pq: wrong value for "sslmode": "on" is not supported`},
		{"a URL whose scheme is forgotten", []string{"DATABASE_URL=u:canary@h/d"}, `LARKSIDE_DATABASE_URL: got a value that is not shown, takes`},
		{"the password alone", []string{"DATABASE_URL=canary"}, `LARKSIDE_DATABASE_URL: got a value that is not shown, takes`},
		{"the password alone for LISTEN", []string{"DATABASE_LISTEN_URL=canary"}, `LARKSIDE_DATABASE_LISTEN_URL: got a value that is not shown, takes`},
		{"the proxy's password alone", []string{"UPSTREAM_PROXY=canary"}, `LARKSIDE_UPSTREAM_PROXY: got a value that is not shown, takes`},
		{"an MCP server with a password", []string{"MCP_URL=https://u:canary@x.example/mcp"}, `LARKSIDE_MCP_URL: got "https://u:xxxxx@x.example/mcp" (more than`},
		{"an MCP server with a key", []string{"MCP_URL=https://x.example/mcp?key=canary"}, `LARKSIDE_MCP_URL: got "https://x.example/mcp" (more than`},
		{"a DSN of key=value", []string{"DATABASE_URL=host=h password=canary"}, `LARKSIDE_DATABASE_URL: got a value that is not shown, takes`},
		{"a database in memory", []string{"DATABASE_URL=sqlite::memory:"}, `LARKSIDE_DATABASE_URL: got "sqlite::memory:" (every session would be lost at a restart), takes postgres://`},
		{"a SQLite URL", []string{"DATABASE_URL=sqlite:///var/x.db"}, `LARKSIDE_DATABASE_URL: got "sqlite:///var/x.db" (sqlite: is followed by a path: sqlite:/var/x.db), takes postgres://`},
		{"a SQLite URL of a relative path", []string{"DATABASE_URL=sqlite://x.db"}, `LARKSIDE_DATABASE_URL: got "sqlite://x.db" (sqlite: is followed by a path: sqlite:x.db), takes postgres://`},
		{"a SQLite URL of nothing", []string{"DATABASE_URL=sqlite://"}, `LARKSIDE_DATABASE_URL: got "sqlite://" (sqlite: is followed by a path: sqlite:larkside.db), takes postgres://`},
		{"too few connections to work with", []string{"DATABASE_MAX_CONNS=1"}, `LARKSIDE_DATABASE_MAX_CONNS: got "1", takes a whole number from 2 to 1000`},
		{"no connections, said aloud", []string{"DATABASE_MAX_CONNS=0"}, `LARKSIDE_DATABASE_MAX_CONNS: got "0", takes a whole number from 2 to 1000`},
		{"SQLite without a path", []string{"DATABASE_URL=sqlite:"}, `LARKSIDE_DATABASE_URL: got "sqlite:", takes`},
		{"PostgreSQL without keys", []string{"DATABASE_URL=postgres://u:canary@h/d"}, `LARKSIDE_ENCRYPTION_KEYS: is empty although LARKSIDE_DATABASE_URL is PostgreSQL; set it to id:base64(32 bytes)`},
		{"keys twice over", []string{"ENCRYPTION_KEYS=" + aKey, "ENCRYPTION_KEYS_COMMAND=cat canary"}, `LARKSIDE_ENCRYPTION_KEYS: got a value and LARKSIDE_ENCRYPTION_KEYS_COMMAND, takes one of the two`},
		{"a key that is too short", []string{"ENCRYPTION_KEYS=k1:Y2FuYXJ5"}, `LARKSIDE_ENCRYPTION_KEYS: got a value that is not shown (encryption key 1:`},
		{"a command of nothing", []string{"ENCRYPTION_KEYS_COMMAND= "}, `LARKSIDE_ENCRYPTION_KEYS_COMMAND: got a value that is not shown, takes a program`},
		{"LISTEN goes to PostgreSQL only", []string{"DATABASE_LISTEN_URL=sqlite:x"}, `LARKSIDE_DATABASE_LISTEN_URL: got "sqlite:x", takes postgres://`},
		{"LISTEN on PostgreSQL with SQLite", []string{"DATABASE_LISTEN_URL=postgres://u:canary@h/d"}, `LARKSIDE_DATABASE_LISTEN_URL: got a PostgreSQL URL although LARKSIDE_DATABASE_URL is SQLite`},
		{"an inject path without slash", []string{"INJECT_PATHS=/a/,open-apis/"}, `LARKSIDE_INJECT_PATHS: got "/a/,open-apis/" ("open-apis/"), takes paths that begin with /`},
		{"a tenant path with dot segments", []string{"TENANT_PATHS=/a/../b"}, `LARKSIDE_TENANT_PATHS: got "/a/../b"`},
		{"a prefix by a wildcard", []string{"INJECT_PATHS=/b,/open-apis/apaas/*"}, `LARKSIDE_INJECT_PATHS: got "/b,/open-apis/apaas/*" ("/open-apis/apaas/*": a path that ends in / is a prefix, so write "/open-apis/apaas/"), takes paths`},
		{"a prefix by two wildcards", []string{"TENANT_PATHS=/open-apis/apaas/**"}, `LARKSIDE_TENANT_PATHS: got "/open-apis/apaas/**" ("/open-apis/apaas/**": a path that ends in / is a prefix, so write "/open-apis/apaas/"), takes paths`},
		{"a wildcard in the middle", []string{"TENANT_PATHS=/a/*/b"}, `LARKSIDE_TENANT_PATHS: got "/a/*/b" ("/a/*/b": there are no wildcards), takes paths`},
		{"an encoded path", []string{"TENANT_PATHS=/a%2fb"}, `LARKSIDE_TENANT_PATHS: got "/a%2fb"`},
		{"a path with a query", []string{"TENANT_PATHS=/a?x"}, `LARKSIDE_TENANT_PATHS: got "/a?x"`},
		{"what is no scope", []string{"SCOPES=im:message Im:Message"}, `LARKSIDE_SCOPES: got "im:message Im:Message", takes scopes as Lark writes them, such as im:message, separated by spaces or commas`},
		{"more scopes than the authorize page takes", []string{"PUBLIC_URL=https://x.example", "CONSENT_LISTEN=127.0.0.1:8082", "SCOPES=" + strings.Join(numbered(200), " ")},
			`LARKSIDE_SCOPES: got 201 scopes with offline_access although consent goes by redirect, takes at most 200 then`},
		{"no cache", []string{"CACHE_SIZE=0"}, `LARKSIDE_CACHE_SIZE: got "0", takes a whole number of at least 1`},
		{"a cache of words", []string{"CACHE_SIZE=big"}, `LARKSIDE_CACHE_SIZE: got "big", takes a whole number`},
		{"a duration without unit", []string{"CACHE_TTL=60"}, `LARKSIDE_CACHE_TTL: got "60", takes a duration above 0`},
		{"a negative duration", []string{"REFRESH_SWEEP=-1m"}, `LARKSIDE_REFRESH_SWEEP: got "-1m", takes a duration`},
		{"audit entries kept for no time", []string{"AUDIT_RETENTION=0"}, `LARKSIDE_AUDIT_RETENTION: got "0", takes a duration above 0`},
		{"consents that live for no time", []string{"CONSENT_TTL=0s"}, `LARKSIDE_CONSENT_TTL: got "0s", takes a duration above 0`},
		{"no time for the upstream", []string{"UPSTREAM_TIMEOUT=0"}, `LARKSIDE_UPSTREAM_TIMEOUT: got "0", takes a duration above 0`},
		{"a negative wait", []string{"MAX_WAIT=-1s"}, `LARKSIDE_MAX_WAIT: got "-1s", takes a duration`},
		{"a negative grace", []string{"SHUTDOWN_GRACE=-1s"}, `LARKSIDE_SHUTDOWN_GRACE: got "-1s", takes a duration`},
		{"a user sync in days", []string{"USER_SYNC=1d"}, `LARKSIDE_USER_SYNC: got "1d", takes a duration`},
		{"a threshold of all", []string{"REFRESH_THRESHOLD=1"}, `LARKSIDE_REFRESH_THRESHOLD: got "1", takes a fraction above 0 and below 1`},
		{"a threshold of nothing", []string{"REFRESH_THRESHOLD=0"}, `LARKSIDE_REFRESH_THRESHOLD: got "0", takes a fraction`},
		{"a threshold that is no number", []string{"REFRESH_THRESHOLD=NaN"}, `LARKSIDE_REFRESH_THRESHOLD: got "NaN", takes a fraction`},
		{"a rate without time", []string{"REFRESH_RATE=40"}, `LARKSIDE_REFRESH_RATE: got "40", takes count/duration`},
		{"a rate of none", []string{"CONSENT_RATE=0/1m"}, `LARKSIDE_CONSENT_RATE: got "0/1m", takes count/duration`},
		{"two rates for consents", []string{"CONSENT_RATE=5/1m,20/1h"}, `LARKSIDE_CONSENT_RATE: got "5/1m,20/1h", takes count/duration, such as 5/1m`},
		{"an unknown flow", []string{"CONSENT_FLOW=popup"}, `LARKSIDE_CONSENT_FLOW: got "popup", takes auto, device or redirect`},
		{"a public URL without TLS", []string{"PUBLIC_URL=http://consent.example", "CONSENT_LISTEN=:1"}, `LARKSIDE_PUBLIC_URL: got "http://consent.example", takes an https URL`},
		{"a public URL and nobody who listens", []string{"PUBLIC_URL=https://consent.example"}, `LARKSIDE_CONSENT_LISTEN: is off although consent goes by redirect`},
		{"redirect without public URL", []string{"CONSENT_FLOW=redirect", "CONSENT_LISTEN=:1"}, `LARKSIDE_CONSENT_FLOW: got "redirect" without LARKSIDE_PUBLIC_URL`},
		{"a card's link of another kind", []string{"CARD_LINK=app"}, `LARKSIDE_CARD_LINK: got "app", takes auto, direct or applink`},
		{"a card by yes", []string{"CARD=yes"}, `LARKSIDE_CARD: got "yes", takes on or off`},
		{"a link that is no URL", []string{"PRIVACY_URL=javascript:alert(1)"}, `LARKSIDE_PRIVACY_URL: got a value that is not shown (not an http or https URL)`},
		{"a size with a decimal unit", []string{"REPLAY_BUFFER=64KB"}, `LARKSIDE_REPLAY_BUFFER: got "64KB" (not a size`},
		{"a size that overflows", []string{"REPLAY_BUFFER=9007199254740993GiB"}, `LARKSIDE_REPLAY_BUFFER: got "9007199254740993GiB" (not a size`},
		{"a caller without name", []string{"CALLER_KEYS=:canary"}, `LARKSIDE_CALLER_KEYS: got a value that is not shown (entry 1 is not`},
		{"a caller's key that can be guessed", []string{"CALLER_KEYS=crm:canary-long-enough,web:canary-11ch"}, `LARKSIDE_CALLER_KEYS: got a value that is not shown (the key of "web" has fewer than 12 characters), takes name:key`},
		{"a key of two callers", []string{"CALLER_KEYS=crm:canary-long-enough,web:canary-long-enough"}, `LARKSIDE_CALLER_KEYS: got a value that is not shown ("crm" and "web" have the same key), takes name:key`},
		{"an admin key that can be guessed", []string{"ADMIN_KEY=canary-15-chars"}, `LARKSIDE_ADMIN_KEY: got a value that is not shown, takes a key of at least 16 characters`},
		{"an admin key that a script has lost", []string{"ADMIN_KEY="}, `LARKSIDE_ADMIN_KEY: is empty; set it to a key of at least 16 characters, or leave the variable out to have no key`},
		{"a blank admin key", []string{"ADMIN_KEY= \t"}, `LARKSIDE_ADMIN_KEY: is empty; set it to a key of at least 16 characters, or leave the variable out to have no key`},
		{"a list of commas", []string{"CALLER_KEYS=,"}, `LARKSIDE_CALLER_KEYS: got a value that is not shown (the list is empty)`},
		{"a host with a path", []string{"ALLOW_HOSTS=x.example/y"}, `LARKSIDE_ALLOW_HOSTS: got "x.example/y", takes host names`},
		{"a default user where other machines reach it", []string{"DEFAULT_USER=login", "LISTEN=:8080", "ALLOW_REMOTE=true"}, `LARKSIDE_DEFAULT_USER: got "login" although LARKSIDE_LISTEN is ":8080"`},
		{"a default user behind a host name", []string{"DEFAULT_USER=ou_1", "LISTEN=laptop.corp:8080", "ALLOW_REMOTE=true"}, `LARKSIDE_DEFAULT_USER: got "ou_1" although LARKSIDE_LISTEN is "laptop.corp:8080"`},
		{"a default user and callers", []string{"DEFAULT_USER=login", "CALLER_KEYS=crm:twelve-chars"}, `LARKSIDE_DEFAULT_USER: got "login" although LARKSIDE_CALLER_KEYS tells several callers apart`},
		{"a default user and any Host", []string{"DEFAULT_USER=login", "ALLOW_HOSTS=localhost,*"}, `LARKSIDE_DEFAULT_USER: got "login" although LARKSIDE_ALLOW_HOSTS is *`},
		{"a default user where users are proven", []string{"DEFAULT_USER=login", "USER_JWT_ISSUER=https://id.example", "USER_JWT_AUDIENCE=x"}, `LARKSIDE_DEFAULT_USER: got "login" although LARKSIDE_USER_JWT_ISSUER says that each user has to be proven`},
		{"an issuer without audience", []string{"USER_JWT_ISSUER=https://id.example"}, `LARKSIDE_USER_JWT_AUDIENCE: is empty although LARKSIDE_USER_JWT_ISSUER is set; set it to the audience (aud) of the tokens`},
		{"an audience without issuer", []string{"USER_JWT_AUDIENCE=larkside"}, `LARKSIDE_USER_JWT_AUDIENCE: got a value without LARKSIDE_USER_JWT_ISSUER, takes one only with it`},
		{"a claim without issuer", []string{"USER_JWT_CLAIM=open_id"}, `LARKSIDE_USER_JWT_CLAIM: got a value without LARKSIDE_USER_JWT_ISSUER, takes one only with it`},
		{"an issuer that is no URL", []string{"USER_JWT_ISSUER=id.example", "USER_JWT_AUDIENCE=x"}, `LARKSIDE_USER_JWT_ISSUER: got "id.example" (not an http or https URL), takes an http or https URL without user`},
		{"an MCP server without scheme", []string{"MCP_URL=mcp.feishu.cn"}, `LARKSIDE_MCP_URL: got "mcp.feishu.cn" (not an http or https URL), takes on, off or an http or https URL`},
		{"a default user who is a name", []string{"DEFAULT_USER=alice"}, `LARKSIDE_DEFAULT_USER: got "alice", takes an open_id (ou_…) or login`},
		{"a default user by union_id", []string{"DEFAULT_USER=on_1"}, `LARKSIDE_DEFAULT_USER: got "on_1", takes an open_id`},
		{"a switch by on", []string{"ALLOW_REMOTE=on"}, `LARKSIDE_ALLOW_REMOTE: got "on", takes true or false`},
		{"roots that are not there", []string{"UPSTREAM_CA_FILE=/nope.pem"}, `LARKSIDE_UPSTREAM_CA_FILE: got "/nope.pem" (no such file or directory), takes the path`},
		{"a proxy of another kind", []string{"UPSTREAM_PROXY=ftp://u:canary@h"}, `LARKSIDE_UPSTREAM_PROXY: got "ftp://u:xxxxx@h", takes an http, https or socks5 URL`},
		{"users in clear", []string{"TRACE_USERS=name"}, `LARKSIDE_TRACE_USERS: got "name", takes hash, id or off`},
		{"a level of its own", []string{"LOG_LEVEL=loud"}, `LARKSIDE_LOG_LEVEL: got "loud", takes debug, info, warn or error`},
		{"a log in XML", []string{"LOG_FORMAT=xml"}, `LARKSIDE_LOG_FORMAT: got "xml", takes json or text`},
		{"a misspelt name; its value may be a secret", []string{"APP_SECERT=canary"}, `LARKSIDE_APP_SECERT: got an unknown name, the nearest known one is LARKSIDE_APP_SECRET`},
		{"a misspelt name of a file", []string{"ADMIN_KEYFILE=/x"}, `LARKSIDE_ADMIN_KEYFILE: got an unknown name, the nearest known one is LARKSIDE_ADMIN_KEY_FILE`},
		{"a file for what is no secret", []string{"BRAND_FILE=/x"}, `LARKSIDE_BRAND_FILE: got an unknown name`},
		{"a control character is shown as one", []string{"BRAND=a\nb"}, `LARKSIDE_BRAND: got "a\nb", takes`},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			var vars []string
			for _, v := range tc.vars {
				vars = append(vars, Prefix+v)
			}
			_, err := read(t, vars...)
			lines := problems(t, err)
			if len(lines) != 1 || !strings.HasPrefix(lines[0], tc.want) {
				t.Errorf("got  %q\nwant %q…", lines, tc.want)
			}
		})
	}
}

// One start shows everything that is wrong, in the table's order.
func TestAllProblemsAtOnce(t *testing.T) {
	_, err := Parse([]string{
		"LARKSIDE_CACHE_SIZE=x", "LARKSIDE_LOG_LEVEL=x", "LARKSIDE_BRAND=x", "LARKSIDE_NOPE=x",
		"LARKSIDE_APP_SECRET_FILE=/nope", "LARKSIDE_DATABASE_URL=postgres://h/d", "LARKSIDE_ADMIN_LISTEN=:1"})
	var names []string
	for _, line := range problems(t, err) {
		name, _, _ := strings.Cut(line, ":")
		names = append(names, name)
	}
	want := []string{"LARKSIDE_NOPE", "LARKSIDE_APP_ID", "LARKSIDE_APP_SECRET_FILE", "LARKSIDE_BRAND", "LARKSIDE_ADMIN_LISTEN",
		"LARKSIDE_ENCRYPTION_KEYS", "LARKSIDE_CACHE_SIZE", "LARKSIDE_LOG_LEVEL"}
	if !slices.Equal(names, want) {
		t.Errorf("problems with %q\nwant          %q", names, want)
	}
}

func TestRequired(t *testing.T) {
	_, err := Parse([]string{"LARKSIDE_APP_ID=", "HOME=/"})
	want := []string{
		"LARKSIDE_APP_ID: is empty; set it to the app's id, such as cli_a1b2c3",
		"LARKSIDE_APP_SECRET: is empty; set it to the app's secret",
	}
	if got := problems(t, err); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A command that needs the database only must not ask for the app's secret.
func TestProblemsOfSomeSettings(t *testing.T) {
	c, err := Parse([]string{"LARKSIDE_CACHE_SIZE=x"}, "DATABASE_URL")
	if err != nil || c.DatabaseURL.Expose() != "sqlite:larkside.db" {
		t.Errorf("%v, %v", c, err)
	}
	_, err = Parse([]string{"LARKSIDE_DATABASE_URL=x", "LARKSIDE_CACHE_SIZE=x"}, "DATABASE_URL")
	if lines := problems(t, err); len(lines) != 1 {
		t.Errorf("%q", lines)
	}
}

func TestSecretsFromFiles(t *testing.T) {
	keys := writeFile(t, aKey+"\n")
	secretPath := writeFile(t, "\n"+canary+"\r\n")
	c, err := Parse([]string{
		"LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET_FILE=" + secretPath,
		"LARKSIDE_APPS_FILE=" + writeFile(t, "cli_b2:s2\ncli_c3:s3\n"),
		"LARKSIDE_DATABASE_URL_FILE=" + writeFile(t, "postgres://u:p@h/d"),
		"LARKSIDE_DATABASE_LISTEN_URL_FILE=" + writeFile(t, "off"),
		"LARKSIDE_ENCRYPTION_KEYS_FILE=" + keys,
		"LARKSIDE_CALLER_KEYS_FILE=" + writeFile(t, "a:key-of-caller-a,b:key-of-caller-b"), "LARKSIDE_LISTEN=:8080",
		"LARKSIDE_ADMIN_KEY_FILE=" + writeFile(t, "the-key-of-admin"), "LARKSIDE_ADMIN_LISTEN=:8081",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.AppSecret.Expose() != canary {
		t.Error("white space around a secret in a file is no part of it")
	}
	if !slices.Equal(c.AppIDs(), []string{"cli_a1", "cli_b2", "cli_c3"}) || !c.Postgres() || c.EncryptionKeys.Expose() != aKey ||
		len(c.CallerKeys) != 2 || c.AdminKey.Expose() != "the-key-of-admin" {
		t.Errorf("%+v", c)
	}
	if c.files["APP_SECRET"].path != secretPath {
		t.Errorf("files %v", c.files)
	}
}

// Windows editors begin a file with a byte order mark.
func TestByteOrderMark(t *testing.T) {
	c, err := Parse([]string{"LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET_FILE=" + writeFile(t, "\ufeff"+canary+"\r\n")})
	if err != nil || c.AppSecret.Expose() != canary {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = read(t, "LARKSIDE_EVENT_TOKEN_FILE="+writeFile(t, "\ufeff\n"))
	if lines := problems(t, err); len(lines) != 1 || !strings.Contains(lines[0], "(empty)") {
		t.Errorf("a file of nothing else: %q", lines)
	}
}

func TestFileProblems(t *testing.T) {
	dir := t.TempDir()
	empty := writeFile(t, " \n")
	short := writeFile(t, "k1:Y2FuYXJ5")
	for _, tc := range []struct{ sentence, variable, want string }{
		{"a file that is not there", "ADMIN_KEY_FILE=/nope", `LARKSIDE_ADMIN_KEY_FILE: got "/nope" (no such file or directory), takes the path of a readable file that is not empty`},
		{"a directory", "ADMIN_KEY_FILE=" + dir, fmt.Sprintf(`LARKSIDE_ADMIN_KEY_FILE: got %q (is a directory)`, dir)},
		{"a file without content", "ADMIN_KEY_FILE=" + empty, fmt.Sprintf(`LARKSIDE_ADMIN_KEY_FILE: got %q (empty)`, empty)},
		{"content that is no key", "ENCRYPTION_KEYS_FILE=" + short, fmt.Sprintf(`LARKSIDE_ENCRYPTION_KEYS_FILE: got the content of %q (encryption key 1:`, short)},
		{"value and file", "APP_SECRET_FILE=" + short, "LARKSIDE_APP_SECRET: got a value and LARKSIDE_APP_SECRET_FILE, takes one of the two"},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			_, err := read(t, Prefix+tc.variable)
			if lines := problems(t, err); len(lines) != 1 || !strings.HasPrefix(lines[0], tc.want) {
				t.Errorf("got  %q\nwant %q…", lines, tc.want)
			}
		})
	}
}

// With EVENTS=http all that verifies an event has to be there.
func TestEventsNeedTheirKeys(t *testing.T) {
	_, err := read(t, "LARKSIDE_EVENTS=http", "LARKSIDE_EVENT_TOKEN="+canary)
	want := []string{
		`LARKSIDE_CONSENT_LISTEN: is off although LARKSIDE_EVENTS=http; set it to host:port or unix:/path.sock`,
		`LARKSIDE_EVENT_ENCRYPT_KEY: is empty although LARKSIDE_EVENTS=http; set it to the app's Encrypt Key`,
	}
	if got := problems(t, err); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestWarnings(t *testing.T) {
	for _, tc := range []struct {
		sentence, variable string
		warns              bool
	}{
		{"the endpoints that hand out tokens", "INJECT_PATHS=/open-apis/auth/", true},
		{"one of them", "INJECT_PATHS=/open-apis/authen/v2/oauth/token", true},
		{"the OAuth host's paths", "INJECT_PATHS=/oauth", true},
		{"the user's own profile", "INJECT_PATHS=/open-apis/authen/v1/user_info", false},
		{"a path that begins alike", "INJECT_PATHS=/open-apis/authority/", false},
		{"tokens in clear over a network", "OPEN_URL=http://open.example", true},
		{"an emulator", "OPEN_URL=http://127.0.0.1:9000", false},
		{"more scopes than a device flow takes for sure", "SCOPES=" + strings.Join(numbered(50), " "), true},
		{"as many as it takes", "SCOPES=" + strings.Join(numbered(49), " "), false},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			if c := mustRead(t, Prefix+tc.variable); len(c.Warnings) > 0 != tc.warns {
				t.Errorf("warnings %q", c.Warnings)
			}
		})
	}
}

// Keys that come in clear over a network are anybody's.
func TestIssuerWarning(t *testing.T) {
	for issuer, want := range map[string]int{"http://id.example": 1, "https://id.example": 0, "http://127.0.0.1:9000": 0} {
		if c := mustRead(t, Prefix+"USER_JWT_ISSUER="+issuer, Prefix+"USER_JWT_AUDIENCE=x"); len(c.Warnings) != want {
			t.Errorf("%s: warnings %q", issuer, c.Warnings)
		}
	}
}

// A Service called larkside makes Kubernetes put variables with our prefix into
// every pod beside it. They are nobody's mistake there, and a mistake elsewhere.
func TestKubernetesServiceLinks(t *testing.T) {
	links := []string{
		"LARKSIDE_SERVICE_HOST=10.0.0.1", "LARKSIDE_SERVICE_PORT=80", "LARKSIDE_SERVICE_PORT_HTTP=80", "LARKSIDE_PORT=tcp://10.0.0.1:80",
		"LARKSIDE_PORT_80_TCP=tcp://10.0.0.1:80", "LARKSIDE_PORT_80_TCP_PROTO=tcp", "LARKSIDE_PORT_80_TCP_PORT=80",
		"LARKSIDE_PORT_80_TCP_ADDR=10.0.0.1", "LARKSIDE_ADMIN_SERVICE_HOST=10.0.0.2", "LARKSIDE_ADMIN_PORT=tcp://10.0.0.2:81",
	}
	mustRead(t, append(links, "KUBERNETES_SERVICE_HOST=10.0.0.1")...)
	_, err := read(t, links...)
	if got := problems(t, err); len(got) != len(links) {
		t.Errorf("outside Kubernetes: %q", got)
	}
	for _, name := range names() {
		if serviceLink.MatchString(name) {
			t.Errorf("%s would be taken for a service link", name)
		}
	}
}

func TestUpstreamCA(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	c := mustRead(t, "LARKSIDE_UPSTREAM_CA_FILE="+path)
	if _, err := root.Verify(x509.VerifyOptions{Roots: c.UpstreamCAs.Pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	_, err = read(t, "LARKSIDE_UPSTREAM_CA_FILE="+writeFile(t, "not PEM"))
	if got := problems(t, err); len(got) != 1 || !strings.Contains(got[0], "(no certificate in it)") {
		t.Errorf("%q", got)
	}
}

// Whatever stands in the environment, a secret is never shown and nothing panics.
func FuzzParseConfig(f *testing.F) {
	for _, s := range table {
		f.Add(s.Name, s.Default)
	}
	f.Add("DATABASE_URL", "postgres://u:1/canary@h")
	f.Add("UPSTREAM_PROXY", "http://canary@h:x")
	f.Fuzz(func(t *testing.T, name, value string) {
		if strings.HasSuffix(name, "_FILE") {
			t.Skip("names a file of this machine")
		}
		s, ok := find(name)
		if !ok {
			t.Skip()
		}
		if s.Secret {
			value += ":canary"
		}
		_, err := Parse([]string{Prefix + "APP_ID=cli_a1", Prefix + "APP_SECRET=x", Prefix + name + "=" + value})
		if err != nil && s.Secret && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	})
}
