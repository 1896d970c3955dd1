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
	// Message says in one sentence what is wrong and what to do.
	Message string
}

// Error returns the name.
func (f *Failure) Error() string { return f.Name }

// The table of failures, in the order of their codes. A failure has one name and
// one code for all listeners.
var (
	InvalidUserID         = &Failure{"invalid_user_id", 400, 18400001, "X-Lark-User-Id is not usable: send one open_id (ou_…), union_id (on_…) or user_id."}
	UserIDRequired        = &Failure{"user_id_required", 400, 18400002, "The request names no user: send X-Lark-User-Id, or an Authorization of your own."}
	AmbiguousPath         = &Failure{"ambiguous_path", 400, 18400003, "The path can be read in more than one way: send it without dot segments, empty segments, backslashes and control characters, encoded or not."}
	UnknownApp            = &Failure{"unknown_app", 400, 18400004, "No such app is configured: use one of LARKSIDE_APP_ID and LARKSIDE_APPS, or leave the app out."}
	InvalidRequest        = &Failure{"invalid_request", 400, 18400005, "The request can't be read: see the API description."}
	MalformedRequest      = &Failure{"malformed_request", 400, 18400006, "The request is not valid HTTP/1.1: look at its target, its headers and how its body is delimited."}
	AuthorizationRequired = &Failure{"authorization_required", 401, 18401001, "The user has to authorize the app: open error.authorize_url, then send the request again."}
	CallerUnauthenticated = &Failure{"caller_unauthenticated", 401, 18401002, "X-Larkside-Key is missing or wrong: send the key of one of the configured callers."}
	AdminUnauthenticated  = &Failure{"admin_unauthenticated", 401, 18401003, "The admin key is missing or wrong: send Authorization: Bearer with LARKSIDE_ADMIN_KEY."}
	UserUnproven          = &Failure{"user_unproven", 401, 18401004, "Nothing proves who the user is: send X-Larkside-User-Token with a valid JWT of this user."}
	PathNotAllowed        = &Failure{"path_not_allowed", 403, 18403001, "No user token may be sent to this path: add it to LARKSIDE_INJECT_PATHS if it should be."}
	HostNotAllowed        = &Failure{"host_not_allowed", 403, 18403002, "The request comes from a web page or has an unknown Host: send it from the app, or add the Host to LARKSIDE_ALLOW_HOSTS."}
	UserDisabled          = &Failure{"user_disabled", 403, 18403003, "Lark says that this user has left or may not use the app: ask the tenant's administrator."}
	CallerNotAllowed      = &Failure{"caller_not_allowed", 403, 18403004, "This caller may not do that: see LARKSIDE_CALLER_LIMITS."}
	NotFound              = &Failure{"not_found", 404, 18404001, "There is nothing under this path."}
	MethodNotAllowed      = &Failure{"method_not_allowed", 405, 18405001, "The method is not served here: use one of those in the Allow header."}
	ConsentRequired       = &Failure{"consent_required", 409, 18409001, "Only the user can renew this session: start a consent."}
	Conflict              = &Failure{"conflict", 409, 18409002, "Someone else changed the session at the same time: read it again."}
	NotAllSealed          = &Failure{"not_all_sealed", 409, 18409003, "Not everything could be sealed under the first key: give every replica the same keys, then rotate again."}
	NotAsked              = &Failure{"not_asked", 409, 18409004, "The user could not be asked: Lark does not know the id, Lark failed, or too many were asked: see the log, and try again after Retry-After."}
	NotSignedIn           = &Failure{"not_signed_in", 409, 18409005, "Nobody has signed in: error.reason says why. Run larkside login again."}
	CallerRateLimited     = &Failure{"caller_rate_limited", 429, 18429001, "This caller sends too many requests: wait as long as Retry-After says."}
	AdminRateLimited      = &Failure{"admin_rate_limited", 429, 18429002, "The admin key is wrong, and too many wrong ones came from this address: wait as long as Retry-After says, and look for who sends them."}
	HeaderTooLarge        = &Failure{"header_too_large", 431, 18431001, "The request line and the headers together are larger than 64 KiB: send less."}
	InternalError         = &Failure{"internal_error", 500, 18500001, "Something unforeseen failed: look for error.request_id in the log."}
	UpstreamUnreachable   = &Failure{"upstream_unreachable", 502, 18502001, "Lark can't be reached: check the network from Larkside to the Open Platform."}
	StoreUnavailable      = &Failure{"store_unavailable", 503, 18503001, "The session store can't be reached: try again after Retry-After."}
	RefreshUnavailable    = &Failure{"refresh_unavailable", 503, 18503002, "The user's token can't be renewed at the moment, and the authorization is kept: try again after Retry-After."}
	AppMisconfigured      = &Failure{"app_misconfigured", 503, 18503003, "Lark refuses the app itself: its operator has to check secret, availability and token refresh in the developer console."}
	Draining              = &Failure{"draining", 503, 18503004, "This instance is stopping: send the request again."}
	UpstreamTimeout       = &Failure{"upstream_timeout", 504, 18504001, "Lark did not answer in time: try again, or raise LARKSIDE_UPSTREAM_TIMEOUT."}
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
