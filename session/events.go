package session

import (
	"context"
	"time"
)

// NoteEvent records that the event of an app with this id is being handled, and
// reports whether it is for the first time: of several deliveries, to whichever
// replica, one is. What was noted is forgotten after keep.
func (s *Store) NoteEvent(ctx context.Context, appID, id string, keep time.Duration) (first bool, err error) {
	result, err := s.db.ExecContext(ctx, queryEventInsert, appID+" "+id, keep.Milliseconds())
	if err != nil {
		return false, unavailable(err, "noting an event")
	}
	n, err := result.RowsAffected()
	if err != nil {
		return false, unavailable(err, "noting an event")
	}
	return n == 1, nil
}

// UnnoteEvent takes [Store.NoteEvent] back for an event that could not be
// handled, so that its next delivery is.
func (s *Store) UnnoteEvent(ctx context.Context, appID, id string) error {
	if _, err := s.db.ExecContext(ctx, queryEventDelete, appID+" "+id); err != nil {
		return unavailable(err, "forgetting an event")
	}
	return nil
}

// ForgetEvents deletes the ids whose time is over.
func (s *Store) ForgetEvents(ctx context.Context) error {
	if _, err := s.db.ExecContext(ctx, queryEventForget); err != nil {
		return unavailable(err, "deleting old events")
	}
	return nil
}
