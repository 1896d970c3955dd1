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

// TokenSource has the users' access tokens. It is called from many goroutines.
type TokenSource interface {
	// Token returns an access token of user that is valid now, and where it was
	// found. It may block while the token is refreshed. It returns when ctx ends, and
	// the refresh goes on. Errors: session.ErrConsentRequired (with the reason),
	// ErrRefreshUnavailable, ErrUnavailable, ErrAppMisconfigured, ErrUserDisabled.
	Token(ctx context.Context, user session.Key) (*session.Access, session.Lookup, error)
	// ReplaceRefused is called when Lark refused the user's token of that version. It
	// returns a newer one, and refreshes only if there is none yet. Errors as for Token.
	ReplaceRefused(ctx context.Context, user session.Key, version int64) (*session.Access, error)
}

// Asker asks a user for consent. It is called from many goroutines.
type Asker interface {
	// Ask starts a consent, or finds the one that is open, and returns what the
	// caller may be told. session.ErrConflict means that the user has authorized
	// meanwhile, so that a token can be had.
	Ask(ctx context.Context, user session.Key, want session.ConsentRequest) (session.Challenge, error)
}

// Resolver knows users by names other than the open_id.
type Resolver interface {
	// Resolve returns the user whom id, a union_id (on_…) or a tenant's user_id,
	// names in the app. It returns session.ErrNotFound if no user of that name has
	// consented.
	Resolve(ctx context.Context, appID, id string) (session.Key, error)
}

// Tenant has the apps' own tokens. It is called from many goroutines.
type Tenant interface {
	// TenantAccessToken returns the tenant_access_token of the app. It may block
	// while the token is fetched. It returns when ctx ends, and the fetch goes on.
	// Errors: session.ErrAppMisconfigured, ErrRefreshUnavailable.
	TenantAccessToken(ctx context.Context, appID string) (session.Secret, error)
	// ReplaceTenantAccessToken is told that Lark refused the token. It returns the
	// one to use instead, which is the same one if there is no other.
	ReplaceTenantAccessToken(ctx context.Context, appID string, refused session.Secret) (session.Secret, error)
}

// Waiter waits for a consent.
type Waiter interface {
	// Wait returns nil as soon as the session of user changes, on whichever replica,
	// and an error when ctx ends before that.
	Wait(ctx context.Context, user session.Key) error
}

// Config is what a proxy is made of. Upstream, Apps, Tokens, UserTokenRefusal and
// TenantTokenRefusal are required.
type Config struct {
	// Upstream is the Open Platform: scheme and host and, if need be, a path that
	// stands before the path of every request. Requests are sent nowhere else.
	Upstream *url.URL
	// MCP is Lark's remote MCP server, in the same form. Requests for /mcp are sent
	// there, with the user's token in X-Lark-MCP-UAT. nil: /mcp is a path like any
	// other.
	MCP *url.URL
	// Transport sends requests to Upstream. It must not decompress, follow
	// redirects, or read proxy settings from the environment. nil: [NewTransport]
	// with UpstreamTimeout.
	Transport http.RoundTripper
	// UpstreamTimeout is the time from the last byte of a request to the header of
	// its answer. Transport must have the same value: an error that comes earlier is
	// not taken for a timeout of Lark's. 0: 30 s.
	UpstreamTimeout time.Duration
	// BodyPatience is how long a caller may make the proxy wait for each KiB of a
	// request's body. A body that keeps moving may take hours. 0: 30 s.
	BodyPatience time.Duration
	// HalfClosePatience is how long a request goes on after its caller has closed the
	// sending side, while nothing of the answer comes. Such a caller may have hung up,
	// or may wait for its answer. It needs a server of [NewServer] on a listener of
	// [NewListener]. 0: 5 s.
	HalfClosePatience time.Duration

	// Apps are the ids that X-Lark-App-Id may name. The first is the default.
	Apps []string
	// InjectPaths are the paths to which a user's token may be sent. One that ends in
	// "/" is a prefix, any other is matched whole. The OAuth and app token endpoints
	// can't be among them. nil: none.
	InjectPaths []string
	// TenantPaths, in the same form, are the paths on which a request that names no
	// user and brings no token gets the app's tenant_access_token. nil: none.
	TenantPaths []string

	// Tokens has the users' tokens.
	Tokens TokenSource
	// UserTokenRefusal and TenantTokenRefusal return what an answer of Lark's with
	// this code and msg says about the token that was sent. They are called with an
	// empty msg first, while only the code has been read. Then they may return
	// NotRefused only if no msg would change that.
	UserTokenRefusal, TenantTokenRefusal func(code int, msg string) session.Refusal
	// Asker asks users for consent. nil: the 401 has no link.
	Asker Asker
	// Resolver finds users by other names. nil: only an open_id names a user.
	Resolver Resolver
	// ProveUser verifies a token and returns the user whom it proves: an open_id,
	// union_id or user_id. Its error ends a sentence that begins with "the token", and
	// has nothing of the token in it. If it is set, a request for a user has to bring
	// such a token in X-Larkside-User-Token, and there is no default user. It is
	// called from many goroutines. nil: the app is believed.
	ProveUser func(ctx context.Context, token string) (user string, err error)
	// DefaultUser returns the open_id of the app's default user. A request is that
	// user's if its path may get a user's token, and it names no user and brings no
	// token of its own. It returns session.ErrNotFound if the app has no default user
	// yet. Browsers can't use it. nil: such a request is refused.
	DefaultUser func(ctx context.Context, appID string) (openID string, err error)
	// Tenant has the apps' tokens. It is required with TenantPaths.
	Tenant Tenant
	// Waiter waits for consents. nil: Prefer: wait has no effect.
	Waiter Waiter
	// MaxWait is the upper bound of Prefer: wait. 0: 60 s.
	MaxWait time.Duration
	// MaxWaiters is how many requests may wait at once. With several callers each
	// has a share of that ([session.Share]). Another request gets its 401 without
	// waiting. 0: 1024.
	MaxWaiters int

	// ReplayBuffer is the size, in bytes, of the largest request body that is kept, so
	// that the request can be sent again with another token. 0: no body is kept.
	ReplayBuffer int

	// AllowHosts are the Host values that are accepted: a name with any port, or
	// name:port, or "*". A request over a Unix socket may have any Host. nil:
	// loopback names.
	AllowHosts []string
	// CallerKeys returns who may call. It is called for each request, from many
	// goroutines, and must not block. If it returns nobody, nobody may call. nil:
	// everybody may.
	CallerKeys func() []Caller
	// CallerLimits narrow what callers may do, by [Caller.Name]. A caller without an
	// entry may do everything. They need CallerKeys.
	CallerLimits map[string]CallerLimit

	// PropagateTrace sends traceparent and tracestate to Upstream.
	PropagateTrace bool
	// AccessLog writes a line for each request at level info. The line has no query
	// and no user.
	AccessLog bool
	// Route returns the template of a path in canonical form, for metrics and traces.
	// The templates have to be few. It is called about once per request. nil: the
	// inject path that matched, or "other".
	Route func(method, path string) string
	// UserAttr returns what stands for a user in spans; "" leaves the user out. It is
	// called only for spans that are recorded. nil: users don't appear in spans.
	UserAttr func(user session.Key) string

	// Stopping is closed when the process is about to stop. From then on new requests
	// are answered 503, and those that are held for a consent get their 401 at once.
	// nil: never.
	Stopping <-chan struct{}
	// Log gets what an operator can act on. nil: nothing is logged.
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
	if c.Transport == nil {
		c.Transport = NewTransport(TransportConfig{ResponseHeaderTimeout: c.UpstreamTimeout})
	}
	return c
}

// check returns an error that names everything that is missing or impossible.
func (c Config) check() error {
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Upstream == nil {
		fail("no upstream")
	}
	for _, u := range []*url.URL{c.Upstream, c.MCP} {
		if u != nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
			fail("upstream %q: want http(s)://host[/path]", u.Redacted())
		}
	}
	if len(c.Apps) == 0 || slices.Contains(c.Apps, "") {
		fail("apps: want at least one app id, none empty")
	}
	if c.Tokens == nil {
		fail("no token source")
	}
	if c.ProveUser != nil && c.DefaultUser != nil {
		fail("a default user although users have to be proven")
	}
	if c.UserTokenRefusal == nil || c.TenantTokenRefusal == nil {
		fail("no functions that recognize a refused token")
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
		fail("caller limits without keys, which tell callers apart")
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
