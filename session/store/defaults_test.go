package store_test

import (
	"errors"
	"testing"

	"larkside/session"
	"larkside/test/dbtest"
)

// The default user outlives the process, is sealed anew with the rest, and can't be
// replaced by someone who writes to the database without the key.
func TestDefaultUser(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		if _, err := s.Defaults.Get(t.Context(), user(1).AppID); !errors.Is(err, session.ErrNotFound) {
			t.Fatalf("before anybody has signed in: %v", err)
		}
		for _, key := range []session.Key{user(1), user(2)} {
			if err := s.Defaults.Set(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Defaults.Get(t.Context(), key.AppID); err != nil || got != key {
				t.Errorf("%v, %v", got, err)
			}
		}
		if _, err := s.Defaults.Get(t.Context(), "cli_other"); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("of another app: %v", err)
		}
		if _, err := db.SQL(t).ExecContext(t.Context(), `UPDATE default_users SET open_id = $1`, user(1).OpenID); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Defaults.Get(t.Context(), user(1).AppID); !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("a row that was changed: %v, %v", got, err)
		}
		if err := s.Defaults.Set(t.Context(), user(1)); err != nil {
			t.Errorf("signing in again: %v", err)
		}
	})
}
