package lark

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"

	"larkside/session"
)

const (
	tenantTokenPath = larkcore.TenantAccessTokenInternalUrlPath
	opTenantToken   = "get tenant token"
	// tenantAhead is how long before its end a token is renewed. The SDK does
	// the same, and Lark keeps the old token valid.
	tenantAhead = 3 * time.Minute
	// tenantFetch bounds one fetch, which no caller's context ends.
	tenantFetch = 10 * time.Second
	// tenantPause is the least time between a failed fetch and the next.
	tenantPause = time.Second
	// replacePause is the least time between two replacements. Where Lark takes
	// only user tokens, it refuses a good tenant token with the same code.
	replacePause = 30 * time.Second
)

// tenantToken is the app's own token, fetched once for everybody. The SDK's own
// cache can't be read, fetches once for each caller, makes callers wait while
// it renews, and keeps a token that Lark refuses.
type tenantToken struct {
	mu sync.Mutex
	// secret is the app secret that everything below belongs to.
	secret             session.Secret
	token              session.Secret
	renewAt, expiresAt time.Time
	// replacedAt is when the last replacement came.
	replacedAt time.Time
	// err is why the last fetch failed; the next one may start at retryAt.
	err     error
	retryAt time.Time
	// flight is the running fetch; nil when none runs.
	flight *tenantFlight
}

// tenantFlight is one fetch of a tenant token.
type tenantFlight struct {
	done chan struct{}
	// replaces says that the fetch began because Lark refused the token before.
	replaces bool
}

// TenantAccessToken returns the app's own token, from memory while it is valid
// and renewed in the background in its last minutes. Concurrent callers share
// one request to Lark, which goes on when a caller hangs up. A failure is
// remembered for a second, or as long as Lark asks.
// Source: Lark "get custom app's tenant_access_token".
func (c *Client) TenantAccessToken(ctx context.Context) (session.Secret, error) {
	t := &c.tenant
	for {
		t.mu.Lock()
		now := t.follow(c.secret())
		if !now.Before(t.renewAt) && !now.Before(t.retryAt) {
			c.startFetch(ctx, false)
		}
		token, valid, flight, err := t.token, now.Before(t.expiresAt), t.flight, t.err
		t.mu.Unlock()
		switch {
		case valid:
			return token, nil
		case flight == nil:
			return session.Secret{}, err
		}
		if err := flight.wait(ctx); err != nil {
			return session.Secret{}, err
		}
	}
}

// ReplaceTenantAccessToken returns the token to use instead of refused, which
// an API of Lark's has just refused. It returns the same token when Lark issues
// no other one: then the token is good, and the API takes only user tokens.
// Replacements are at least 30 s apart; within that time too it returns the
// same token. Until another token comes, [Client.TenantAccessToken] returns the
// one before, since most APIs may still take it.
func (c *Client) ReplaceTenantAccessToken(ctx context.Context, refused session.Secret) (session.Secret, error) {
	t := &c.tenant
	t.mu.Lock()
	now := t.follow(c.secret())
	if !t.token.Equal(refused) {
		t.mu.Unlock()
		return c.TenantAccessToken(ctx) // somebody else has replaced it
	}
	if !now.Before(t.replacedAt.Add(replacePause)) && !now.Before(t.retryAt) {
		c.startFetch(ctx, true)
	}
	flight, err := t.flight, t.err
	t.mu.Unlock()
	switch {
	case flight == nil && err != nil:
		return session.Secret{}, err
	case flight == nil:
		return refused, nil
	}
	if err := flight.wait(ctx); err != nil {
		return session.Secret{}, err
	}
	t.mu.Lock()
	err = t.err
	t.mu.Unlock()
	if err != nil {
		return session.Secret{}, err
	}
	return c.TenantAccessToken(ctx)
}

// follow forgets what belongs to another secret, and returns the time. t.mu is
// held.
func (t *tenantToken) follow(secret session.Secret) time.Time {
	if !t.secret.Equal(secret) {
		t.secret, t.token, t.err = secret, session.Secret{}, nil
		t.renewAt, t.expiresAt, t.replacedAt, t.retryAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	}
	return time.Now()
}

// startFetch begins a fetch unless one runs. t.mu is held.
func (c *Client) startFetch(ctx context.Context, replaces bool) {
	t := &c.tenant
	if t.flight == nil {
		t.flight = &tenantFlight{make(chan struct{}), replaces}
		go c.fetchTenant(context.WithoutCancel(ctx), t.secret)
	}
}

// wait returns nil when the fetch is over, and an error when ctx ends before.
func (f *tenantFlight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return &Error{Op: opTenantToken, Class: Retry, Outcome: NotSent, Err: ctx.Err()}
	}
}

func (c *Client) fetchTenant(ctx context.Context, secret session.Secret) {
	ctx, cancel := context.WithTimeout(ctx, tenantFetch)
	defer cancel()
	token, life, err := c.requestTenant(ctx)
	now := time.Now()

	t := &c.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	flight := t.flight
	close(flight.done)
	t.flight = nil
	if !t.secret.Equal(secret) {
		return // the token belongs to the earlier secret
	}
	if err != nil {
		t.err, t.retryAt = err, now.Add(max(tenantPause, asked(err)))
		return
	}
	if flight.replaces {
		t.replacedAt = now
	}
	t.token, t.err, t.retryAt = token, nil, time.Time{}
	t.expiresAt = now.Add(life)
	t.renewAt = t.expiresAt.Add(-min(tenantAhead, life/10))
}

// asked returns how long Lark asked to wait.
func asked(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

func (c *Client) requestTenant(ctx context.Context) (session.Secret, time.Duration, error) {
	x, f, err := c.send(ctx, opTenantToken, session.Secret{}, func(ctx context.Context, s *sdk, _ ...larkcore.RequestOptionFunc) error {
		_, err := larkcore.Request(ctx, &larkcore.ApiReq{
			HttpMethod:                http.MethodPost,
			ApiPath:                   tenantTokenPath,
			Body:                      &larkcore.SelfBuiltTenantAccessTokenReq{AppID: s.config.AppId, AppSecret: s.config.AppSecret},
			SupportedAccessTokenTypes: []larkcore.AccessTokenType{larkcore.AccessTokenTypeNone},
		}, s.config)
		return err
	})
	if err != nil {
		return session.Secret{}, 0, err
	}
	token := f.text("tenant_access_token")
	if token == "" || !headerSafe(token) {
		return session.Secret{}, 0, x.unusable("tenant_access_token")
	}
	return session.NewSecret(token), seconds(f, "expire", 7200, maxAccessLife.Seconds()), nil
}
