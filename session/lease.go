package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"larkside/telemetry"
)

// Lease is the right to spend the refresh token of one session, held by one
// owner over all replicas until its deadline by the database's clock. It is
// given up by exactly one of [Store.Replace], [Store.Release] and [Store.End],
// or by time.
type Lease struct {
	// Session is the row as it was re-read when the lease was taken.
	Session *Session
	owner   string
}

// Tokens is what a refresh brought.
type Tokens struct {
	AccessToken, RefreshToken             Secret
	TokenType, TokenURL, Scope            string
	IssuedAt, ExpiresAt, RefreshExpiresAt time.Time
	// AfterRefusal is [Session.AfterRefusal].
	AfterRefusal bool
}

// Claim takes the lease on key's session for ttl, provided that the session is
// still at version, and journals the intention to spend its refresh token.
// [ErrLeased] when another owner has it, [ErrConflict] when the version moved,
// [ErrNotFound] when the row is gone.
func (s *Store) Claim(ctx context.Context, key Key, version int64, ttl time.Duration) (*Lease, error) {
	// Replace would do this, while the new pair is in memory only.
	if err := s.noteKey(ctx); err != nil {
		s.countClaim(ctx, err)
		return nil, err
	}
	l := &Lease{owner: s.owner + "/" + randomID()}
	var r row
	err := s.db.GetContext(ctx, &r, queryClaim, key.AppID, key.OpenID, version, l.owner, ttl.Milliseconds())
	if err := noRows(err, ErrLeased, "claiming a session"); err != nil {
		err = s.whyNotClaimed(ctx, key, version, err)
		s.countClaim(ctx, err)
		return nil, err
	}
	s.countClaim(ctx, nil)
	l.Session, err = s.unseal(&r)
	return l, err
}

func (s *Store) countClaim(ctx context.Context, err error) {
	result := "failed"
	switch {
	case err == nil:
		result = "taken"
	case errors.Is(err, ErrLeased):
		result = "held"
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		result = "moved"
	}
	s.leases.Add(ctx, 1, metric.WithAttributes(telemetry.Result.String(result)))
}

func (s *Store) whyNotClaimed(ctx context.Context, key Key, version int64, cause error) error {
	now, err := s.Load(ctx, key)
	switch {
	case err != nil:
		return err
	case now.Version != version:
		return fmt.Errorf("claiming a session: %w", ErrConflict)
	}
	return cause
}

// Replace stores the pair that the lease's refresh token was exchanged for, if
// no other pair has been stored since it was read. [ErrConflict] otherwise.
// After another error the outcome is not known and Replace may be called
// again: a repetition that finds its own pair stored succeeds.
func (s *Store) Replace(ctx context.Context, l *Lease, t Tokens) (*Session, error) {
	if err := s.noteKey(ctx); err != nil {
		return nil, err
	}
	key := l.Session.Key
	var r row
	err := s.db.GetContext(ctx, &r, queryReplace, key.AppID, key.OpenID, l.Session.Version,
		s.ring.seal(t.AccessToken, accessPlace(key)), s.ring.seal(t.RefreshToken, refreshPlace(key)),
		t.TokenType, t.TokenURL, t.Scope, millis(t.IssuedAt), millis(t.ExpiresAt),
		millis(t.RefreshExpiresAt), refreshDue(t.IssuedAt, t.RefreshExpiresAt), millis(s.now()), flag(t.AfterRefusal))
	if err := noRows(err, ErrConflict, "storing refreshed tokens"); err != nil {
		return s.alreadyReplaced(ctx, key, t, err)
	}
	return s.stored(&r)
}

// alreadyReplaced recognises a commit whose answer was lost on the way back.
func (s *Store) alreadyReplaced(ctx context.Context, key Key, t Tokens, cause error) (*Session, error) {
	now, err := s.Load(ctx, key)
	if err != nil || !now.AccessToken.Equal(t.AccessToken) || now.AccessToken.Empty() {
		return nil, cause
	}
	return now, nil
}

// Failure is a refresh that brought nothing and ended nothing.
type Failure struct {
	// MaybeSpent: Lark may have taken the refresh token all the same, so the
	// journal's entry stays open.
	MaybeSpent bool
	// Retry is how long nobody tries again.
	Retry time.Duration
	// Doubted: Lark said that the user does not exist. See [Session.DoubtedAt].
	Doubted bool
}

// Release gives the lease back after a refresh that changed nothing and counts
// the failure. [ErrConflict] when the row changed or the lease is another's.
func (s *Store) Release(ctx context.Context, l *Lease, f Failure) (*Session, error) {
	doubtedAt := l.Session.DoubtedAt
	if f.Doubted && doubtedAt.IsZero() {
		doubtedAt = s.now()
	}
	var r row
	err := s.db.GetContext(ctx, &r, queryRelease, l.Session.AppID, l.Session.OpenID, l.Session.Version,
		l.owner, flag(!f.MaybeSpent), f.Retry.Milliseconds(), millis(doubtedAt))
	if err := noRows(err, ErrConflict, "releasing a session"); err != nil {
		return nil, err
	}
	return s.stored(&r)
}

// Ending is why and how a session can't be renewed any more.
type Ending struct {
	State  State
	Reason Reason
	// DropAccess forgets the access token too: Lark has refused it. Otherwise
	// it is served until it expires.
	DropAccess bool
	// Retry is when asking Lark again is worth it, for Disabled sessions.
	Retry time.Duration
}

// End gives the lease back and marks the session as one that can't be renewed.
// [ErrConflict] when the row changed or the lease is another's.
func (s *Store) End(ctx context.Context, l *Lease, e Ending) (*Session, error) {
	var r row
	err := s.db.GetContext(ctx, &r, queryEnd, l.Session.AppID, l.Session.OpenID, l.Session.Version,
		l.owner, e.State, e.Reason, e.Retry.Milliseconds(), flag(e.DropAccess))
	if err := noRows(err, ErrConflict, "ending a session"); err != nil {
		return nil, err
	}
	return s.stored(&r)
}

// randomID returns 128 random bits in hex.
func randomID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// flag is b as both databases store it.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
