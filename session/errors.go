package session

import (
	"errors"
	"fmt"
	"time"
)

// The errors that callers make decisions by. What is wrapped in them is for the
// log.
var (
	// ErrNotFound: the database answered that there is no such row.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous: a union_id or user_id belongs to two users, so it names
	// neither.
	ErrAmbiguous = errors.New("the id belongs to two users")
	// ErrConflict: the row was changed since it was read. Read it again.
	ErrConflict = errors.New("changed meanwhile")
	// ErrLeased: another owner holds the lease. Wait for what it stores.
	ErrLeased = errors.New("leased by another")
	// ErrUnavailable: the database did not answer, so nothing is known.
	ErrUnavailable = errors.New("store unavailable")
	// ErrConsentRequired: only the user can help. See [ConsentRequiredError].
	ErrConsentRequired = errors.New("consent required")
	// ErrRefreshUnavailable: the access token has expired and can't be
	// refreshed now. The session is kept. See [RetryError].
	ErrRefreshUnavailable = errors.New("refresh unavailable")
	// ErrAppMisconfigured: Lark refuses the app itself.
	ErrAppMisconfigured = errors.New("app refused by Lark")
	// ErrUserDisabled: Lark says that the user is gone or may not use the app.
	ErrUserDisabled = errors.New("user disabled")
	// ErrNotAsked: the user can't be asked for consent now. See [RetryError].
	ErrNotAsked = errors.New("user not asked")
)

// Reason says why the user has to be asked, or why asking does not help. The
// strings are the contract's error.reason.
type Reason string

const (
	NoSession           Reason = "no_session"
	RefreshTokenExpired Reason = "refresh_token_expired"
	RefreshTokenUsed    Reason = "refresh_token_used"
	RefreshTokenInvalid Reason = "refresh_token_invalid"
	NoRefreshToken      Reason = "no_refresh_token"
	Revoked             Reason = "revoked"
	Declined            Reason = "declined"
	TokenRefused        Reason = "token_refused"
	UnsupportedToken    Reason = "unsupported_token_type"
	UserGone            Reason = "user_disabled"
	UserNotPermitted    Reason = "user_not_permitted"
)

// Word is a word of the contract with what deploy/docs/errors.md says about it, in
// Markdown. A test of package edge holds the page to it.
type Word struct {
	Word string
	// Meaning says what it means.
	Meaning string
	// Do says what to do.
	Do string
}

// Reasons describes each [Reason].
func Reasons() []Word {
	return []Word{
		{string(NoSession), "the user has never authorized the app", "nothing; many at once: `LarksideManyAsked`"},
		{string(RefreshTokenExpired), "365 days are over, or Larkside was off for too long", "nothing; many at once: was the sweep off, or late (`LarksideSweepLags`)?"},
		{string(RefreshTokenUsed), "the stored refresh token has been spent already", "`LarksideSessionsLost`. Class `rotation_lost`: a replica was killed between Lark's answer and the commit. Class `reused`: a copy of the database, a restored backup, or another program spent it"},
		{string(RefreshTokenInvalid), "Lark does not know the refresh token, or it is another app's", "was `LARKSIDE_APP_ID`, `LARKSIDE_BRAND` or `LARKSIDE_TOKEN_URL` changed under this database?"},
		{string(NoRefreshToken), "Lark issued no refresh token, so the authorization ended with the access token", "enable `offline_access` in the developer console and publish"},
		{string(Revoked), "the user or an administrator revoked it at Lark, or an operator did here", "`larkside audit list --user USER` says who"},
		{string(Declined), "the user's last answer was no", "talk to the user"},
		{string(TokenRefused), "Lark refuses a token that it has just issued", "give `lark.log_id` of the trace to Lark's support"},
		{string(UnsupportedToken), "Lark issued a token that is no Bearer token, and nothing was stored. It is the reason of a consent, not of a 401", "ask Lark's support"},
		{string(UserGone), "the user has left or is frozen. Requests get 403 `user_disabled`, not 401", "ask the tenant's administrator"},
		{string(UserNotPermitted), "the user is outside the app's availability. Requests get 403 `user_disabled`, not 401", "ask the tenant's administrator"},
	}
}

// ConsentRequiredError is an [ErrConsentRequired] with its reason.
type ConsentRequiredError struct{ Reason Reason }

func (e *ConsentRequiredError) Error() string {
	return fmt.Sprintf("consent required: %s", e.Reason)
}

// Is makes errors.Is(err, ErrConsentRequired) true.
func (e *ConsentRequiredError) Is(target error) bool { return target == ErrConsentRequired }

// RetryError wraps [ErrRefreshUnavailable], [ErrUnavailable],
// [ErrAppMisconfigured] or [ErrNotAsked] with the time after which asking again
// may succeed.
type RetryError struct {
	Err error
	// After is at least a second.
	After time.Duration
}

func (e *RetryError) Error() string {
	return fmt.Sprintf("%v (retry in %s)", e.Err, e.After.Round(time.Second/10))
}
func (e *RetryError) Unwrap() error { return e.Err }
