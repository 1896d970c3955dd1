package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"larkside/cmd/larkside/settings"
	"larkside/proxy"
	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/lark"
)

func (s *server) newProxy() (*proxy.Handler, error) {
	upstream, err := url.Parse(string(s.cfg.OpenURL))
	if err != nil {
		return nil, fmt.Errorf("%sOPEN_URL: %w", settings.Prefix, err)
	}
	var mcp *url.URL
	if s.cfg.MCPURL != "" {
		if mcp, err = url.Parse(string(s.cfg.MCPURL)); err != nil {
			return nil, fmt.Errorf("%sMCP_URL: %w", settings.Prefix, err)
		}
	}
	transport, err := transportConfig(s.cfg)
	if err != nil {
		return nil, err
	}
	users, err := newUserJWT(s.cfg, s.log)
	if err != nil {
		return nil, err
	}
	var proveUser func(context.Context, string) (string, error)
	if users != nil {
		proveUser = users.User
	}
	routes := lark.NewRoutes()
	return proxy.New(proxy.Config{
		UserTokenRefusal: lark.UserTokenRefusal, TenantTokenRefusal: lark.TenantTokenRefusal,
		Upstream: upstream, MCP: mcp, Transport: proxy.NewTransport(transport), UpstreamTimeout: s.cfg.UpstreamTimeout,
		Apps: s.cfg.AppIDs(), InjectPaths: s.cfg.InjectPaths, TenantPaths: s.cfg.TenantPaths,
		Tokens: userTokens{s}, Asker: asker{s}, Resolver: userNames{s}, ProveUser: proveUser, DefaultUser: s.defaultUser(), Tenant: tenantTokens{s}, Waiter: consentWaiter{s},
		MaxWait: s.cfg.MaxWait, ReplayBuffer: int(s.cfg.ReplayBuffer), AllowHosts: s.cfg.AllowHosts,
		CallerKeys: s.callers(), CallerLimits: callerLimits(s.cfg.CallerLimits), PropagateTrace: s.cfg.PropagateTrace, AccessLog: s.cfg.AccessLog,
		Route: func(method, path string) string {
			if template, ok := routes.Match(method, path); ok {
				return template
			}
			return "other"
		},
		UserAttr: func(k session.Key) string { return s.users.Show(k.OpenID) },
		Stopping: s.stopping, Log: s.log,
	})
}

// callers is nil where everybody may call. The list is made when the keys
// change, not on each request.
func (s *server) callers() func() []proxy.Caller {
	if len(s.cfg.CallerKeys) == 0 {
		return nil
	}
	var present atomic.Pointer[[]proxy.Caller]
	set := func(keys settings.NamedSecrets) {
		list := make([]proxy.Caller, len(keys))
		for i, k := range keys {
			list[i] = proxy.Caller{Name: k.Name, Key: k.Secret}
		}
		present.Store(&list)
	}
	set(s.secrets.CallerKeys.Get())
	s.secrets.CallerKeys.OnChange(set)
	return func() []proxy.Caller { return *present.Load() }
}

func callerLimits(all settings.CallerLimits) map[string]proxy.CallerLimit {
	limits := make(map[string]proxy.CallerLimit, len(all))
	for name, limit := range all {
		limits[name] = proxy.CallerLimit(limit)
	}
	return limits
}

// The types below give the proxy what it asks for, each by one of its
// interfaces. They go through the server because the proxy serves before the
// store is open; until then they answer errStarting.

// userTokens is a [proxy.TokenSource]. refresh has the tokens; consent knows
// better why a user has none, such as that they declined.
type userTokens struct{ s *server }

func (t userTokens) Token(ctx context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	p, err := t.s.started()
	if err != nil {
		return nil, session.Missing, err
	}
	a, lookup, err := p.source.Token(ctx, key)
	if why, ok := errors.AsType[*session.ConsentRequiredError](err); ok {
		err = &session.ConsentRequiredError{Reason: p.consents.Reason(ctx, key, why.Reason)}
	}
	return a, lookup, err
}

func (t userTokens) ReplaceRefused(ctx context.Context, key session.Key, version int64) (*session.Access, error) {
	p, err := t.s.started()
	if err != nil {
		return nil, err
	}
	return p.source.ReplaceRefused(ctx, key, version)
}

// asker is a [proxy.Asker]. It starts no consent for an app that Lark refuses.
type asker struct{ s *server }

func (a asker) Ask(ctx context.Context, key session.Key, want session.ConsentRequest) (session.Challenge, error) {
	p, err := a.s.started()
	if err != nil {
		return session.Challenge{}, err
	}
	if err := p.source.CheckApp(key.AppID); err != nil {
		return session.Challenge{}, err
	}
	if want.Reason == session.NoSession && a.s.cfg.ExpectSessions {
		// The URL may lead to another database since the start.
		if err := p.db.ExpectSessions(ctx); err != nil {
			return session.Challenge{}, &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrUnavailable, err), After: 5 * time.Second}
		}
	}
	return p.consents.Ask(ctx, key, want)
}

// userNames is a [proxy.Resolver].
type userNames struct{ s *server }

func (n userNames) Resolve(ctx context.Context, appID, id string) (session.Key, error) {
	p, err := n.s.started()
	if err != nil {
		return session.Key{}, err
	}
	return p.db.Sessions.Resolve(ctx, appID, id)
}

// defaultUser is nil where every request has to name its user. An open_id is one of
// the main app's.
func (s *server) defaultUser() func(context.Context, string) (string, error) {
	switch s.cfg.DefaultUser {
	case "":
		return nil
	case settings.SignedIn:
		return func(ctx context.Context, appID string) (string, error) {
			p, err := s.started()
			if err != nil {
				return "", err
			}
			user, err := p.db.Defaults.Get(ctx, appID)
			return user.OpenID, err
		}
	}
	return func(_ context.Context, appID string) (string, error) {
		if appID != s.cfg.AppID {
			return "", edge.UserIDRequired
		}
		return s.cfg.DefaultUser, nil
	}
}

// consentWaiter is a [proxy.Waiter].
type consentWaiter struct{ s *server }

func (w consentWaiter) Wait(ctx context.Context, key session.Key) error {
	p, err := w.s.started()
	if err != nil {
		return err
	}
	changed, stop := p.db.Changes.Watch(key)
	defer stop()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tenantTokens is a [proxy.Tenant]. It needs no store; once there is one, it
// reports whether Lark still accepts the app.
type tenantTokens struct{ s *server }

func (t tenantTokens) TenantAccessToken(ctx context.Context, appID string) (session.Secret, error) {
	return t.get(appID, func(c *lark.Client) (session.Secret, error) { return c.TenantAccessToken(ctx) })
}

func (t tenantTokens) ReplaceTenantAccessToken(ctx context.Context, appID string, refused session.Secret) (session.Secret, error) {
	return t.get(appID, func(c *lark.Client) (session.Secret, error) { return c.ReplaceTenantAccessToken(ctx, refused) })
}

func (t tenantTokens) get(appID string, from func(*lark.Client) (session.Secret, error)) (session.Secret, error) {
	client, ok := t.s.clients[appID]
	if !ok {
		return session.Secret{}, fmt.Errorf("app %q is not configured", appID)
	}
	token, err := from(client)
	if p := t.s.parts.Load(); p != nil {
		p.source.Report(appID, err)
	}
	return token, tenantError(err)
}

// tenantError translates what Lark says about the app's own token into what the
// proxy answers.
func tenantError(err error) error {
	var e *lark.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.Class == lark.AppRefused, e.Class == lark.Misconfigured:
		return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrAppMisconfigured, err), After: 30 * time.Second}
	}
	return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrRefreshUnavailable, err), After: max(time.Second, e.RetryAfter)}
}
