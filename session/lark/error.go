package lark

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"larkside/session"
)

// Class says what to do about an error. The strings are metric labels.
type Class string

const (
	// Retry: try again later, with backoff. The grant is kept.
	Retry Class = "retry"
	// Reauthorize: the code, grant or token is dead, and only the user can
	// help. Before that is believed of a refresh token, read the row again:
	// another replica may have won.
	Reauthorize Class = "reauthorize"
	// AppRefused: Lark refuses the app itself. Its secret is wrong, it is not
	// enabled, or it may not refresh. Nothing is renewed for the app and no
	// user is asked until the operator has fixed it.
	AppRefused Class = "app_refused"
	// Misconfigured: a mistake of the operator's or a bug of ours. It says
	// nothing about the app as a whole. The grant is kept.
	Misconfigured Class = "misconfigured"
	// ScopeRefused: the scopes are malformed or not enabled on the app. A
	// request with other scopes may succeed.
	ScopeRefused Class = "scope_refused"
	// CodeRefused: the authorization code was issued for another app or another
	// redirect_uri. A user can cause it, with a code from elsewhere.
	CodeRefused Class = "code_refused"
	// UserDisabled: the user is gone, frozen or outside the app's availability.
	// A card can't help. See also [Error.Doubtful].
	UserDisabled Class = "user_disabled"
	// Denied: a security policy stops the user (21000, 21001). The grant is
	// kept, and trying again does not help. [Error.ChallengeURL] is for the
	// user.
	Denied Class = "denied"
	// Unknown: the code is not in the table. Back off. The grant is kept.
	Unknown Class = "unknown"

	// The others are of cards and the directory only.

	// Undeliverable: this bot can't send a card to this user, for hours at
	// least.
	Undeliverable Class = "undeliverable"
	// InvalidID: Lark knows no such user in this app or tenant.
	InvalidID Class = "invalid_id"
	// Rejected: the card or a parameter is wrong. That is a bug of ours.
	Rejected Class = "rejected"
	// Gone: the message can't be updated any more, since it was recalled or
	// deleted, or is older than 14 days. Forget its id.
	Gone Class = "gone"
)

// Outcome says whether the one-time token in a request may have been spent.
type Outcome string

const (
	// NotSent: there was no connection, so the token was not spent.
	NotSent Outcome = "not_sent"
	// Refused: Lark answered with a code and did nothing.
	Refused Outcome = "refused"
	// Lost: the request was sent and no usable answer came (timeout, reset,
	// redirect, truncated, garbage, an internal error). Lark may have acted.
	Lost Outcome = "lost"
)

// Errors of [Client.PollDevice] (RFC 8628 section 3.5).
var (
	ErrAuthorizationPending = errors.New("authorization pending")
	ErrSlowDown             = errors.New("polled too often")
	ErrAccessDenied         = errors.New("declined by the user")
	ErrExpired              = errors.New("device code expired")
)

// Error is a failed operation. It has no secret: secrets are removed from what
// Lark says, and long texts are cut.
type Error struct {
	// Op is the operation, such as "refresh".
	Op string
	// HTTPStatus is zero if no answer came.
	HTTPStatus int
	// Code is Lark's code. It is zero if the answer had none.
	Code int
	// Name is the OAuth error, such as invalid_grant. Description is the
	// sentence beside it, at most 200 runes, on one line.
	Name, Description string
	// LogID is what Lark's support asks for.
	LogID string
	// ChallengeURL is set with class Denied, if Lark sent one.
	ChallengeURL string

	Class   Class
	Outcome Outcome
	// Reason is set with Reauthorize and UserDisabled of a refresh, for the
	// caller's 401 or 403.
	Reason session.Reason
	// RetryAfter is how long Lark asked to wait, at most five minutes. It is
	// zero if Lark did not ask.
	RetryAfter time.Duration
	// Err is context.Canceled, context.DeadlineExceeded, an error of
	// PollDevice, or another cause as text only. It is nil if Lark's answer is
	// the cause.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lark: %s", e.Op)
	if e.HTTPStatus != 0 {
		fmt.Fprintf(&b, ": HTTP %d", e.HTTPStatus)
	}
	if e.Code != 0 {
		fmt.Fprintf(&b, ", code %d", e.Code)
	}
	for _, s := range []string{e.Name, e.Description} {
		if s != "" {
			b.WriteString(": " + s)
		}
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.LogID != "" {
		fmt.Fprintf(&b, " (log id %s)", e.LogID)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Doubtful reports whether Lark is known to give this answer for existing users
// now and then: "user does not exist" (20008, [P] larksuite/cli#2709). It is
// believed if the directory says the same, or if it comes again a minute later.
func (e *Error) Doubtful() bool { return e.Code == 20008 }

// codeMeaning is what a code means.
type codeMeaning struct {
	class  Class
	reason session.Reason
	// lost: Lark may have acted.
	lost bool
}

// codeTable returns what a code means for one kind of call, and false if the
// code is not in its table.
type codeTable func(code int) (codeMeaning, bool)

// tokenEndpointCode is one line of Lark's table of the token endpoint's codes
// ("get" and "refresh user_access_token", 2026-04-08). lark-cli's code table
// [S] says which codes refuse the app and which refuse one consent. A user can
// cause 20024 and 20071 with a code from elsewhere. With an empty class the
// code does not belong to that grant type, and is Unknown there.
type tokenEndpointCode struct {
	onCode, onRefresh Class
	reason            session.Reason
	lost              bool
	meaning           string
}

var tokenEndpointCodes = map[int]tokenEndpointCode{
	20001: {Misconfigured, Misconfigured, "", false, "required parameter missing"},
	20002: {AppRefused, AppRefused, "", false, "client secret wrong"},
	20003: {Reauthorize, "", "", false, "code not found or already used"},
	20004: {Reauthorize, "", "", false, "code expired"},
	20008: {UserDisabled, UserDisabled, session.UserGone, false, "user does not exist"},
	20009: {AppRefused, AppRefused, "", false, "app not installed in the tenant"},
	20010: {UserDisabled, UserDisabled, session.UserNotPermitted, false, "user may not use the app"},
	// On refresh it says that the store mixed two apps up. That is a bug of
	// this one grant, not of the whole app.
	20024: {CodeRefused, Reauthorize, session.RefreshTokenInvalid, false, "belongs to another client_id"},
	20026: {"", Reauthorize, session.RefreshTokenInvalid, false, "refresh token malformed or from a v1 endpoint"},
	20027: {ScopeRefused, "", "", false, "scope not enabled on the app"},
	20036: {Misconfigured, Misconfigured, "", false, "grant_type unsupported"},
	20037: {"", Reauthorize, session.RefreshTokenExpired, false, "refresh token expired, or 365 days since consent"},
	20043: {ScopeRefused, "", "", false, "bad scope format"},
	20048: {AppRefused, AppRefused, "", false, "app does not exist"},
	20049: {Reauthorize, "", "", false, "PKCE check failed"},
	20050: {Retry, Retry, "", true, "internal error"},
	20063: {Misconfigured, Misconfigured, "", false, "malformed request"},
	20064: {"", Reauthorize, session.RefreshTokenUsed, false, "refresh token revoked"},
	20065: {Reauthorize, "", "", false, "code already used"},
	20066: {UserDisabled, UserDisabled, session.UserGone, false, "user status invalid"},
	20067: {Misconfigured, Misconfigured, "", false, "duplicate scopes"},
	20068: {Misconfigured, Misconfigured, "", false, "scope not in the granted set"},
	20069: {AppRefused, AppRefused, "", false, "app not enabled"},
	20070: {Misconfigured, Misconfigured, "", false, "two client authentications at once"},
	20071: {CodeRefused, "", "", false, "redirect_uri differs"},
	20072: {Retry, Retry, "", false, "temporarily unavailable"},
	20073: {"", Reauthorize, session.RefreshTokenUsed, false, "refresh token already used"},
	20074: {"", AppRefused, "", false, "app may not refresh: switch in the console"},
	21000: {"", Denied, "", false, "security policy: challenge"},
	21001: {"", Denied, "", false, "security policy: denied"},

	1106072:  {"", Misconfigured, "", false, "DPoP proof"},
	99991400: {Retry, Retry, "", false, "rate limited"},
	99991543: {AppRefused, AppRefused, "", false, "app id or secret wrong"},
}

func onCode(code int) (codeMeaning, bool) {
	c := tokenEndpointCodes[code]
	return codeMeaning{c.onCode, "", c.lost}, c.onCode != ""
}

func onRefresh(code int) (codeMeaning, bool) {
	c := tokenEndpointCodes[code]
	return codeMeaning{c.onRefresh, c.reason, c.lost}, c.onRefresh != ""
}

// oauthNames are for an answer with an error of RFC 6749 or 8628 and no code.
var oauthNames = map[string]codeMeaning{
	"invalid_request":         {class: Misconfigured},
	"invalid_client":          {class: AppRefused},
	"invalid_scope":           {class: ScopeRefused},
	"unauthorized_client":     {class: Misconfigured},
	"unsupported_grant_type":  {class: Misconfigured},
	"invalid_dpop_proof":      {class: Misconfigured},
	"invalid_grant":           {class: Reauthorize, reason: session.RefreshTokenInvalid},
	"access_denied":           {class: Reauthorize, reason: session.Declined},
	"expired_token":           {class: Reauthorize},
	"authorization_pending":   {class: Retry},
	"slow_down":               {class: Retry},
	"temporarily_unavailable": {class: Retry},
	"server_error":            {class: Retry, lost: true},
}

// userInfoCodes are those of Lark "get user information", mostly with HTTP 200,
// and those of the gateway, except what [UserTokenRefusal] knows.
var userInfoCodes = map[int]codeMeaning{
	20001:    {class: Misconfigured},
	20008:    {class: UserDisabled, reason: session.UserGone},
	20010:    {class: UserDisabled, reason: session.UserNotPermitted},
	20021:    {class: UserDisabled, reason: session.UserGone},
	20022:    {class: UserDisabled, reason: session.UserGone},
	20023:    {class: UserDisabled, reason: session.UserGone},
	20066:    {class: UserDisabled, reason: session.UserGone},
	20050:    {class: Retry, lost: true},
	20072:    {class: Retry},
	21000:    {class: Denied},
	21001:    {class: Denied},
	99991400: {class: Retry},
	99991401: {class: Misconfigured},
	99991662: {class: Misconfigured},
	99991673: {class: Misconfigured},
}

func onUserInfo(code int) (codeMeaning, bool) {
	if UserTokenRefusal(code, "") == session.TokenInvalid {
		return codeMeaning{class: Reauthorize, reason: session.TokenRefused}, true
	}
	r, ok := userInfoCodes[code]
	return r, ok
}

// appCodes are those of calls with the app's own token, except what
// [TenantTokenRefusal] knows: Lark "send message", "update message card", "batch
// get users", "general error codes".
var appCodes = map[int]Class{
	// The token itself.
	10003:    AppRefused,    // bad parameter, such as the app id
	10012:    Retry,         // could not get an app token
	10013:    Retry,         // could not get a tenant token
	10014:    AppRefused,    // app disabled
	10015:    AppRefused,    // wrong secret
	99991543: AppRefused,    // app id or secret wrong ([S] lark-cli)
	99991400: Retry,         // rate limited
	99991401: Misconfigured, // our address is not on the app's list
	99991403: Misconfigured, // monthly quota
	99991661: Retry,         // no token: the token answer had none
	99991662: Misconfigured, // app disabled
	99991672: Misconfigured, // scope not enabled on the app
	99991673: Misconfigured, // app not installed
	99991676: Misconfigured,

	// Ids.
	41012:    InvalidID,
	99992351: InvalidID,
	99992359: InvalidID,
	99992360: InvalidID,
	99992361: InvalidID, // an open_id of another app
	99992363: InvalidID,
	99992364: InvalidID,
	99992381: InvalidID, // another tenant
	230034:   InvalidID,

	// The directory.
	40001:    Rejected,
	41050:    Misconfigured, // outside the app's contact scope
	99992402: Rejected,

	// Delivery.
	230006: Misconfigured, // bot ability off
	230027: Misconfigured, // missing permission
	230036: Misconfigured, // tenant crypt key deleted
	230002: Undeliverable, // bot not in the chat
	230013: Undeliverable, // outside the bot's availability
	230018: Undeliverable, // forbidden by the chat's settings
	230035: Undeliverable, // muted, blocked
	230038: Undeliverable, // another tenant's user
	230053: Undeliverable, // user stopped the bot's messages
	232009: Undeliverable, // chat dissolved
	230029: UserDisabled,  // resigned
	230020: Retry,         // frequency
	230049: Retry,         // being sent; [Client.SendCard] takes it as sent

	// The card.
	200830: Rejected, // 2.0 card to 1.0
	230001: Rejected,
	230015: Rejected,
	230017: Rejected,
	230019: Rejected,
	230022: Rejected, // sensitive words
	230025: Rejected, // too long
	230028: Rejected, // DLP
	230054: Rejected,
	230055: Rejected,
	230075: Rejected,
	230099: Rejected,

	// Updates.
	230011:   Gone, // recalled
	230031:   Gone, // older than 14 days
	230110:   Gone, // deleted
	231003:   Gone, // not found
	99992354: Gone, // no such message id
}

func onApp(code int) (codeMeaning, bool) {
	if TenantTokenRefusal(code, "") == session.TokenInvalid {
		return codeMeaning{class: Retry}, true
	}
	c, ok := appCodes[code]
	return codeMeaning{class: c}, ok
}

// result returns the answer's members, or its *Error. Like Lark's own SDK it
// looks at the status first, then at code and error in the body. The caller
// checks whether the result is in it.
func (x *call) result(judge codeTable) (fields, error) {
	code, name := x.fields.code(), x.fields.anyText("error")
	switch {
	case !x.answered():
		return nil, x.failed()
	case x.succeeded() && x.err == nil && code == 0 && name == "":
		return x.fields, nil
	}
	e := x.error()
	e.Code, e.Name = code, cut(scrub(name, x.secrets), 64)
	e.Description = scrub(x.description(), x.secrets)
	e.classify(judge)
	e.RetryAfter = retryAfter(x.header, time.Now())
	if e.Class == Denied {
		e.ChallengeURL = x.challengeURL()
	}
	return nil, e
}

// error returns an Error with what is known before the answer is judged.
func (x *call) error() *Error {
	return &Error{Op: x.op, HTTPStatus: x.status, LogID: x.logID(), Class: Unknown, Outcome: Lost}
}

// failed returns the Error of a call without an answer.
func (x *call) failed() *Error {
	e := x.error()
	e.Class = Retry
	if x.unsent || x.status == 0 && x.err == nil {
		e.Outcome = NotSent
	}
	e.Err = opaqueCause(x.err, x.secrets)
	return e
}

// unusable returns the Error of an answer that claims success and lacks a
// member.
func (x *call) unusable(what string) *Error {
	e := x.error()
	e.Class, e.Err = Retry, errors.New("answer has no usable "+what)
	return e
}

// opaqueCause returns an error with what callers may match and what an operator
// can read of a transport's error. The original may hold a secret: net/http
// quotes addresses with their query, and answers that it can't parse.
func opaqueCause(err error, secrets []session.Secret) error {
	for _, known := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return known
		}
	}
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err
	}
	if err == nil {
		return errors.New("request was not made")
	}
	return errors.New(scrub(err.Error(), secrets))
}

func (e *Error) classify(judge codeTable) {
	r, known := judge(e.Code)
	if !known && (e.Code == 0 || e.Name == "invalid_client") {
		r, known = oauthNames[e.Name]
	}
	spoke := e.Code != 0 || e.Name != ""
	switch {
	case known:
		e.Class, e.Reason = r.class, r.reason
	case e.HTTPStatus/100 != 4, e.HTTPStatus == http.StatusTooManyRequests, e.HTTPStatus == http.StatusRequestTimeout:
		// It is a redirect, a gateway's page, a 200 without JSON, or 5xx.
		e.Class = Retry
		if spoke && e.HTTPStatus/100 == 2 {
			e.Class = Unknown
		}
	}
	if spoke && !r.lost || e.HTTPStatus == http.StatusTooManyRequests {
		e.Outcome = Refused
	}
	if e.HTTPStatus/100 != 2 && e.HTTPStatus/100 != 4 && e.Code != 20072 {
		// Lark ends grants with a 400. A failing server or a redirect is not
		// believed when it says that a grant or a user is gone.
		e.Outcome = Lost
		if e.Class == Reauthorize || e.Class == UserDisabled {
			e.Class, e.Reason = Retry, ""
		}
	}
}

func (x *call) description() string {
	for _, name := range []string{"error_description", "msg", "message"} {
		if s := x.fields.anyText(name); s != "" {
			return s
		}
	}
	switch {
	case x.status/100 == 3:
		return "redirects are not followed"
	case x.err != nil:
		return x.err.Error()
	}
	return ""
}

// challengeURL returns the address for the user's browser, if it is one.
func (x *call) challengeURL() string {
	for _, f := range []fields{x.fields, x.fields.object("data")} {
		if u, ok := webURL(f.text("challenge_url")); ok {
			return u
		}
	}
	return ""
}

// webURL accepts an absolute http(s) address of at most 2 KiB.
func webURL(s string) (string, bool) {
	u, err := url.Parse(s)
	ok := err == nil && len(s) <= 2048 && u.Host != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http")
	return s, ok
}

const maxRetryAfter = 5 * time.Minute

// retryAfter reads Lark's x-ogw-ratelimit-reset (seconds), else Retry-After
// (seconds or a date, RFC 9110 section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	for _, name := range []string{"X-Ogw-Ratelimit-Reset", "Retry-After"} {
		v := h.Get(name)
		if seconds, err := strconv.ParseUint(v, 10, 32); err == nil {
			return min(time.Duration(seconds)*time.Second, maxRetryAfter)
		}
		if at, err := http.ParseTime(v); err == nil {
			return min(max(at.Sub(now), 0), maxRetryAfter)
		}
	}
	return 0
}
