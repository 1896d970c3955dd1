package session

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unique"
)

// Access is what a request needs of a session. It may be cached: an access
// token stays valid until its own expiry when the pair is rotated (Lark,
// "refresh user_access_token"). Values are shared between requests and, except for
// [Access.ClaimRenewal], are not changed once another goroutine can see them.
type Access struct {
	Key     Key
	State   State
	Reason  Reason
	Version int64
	// Renewable reports whether the session has a refresh token that may still
	// work.
	Renewable bool

	// issuedAt, expiresAt and retryAt are in Unix milliseconds, which take a
	// third of the memory of a time.Time. The cache has an Access for each
	// user, so it and its header are kept to 144 bytes.
	issuedAt, expiresAt, retryAt int64
	// header is the ready Authorization value. It is behind a pointer, so that
	// no %v of this struct shows it.
	header *[1]string
	// renewing is in Unix nanoseconds; see [Access.ClaimRenewal].
	renewing atomic.Int64
}

// NewAccess returns the cacheable part of s.
func NewAccess(s *Session) *Access {
	// One allocation: the garbage collector has one object less to mark for each user.
	both := new(struct {
		access Access
		header [1]string
	})
	a := &both.access
	*a = Access{
		Key:   Key{AppID: shared(s.AppID), OpenID: s.OpenID},
		State: shared(s.State), Reason: shared(s.Reason), Version: s.Version,
		issuedAt: s.IssuedAt.UnixMilli(), expiresAt: s.ExpiresAt.UnixMilli(), retryAt: s.RetryAt.UnixMilli(),
		Renewable: s.State != ConsentRequired && !s.RefreshToken.Empty(),
	}
	if !s.AccessToken.Empty() && s.TokenType == "Bearer" {
		both.header[0] = "Bearer " + s.AccessToken.Expose()
		a.header = &both.header
	}
	return a
}

// shared returns s in memory that all equal strings share: most users have the
// same app and state.
func shared[S ~string](s S) S { return S(unique.Make(string(s)).Value()) }

// Usable reports whether the token may be sent at now. It is false from the
// token's expiry on, and for a disabled user.
func (a *Access) Usable(now time.Time) bool {
	return a.header != nil && a.State != Disabled && now.UnixMilli() < a.expiresAt
}

// RetryAt returns when a refresh may be tried again after one that failed. It
// is zero if the last one did not fail.
func (a *Access) RetryAt() time.Time { return time.UnixMilli(a.retryAt).UTC() }

// RefreshAt returns when less than threshold, in (0,1), of the token's life is
// left.
func (a *Access) RefreshAt(threshold float64) time.Time {
	life := float64(a.expiresAt - a.issuedAt)
	return time.UnixMilli(a.expiresAt - int64(life*threshold)).UTC()
}

// Authorize sets the Authorization header of h to the token. Without a token it
// removes the header. It does not allocate.
func (a *Access) Authorize(h http.Header) {
	if a.header == nil {
		delete(h, "Authorization")
		return
	}
	h["Authorization"] = a.header[:]
}

// SetToken sets the header of h with this name, in its canonical form, to the token
// alone, without a scheme. Without a token it removes the header.
func (a *Access) SetToken(h http.Header, name string) {
	if a.header == nil {
		delete(h, name)
		return
	}
	h[name] = []string{strings.TrimPrefix(a.header[0], "Bearer ")}
}

// ClaimRenewal returns true to one caller in every period. A request that finds
// the token near its end calls it, and renews the token behind its back if it
// returns true. It costs one atomic load.
func (a *Access) ClaimRenewal(now time.Time, period time.Duration) bool {
	until := a.renewing.Load()
	return now.UnixNano() >= until && a.renewing.CompareAndSwap(until, now.Add(period).UnixNano())
}
