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
	"larkside/test/larktest"
)

const day = 24 * time.Hour

// granted stores a grant of Alice's of now, whose refresh token lives for life;
// 0: none was issued.
func (s *stage) granted(life time.Duration) *session.Session {
	s.t.Helper()
	tokens, err := s.lark.Grant(larktest.AppID, larktest.Alice)
	if err != nil {
		s.t.Fatal(err)
	}
	now := time.Now()
	g := session.Session{
		Key: alice, AccessToken: session.NewSecret(tokens.AccessToken), TokenType: "Bearer", TokenURL: origin + "/open-apis/authen/v2/oauth/token",
		Scope: "offline_access im:message", IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour), GrantedAt: now, SyncedAt: now,
	}
	if life > 0 {
		g.RefreshToken, g.RefreshExpiresAt = session.NewSecret(tokens.RefreshToken), now.Add(life)
	}
	row, err := s.store.Sessions.Put(s.t.Context(), g)
	if err != nil {
		s.t.Fatal(err)
	}
	return row
}

// look is one look for grants that end.
func (s *stage) look(flows ...*Flow) {
	var gone sync.WaitGroup
	for _, f := range flows {
		gone.Go(func() { f.remindExpiring(s.t.Context()) })
	}
	gone.Wait()
	time.Sleep(startTimeout) // for what is tried again
}

// A grant of a year: one card, three days ahead, whose link works until the
// grant ends, for all that was granted.
func TestRenewalCard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, nil)
		f, g := s.flow(redirect), s.flow(redirect)
		s.granted(7 * day)
		time.Sleep(362*day - time.Hour)
		s.look(f, g)
		if n := s.cards(larktest.Alice); n != 0 {
			t.Fatalf("%d cards too early", n)
		}
		time.Sleep(2 * time.Hour)
		for range 3 {
			s.look(f, g)
		}
		if n := s.cards(larktest.Alice); n != 1 {
			t.Fatalf("%d cards", n)
		}
		s.awaitCard(alice, texts.endingTitle.en)
		if text := s.lark.Messages(larktest.Alice)[0].Content(); !strings.Contains(text, "for 3 days") {
			t.Errorf("the card does not say how long: %s", text)
		}
		p := s.latest(alice)
		if p.Scopes != "offline_access im:message" || p.Left > 3*day || p.Left < 2*day {
			t.Errorf("consent for %q, for %s", p.Scopes, p.Left)
		}
		time.Sleep(2 * day)
		b := s.browser(f)
		wantPage(t, b.get(b.consent(b.open(p.Link.Expose()), larktest.Alice)), http.StatusOK, texts.done)
		s.look(f, g)
		if n := s.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards after the renewal", n)
		}
		time.Sleep(363 * day)
		s.look(f)
		if n := s.cards(larktest.Alice); n != 2 {
			t.Errorf("%d cards a year later", n)
		}
	})
}

// Which grants end by themselves, and when that is told.
func TestExpiring(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := newStageOn(t, db, nil)
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
			row, err := s.store.Sessions.Load(t.Context(), alice)
			if err != nil {
				t.Fatal(err)
			}
			if !db.Postgres {
				s.store.Close()
				defer func() { s.store = db.Open(t, nil) }()
			}
			if found := at(none); len(found) != 0 {
				t.Errorf("%s: found %+v after %s", what, found, none)
			}
			if found := at(some); len(found) != 1 || found[0].EndsAt.Sub(row.GrantedAt) != want || found[0].Scope != row.Scope {
				t.Errorf("%s: found %+v after %s", what, found, some)
			}
		}
		s.granted(7 * day)
		ends("renewable", 365*day, 361*day, 363*day)
		s.granted(0)
		ends("no refresh token", 2*time.Hour, 100*time.Minute, 110*time.Minute)

		row := s.granted(7 * day)
		lease, err := s.store.Leases.Claim(t.Context(), alice, row.Version, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		fixed := row.GrantedAt.Add(5 * day)
		if _, err := s.store.Leases.Replace(t.Context(), lease, store.Tokens{
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
	s := newStage(t, nil)
	s.withEvents(func(c *Config) { c.PublicURL = "" })
	s.granted(0)
	f := s.flow(func(c *Config) { c.Buttons = true })
	x := store.Expiring{Key: alice, Scope: "im:message", GrantedAt: s.session(alice).GrantedAt, EndsAt: time.Now().Add(2 * time.Hour)}
	for range 2 {
		f.remind(t.Context(), x)
	}
	messages := s.lark.Messages(larktest.Alice)
	if len(messages) != 1 || len(messages[0].Links()) != 0 || !strings.Contains(messages[0].Content(), texts.endingTitle.en) {
		t.Fatalf("messages: %+v", messages)
	}
	if said := s.click(alice, 0, larktest.Alice); said != texts.toastSent.en {
		t.Errorf("the click: %q", said)
	}
	if p := s.latest(alice); p.State != session.ConsentPending || !strings.HasPrefix(p.Link.Expose(), origin) || p.Scopes != "offline_access im:message" {
		t.Errorf("consent: %+v", p)
	}
	if messages = s.lark.Messages(larktest.Alice); len(messages) != 2 || len(messages[0].Buttons()) != 0 {
		t.Errorf("messages: %+v", messages)
	}
}

func (s *stage) session(key session.Key) *session.Session {
	s.t.Helper()
	row, err := s.store.Sessions.Load(s.t.Context(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	return row
}

func TestNoRenewalCard(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"cards are off":             func(c *Config) { redirect(c); c.CardOff = true },
		"a button would be in vain": func(*Config) {},
		"no room":                   func(c *Config) { redirect(c); c.MaxPending = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newStage(t, nil)
				f := s.flow(change)
				s.granted(7 * day)
				time.Sleep(363 * day)
				s.look(f)
				if n := s.cards(larktest.Alice); n != 0 {
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
			bubble(t, func(t *testing.T) {
				s := newStage(t, nil)
				f := s.flow(flow)
				s.granted(7 * day)
				time.Sleep(363 * day)
				s.lark.Fault(larktest.Fault{Endpoint: larktest.MessageSend, Times: -1, Status: 503})
				s.look(f)
				if n := s.cards(larktest.Alice); n != 0 {
					t.Fatalf("%d cards", n)
				}
				s.lark.ClearFaults()
				s.look(f)
				if n := s.cards(larktest.Alice); n != 1 {
					t.Errorf("%d cards when Lark is back\n%s", n, s.logged())
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
				bubble(t, func(t *testing.T) {
					s := newStage(t, nil)
					f := s.flow(change)
					f.cardOff = name == "cards off"
					row := s.granted(7 * day)
					row.State, row.Reason = session.ConsentRequired, session.RefreshTokenExpired
					c.change(row)
					for range 2 {
						f.Ended(t.Context(), row)
						synctest.Wait()
					}
					if n := s.cards(larktest.Alice); n != c.want {
						t.Fatalf("%d cards, want %d", n, c.want)
					}
					if c.want == 0 {
						return
					}
					if p := s.latest(alice); p.Scopes != "offline_access im:message" || (flow == "redirect") != (p.Left > 2*day) {
						t.Errorf("consent for %q, for %s", p.Scopes, p.Left)
					}
					// The call that found it out gets the same link.
					if got := s.ask(f, alice); got.Card != session.CardAlreadySent {
						t.Errorf("the call: %+v", got)
					}
				})
			})
		}
	}
}
