package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"larkside/session"
)

// origin is where requests go.
type origin struct {
	scheme, host string
	// prefix stands before every raw path: the path of the configured upstream and,
	// where an outbound proxy needs an absolute target, "//" and the host before it.
	prefix string
}

func newOrigin(upstream *url.URL, transport http.RoundTripper) origin {
	o := origin{scheme: upstream.Scheme, host: upstream.Host}
	if path := strings.Trim(upstream.EscapedPath(), "/"); path != "" {
		o.prefix = "/" + path
	}
	if t, ok := transport.(*Transport); ok && t.outbound() && o.scheme == "http" {
		// An outbound proxy needs an absolute target, which net/http doesn't make of
		// URL.Opaque. To an https upstream it opens a tunnel instead.
		o.prefix = "//" + o.host + o.prefix
	}
	return o
}

// errMisdirected means a bug: a request with a credential was about to go where it
// must not.
var errMisdirected = errors.New("request is not for the configured upstream")

// authorize sets the one Authorization header of out. This is the rule that must
// never break: a user's token goes to the configured upstream and nowhere else, on
// an inject path, before it expires, and with a request of that user. For /mcp the
// upstream is the MCP server, which takes the token in another header.
func (c *credential) authorize(out *http.Request, to origin, path class, user session.Key) error {
	delete(out.Header, "Authorization")
	delete(out.Header, mcpTokenHeader)
	if out.URL.Scheme != to.scheme || out.URL.Host != to.host || out.Host != to.host {
		return errMisdirected
	}
	switch c.kind {
	case userToken:
		if !path.takesUser() {
			return errMisdirected
		}
		if err := servable(c.access, user, time.Now()); err != nil {
			return err
		}
		if path.mcp {
			c.access.SetToken(out.Header, mcpTokenHeader)
		} else {
			c.access.Authorize(out.Header)
		}
	case tenantToken:
		if !path.tenant {
			return errMisdirected
		}
		out.Header["Authorization"] = []string{"Bearer " + c.tenant.Expose()}
	case ownToken:
		out.Header["Authorization"] = []string{c.own}
	}
	return nil
}

// servable returns nil if a is a token of user's that may be sent now. It doesn't
// rely on the token source.
func servable(a *session.Access, user session.Key, now time.Time) error {
	switch {
	case a == nil:
		return fmt.Errorf("token source returned nothing: %w", session.ErrUnavailable)
	case a.Key != user:
		return fmt.Errorf("token source returned another user's token: %w", session.ErrUnavailable)
	case !a.Usable(now):
		return &session.RetryError{Err: session.ErrRefreshUnavailable, After: time.Second}
	}
	return nil
}
