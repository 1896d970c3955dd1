package main

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"

	"larkside/cmd/larkside/settings"
	"larkside/proxy"
	"larkside/proxy/userjwt"
	"larkside/session"
	"larkside/session/lark"
)

// newClients makes the client of each app. They share one pool of connections.
func newClients(cfg *settings.Settings, secrets *settings.Secrets, log *slog.Logger) (map[string]*lark.Client, error) {
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	clients := make(map[string]*lark.Client)
	for _, c := range larkConfigs(cfg, secrets, transport, log) {
		if clients[c.AppID], err = lark.New(c); err != nil {
			return nil, err
		}
	}
	return clients, nil
}

// larkConfigs says how Larkside speaks to Lark for each app, the main one first.
func larkConfigs(cfg *settings.Settings, secrets *settings.Secrets, transport http.RoundTripper, log *slog.Logger) []lark.Config {
	var all []lark.Config
	for _, id := range cfg.AppIDs() {
		all = append(all, lark.Config{
			AppID: id, Secret: func() session.Secret { return secrets.App(id) },
			OpenURL: string(cfg.OpenURL), AccountsURL: string(cfg.AccountsURL), TokenURL: string(cfg.TokenURL),
			Transport: transport, Log: log,
		})
	}
	return all
}

// newTransport returns a transport to Lark with the extra roots of the settings.
// It uses an outbound proxy only if the settings name one.
func newTransport(cfg *settings.Settings) (*http.Transport, error) {
	c, err := transportConfig(cfg)
	if err != nil {
		return nil, err
	}
	return c.Standard(), nil
}

// newUserJWT returns the verifier of users' JWTs, or nil if the app is believed.
// The issuer is reached as Lark is.
func newUserJWT(cfg *settings.Settings, log *slog.Logger) (*userjwt.Verifier, error) {
	if cfg.UserJWTIssuer == "" {
		return nil, nil
	}
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	return userjwt.New(userjwt.Config{Issuer: string(cfg.UserJWTIssuer), Audience: cfg.UserJWTAudience, Claim: cfg.UserJWTClaim,
		Transport: transport, Log: log}), nil
}

func transportConfig(cfg *settings.Settings) (proxy.TransportConfig, error) {
	c := proxy.TransportConfig{RootCAs: cfg.UpstreamCAs.Pool, ResponseHeaderTimeout: cfg.UpstreamTimeout}
	if !cfg.UpstreamProxy.Empty() {
		u, err := url.Parse(cfg.UpstreamProxy.Expose())
		if err != nil {
			return c, errors.New("the upstream proxy's URL does not parse") // the parser would quote its password
		}
		c.Proxy = u
	}
	return c, nil
}
