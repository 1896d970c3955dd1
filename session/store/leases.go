package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"larkside/session"
	"larkside/telemetry"
)

// Leases gives out the right to spend refresh tokens.
type Leases struct {
	sessions *Sessions
	owner    string // this process, random
	closed   <-chan struct{}
	claims   metric.Int64Counter
}

// Lease is the right to spend the refresh token of one session. Over all
// replicas one owner has it, until a time of the database's clock. It ends with
// [Leases.Replace], [Leases.Release] or [Leases.End], exactly one of them, or
// with that time.
type Lease struct {
	// Session is the row as it was read when the lease was taken.
	Session *session.Session
	owner   string
}

// Tokens is what a refresh brought.
type Tokens struct {
	AccessToken, RefreshToken             session.Secret
	TokenType, TokenURL, Scope            string
	IssuedAt, ExpiresAt, RefreshExpiresAt time.Time
	// AfterRefusal is [session.Session.AfterRefusal].
	AfterRefusal bool
	// Failures and Retry are for a pair whose access token can't be used: how many
	// refreshes in a row have brought no usable one, and how long nobody tries
	// again. Both are 0 otherwise.
	Failures int
	Retry    time.Duration
}

// Closed returns a channel that is closed when the database is closed. Whoever
// keeps trying to store a pair gives up then.
func (l *Leases) Closed() <-chan struct{} { return l.closed }

// The rows that the sweep renews at $1. The database's time is asked for in a
// query of its own, which runs once: the planner takes a volatile function for
// another value in each row, and looks through all of them.
const conditionDue = `state = 'active' AND refresh_due_at > 0 AND refresh_due_at <= $1
		AND retry_at <= (SELECT larkside_now()) AND lease_until <= (SELECT larkside_now())`

const queryDueForRefresh = `SELECT app_id, open_id FROM sessions
	WHERE ` + conditionDue + `
	ORDER BY refresh_due_at LIMIT $2`

// Due returns up to limit sessions that have not been refreshed for most of
// their refresh token's life and that nobody is refreshing, the most urgent
// first.
func (l *Leases) Due(ctx context.Context, limit int) ([]session.Key, error) {
	return l.sessions.db.keys(ctx, "finding idle sessions", queryDueForRefresh, millis(l.sessions.now()), limit)
}

// leaseFree is the condition that nobody has the lease on a row of sessions or
// consents. No lease lasts for ten minutes. A longer one is the trace of a
// database whose clock was wrong, or of somebody who can write there, and would
// keep the user out.
const leaseFree = `lease_until NOT BETWEEN larkside_now() + 1 AND larkside_now() + 600000`

// The right to spend the refresh token goes to one owner at a time. The same
// statement counts the attempt, so that the next owner sees an attempt that
// ended in a crash. RETURNING reads the row again under the lease.
const queryClaim = `UPDATE sessions SET
		lease_owner = $4, lease_until = larkside_now() + $5,
		attempts = attempts + 1, attempt_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND ` + leaseFree + `
		AND state <> 'consent_required'
	RETURNING ` + sessionColumns

// Claim takes the lease on key's session for ttl if the session is still at
// version, and records that its refresh token is about to be spent.
// [session.ErrLeased] if another owner has the lease or the session needs a
// consent, [session.ErrConflict] if the version moved, [session.ErrNotFound] if
// the row is gone.
func (l *Leases) Claim(ctx context.Context, key session.Key, version int64, ttl time.Duration) (*Lease, error) {
	lease, err := l.claim(ctx, key, version, ttl)
	result := "taken"
	switch {
	case errors.Is(err, session.ErrLeased):
		result = "held"
	case errors.Is(err, session.ErrConflict), errors.Is(err, session.ErrNotFound):
		result = "moved"
	case err != nil:
		result = "failed"
	}
	l.claims.Add(ctx, 1, metric.WithAttributes(telemetry.Result.String(result)))
	return lease, err
}

func (l *Leases) claim(ctx context.Context, key session.Key, version int64, ttl time.Duration) (*Lease, error) {
	// Replace needs this too, but then the new pair is in memory only.
	if err := l.sessions.sealer.noteKey(ctx); err != nil {
		return nil, err
	}
	lease := &Lease{owner: l.owner + "/" + randomID()}
	var r sessionRow
	err := l.sessions.db.GetContext(ctx, &r, queryClaim, key.AppID, key.OpenID, version, lease.owner, ttl.Milliseconds())
	if err := noRows(err, session.ErrLeased, "claiming a session"); err != nil {
		if !errors.Is(err, session.ErrLeased) {
			return nil, err
		}
		now, loadErr := l.sessions.Load(ctx, key)
		switch {
		case loadErr != nil:
			return nil, loadErr
		case now.Version != version:
			return nil, fmt.Errorf("claiming a session: %w", session.ErrConflict)
		}
		return nil, err
	}
	lease.Session, err = r.open(l.sessions.sealer.Keyring)
	return lease, err
}

// The rule that must never break: a rotated pair is stored only over the pair
// that it was made from (version). The lease need not hold any more. If it ran
// out meanwhile, these tokens are still the only good ones, and if another
// owner has given the grant up for lost, this brings it back.
const queryReplace = `UPDATE sessions SET
		access_token = $4, refresh_token = $5, token_type = $6, token_url = $7, scope = $8,
		issued_at = $9, expires_at = $10, refresh_expires_at = $11, refresh_due_at = $12,
		refreshed_at = $13, after_refusal = $14, state = 'active', reason = '', version = version + 1,
		lease_owner = '', lease_until = 0, attempts = 0, attempt_at = 0, doubted_at = 0,
		failures = $16, retry_at = CASE WHEN $16 > CAST(0 AS bigint) THEN larkside_now() + $17 ELSE 0 END,
		usable_until = $15, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $3
	RETURNING ` + sessionColumns

// Replace stores the pair that the lease's refresh token brought.
// [session.ErrConflict] if another pair has been stored since the lease was
// taken. After any other error the outcome is unknown, and Replace may be
// called again: it succeeds if it finds its own pair stored.
func (l *Leases) Replace(ctx context.Context, lease *Lease, t Tokens) (*session.Session, error) {
	s := l.sessions
	if err := s.sealer.noteKey(ctx); err != nil {
		return nil, err
	}
	key := lease.Session.Key
	came := terms{
		TokenType: t.TokenType, TokenURL: t.TokenURL, Scope: t.Scope, IssuedAt: millis(t.IssuedAt), ExpiresAt: millis(t.ExpiresAt),
		// A refresh leaves granted_at as it is, and so does everything else that
		// leaves the version as it is.
		RefreshExpiresAt: millis(t.RefreshExpiresAt), GrantedAt: millis(lease.Session.GrantedAt),
	}
	stored, err := s.write(ctx, key, "storing refreshed tokens", queryReplace, key.AppID, key.OpenID, lease.Session.Version,
		s.sealer.Seal(t.AccessToken, accessPlace(key, &came)), s.sealer.Seal(t.RefreshToken, refreshPlace(key, &came)),
		came.TokenType, came.TokenURL, came.Scope, came.IssuedAt, came.ExpiresAt,
		came.RefreshExpiresAt, refreshDue(t.IssuedAt, t.RefreshExpiresAt), millis(s.now()), flag(t.AfterRefusal), came.lastEnd(),
		t.Failures, t.Retry.Milliseconds())
	if errors.Is(err, session.ErrConflict) {
		return s.alreadyStored(ctx, key, t.AccessToken, err)
	}
	return stored, err
}

// alreadyStored returns the session of key if it has the access token. It
// recognises a commit whose answer was lost. Otherwise it returns cause.
func (s *Sessions) alreadyStored(ctx context.Context, key session.Key, access session.Secret, cause error) (*session.Session, error) {
	now, err := s.Load(ctx, key)
	if err != nil || !now.AccessToken.Equal(access) || now.AccessToken.Empty() {
		return nil, cause
	}
	return now, nil
}

// Failure is a refresh that failed and did not end the session.
type Failure struct {
	// MaybeSpent: Lark may have taken the refresh token, so the attempt stays
	// counted.
	MaybeSpent bool
	// Retry is how long nobody tries again.
	Retry time.Duration
	// Doubted: Lark said that the user does not exist. See
	// [session.Session.DoubtedAt].
	Doubted bool
}

// Gives the lease back after a refresh that changed nothing.
const queryRelease = `UPDATE sessions SET
		lease_owner = '', lease_until = 0, attempts = attempts - $5,
		failures = failures + 1, retry_at = larkside_now() + $6, doubted_at = $7
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND lease_owner = $4
	RETURNING ` + sessionColumns

// Release gives the lease back after a refresh that failed, and counts the
// failure. [session.ErrConflict] if the version moved or the lease is
// another's.
func (l *Leases) Release(ctx context.Context, lease *Lease, f Failure) (*session.Session, error) {
	doubtedAt := lease.Session.DoubtedAt
	if f.Doubted && doubtedAt.IsZero() {
		doubtedAt = l.sessions.now()
	}
	return l.giveBack(ctx, lease, "releasing a session", queryRelease, flag(!f.MaybeSpent), f.Retry.Milliseconds(), millis(doubtedAt))
}

// Ending is why and how a session can't be refreshed any more.
type Ending struct {
	State  session.State
	Reason session.Reason
	// DropAccess deletes the access token too, since Lark has refused it.
	// Without it, the access token is served until it expires.
	DropAccess bool
	// Retry is how long Lark is not asked again, for Disabled sessions.
	Retry time.Duration
}

// Ends a session that can't be refreshed. The version stays, so that
// queryReplace still stores a pair that another owner of this refresh token may
// bring.
const queryEnd = `UPDATE sessions SET
		state = $5, reason = $6, lease_owner = '', lease_until = 0,
		access_token = CASE WHEN $8 = 1 THEN NULL ELSE access_token END,
		failures = failures + 1, retry_at = larkside_now() + $7, ` + setEnded + `, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND lease_owner = $4
	RETURNING ` + sessionColumns

// End gives the lease back and marks the session as one that can't be
// refreshed. [session.ErrConflict] if the version moved or the lease is
// another's.
func (l *Leases) End(ctx context.Context, lease *Lease, e Ending) (*session.Session, error) {
	return l.giveBack(ctx, lease, "ending a session", queryEnd, e.State, e.Reason, e.Retry.Milliseconds(), flag(e.DropAccess))
}

// giveBack runs a query that ends the lease. args follow the four that name it.
func (l *Leases) giveBack(ctx context.Context, lease *Lease, doing, query string, args ...any) (*session.Session, error) {
	s := lease.Session
	return l.sessions.write(ctx, s.Key, doing, query, append([]any{s.AppID, s.OpenID, s.Version, lease.owner}, args...)...)
}
