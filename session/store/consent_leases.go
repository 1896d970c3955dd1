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

// What is expected of a consent goes first: one that has expired is closed, and
// one whose user has just done something may have been answered. All open
// consents are looked through, so the database's time is asked for once.
const queryConsentDue = `SELECT id, CASE WHEN poll_soon = 0 AND awaited_until <= (SELECT larkside_now()) AND expires_at > (SELECT larkside_now()) THEN 1 ELSE 0 END AS quiet
	FROM consents
	WHERE state = 'pending' AND (expires_at <= (SELECT larkside_now())
		OR (flow = 'device' AND poll_interval > 0 AND poll_at <= (SELECT larkside_now()) AND lease_until <= (SELECT larkside_now())))
	ORDER BY quiet, poll_at LIMIT $1`

// Due is an open consent that has expired, or whose poll is due.
type Due struct {
	ID string `db:"id"`
	// Quiet: nothing was heard of it since the last poll.
	Quiet bool `db:"quiet"`
}

// Due returns up to limit open consents that have expired or whose poll is due,
// the quiet ones last.
func (l *ConsentLeases) Due(ctx context.Context, limit int) ([]Due, error) {
	var due []Due
	if err := l.db.SelectContext(ctx, &due, queryConsentDue, limit); err != nil {
		return nil, unavailable(err, "finding due consents")
	}
	return due, nil
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

const queryConsentReturn = `UPDATE consents SET lease_owner = '', lease_until = 0
	WHERE id = $1 AND lease_owner = $2 AND state = 'pending'`

// Return gives the lease back. If a poll was due, it still is.
func (l *ConsentLeases) Return(ctx context.Context, id string) error {
	if _, err := l.db.ExecContext(ctx, queryConsentReturn, id, l.owner); err != nil {
		return unavailable(err, "returning a consent")
	}
	return nil
}

// While something is expected the next poll comes after the interval ($3), and
// then after a quarter of the time for which nothing has happened, at most $4.
const queryConsentPolled = `UPDATE consents SET poll_interval = $3, polled_at = larkside_now(),
		poll_soon = CASE WHEN touched_at >= larkside_now() - $5 THEN 1 ELSE 0 END,
		poll_at = larkside_now() + CASE
			WHEN awaited_until > larkside_now() OR (larkside_now() - touched_at) / 4 < $3 THEN $3
			WHEN (larkside_now() - touched_at) / 4 < $4 THEN (larkside_now() - touched_at) / 4
			ELSE $4 END,
		lease_owner = '', lease_until = 0
	WHERE id = $1 AND lease_owner = $2 AND state = 'pending'
	RETURNING poll_at - larkside_now()`

// Polled gives the lease back after a poll that was sent so long ago. The next
// one is due after interval if a request waits for the consent or something has
// just happened, and ever later, at most after longest, while nothing does. It
// returns when that is. [session.ErrConflict] if the lease is lost.
func (l *ConsentLeases) Polled(ctx context.Context, id string, interval, longest, ago time.Duration) (next time.Duration, err error) {
	var millis int64
	err = l.db.GetContext(ctx, &millis, queryConsentPolled, id, l.owner, interval.Milliseconds(), longest.Milliseconds(), ago.Milliseconds())
	if err := noRows(err, session.ErrConflict, "releasing a consent"); err != nil {
		return 0, err
	}
	return time.Duration(millis) * time.Millisecond, nil
}

const queryConsentTouch = `UPDATE consents SET touched_at = larkside_now(), poll_soon = 1,
		awaited_until = CASE WHEN awaited_until > larkside_now() + $2 THEN awaited_until ELSE larkside_now() + $2 END,
		poll_at = CASE WHEN poll_at > polled_at + poll_interval THEN polled_at + poll_interval ELSE poll_at END
	WHERE id = $1 AND state = 'pending' AND flow = 'device' AND poll_interval > 0
	RETURNING poll_at - larkside_now()`

// Touch notes that the user of an open device consent has done something, and
// that a request may wait for it for so long. The next poll is due as soon as
// Lark's interval allows. It returns when that is. [session.ErrConflict] if the
// consent is not one of these.
func (l *ConsentLeases) Touch(ctx context.Context, id string, wait time.Duration) (next time.Duration, err error) {
	var millis int64
	err = l.db.GetContext(ctx, &millis, queryConsentTouch, id, wait.Milliseconds())
	if err := noRows(err, session.ErrConflict, "hastening a poll"); err != nil {
		return 0, err
	}
	return time.Duration(millis) * time.Millisecond, nil
}
