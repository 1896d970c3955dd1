package larktest

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Switches are the questions about Lark that have two believable answers, or
// whose answer depends on the brand. The zero value is what the best evidence
// says; a client has to survive every position. [Config] sets them at the
// start, [Platform.Switch] and PATCH /larktest/switches later on.
//
// Each comment ends with its source. The marks: [D] official documents, [S]
// source code of an official client, [P] a public third party (a recorded
// probe, an issue), UNCONFIRMED when no source settles it.
type Switches struct {
	// V3TakesPKCE lets the v3 token endpoint exchange codes that were asked for
	// with a code_challenge. It refuses each with 20049, whatever verifier
	// comes, while v2 exchanges them.
	// [P] larksuite/oapi-sdk-go#230, 2026-08-11, open; a live test of 2026-09-26.
	V3TakesPKCE bool `json:"v3_takes_pkce"`
	// V3TakesDevicePolls lets v3 take the device_code grant, which it refuses
	// with 20036. V2RefusesDevicePolls is the same for v2, which takes it.
	// [S] released lark-cli 1.0.96 and openclaw-lark 2026.7.16 poll v2 only;
	// an unmerged branch of lark-cli polls v3. The answer of v3: UNCONFIRMED.
	V3TakesDevicePolls   bool `json:"v3_takes_device_polls"`
	V2RefusesDevicePolls bool `json:"v2_refuses_device_polls"`
	// V2JSONOnly makes v2 refuse forms with 20063. It takes both.
	// [S] lark-cli and openclaw-lark send forms; [P] one project says that it
	// takes JSON only.
	V2JSONOnly bool `json:"v2_json_only"`
	// V3AsOnLark makes v3 what is reported of accounts.larksuite.com: real codes
	// are invalid_grant there, and the tenant token is 500 with 20050.
	// [P] larksuite/cli#1470; UNCONFIRMED whether it holds for every app.
	V3AsOnLark bool `json:"v3_as_on_lark"`
	// V2TakesV3 lets v2 refresh what v3 issued, which it refuses with 20026.
	// [P] two digests of the v3 page: v3 takes the refresh tokens of both.
	V2TakesV3 bool `json:"v2_takes_v3"`

	// UsedRefreshCode is what a spent refresh token answers: 20073 (default) or
	// 20064. UsedCodeCode is the same for a spent authorization code: 20065
	// (default) or 20003. [D] both codes of each pair have a text that fits.
	UsedRefreshCode int `json:"used_refresh_code"`
	UsedCodeCode    int `json:"used_code_code"`
	// ReplayEndsFamily revokes all tokens of a grant when one of its spent
	// refresh tokens comes again (RFC 9700 section 4.14.2). UNCONFIRMED.
	ReplayEndsFamily bool `json:"replay_ends_family"`
	// ConsentEndsEarlier revokes a user's tokens of all earlier consents to the
	// app when a new one is exchanged. UNCONFIRMED.
	ConsentEndsEarlier bool `json:"consent_ends_earlier"`
	// RefreshOffFirst makes [App].RefreshOff answer 20074 before the refresh
	// token is looked at. The order of Lark's checks: UNCONFIRMED.
	RefreshOffFirst bool `json:"refresh_off_first"`

	// TenantCredentialsCode is what a wrong secret and an unknown app answer at
	// auth/v3/…/internal: 10014 (default), 10015 or 99991543.
	// [P] 10014 "app secret invalid" and "app id not exists" were recorded many
	// times, the latter by excitedjs/dreamux#417, 2026-09-12; [D] 10015 and
	// 99991543 are in the table of general codes.
	TenantCredentialsCode int `json:"tenant_credentials_code"`
	// OAuthCredentialsCode is the same for the OAuth endpoints: 0 (default) for
	// the documented 20002 and 20048, else 99991543. [D]; [S] lark-cli's code
	// table has 99991543 as wrong credentials.
	OAuthCredentialsCode int `json:"oauth_credentials_code"`
	// AllowListCoversOAuth applies [App].AllowIPs to the OAuth endpoints too.
	// [D] the list covers no auth/v3/…/internal; these endpoints: UNCONFIRMED.
	AllowListCoversOAuth bool `json:"allow_list_covers_oauth"`
	// BasicStripped is an egress proxy that takes HTTP Basic out of requests to
	// the OAuth endpoints. [P] larksuite/cli#509 and #1932.
	BasicStripped bool `json:"basic_stripped"`

	// ScopeLimit is the most scopes of one authorize link: 200 (default), or 50
	// as the page said before; negative for none.
	// [D] the page of 2026-03-19 says 50, that of 2026-09-11 says 200.
	ScopeLimit int `json:"scope_limit"`
	// DeviceScopeLimit is the same for the device flow. 0: none. UNCONFIRMED.
	DeviceScopeLimit int `json:"device_scope_limit"`
	// DeviceRefusesUnknown makes device_authorization refuse a list with a scope
	// that nobody knows: none of the built-in routes', and enabled on no app.
	// It is dropped like one that is not enabled.
	// [P] larksuite/cli#416 has the refusal; whether for the form or for an
	// unknown name: UNCONFIRMED.
	DeviceRefusesUnknown bool `json:"device_refuses_unknown"`
	// DeviceScopeCode is the code beside invalid_scope of a refused list. 0: the
	// answer has none. UNCONFIRMED.
	DeviceScopeCode int `json:"device_scope_code"`
	// DroppedScopesHint adds a status_message that names the scopes that the
	// device flow dropped. [P] larksuite/cli#746 has them dropped silently; [S]
	// an unreleased lark-cli reads the field.
	DroppedScopesHint bool `json:"dropped_scopes_hint"`
	// OfflineAccessDropped lets an authorize link pass that asks for an
	// offline_access that is not enabled; there is no refresh token then. It is
	// 20027 like any other scope. [D] for scopes in general; UNCONFIRMED here.
	OfflineAccessDropped bool `json:"offline_access_dropped"`

	// RouteScopes replaces the scopes of API routes, alternatives of which one
	// is enough. The key is a path prefix, or a method, a blank and a prefix;
	// the longest key that fits counts.
	RouteScopes map[string][]string `json:"route_scopes,omitempty"`
	// AllScopesNeeded makes a route want all of its scopes of a user, and name
	// those that are missing. [D] says that one is enough; [P]
	// coze-dev/coze-studio#371 and #2235 say that all were needed: UNCONFIRMED.
	AllScopesNeeded bool `json:"all_scopes_needed"`

	// DuplicateUUID is the answer to a message uuid seen within the hour: 0
	// (default) repeats the first message's id, else that code (230049).
	// UNCONFIRMED.
	DuplicateUUID int `json:"duplicate_uuid"`

	// MCPRefusal is how the MCP server refuses a token.
	MCPRefusal MCPRefusal `json:"mcp_refusal"`

	// LongConnection is how the long connection behaves. PingInterval is the
	// pause between pings that it tells clients, in seconds: 120, as [P] logs
	// have it. EventParts is how many frames each event comes in, one by default.
	LongConnection Conduct `json:"long_connection"`
	PingInterval   int     `json:"ping_interval"`
	EventParts     int     `json:"event_parts"`
}

func (s *Switches) defaults() {
	setInt(&s.UsedRefreshCode, 20073)
	setInt(&s.UsedCodeCode, 20065)
	setInt(&s.TenantCredentialsCode, 10014)
	setInt(&s.ScopeLimit, 200)
	setInt(&s.PingInterval, 120)
	setInt(&s.EventParts, 1)
}

func (s Switches) clone() Switches {
	s.RouteScopes = maps.Clone(s.RouteScopes)
	for key, scopes := range s.RouteScopes {
		s.RouteScopes[key] = slices.Clone(scopes)
	}
	return s
}

// Switch lets change edit the switches. change must not call the Platform.
func (p *Platform) Switch(change func(*Switches)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.switches.clone()
	change(&s)
	s.defaults()
	p.switches = s.clone()
	p.touch()
}

// Switches returns the present positions of the switches.
func (p *Platform) Switches() Switches {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.switches.clone()
}

// scopesOf lists the alternatives that a request needs one of. It is called
// with mu held.
func (p *Platform) scopesOf(x *exchange) []string {
	scopes, longest := x.route.scopes, 0
	for key, replaced := range p.switches.RouteScopes {
		method, prefix, named := strings.Cut(key, " ")
		if !named {
			method, prefix = x.r.Method, key
		}
		if method == x.r.Method && strings.HasPrefix(x.call.Path, prefix) && len(key) > longest {
			scopes, longest = replaced, len(key)
		}
	}
	return scopes
}

func controlSwitches(p *Platform, _ *http.Request) (any, error) { return p.Switches(), nil }

func controlPatchSwitches(p *Platform, r *http.Request) (any, error) {
	return patch(r, func(change func(*Switches)) error {
		p.Switch(change)
		return nil
	})
}
