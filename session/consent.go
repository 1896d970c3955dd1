package session

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Flow is how a consent is obtained.
type Flow string

const (
	// DeviceFlow is RFC 8628. It needs no public URL: Lark is polled.
	DeviceFlow Flow = "device"
	// RedirectFlow is the authorization code grant with PKCE.
	RedirectFlow Flow = "redirect"
)

// ConsentState is where a consent stands. All states but pending are final.
type ConsentState string

const (
	ConsentPending    ConsentState = "pending"
	ConsentDone       ConsentState = "done"
	ConsentDeclined   ConsentState = "declined"
	ConsentExpired    ConsentState = "expired"
	ConsentSuperseded ConsentState = "superseded"
	ConsentFailed     ConsentState = "failed"
)

// Reasons of a consent that failed because Lark refused its scopes: Lark's
// 20027, 20043 and invalid_scope.
const (
	ScopeNotEnabled = "scope_not_enabled"
	ScopeMalformed  = "scope_malformed"
	InvalidScope    = "invalid_scope"
)

// ConsentRequest says what a user is to be asked for, why, and for which caller.
type ConsentRequest struct {
	// Reason is why the user is asked. The card has another text for a renewal
	// than for the first time. "": the first time.
	Reason Reason
	// Scopes are asked for instead of the configured ones. Malformed ones are
	// left out, and at most 200 are asked for. Empty: the configured ones.
	Scopes []string
	// AnyOf are scopes of which an API wants one, from a user whose token is good
	// but has none of them (Lark's code 99991679). One is asked for. If none can
	// help, nobody is asked and the [Challenge] is zero.
	AnyOf []string
	// Caller is the name of the caller whose request it is. It is empty where
	// callers need no key. What all callers share is counted by it.
	Caller string
	// Wait is how long a request may wait for the consent. For so long Lark is
	// polled at its interval.
	Wait time.Duration
}

// Consent is one user being asked to authorize the app, and what became of it.
// It is kept in the database, since the callback, the click and the poll may
// reach any replica.
type Consent struct {
	// ID is hex, in the order of creation. It is not secret.
	ID string
	Key
	Flow   Flow
	State  ConsentState
	Reason string
	// Scopes are those asked of the user, separated by spaces.
	Scopes string
	// Caller is for whom it was started: a caller's name, or another word of
	// package consent.
	Caller string
	// Link is where this user, and nobody else, answers. It is empty before the
	// flow has been started and after it is over. Sealed at rest.
	Link Secret
	// Secret is the device_code (device flow) or the key from which each
	// browser's code_verifier is made (redirect flow). Sealed at rest.
	Secret Secret
	// PollInterval is how often Lark may be asked (device flow).
	PollInterval time.Duration
	// PollSoon: something has happened since the last poll (device flow).
	PollSoon bool
	// TicketHash is [Hash] of the ticket in the link (redirect flow).
	TicketHash string
	// Card says what became of the auth card, CardMessageID names its message,
	// and CardShows is the state that it was last made to show.
	Card          CardResult
	CardMessageID string
	CardShows     ConsentState
	CreatedAt     time.Time
	ExpiresAt     time.Time
	// Left is the time until ExpiresAt by the database's clock, when the row
	// was read. It is negative after ExpiresAt.
	Left time.Duration
}

// Hash returns the SHA-256 of value, in hex. It is for values of at least 128
// random bits that the database is searched for and must not hold in clear.
func Hash(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:])
}
