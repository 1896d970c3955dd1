package consent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// entries are the audit trail's, as "action open_id", the newest first.
func (w *world) entries(actor string) (list []string) {
	w.T.Helper()
	all, err := w.Store.Audit.List(w.T.Context(), "", store.AuditFilter{}, 100)
	if err != nil {
		w.T.Fatal(err)
	}
	for _, e := range all {
		if e.Actor == actor {
			list = append(list, string(e.Action)+" "+e.OpenID)
		}
	}
	return list
}

// retire waits for d, has each replica look after what can't be used any more,
// and waits for what is tried again. A minute passes at least.
func (w *world) retire(d time.Duration, flows ...*Manager) {
	w.T.Helper()
	time.Sleep(d)
	for _, f := range flows {
		f.startRetiring(w.T.Context())
	}
	time.Sleep(time.Minute)
}

func keepFor(period time.Duration) func(*Config) { return func(c *Config) { c.Keep = period } }

// A user who left keeps the tokens for a day, in case that the directory was
// mistaken. Then they are revoked at Lark, once by all replicas, and dropped. The
// session itself is deleted when it is as old as that is kept.
func TestWhoLeftLosesTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, g := w.replica(keepFor(30*day)), w.replica(keepFor(30*day))
		dbtest.Seed(t, w.Store, w.Lark, time.Now(), larktest.Alice, larktest.Bob)
		if err := w.Store.Sessions.Disable(t.Context(), alice, session.UserGone); err != nil {
			t.Fatal(err)
		}
		w.retire(day-2*time.Minute, f, g)
		if w.Row(alice).RefreshToken.Empty() || len(w.Lark.Calls(larktest.To(larktest.RevokeEndpoint))) != 0 {
			t.Fatal("dropped within the day")
		}
		w.retire(5*time.Minute, f, g)
		row := w.Row(alice)
		if !row.RefreshToken.Empty() || !row.AccessToken.Empty() || row.State != session.Disabled {
			t.Errorf("after the day: %+v", row)
		}
		w.allRevoked(larktest.Alice)
		if n := len(w.Lark.Calls(larktest.To(larktest.RevokeEndpoint))); n != 2 {
			t.Errorf("%d calls, want one for each token", n)
		}
		if w.Row(bob).RefreshToken.Empty() {
			t.Error("another user's tokens are gone")
		}
		if got := w.entries(store.ByLarkside); len(got) != 1 || got[0] != "revoke "+larktest.Alice {
			t.Errorf("audit: %q", got)
		}
		w.retire(30*day, f, g)
		w.noSession(alice)
		if got := w.entries(store.ByLarkside); len(got) != 2 || got[0] != "purge "+larktest.Alice {
			t.Errorf("audit: %q", got)
		}
		// Who left and was forgotten is asked like anybody else.
		if c := w.ask(f, alice); c.AuthorizeURL == "" {
			t.Errorf("a forgotten user: %+v", c)
		}
	})
}

// While Lark takes no revocation, one user's tokens are given up for it and not
// all: the others keep theirs until it answers again.
func TestDroppingWaitsForLark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		var keys []session.Key
		for range 5 {
			id := w.Lark.AddUser(larktest.User{Name: "One of five"})
			keys = append(keys, dbtest.Key(id))
			dbtest.Seed(t, w.Store, w.Lark, time.Now(), id)
			if err := w.Store.Sessions.Disable(t.Context(), dbtest.Key(id), session.UserGone); err != nil {
				t.Fatal(err)
			}
		}
		withTokens := func() (n int) {
			for _, k := range keys {
				if !w.Row(k).RefreshToken.Empty() {
					n++
				}
			}
			return n
		}
		down := w.Lark.Fault(larktest.Fault{Endpoint: larktest.RevokeEndpoint, Status: 500, Times: -1})
		f := w.replica(keepFor(30 * day))
		w.retire(day+time.Minute, f)
		w.retire(30*time.Minute, f)
		if n := withTokens(); n != 4 {
			t.Errorf("%d have their tokens while Lark fails", n)
		}
		down.Remove()
		w.retire(time.Hour, f)
		if n := withTokens(); n != 0 {
			t.Errorf("%d have their tokens after Lark has answered", n)
		}
		if !strings.Contains(w.Log.String(), "can't revoke a token at Lark") {
			t.Error("what Lark did not take is not in the log")
		}
	})
}

// Run has it done, by the replica that leads.
func TestRunRetires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		dbtest.Seed(t, w.Store, w.Lark, time.Now(), larktest.Alice)
		if err := w.Store.Sessions.Disable(t.Context(), alice, session.UserGone); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * day)
		w.device(nil)
		w.device(nil)
		w.allRevoked(larktest.Alice)
		time.Sleep(2 * retireTick)
		if n := len(w.Lark.Calls(larktest.To(larktest.RevokeEndpoint))); n != 2 {
			t.Errorf("%d calls, want one for each token", n)
		}
	})
}

// With a short retention tokens may live on when a session is deleted.
func TestDeletedSessionsAreRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(keepFor(3 * time.Hour))
		dbtest.Seed(t, w.Store, w.Lark, time.Now(), larktest.Alice, larktest.Bob)
		if err := w.Store.Sessions.Disable(t.Context(), alice, session.UserNotPermitted); err != nil {
			t.Fatal(err)
		}
		w.retire(6*time.Hour, f)
		w.noSession(alice)
		if calls := w.Lark.Calls(larktest.To(larktest.RevokeEndpoint)); len(calls) != 1 {
			t.Errorf("%d calls, want one: the access token has expired", len(calls))
		}
		if w.Row(bob).State != session.Active {
			t.Error("an active session was touched")
		}
	})
}

// A purge leaves nothing about a user but the audit trail, here and at Lark.
func TestPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		if err := w.Lark.Approve(w.ask(f, alice).AuthorizeURL, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.awaitState(alice, session.ConsentDone)
		if err := w.Store.Defaults.Set(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		dbtest.Seed(t, w.Store, w.Lark, time.Now(), larktest.Bob)
		var purged []Purged
		if err := f.Purge(t.Context(), []session.Key{alice, dbtest.Key("ou_nobody")}, func(p Purged) { purged = append(purged, p) }); err != nil {
			t.Fatal(err)
		}
		if len(purged) != 1 || purged[0] != (Purged{Key: alice, Deleted: true, Revoked: true, Consents: 1}) {
			t.Errorf("%+v", purged)
		}
		w.noSession(alice)
		w.allRevoked(larktest.Alice)
		w.AwaitCard(larktest.Alice, texts.revoked.title.en)
		if list, err := w.Store.Consents.History.List(t.Context(), "", store.ConsentFilter{Key: alice}, 10); err != nil || len(list) != 0 {
			t.Errorf("consents: %+v, %v", list, err)
		}
		if who, err := w.Store.Defaults.Get(t.Context(), alice.AppID); err == nil {
			t.Errorf("the default user is %v", who)
		}
		if w.Row(bob).State != session.Active {
			t.Error("another user's session was touched")
		}
	})
}

// Who consents anew while they are purged keeps that.
func TestPurgeKeepsNewConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		dbtest.Seed(t, w.Store, w.Lark, time.Now(), larktest.Alice)
		var purged []Purged
		done := make(chan error)
		go func() {
			done <- f.Purge(t.Context(), []session.Key{alice}, func(p Purged) { purged = append(purged, p) })
		}()
		time.Sleep(purgeSettle / 2)
		dbtest.Seed(t, w.Store, w.Lark, time.Now(), larktest.Alice)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(purged) != 1 || purged[0].Deleted || w.Row(alice).State != session.Active {
			t.Errorf("%+v, %+v", purged, w.Row(alice))
		}
	})
}
