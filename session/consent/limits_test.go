package consent

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

func twoCallers(c *Config) { c.Callers = func() int { return 2 } }

// flood asks for n made-up users in each second, in the name of caller, until
// stop is called.
func (w *world) flood(f *Manager, caller string, n int) (stop func()) {
	done := make(chan struct{})
	var gone sync.WaitGroup
	gone.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(time.Second / time.Duration(n)):
			}
			gone.Go(func() {
				f.Ask(w.T.Context(), dbtest.Key(fmt.Sprintf("ou_%032d", i)), session.ConsentRequest{Caller: caller})
			})
		}
	})
	return func() { close(done); gone.Wait() }
}

// person adds a user whom Lark knows.
func (w *world) person(i int) session.Key {
	return dbtest.Key(w.Lark.AddUser(larktest.User{OpenID: fmt.Sprintf("ou_person%d", i), Name: fmt.Sprintf("Person %d", i)}))
}

// A caller that makes up user ids, 110 in each second, stops nobody else's
// consents. What Lark does not know costs the one who sent it.
func TestEachCallerHasConsents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, other := w.replica(twoCallers), w.replica(twoCallers)
		seconds := 60
		if raceDetector {
			seconds = 15 // test/run does all 60 without it
		}
		stop := w.flood(f, "greedy", 110)
		for i := range seconds {
			time.Sleep(time.Second)
			c, err := []*Manager{f, other}[i%2].Ask(t.Context(), w.person(i), session.ConsentRequest{Caller: "modest"})
			if err != nil || c.AuthorizeURL == "" || c.Card != session.CardSent {
				t.Errorf("after %d s: %+v, %v", i+1, c, err)
			}
		}
		stop()
		// Of the greedy one's part, 450 in a minute, each unknown id costs ten.
		if n := len(w.Lark.Calls(larktest.To(larktest.DeviceEndpoint))) - seconds; n < seconds/3 || n > 100 {
			t.Errorf("%d consents were started for made-up ids", n)
		}
	})
}

// A caller whose starts hang at Lark leaves slots to the others.
func TestEachCallerHasSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { twoCallers(c); c.MaxStarting = 4 })
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Hang: true, Times: 2})
		var gone sync.WaitGroup
		limited := 0
		var mu sync.Mutex
		for i := range 4 {
			who := w.person(i)
			gone.Go(func() {
				c, _ := f.Ask(t.Context(), who, session.ConsentRequest{Caller: "greedy"})
				mu.Lock()
				defer mu.Unlock()
				if c.Card == session.CardRateLimited {
					limited++
				}
			})
		}
		time.Sleep(time.Second)
		if c, err := f.Ask(t.Context(), alice, session.ConsentRequest{Caller: "modest"}); err != nil || c.Card != session.CardSent {
			t.Errorf("another caller: %+v, %v", c, err)
		}
		time.Sleep(slotWait)
		slow.Release()
		gone.Wait()
		if limited != 2 {
			t.Errorf("%d of 4 starts were told to come back, want 2", limited)
		}
	})
}

// No caller can have all the open consents that there may be.
func TestEachCallerHasPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { twoCallers(c); c.MaxPending = 4 })
		for i := range 3 {
			c, err := f.Ask(t.Context(), w.person(i), session.ConsentRequest{Caller: "greedy"})
			if limited := c.Card == session.CardRateLimited; err != nil || limited != (i == 2) {
				t.Errorf("consent %d: %+v, %v", i, c, err)
			}
		}
		if c, err := f.Ask(t.Context(), alice, session.ConsentRequest{Caller: "modest"}); err != nil || c.Card != session.CardSent {
			t.Errorf("another caller: %+v, %v", c, err)
		}
	})
}

// The callers of one user share the consent, but not the refusal.
func TestCallersShareOneConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(twoCallers)
		var gone sync.WaitGroup
		links := make(chan string, 2)
		for _, caller := range []string{"one", "two"} {
			gone.Go(func() {
				c, err := f.Ask(t.Context(), alice, session.ConsentRequest{Caller: caller})
				if err != nil {
					t.Error(err)
				}
				links <- c.AuthorizeURL
			})
		}
		gone.Wait()
		if a, b := <-links, <-links; a != b || a == "" || w.cards(larktest.Alice) != 1 {
			t.Errorf("links %q and %q, %d cards", a, b, w.cards(larktest.Alice))
		}
	})
}

// In the redirect flow a link costs Lark nothing. So it is given even when no
// message can be sent, and the card comes with a later call.
func TestLinkAlthoughTheCardWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(redirect)
		for i := range 40 { // as many messages as may be sent in a second
			w.ask(f, w.person(i))
		}
		c := w.ask(f, alice)
		if c.Card != session.CardRateLimited || !strings.HasPrefix(c.AuthorizeURL, public+startPath) || w.cards(larktest.Alice) != 0 {
			t.Errorf("without a message: %+v, %d cards", c, w.cards(larktest.Alice))
		}
		if again := w.ask(f, alice); again != c {
			t.Errorf("at once: %+v, want %+v", again, c)
		}
		time.Sleep(2 * time.Second)
		if again := w.ask(f, alice); again.Card != session.CardSent || again.AuthorizeURL != c.AuthorizeURL || w.cards(larktest.Alice) != 1 {
			t.Errorf("later: %+v, %d cards", again, w.cards(larktest.Alice))
		}
		b := w.browser(f)
		wantPage(t, b.get(b.consent(b.open(c.AuthorizeURL), larktest.Alice)), 200, texts.done)
	})
}

// Consents without a card are bounded more tightly, since their users may not
// exist. A sole caller's made-up ids don't take its real users' links away.
func TestCardlessIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { redirect(c); c.MaxPending = 400 })
		stop := w.flood(f, "", 110)
		time.Sleep(10 * time.Second)
		stop()
		n, err := w.Store.Consents.History.PendingBy(t.Context(), "")
		if err != nil || n.WithoutCard != 100 || n.All != 100 {
			t.Errorf("open: %+v, %v", n, err)
		}
		time.Sleep(time.Minute)
		if c := w.ask(f, alice); c.AuthorizeURL == "" || c.Card != session.CardSent {
			t.Errorf("a real user: %+v", c)
		}
	})
}
