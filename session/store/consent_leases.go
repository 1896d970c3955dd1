package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"larkside/session"
)

// ConsentLeases gives one replica at a time the right to poll for an open
// consent, or to finish it.
type ConsentLeases struct {
	db     *database
	sealer *sealer
	owner  string // this process, random
}

const queryConsentDue = `SELECT id FROM consents
	WHERE state = 'pending' AND (expires_at <= larkside_now()
		OR (flow = 'device' AND poll_interval > 0 AND poll_at <= larkside_now() AND lease_until <= larkside_now()))
	ORDER BY poll_at LIMIT $1`

// Due returns the ids of up to limit open consents that have expired or whose
// poll is due.
func (l *ConsentLeases) Due(ctx context.Context, limit int) ([]string, error) {
	var ids []string
	if err := l.db.SelectContext(ctx, &ids, queryConsentDue, limit); err != nil {
		return nil, unavailable(err, "finding due consents")
	}
	return ids, nil
}

const queryConsentClaim = `UPDATE consents SET lease_owner = $2, lease_until = larkside_now() + $3
	WHERE id = $1 AND state = 'pending' AND ` + leaseFree + `
	RETURNING ` + consentColumns

// Claim takes the lease on an open consent for ttl. [session.ErrLeased] if the
// consent is over or another replica has the lease.
func (l *ConsentLeases) Claim(ctx context.Context, id string, ttl time.Duration) (*session.Consent, error) {
	return l.claim(ctx, queryConsentClaim, id, ttl)
}

const queryConsentClaimDue = `UPDATE consents SET lease_owner = $2, lease_until = larkside_now() + $3
	WHERE id = $1 AND state = 'pending' AND ` + leaseFree + `
		AND (poll_at <= larkside_now() OR expires_at <= larkside_now())
	RETURNING ` + consentColumns

// ClaimDue is [ConsentLeases.Claim] for a consent that [ConsentLeases.Due]
// listed. [session.ErrLeased] also if another replica has polled since, so that
// the consent is not due any more.
func (l *ConsentLeases) ClaimDue(ctx context.Context, id string, ttl time.Duration) (*session.Consent, error) {
	return l.claim(ctx, queryConsentClaimDue, id, ttl)
}

func (l *ConsentLeases) claim(ctx context.Context, query, id string, ttl time.Duration) (*session.Consent, error) {
	c, err := l.sealer.consent(ctx, query, id, l.owner, ttl.Milliseconds())
	if errors.Is(err, session.ErrNotFound) || err == nil && c.State != session.ConsentPending {
		return nil, fmt.Errorf("claiming a consent: %w", session.ErrLeased)
	}
	return c, err
}

const queryConsentExtend = `UPDATE consents SET lease_until = larkside_now() + $3
	WHERE id = $1 AND lease_owner = $2 AND state = 'pending'`

// Extend makes this process's lease last for ttl from now.
// [session.ErrConflict] if the lease is lost.
func (l *ConsentLeases) Extend(ctx context.Context, id string, ttl time.Duration) error {
	result, err := l.db.ExecContext(ctx, queryConsentExtend, id, l.owner, ttl.Milliseconds())
	return changedOne(result, err, "extending the lease on a consent")
}

const queryConsentRelease = `UPDATE consents SET poll_interval = $3, poll_at = larkside_now() + $3,
		lease_owner = '', lease_until = 0
	WHERE id = $1 AND lease_owner = $2 AND state = 'pending'`

// Release gives the lease back. The next poll is due after interval.
func (l *ConsentLeases) Release(ctx context.Context, id string, interval time.Duration) error {
	if _, err := l.db.ExecContext(ctx, queryConsentRelease, id, l.owner, interval.Milliseconds()); err != nil {
		return unavailable(err, "releasing a consent")
	}
	return nil
}
