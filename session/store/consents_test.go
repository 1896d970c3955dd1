package store_test

import (
	"errors"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// What is asked of whom can't be changed in the database. A consent in which it
// was is closed, and the user can be asked again.
func TestConsentIsSealed(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		raw := db.SQL(t)
		bob := session.Key{AppID: alice.AppID, OpenID: "ou_bob"}
		begin := func(key session.Key) *session.Consent {
			t.Helper()
			p, began, err := s.Consents.Begin(t.Context(), session.Consent{Key: key, Flow: session.RedirectFlow, Scopes: "offline_access"}, time.Minute, time.Minute)
			if err != nil || !began {
				t.Fatalf("%v, %v", began, err)
			}
			if err := s.Consents.SetLink(t.Context(), p, session.NewSecret("https://link"), session.Secret{}, session.Hash("ticket"+p.ID), 0, time.Minute); err != nil {
				t.Fatal(err)
			}
			return p
		}
		other := begin(session.Key{AppID: alice.AppID, OpenID: "ou_carol"})
		for _, change := range []string{
			`open_id = 'ou_bob'`, `app_id = 'cli_b'`, `flow = 'device'`, `scopes = 'offline_access mail:user_mailbox'`, `seal = NULL`,
			`open_id = 'ou_bob', link = NULL, secret = NULL, seal = NULL`,
			`link = (SELECT link FROM consents WHERE id = '` + other.ID + `')`,
			`seal = (SELECT seal FROM consents WHERE id = '` + other.ID + `')`,
		} {
			p := begin(alice)
			if _, err := raw.Exec(`UPDATE consents SET `+change+` WHERE id = $1`, p.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Consents.Leases.Claim(t.Context(), p.ID, time.Minute); !errors.Is(err, session.ErrLeased) {
				t.Errorf("SET %s: Claim: %v", change, err)
			}
			for _, key := range []session.Key{alice, bob} {
				if got, err := s.Consents.Open(t.Context(), key); !errors.Is(err, session.ErrNotFound) {
					t.Errorf("SET %s: Open(%s): %+v, %v", change, key.OpenID, got, err)
				}
			}
			got, err := s.Consents.ByTicket(t.Context(), "ticket"+p.ID)
			if err != nil || got.State != session.ConsentFailed || !got.Link.Empty() {
				t.Errorf("SET %s: ByTicket: %+v, %v", change, got, err)
			}
		}
		// Nor can what a closed one had asked for, which a click on its card asks
		// for again.
		closed := begin(alice)
		if _, err := s.Consents.Close(t.Context(), closed.ID, session.ConsentExpired, ""); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Consents.Get(t.Context(), closed.ID); err != nil || got.Scopes != "offline_access" {
			t.Errorf("a closed consent: %+v, %v", got, err)
		}
		if _, err := raw.Exec(`UPDATE consents SET scopes = 'mail:user_mailbox' WHERE id = $1`, closed.ID); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Consents.Get(t.Context(), closed.ID); err != nil || got.Scopes != "" {
			t.Errorf("a changed closed consent: %+v, %v", got, err)
		}
		// An open one that the database was given is none.
		if _, err := raw.Exec(`INSERT INTO consents (id, app_id, open_id, flow, state, scopes, created_at, expires_at, changed_at)
			VALUES ('made', 'cli_a', 'ou_bob', 'redirect', 'pending', 'mail:user_mailbox', 1, 9000000000000, 1)`); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Consents.Open(t.Context(), bob); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("an inserted consent: %+v, %v", got, err)
		}
		begin(bob)
		if list, err := s.Consents.History.List(t.Context(), "", store.ConsentFilter{}, 100); err != nil || len(list) != 12 {
			t.Errorf("%d consents, %v", len(list), err)
		}
	})
}
