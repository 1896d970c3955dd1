// Larkside is a sidecar that calls Lark (Feishu) with each user's own token: it
// stands between an app and Lark, adds the token of the user whom the app names,
// renews it, and asks the user in chat when there is none.
//
// Usage:
//
//	larkside [serve]                     serve until SIGTERM or SIGINT
//	larkside login                       sign in at this terminal (DEFAULT_USER=login)
//	larkside env [--defaults]            print every setting: what is in force, or the defaults
//	larkside version                     print what this binary was made of
//	larkside healthcheck [--admin URL]   exit 1 unless the instance lives
//	larkside wait [--timeout 1m]         return when the instance is ready
//	larkside migrate                     bring the database's schema up, or back (--to N), and stop
//	larkside doctor                      check settings, database, keys, clock, Lark
//	larkside sessions list|show|refresh|revoke|purge
//	larkside consent send USER|list      ask one user, by a card in the chat; who was asked
//	larkside audit list                  who did what to which session
//	larkside users sync                  read all users' data from Lark now
//	larkside backup FILE                 copy the SQLite database while it is served
//	larkside keys new                    print a key for ENCRYPTION_KEYS
//	larkside keys rotate                 seal everything under the first key
//	larkside completion SHELL            print completions for bash, zsh or fish
//
// login, sessions, consent, audit, users, backup and keys rotate ask a running
// instance's admin listener (ADMIN_LISTEN, or --admin URL) with ADMIN_KEY, and
// take -o json.
//
// The exit status is 0 when it is done, 1 when it failed, and 2 for wrong use or
// settings, with one line per problem. A second signal stops at once.
//
// Settings are environment variables. Durations are written as 90s, 10m or 24h,
// sizes as 65536, 64KiB or 1MiB. An empty variable counts as not set. A file that
// is named by a variable ending in _FILE is read again when it changes and on
// SIGHUP. Export of traces and metrics follows the standard OTEL_* variables.
//
//	# App and Lark
//
//	LARKSIDE_APP_ID (required)
//	    the Lark app (self-built)
//	LARKSIDE_APP_SECRET (required)
//	    its secret; or from the file that APP_SECRET_FILE names
//	LARKSIDE_APPS (default: none)
//	    further apps, app_id:secret,…; or from the file that APPS_FILE names
//	LARKSIDE_BRAND (default: feishu)
//	    feishu or lark: selects the hosts
//	LARKSIDE_OPEN_URL (default: by brand)
//	    base URL of the Open Platform (emulator, private deployment)
//	LARKSIDE_ACCOUNTS_URL (default: by brand)
//	    base URL of accounts (emulator, private deployment)
//	LARKSIDE_TOKEN_URL (default: {open}/open-apis/authen/v2/oauth/token)
//	    the OAuth token endpoint. It is kept with each grant, since a v2
//	    endpoint may refuse what v3 issued. Feishu's {accounts}/oauth/v3/token
//	    refuses codes that were asked for with PKCE
//	LARKSIDE_MCP_URL (default: off)
//	    on (https://mcp.feishu.cn/mcp or https://mcp.larksuite.com/mcp, by
//	    brand) or a URL: Lark's remote MCP server, reached at /mcp of the proxy
//	    listener
//
//	# Listeners
//
//	LARKSIDE_LISTEN (default: 127.0.0.1:8080)
//	    the proxy listener, for the app beside it: host:port (port 0: any, the
//	    chosen one is logged) or unix:/path.sock (mode 0660)
//	LARKSIDE_ADMIN_LISTEN (default: 127.0.0.1:8081)
//	    the admin listener, for operators, kubelet and Prometheus
//	LARKSIDE_AUTHZ_LISTEN (default: off)
//	    the authz listener, for a mesh or gateway that forwards to Lark by
//	    itself: the one place that hands out a token
//	LARKSIDE_CONSENT_LISTEN (default: off)
//	    the consent listener, for users' browsers, through an ingress
//	LARKSIDE_SHUTDOWN_GRACE (default: 30s)
//	    how long running requests may finish after SIGTERM
//
//	# Database and keys
//
//	LARKSIDE_DATABASE_URL (default: sqlite:larkside.db)
//	    postgres://… (any number of replicas) or sqlite:PATH (one process; a
//	    second one is refused); or from the file that DATABASE_URL_FILE names
//	LARKSIDE_DATABASE_LISTEN_URL (default: DATABASE_URL)
//	    direct connection for LISTEN when DATABASE_URL goes through PgBouncer;
//	    off: poll; or from the file that DATABASE_LISTEN_URL_FILE names
//	LARKSIDE_DATABASE_MAX_CONNS (default: two for each processor, 6 to 16)
//	    connections to PostgreSQL of one replica, beside the one that listens
//	LARKSIDE_EXPECT_SESSIONS (default: false)
//	    set it to true once there are sessions. A database without any is then
//	    taken for the wrong one: the replica is not ready, requests get 503
//	    store_unavailable, and no user is asked
//	LARKSIDE_ENCRYPTION_KEYS (default: SQLite: made at the first start)
//	    keys that seal tokens in the database, id:base64(32 bytes), comma
//	    separated: the first seals, all open. PostgreSQL requires it; without it
//	    SQLite makes PATH.key; or from the file that ENCRYPTION_KEYS_FILE names
//	LARKSIDE_ENCRYPTION_KEYS_COMMAND (default: none)
//	    a command whose output is the key list (KMS, Vault); run without a
//	    shell, at the start and on SIGHUP
//
//	# Requests and upstream
//
//	LARKSIDE_INJECT_PATHS (default: /open-apis/apaas/,/open-apis/spark/)
//	    paths on which a user token may be injected; one that ends in / is a
//	    prefix, any other is matched whole
//	LARKSIDE_TENANT_PATHS (default: none)
//	    paths, written as in INJECT_PATHS, on which a request that names no user
//	    and has no token gets the app's tenant_access_token, so that the app
//	    needs no secret
//	LARKSIDE_MAX_WAIT (default: 60s)
//	    upper bound of Prefer: wait; 0: never wait
//	LARKSIDE_REPLAY_BUFFER (default: 64KiB)
//	    largest request body that can be sent again after a forced refresh
//	LARKSIDE_UPSTREAM_TIMEOUT (default: 30s)
//	    how long to wait for Lark's response header
//	LARKSIDE_UPSTREAM_CA_FILE (default: none)
//	    a PEM file with root certificates that are trusted beside the system's
//	LARKSIDE_UPSTREAM_PROXY (default: none)
//	    an outbound proxy; the environment's HTTPS_PROXY is ignored
//
//	# Consent and card
//
//	LARKSIDE_SCOPES (default: offline_access)
//	    scopes that users are asked for; offline_access is always added. The
//	    redirect flow takes at most 200; more than 50 may be too many for the
//	    device flow
//	LARKSIDE_CONSENT_FLOW (default: auto)
//	    device, redirect, or auto: redirect when PUBLIC_URL is set
//	LARKSIDE_PUBLIC_URL (default: none)
//	    base URL under which browsers reach the consent listener; it may have a
//	    path, which the ingress may pass on or take away
//	LARKSIDE_CONSENT_TTL (default: 10m)
//	    how long a user has to answer one consent
//	LARKSIDE_CONSENT_RATE (default: 5/1m)
//	    how many consents may be started for one user
//	LARKSIDE_CARD (default: on)
//	    off: no card is sent, and the app's 401 alone has the link
//	LARKSIDE_CARD_LINK (default: auto)
//	    applink: the card's button opens the link inside the client, where the
//	    right account is signed in; direct: the link as it is; auto: applink on
//	    feishu, direct on lark
//	LARKSIDE_CARD_TITLE (default: built in)
//	    title of the card; the built-in text is zh-CN, en, ja
//	LARKSIDE_CARD_MESSAGE (default: built in)
//	    text of the card
//	LARKSIDE_PRIVACY_URL (default: none)
//	    link to the privacy policy on the card and the consent pages
//
//	# Events
//
//	LARKSIDE_EVENTS (default: off)
//	    http: Lark sends card clicks and revocations to /consent/events, where
//	    they are verified; websocket: they come over Lark's long connection.
//	    Lark hands each event to one of an app's connections, so websocket takes
//	    events away from an app that has its own
//	LARKSIDE_EVENT_TOKEN (default: none)
//	    Verification Token of the app's event settings, for EVENTS=http; or from
//	    the file that EVENT_TOKEN_FILE names
//	LARKSIDE_EVENT_ENCRYPT_KEY (default: none)
//	    Encrypt Key of the app's event settings, for EVENTS=http; or from the
//	    file that EVENT_ENCRYPT_KEY_FILE names
//
//	# Tokens and refresh
//
//	LARKSIDE_CACHE_SIZE (default: 100000)
//	    how many users' access tokens are kept in memory (LRU)
//	LARKSIDE_CACHE_TTL (default: 60s)
//	    a cached token is checked against the database after this long at the
//	    latest
//	LARKSIDE_REFRESH_THRESHOLD (default: 0.1)
//	    a token is refreshed when less than this fraction of its life is left
//	LARKSIDE_REFRESH_SWEEP (default: 1m)
//	    how often idle sessions are looked through; each is renewed before a
//	    fifth of its refresh token's life is left; 0 off
//	LARKSIDE_REFRESH_RATE (default: 40/1s,900/1m)
//	    ceiling on all calls to the token endpoint, per app over all replicas
//	    (Lark allows 50/s and 1000/min). Code exchanges go first, then refreshes
//	    that a request waits for, then device polls, then the sweep
//	LARKSIDE_USER_SYNC (default: 24h)
//	    how often name, email, mobile and status of known users are read; 0 off
//	LARKSIDE_SESSION_RETENTION (default: 2160h)
//	    a session that can't be used any more is deleted after this long. The
//	    tokens of a user who has left or is frozen are revoked and dropped after
//	    24 h in any case
//	LARKSIDE_AUDIT_RETENTION (default: 2160h)
//	    how long audit entries are kept
//
//	# Callers, users, operators
//
//	LARKSIDE_CALLER_KEYS (default: none)
//	    name:key,…: every request to the proxy and authz listeners must have
//	    one of these keys in X-Larkside-Key. A key has at least 12 characters
//	    and belongs to one name; a name may stand twice while its key is
//	    changed; or from the file that CALLER_KEYS_FILE names
//	LARKSIDE_CALLER_LIMITS (default: none)
//	    what callers may do:
//	    name:users=ou_a|ou_b;paths=/open-apis/apaas/;methods=GET|HEAD;rate=10/1s,….
//	    Each field is optional: users by open_id or the name that is sent (such
//	    a caller gets no tenant token), paths as in INJECT_PATHS, methods,
//	    requests per time. A caller without an entry may do everything
//	LARKSIDE_USER_JWT_ISSUER (default: none)
//	    the OIDC issuer that proves who the user is: each request for a user
//	    must bring that user's JWT in X-Larkside-User-Token. The issuer's keys
//	    are found by discovery, through UPSTREAM_CA_FILE and UPSTREAM_PROXY
//	LARKSIDE_USER_JWT_AUDIENCE (default: none)
//	    the audience that the JWT must have; required with USER_JWT_ISSUER
//	LARKSIDE_USER_JWT_CLAIM (default: sub)
//	    the claim of the JWT that holds the user's open_id, union_id or user_id
//	LARKSIDE_DEFAULT_USER (default: none)
//	    the user of each request on an inject path that names no user and has no
//	    token: an open_id, or login for whoever signed in last by larkside
//	    login. It is for one person's own machine, so it requires a proxy
//	    listener on loopback or a Unix socket and no CALLER_KEYS
//	LARKSIDE_ADMIN_KEY (default: none)
//	    bearer key of the admin API and console, at least 16 characters; a
//	    variable that is set but empty stops the start; or from the file that
//	    ADMIN_KEY_FILE names
//	LARKSIDE_ALLOW_HOSTS (default: loopback names)
//	    Host values accepted on the proxy and authz listeners (DNS rebinding)
//	    and, beside the loopback names, on the admin listener
//	LARKSIDE_ALLOW_REMOTE (default: false)
//	    true: a proxy, authz or admin listener may be on a non-loopback address
//	    without CALLER_KEYS or ADMIN_KEY, because something else guards it
//
//	# Logs and traces
//
//	LARKSIDE_LOG_LEVEL (default: info)
//	    the least severe lines that are written: debug, info, warn or error
//	LARKSIDE_LOG_FORMAT (default: json (text on a terminal))
//	    json or text, one line each, on standard error
//	LARKSIDE_ACCESS_LOG (default: false)
//	    a line per proxied request
//	LARKSIDE_TRACE_USERS (default: hash)
//	    hash, id or off: how users appear in spans and logs
//	LARKSIDE_PROPAGATE_TRACE (default: false)
//	    send traceparent on to Lark
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
)

// version and revision can be set at link time, as the Dockerfile does:
// -ldflags "-X main.version=v1.2.3 -X main.revision=abc123".
var version, revision string

func main() {
	refuseDumps()
	ctx, cancel := untilSignal(context.Background())
	defer cancel()
	in := operate.Invocation{Args: os.Args[1:], Environ: os.Environ(), Out: os.Stdout, ErrOut: os.Stderr,
		Build: operate.BuildInfo(version, revision)}
	os.Exit(operate.Execute(ctx, in, newServe(in), newDoctor(in)))
}

// untilSignal ends the context at the first SIGTERM or SIGINT, and the process
// at the second.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		cancel()
		<-signals
		fmt.Fprintln(os.Stderr, "larkside: second signal, stopping at once")
		os.Exit(operate.ExitFailed)
	}()
	return ctx, cancel
}

// newServe is the command that runs the parts list.
func newServe(in operate.Invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve until SIGTERM or SIGINT (what larkside does without a command)",
		Long: `Serve until SIGTERM or SIGINT. Then running requests may finish for
LARKSIDE_SHUTDOWN_GRACE; a second signal stops at once. SIGHUP reads the secret
files again. The log goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := settings.Parse(in.Environ)
			if err != nil {
				return err
			}
			log, err := operate.NewLog(cfg, in.ErrOut)
			if err != nil {
				return err
			}
			banner := newBanner(cfg, in.ErrOut)
			banner.begin(in.Build)
			if banner == nil {
				for _, w := range cfg.Warnings {
					log.Warn(w)
				}
			}
			err = run(c.Context(), cfg, in.Build, log, banner)
			var wrong settings.Error
			if err == nil || errors.As(err, &wrong) {
				return err
			}
			log.Error("larkside failed", "error", err)
			return operate.ErrLogged
		},
	}
}
