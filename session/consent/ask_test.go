package consent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// askTogether asks n times at once for one user, spread over the flows, and
// checks that there is one consent, one card and one link.
func (w *world) askTogether(flows []*Manager, key session.Key, n int) {
	w.T.Helper()
	var (
		mu    sync.Mutex
		sent  int
		links = map[string]int{}
		gone  sync.WaitGroup
		start = make(chan struct{})
	)
	for i := range n {
		gone.Go(func() {
			<-start
			c, err := flows[i%len(flows)].Ask(w.T.Context(), key, session.ConsentRequest{Reason: session.NoSession})
			mu.Lock()
			defer mu.Unlock()
			links[c.AuthorizeURL]++
			if c.Card == session.CardSent {
				sent++
			} else if c.Card != session.CardAlreadySent || err != nil {
				w.T.Errorf("challenge %+v, %v", c, err)
			}
		})
	}
	close(start)
	gone.Wait()
	if len(links) != 1 || links[""] != 0 {
		w.T.Errorf("%d different links: %v", len(links), links)
	}
	if n := w.cards(key.OpenID); n != 1 || sent != 1 {
		w.T.Errorf("%d messages, %d callers were told that one was sent", n, sent)
	}
	if n := len(w.Lark.Calls(larktest.To(larktest.DeviceEndpoint))); n != 1 {
		w.T.Errorf("%d device flows were started", n)
	}
}

func TestAskTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.askTogether([]*Manager{w.replica(nil), w.replica(nil), w.replica(nil), w.replica(nil)}, alice, 1000)
	})
}

func TestAskTogetherOverReplicas(t *testing.T) {
	db := dbtest.Postgres(t)
	w := newWorldOn(t, db, nil)
	var flows []*Manager
	for range 4 {
		replica := db.Open(t, nil)
		flows = append(flows, w.replica(func(c *Config) { c.use(replica) }))
	}
	w.askTogether(flows, alice, 1000)
}

// Users do not wait for, or see, one another.
func TestAskManyUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { c.MaxStarting = 2 })
		var gone sync.WaitGroup
		for _, key := range []session.Key{alice, bob, dbtest.Key(larktest.Carol)} {
			gone.Go(func() { w.ask(f, key) })
		}
		gone.Wait()
		for _, key := range []session.Key{alice, bob, dbtest.Key(larktest.Carol)} {
			if got := w.latest(key); got.OpenID != key.OpenID || w.cards(key.OpenID) != 1 {
				t.Errorf("%s: %d cards", key.OpenID, w.cards(key.OpenID))
			}
		}
	})
}

// A replica dies after it has claimed a consent: nobody else starts one while
// its lease runs, somebody does after that, and the user gets one card.
func TestAskTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		if _, _, err := w.Store.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "offline_access"}, startLease, time.Minute); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if c := w.ask(f, alice); c.AuthorizeURL != "" || c.Card != session.CardFailed || time.Since(began) > askWait {
			t.Errorf("while another is at it: %+v after %s", c, time.Since(began))
		}
		time.Sleep(startLease)
		if c := w.ask(f, alice); c.AuthorizeURL == "" || c.Card != session.CardSent {
			t.Errorf("after its lease: %+v", c)
		}
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards", n)
		}
	})
}

// A replica dies between the link and the card: the card is sent by another,
// with the uuid that it would have had.
func TestAskSendsMissingCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		p, _, err := w.Store.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "offline_access"}, startLease, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.giveLink(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if c := w.ask(f, alice); c.Card != session.CardAlreadySent || w.cards(larktest.Alice) != 0 {
			t.Errorf("at once: %+v, %d cards", c, w.cards(larktest.Alice))
		}
		time.Sleep(cardGrace)
		if c := w.ask(f, alice); c.Card != session.CardSent || c.AuthorizeURL != p.Link.Expose() {
			t.Errorf("after a while: %+v", c)
		}
		if m := w.Lark.Messages(larktest.Alice); len(m) != 1 || m[0].UUID != "larkside-"+p.ID {
			t.Errorf("messages: %+v", m)
		}
	})
}

// A caller that hangs up while Lark is slow leaves no half-started consent.
func TestAskCallerHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Hang: true})
		ctx, hangUp := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { _, err := f.Ask(ctx, alice, session.ConsentRequest{}); left <- err }()
		w.AwaitHit(slow)
		hangUp()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller got %v", err)
		}
		slow.Release()
		synctest.Wait()
		if p := w.latest(alice); p.Link.Empty() || p.Card != session.CardSent {
			t.Errorf("the consent was left at %+v", p)
		}
	})
}

func TestAskLarkDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Drop: true, Times: -1})
		for range 3 {
			if c := w.ask(f, alice); c.AuthorizeURL != "" || c.Card != session.CardFailed || c.RetryAfter <= 0 {
				t.Errorf("challenge: %+v", c)
			}
		}
		if n := strings.Count(w.Log.String(), "can't start a consent"); n != 1 {
			t.Errorf("%d log lines:\n%s", n, w.Log.String())
		}
		w.Lark.ClearFaults()
		if c := w.ask(f, alice); c.AuthorizeURL == "" || c.Card != session.CardSent {
			t.Errorf("when Lark is back: %+v", c)
		}
	})
}

func TestAskAppRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Secret = "another" })
		_, err := f.Ask(t.Context(), alice, session.ConsentRequest{})
		var after *session.RetryError
		if !errors.Is(err, session.ErrAppMisconfigured) || !errors.As(err, &after) || after.After <= 0 {
			t.Errorf("error: %v", err)
		}
		if w.cards(larktest.Alice) != 0 {
			t.Error("a card was sent")
		}
	})
}

func TestAskUnknownApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil).replica(nil)
		if _, err := f.Ask(t.Context(), session.Key{AppID: "cli_other", OpenID: larktest.Alice}, session.ConsentRequest{}); err == nil {
			t.Error("no error")
		}
	})
}

// Whom Lark doesn't know is not asked again and again.
func TestAskUnknownUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		nobody := dbtest.Key("ou_00000000000000000000000000000000")
		for range 5 {
			if c := w.ask(f, nobody); c.AuthorizeURL != "" || c.Card != session.CardFailed || c.RetryAfter < time.Minute {
				t.Errorf("challenge: %+v", c)
			}
		}
		if n := len(w.Lark.Calls(larktest.To(larktest.DeviceEndpoint))); n != 1 {
			t.Errorf("%d device flows were started", n)
		}
		if p, err := w.Store.Consents.Latest(t.Context(), nobody); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("something is kept of nobody: %+v %v", p, err)
		}
	})
}

// Ids that are made up can't use up the messages that Lark takes in a minute.
func TestAskIsLimitedPerApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, other := w.replica(nil), w.replica(nil)
		limited := 0
		for i := range 100 {
			from := f
			if i%2 == 1 {
				from = other
			}
			c, err := from.Ask(t.Context(), dbtest.Key(fmt.Sprintf("ou_%032d", i)), session.ConsentRequest{Reason: session.NoSession})
			switch {
			case err != nil:
				t.Fatal(err)
			case c.Card == session.CardRateLimited && c.AuthorizeURL == "" && c.RetryAfter >= time.Second:
				limited++
			}
		}
		if started := len(w.Lark.Calls(larktest.To(larktest.DeviceEndpoint))); limited != 60 || started != 40 {
			t.Errorf("%d of 100 at one moment were started, %d told to come back", started, limited)
		}
		time.Sleep(2 * time.Second)
		if c := w.ask(f, alice); c.Card != session.CardSent {
			t.Errorf("a second later: %+v", c)
		}
	})
}

// A caller who looked just before the user authorized, and asks just after, does
// not start a second consent.
func TestAskTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		if err := w.Lark.Approve(w.ask(f, alice).AuthorizeURL, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.awaitState(alice, session.ConsentDone)
		if _, err := f.Ask(t.Context(), alice, session.ConsentRequest{Reason: session.NoSession}); !errors.Is(err, session.ErrConflict) {
			t.Errorf("got %v", err)
		}
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards", n)
		}
	})
}

// A card that can't be delivered leaves the link.
func TestAskUndeliverable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.Lark.UpdateUser(larktest.Alice, func(u *larktest.User) { u.BotMuted = true })
		c := w.ask(f, alice)
		if c.AuthorizeURL == "" || c.Card != session.CardFailed {
			t.Errorf("challenge: %+v", c)
		}
		if again := w.ask(f, alice); again.AuthorizeURL != c.AuthorizeURL || again.Card != session.CardFailed {
			t.Errorf("second challenge: %+v", again)
		}
		if err := w.Lark.Approve(c.AuthorizeURL, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.awaitState(alice, session.ConsentDone)
		time.Sleep(justGranted)
		if again := w.ask(f, alice); again.AuthorizeURL == "" || again.Card != session.CardFailed {
			t.Errorf("the next consent: %+v", again)
		}
		if n := len(w.Lark.Calls(larktest.To(larktest.MessageSend))); n != 1 {
			t.Errorf("%d tries to send", n)
		}
	})
}

func TestAskCardRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.MessageSend, Processed: true, Drop: true})
		if c := w.ask(w.replica(nil), alice); c.Card != session.CardSent {
			t.Errorf("challenge: %+v", c)
		}
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards", n)
		}
	})
}

func TestAskCardOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { c.CardOff = true })
		for range 2 {
			if c := w.ask(f, alice); c.Card != session.CardOff || c.AuthorizeURL == "" {
				t.Errorf("challenge: %+v", c)
			}
		}
		if w.cards(larktest.Alice) != 0 {
			t.Error("a card was sent")
		}
	})
}

func TestAskRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { c.Rate = session.Limit{N: 2, Period: time.Minute} })
		for range 2 {
			w.ask(f, alice)
			if err := f.decline(t.Context(), w.latest(alice).ID, larktest.Alice); err != nil {
				t.Fatal(err)
			}
		}
		if c := w.ask(f, alice); c.AuthorizeURL != "" || c.Card != session.CardRateLimited || c.RetryAfter <= 0 {
			t.Errorf("beyond the rate: %+v", c)
		}
		if c := w.ask(f, bob); c.Card != session.CardSent {
			t.Errorf("another user: %+v", c)
		}
		time.Sleep(time.Minute)
		link := w.ask(f, alice).AuthorizeURL
		w.ask(f, alice, "im:message") // supersedes: the second of this minute
		open := w.ask(f, alice)
		if wider := w.ask(f, alice, "docx:document"); wider.AuthorizeURL != open.AuthorizeURL || wider.AuthorizeURL == link ||
			wider.Card != session.CardAlreadySent {
			t.Errorf("beyond the rate with one open: %+v", wider)
		}
	})
}

func TestAskMaxPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { c.MaxPending = 1 })
		w.ask(f, alice)
		if c := w.ask(f, bob); c.AuthorizeURL != "" || c.Card != session.CardRateLimited || c.RetryAfter <= 0 {
			t.Errorf("challenge: %+v", c)
		}
	})
}

func TestAskMaxStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { c.MaxStarting = 1 })
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Hang: true})
		first := make(chan session.Challenge)
		go func() { first <- w.ask(f, alice) }()
		w.AwaitHit(slow)
		if c := w.ask(f, bob); c.Card != session.CardRateLimited || c.RetryAfter <= 0 {
			t.Errorf("while one is starting: %+v", c)
		}
		slow.Release()
		if c := <-first; c.Card != session.CardSent {
			t.Errorf("the slow one: %+v", c)
		}
	})
}

// More scopes than the open consent asks for: it is replaced by one for all of
// them, and what is granted for the old one is not stored.
func TestAskSupersedes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		old := w.ask(f, alice, "im:message")
		first := w.latest(alice)
		wider := w.ask(f, alice, "docx:document")
		if wider.AuthorizeURL == old.AuthorizeURL || wider.Card != session.CardSent {
			t.Errorf("challenge: %+v", wider)
		}
		if got := w.latest(alice).Scopes; got != "docx:document offline_access im:message" {
			t.Errorf("the new consent asks for %q", got)
		}
		if narrower := w.ask(f, alice, "im:message"); narrower.AuthorizeURL != wider.AuthorizeURL {
			t.Errorf("what is covered starts another: %+v", narrower)
		}
		w.Await("the old card", func() bool {
			return strings.Contains(w.Lark.Messages(larktest.Alice)[0].Content(), texts.superseded.title.en)
		})
		if p, _ := w.Store.Consents.Get(t.Context(), first.ID); p.State != session.ConsentSuperseded {
			t.Errorf("the old consent is %s", p.State)
		}
		if err := w.Lark.Approve(old.AuthorizeURL, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.noSession(alice)
	})
}

// Callers of one user who want different scopes at the same time end with one
// open consent that covers them all.
func TestAskTogetherForDifferentScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		var gone sync.WaitGroup
		for _, scope := range []string{"im:message", "docx:document"} {
			gone.Go(func() { w.ask(f, alice, scope) })
		}
		gone.Wait()
		if p := w.latest(alice); !parseScopes(p.Scopes).covers(scopes{"im:message", "docx:document"}) || p.State != session.ConsentPending {
			t.Errorf("%s consent for %s", p.State, p.Scopes)
		}
	})
}

func TestAskStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		w.Store.Close()
		c, err := f.Ask(t.Context(), alice, session.ConsentRequest{})
		if !errors.Is(err, session.ErrUnavailable) || c.Card != session.CardFailed {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		p, c, err := f.Start(t.Context(), alice, []string{"im:message"})
		if err != nil || p.OpenID != larktest.Alice || p.Scopes != "im:message offline_access" || c.Card != session.CardSent || p.Card != session.CardSent {
			t.Errorf("%+v, %+v, %v", p, c, err)
		}
	})
}

func TestConfigRefused(t *testing.T) {
	db := dbtest.SQLite(t).Open(t, nil)
	apps := map[string]Lark{"cli_x": (*lark.Client)(nil)}
	for name, c := range map[string]Config{
		"no store":               {Apps: apps},
		"no app":                 {},
		"unknown flow":           {Apps: apps, Flow: "magic"},
		"redirect without URL":   {Apps: apps, Flow: session.RedirectFlow},
		"plain http":             {Apps: apps, PublicURL: "http://sidecar.example"},
		"trailing slash":         {Apps: apps, PublicURL: "https://sidecar.example/"},
		"not a URL":              {Apps: apps, PublicURL: "sidecar.example"},
		"credentials in the URL": {Apps: apps, PublicURL: "https://u:p@sidecar.example"},
		"privacy is a script":    {Apps: apps, PrivacyURL: "javascript:alert(1)"},
	} {
		if name != "no store" {
			c.use(db)
		}
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, ok := range []string{"http://127.0.0.1:8082", "http://localhost", "http://[::1]:80", "https://sidecar.example/larkside"} {
		c := Config{Apps: apps, PublicURL: ok}
		c.use(db)
		if _, err := New(c); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
}

// A "no" is no reason for ever: what had ended before the user was asked
// something else keeps its own.
func TestReasonFades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		if why := f.Reason(t.Context(), alice, session.NoSession); why != session.NoSession {
			t.Errorf("never asked: %q", why)
		}
		w.ask(f, alice)
		if err := f.decline(t.Context(), w.latest(alice).ID, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		time.Sleep(declinedFor)
		if why := f.Reason(t.Context(), alice, session.RefreshTokenExpired); why != session.RefreshTokenExpired {
			t.Errorf("an ended session: %q", why)
		}
		if why := f.Reason(t.Context(), alice, session.NoSession); why != session.Declined {
			t.Errorf("no session: %q", why)
		}
	})
}
