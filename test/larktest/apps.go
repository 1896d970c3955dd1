package larktest

import (
	"fmt"
	"net/netip"
	"slices"
)

// App is an app as the developer console knows it. The zero switches are the
// friendly positions.
type App struct {
	ID     string `json:"id,omitempty"`
	Secret string `json:"secret,omitempty"`
	Name   string `json:"name,omitempty"`
	// Scopes are enabled in the console, for user and tenant tokens alike;
	// nil means [DefaultScopes]. UserScopes and TenantScopes are enabled for one
	// kind of token only, as the console allows: users get 20027 for a scope
	// that only the tenant has. A few scopes exist for one kind only, wherever
	// they stand.
	Scopes       []string `json:"scopes,omitempty"`
	UserScopes   []string `json:"user_scopes,omitempty"`
	TenantScopes []string `json:"tenant_scopes,omitempty"`
	// RedirectURIs are compared as strings with what authorize gets (20029).
	RedirectURIs []string `json:"redirect_uris,omitempty"`
	// AllowIPs lists the addresses and CIDR prefixes that may call the API
	// routes; others get 99991401. nil: everyone may.
	AllowIPs []string `json:"allow_ips,omitempty"`
	// EventsURL gets events and card clicks; EncryptKey signs and encrypts
	// them, VerificationToken stands in their header. Empty: they go over the
	// app's long connections.
	EventsURL         string `json:"events_url,omitempty"`
	EncryptKey        string `json:"encrypt_key,omitempty"`
	VerificationToken string `json:"verification_token,omitempty"`

	Disabled     bool `json:"disabled,omitempty"`      // 20069; 99991662; 10014
	NotInstalled bool `json:"not_installed,omitempty"` // 20009; 99991673
	RefreshOff   bool `json:"refresh_off,omitempty"`   // the console's refresh switch: 20074
	BotOff       bool `json:"bot_off,omitempty"`       // no bot: 11205, 230006
	// BotStatus is the bot's activate_status; nil is 2, active. With any other
	// one no message goes out (230006).
	BotStatus *int `json:"bot_status,omitempty"`
	// Unpublished: no version was released. The bot is not there (11205, 230006)
	// and nothing is refreshed (20074). [P], [D]. That users can't consent
	// (20069) is a guess: UNCONFIRMED. The tenant token is handed out.
	Unpublished bool `json:"unpublished,omitempty"`
}

// DefaultScopes are enabled on an App that is added with Scopes nil.
func DefaultScopes() []string {
	return []string{
		"offline_access", "auth:user.id:read", "user_profile", "task:task:read", "task:task:write",
		"application:application:self_manage",
		"contact:contact.base:readonly", "contact:user.base:readonly", "contact:user.basic_profile:readonly",
		"contact:user.email:readonly", "contact:user.phone:readonly", "contact:user.employee_id:readonly", "contact:user.id:readonly",
		"im:message", "im:message:send_as_bot", "auth:user_access_token:read",
		"app_engine:apps:read", "app_engine:security.audit_log:read", "app_engine:seat_activities:read", "app_engine:seat_assignments:read",
		"app_engine:workspace.sql_commands:write", "app_engine:workspace.table:read", "app_engine:workspace.table:write",
		"app_engine:workspace.table.record:read", "app_engine:workspace.table.record:write",
		"app_engine:application.environment_variable:read", "app_engine:application.function:write",
		"app_engine:object.record:read", "app_engine:object.record:write", "app_engine:flow:write",
		"app_engine:role:read", "app_engine:role.member:write", "app_engine:record_permission.member:write",
		"app_engine:approval:read", "app_engine:approval:write",
		"spark:app:read", "spark:app:write", "spark:table:read", "spark:table:write",
	}
}

// soleKind has the scopes that exist for one kind of token only.
// [D] Lark "refresh user_access_token" for offline_access, "get application
// information" for self_manage, which is for tenant tokens.
var soleKind = map[string]Kind{
	"offline_access":                      AccessToken,
	"application:application:self_manage": TenantToken,
}

// enabledFor says whether the app has a scope for tokens of users
// (AccessToken) or for its own, which is any other kind.
func (a *App) enabledFor(kind Kind, scope string) bool {
	if kind != AccessToken {
		kind = TenantToken
	}
	if sole := soleKind[scope]; sole != "" && sole != kind {
		return false
	}
	other := a.TenantScopes
	if kind == AccessToken {
		other = a.UserScopes
	}
	return slices.Contains(a.Scopes, scope) || slices.Contains(other, scope)
}

// forUsers is enabledFor users.
func (a *App) forUsers(scope string) bool { return a.enabledFor(AccessToken, scope) }

// botStatus is activate_status.
func (a *App) botStatus() int {
	if a.BotStatus == nil {
		return botActive
	}
	return *a.BotStatus
}

// hasBot says whether bot/v3/info knows a bot.
func (a *App) hasBot() bool { return !a.BotOff && !a.Unpublished }

// allows says whether requests from an address pass the app's list. One that
// can't be read is on no list.
func (a *App) allows(remoteAddr string) bool {
	if a.AllowIPs == nil {
		return true
	}
	from, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return false
	}
	address := from.Addr().Unmap()
	return slices.ContainsFunc(a.AllowIPs, func(entry string) bool {
		if prefix, err := netip.ParsePrefix(entry); err == nil {
			return prefix.Contains(address)
		}
		one, err := netip.ParseAddr(entry)
		return err == nil && one == address
	})
}

// AddApp adds or replaces an app. An app without an ID gets one made up; the
// ID is returned.
func (p *Platform) AddApp(app App) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if app.ID == "" {
		app.ID = "cli_" + randomHex(10)
	}
	setString(&app.Name, app.ID)
	if app.Scopes == nil {
		app.Scopes = DefaultScopes()
	}
	if p.apps[app.ID] == nil {
		p.appOrder = append(p.appOrder, app.ID)
	}
	p.apps[app.ID] = &app
	for _, u := range p.users {
		p.byOpenID[p.openID(app.ID, u)] = identity{app.ID, u}
	}
	return app.ID
}

// UpdateApp lets change edit an app; its ID is kept. change must not call the
// Platform.
func (p *Platform) UpdateApp(appID string, change func(*App)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	app := p.apps[appID]
	if app == nil {
		return fmt.Errorf("update app %q: %w", appID, ErrNoApp)
	}
	change(app)
	app.ID = appID
	p.touch()
	return nil
}
