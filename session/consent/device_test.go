package consent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

func (w *world) approve(link, openID string) {
	w.T.Helper()
	if err := w.Lark.Approve(link, openID); err != nil {
		w.T.Fatal(err)
	}
}

func polls(w *world) []larktest.Call {
	return w.Lark.Calls(larktest.To(larktest.TokenEndpoint))
}

// The process ends while the user reads the card; another takes the consent up.
func TestDeviceSurvivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := dbtest.SQLite(t)
		w := newWorldOn(t, db, nil)
		before := w.replica(nil)
		stop := w.run(before)
		link := w.ask(before, alice).AuthorizeURL
		time.Sleep(7 * time.Second)
		stop()
		if err := before.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Store.Close()
		w.approve(link, larktest.Alice)

		w.Store = db.Open(t, nil)
		w.device(nil)
		w.awaitState(alice, session.ConsentDone)
		if _, err := w.Store.Sessions.Load(t.Context(), alice); err != nil {
			t.Error(err)
		}
		w.AwaitCard(alice.OpenID, texts.done.title.en)
	})
}

// A replica that dies while polling is replaced when its lease runs out.
func TestDevicePollTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		link := w.ask(f, alice).AuthorizeURL
		w.approve(link, larktest.Alice)
		time.Sleep(6 * time.Second)
		if _, err := w.Store.Consents.Leases.Claim(t.Context(), w.latest(alice).ID, pollLease); err != nil {
			t.Fatal(err)
		}
		w.run(f)
		time.Sleep(pollLease / 2)
		if n := len(polls(w)); n != 0 {
			t.Errorf("%d polls although another has the lease", n)
		}
		w.awaitState(alice, session.ConsentDone)
	})
}

// Of several replicas one polls, at the interval that Lark asked for, while a
// request waits.
func TestDevicePollInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		first := w.device(nil)
		w.device(nil)
		w.device(nil)
		if _, err := first.Ask(t.Context(), alice, session.ConsentRequest{Wait: time.Minute}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Second)
		calls := polls(w)
		if len(calls) < 11 || len(calls) > 12 {
			t.Errorf("%d polls in a minute, want one in 5 s", len(calls))
		}
		for i := 1; i < len(calls); i++ {
			if gap := calls[i].At.Sub(calls[i-1].At); gap < 5*time.Second {
				t.Errorf("polls %s apart", gap)
			}
		}
	})
}

// A consent of which nothing is heard is polled ever less often. Its user's next
// call, or a click on its card, brings a poll at once, but none sooner than Lark's
// interval allows.
func TestDeviceQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(func(c *Config) { c.Buttons = true })
		w.ask(f, alice)
		time.Sleep(2 * time.Minute)
		calls := polls(w)
		if len(calls) < 8 || len(calls) > 12 {
			t.Errorf("%d polls in two minutes", len(calls))
		}
		if first, last := calls[1].At.Sub(calls[0].At), calls[len(calls)-1].At.Sub(calls[len(calls)-2].At); first > 6*time.Second || last < 15*time.Second {
			t.Errorf("polls %s apart at first and %s at last", first, last)
		}
		for name, happens := range map[string]func(){
			"a call": func() { w.ask(f, alice) },
			"a click": func() {
				e := &lark.Event{ID: "ev_open", AppID: larktest.AppID, Type: "card.action.trigger", CreatedAt: time.Now(), Click: &lark.CardClick{
					OpenID: larktest.Alice, Value: map[string]string{"action": actionOpen, "consent": w.latest(alice).ID}}}
				if _, err := f.HandleEvent(t.Context(), e); err != nil {
					t.Error(err)
				}
			},
		} {
			w.Await("a pause between polls", func() bool {
				calls := polls(w)
				return time.Since(calls[len(calls)-1].At) > 6*time.Second
			})
			before := len(polls(w))
			happens()
			time.Sleep(time.Second)
			if n := len(polls(w)) - before; n != 1 {
				t.Errorf("%d polls after %s", n, name)
			}
			for range 30 {
				time.Sleep(100 * time.Millisecond)
				w.ask(f, alice)
			}
			if n := len(polls(w)) - before; n != 1 {
				t.Errorf("%d polls in 4 s after %s", n, name)
			}
			time.Sleep(40 * time.Second) // until it is quiet again
		}
		calls = polls(w)
		for i := 1; i < len(calls); i++ {
			if gap := calls[i].At.Sub(calls[i-1].At); gap < 5*time.Second {
				t.Errorf("polls %s apart", gap)
			}
		}
	})
}

// What happens while a poll is under way is not lost with it.
func TestDeviceTouchedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.ask(f, alice)
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20050, Hang: true})
		w.AwaitHit(slow)
		w.ask(f, alice)
		slow.Release()
		synctest.Wait()
		if p := w.latest(alice); !p.PollSoon {
			t.Errorf("the call is forgotten: %+v", p)
		}
	})
}

func TestDeviceSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.Lark.Fault(larktest.Fault{
			Endpoint: larktest.TokenEndpoint, Times: 2, Status: 400, Body: `{"error":"slow_down","error_description":"slow down","code":20087}`,
		})
		link := w.ask(f, alice).AuthorizeURL
		time.Sleep(50 * time.Second)
		var gaps []time.Duration
		calls := polls(w)
		for i := 1; i < len(calls); i++ {
			gaps = append(gaps, calls[i].At.Sub(calls[i-1].At).Round(time.Second))
		}
		if len(gaps) < 2 || gaps[0] != 10*time.Second || gaps[1] != 15*time.Second {
			t.Errorf("gaps: %v, want 10 s, 15 s", gaps)
		}
		w.approve(link, larktest.Alice)
		w.awaitState(alice, session.ConsentDone)
	})
}

// Lark does not answer for a while: polling goes on.
func TestDeviceLarkAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Drop: true, Times: 3})
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20050})
		link := w.ask(f, alice).AuthorizeURL
		w.approve(link, larktest.Alice)
		w.awaitState(alice, session.ConsentDone)
	})
}

func TestDeviceDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		if err := w.Lark.Decline(w.ask(f, alice).AuthorizeURL, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.awaitState(alice, session.ConsentDeclined)
		w.AwaitCard(alice.OpenID, texts.declined.title.en)
		w.noSession(alice)
		time.Sleep(5 * time.Minute)
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards without another call", n)
		}
		if c := w.ask(f, alice); c.Card != session.CardSent {
			t.Errorf("the next call: %+v", c)
		}
	})
}

func TestDeviceExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		old := w.ask(f, alice)
		time.Sleep(245 * time.Second)
		w.awaitState(alice, session.ConsentExpired)
		w.AwaitCard(alice.OpenID, texts.expired.title.en)
		if c := w.ask(f, alice); c.Card != session.CardSent || c.AuthorizeURL == old.AuthorizeURL {
			t.Errorf("the next call: %+v", c)
		}
	})
}

// Nobody closes it before Ask is called again.
func TestAskClosesExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		w.ask(f, alice)
		time.Sleep(5 * time.Minute)
		if c := w.ask(f, alice); c.Card != session.CardSent || c.ExpiresIn < time.Minute {
			t.Errorf("challenge: %+v", c)
		}
		w.Await("the old card", func() bool {
			return strings.Contains(w.Lark.Messages(larktest.Alice)[0].Content(), texts.expired.title.en)
		})
	})
}

func TestDeviceWrongAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Bob)
		p := w.awaitState(alice, session.ConsentFailed)
		if p.Reason != reasonWrongAccount {
			t.Errorf("reason: %s", p.Reason)
		}
		synctest.Wait()
		w.noSession(alice)
		w.noSession(bob)
		w.allRevoked(larktest.Bob)
		w.AwaitCard(alice.OpenID, texts.wrongAccount.title.en)
	})
}

// Lark fails to revoke at first.
func TestWrongAccountRevokedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.RevokeEndpoint, Status: 503, Times: 5})
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Bob)
		w.awaitState(alice, session.ConsentFailed)
		time.Sleep(time.Minute)
		w.allRevoked(larktest.Bob)
	})
}

// The consent ends while its tokens are being checked: they are revoked, and
// nothing is stored.
func TestFinishAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Hang: true})
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Alice)
		w.AwaitHit(held)
		if err := f.decline(t.Context(), w.latest(alice).ID, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		held.Release()
		synctest.Wait()
		w.noSession(alice)
		w.allRevoked(larktest.Alice)
		if p := w.latest(alice); p.State != session.ConsentDeclined {
			t.Errorf("the consent is %s", p.State)
		}
	})
}

// Tokens in hand outlive Lark's and the database's bad minutes.
func TestFinishRetriesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := dbtest.SQLite(t)
		w := newWorldOn(t, db, nil)
		f := w.device(nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Status: 502, Body: "bad gateway", Times: 4})
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Hang: true})
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Alice)
		w.AwaitHit(held)
		sql := db.SQL(t)
		if _, err := sql.Exec("ALTER TABLE sessions RENAME TO elsewhere"); err != nil {
			t.Fatal(err)
		}
		held.Release()
		time.Sleep(30 * time.Second)
		if p := w.latest(alice); p.State != session.ConsentPending {
			t.Errorf("the consent is %s although nothing could be stored", p.State)
		}
		if _, err := sql.Exec("ALTER TABLE elsewhere RENAME TO sessions"); err != nil {
			t.Fatal(err)
		}
		w.awaitState(alice, session.ConsentDone)
		if _, err := w.Store.Sessions.Load(t.Context(), alice); err != nil {
			t.Error(err)
		}
	})
}

// A shutdown lets what has tokens in hand store them.
func TestShutdownStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		stop := w.run(f)
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Hang: true})
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Alice)
		w.AwaitHit(held)
		stop()
		down := make(chan error)
		go func() { down <- f.Shutdown(t.Context()) }()
		synctest.Wait()
		held.Release()
		if err := <-down; err != nil {
			t.Error(err)
		}
		if _, err := w.Store.Sessions.Load(t.Context(), alice); err != nil {
			t.Error(err)
		}
		if _, err := f.Ask(t.Context(), bob, session.ConsentRequest{}); err == nil {
			t.Error("Ask is accepted after the shutdown")
		}
	})
}

func TestShutdownGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		stop := w.run(f)
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Hang: true, Times: -1})
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Alice)
		w.AwaitHit(held)
		stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Shutdown(ctx); err != nil {
			t.Errorf("tasks do not end when they are told to: %v", err)
		}
	})
}

// A token that is no bearer token is never stored.
func TestFinishTokenType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Skip: 0, Times: -1, Set: map[string]any{"token_type": "DPoP"}})
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Alice)
		if p := w.awaitState(alice, session.ConsentFailed); p.Reason != string(session.UnsupportedToken) {
			t.Errorf("reason: %s", p.Reason)
		}
		synctest.Wait()
		w.noSession(alice)
		w.allRevoked(larktest.Alice)
	})
}

// A card whose update fails is brought up to date later.
func TestCardUpdatedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.MessageUpdate, Status: 503, Times: 2})
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Alice)
		w.awaitState(alice, session.ConsentDone)
		w.AwaitCard(alice.OpenID, texts.done.title.en)
		// Lark has the card before the row says so.
		w.Await("the row saying what the card shows", func() bool { return w.latest(alice).CardShows == session.ConsentDone })
	})
}

func TestDecline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { c.Buttons = true })
		w.ask(f, alice)
		id := w.latest(alice).ID
		if err := f.decline(t.Context(), id, larktest.Bob); err == nil || w.latest(alice).State != session.ConsentPending {
			t.Errorf("another user declines: %v, %s", err, w.latest(alice).State)
		}
		if err := f.decline(t.Context(), id, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.AwaitCard(alice.OpenID, texts.declined.title.en)
		if err := f.decline(t.Context(), id, larktest.Alice); err == nil {
			t.Error("declining twice: no error")
		}
	})
}

func TestRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.approve(w.ask(f, alice).AuthorizeURL, larktest.Alice)
		w.awaitState(alice, session.ConsentDone)
		w.AwaitCard(alice.OpenID, texts.done.title.en)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.RevokeEndpoint, Drop: true})
		if err := f.Revoke(t.Context(), alice, session.Revoked); err != nil {
			t.Fatal(err)
		}
		got, err := w.Store.Sessions.Load(t.Context(), alice)
		if err != nil || !got.AccessToken.Empty() || !got.RefreshToken.Empty() || got.Reason != session.Revoked {
			t.Errorf("session: %+v, %v", got, err)
		}
		time.Sleep(time.Second)
		w.allRevoked(larktest.Alice)
		w.AwaitCard(alice.OpenID, texts.revoked.title.en)
		if err := f.Revoke(t.Context(), bob, session.Revoked); err == nil {
			t.Error("revoking nobody: no error")
		}
	})
}

// A commit whose answer was lost is recognised when it is tried again; another
// grant for a consent that is done is not.
func TestFinishRepeated(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		p, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "offline_access"}, time.Minute, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		grant := session.Session{Key: alice, AccessToken: session.NewSecret("first"), TokenType: "Bearer", GrantedAt: time.Now()}
		for range 2 {
			if got, err := s.Consents.Finish(t.Context(), p.ID, grant); err != nil || got.State != session.Active {
				t.Errorf("%+v, %v", got, err)
			}
		}
		grant.AccessToken = session.NewSecret("second")
		if _, err := s.Consents.Finish(t.Context(), p.ID, grant); !errors.Is(err, session.ErrConflict) {
			t.Errorf("a second grant: %v", err)
		}
		if got, err := s.Sessions.Load(t.Context(), alice); err != nil || got.AccessToken.Expose() != "first" {
			t.Errorf("stored: %v", err)
		}
	})
}
