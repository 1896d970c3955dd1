package store

import (
	"context"
	"time"
)

// Events remembers which of Lark's events are handled: Lark sends an event
// again when it is in doubt.
type Events struct{ db *database }

// An id that has expired counts as new.
const queryEventInsert = `INSERT INTO events (id, expires_at) VALUES ($1, larkside_now() + $2)
	ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at WHERE events.expires_at <= larkside_now()`

// Note records that an app's event with this id is being handled. first is true
// for one of all deliveries, whichever replicas they reach. The id is forgotten
// after keep.
func (e *Events) Note(ctx context.Context, appID, id string, keep time.Duration) (first bool, err error) {
	result, err := e.db.ExecContext(ctx, queryEventInsert, appID+" "+id, keep.Milliseconds())
	if err != nil {
		return false, unavailable(err, "noting an event")
	}
	n, err := result.RowsAffected()
	if err != nil {
		return false, unavailable(err, "noting an event")
	}
	return n == 1, nil
}

const queryEventDelete = `DELETE FROM events WHERE id = $1`

// Unnote takes [Events.Note] back for an event that could not be handled, so
// that its next delivery is handled.
func (e *Events) Unnote(ctx context.Context, appID, id string) error {
	if _, err := e.db.ExecContext(ctx, queryEventDelete, appID+" "+id); err != nil {
		return unavailable(err, "forgetting an event")
	}
	return nil
}

const (
	queryEventForgetUpTo = `SELECT expires_at FROM events WHERE expires_at <= $1 ORDER BY expires_at LIMIT 1 OFFSET $2`
	queryEventForget     = `DELETE FROM events WHERE expires_at <= $1`
)

// Forget deletes the ids that have expired.
func (e *Events) Forget(ctx context.Context) error {
	now, err := e.db.now(ctx)
	if err != nil {
		return unavailable(err, "deleting old events")
	}
	return forget(ctx, e.db, "deleting old events", queryEventForgetUpTo, queryEventForget, now)
}
