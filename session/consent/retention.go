package consent

import (
	"context"
	"errors"
	"time"

	"larkside/session"
	"larkside/session/store"
)

const (
	// keepTokensOfLeft is how long the tokens of a user who left are kept, in
	// case that the directory was mistaken.
	keepTokensOfLeft = 24 * time.Hour
	// retireTick is how often sessions that can't be used any more are looked
	// for. Each time, leftAtOnce of them lose their tokens, which is two calls to
	// Lark for each, and about deletedAtOnce are deleted.
	retireTick    = time.Minute
	leftAtOnce    = 100
	deletedAtOnce = 500
	// leaveAfterFailure is how long an app's tokens are left alone after Lark did
	// not take one.
	leaveAfterFailure = time.Hour
)

// startRetiring deletes sessions and tokens that are of no use any more, on a
// goroutine of its own, since Lark may be slow. One such run is under way at a
// time.
func (m *Manager) startRetiring(ctx context.Context) {
	select {
	case m.retiring <- struct{}{}:
	default:
		return
	}
	done := func() { <-m.retiring }
	if !m.task(ctx, func(ctx context.Context) { defer done(); m.retire(ctx) }) {
		done()
	}
}

func (m *Manager) retire(ctx context.Context) {
	dropped := 0
	for id := range m.apps {
		n, err := m.dropTokensOfLeft(ctx, id)
		dropped += n
		if err != nil {
			m.logUnlessStopping(ctx, "tokens of users who left could not be dropped", err)
		}
	}
	deleted := 0
	if m.keep > 0 {
		var err error
		if deleted, err = m.deleteUnusable(ctx); err != nil {
			m.logUnlessStopping(ctx, "sessions that can't be used any more could not be deleted", err)
		}
	}
	if dropped+deleted > 0 {
		m.log.InfoContext(ctx, "looked after sessions that can't be used any more", "dropped", dropped, "deleted", deleted)
	}
}

// dropTokensOfLeft ends, here and at Lark, the grants of an app's users who left
// more than keepTokensOfLeft ago. If Lark does not take a token, the others keep
// theirs for an hour, so that they can be revoked when Lark answers again.
func (m *Manager) dropTokensOfLeft(ctx context.Context, appID string) (dropped int, err error) {
	if m.now().Before(m.leaveUntil[appID]) {
		return 0, nil
	}
	left, err := m.retention.Left(ctx, appID, keepTokensOfLeft, leftAtOnce)
	if err != nil {
		return 0, err
	}
	for _, key := range left {
		if ctx.Err() != nil {
			return dropped, nil
		}
		before, err := m.retention.DropTokens(ctx, key)
		if errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrNotFound) {
			continue // it can be used again, or is being refreshed
		}
		if err != nil {
			return dropped, err
		}
		dropped++
		taken := m.discard(ctx, key, before.AccessToken, before.RefreshToken)
		m.audit.Write(ctx, store.AuditEntry{Actor: store.ByLarkside, Action: store.AuditRevoke, Key: key, Result: "done",
			Detail: "the user left, or was frozen, more than 24 hours ago"})
		if !taken {
			m.leaveUntil[appID] = m.now().Add(leaveAfterFailure)
			return dropped, nil
		}
	}
	return dropped, nil
}

// deleteUnusable deletes sessions that have been of no use for longer than
// they are kept. Tokens that have not expired are revoked at Lark.
func (m *Manager) deleteUnusable(ctx context.Context) (int, error) {
	deleted, err := m.retention.DeleteUnusable(ctx, m.keep, deletedAtOnce)
	if err != nil {
		return 0, err
	}
	for i := range deleted {
		s := &deleted[i]
		access, refresh := m.living(s)
		m.discard(ctx, s.Key, access, refresh)
		detail := "it could not be used any more"
		if s.Reason != "" {
			detail += ": " + string(s.Reason)
		}
		m.audit.Write(ctx, store.AuditEntry{Actor: store.ByLarkside, Action: store.AuditPurge, Key: s.Key, Result: "done", Detail: detail})
	}
	return len(deleted), nil
}

// living returns the tokens of s that have not expired.
func (m *Manager) living(s *session.Session) (access, refresh session.Secret) {
	now := m.now()
	if now.Before(s.ExpiresAt) {
		access = s.AccessToken
	}
	if now.Before(s.RefreshExpiresAt) {
		refresh = s.RefreshToken
	}
	return access, refresh
}
