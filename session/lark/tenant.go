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
	// tenantAhead is how long before its end a token is renewed, as the SDK
	// does it; Lark keeps the old one valid.
	tenantAhead = 3 * time.Minute
	// tenantFetch bounds one fetch, which belongs to no caller's context.
	tenantFetch = 10 * time.Second
	// tenantPause is the least time between a failed fetch and the next.
	tenantPause = time.Second
)

// tenantToken is the app's own token, got once for everybody. It is not the
// SDK's, which can't be read, has no single flight and gives nothing while it
// renews.
type tenantToken struct {
	mu sync.Mutex
	// secret is the app secret that all below belongs to.
	secret             session.Secret
	token              session.Secret
	renewAt, expiresAt time.Time
	// err is why the last fetch failed; the next may start at retryAt.
	err     error
	retryAt time.Time
	// flight is closed when the running fetch is over; nil when none runs.
	flight chan struct{}
}

// TenantAccessToken returns the app's own token, from memory while it is valid
// and renewed behind the caller's back in its last minutes. Concurrent callers
// share one request to Lark, which no caller's hanging up aborts. A failure is
// remembered for a second, or as long as Lark asks.
// Source: Lark "get custom app's tenant_access_token".
func (c *Client) TenantAccessToken(ctx context.Context) (session.Secret, error) {
	for {
		token, flight, err := c.tenantStep(ctx)
		if flight == nil {
			return token, err
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return session.Secret{}, &Error{Op: opTenantToken, Class: Retry, Outcome: NotSent, Err: ctx.Err()}
		}
	}
}

// tenantStep returns a token, the error of late, or a fetch to wait for.
func (c *Client) tenantStep(ctx context.Context) (session.Secret, <-chan struct{}, error) {
	t := &c.tenant
	secret, now := c.secret(), time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.secret.Equal(secret) {
		t.secret, t.token, t.err = secret, session.Secret{}, nil
		t.renewAt, t.expiresAt, t.retryAt = time.Time{}, time.Time{}, time.Time{}
	}
	if now.Before(t.renewAt) {
		return t.token, nil, nil
	}
	if t.flight == nil && !now.Before(t.retryAt) {
		t.flight = make(chan struct{})
		go c.fetchTenant(context.WithoutCancel(ctx), secret)
	}
	if now.Before(t.expiresAt) {
		return t.token, nil, nil
	}
	if t.flight != nil {
		return session.Secret{}, t.flight, nil
	}
	return session.Secret{}, nil, t.err
}

func (c *Client) fetchTenant(ctx context.Context, secret session.Secret) {
	ctx, cancel := context.WithTimeout(ctx, tenantFetch)
	defer cancel()
	token, life, err := c.requestTenant(ctx)
	now := time.Now()

	t := &c.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.flight)
	t.flight = nil
	if !t.secret.Equal(secret) {
		return // rotated meanwhile
	}
	if err != nil {
		t.err, t.retryAt = err, now.Add(max(tenantPause, asked(err)))
		return
	}
	t.token, t.err, t.retryAt = token, nil, time.Time{}
	t.expiresAt = now.Add(life)
	t.renewAt = t.expiresAt.Add(-min(tenantAhead, life/10))
}

// asked is how long Lark wants to be left alone.
func asked(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

func (c *Client) requestTenant(ctx context.Context) (session.Secret, time.Duration, error) {
	x, f, err := c.call(ctx, opTenantToken, func(ctx context.Context, s *sdk, _ ...larkcore.RequestOptionFunc) error {
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
