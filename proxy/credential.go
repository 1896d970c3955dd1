package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"larkside/proxy/edge"
	"larkside/session"
)

// credentialKind is where the Authorization header of a request comes from.
type credentialKind int

const (
	nothing credentialKind = iota
	ownToken
	tenantToken
	userToken
)

// credential is what goes into the one Authorization header of a request.
type credential struct {
	kind   credentialKind
	own    string          // ownToken: the header that the app sent
	tenant session.Secret  // tenantToken
	access *session.Access // userToken
}

// injected reports whether Larkside adds the credential, and so can replace it.
func (c *credential) injected() bool { return c.kind == tenantToken || c.kind == userToken }

// chooseCredential decides which credential the request goes on with, and gets it.
// defaultUser is [Config.DefaultUser], or nil.
func (p *proxy) chooseCredential(x *request, defaultUser func(context.Context, string) (string, error)) error {
	h := x.in.Header
	user, err := userID(h)
	if err != nil {
		return err
	}
	if x.who.app, err = appID(h, p.cfg.Apps); err != nil {
		return err
	}
	// A token that proves a user names that user too.
	named := user != "" || p.cfg.ProveUser != nil && len(h[proofHeader]) > 0
	if x.target.class.tokenCall {
		named = false // SDKs set the header on all requests once it is set on the client
	}
	own := ownAuthorization(h)
	if x.target.fetchesAppToken() && own == "" {
		// Such a call needs no credential. It is answered here, or its caller's
		// limits are checked before it is forwarded.
		x.result.outcome = PassedThrough
		return nil
	}
	if err := x.who.limit.request(x.target.method, x.target.path); err != nil {
		return err
	}
	switch {
	case named && !x.target.class.takesUser():
		return edge.PathNotAllowed
	case named:
		if user, err = p.prove(x, user); err != nil {
			return err
		}
		x.credential.kind, x.result.outcome = userToken, Proxied
		return p.useUserToken(x, user)
	case own != "":
		x.credential, x.result.outcome = credential{kind: ownToken, own: own}, PassedThrough
		return nil
	case x.target.class.tenant:
		x.credential.kind, x.result.outcome = tenantToken, WithTenantToken
		if err := x.who.limit.tenant(); err != nil {
			return err
		}
		x.credential.tenant, err = p.cfg.Tenant.TenantAccessToken(x, x.who.app)
		return err
	case x.target.class.takesUser() && defaultUser != nil:
		return p.useDefaultUserToken(x, defaultUser)
	case p.cfg.ProveUser != nil:
		return &edge.Answer{Failure: edge.UserIDRequired, Detail: "The request names no user: send X-Larkside-User-Token with a JWT of the user, or an Authorization of your own."}
	}
	return edge.UserIDRequired
}

// useDefaultUserToken makes the default user's token the credential of x.
func (p *proxy) useDefaultUserToken(x *request, defaultUser func(context.Context, string) (string, error)) error {
	if edge.MayBePage(x.in) {
		return &edge.Answer{Failure: edge.HostNotAllowed, Detail: "Browsers can't use the default user, since any web page could then: send X-Lark-User-Id."}
	}
	user, err := defaultUser(x.identifyContext(), x.who.app)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return &edge.Answer{Failure: edge.AuthorizationRequired, Reason: session.NoSession, RetryAfter: defaultRetry,
			Challenge: session.Challenge{Card: session.CardOff},
			Detail:    `Nobody has signed in yet who could be the default user: run "larkside login", then send the request again.`}
	case err != nil:
		return err
	}
	x.credential.kind, x.result.outcome = userToken, Proxied
	return p.useUserToken(x, user)
}

// useUserToken makes the token of the user whom the app calls name the credential of
// x. If the user has none, it asks for consent, and waits if the caller wants that.
func (p *proxy) useUserToken(x *request, name string) error {
	var err error
	x.who.user, err = p.resolve(x, name)
	if err == nil || errors.Is(err, session.ErrNotFound) {
		// Unknown names are checked too, so that callers can't probe for users.
		if refused := x.who.limit.user(x.who.user.OpenID, name); refused != nil {
			return refused
		}
	}
	if err == nil {
		err = p.findToken(x)
	}
	if err == nil {
		return nil
	}
	return p.askAndWait(x, err)
}

// resolve returns the user whom the app calls name. An open_id names a user by
// itself.
func (p *proxy) resolve(x *request, name string) (session.Key, error) {
	switch {
	case strings.HasPrefix(name, "ou_"):
		return session.Key{AppID: x.who.app, OpenID: name}, nil
	case p.cfg.Resolver == nil:
		return session.Key{}, session.ErrNotFound
	}
	user, err := p.cfg.Resolver.Resolve(x.identifyContext(), x.who.app, name)
	switch {
	case err != nil:
		return session.Key{}, err
	case user.AppID != x.who.app || user.OpenID == "":
		return session.Key{}, fmt.Errorf("resolver returned a user of another app: %w", session.ErrUnavailable)
	}
	return user, nil
}
