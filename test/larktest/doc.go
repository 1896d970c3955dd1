// Package larktest is a Lark (Feishu) Open Platform that runs in memory, for
// tests and demonstrations of software that holds user_access_tokens: proxies,
// sidecars, bots.
//
// Start with [Start], which serves a [Platform] on a loopback port for the
// length of a test, or with [New], which is an http.Handler for any server.
// [Platform.Transport] reaches it without a socket, also inside a
// testing/synctest bubble. One origin is both the open host (open.feishu.cn)
// and the accounts host (accounts.feishu.cn).
//
// # Goals
//
// It is strict where Lark is strict, so that a client which assumes breaks
// here first. Refresh tokens and codes work once. Wrong tokens are refused with
// the code, the HTTP status and the words that Lark uses, of which few agree
// with each other. Unknown paths answer 404 in plain text. JSON fields come in
// a random order, tokens are 1.5 KB.
//
// It is a witness: the ledger has every token issued, every time a refresh
// token was sent and whether the answer got out, every call with the owner of
// the token that came, every version of every card, and a list of
// [Violation]s, things that no client may do whatever the circumstances.
//
// It misbehaves on demand, from Go or from another process.
//
// # Limits
//
// Nothing is kept on disk. There is one tenant, and users have a chat with the
// bot but no groups. Client assertions, DPoP, store apps,
// CardKit entities and message kinds other than cards and texts are not there.
// Filters and SQL of aPaaS are not evaluated. Where no source says what Lark
// does, the comment at the place says what was chosen; see also [Config].
//
// It wants to be mistaken for Lark by programs, never by people: every page
// says in big letters what it is. It checks no password, hands out grants to
// whoever asks and has an open control API. Keep it on loopback.
//
// # What it serves
//
//   - OAuth: the authorize page, both token endpoints (v2 and v3), device
//     authorization with its page, revocation, tenant and app tokens
//   - authen/v1/user_info, contact/v3/users, im/v1/messages (send, reply,
//     update), interactive/v1/card/update
//   - what the app may know of itself: bot/v3/info and
//     application/v6/applications/:app_id
//   - apaas/v1 and spark/v1 by their tables of user-only and tenant-only
//     routes. Workspaces hold data of each user's own, and data.owner in every
//     answer says whose token came
//   - /mcp, the remote MCP server, which has a host of its own at Lark: a few
//     tools, streams, and the ways to refuse a token ([MCPRefusal])
//   - any path of other well-known services, with data.owner too; [Route] adds
//     what is missing
//   - helpers under /open-apis/apaas/v1/larktest/ that echo, stream, delay and
//     count bytes
//   - pages: / (overview), /chat (what each user got, buttons working),
//     /oauth/v1/device/verify
//   - /larktest/ (control)
//
// # Odd lifetimes
//
// Config.AccessLife, RefreshLife, GrantLife, CodeLife, TenantLife and
// DeviceLife; RandomLives makes each access token's different. Config.Now is
// the clock. [Platform.Expire] ends tokens at once. Lifetimes that are absurd
// only in the answer are a [Fault] with Set.
//
// # Answers that are not settled
//
// Several questions about Lark have two believable answers. Each is one of the
// [Switches], whose comments give the evidence; Config.Switches sets them at the
// start, [Platform.Switch] and PATCH /larktest/switches later. What they turn
// on:
//
//   - v3_takes_pkce: v3 exchanges codes made with PKCE, else 20049
//   - v3_takes_device_polls: v3 takes the device_code grant, else 20036
//   - v2_refuses_device_polls: v2 answers it 20036
//   - v2_json_only: v2 answers a form 20063
//   - v3_as_on_lark: v3 answers codes invalid_grant, tenant tokens 500 and 20050
//   - v2_takes_v3: v2 refreshes what v3 issued, else 20026
//   - used_refresh_code: what a spent refresh token answers, 20073 or 20064
//   - used_code_code: what a spent code answers, 20065 or 20003
//   - replay_ends_family: a spent refresh token that comes again ends the grant
//   - consent_ends_earlier: a new consent ends the tokens of those before
//   - refresh_off_first: 20074 comes before a look at the refresh token
//   - tenant_credentials_code: wrong app or secret at auth/v3, 10014, 10015 or
//     99991543
//   - oauth_credentials_code: the same for OAuth, 20002 and 20048, or 99991543
//   - allow_list_covers_oauth: App.AllowIPs holds for OAuth too (99991401)
//   - basic_stripped: a proxy takes HTTP Basic out of OAuth requests
//   - scope_limit: scopes of one authorize link, 200 or 50
//   - device_scope_limit: scopes of one device flow
//   - device_refuses_unknown: a scope that nobody knows spoils the list
//   - device_scope_code: the code beside invalid_scope
//   - dropped_scopes_hint: status_message names what the device flow dropped
//   - offline_access_dropped: the authorize page drops it when it is not enabled
//   - route_scopes: other scopes for some paths
//   - all_scopes_needed: of a route's scopes users need all, not one
//   - duplicate_uuid: a message uuid that was seen answers this code
//   - mcp_refusal: how /mcp refuses a token: "bare", "code", "data", "stream"
//   - long_connection: how it misbehaves: see [Conduct]
//   - ping_interval: the pause between pings that it asks for, in seconds
//   - event_parts: the frames that each event comes in
//
// # Spent and revoked refresh tokens
//
// A refresh kills its refresh token at once and spares the access tokens that
// are out. A second use answers used_refresh_code and is a [Replayed] violation
// if the first use had been answered. The chain ends 365 days after the user's
// consent (20037). [Platform.Revoke] makes 20064.
//
// # Two token endpoints
//
// v2 is what clients use: it exchanges codes made with PKCE and is polled for
// devices, which v3 refuses. v3 refreshes what either issued, v2 only its own.
// [Platform.Grant] is a consent by v2, [Platform.GrantV3] one by v3.
//
// # Tenant tokens that die early
//
// [Platform.EndTenantTokens] has those that are out refused (99991663); the next
// fetch brings a new one. After [Platform.SpoilTenantTokens] fetches go on to
// bring the refused one while 30 minutes of it are left.
//
// # Users who leave
//
// User.Status, Unavailable, Missing, Unregistered and BotMuted, by
// [Platform.UpdateUser], make 20066, 20010, 20008, 20021 to 20023, 230013,
// 230029 and 230053. A 20008 for a user who is there is a [Fault].
//
// # An app in trouble
//
// Each can be set by [Platform.UpdateApp] and PATCH /larktest/apps/{app}:
//
//   - secret: another one than the client has: 20002, 10014
//   - disabled: 20069, 99991662, 10014
//   - not_installed: 20009, 99991673
//   - unpublished: no version released: 11205, 230006, 20074, 20069
//   - bot_off: no bot: 11205, 230006
//   - bot_status: an activate_status that is not 2: 230006
//   - refresh_off: the console's refresh switch: 20074
//   - scopes: what is enabled for users and for the app itself: 99991672, 20027
//     at the authorize page, silence in the device flow; no refresh token
//     without offline_access
//   - user_scopes, tenant_scopes: enabled for one of the two only
//   - redirect_uris: 20029
//   - allow_ips: 99991401
//
// # Limits on calls
//
// The token endpoint takes 50 calls a second and 1000 a minute per app, over a
// sliding window (Config.TokenPerSecond, TokenPerMinute); a user gets 5
// messages a second (230020), a message 5 updates a second.
// Config.RouteLimits adds the limits of the API routes, such as 10 a second for
// all users of an app on workspace tables. 429 comes with
// x-ogw-ratelimit-reset.
//
// # Slow, lost and spoiled answers
//
// [Platform.Fault] takes a [Fault]: which requests, how many, and what happens
// to them. The one that matters most is whether the work was done:
//
//	Fault{Endpoint: TokenEndpoint, Drop: true}                       // never processed
//	Fault{Endpoint: TokenEndpoint, Drop: true, Processed: true}      // rotated, the answer lost
//	Fault{Endpoint: TokenEndpoint, Status: 504, Processed: true}     // rotated, a gateway answered
//	Fault{Endpoint: TokenEndpoint, Truncate: true}                   // rotated, half the JSON
//	Fault{Endpoint: TokenEndpoint, Code: 20050, Times: 3}            // three times, then well
//	Fault{Endpoint: TokenEndpoint, Hang: true, OpenID: Alice}        // until Release
//	Fault{Endpoint: TokenEndpoint, Grant: "refresh_token", Code: 20008} // though the user is there
//	Fault{Path: "/open-apis/", Body: "<html>…", Times: -1}           // a proxy's login page
//	Fault{Endpoint: DeviceEndpoint, Status: 403}                     // a firewall's
//	Fault{Endpoint: UserInfo, Set: map[string]any{"data": nil}}      // a field gone wrong
//	Fault{Endpoint: API, Code: 99991677, Status: 400, Path: "/open-apis/apaas/"}
//
// # Scopes
//
// What a user grants adds up over authorizations; scope in a token request
// narrows that one token. A call without the scope answers 99991679 with
// permission_violations: alternatives as at Lark, enabled on the app or not.
//
// # Records
//
// The record routes of aPaaS and spark understand Prefer as PostgREST does:
// resolution=merge-duplicates and ignore-conflicts, missing=default,
// return=representation.
//
// # Cards
//
// Card JSON 2.0 is checked attribute by attribute (230099); a message uuid is
// sent once an hour; only cards with update_multi can be updated, for 14 days.
// /chat shows them in zh_cn, en_us and ja_jp, in light and dark.
//
// # Events
//
// An App with EventsURL gets card clicks, and whatever [Platform.SendEvent] and
// [Platform.SendRevoked] send, encrypted and signed with its EncryptKey. The
// same Event.ID twice is a duplicate; BadSignature, Unsigned, Plain and
// WrongToken break one rule each.
//
// Any other App gets them over its long connections (callback/ws/endpoint), one
// of them for each event, in Switches.EventParts frames. Switches.LongConnection
// makes those hostile: see [Conduct]. Faults of EventsEndpoint do the rest:
//
//	Fault{Endpoint: EventsEndpoint, Path: "/ws/", Status: 302, Header: map[string]string{"Location": elsewhere}}
//	Fault{Endpoint: EventsEndpoint, Path: "/callback/", Set: map[string]any{"data": map[string]any{"URL": "wss://elsewhere/"}}}
//
// # From another process
//
// The control API under /larktest/ does the same with JSON; GET /larktest/
// lists it.
//
//	curl -d '{"endpoint":"token","code":20050,"times":-1}' localhost:9000/larktest/faults
//	curl -d '{"code":"ABCD-EFGH","open_id":"ou_…"}' localhost:9000/larktest/approve
//	curl -X PATCH -d '{"v3_takes_pkce":true}' localhost:9000/larktest/switches
//	curl -X PATCH -d '{"bot_off":true}' localhost:9000/larktest/apps/cli_…
//	curl localhost:9000/larktest/summary
//
// # Sources
//
// Lark's documents and official SDKs as of 2026. A mark in a comment says how
// far a fact can be trusted: [D] official documents, [S] source code of an
// official client, [P] a public third party (a recorded probe, an issue),
// UNCONFIRMED where no source settles it and something was chosen.
package larktest
