package store_test

import (
	"errors"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// What a device consent's user does brings the next poll forward, and puts it
// before those of which nothing is heard; without that it comes ever later.
func TestPollIsBroughtForward(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		const interval = 50 * time.Millisecond
		begin := func(openID string) *session.Consent {
			p, _, err := s.Consents.Begin(t.Context(), session.Consent{
				Key: dbtest.Key(openID), Flow: session.DeviceFlow, Scopes: "x", Caller: "reports",
			}, time.Minute, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if p.Caller != "reports" {
				t.Errorf("caller: %q", p.Caller)
			}
			if err := s.Consents.SetLink(t.Context(), p, session.NewSecret("https://x"), session.NewSecret("code"), "", interval, time.Hour); err != nil {
				t.Fatal(err)
			}
			return p
		}
		polled := func(p *session.Consent) time.Duration {
			t.Helper()
			if _, err := s.Consents.Leases.Claim(t.Context(), p.ID, time.Minute); err != nil {
				t.Fatal(err)
			}
			next, err := s.Consents.Leases.Polled(t.Context(), p.ID, interval, time.Hour, 0)
			if err != nil {
				t.Fatal(err)
			}
			return next
		}
		first, second := begin("ou_first"), begin("ou_second")
		eventually(t, func() bool { return polled(first) > interval }) // it becomes quiet
		polled(second)
		next, err := s.Consents.Leases.Touch(t.Context(), second.ID, 0)
		if err != nil || next > interval {
			t.Errorf("the next poll of a touched one is in %v, %v", next, err)
		}
		eventually(t, func() bool {
			due, err := s.Consents.Leases.Due(t.Context(), 10)
			if err != nil {
				t.Fatal(err)
			}
			return len(due) == 2 && due[0] == (store.Due{ID: second.ID}) && due[1] == (store.Due{ID: first.ID, Quiet: true})
		})
		if next := polled(second); next > 2*interval {
			t.Errorf("just after that the next poll is in %v", next)
		}
		if _, err := s.Consents.Leases.Touch(t.Context(), first.ID, time.Hour); err != nil {
			t.Fatal(err)
		}
		// The statement's clock moves on until it returns what is left.
		if next := polled(first); next > interval || next < interval/2 {
			t.Errorf("while a request waits the next poll is in %v", next)
		}
		if _, err := s.Consents.Leases.Touch(t.Context(), "no such consent", 0); !errors.Is(err, session.ErrConflict) {
			t.Errorf("no consent: %v", err)
		}
		if n, err := s.Consents.History.PendingBy(t.Context(), "reports"); err != nil || n != (store.Pending{All: 2, Theirs: 2}) {
			t.Errorf("pending: %+v, %v", n, err)
		}
	})
}

// A call that one of the limits does not count leaves room for those that it
// counts.
func TestRateCountsKinds(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		limit := func(n int) session.Limit { return session.Limit{N: n, Period: time.Minute} }
		all, polls := []session.Limit{limit(10), {Period: time.Minute}}, []session.Limit{limit(10), limit(4)}
		take := func(limits []session.Limit, n int) int {
			admitted, _, err := s.Rates.Take(t.Context(), "token", limits, n)
			if err != nil {
				t.Fatal(err)
			}
			return admitted
		}
		if a, b, c, d := take(all, 3), take(polls, 9), take(polls, 1), take(all, 9); a != 3 || b != 4 || c != 0 || d != 3 {
			t.Errorf("admitted %d, %d polls, %d more, %d", a, b, c, d)
		}
		if used, err := s.Rates.Used(t.Context(), "token", all); err != nil || used[0] != 10 || used[1] != 0 {
			t.Errorf("used %v, %v", used, err)
		}
	})
}

// eventually asks done, which asks the database, until it is.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s")
		}
	}
}
