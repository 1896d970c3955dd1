package lark

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"larkside/session"
)

// DeviceAuthorization is a started device flow (RFC 8628 section 3.2).
type DeviceAuthorization struct {
	// DeviceCode is sent with each poll and shown to nobody.
	DeviceCode session.Secret
	// UserCode is what the user types on VerificationURI.
	// VerificationURIComplete, for the button, has it in the address. Both are
	// absolute http(s) addresses. If Lark sent only one, they are the same.
	UserCode, VerificationURI, VerificationURIComplete string
	// ExpiresIn counts from receipt and is an hour at most. Interval is the
	// least time between polls, 1 s to 60 s.
	ExpiresIn, Interval time.Duration
}

// StartDevice starts a device flow for scopes, which should include
// offline_access. The app authenticates by HTTP Basic, like Lark's own clients.
// If a proxy strips that header (larksuite/cli#509, #1932), a second request
// has the secret in its body.
func (c *Client) StartDevice(ctx context.Context, scopes []string) (DeviceAuthorization, error) {
	secret := c.secret()
	form := url.Values{"client_id": {c.appID}, "scope": {strings.Join(scopes, " ")}}
	x := &call{op: "start device flow", limit: tokenLimit, secrets: []session.Secret{secret}}
	to := c.accountsURL + "/oauth/v1/device_authorization"

	c.postForm(ctx, x, to, form, func(r *http.Request) { r.SetBasicAuth(c.appID, secret.Expose()) })
	f, err := x.result(onCode)
	if basicStripped(err) {
		c.log.WarnContext(ctx, "Lark did not see the Authorization header of a device flow; sending the secret in the body")
		form.Set("client_secret", secret.Expose())
		c.postForm(ctx, x, to, form)
		f, err = x.result(onCode)
	}
	if err != nil {
		return DeviceAuthorization{}, err
	}
	return newDevice(x, f)
}

// basicStripped reports whether Lark did not see the HTTP Basic header. It
// looks at the text, since Lark has no code for this: "missing required
// parameter: client_secret".
func basicStripped(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Outcome == Refused && strings.Contains(e.Description, "client_secret")
}

func newDevice(x *call, f fields) (DeviceAuthorization, error) {
	d := DeviceAuthorization{
		DeviceCode: session.NewSecret(f.text("device_code")),
		UserCode:   f.text("user_code"),
		// Lark's own clients use these values if a number is missing.
		ExpiresIn: seconds(f, "expires_in", 240, 3600),
		Interval:  seconds(f, "interval", 5, 60),
	}
	if d.DeviceCode.Empty() {
		return DeviceAuthorization{}, x.unusable("device_code")
	}
	var plain, complete bool
	d.VerificationURI, plain = webURL(f.text("verification_uri"))
	d.VerificationURIComplete, complete = webURL(f.text("verification_uri_complete"))
	switch {
	case !plain && !complete:
		return DeviceAuthorization{}, x.unusable("verification_uri")
	case !plain:
		d.VerificationURI = d.VerificationURIComplete
	case !complete:
		d.VerificationURIComplete = d.VerificationURI
	}
	return d, nil
}

// seconds reads a duration between one second and limit.
func seconds(f fields, name string, fallback, limit float64) time.Duration {
	n, ok := f.number(name)
	if !ok || n < 1 {
		n = fallback
	}
	return time.Duration(min(n, limit)) * time.Second
}

// PollDevice asks once whether the user has decided. Its [*Error] wraps
// [ErrAuthorizationPending] (poll again), [ErrSlowDown] (poll again, five
// seconds slower), [ErrAccessDenied] or [ErrExpired] (stop). After any other
// error, poll again until the flow expires. If the token endpoint does not know
// this grant type, the other version is asked from the next poll on, as with
// [Client.Exchange].
func (c *Client) PollDevice(ctx context.Context, deviceCode session.Secret) (Token, error) {
	form := url.Values{
		"grant_type":  {"urn:ietf:params:oauth:grant-type:device_code"},
		"device_code": {deviceCode.Expose()},
	}
	t, err := c.askGrants(ctx, func(to string) (Token, error) {
		return c.grant(ctx, "poll device flow", to, onCode, form, deviceCode)
	})
	var e *Error
	if !errors.As(err, &e) || e.HTTPStatus >= 500 {
		return t, err
	}
	// Lark sends invalid_grant with many codes. Most are about the user or the
	// app, not about the device code.
	if known := pollErrors[e.Name]; known != nil && (known != ErrExpired || e.Class == Reauthorize || e.Class == Unknown) {
		e.Err = known
	}
	return t, err
}

var pollErrors = map[string]error{
	"authorization_pending": ErrAuthorizationPending,
	"slow_down":             ErrSlowDown,
	"access_denied":         ErrAccessDenied,
	"expired_token":         ErrExpired,
	"invalid_grant":         ErrExpired,
}
