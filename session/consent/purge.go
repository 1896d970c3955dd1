package consent

import (
	"context"
	"errors"
	"time"

	"larkside/session"
)

const (
	// PurgeAtOnce is how many sessions one call of [Manager.Purge] should name.
	PurgeAtOnce = 100
	// purgeSettle is how long revoked sessions stay, so that replicas that poll
	// for changes see them and drop what they have cached.
	purgeSettle = 2 * time.Second
)

// Purged is what became of one session.
type Purged struct {
	session.Key
	// Deleted is false if its user has consented anew meanwhile; that is kept.
	Deleted bool
	// Revoked reports whether Lark has taken back the tokens that had not expired.
	// If it has not at once, it is tried again for half a minute.
	Revoked bool
	// Consents is how many were deleted.
	Consents int
}

// Purge deletes what is stored about the users of these sessions, except the audit
// trail: it revokes the sessions here and at Lark, waits until every replica has
// dropped their tokens, and deletes the rows and the consents. It finishes what it
// has begun even if ctx is done. It calls each for every session that it found.
// The caller writes the audit entries.
func (m *Manager) Purge(ctx context.Context, keys []session.Key, each func(Purged)) error {
	type ended struct {
		Purged
		version int64
	}
	var all []ended
	var failed error
	for _, key := range keys {
		latest, noConsent := m.consents.Latest(ctx, key)
		before, err := m.revokeHere(ctx, key, session.Revoked)
		if errors.Is(err, session.ErrNotFound) {
			continue
		}
		if err != nil {
			failed = err
			break
		}
		access, refresh := m.living(before)
		taken := m.discard(ctx, key, access, refresh)
		if noConsent == nil {
			m.task(ctx, func(ctx context.Context) { m.showRevokedOn(ctx, latest) })
		}
		all = append(all, ended{Purged{Key: key, Revoked: taken}, before.Version + 1})
	}
	if len(all) == 0 {
		return failed
	}
	// Once revoked, a session is not found again as one of a user who left. So it
	// is deleted even if the caller has hung up.
	time.Sleep(purgeSettle)
	ctx = context.WithoutCancel(ctx)
	for _, e := range all {
		consents, err := m.retention.Purge(ctx, e.Key, e.version)
		if err != nil && !errors.Is(err, session.ErrConflict) {
			failed = errors.Join(failed, err)
			continue
		}
		e.Deleted, e.Consents = err == nil, int(consents)
		each(e.Purged)
	}
	return failed
}
