package store

import (
	"context"
	"time"

	"larkside/session"
)

// Profiles keeps the personal data that is read from Lark.
type Profiles struct {
	db     *database
	sealer *sealer
	now    func() time.Time
}

const queryDueForSync = `SELECT app_id, open_id FROM sessions
	WHERE app_id = $1 AND synced_at < $2 AND reason <> 'revoked' ORDER BY synced_at LIMIT $3`

// Due returns up to limit users of an app whose profile was last read before a
// time.
func (p *Profiles) Due(ctx context.Context, appID string, before time.Time, limit int) ([]session.Key, error) {
	return p.db.keys(ctx, "finding profiles to read", queryDueForSync, appID, millis(before), limit)
}

// An answer without an alias (no scope for it) leaves the stored one as it is.
const querySetProfile = `UPDATE sessions SET profile = $3, synced_at = $6,
		union_id = CASE WHEN $4 = '' THEN union_id ELSE $4 END,
		user_id = CASE WHEN $5 = '' THEN user_id ELSE $5 END,
		union_id_seal = CASE WHEN $4 = '' THEN union_id_seal ELSE $7 END,
		user_id_seal = CASE WHEN $5 = '' THEN user_id_seal ELSE $8 END
	WHERE app_id = $1 AND open_id = $2`

// Set stores what Lark says about a person now.
func (p *Profiles) Set(ctx context.Context, key session.Key, profile session.Profile, unionID, userID string) error {
	if err := p.sealer.noteKey(ctx); err != nil {
		return err
	}
	sealed, err := p.sealer.sealProfile(key, profile)
	if err != nil {
		return err
	}
	union, user := p.sealer.sealAliases(key, unionID, userID)
	if _, err := p.db.ExecContext(ctx, querySetProfile, key.AppID, key.OpenID, sealed, unionID, userID, millis(p.now()), union, user); err != nil {
		return unavailable(err, "storing a profile")
	}
	return takeAliases(ctx, p.db, key, unionID, userID)
}

const queryMarkSynced = `UPDATE sessions SET synced_at = $3 WHERE app_id = $1 AND open_id = $2`

// MarkSynced records that Lark was asked about a person and told nothing.
func (p *Profiles) MarkSynced(ctx context.Context, key session.Key) error {
	if _, err := p.db.ExecContext(ctx, queryMarkSynced, key.AppID, key.OpenID, millis(p.now())); err != nil {
		return unavailable(err, "storing a profile")
	}
	return nil
}
