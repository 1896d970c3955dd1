// Package session has the types and errors that the other packages share: what one
// user granted one app, what a request needs of it, and why there may be none.
//
// A [Session] is what one user ([Key]) granted one app: an access token, which
// is sent with requests for about two hours, and a refresh token, which works
// once and brings the next pair. [Access] is the part that may be kept in
// memory: the access token, never the refresh token. A [Secret] is a string
// that nothing prints. A [ConsentRequest] says what a user is to be asked for,
// and a [Consent] is one user being asked, up to the answer. A [Challenge] is
// what a caller is told when only the user can help, and a [Reason] says why.
//
// Errors have few meanings, one for each decision of a caller. The most
// important distinction is between [ErrNotFound], the database's answer that
// there is no session, and [ErrUnavailable], no answer. Nothing is ever treated
// as absent because it could not be read.
//
// The package does no I/O and imports no other package of Larkside.
// A session is born in session/consent, stored by session/store, renewed by
// refresh and used by proxy.
package session

import "time"

// Key names one user of one app. It is a struct everywhere, also as a map key
// and in rows, since two different pairs could be joined to the same string.
type Key struct {
	// AppID is Lark's cli_… identifier of the app.
	AppID string `json:"app_id"`
	// OpenID is the user's ou_… identifier, which is unique per app.
	OpenID string `json:"open_id"`
}

// MaxUserID is in bytes. Lark's own ids have 35, and an administrator may choose a
// user_id of 64.
const MaxUserID = 128

// IsUserID reports whether id can be a user's open_id, union_id or user_id, and
// so whether an app can name somebody by it: 1 to 128 of [A-Za-z0-9_.@-].
func IsUserID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '@' || c == '-') {
			return false
		}
	}
	return 0 < len(id) && len(id) <= MaxUserID
}

// State says whether a session can still be used.
type State string

const (
	// Active: no refresh of the grant has failed for good.
	Active State = "active"
	// ConsentRequired: the session can't be refreshed any more, and only the
	// user can help. Its access token is served until it expires.
	ConsentRequired State = "consent_required"
	// Disabled: the user left, was frozen or may not use the app. A card can't
	// help.
	Disabled State = "disabled"
)

// Session is one user's stored authorization of one app.
type Session struct {
	Key
	// UnionID (on_…) and UserID (chosen by the tenant's administrator) are
	// aliases by which an app may name the user. Either may be empty.
	UnionID, UserID string
	// Profile is what Lark says about the person. Sealed at rest.
	Profile Profile

	State State
	// Reason says why State is not Active. It is empty if State is Active.
	Reason Reason

	// AccessToken is opaque, 1-2 KB, at most 4 KB. It is empty after a
	// revocation and after Lark has refused it.
	AccessToken Secret
	// RefreshToken works once. It is empty if Lark issued none (no
	// offline_access) and after a revocation.
	RefreshToken Secret
	// TokenType is "Bearer". A token of another type is never injected.
	TokenType string
	// TokenURL is the endpoint that issued the grant. It is also where the
	// grant is refreshed, since a v2 endpoint may refuse what v3 issued.
	TokenURL string
	// Scope is what the token really has, separated by spaces, as Lark
	// answered.
	Scope string

	// IssuedAt and ExpiresAt bound the access token's life, in UTC. ExpiresAt
	// is computed from expires_in (seconds).
	IssuedAt, ExpiresAt time.Time
	// RefreshExpiresAt is when RefreshToken stops working unless it is used
	// (Lark: 7 days). It is zero without a refresh token.
	RefreshExpiresAt time.Time
	// GrantedAt is when the user consented. Lark ends every grant 365 days
	// later (20037).
	GrantedAt time.Time
	// RefreshedAt is when the pair was last rotated. It is zero before the
	// first rotation.
	RefreshedAt time.Time

	// AfterRefusal reports whether this pair replaced one whose access token
	// Lark refused before its expiry.
	AfterRefusal bool

	// Version counts the pairs that were stored, and the revocations. A write
	// names the version that it was made from and fails if the row has another
	// one (compare-and-swap). Taking a lease leaves the version as it is.
	Version int64
	// Attempts counts how often this refresh token was about to be sent while
	// no outcome has been stored since. More than one, seen under a lease, means
	// that an earlier owner may have spent the token. That distinguishes a token
	// lost in a crash from a stolen one.
	Attempts int
	// Failures counts the refreshes that failed since the last success, and
	// RetryAt is when the next may be made.
	Failures int
	RetryAt  time.Time
	// DoubtedAt is when Lark first said, since the last success, that the user
	// does not exist. It is zero if Lark has not. Lark says so of existing
	// users, too.
	DoubtedAt time.Time
	// ChangedAt is when the tokens or the state last changed, by the database's
	// clock. It is set in lists only.
	ChangedAt time.Time
	// UsableUntil is when the last token of an active session ends, and when
	// another one ended. It is set in lists only.
	UsableUntil time.Time
	// SyncedAt is when Profile was last read from Lark.
	SyncedAt time.Time
}

// Profile is personal data about a user.
type Profile struct {
	Name   string `json:"name,omitempty"`
	Email  string `json:"email,omitempty"`
	Mobile string `json:"mobile,omitempty"`
	// Status is active, frozen, resigned, exited or not_joined. It is empty if
	// unknown.
	Status string `json:"status,omitempty"`
}
