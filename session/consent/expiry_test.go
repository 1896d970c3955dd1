package consent

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

const day = 24 * time.Hour

// granted stores a grant of Alice's of now, whose refresh token lives for life;
// 0: none was issued.
func (w *world) granted(life time.Duration) *session.Session {
	w.T.Helper()
	g := dbtest.Session(w.T, w.Lark, alice, time.Now(), "offline_access", "im:message")
	g.RefreshExpiresAt = g.IssuedAt.Add(life)
	if life == 0 {
		g.RefreshToken, g.RefreshExpiresAt = session.Secret{}, time.Time{}
	}
	row, err := w.Store.Sessions.Put(w.T.Context(), g)
	if err != nil {
		w.T.Fatal(err)
	}
	return row
}

// look is one look for grants that end.
func (w *world) look(flows ...*Manager) {
	var gone sync.WaitGroup
	for _, f := range flows {
		gone.Go(func() { f.remindExpiring(w.T.Context()) })
	}
	gone.Wait()
	time.Sleep(startTimeout) // for what is tried again
}

// A grant of a year: one card, three days ahead, whose link works until the
// grant ends, for all that was granted.
func TestRenewalCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, g := w.replica(redirect), w.replica(redirect)
		w.granted(7 * day)
		time.Sleep(362*day - time.Hour)
		w.look(f, g)
		if n := w.cards(larktest.Alice); n != 0 {
			t.Fatalf("%d cards too early", n)
		}
		time.Sleep(2 * time.Hour)
		for range 3 {
			w.look(f, g)
		}
		if n := w.cards(larktest.Alice); n != 1 {
			t.Fatalf("%d cards", n)
		}
		w.AwaitCard(alice.OpenID, texts.endingTitle.en)
		if text := w.Lark.Messages(larktest.Alice)[0].Content(); !strings.Contains(text, "for 3 days") {
			t.Errorf("the card does not say how long: %s", text)
		}
		p := w.latest(alice)
		if p.Scopes != "offline_access im:message" || p.Left > 3*day || p.Left < 2*day {
			t.Errorf("consent for %q, for %s", p.Scopes, p.Left)
		}
		time.Sleep(2 * day)
		b := w.browser(f)
		wantPage(t, b.get(b.consent(b.open(p.Link.Expose()), larktest.Alice)), http.StatusOK, texts.done)
		w.look(f, g)
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards after the renewal", n)
		}
		time.Sleep(363 * day)
		w.look(f)
		if n := w.cards(larktest.Alice); n != 2 {
			t.Errorf("%d cards a year later", n)
		}
	})
}

// Which grants end by themselves, and when that is told.
func TestExpiring(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		w := newWorldOn(t, db, nil)
		// at is what is found when the store's clock is that far ahead.
		at := func(ahead time.Duration) (found []store.Expiring) {
			t.Helper()
			later, err := store.Open(t.Context(), store.Config{URL: session.NewSecret(db.URL), Keys: db.Keys,
				Now: func() time.Time { return time.Now().Add(ahead) }})
			if err != nil {
				t.Fatal(err)
			}
			defer later.Close()
			found, err = later.Reminders.Due(t.Context(), renewalLead, 10)
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		ends := func(what string, want time.Duration, none, some time.Duration) {
			t.Helper()
			row := w.Row(alice)
			if !db.Postgres {
				w.Store.Close()
				defer func() { w.Store = db.Open(t, nil) }()
			}
			if found := at(none); len(found) != 0 {
				t.Errorf("%s: found %+v after %s", what, found, none)
			}
			if found := at(some); len(found) != 1 || found[0].EndsAt.Sub(row.GrantedAt) != want {
				t.Errorf("%s: found %+v after %s", what, found, some)
			}
		}
		w.granted(7 * day)
		ends("renewable", 365*day, 361*day, 363*day)
		w.granted(0)
		ends("no refresh token", 2*time.Hour, 100*time.Minute, 110*time.Minute)

		row := w.granted(7 * day)
		lease, err := w.Store.Leases.Claim(t.Context(), alice, row.Version, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		fixed := row.GrantedAt.Add(5 * day)
		if _, err := w.Store.Leases.Replace(t.Context(), lease, store.Tokens{
			AccessToken: row.AccessToken, RefreshToken: row.RefreshToken, TokenType: "Bearer", TokenURL: row.TokenURL, Scope: row.Scope,
			IssuedAt: row.GrantedAt, ExpiresAt: row.ExpiresAt, RefreshExpiresAt: fixed,
		}); err != nil {
			t.Fatal(err)
		}
		ends("refresh tokens that live shorter and shorter", 5*day, 4*day, 5*day-time.Hour)
	})
}

// A device code would be dead when the card is looked at: the card has a button
// that brings a fresh one.
func TestRenewalInDeviceFlow(t *testing.T) {
	w := newWorld(t, nil)
	w.withEvents(func(c *Config) { c.PublicURL = "" })
	w.granted(0)
	f := w.replica(func(c *Config) { c.Buttons = true })
	x := store.Expiring{Key: alice, GrantedAt: w.Row(alice).GrantedAt, EndsAt: time.Now().Add(2 * time.Hour)}
	for range 2 {
		f.remind(t.Context(), x)
	}
	messages := w.Lark.Messages(larktest.Alice)
	if len(messages) != 1 || len(messages[0].Links()) != 0 || !strings.Contains(messages[0].Content(), texts.endingTitle.en) {
		t.Fatalf("messages: %+v", messages)
	}
	if said := w.click(alice, 0, larktest.Alice); said != texts.toastSent.en {
		t.Errorf("the click: %q", said)
	}
	if p := w.latest(alice); p.State != session.ConsentPending || !strings.HasPrefix(p.Link.Expose(), inprocess.Origin) || p.Scopes != "offline_access im:message" {
		t.Errorf("consent: %+v", p)
	}
	if messages = w.Lark.Messages(larktest.Alice); len(messages) != 2 || len(messages[0].Buttons()) != 0 {
		t.Errorf("messages: %+v", messages)
	}
}

func TestNoRenewalCard(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"cards are off":             func(c *Config) { redirect(c); c.CardOff = true },
		"a button would be in vain": func(*Config) {},
		"no room":                   func(c *Config) { redirect(c); c.MaxPending = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				f := w.replica(change)
				w.granted(7 * day)
				time.Sleep(363 * day)
				w.look(f)
				if n := w.cards(larktest.Alice); n != 0 {
					t.Errorf("%d cards", n)
				}
			})
		})
	}
}

// What fails for the moment is done later.
func TestRenewalTriedAgain(t *testing.T) {
	for name, flow := range map[string]func(*Config){"redirect": redirect, "device": func(c *Config) { c.Buttons = true }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				f := w.replica(flow)
				w.granted(7 * day)
				time.Sleep(363 * day)
				w.Lark.Fault(larktest.Fault{Endpoint: larktest.MessageSend, Times: -1, Status: 503})
				w.look(f)
				if n := w.cards(larktest.Alice); n != 0 {
					t.Fatalf("%d cards", n)
				}
				w.Lark.ClearFaults()
				w.look(f)
				if n := w.cards(larktest.Alice); n != 1 {
					t.Errorf("%d cards when Lark is back\n%s", n, w.Log.String())
				}
			})
		})
	}
}

// A session that ends under its user gets a card at once, one that has lain
// idle or was revoked gets none.
func TestEndedCard(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*session.Session)
		want   int
	}{
		"while active":  {func(*session.Session) {}, 1},
		"an hour later": {func(s *session.Session) { s.ExpiresAt = time.Now().Add(-time.Hour) }, 1},
		"idle":          {func(s *session.Session) { s.ExpiresAt = time.Now().Add(-2 * day) }, 0},
		"cards off":     {func(*session.Session) {}, 0},
		"revoked":       {func(s *session.Session) { s.Reason = session.Revoked }, 0},
		"disabled":      {func(s *session.Session) { s.State = session.Disabled }, 0},
	} {
		for flow, change := range map[string]func(*Config){"redirect": redirect, "device": nil} {
			t.Run(name+" "+flow, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nil)
					f := w.replica(change)
					f.cardOff = name == "cards off"
					row := w.granted(7 * day)
					row.State, row.Reason = session.ConsentRequired, session.RefreshTokenExpired
					c.change(row)
					for range 2 {
						f.Ended(t.Context(), row)
						synctest.Wait()
					}
					if n := w.cards(larktest.Alice); n != c.want {
						t.Fatalf("%d cards, want %d", n, c.want)
					}
					if c.want == 0 {
						return
					}
					if p := w.latest(alice); p.Scopes != "offline_access im:message" || (flow == "redirect") != (p.Left > 2*day) {
						t.Errorf("consent for %q, for %s", p.Scopes, p.Left)
					}
					// The call that found it out gets the same link.
					if got := w.ask(f, alice); got.Card != session.CardAlreadySent {
						t.Errorf("the call: %+v", got)
					}
				})
			})
		}
	}
}

// A request that found out that a session has ended keeps the link that it was
// given: the card for the end asks for more scopes, and does not supersede it.
func TestEndedKeepsALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		row := w.granted(7 * day)
		row.State, row.Reason = session.ConsentRequired, session.RefreshTokenExpired
		if _, err := w.Store.Sessions.Revoke(t.Context(), alice, session.RefreshTokenExpired); err != nil {
			t.Fatal(err)
		}
		asked := w.ask(f, alice)
		before := w.latest(alice)
		f.Ended(t.Context(), row)
		synctest.Wait()
		if p := w.latest(alice); p.ID != before.ID || p.State != session.ConsentPending || before.Scopes == row.Scope || asked.AuthorizeURL == "" {
			t.Errorf("the open consent is %s, %s; it was %s for %q, %+v", p.ID, p.State, before.ID, before.Scopes, asked)
		}
	})
}

// What one replica does for all is done by one, and by another when that one is
// gone.
func TestOneReplicaLooksAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := dbtest.SQLite(t)
		db.Shared = true
		w := newWorldOn(t, db, nil)
		other := db.Open(t, nil)
		if leads, err := other.Elections.Lead(t.Context(), "consents", time.Hour); err != nil || !leads {
			t.Fatal(leads, err)
		}
		w.granted(7 * day)
		time.Sleep(364 * day)
		if leads, err := other.Elections.Lead(t.Context(), "consents", time.Hour); err != nil || !leads {
			t.Fatal(leads, err)
		}
		w.run(w.replica(redirect))
		time.Sleep(10 * time.Minute)
		if n := w.cards(larktest.Alice); n != 0 {
			t.Fatalf("%d cards from a replica that does not lead", n)
		}
		time.Sleep(time.Hour)
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards when the one that led is gone", n)
		}
	})
}
