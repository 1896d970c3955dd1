package store_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// remaining tells who of these has a session.
func remaining(t *testing.T, s *store.DB, keys ...session.Key) (there []string) {
	t.Helper()
	for _, k := range keys {
		if _, err := s.Sessions.Load(t.Context(), k); err == nil {
			there = append(there, k.OpenID)
		} else if !errors.Is(err, session.ErrNotFound) {
			t.Fatal(err)
		}
	}
	return there
}

func deleteUnusable(t *testing.T, s *store.DB, period time.Duration, limit int) []session.Session {
	t.Helper()
	deleted, err := s.Retention.DeleteUnusable(t.Context(), period, limit)
	if err != nil {
		t.Fatal(err)
	}
	return deleted
}

func endAs(t *testing.T, s *store.DB, key session.Key, state session.State) {
	t.Helper()
	row := load(t, s, key)
	l := claim(t, s, key, row.Version, time.Minute)
	if _, err := s.Leases.End(t.Context(), l, store.Ending{State: state, Reason: session.UserGone}); err != nil {
		t.Fatal(err)
	}
}

const day = 24 * time.Hour

// The time counts from the moment when a session could not be used any more,
// whatever is tried with it after that.
func TestUnusableSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dbtest.SQLite(t).Open(t, nil)
		key := func(id string) session.Key { return session.Key{AppID: alice.AppID, OpenID: id} }
		active, ended, gone, revoked, lapsed, short := key("active"), key("ended"), key("gone"), key("revoked"), key("lapsed"), key("short")
		for _, k := range []session.Key{active, ended, gone, revoked, lapsed, short} {
			g := grant(k, k.OpenID)
			if k == short { // Lark issued no refresh token
				g.RefreshToken, g.RefreshExpiresAt = session.Secret{}, time.Time{}
			}
			put(t, s, g)
		}
		time.Sleep(3 * time.Hour)
		endAs(t, s, ended, session.ConsentRequired)
		endAs(t, s, gone, session.Disabled)
		if _, err := s.Sessions.Revoke(t.Context(), revoked, session.Revoked); err != nil {
			t.Fatal(err)
		}
		for range 10 { // an app tries the disabled one again every hour, and the directory says the same every day
			time.Sleep(day)
			endAs(t, s, gone, session.Disabled)
			if err := s.Sessions.Disable(t.Context(), gone, session.UserGone); err != nil {
				t.Fatal(err)
			}
			row := load(t, s, active)
			if _, err := s.Leases.Replace(t.Context(), claim(t, s, active, row.Version, time.Minute), renewed("n")); err != nil {
				t.Fatal(err)
			}
		}
		if got := deleteUnusable(t, s, 10*day+time.Hour, 100); len(got) != 1 || got[0].OpenID != "short" {
			t.Errorf("after ten days and an hour: %+v", got)
		}
		time.Sleep(2 * time.Hour)
		deleteUnusable(t, s, 10*day+time.Hour, 100)
		if left := remaining(t, s, active, ended, gone, revoked, lapsed); len(left) != 2 {
			t.Errorf("left: %q", left)
		}
		time.Sleep(7 * day)
		deleteUnusable(t, s, 10*day+time.Hour, 100)
		if left := remaining(t, s, active, lapsed); len(left) != 1 || left[0] != "active" {
			t.Errorf("left: %q", left)
		}
	})
}

// Few rows are deleted at a time, the longest unusable first, and never one whose
// access token lives or that is being refreshed.
func TestDeleteUnusable(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		ahead := time.Duration(0)
		s := db.Open(t, func(c *store.Config) { c.Now = func() time.Time { return time.Now().Add(ahead) } })
		raw := db.SQL(t)
		old := func(id string, days int, expires time.Time) session.Key {
			k := session.Key{AppID: alice.AppID, OpenID: id}
			g := grant(k, id)
			g.ExpiresAt = expires
			put(t, s, g)
			endAs(t, s, k, session.ConsentRequired)
			at := time.Now().Add(-time.Duration(days) * day).UnixMilli()
			if _, err := raw.Exec(`UPDATE sessions SET usable_until = $1 WHERE open_id = $2`, at, id); err != nil {
				t.Fatal(err)
			}
			return k
		}
		past := time.Now().Add(-100 * day)
		a, b, c, fresh := old("a", 95, past), old("b", 94, past), old("c", 93, past), old("fresh", 89, past)
		living, leased := old("living", 200, time.Now().Add(time.Hour)), old("leased", 200, past)
		if _, err := raw.Exec(`UPDATE sessions SET lease_until = $1 WHERE open_id = 'leased'`, time.Now().Add(time.Minute).UnixMilli()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sessions.Access(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if n := len(deleteUnusable(t, s, 90*day, 4)); n != 2 { // of four, two are in use
			t.Errorf("%d deleted at first", n)
		}
		if left := remaining(t, s, a, b, c, living, leased, fresh); len(left) != 4 || left[0] != "c" {
			t.Errorf("left at first: %q", left)
		}
		if cached, _ := s.Sessions.Cached(a); cached != nil {
			t.Error("the deleted session is in the cache")
		}
		deleteUnusable(t, s, 90*day, 4)
		if left := remaining(t, s, c, living, leased, fresh); len(left) != 3 {
			t.Errorf("left: %q", left)
		}
		// A clock that has jumped ahead deletes nothing: the database's counts too.
		ahead = 1000 * day
		deleteUnusable(t, s, 90*day, 4)
		if left := remaining(t, s, fresh); len(left) != 1 {
			t.Error("a clock that is ahead deleted a session")
		}
	})
}

// The tokens of a user who left go, and a user who comes back is asked.
func TestDropTokens(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		bob := session.Key{AppID: alice.AppID, OpenID: "ou_bob"}
		put(t, s, grant(bob, "2"))
		if err := s.Sessions.Disable(t.Context(), alice, session.UserGone); err != nil {
			t.Fatal(err)
		}
		if err := s.Sessions.Disable(t.Context(), bob, session.UserNotPermitted); err != nil {
			t.Fatal(err)
		}
		left := func(period time.Duration) []session.Key {
			t.Helper()
			keys, err := s.Retention.Left(t.Context(), alice.AppID, period, 10)
			if err != nil {
				t.Fatal(err)
			}
			return keys
		}
		if keys := left(time.Minute); len(keys) != 0 {
			t.Errorf("at once: %v", keys)
		}
		if keys := left(-time.Minute); len(keys) != 1 || keys[0] != alice {
			t.Errorf("later: %v", keys)
		}
		before, err := s.Retention.DropTokens(t.Context(), alice)
		if err != nil || before.RefreshToken.Expose() != "refresh-1" || before.AccessToken.Expose() != "access-1" {
			t.Fatalf("%+v, %v", before, err)
		}
		row := load(t, s, alice)
		if row.State != session.Disabled || row.Reason != session.UserGone || !row.RefreshToken.Empty() || !row.AccessToken.Empty() || row.Profile.Name == "" {
			t.Errorf("dropped: %+v", row)
		}
		if keys := left(-time.Minute); len(keys) != 0 {
			t.Errorf("again: %v", keys)
		}
		if err := s.Sessions.Enable(t.Context(), alice, session.UserGone); err != nil {
			t.Fatal(err)
		}
		if row := load(t, s, alice); row.State != session.ConsentRequired || row.Reason != session.Revoked {
			t.Errorf("back again: %+v", row)
		}
		if _, err := s.Retention.DropTokens(t.Context(), alice); !errors.Is(err, session.ErrConflict) {
			t.Errorf("of a user who is back: %v", err)
		}
	})
}

// A refresh under way may find that the user is back.
func TestDropTokensWaitsForRefresh(t *testing.T) {
	s := dbtest.SQLite(t).Open(t, nil)
	put(t, s, grant(alice, "1"))
	if err := s.Sessions.Disable(t.Context(), alice, session.UserGone); err != nil {
		t.Fatal(err)
	}
	l := claim(t, s, alice, 1, time.Minute)
	if _, err := s.Retention.DropTokens(t.Context(), alice); !errors.Is(err, session.ErrConflict) {
		t.Errorf("%v", err)
	}
	if _, err := s.Leases.Replace(t.Context(), l, renewed("2")); err != nil {
		t.Fatal(err)
	}
	if row := load(t, s, alice); row.State != session.Active {
		t.Errorf("%+v", row)
	}
}

// One replica counts the sessions for all, and knows every state.
func TestSessionsByState(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		db.Shared = true
		s, other := db.Open(t, nil), db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		put(t, s, grant(session.Key{AppID: "cli_b", OpenID: "ou_bob"}, "2"))
		if err := s.Sessions.Disable(t.Context(), alice, session.UserGone); err != nil {
			t.Fatal(err)
		}
		got := s.Census(t.Context())
		if len(got) != 3 || got[session.Active] != 1 || got[session.Disabled] != 1 || got[session.ConsentRequired] != 0 {
			t.Errorf("%v", got)
		}
		if got := other.Census(t.Context()); got != nil {
			t.Errorf("another replica: %v", got)
		}
		if _, due := other.NewBacklog().Read(t.Context()); due != -1 {
			t.Errorf("another replica counts %d that are due", due)
		}
	})
}
