package store

import (
	"context"
	"errors"
	"time"

	"larkside/session"
)

// Cards keeps what became of the auth cards, and what they show.
type Cards struct {
	db     *database
	sealer *sealer
	owner  string // this process, random
}

const queryCardSet = `UPDATE consents SET card = $2, card_message_id = $3, card_shows = $4 WHERE id = $1`

// Set records what became of a consent's card.
func (c *Cards) Set(ctx context.Context, id string, card session.CardResult, messageID string, shows session.ConsentState) error {
	if _, err := c.db.ExecContext(ctx, queryCardSet, id, card, messageID, shows); err != nil {
		return unavailable(err, "storing a card")
	}
	return nil
}

const queryCardShows = `UPDATE consents SET card_shows = $2 WHERE id = $1`

// SetShows records which state a consent's card shows now.
func (c *Cards) SetShows(ctx context.Context, id string, shows session.ConsentState) error {
	if _, err := c.db.ExecContext(ctx, queryCardShows, id, shows); err != nil {
		return unavailable(err, "storing a card's state")
	}
	return nil
}

// The conditions on state and card are those of the index consents_cards_behind.
const queryCardsBehind = `SELECT ` + consentColumns + ` FROM consents
	WHERE state <> 'pending' AND card_message_id <> '' AND card_shows <> state
		AND changed_at > (SELECT larkside_now()) - $1 AND lease_until <= (SELECT larkside_now())
	ORDER BY changed_at LIMIT $2`

// Behind returns up to limit consents that were closed within the last period
// and whose card still shows an earlier state.
func (c *Cards) Behind(ctx context.Context, period time.Duration, limit int) ([]session.Consent, error) {
	return c.sealer.consents(ctx, "finding cards to update", queryCardsBehind, period.Milliseconds(), limit)
}

const queryCardClaim = `UPDATE consents SET lease_owner = $2, lease_until = larkside_now() + $3
	WHERE id = $1 AND card_shows <> state AND lease_until <= larkside_now()`

// Claim takes the right to update the card of a closed consent for ttl.
func (c *Cards) Claim(ctx context.Context, id string, ttl time.Duration) (bool, error) {
	result, err := c.db.ExecContext(ctx, queryCardClaim, id, c.owner, ttl.Milliseconds())
	if err = changedOne(result, err, "claiming a card"); errors.Is(err, session.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}
