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
// bot but no groups. Client assertions, DPoP, the long connection, store apps,
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
//   - apaas/v1 and spark/v1 by their tables of user-only and tenant-only
//     routes. Workspaces hold data of each user's own, and data.owner in every
//     answer says whose token came
//   - any path of other well-known services, with data.owner too; [Route] adds
//     what is missing
//   - helpers under /open-apis/apaas/v1/larktest/ that echo, stream, delay and
//     count bytes
//   - pages: / (overview), /chat (what each user got, buttons working), /device
//   - /larktest/ (control)
//
// # Odd lifetimes
//
// Config.AccessLife, RefreshLife, GrantLife, CodeLife, TenantLife and
// DeviceLife; RandomLives makes each access token's different. Config.Now is
// the clock. [Platform.Expire] ends tokens at once. Lifetimes that are absurd
// only in the answer are a [Fault] with Set.
//
// # Spent and revoked refresh tokens
//
// A refresh kills its refresh token at once and spares the access tokens that
// are out. A second use answers 20073, or 20064 with Config.UsedRefreshCode,
// and is a [Replayed] violation if the first use had been answered. The chain
// ends 365 days after the user's consent (20037). [Platform.Revoke] makes
// 20064.
//
// # No refresh token, no refresh
//
// Tokens without offline_access come without a refresh token. App.RefreshOff is
// the console's switch (20074). The v2 endpoint refuses what v3 issued (20026)
// unless Config.V2TakesV3.
//
// # Users who leave
//
// User.Status, Unavailable, Missing, Unregistered and BotMuted, by
// [Platform.UpdateUser], make 20066, 20010, 20008, 20021 to 20023, 230013,
// 230029 and 230053.
//
// # An app in trouble
//
// App.Disabled, NotInstalled, BotOff, Scopes and Secret, by
// [Platform.UpdateApp], make 20069, 20009, 230006, 99991672, 20027 and 20002.
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
//	Fault{Endpoint: UserInfo, Set: map[string]any{"data": nil}}      // a field gone wrong
//	Fault{Endpoint: API, Code: 99991677, Status: 400, Path: "/open-apis/apaas/"}
//
// # Scopes
//
// What a user grants adds up over authorizations; scope in a token request
// narrows that one token. A call without the scope answers 99991679 with
// permission_violations, alternatives as at Lark.
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
// # From another process
//
// The control API under /larktest/ does the same with JSON; GET /larktest/
// lists it.
//
//	curl -d '{"endpoint":"token","code":20050,"times":-1}' localhost:9000/larktest/faults
//	curl -d '{"code":"ABCD-EFGH","open_id":"ou_…"}' localhost:9000/larktest/approve
//	curl localhost:9000/larktest/summary
//
// # Sources
//
// Lark's documents and official SDKs as of 2026; where behaviour was only seen
// in recorded probes or third-party code, the tests of this package state what
// was assumed.
package larktest
