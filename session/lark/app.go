package lark

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
)

// AppInfo is the app's configuration in the developer console.
type AppInfo struct {
	// Scopes are the enabled ones.
	Scopes []AppScope
	// RedirectURLs are the registered ones.
	RedirectURLs []string
	// Unpublished reports whether no version is online. Then nothing above is
	// in effect yet.
	Unpublished bool
}

// AppScope is a scope that is enabled on the app, for user tokens, tenant
// tokens or both. Asking a user for one that is enabled for tenant tokens only
// leads to error 20027.
type AppScope struct {
	Name         string
	User, Tenant bool
}

// ForUsers reports whether scope can be asked of users.
func (a AppInfo) ForUsers(scope string) bool {
	return slices.ContainsFunc(a.Scopes, func(s AppScope) bool { return s.Name == scope && s.User })
}

// ForTenant reports whether the app itself may use scope.
func (a AppInfo) ForTenant(scope string) bool {
	return slices.ContainsFunc(a.Scopes, func(s AppScope) bool { return s.Name == scope && s.Tenant })
}

// App reads the app's own configuration. It needs the scope
// application:application:self_manage; without it the error is class
// Misconfigured (99991672) or has a code of 2105xx.
// Source: Lark "get application information", [D]: scopes[].token_types is
// "tenant" or "user".
func (c *Client) App(ctx context.Context) (AppInfo, error) {
	x, f, err := c.read(ctx, "read the app", "/open-apis/application/v6/applications/"+url.PathEscape(c.appID), "lang", "en_us")
	if err != nil {
		return AppInfo{}, err
	}
	app := f.object("data").object("app")
	if app["scopes"] == nil {
		return AppInfo{}, x.unusable("scopes")
	}
	var scopes []struct {
		Scope      string   `json:"scope"`
		TokenTypes []string `json:"token_types"`
	}
	var info AppInfo
	// A member of another form counts as absent.
	json.Unmarshal(app["scopes"], &scopes)
	json.Unmarshal(app["redirect_urls"], &info.RedirectURLs)
	info.Unpublished = string(app["online_version_id"]) == `""`
	for _, s := range scopes {
		// An earlier documentation had no token types. Without them, both are
		// meant.
		unsaid := len(s.TokenTypes) == 0
		info.Scopes = append(info.Scopes, AppScope{
			Name:   s.Scope,
			User:   unsaid || slices.Contains(s.TokenTypes, "user"),
			Tenant: unsaid || slices.Contains(s.TokenTypes, "tenant"),
		})
	}
	return info, nil
}

// Verify asks Lark whether it accepts the app's id and secret. Lark may refuse
// the app in one place only, so it fetches a tenant token, which is not used, and
// starts a device flow, which nobody is told of. If Lark refuses the app, the
// error's class is [AppRefused]. Any other error says nothing about the app.
func (c *Client) Verify(ctx context.Context) error {
	if _, _, err := c.requestTenant(ctx); err != nil {
		return err
	}
	// Where only redirects are used, the accounts host need not be reachable.
	_, err := c.StartDevice(ctx, []string{"offline_access"})
	var e *Error
	if errors.As(err, &e) && e.Class == AppRefused {
		return err
	}
	return nil
}

// Bot is the app's bot, which sends the cards.
type Bot struct {
	Name string
	// Status: 0 new, 1 disabled by the tenant, 2 active, 3 installed and not
	// activated, 4 upgraded and not activated, 5 license expired, 6 plan
	// expired.
	Status int
}

// NoBot is Lark's code for an app without a bot.
const NoBot = 11205

// Bot reads the app's bot. For an app without one the error has the code
// [NoBot]. Other errors say nothing about the bot. Source: Lark "get bot
// information" (/open-apis/bot/v3/info), which needs no scope.
func (c *Client) Bot(ctx context.Context) (Bot, error) {
	x, f, err := c.read(ctx, "read the bot", "/open-apis/bot/v3/info")
	if err != nil {
		return Bot{}, err
	}
	bot := f.object("bot")
	status, ok := bot.number("activate_status")
	if !ok {
		return Bot{}, x.unusable("activate_status")
	}
	return Bot{Name: scrub(bot.text("app_name"), nil), Status: int(status)}, nil
}

// read sends GET to path, with the app's own token and a query of name, value
// pairs.
func (c *Client) read(ctx context.Context, op, path string, query ...string) (*call, fields, error) {
	params := larkcore.QueryParams{}
	for i := 0; i+1 < len(query); i += 2 {
		params.Set(query[i], query[i+1])
	}
	return c.callAsApp(ctx, op, func(ctx context.Context, s *sdk, options ...larkcore.RequestOptionFunc) error {
		_, err := larkcore.Request(ctx, &larkcore.ApiReq{
			HttpMethod:                http.MethodGet,
			ApiPath:                   path,
			QueryParams:               params,
			SupportedAccessTokenTypes: []larkcore.AccessTokenType{larkcore.AccessTokenTypeTenant},
		}, s.config, options...)
		return err
	})
}
