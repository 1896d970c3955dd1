package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/telemetry"
	"larkside/test/dbtest"
)

func openIDs(p *store.Page) (ids []string) {
	for _, s := range p.Sessions {
		ids = append(ids, s.OpenID)
	}
	return ids
}

func TestBrowse(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		users, err := telemetry.NewUsers(telemetry.HashUsers, []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		s := db.Open(t, func(c *store.Config) { c.Users = users })
		for i := range 7 {
			g := grant(session.Key{AppID: "cli_" + string(rune('a'+i%2)), OpenID: fmt.Sprintf("ou_%d", i)}, "x")
			g.Profile.Name = []string{"Ann", "张三", "Bob"}[i%3]
			g.Profile.Email = fmt.Sprintf("user%d@example.com", i)
			put(t, s, g)
		}
		if err := s.Sessions.Disable(t.Context(), session.Key{AppID: "cli_a", OpenID: "ou_2"}, session.UserGone); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			sentence string
			filter   store.SessionFilter
			text     string
			want     []string
		}{
			{"everything, in key order", store.SessionFilter{}, "", []string{"ou_0", "ou_2", "ou_4", "ou_6", "ou_1", "ou_3", "ou_5"}},
			{"one app", store.SessionFilter{AppID: "cli_b"}, "", []string{"ou_1", "ou_3", "ou_5"}},
			{"one state", store.SessionFilter{State: session.Disabled}, "", []string{"ou_2"}},
			{"by a name, in any case", store.SessionFilter{}, " aNN ", []string{"ou_0", "ou_6", "ou_3"}},
			{"by a name in Chinese", store.SessionFilter{}, "张", []string{"ou_4", "ou_1"}},
			{"by open_id", store.SessionFilter{}, "OU_5", []string{"ou_5"}},
			{"by union_id", store.SessionFilter{}, "on_ou_4", []string{"ou_4"}},
			{"by email", store.SessionFilter{}, "USER5@Example.com", []string{"ou_5"}},
			{"by what the logs show", store.SessionFilter{}, users.Show("ou_3"), []string{"ou_3"}},
			{"by a part of what the logs show", store.SessionFilter{}, users.Show("ou_3")[:12], nil},
			{"by user_id", store.SessionFilter{}, "uou_1", []string{"ou_1"}},
			{"by a name that nobody has", store.SessionFilter{}, "%", nil},
		} {
			t.Run(tc.sentence, func(t *testing.T) {
				var got []string
				var after session.Key
				for range 10 {
					p, err := s.Directory.Search(t.Context(), after, tc.filter, tc.text, 2)
					if err != nil {
						t.Fatal(err)
					}
					if len(p.Sessions) > 2 {
						t.Errorf("a page of %d", len(p.Sessions))
					}
					for _, one := range p.Sessions {
						if !one.AccessToken.Empty() || !one.RefreshToken.Empty() {
							t.Error("a token is on the page")
						}
					}
					got = append(got, openIDs(p)...)
					if after = p.After; after == (session.Key{}) {
						break
					}
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("got %v, want %v", got, tc.want)
				}
			})
		}
	})
}

// Find takes whole names only: who revokes a session by a name means that user.
func TestFind(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		users, err := telemetry.NewUsers(telemetry.HashUsers, []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		s := db.Open(t, func(c *store.Config) { c.Users = users })
		for _, name := range []string{"Ann", "Anna"} {
			g := grant(session.Key{AppID: "cli_a", OpenID: "ou_" + name}, "x")
			g.Profile.Name, g.Profile.Email = name, name+"@example.com"
			put(t, s, g)
		}
		for user, want := range map[string][]string{
			"ann": {"ou_Ann"}, "ANNA@example.com": {"ou_Anna"}, "ou_Ann": {"ou_Ann"}, users.Show("ou_Anna"): {"ou_Anna"},
			"an": nil, "@example.com": nil, "": nil, users.Show("ou_Anna")[:8]: nil,
		} {
			if p, err := s.Directory.Find(t.Context(), session.Key{}, store.SessionFilter{}, user, 5); err != nil || !slices.Equal(openIDs(p), want) {
				t.Errorf("%q: %v, %v, want %v", user, p, err, want)
			}
		}
	})
}

func TestCounts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		put(t, s, grant(session.Key{AppID: "cli_a", OpenID: "ou_bob"}, "1"))
		put(t, s, grant(session.Key{AppID: "cli_b", OpenID: "ou_bob"}, "1"))
		if _, err := s.Sessions.Revoke(t.Context(), alice, session.Revoked); err != nil {
			t.Fatal(err)
		}
		got, err := s.Directory.Counts(t.Context())
		want := []store.Count{{"cli_a", session.Active, 1}, {"cli_a", session.ConsentRequired, 1}, {"cli_b", session.Active, 1}}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	})
}

// Each kind of change is seen, and looking is none.
func TestPulse(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		last := ""
		look := func(doing string, changed bool) {
			t.Helper()
			now, err := s.Directory.Fingerprint(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if (now != last) != changed {
				t.Errorf("%s: %q, before %q", doing, now, last)
			}
			last = now
		}
		look("an empty database", true)
		look("looking again", false)
		put(t, s, grant(alice, "1"))
		look("a session", true)
		p, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "a"}, time.Minute, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		look("a consent", true)
		if _, err := s.Consents.Close(t.Context(), p.ID, session.ConsentExpired, ""); err != nil {
			t.Fatal(err)
		}
		look("its end", true)
		s.Audit.Write(t.Context(), store.AuditEntry{Actor: store.ByAdmin, Action: store.AuditSync, Result: "done"})
		look("an audit entry", true)
	})
}

func TestRateUsed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		limits := []session.Limit{{N: 5, Period: time.Hour}, {N: 100, Period: 24 * time.Hour}}
		used := func() []int {
			t.Helper()
			u, err := s.Rates.Used(t.Context(), "token/cli_a", limits)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		if got := used(); !slices.Equal(got, []int{0, 0}) {
			t.Errorf("before any call: %v", got)
		}
		for range 2 {
			if n, _, err := s.Rates.Take(t.Context(), "token/cli_a", limits, 3); err != nil || n == 0 {
				t.Fatal(n, err)
			}
		}
		if got := used(); !slices.Equal(got, []int{5, 5}) || !slices.Equal(used(), got) {
			t.Errorf("after five calls: %v", got)
		}
	})
}
