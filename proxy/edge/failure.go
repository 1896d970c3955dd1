package edge

import "net/http"

// Failure is one kind of answer that is Larkside's own and not what was asked
// for. It is an error: what ends a request early returns it.
type Failure struct {
	// Name is error.type of the body, X-Larkside-Error, and the outcome label.
	Name string
	// Status is the HTTP status.
	Status int
	// Code is the code of the body: 18, the status, and three digits. Lark uses
	// no such code, so no official SDK retries or drops its own token because of
	// it.
	Code int
	// Message says in one sentence what is wrong and what to do. It is msg of the
	// body.
	Message string

	// What follows is for deploy/docs/errors.md, in Markdown. A test holds the page
	// and writes it anew (go test ./proxy/edge -run ErrorsPage -update).

	// Kind is the table that the failure stands in.
	Kind Kind
	// Meaning says what has happened.
	Meaning string
	// App says what the app does. It is empty for AdminOnly.
	App string
	// Operator says what whoever operates Larkside does.
	Operator string
}

// Kind says who meets a failure.
type Kind string

const (
	// Expected failures happen to an app without fault, so it handles them.
	Expected Kind = "expected"
	// Mistake is a wrong request or a wrong setting.
	Mistake Kind = "mistake"
	// AdminOnly failures come from the admin API only, and so from commands.
	AdminOnly Kind = "admin"
)

// Error returns the name.
func (f *Failure) Error() string { return f.Name }

// The table of failures, in the order of their codes. A failure has one name and
// one code for all listeners.
var (
	InvalidUserID = &Failure{
		Name: "invalid_user_id", Status: 400, Code: 18400001, Kind: Mistake,
		Message:  "X-Lark-User-Id is not usable: send one open_id (ou_…), union_id (on_…) or user_id.",
		Meaning:  "`X-Lark-User-Id` is empty, longer than 128 bytes, has a character outside `[A-Za-z0-9_.@-]`, or stands twice with different values. Or it is a union_id or user_id that two users have here",
		App:      "send one valid id; an open_id never names two users",
		Operator: "two users with one id: `larkside users sync` reads the ids anew",
	}
	UserIDRequired = &Failure{
		Name: "user_id_required", Status: 400, Code: 18400002, Kind: Mistake,
		Message:  "The request names no user: send X-Lark-User-Id, or an Authorization of your own.",
		Meaning:  "the request has no `X-Lark-User-Id` and no `Authorization`, and its path is not in `LARKSIDE_TENANT_PATHS`",
		App:      "send one of the two headers",
		Operator: "for calls as the app itself, add the path to `LARKSIDE_TENANT_PATHS`. On one person's own machine, set `LARKSIDE_DEFAULT_USER`",
	}
	AmbiguousPath = &Failure{
		Name: "ambiguous_path", Status: 400, Code: 18400003, Kind: Mistake,
		Message:  "The path can be read in more than one way: send it without dot segments, empty segments, backslashes and control characters, encoded or not.",
		Meaning:  "the path can be read in two ways: it has `..`, `//`, `\\` or a control character, plain or encoded",
		App:      "send a plain path. `%2F` inside a segment is fine",
		Operator: "if none of your apps sends this, somebody is probing",
	}
	UnknownApp = &Failure{
		Name: "unknown_app", Status: 400, Code: 18400004, Kind: Mistake,
		Message:  "No such app is configured: use one of LARKSIDE_APP_ID and LARKSIDE_APPS, or leave the app out.",
		Meaning:  "`X-Lark-App-Id` names no configured app",
		App:      "send a configured app's id, or leave the header out",
		Operator: "add the app to `LARKSIDE_APPS`, if it should be there",
	}
	InvalidRequest = &Failure{
		Name: "invalid_request", Status: 400, Code: 18400005, Kind: AdminOnly,
		Message:  "The request can't be read: see the API description.",
		Meaning:  "a parameter or the body can't be read; `msg` says which",
		Operator: "`/api/v1/openapi.json` describes what is allowed",
	}
	MalformedRequest = &Failure{
		Name: "malformed_request", Status: 400, Code: 18400006, Kind: Mistake,
		Message:  "The request is not valid HTTP/1.1: look at its target, its headers and how its body is delimited.",
		Meaning:  "the request is not valid HTTP/1.1. No metric and no log line has it",
		App:      "look at the target (`%zz`), the headers, and how the body is delimited",
		Operator: "if none of your apps sends this, somebody is probing",
	}
	AuthorizationRequired = &Failure{
		Name: "authorization_required", Status: 401, Code: 18401001, Kind: Expected,
		Message:  "The user has to authorize the app: open error.authorize_url, then send the request again.",
		Meaning:  "the user has to authorize the app. [`error.reason`](#errorreason) says why, `error.authorize_url` is the link, `error.expires_in` its life in seconds, and [`error.card`](#errorcard) what became of the card",
		App:      "show the link, or wait for the click on the card. Then send the request again",
		Operator: "one user: see the [reason](#errorreason). Many at once: `LarksideSessionsLost`, `LarksideManyAsked`, or a restored backup",
	}
	CallerUnauthenticated = &Failure{
		Name: "caller_unauthenticated", Status: 401, Code: 18401002, Kind: Mistake,
		Message:  "X-Larkside-Key is missing or wrong: send the key of one of the configured callers.",
		Meaning:  "`LARKSIDE_CALLER_KEYS` is set, and `X-Larkside-Key` is missing or wrong",
		App:      "send this app's key",
		Operator: "compare the app's key with `LARKSIDE_CALLER_KEYS`",
	}
	AdminUnauthenticated = &Failure{
		Name: "admin_unauthenticated", Status: 401, Code: 18401003, Kind: AdminOnly,
		Message:  "The admin key is missing or wrong: send Authorization: Bearer with LARKSIDE_ADMIN_KEY.",
		Meaning:  "the admin key is missing or wrong",
		Operator: "set `LARKSIDE_ADMIN_KEY` for the command, or send `Authorization: Bearer`",
	}
	UserUnproven = &Failure{
		Name: "user_unproven", Status: 401, Code: 18401004, Kind: Expected,
		Message:  "Nothing proves who the user is: send X-Larkside-User-Token with a valid JWT of this user.",
		Meaning:  "`LARKSIDE_USER_JWT_ISSUER` is set, and `X-Larkside-User-Token` is missing, expired, invalid, or another user's than `X-Lark-User-Id` says; `msg` has which. The user was not asked",
		App:      "send a fresh JWT of this user, or have them sign in to your app again. With `Retry-After`, the same JWT may pass later: the issuer's keys could not be fetched, or its key is not among them yet",
		Operator: "many at once: the log lines `a request whose user is not proven was refused` and `the keys for users' tokens can't be fetched; the known ones go on being used`",
	}
	PathNotAllowed = &Failure{
		Name: "path_not_allowed", Status: 403, Code: 18403001, Kind: Mistake,
		Message:  "No user token may be sent to this path: add it to LARKSIDE_INJECT_PATHS if it should be.",
		Meaning:  "no user token may go to this path",
		App:      "leave out the user, if the call does not need one",
		Operator: "add the path to `LARKSIDE_INJECT_PATHS`. The OAuth and app token endpoints can't be added",
	}
	HostNotAllowed = &Failure{
		Name: "host_not_allowed", Status: 403, Code: 18403002, Kind: Mistake,
		Message:  "The request comes from a web page or has an unknown Host: send it from the app, or add the Host to LARKSIDE_ALLOW_HOSTS.",
		Meaning:  "the request comes from a web page, or its `Host` is unknown",
		App:      "send it from the app's server, not from a browser",
		Operator: "add the name to `LARKSIDE_ALLOW_HOSTS`, if it is yours",
	}
	UserDisabled = &Failure{
		Name: "user_disabled", Status: 403, Code: 18403003, Kind: Expected,
		Message:  "Lark says that this user has left or may not use the app: ask the tenant's administrator.",
		Meaning:  "Lark says that the user has left, is frozen, or is outside the app's availability",
		App:      "tell the user. Sending again does not help",
		Operator: "have the tenant's administrator look at the app's availability. Lark is asked again after an hour",
	}
	CallerNotAllowed = &Failure{
		Name: "caller_not_allowed", Status: 403, Code: 18403004, Kind: Mistake,
		Message:  "This caller may not do that: see LARKSIDE_CALLER_LIMITS.",
		Meaning:  "`LARKSIDE_CALLER_LIMITS` does not let this caller act for this user, use this path or method, or get the tenant's token",
		App:      "do without this call",
		Operator: "widen the caller's entry, if it should be able to",
	}
	NotFound = &Failure{
		Name: "not_found", Status: 404, Code: 18404001, Kind: AdminOnly,
		Message:  "There is nothing under this path.",
		Meaning:  "there is no such path or session",
		Operator: "is the id of this app? A union_id or user_id is known only after a consent",
	}
	MethodNotAllowed = &Failure{
		Name: "method_not_allowed", Status: 405, Code: 18405001, Kind: Mistake,
		Message:  "The method is not served here: use one of those in the Allow header.",
		Meaning:  "the method is CONNECT or TRACE. On the admin listener: this path does not have the method",
		App:      "use one of the methods in `Allow`",
		Operator: "nothing",
	}
	ConsentRequired = &Failure{
		Name: "consent_required", Status: 409, Code: 18409001, Kind: AdminOnly,
		Message:  "Only the user can renew this session: start a consent.",
		Meaning:  "only the user can renew this session",
		Operator: "`larkside consent send USER`",
	}
	Conflict = &Failure{
		Name: "conflict", Status: 409, Code: 18409002, Kind: AdminOnly,
		Message:  "Someone else changed the session at the same time: read it again.",
		Meaning:  "somebody else changed the session at the same moment",
		Operator: "look at it again, then repeat",
	}
	NotAllSealed = &Failure{
		Name: "not_all_sealed", Status: 409, Code: 18409003, Kind: AdminOnly,
		Message:  "Not everything could be sealed under the first key: give every replica the same keys, then rotate again.",
		Meaning:  "`keys rotate`: a replica still seals under another key, or a row does not open",
		Operator: "give every replica the same list of keys, then run it again. The log line `a stored record does not open` names the table",
	}
	NotAsked = &Failure{
		Name: "not_asked", Status: 409, Code: 18409004, Kind: AdminOnly,
		Message:  "The user could not be asked: Lark does not know the id, Lark failed, or too many were asked: see the log, and try again after Retry-After.",
		Meaning:  "the user could not be asked: the id is unknown, Lark failed, or too many users were asked",
		Operator: "see the log; try again after `Retry-After`",
	}
	NotSignedIn = &Failure{
		Name: "not_signed_in", Status: 409, Code: 18409005, Kind: AdminOnly,
		Message:  "Nobody has signed in: error.reason says why. Run larkside login again.",
		Meaning:  "nobody approved the `larkside login`. `error.reason` says why: `declined`, `expired`, `stopping`, or why Lark refused",
		Operator: "run it again; the log has Lark's answer",
	}
	CallerRateLimited = &Failure{
		Name: "caller_rate_limited", Status: 429, Code: 18429001, Kind: Expected,
		Message:  "This caller sends too many requests: wait as long as Retry-After says.",
		Meaning:  "this caller's `rate` in `LARKSIDE_CALLER_LIMITS` is used up, or wrong keys came too fast",
		App:      "send it again after `Retry-After`",
		Operator: "does the app repeat too eagerly? If not, raise its `rate`",
	}
	AdminRateLimited = &Failure{
		Name: "admin_rate_limited", Status: 429, Code: 18429002, Kind: AdminOnly,
		Message:  "The admin key is wrong, and too many wrong ones came from this address: wait as long as Retry-After says, and look for who sends them.",
		Meaning:  "the admin key is wrong, and more than ten wrong ones came from this address within a minute",
		Operator: "as for `admin_unauthenticated`. The API takes the right key at once, the console after `Retry-After`. If the wrong keys are not yours, find who sends them",
	}
	HeaderTooLarge = &Failure{
		Name: "header_too_large", Status: 431, Code: 18431001, Kind: Mistake,
		Message:  "The request line and the headers together are larger than 64 KiB: send less.",
		Meaning:  "the request line and the headers are larger than 64 KiB together. No metric and no log line has it",
		App:      "send less: mostly a cookie or a query has grown",
		Operator: "nothing",
	}
	InternalError = &Failure{
		Name: "internal_error", Status: 500, Code: 18500001, Kind: AdminOnly,
		Message:  "Something unforeseen failed: look for error.request_id in the log.",
		Meaning:  "a mistake of Larkside's",
		Operator: "report the log line `an admin request failed in an unforeseen way`",
	}
	UpstreamUnreachable = &Failure{
		Name: "upstream_unreachable", Status: 502, Code: 18502001, Kind: Expected,
		Message:  "Lark can't be reached: check the network from Larkside to the Open Platform.",
		Meaning:  "Larkside can't connect to Lark, or the connection broke",
		App:      "treat it as an outage of Lark. Repeat only what may be done twice",
		Operator: "network, DNS, `LARKSIDE_UPSTREAM_PROXY`, `LARKSIDE_UPSTREAM_CA_FILE`; `larkside doctor`",
	}
	StoreUnavailable = &Failure{
		Name: "store_unavailable", Status: 503, Code: 18503001, Kind: Expected,
		Message:  "The session store can't be reached: try again after Retry-After.",
		Meaning:  "the database does not answer, and this user is not cached; cached users go on",
		App:      "send it again after `Retry-After`",
		Operator: "`LarksideStoreUnavailable`; after a start, `LarksideDatabaseAbsent`",
	}
	RefreshUnavailable = &Failure{
		Name: "refresh_unavailable", Status: 503, Code: 18503002, Kind: Expected,
		Message:  "The user's token can't be renewed at the moment, and the authorization is kept: try again after Retry-After.",
		Meaning:  "the token has expired, and Lark's token endpoint can't renew it right now. The authorization is kept, so nobody has to click",
		App:      "send it again after `Retry-After`",
		Operator: "`LarksideCircuitOpen`, `LarksideRefreshesFail`",
	}
	AppMisconfigured = &Failure{
		Name: "app_misconfigured", Status: 503, Code: 18503003, Kind: Expected,
		Message:  "Lark refuses the app itself: its operator has to check secret, availability and token refresh in the developer console.",
		Meaning:  "Lark refuses the app itself, not the user",
		App:      "tell the operator, and send it again after `Retry-After`",
		Operator: "`LarksideAppRefused`: check the secret, the publication and the refresh switch in the developer console",
	}
	Draining = &Failure{
		Name: "draining", Status: 503, Code: 18503004, Kind: Expected,
		Message:  "This instance is stopping: send the request again.",
		Meaning:  "this replica is stopping",
		App:      "send it again after `Retry-After`",
		Operator: "nothing, if the stop was intended. Behind a Kubernetes Service, give the pod a `preStop` hook",
	}
	UpstreamTimeout = &Failure{
		Name: "upstream_timeout", Status: 504, Code: 18504001, Kind: Expected,
		Message:  "Lark did not answer in time: try again, or raise LARKSIDE_UPSTREAM_TIMEOUT.",
		Meaning:  "Lark did not answer within `LARKSIDE_UPSTREAM_TIMEOUT`",
		App:      "as for `upstream_unreachable`: Lark may have done what was asked",
		Operator: "one slow API: raise the timeout. All of them: Lark, or the way there",
	}
)

// SetHeader sets the headers that every answer of this kind has: X-Larkside-Error,
// and WWW-Authenticate with a 401.
func (f *Failure) SetHeader(h http.Header) {
	h.Set("X-Larkside-Error", f.Name)
	if scheme := f.scheme(); scheme != "" {
		h.Set("WWW-Authenticate", scheme)
	}
}

// scheme returns the WWW-Authenticate header of a 401 (RFC 9110 section 11.6.1),
// "" for any other failure.
func (f *Failure) scheme() string {
	switch f {
	case AuthorizationRequired:
		// RFC 6750 section 3, with the error of a token that "is expired, revoked,
		// malformed, or invalid for other reasons".
		return `Bearer realm="lark", error="invalid_token"`
	case CallerUnauthenticated:
		return `Larkside realm="larkside"`
	case UserUnproven:
		return `Larkside realm="larkside user"`
	case AdminUnauthenticated:
		return `Bearer realm="larkside admin"`
	}
	return ""
}
