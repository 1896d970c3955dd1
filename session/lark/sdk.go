package lark

import (
	"context"
	"errors"
	"sync"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
	larkim "github.com/larksuite/oapi-sdk-go/v3/service/im/v1"

	"larkside/session"
)

// sdk is the official SDK, set up for one value of the app's secret. The SDK's
// root package would do that, too, but it links every service of the platform.
type sdk struct {
	config *larkcore.Config
	im     *larkim.V1
	secret session.Secret
}

// sdkHolder has the sdk for the present secret.
type sdkHolder struct {
	mu      sync.Mutex
	current *sdk
}

func (c *Client) currentSDK() *sdk {
	h := &c.sdk
	secret := c.secret()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil || !h.current.secret.Equal(secret) {
		config := &larkcore.Config{
			BaseUrl:          c.openURL,
			AppId:            c.appID,
			AppSecret:        secret.Expose(),
			AppType:          larkcore.AppTypeSelfBuilt,
			EnableTokenCache: false, // see tenantToken
			HttpClient:       c.http,
			Logger:           discard{},
			Serializable:     &larkcore.DefaultSerialization{},
		}
		h.current = &sdk{config: config, im: larkim.New(config), secret: secret}
	}
	return h.current
}

// sdkCall makes one request through the SDK, with the given options.
type sdkCall func(context.Context, *sdk, ...larkcore.RequestOptionFunc) error

// callAsApp makes a request with the app's own token. If Lark refuses the token
// and issues another one, the request is made once more.
func (c *Client) callAsApp(ctx context.Context, op string, run sdkCall) (*call, fields, error) {
	if err := ctx.Err(); err != nil {
		return &call{op: op}, nil, &Error{Op: op, Class: Retry, Outcome: NotSent, Err: err}
	}
	token, err := c.TenantAccessToken(ctx)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			// A copy, since TenantAccessToken returns the same error to others.
			named := *e
			named.Op = op + ": " + e.Op
			err = &named
		}
		return &call{op: op}, nil, err
	}
	x, f, err := c.send(ctx, op, token, run)
	var refusal *Error
	if !errors.As(err, &refusal) || TenantTokenRefusal(refusal.Code, "") != session.TokenInvalid {
		return x, f, err
	}
	next, failed := c.ReplaceTenantAccessToken(ctx, token)
	if failed != nil || next.Equal(token) {
		return x, f, err
	}
	return c.send(ctx, op, next, run)
}

// send makes a request once, with token if there is one, and judges the
// recorded answer. The SDK's own result is not used: its errors lack the status
// and quote whole answers, and it fails if one member has another type.
func (c *Client) send(ctx context.Context, op string, token session.Secret, run sdkCall) (*call, fields, error) {
	s := c.currentSDK()
	x := &call{op: op, limit: apiLimit, secrets: []session.Secret{s.secret, token}}
	failed := c.guard(ctx, func() error {
		return run(withCall(ctx, x), s, larkcore.WithTenantAccessToken(token.Expose()))
	})
	f, err := x.result(onApp)
	if failed != nil && x.path == "" {
		// The SDK did not send, for example because there is no secret.
		err = &Error{Op: op, Class: Misconfigured, Outcome: NotSent, Err: opaqueCause(failed, x.secrets)}
	}
	return x, f, err
}

// discard is the SDK's logger. The SDK would log requests and answers.
type discard struct{}

func (discard) Debug(context.Context, ...any) {}
func (discard) Info(context.Context, ...any)  {}
func (discard) Warn(context.Context, ...any)  {}
func (discard) Error(context.Context, ...any) {}
