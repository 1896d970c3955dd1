package session

import (
	"errors"
	"fmt"
	"time"
)

// What callers decide on. Everything else is detail for the log.
var (
	// ErrNotFound: there is no such row.
	ErrNotFound = errors.New("not found")
	// ErrConflict: someone replaced it first; read it again.
	ErrConflict = errors.New("replaced by another")
	// ErrLeased: another replica holds the lease; wait for what it stores.
	ErrLeased = errors.New("leased by another")
	// ErrUnavailable: the database can't be asked now. Nothing is known.
	ErrUnavailable = errors.New("store unavailable")
	// ErrConsentRequired: only the user can fix it. See [ConsentRequiredError].
	ErrConsentRequired = errors.New("consent required")
	// ErrRefreshUnavailable: the token has expired and can't be renewed at the
	// moment; the session is kept. See [RetryError].
	ErrRefreshUnavailable = errors.New("refresh unavailable")
	// ErrAppMisconfigured: Lark refuses the app itself.
	ErrAppMisconfigured = errors.New("app refused by Lark")
	// ErrUserDisabled: Lark says the user is gone or may not use the app.
	ErrUserDisabled = errors.New("user disabled")
	// ErrNotAsked: no consent could be started for the user now. See
	// [RetryError].
	ErrNotAsked = errors.New("user not asked")
)

// Reason says why a user has to be asked, or may not be. The strings are the
// contract's error.reason.
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

// RetryError wraps [ErrRefreshUnavailable], [ErrUnavailable] or
// [ErrAppMisconfigured] with the time after which it is worth asking again.
type RetryError struct {
	Err error
	// After is at least a second.
	After time.Duration
}

func (e *RetryError) Error() string { return fmt.Sprintf("%v (retry in %s)", e.Err, e.After) }
func (e *RetryError) Unwrap() error { return e.Err }
