package store_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
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

// An id that is somebody's is found at once, wherever the row is, and before any
// name is looked through. Names are looked through for a bounded time.
func TestSearchExact(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		insert := db.SQL(t)
		const before = 2500
		tx, err := insert.Begin()
		if err != nil {
			t.Fatal(err)
		}
		for i := range before { // without names, which would have to be sealed
			_, err := tx.Exec(`INSERT INTO sessions (app_id, open_id, state, token_type, token_url, issued_at, expires_at, granted_at, version, changed_at)
				VALUES ('cli_a', $1, 'active', 'Bearer', 'u', 1, 1, 1, 1, 1)`, fmt.Sprintf("ou_%05d", i))
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		last, twin := session.Key{AppID: "cli_z", OpenID: "ou_last"}, session.Key{AppID: "cli_a", OpenID: "ou_twin"}
		for _, key := range []session.Key{last, twin} {
			g := grant(key, "x")
			g.UnionID, g.UserID, g.Profile.Name = "on_both", "ann", "Bob"
			put(t, s, g)
		}
		put(t, s, grant(session.Key{AppID: "cli_z", OpenID: "ou_zzz_has_ann_in_it"}, "x"))
		s.Directory.SetPatience(0) // one chunk
		for _, tc := range []struct {
			sentence, text string
			filter         store.SessionFilter
			want           []string
			examined       int
		}{
			{"an open_id", "ou_last", store.SessionFilter{}, []string{"ou_last"}, 0},
			{"a union_id, in two apps", " on_both ", store.SessionFilter{}, []string{"ou_twin", "ou_last"}, 0},
			{"a union_id, in one of the apps", "on_both", store.SessionFilter{AppID: "cli_z"}, []string{"ou_last"}, 0},
			{"a user_id, which may be a part of names", "ann", store.SessionFilter{}, []string{"ou_twin", "ou_last"}, 1000},
			{"an open_id in another state", "ou_last", store.SessionFilter{State: session.Disabled}, nil, 0},
			{"an open_id that nobody has", "ou_nobody", store.SessionFilter{}, nil, 1000},
		} {
			p, err := s.Directory.Search(t.Context(), session.Key{}, tc.filter, tc.text, 10)
			if err != nil {
				t.Fatal(err)
			}
			if got := openIDs(p); !slices.Equal(got, tc.want) || p.Examined != tc.examined {
				t.Errorf("%s: %v, %d examined", tc.sentence, got, p.Examined)
			}
			if more := p.Examined == 1000; more != (p.After != session.Key{}) {
				t.Errorf("%s: %d examined, and goes on after %v", tc.sentence, p.Examined, p.After)
			}
		}
		// Page by page, nobody comes twice.
		var all []string
		var after session.Key
		for range 10 {
			p, err := s.Directory.Search(t.Context(), after, store.SessionFilter{}, "ann", 10)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, openIDs(p)...)
			if after = p.After; after == (session.Key{}) {
				break
			}
		}
		if !slices.Equal(all, []string{"ou_twin", "ou_last", "ou_zzz_has_ann_in_it"}) {
			t.Errorf("page by page: %v", all)
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
	t.Parallel()
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

// Names are found for users with a session, whatever has become of it, and for more
// users than one statement takes.
func TestNames(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		keys := []session.Key{{AppID: "cli_a", OpenID: "ou_nobody"}, {AppID: "cli_c"}}
		for i := range 120 {
			g := grant(session.Key{AppID: "cli_" + string(rune('a'+i%2)), OpenID: fmt.Sprintf("ou_%d", i)}, "x")
			g.Profile.Name = fmt.Sprint("Name ", i)
			put(t, s, g)
			keys = append(keys, g.Key, g.Key)
		}
		if _, err := s.Sessions.Revoke(t.Context(), session.Key{AppID: "cli_a", OpenID: "ou_2"}, session.Revoked); err != nil {
			t.Fatal(err)
		}
		names, err := s.Directory.Names(t.Context(), keys)
		if err != nil || len(names) != 120 || names[session.Key{AppID: "cli_b", OpenID: "ou_119"}] != "Name 119" || names[session.Key{AppID: "cli_a", OpenID: "ou_2"}] != "Name 2" {
			t.Errorf("%d names, %v", len(names), err)
		}
		if names, err := s.Directory.Names(t.Context(), nil); err != nil || len(names) != 0 {
			t.Errorf("of nobody: %v, %v", names, err)
		}
	})
}

// A list says nothing of the end of a token that is not there.
func TestListsKnowWhichTokensThereAre(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "x"))
		lease, err := s.Leases.Claim(t.Context(), alice, 1, time.Minute)
		if err == nil {
			_, err = s.Leases.End(t.Context(), lease, store.Ending{State: session.ConsentRequired, Reason: session.RefreshTokenUsed, DropAccess: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Directory.Search(t.Context(), session.Key{}, store.SessionFilter{}, "", 10)
		if err != nil || len(p.Sessions) != 1 || !p.Sessions[0].ExpiresAt.IsZero() || p.Sessions[0].RefreshExpiresAt.IsZero() {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// Each order has each session once, page by page. By need, what fails comes first
// and what was revoked last.
func TestBrowseInOrder(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		end := func(key session.Key, e store.Ending) {
			t.Helper()
			lease, err := s.Leases.Claim(t.Context(), key, 1, time.Minute)
			if err == nil {
				_, err = s.Leases.End(t.Context(), lease, e)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range 10 {
			put(t, s, grant(session.Key{AppID: "cli_" + string(rune('a'+i%2)), OpenID: fmt.Sprint("ou_", i)}, "x"))
		}
		key := func(i int) session.Key {
			return session.Key{AppID: "cli_" + string(rune('a'+i%2)), OpenID: fmt.Sprint("ou_", i)}
		}
		lease, err := s.Leases.Claim(t.Context(), key(9), 1, time.Minute)
		if err == nil {
			_, err = s.Leases.Release(t.Context(), lease, store.Failure{Retry: time.Second})
		}
		if err != nil {
			t.Fatal(err)
		}
		end(key(8), store.Ending{State: session.ConsentRequired, Reason: session.RefreshTokenUsed})
		end(key(7), store.Ending{State: session.Disabled, Reason: session.UserGone})
		if _, err := s.Sessions.Revoke(t.Context(), key(6), session.Revoked); err != nil {
			t.Fatal(err)
		}
		// When they end, or have ended, in hours from now. ou_0 is over, although
		// nobody has noticed.
		raw, now, hour := db.SQL(t), time.Now().UnixMilli(), time.Hour.Milliseconds()
		for i, at := range []int64{-3, 2, 3, 4, 4, 6, -1, -4, -2, 1} {
			if _, err := raw.Exec(`UPDATE sessions SET usable_until = $1 WHERE open_id = $2`, now+at*hour, fmt.Sprint("ou_", i)); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			order store.Order
			f     store.SessionFilter
			want  []string
		}{
			{store.OrderNeed, store.SessionFilter{}, []string{"ou_9", "ou_8", "ou_7", "ou_0", "ou_2", "ou_4", "ou_1", "ou_3", "ou_5", "ou_6"}},
			{store.OrderNeed, store.SessionFilter{AppID: "cli_a"}, []string{"ou_8", "ou_0", "ou_2", "ou_4", "ou_6"}},
			{store.OrderNeed, store.SessionFilter{State: session.ConsentRequired}, []string{"ou_8", "ou_6"}},
			{store.OrderNeed, store.SessionFilter{State: session.Active}, []string{"ou_9", "ou_0", "ou_2", "ou_4", "ou_1", "ou_3", "ou_5"}},
			{store.OrderUser, store.SessionFilter{}, []string{"ou_0", "ou_2", "ou_4", "ou_6", "ou_8", "ou_1", "ou_3", "ou_5", "ou_7", "ou_9"}},
			{store.OrderUser, store.SessionFilter{State: session.Disabled}, []string{"ou_7"}},
			{store.OrderChange, store.SessionFilter{State: session.Disabled}, []string{"ou_7"}},
			{store.OrderEnd, store.SessionFilter{}, []string{"ou_9", "ou_1", "ou_2", "ou_4", "ou_3", "ou_5", "ou_6", "ou_8", "ou_0", "ou_7"}},
			{store.OrderEnd, store.SessionFilter{AppID: "cli_a"}, []string{"ou_2", "ou_4", "ou_6", "ou_8", "ou_0"}},
			{store.OrderEnd, store.SessionFilter{State: session.Active}, []string{"ou_9", "ou_1", "ou_2", "ou_4", "ou_3", "ou_5", "ou_0"}},
			{store.OrderEnd, store.SessionFilter{State: session.ConsentRequired}, []string{"ou_6", "ou_8"}},
			{store.OrderEnd, store.SessionFilter{State: session.Disabled}, []string{"ou_7"}},
		} {
			for _, limit := range []int{1, 3, 10} {
				var got []string
				for from, pages := (&store.Cursor{}), 0; from != nil && pages < 20; pages++ {
					p, err := s.Directory.Browse(t.Context(), tc.order, *from, tc.f, limit)
					if err != nil || len(p.Sessions) > limit {
						t.Fatalf("%d sessions, %v", len(p.Sessions), err)
					}
					for _, one := range p.Sessions {
						got = append(got, one.OpenID)
						if one.ChangedAt.IsZero() {
							t.Errorf("%s was never changed", one.OpenID)
						}
					}
					from = p.Next
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("%s %+v by %d: %v, want %v", tc.order, tc.f, limit, got, tc.want)
				}
			}
		}
		var latest []string
		for from := (&store.Cursor{}); from != nil; {
			p, err := s.Directory.Browse(t.Context(), store.OrderChange, *from, store.SessionFilter{}, 3)
			if err != nil {
				t.Fatal(err)
			}
			for i, one := range p.Sessions {
				latest = append(latest, one.OpenID)
				if i > 0 && one.ChangedAt.After(p.Sessions[i-1].ChangedAt) {
					t.Errorf("%s changed later than the one before", one.OpenID)
				}
			}
			from = p.Next
		}
		if slices.Sort(latest); len(slices.Compact(latest)) != 10 {
			t.Errorf("by change: %v", latest)
		}
		if p, err := s.Directory.Browse(t.Context(), store.OrderNeed, store.Cursor{Tier: 99}, store.SessionFilter{}, 3); err != nil || len(p.Sessions) != 0 {
			t.Errorf("behind the end: %+v, %v", p, err)
		}
		p, err := s.Directory.Browse(t.Context(), store.OrderEnd, store.Cursor{}, store.SessionFilter{}, 1)
		if err != nil || p.Sessions[0].UsableUntil.Before(time.Now()) {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// What ends in the millisecond in which somebody looks has ended.
func TestEndsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dbtest.SQLite(t).Open(t, nil)
		over, works := dbtest.Key("ou_a"), dbtest.Key("ou_b")
		put(t, s, grant(over, "a"))
		put(t, s, grant(works, "b"))
		lease, err := s.Leases.Claim(t.Context(), over, 1, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Leases.End(t.Context(), lease, store.Ending{State: session.ConsentRequired, Reason: session.RefreshTokenExpired}); err != nil {
			t.Fatal(err)
		}
		p, err := s.Directory.Browse(t.Context(), store.OrderEnd, store.Cursor{}, store.SessionFilter{}, 2)
		if err != nil || len(p.Sessions) != 2 || p.Sessions[0].Key != works {
			t.Errorf("%+v, %v", p, err)
		}
	})
}
