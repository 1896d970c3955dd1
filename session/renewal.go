package session

import (
	"context"
	"errors"
	"time"
)

// Expiring is a grant that ends by itself soon.
type Expiring struct {
	Key
	// Scope is what it was for, space separated.
	Scope string
	// GrantedAt names the grant, EndsAt is when no refresh helps it any more.
	GrantedAt, EndsAt time.Time
}

// Expiring returns up to limit grants that end by themselves within the period,
// are in the last tenth of their life, and whose users have not been asked to
// renew them ([Store.ClaimRenewal]); the most urgent first. A grant ends 365
// days after it was made; earlier where its refresh tokens live shorter and
// shorter; and with its access token where there is no refresh token.
func (s *Store) Expiring(ctx context.Context, within time.Duration, limit int) ([]Expiring, error) {
	var rows []struct {
		AppID     string `db:"app_id"`
		OpenID    string `db:"open_id"`
		Scope     string `db:"scope"`
		GrantedAt int64  `db:"granted_at"`
		EndsAt    int64  `db:"ends_at"`
	}
	now := s.now()
	if err := s.db.SelectContext(ctx, &rows, queryExpiring, millis(now), millis(now.Add(within)), limit); err != nil {
		return nil, unavailable(err, "finding grants that end")
	}
	list := make([]Expiring, len(rows))
	for i, r := range rows {
		list[i] = Expiring{Key{r.AppID, r.OpenID}, r.Scope, fromMillis(r.GrantedAt), fromMillis(r.EndsAt)}
	}
	return list, nil
}

// ClaimRenewal takes the right to ask key's user to renew the grant made at
// grantedAt. It is given once for each grant, over all replicas.
func (s *Store) ClaimRenewal(ctx context.Context, key Key, grantedAt time.Time) (bool, error) {
	result, err := s.db.ExecContext(ctx, queryRenewalClaim, key.AppID, key.OpenID, millis(grantedAt))
	if err = affectedOne(result, err, "claiming a renewal"); errors.Is(err, ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// ReleaseRenewal gives the right back when the user could not be asked.
func (s *Store) ReleaseRenewal(ctx context.Context, key Key, grantedAt time.Time) error {
	if _, err := s.db.ExecContext(ctx, queryRenewalRelease, key.AppID, key.OpenID, millis(grantedAt)); err != nil {
		return unavailable(err, "releasing a renewal")
	}
	return nil
}
