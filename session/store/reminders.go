package store

import (
	"context"
	"errors"
	"time"

	"larkside/session"
)

// Reminders finds grants that end soon and keeps whose users have been
// reminded.
type Reminders struct {
	db  *database
	now func() time.Time
}

// Expiring is a grant that ends soon, whatever is refreshed.
type Expiring struct {
	session.Key
	// GrantedAt identifies the grant. EndsAt is when no refresh helps any more.
	GrantedAt, EndsAt time.Time
}

// endsAt is when a grant ends by itself. The index sessions_ends has the same
// expression, and the reasons for it.
const endsAt = `(CASE
    WHEN refresh_token IS NULL THEN expires_at
    WHEN (refresh_expires_at - issued_at) * 10 < refresh_life * 9
        AND refresh_expires_at < granted_at + 31536000000 THEN refresh_expires_at
    ELSE granted_at + 31536000000 END)`

// Grants that end before $2, in the last tenth of their life, whose user has
// not been reminded.
const queryExpiring = `SELECT app_id, open_id, granted_at, ` + endsAt + ` AS ends_at FROM sessions
	WHERE state = 'active' AND ` + endsAt + ` > $1 AND ` + endsAt + ` <= $2 AND renewal_asked <> granted_at
		AND (` + endsAt + ` - $1) * 10 <= ` + endsAt + ` - granted_at
	ORDER BY ` + endsAt + ` LIMIT $3`

// Due returns up to limit grants that end within a period, are in the last
// tenth of their life, and whose users have not been reminded; the most urgent
// first. A grant ends 365 days after it was made, or earlier: with its access
// token if there is no refresh token, and with its refresh token if each new
// one lives shorter than the last.
func (r *Reminders) Due(ctx context.Context, within time.Duration, limit int) ([]Expiring, error) {
	var rows []struct {
		AppID     string `db:"app_id"`
		OpenID    string `db:"open_id"`
		GrantedAt int64  `db:"granted_at"`
		EndsAt    int64  `db:"ends_at"`
	}
	now := r.now()
	if err := r.db.SelectContext(ctx, &rows, queryExpiring, millis(now), millis(now.Add(within)), limit); err != nil {
		return nil, unavailable(err, "finding grants that end")
	}
	list := make([]Expiring, len(rows))
	for i, r := range rows {
		list[i] = Expiring{session.Key{AppID: r.AppID, OpenID: r.OpenID}, fromMillis(r.GrantedAt), fromMillis(r.EndsAt)}
	}
	return list, nil
}

// One caller finds the mark unset and reminds the user of this grant.
const queryReminderClaim = `UPDATE sessions SET renewal_asked = granted_at
	WHERE app_id = $1 AND open_id = $2 AND granted_at = $3 AND renewal_asked <> granted_at`

// Claim takes the right to remind key's user of the end of the grant made at
// grantedAt. It returns true once for each grant, over all replicas.
func (r *Reminders) Claim(ctx context.Context, key session.Key, grantedAt time.Time) (bool, error) {
	result, err := r.db.ExecContext(ctx, queryReminderClaim, key.AppID, key.OpenID, millis(grantedAt))
	if err = changedOne(result, err, "claiming a reminder"); errors.Is(err, session.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

const queryReminderRelease = `UPDATE sessions SET renewal_asked = 0
	WHERE app_id = $1 AND open_id = $2 AND granted_at = $3`

// Release gives the right back if the user could not be reminded.
func (r *Reminders) Release(ctx context.Context, key session.Key, grantedAt time.Time) error {
	if _, err := r.db.ExecContext(ctx, queryReminderRelease, key.AppID, key.OpenID, millis(grantedAt)); err != nil {
		return unavailable(err, "releasing a reminder")
	}
	return nil
}
