package lark

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"larkside/session"
)

const (
	defaultAccessLife  = 7200 * time.Second // Lark's sample, and its SDKs' fallback
	maxAccessLife      = 24 * time.Hour
	defaultRefreshLife = 7 * 24 * time.Hour
	maxRefreshLife     = 400 * 24 * time.Hour
)

// Token is what the token endpoint issued.
type Token struct {
	// AccessToken is opaque, 1-2 KB. It is empty only after a Refresh whose
	// answer had a new refresh token and no usable access token. Then store the
	// refresh token and keep the old access token.
	AccessToken session.Secret
	// RefreshToken works once and replaces the one that was sent. It is empty
	// if Lark issued none. The one that was sent is spent in any case.
	RefreshToken session.Secret
	// TokenType is "Bearer" for every spelling of it, or else what Lark sent.
	TokenType string
	// Scope is what the token really has, separated by spaces.
	Scope string
	// TokenURL is the endpoint that issued it; pass it to the next Refresh.
	TokenURL string
	// ExpiresIn is between 0 (expired at once) and 24 h. RefreshExpiresIn is
	// between 1 s and 400 days, or 0 without a refresh token. Both count from
	// receipt.
	ExpiresIn, RefreshExpiresIn time.Duration
	// Warnings say what in the answer is not as documented, and how it was
	// read. They are for the log and have no token.
	Warnings []string
}

// Exchange exchanges an authorization code for tokens. redirectURI must be the
// one given to [Client.AuthorizeURL]. verifier is the PKCE secret, 43 to 128
// characters (RFC 7636 section 4.1), and may be empty if no challenge was sent.
// A code works once, within five minutes.
//
// The configured token endpoint is asked. Once it has answered that it can't
// make such a grant (20049: PKCE; 20036 or unsupported_grant_type), the other
// version is asked from the next grant on. Source: Lark "get
// user_access_token", 2026-04-08.
func (c *Client) Exchange(ctx context.Context, code session.Secret, redirectURI string, verifier session.Secret) (Token, error) {
	form := url.Values{
		"grant_type":   {"authorization_code"},
		"code":         {code.Expose()},
		"redirect_uri": {redirectURI},
	}
	if !verifier.Empty() {
		form.Set("code_verifier", verifier.Expose())
	}
	return c.askGrants(ctx, func(to string) (Token, error) {
		return c.grant(ctx, "exchange code", to, onCode, form, code, verifier)
	})
}

// Refresh spends refreshToken. The token works once, so the caller must have
// recorded that it is about to be sent. tokenURL is where the grant was issued,
// since a v2 endpoint may refuse what v3 issued. Empty: the configured
// endpoint. If tokenURL is neither the configured endpoint nor v2 or v3 of the
// configured hosts, for instance after a move, nothing is sent to it. The
// configured endpoint is asked, with a warning.
//
// No scope is sent, so that the new token has everything that was ever granted.
// Source: Lark "refresh user_access_token", 2026-04-08.
func (c *Client) Refresh(ctx context.Context, tokenURL string, refreshToken session.Secret) (Token, error) {
	to := c.endpoints.configured
	if c.endpoints.allowed(tokenURL) {
		to = tokenURL
	}
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {refreshToken.Expose()},
	}
	t, err := c.grant(ctx, "refresh", to, onRefresh, form, refreshToken)
	if err == nil && tokenURL != "" && to != tokenURL {
		t.warn("the grant's token endpoint is none of the configured ones; %s was asked", to)
	}
	return t, err
}

// grant asks the token endpoint. The client's secret is in the body only. Lark
// refuses it together with HTTP Basic (20070).
func (c *Client) grant(ctx context.Context, op, to string, judge codeTable, form url.Values, sent ...session.Secret) (Token, error) {
	secret := c.secret()
	form.Set("client_id", c.appID)
	form.Set("client_secret", secret.Expose())
	x := &call{op: op, limit: tokenLimit, secrets: append(sent, secret)}
	c.postToken(ctx, x, to, form)
	f, err := x.result(judge)
	if err != nil {
		return Token{}, err
	}
	t := newToken(f, x.secrets)
	t.TokenURL = to
	if t.AccessToken.Empty() && (op != "refresh" || t.RefreshToken.Empty()) {
		return Token{}, x.unusable("access_token")
	}
	return t, nil
}

// postToken sends form to a token endpoint in an encoding that it accepts.
func (c *Client) postToken(ctx context.Context, x *call, to string, form url.Values) {
	if c.endpoints.sendsJSON(to) {
		c.postJSON(ctx, x, to, form)
		return
	}
	c.postForm(ctx, x, to, form)
	if x.readable() || !c.endpoints.takesJSON(to) {
		return
	}
	c.postJSON(ctx, x, to, form)
	if x.answered() && x.readable() {
		c.endpoints.wantsJSON.Store(true)
	}
}

// newToken reads a successful answer. Odd lifetimes do not make it fail.
func newToken(f fields, secrets []session.Secret) Token {
	t := Token{
		RefreshToken: session.NewSecret(f.anyText("refresh_token")),
		TokenType:    f.text("token_type"),
		Scope:        strings.Join(strings.Fields(f.text("scope")), " "),
	}
	if access := f.text("access_token"); access == "" || !headerSafe(access) {
		t.warn("no usable access_token")
	} else {
		t.AccessToken = session.NewSecret(access)
		t.ExpiresIn = t.life(f, "expires_in", defaultAccessLife, maxAccessLife)
	}
	if !t.RefreshToken.Empty() {
		t.RefreshExpiresIn = t.life(f, "refresh_token_expires_in", defaultRefreshLife, maxRefreshLife)
		if t.RefreshExpiresIn < time.Second {
			// Lark does not issue an expired one. If it did, the next refresh
			// would say so (20037).
			t.RefreshExpiresIn = defaultRefreshLife
		}
	}
	switch {
	case t.TokenType == "":
		t.TokenType = "Bearer"
		t.warn("no token_type; taken as Bearer")
	case strings.EqualFold(t.TokenType, "Bearer"): // case-insensitive, RFC 6749 section 5.1
		t.TokenType = "Bearer"
	default:
		t.TokenType = cut(scrub(t.TokenType, secrets), 32)
		t.warn("token_type is %s; only Bearer can be used", t.TokenType)
	}
	if s := f.anyText("status_message"); s != "" {
		t.warn("Lark says: %s", scrub(s, append(secrets, t.AccessToken, t.RefreshToken)))
	}
	return t
}

// life reads a lifetime in seconds, between 0 and limit.
func (t *Token) life(f fields, name string, fallback, limit time.Duration) time.Duration {
	seconds, ok := f.number(name)
	came := cut(scrub(string(f[name]), []session.Secret{t.AccessToken, t.RefreshToken}), 40)
	switch {
	case !ok:
		t.warn("%s is missing or unreadable (%q); taken as %s", name, came, fallback)
		return fallback
	case seconds > limit.Seconds():
		t.warn("%s is %s; taken as %s", name, came, limit)
		return limit
	case seconds <= 0:
		t.warn("%s is %s; taken as expired", name, came)
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

func (t *Token) warn(format string, args ...any) {
	t.Warnings = append(t.Warnings, fmt.Sprintf(format, args...))
}

// headerSafe reports whether s can be in an Authorization header: printable
// ASCII without a space.
func headerSafe(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
