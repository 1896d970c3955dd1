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
	// DeviceCode is polled with; it stays here.
	DeviceCode session.Secret
	// UserCode is shown to the user on VerificationURI; in
	// VerificationURIComplete, the address for the button, it is included.
	// Without one from Lark that is VerificationURI. Both are absolute http(s)
	// addresses.
	UserCode, VerificationURI, VerificationURIComplete string
	// ExpiresIn is at most an hour, from receipt. Interval is the least time
	// between polls, 1 s to 60 s.
	ExpiresIn, Interval time.Duration
}

// StartDevice starts a device flow for scopes, which should include
// offline_access. The app authenticates by HTTP Basic, as Lark's own clients
// do; where a proxy strips that header (larksuite/cli#509, #1932) the secret
// is sent in the body instead, in one second request.
func (c *Client) StartDevice(ctx context.Context, scopes []string) (DeviceAuthorization, error) {
	secret := c.secret()
	form := url.Values{"client_id": {c.appID}, "scope": {strings.Join(scopes, " ")}}
	x := &exchange{op: "start device flow", limit: tokenLimit, secrets: []session.Secret{secret}}
	to := c.accountsURL + "/oauth/v1/device_authorization"

	c.postForm(ctx, x, to, form, func(r *http.Request) { r.SetBasicAuth(c.appID, secret.Expose()) })
	f, err := x.verdict(onCode)
	if basicStripped(err) {
		c.log.WarnContext(ctx, "Lark did not see the Authorization header of a device flow; sending the secret in the body")
		form.Set("client_secret", secret.Expose())
		c.postForm(ctx, x, to, form)
		f, err = x.verdict(onCode)
	}
	if err != nil {
		return DeviceAuthorization{}, err
	}
	return newDevice(x, f)
}

// basicStripped looks at the text because Lark has no code for it: "missing
// required parameter: client_secret".
func basicStripped(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Outcome == Refused && strings.Contains(e.Description, "client_secret")
}

func newDevice(x *exchange, f fields) (DeviceAuthorization, error) {
	d := DeviceAuthorization{
		DeviceCode: session.NewSecret(f.text("device_code")),
		UserCode:   f.text("user_code"),
		// Lark's own clients fall back to these when a number is missing.
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

// seconds reads a duration of at least one second.
func seconds(f fields, name string, fallback, limit float64) time.Duration {
	n, ok := f.number(name)
	if !ok || n < 1 {
		n = fallback
	}
	return time.Duration(min(n, limit)) * time.Second
}

// PollDevice asks once whether the user has decided. Besides success it
// returns an [*Error] that is one of [ErrAuthorizationPending] (go on),
// [ErrSlowDown] (go on, five seconds slower), [ErrAccessDenied] and
// [ErrExpired] (stop), or none of them: go on until the flow expires. A poll
// that the token endpoint does not know goes to its other version from the next
// one on, as with [Client.Exchange].
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
	// Lark's invalid_grant stands beside many codes, of which most are about
	// the user or the app rather than about the device code.
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
