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

func (e *RetryError) Error() string { return fmt.Sprintf("%v (retry in %s)", e.Err, e.After) }
func (e *RetryError) Unwrap() error { return e.Err }
