// Package session stores each user's authorization of the app, sealed at rest.
//
// A [Session] is one row: what one user ([Key]) granted one app. [Access] is
// the part of it that may be kept in memory: the access token, never the
// refresh token. A refresh token works once, so it is read from the row, under
// a [Lease], every time. [Store] keeps the rows in PostgreSQL (any number of
// replicas) or SQLite (one process), behind an LRU of Access values.
//
// When the database is away, what is cached is served until it expires and
// everything else fails with [ErrUnavailable]; nothing is ever treated as
// absent because it could not be read.
package session

import (
	"net/http"
	"sync/atomic"
	"time"
	"unique"
)

// Key names one user of one app. It is a struct everywhere, in maps, locks and
// rows: a joined string could be made to collide.
type Key struct {
	// AppID is Lark's cli_… identifier of the app.
	AppID string `json:"app_id"`
	// OpenID is the user's ou_… identifier, which is unique per app.
	OpenID string `json:"open_id"`
}

// State says whether a session can still be used.
type State string

const (
	// Active sessions have a grant that was not seen to fail.
	Active State = "active"
	// ConsentRequired sessions can't be renewed; only the user can fix that.
	// Their access token is served until it expires.
	ConsentRequired State = "consent_required"
	// Disabled sessions belong to users who left, were frozen or may not use
	// the app. A card can't help them.
	Disabled State = "disabled"
)

// Session is one stored authorization.
type Session struct {
	Key
	// UnionID (on_…) and UserID (chosen by the tenant's administrator) are
	// aliases by which an app may name the user. Either may be empty.
	UnionID, UserID string
	// Profile is what Lark says about the person. Sealed at rest.
	Profile Profile

	State State
	// Reason says why State is not Active; empty otherwise.
	Reason Reason

	// AccessToken is 1-2 KB, at most 4 KB; opaque. Empty after a revocation.
	AccessToken Secret
	// RefreshToken works once. Empty when Lark issued none (no offline_access)
	// and after it is known to be dead.
	RefreshToken Secret
	// TokenType is "Bearer"; anything else is never injected.
	TokenType string
	// TokenURL is the endpoint that issued the grant. A v2 endpoint may refuse
	// what v3 issued, so a grant is refreshed where it was made.
	TokenURL string
	// Scope is what the token really has: space separated, as Lark answered.
	Scope string

	// IssuedAt and ExpiresAt bound the access token's life, in UTC, from
	// expires_in (seconds) at receipt.
	IssuedAt, ExpiresAt time.Time
	// RefreshExpiresAt is when an unused RefreshToken dies (Lark: 7 days).
	// Zero when there is none.
	RefreshExpiresAt time.Time
	// GrantedAt is when the user consented. Lark ends every grant 365 days
	// later (20037).
	GrantedAt time.Time
	// RefreshedAt is when the pair was last rotated; zero before the first.
	RefreshedAt time.Time

	// AfterRefusal says that this pair replaced one whose access token Lark had
	// refused before its end.
	AfterRefusal bool

	// Version counts the pairs that were stored, and the revocations. It is the
	// compare-and-swap operand; a lease does not move it.
	Version int64
	// Attempts counts the times this refresh token was about to be sent without
	// an outcome being stored since; AttemptAt is the latest. More than one, seen
	// under a lease, means that an earlier owner may have spent it: that tells a
	// token lost in a crash from a stolen one.
	Attempts  int
	AttemptAt time.Time
	// Failures counts failed refreshes since the last success; RetryAt is when
	// the next may be made.
	Failures int
	RetryAt  time.Time
	// DoubtedAt is when Lark first said, since the last success, that the user
	// does not exist; zero when it has not. It says so of users who exist, too.
	DoubtedAt time.Time
	// SyncedAt is when Profile was last read from Lark.
	SyncedAt time.Time
}

// Profile is personal data about a user.
type Profile struct {
	Name   string `json:"name,omitempty"`
	Email  string `json:"email,omitempty"`
	Mobile string `json:"mobile,omitempty"`
	// Status is active, frozen, resigned, exited or not_joined; empty when
	// unknown.
	Status string `json:"status,omitempty"`
}

// Access is what a request needs of a session: safe to cache, since a rotated
// access token stays valid until its own expiry (Lark, "refresh
// user_access_token"). Values are immutable and shared between requests.
type Access struct {
	Key     Key
	State   State
	Reason  Reason
	Version int64
	// Renewable is whether a refresh token stands behind it that is not known
	// to be dead.
	Renewable bool

	// issuedAt, expiresAt and retryAt are in Unix milliseconds, as they are
	// stored: there is one Access for each user in the cache, and it is kept to
	// 128 bytes.
	issuedAt, expiresAt, retryAt int64
	// header is the ready Authorization value, behind a pointer so that no
	// %v of this struct can show it.
	header *[1]string
	// renewing is until when a renewal behind requests has been claimed, in
	// Unix nanoseconds.
	renewing atomic.Int64
}

// NewAccess returns the cacheable part of s.
func NewAccess(s *Session) *Access {
	a := &Access{
		Key:   Key{AppID: shared(s.AppID), OpenID: s.OpenID},
		State: shared(s.State), Reason: shared(s.Reason), Version: s.Version,
		issuedAt: millis(s.IssuedAt), expiresAt: millis(s.ExpiresAt), retryAt: millis(s.RetryAt),
		Renewable: s.State != ConsentRequired && !s.RefreshToken.Empty(),
	}
	a.setToken(s.AccessToken, s.TokenType)
	return a
}

// shared is s, in memory that it has in common with others that are equal: most
// users have the same state.
func shared[S ~string](s S) S { return S(unique.Make(string(s)).Value()) }

func (a *Access) setToken(token Secret, kind string) {
	if !token.Empty() && kind == "Bearer" {
		a.header = &[1]string{"Bearer " + token.Expose()}
	}
}

// Usable reports whether the token may be sent at now. It is never true at or
// after its expiry, nor for a disabled user.
func (a *Access) Usable(now time.Time) bool {
	return a.header != nil && a.State != Disabled && now.UnixMilli() < a.expiresAt
}

// RetryAt is when a refresh may be tried again after one that failed; zero when
// none did.
func (a *Access) RetryAt() time.Time { return fromMillis(a.retryAt) }

// Authorize sets the Authorization header of h to the token and nothing else.
// It does not allocate.
func (a *Access) Authorize(h http.Header) {
	if a.header == nil {
		delete(h, "Authorization")
		return
	}
	h["Authorization"] = a.header[:]
}

// RefreshAt is when less than threshold of the token's life is left, in (0,1).
func (a *Access) RefreshAt(threshold float64) time.Time {
	life := float64(a.expiresAt - a.issuedAt)
	return fromMillis(a.expiresAt - int64(life*threshold))
}

// ClaimRenewal is true for one of the requests that find this token near its
// end, at most once in every period: that one renews it behind its back. It
// costs the others one atomic load.
func (a *Access) ClaimRenewal(now time.Time, period time.Duration) bool {
	until := a.renewing.Load()
	return now.UnixNano() >= until && a.renewing.CompareAndSwap(until, now.Add(period).UnixNano())
}
