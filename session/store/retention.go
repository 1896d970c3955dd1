package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"larkside/session"
	"larkside/session/seal"
)

// Retention drops tokens and deletes sessions that can't be used any more.
type Retention struct {
	sessions *Sessions
}

// before returns the time that is period ago. Of this process's clock and the
// database's the slower one counts: a clock that has jumped ahead must not
// delete what is in use.
func (r *Retention) before(ctx context.Context, period time.Duration, doing string) (int64, error) {
	now, err := r.sessions.db.now(ctx)
	if err != nil {
		return 0, unavailable(err, doing)
	}
	return min(now, millis(r.sessions.now())) - period.Milliseconds(), nil
}

const queryLeft = `SELECT app_id, open_id FROM sessions
	WHERE state = 'disabled' AND (access_token IS NOT NULL OR refresh_token IS NOT NULL)
		AND app_id = $1 AND reason = 'user_disabled' AND usable_until <= $2
	ORDER BY usable_until LIMIT $3`

// Left returns up to limit sessions of an app that have tokens and whose users
// left, or were frozen, more than period ago; the longest ago first.
func (r *Retention) Left(ctx context.Context, appID string, period time.Duration, limit int) ([]session.Key, error) {
	const doing = "finding tokens of users who left"
	before, err := r.before(ctx, period, doing)
	if err != nil {
		return nil, err
	}
	return r.sessions.db.keys(ctx, doing, queryLeft, appID, before, limit)
}

// The user stays disabled and keeps the name, so that reading the directory
// finds out if they come back. A refresh under way has the lease, and decides.
const queryDropTokens = `UPDATE sessions SET
		access_token = NULL, refresh_token = NULL, refresh_due_at = 0, refresh_expires_at = 0, expires_at = 0,
		version = version + 1, lease_owner = '', lease_until = 0, attempts = 0, attempt_at = 0,
		failures = 0, retry_at = 0, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND state = 'disabled'
		AND (access_token IS NOT NULL OR refresh_token IS NOT NULL) AND ` + leaseFree + `
	RETURNING ` + sessionColumns

// DropTokens deletes the tokens of a disabled session. It returns the session as
// it was before, so that its tokens can be revoked at Lark. [session.ErrNotFound]
// if there is none, [session.ErrConflict] if it is not disabled any more, is being
// refreshed, or has no tokens since another replica was faster.
func (r *Retention) DropTokens(ctx context.Context, key session.Key) (*session.Session, error) {
	before, err := r.sessions.loadToEnd(ctx, key)
	if err != nil {
		return nil, err
	}
	_, err = r.sessions.write(ctx, key, "dropping tokens", queryDropTokens, key.AppID, key.OpenID, before.Version)
	return before, err
}

const (
	queryUnusableUpTo = `SELECT usable_until FROM sessions WHERE usable_until > 0 AND usable_until <= $1
	ORDER BY usable_until LIMIT 1 OFFSET $2`

	// The access token of a session that can't be renewed is served until it
	// expires. What the other columns say of an active session is checked, too:
	// usable_until is not sealed.
	queryDeleteUnusable = `DELETE FROM sessions
	WHERE usable_until > 0 AND usable_until <= $1 AND expires_at <= $2
		AND (state <> 'active' OR refresh_expires_at <= $2) AND ` + leaseFree + `
	RETURNING ` + sessionColumns
)

// DeleteUnusable deletes about limit sessions that could not be used for period,
// the longest first. It returns them, so that tokens that may live on can be
// revoked at Lark. One whose tokens do not open comes without them.
func (r *Retention) DeleteUnusable(ctx context.Context, period time.Duration, limit int) ([]session.Session, error) {
	const doing = "deleting sessions that can't be used"
	before, err := r.before(ctx, period, doing)
	if err != nil {
		return nil, err
	}
	s, upTo := r.sessions, before
	err = s.db.GetContext(ctx, &upTo, queryUnusableUpTo, before, limit-1)
	if err := noRows(err, session.ErrNotFound, doing); err != nil && !errors.Is(err, session.ErrNotFound) {
		return nil, err
	}
	return s.deleteSessions(ctx, doing, queryDeleteUnusable, upTo, before)
}

// A user who has consented anew since the revocation has another version.
const (
	queryPurge = `DELETE FROM sessions
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND state = 'consent_required' AND reason = 'revoked'
	RETURNING ` + sessionColumns
	queryPurgeConsents = `DELETE FROM consents WHERE app_id = $1 AND open_id = $2`
	queryPurgeDefault  = `DELETE FROM default_users WHERE app_id = $1 AND open_id = $2`
)

// Purge deletes the revoked session of key that has a version, and what else
// names its user: their consents, and that they are the default user. The audit
// trail stays. It returns how many consents there were. [session.ErrConflict] if
// the session is not revoked or has another version; nothing is deleted then.
func (r *Retention) Purge(ctx context.Context, key session.Key, version int64) (consents int64, err error) {
	const doing = "purging a session"
	s := r.sessions
	deleted, err := s.deleteSessions(ctx, doing, queryPurge, key.AppID, key.OpenID, version)
	if err == nil && len(deleted) == 0 {
		err = fmt.Errorf("%s: %w", doing, session.ErrConflict)
	}
	if err != nil {
		return 0, err
	}
	result, err := s.db.ExecContext(ctx, queryPurgeConsents, key.AppID, key.OpenID)
	if err == nil {
		consents, _ = result.RowsAffected() // both drivers know
		_, err = s.db.ExecContext(ctx, queryPurgeDefault, key.AppID, key.OpenID)
	}
	if err != nil {
		return consents, unavailable(err, doing)
	}
	return consents, nil
}

// deleteSessions runs a statement that deletes sessions, and returns them.
func (s *Sessions) deleteSessions(ctx context.Context, doing, query string, args ...any) ([]session.Session, error) {
	var rows []sessionRow
	if err := s.db.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, unavailable(err, doing)
	}
	deleted := make([]session.Session, len(rows))
	for i := range rows {
		gone, err := rows[i].open(s.sealer.Keyring)
		if err != nil {
			gone = rows[i].view()
		}
		deleted[i] = *gone
		s.cache.absent(gone.Key, s.cache.ticket(gone.Key))
		s.changes.wake(gone.Key)
	}
	return deleted, nil
}

// loadToEnd loads the session of key, whose tokens are about to be deleted. One
// that somebody without a key has changed comes without them.
func (s *Sessions) loadToEnd(ctx context.Context, key session.Key) (*session.Session, error) {
	var r sessionRow
	err := s.db.GetContext(ctx, &r, queryLoad, key.AppID, key.OpenID)
	if err := noRows(err, session.ErrNotFound, "loading a session"); err != nil {
		return nil, err
	}
	before, err := r.open(s.sealer.Keyring)
	switch {
	case errors.Is(err, seal.ErrUnknownKey):
		return nil, err // with its key it opens
	case err != nil:
		s.sealer.complaints.Log(ctx, slog.LevelError, "a session that was changed in the database is revoked here only", "", "app_id", key.AppID, "error", err)
		return r.view(), nil
	}
	return before, nil
}
