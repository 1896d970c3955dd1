package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"larkside/session"
)

// TokenSource has the users' access tokens.
type TokenSource interface {
	// Token returns an access token of key that is valid now. Errors:
	// session.ErrConsentRequired (with its reason), ErrRefreshUnavailable,
	// ErrUnavailable, ErrAppMisconfigured, ErrUserDisabled. It may block for a
	// refresh, and returns when ctx ends without ending the refresh.
	Token(ctx context.Context, key session.Key) (*session.Access, session.Lookup, error)
	// Refused is told that Lark refused the token of that version, and returns
	// one that is newer. When the version has already moved it doesn't refresh
	// again. Errors as for Token.
	Refused(ctx context.Context, key session.Key, version int64) (*session.Access, error)
}

// Asker asks a user for consent.
type Asker interface {
	// Ask starts a consent, or finds the one that is open, and returns what the
	// caller may be told. No scopes means the configured ones.
	// session.ErrConflict says that the user has authorized meanwhile: the
	// token is looked for again.
	Ask(ctx context.Context, key session.Key, reason session.Reason, scopes []string) (session.Challenge, error)
}

// Resolver knows users by their other names.
type Resolver interface {
	// Resolve returns the user whom id, a union_id (on_…) or a tenant's
	// user_id, names in the app; session.ErrNotFound if nobody with that name
	// has consented yet.
	Resolve(ctx context.Context, appID, id string) (session.Key, error)
}

// Tenant has the apps' own tokens.
type Tenant interface {
	// TenantAccessToken returns the tenant_access_token of the app. Errors:
	// session.ErrAppMisconfigured, ErrRefreshUnavailable. It may block for a
	// fetch, and returns when ctx ends without ending the fetch.
	TenantAccessToken(ctx context.Context, appID string) (session.Secret, error)
	// ReplaceTenantAccessToken is told that Lark refused the token and returns
	// the one to use instead, which is the same one if there is no other.
	ReplaceTenantAccessToken(ctx context.Context, appID string, refused session.Secret) (session.Secret, error)
}

// Waiter waits for a consent.
type Waiter interface {
	// Wait returns nil as soon as the session of key changes, on whichever
	// replica, and ctx's error when ctx ends before that.
	Wait(ctx context.Context, key session.Key) error
}

// Caller is one of those who may use the proxy.
type Caller struct {
	// Name stands on metrics, traces and the access log.
	Name string
	// Key is what the caller sends in X-Larkside-Key.
	Key session.Secret
}

// Config is what a proxy is made of. Upstream, Apps and Tokens are required.
type Config struct {
	// Upstream is the Open Platform: scheme and host, and a path to put before
	// every request's, usually none. Nothing is ever sent elsewhere.
	Upstream *url.URL
	// Transport speaks to Upstream; nil: NewTransport with UpstreamTimeout.
	// It must not decompress, follow redirects or read the environment.
	Transport http.RoundTripper
	// UpstreamTimeout is the time from the last byte of a request to the
	// header of its answer; 0: 30 s. A Transport given here must be made with
	// the same value: it tells which failures are a timeout of Lark's.
	UpstreamTimeout time.Duration
	// BodyPatience is how long a caller may let each KiB of its request's body
	// be waited for; 0: 30 s. A body that moves may take hours.
	BodyPatience time.Duration
	// HalfClosePatience is how long a request goes on whose caller has closed
	// its sending side, while nothing of the answer comes; 0: 5 s. Such a caller
	// may have hung up, or wait for its answer. It takes a server of NewServer.
	HalfClosePatience time.Duration

	// Apps are the ids that X-Lark-App-Id may name. The first is the default.
	Apps []string
	// InjectPaths are where a user's token may go: a prefix when it ends in
	// "/", else one path. nil: none. The OAuth and app token endpoints are
	// never among them, whatever it says.
	InjectPaths []string
	// TenantPaths, in the same form, are where a request without user and
	// without token gets the app's tenant_access_token.
	TenantPaths []string

	// Tokens, required.
	Tokens TokenSource
	// UserTokenRefusal and TenantTokenRefusal, required, say what the code and msg
	// of an answer of Lark's mean for the token that was sent. They are called for
	// each answer that is looked at, first with an empty msg, and must then not
	// return NotRefused for a code that with some msg is a refusal.
	UserTokenRefusal, TenantTokenRefusal func(code int, msg string) session.Refusal
	// Asker may be nil: the 401 then carries no link.
	Asker Asker
	// Resolver may be nil: users then go by open_id only.
	Resolver Resolver
	// Tenant may be nil only without TenantPaths.
	Tenant Tenant
	// Waiter may be nil: Prefer: wait is then ignored.
	Waiter Waiter
	// MaxWait bounds Prefer: wait; 0: 60 s.
	MaxWait time.Duration
	// MaxWaiters bounds how many requests are held at once; the next one gets
	// its 401 at once. 0: 1024.
	MaxWaiters int

	// ReplayBuffer is the largest request body, in bytes, that is kept so that
	// the request can be sent again after a forced refresh. 0: no body is kept.
	ReplayBuffer int

	// AllowHosts are the Host values accepted: a name, which admits any port,
	// or name:port, or "*". nil: loopback names. Requests that come over a Unix
	// socket are not asked: no browser gets there.
	AllowHosts []string
	// CallerKeys returns who may call, and is asked on each request, from many
	// goroutines, so that keys can change while the proxy runs; it must not
	// block. nil: everybody. A function that returns no one admits no one.
	CallerKeys func() []Caller
	// CallerLimits narrow what callers may do, by [Caller.Name]. A caller that
	// has none may do everything. Without CallerKeys there must be none.
	CallerLimits map[string]CallerLimit

	// PropagateTrace sends traceparent and tracestate on to Upstream.
	PropagateTrace bool
	// AccessLog writes one line per request at info. It has no query and no
	// user in it.
	AccessLog bool
	// Route maps a method and a path in canonical form to a template out of a
	// bounded set, for metrics and traces. nil: the inject path that matched,
	// else "other". Called once per request.
	Route func(method, path string) string
	// UserAttr says how a user appears in spans; nil or "": not at all. Called
	// for recorded spans only.
	UserAttr func(session.Key) string

	// Draining reports whether the process is about to stop: new requests get
	// 503. Called on each request. nil: never.
	Draining func() bool
	// Log gets what an operator acts on. nil: nothing is logged.
	Log *slog.Logger
}

// withDefaults returns c with its zero values replaced.
func (c Config) withDefaults() Config {
	if c.UpstreamTimeout == 0 {
		c.UpstreamTimeout = 30 * time.Second
	}
	if c.BodyPatience == 0 {
		c.BodyPatience = bodyPatience
	}
	if c.HalfClosePatience == 0 {
		c.HalfClosePatience = halfClosePatience
	}
	if c.MaxWait == 0 {
		c.MaxWait = time.Minute
	}
	if c.MaxWaiters == 0 {
		c.MaxWaiters = 1024
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Draining == nil {
		c.Draining = func() bool { return false }
	}
	if c.Transport == nil {
		c.Transport = NewTransport(TransportConfig{ResponseHeaderTimeout: c.UpstreamTimeout})
	}
	return c
}

// check says what is missing or impossible, all of it at once.
func (c Config) check() error {
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch u := c.Upstream; {
	case u == nil:
		fail("no upstream")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		fail("upstream %q: want http(s)://host[/path]", u.Redacted())
	}
	if len(c.Apps) == 0 || slices.Contains(c.Apps, "") {
		fail("apps: want at least one app id, none empty")
	}
	if c.Tokens == nil {
		fail("no token source")
	}
	if c.UserTokenRefusal == nil || c.TenantTokenRefusal == nil {
		fail("nothing tells which of Lark's answers refuse a token")
	}
	if len(c.TenantPaths) > 0 && c.Tenant == nil {
		fail("tenant paths without a source of tenant tokens")
	}
	for _, path := range slices.Concat(c.InjectPaths, c.TenantPaths) {
		if err := checkPath(path); err != nil {
			problems = append(problems, err)
		}
	}
	if c.CallerKeys == nil && len(c.CallerLimits) > 0 {
		fail("limits of callers without keys that tell them apart")
	}
	for name, limit := range c.CallerLimits {
		if err := limit.check(); err != nil {
			fail("limits of caller %q: %w", name, err)
		}
	}
	if c.ReplayBuffer < 0 || c.MaxWait < 0 || c.MaxWaiters < 0 || c.UpstreamTimeout < 0 || c.BodyPatience < 0 || c.HalfClosePatience < 0 {
		fail("sizes and times must not be negative")
	}
	return errors.Join(problems...)
}
