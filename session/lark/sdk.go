package lark

import (
	"context"
	"crypto/rand"
	"sync"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
	larkim "github.com/larksuite/oapi-sdk-go/v3/service/im/v1"

	"larkside/session"
)

// sdk is the official SDK, set up for one value of the app's secret. Its root
// package, which would do that for us, links every service of the platform.
type sdk struct {
	config *larkcore.Config
	im     *larkim.V1
	secret session.Secret
}

// sdkHolder makes a new sdk when the secret has changed.
type sdkHolder struct {
	mu      sync.Mutex
	current *sdk
	// cacheKey keeps clients apart in the SDK's token cache, which is one for
	// the whole process, keyed by app id, secret and tenant key, and knows
	// nothing of base URLs. For a self-built app the tenant key goes nowhere
	// else.
	cacheKey string
}

func (c *Client) currentSDK() *sdk {
	h := &c.sdk
	secret := c.secret()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cacheKey == "" {
		h.cacheKey = rand.Text()
	}
	if h.current == nil || !h.current.secret.Equal(secret) {
		config := &larkcore.Config{
			BaseUrl:          c.openURL,
			AppId:            c.appID,
			AppSecret:        secret.Expose(),
			AppType:          larkcore.AppTypeSelfBuilt,
			EnableTokenCache: true,
			HttpClient:       c.http,
			Logger:           discard{},
			Serializable:     &larkcore.DefaultSerialization{},
		}
		h.current = &sdk{config: config, im: larkim.New(config), secret: secret}
	}
	return h.current
}

// call runs one SDK operation and judges what went over the wire. The SDK's
// own result is not used: its errors lack the status and quote whole answers,
// and it fails where one member has an odd type.
func (c *Client) call(ctx context.Context, op string, run func(context.Context, *sdk, ...larkcore.RequestOptionFunc) error) (*exchange, fields, error) {
	s := c.currentSDK()
	x := &exchange{op: op, limit: apiLimit, secrets: []session.Secret{s.secret}}
	failed := run(withExchange(ctx, x), s, larkcore.WithTenantKey(c.sdk.cacheKey))
	f, err := x.verdict(onApp)
	if err == nil && x.path == tenantTokenPath && op != opTenantToken {
		// The token's answer came, and the SDK made nothing of it.
		err = x.unusable("tenant_access_token")
	}
	if failed != nil && x.path == "" {
		// It refused to send, for want of a secret for example.
		err = &Error{Op: op, Class: Misconfigured, Outcome: NotSent, Err: opaqueCause(failed, x.secrets)}
	}
	return x, f, err
}

// discard is the SDK's logger: its lines hold requests and answers.
type discard struct{}

func (discard) Debug(context.Context, ...any) {}
func (discard) Info(context.Context, ...any)  {}
func (discard) Warn(context.Context, ...any)  {}
func (discard) Error(context.Context, ...any) {}
