package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/seal"
	"larkside/session/store"
	"larkside/test/dbtest"
)

var alice = session.Key{AppID: "cli_a", OpenID: "ou_alice"}

// grant is a consent's outcome with recognisable tokens.
func grant(key session.Key, tokens string) session.Session {
	now := time.Now()
	return session.Session{
		Key: key, UnionID: "on_" + key.OpenID, UserID: "u" + key.OpenID,
		Profile:     session.Profile{Name: "Alice Canary", Email: "alice@canary.example"},
		AccessToken: session.NewSecret("access-" + tokens), RefreshToken: session.NewSecret("refresh-" + tokens),
		TokenType: "Bearer", TokenURL: "https://accounts.example/oauth/v3/token", Scope: "offline_access",
		IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour), RefreshExpiresAt: now.Add(7 * 24 * time.Hour), GrantedAt: now,
	}
}

func renewed(tokens string) store.Tokens {
	now := time.Now()
	return store.Tokens{
		AccessToken: session.NewSecret("access-" + tokens), RefreshToken: session.NewSecret("refresh-" + tokens),
		TokenType: "Bearer", TokenURL: "https://accounts.example/oauth/v3/token", Scope: "offline_access",
		IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour), RefreshExpiresAt: now.Add(7 * 24 * time.Hour),
	}
}

func put(t *testing.T, s *store.DB, g session.Session) *session.Session {
	t.Helper()
	stored, err := s.Sessions.Put(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func claim(t *testing.T, s *store.DB, key session.Key, version int64, ttl time.Duration) *store.Lease {
	t.Helper()
	l, err := s.Leases.Claim(t.Context(), key, version, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func load(t *testing.T, s *store.DB, key session.Key) *session.Session {
	t.Helper()
	row, err := s.Sessions.Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// What is stored comes back, whoever reads it.
func TestPutAndLoad(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		if _, err := s.Sessions.Load(t.Context(), alice); !errors.Is(err, session.ErrNotFound) {
			t.Fatalf("an absent session: %v", err)
		}
		g := grant(alice, "1")
		put(t, s, g)
		got := load(t, s, alice)
		if got.AccessToken.Expose() != "access-1" || got.RefreshToken.Expose() != "refresh-1" ||
			got.Profile != g.Profile || got.State != session.Active || got.Version != 1 ||
			got.ExpiresAt.UnixMilli() != g.ExpiresAt.UnixMilli() {
			t.Errorf("got %+v", got)
		}
		for _, alias := range []string{"on_ou_alice", "uou_alice"} {
			if key, err := s.Sessions.Resolve(t.Context(), alice.AppID, alias); err != nil || key != alice {
				t.Errorf("Resolve(%s) = %v, %v", alias, key, err)
			}
		}
		if _, err := s.Sessions.Resolve(t.Context(), "cli_b", "on_ou_alice"); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("another app's alias resolves: %v", err)
		}
		put(t, s, grant(alice, "2"))
		if got := load(t, s, alice); got.Version != 2 || got.AccessToken.Expose() != "access-2" {
			t.Errorf("a second consent: version %d", got.Version)
		}
	})
}

// An alias is of one kind. A user_id that an administrator spells like somebody
// else's union_id leads to nobody, and so does the opposite.
func TestAliasesDoNotMix(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		mallory := session.Key{AppID: alice.AppID, OpenID: "ou_mallory"}
		put(t, s, grant(alice, "1"))
		g := grant(mallory, "2")
		g.UserID, g.UnionID = "on_"+alice.OpenID, "u"+alice.OpenID
		put(t, s, g)
		nameless := grant(session.Key{AppID: alice.AppID, OpenID: "ou_nameless"}, "3")
		nameless.UserID, nameless.UnionID = "", ""
		put(t, s, nameless)
		for _, alias := range []string{"on_" + alice.OpenID, "u" + alice.OpenID} {
			if key, err := s.Sessions.Resolve(t.Context(), alice.AppID, alias); err != nil || key != alice {
				t.Errorf("Resolve(%s) = %v, %v", alias, key, err)
			}
		}
		if key, err := s.Sessions.Resolve(t.Context(), alice.AppID, ""); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("an empty alias: %v, %v", key, err)
		}
	})
}

// An alias counts only as Lark gave it. Whoever can write to the database can
// take an alias away, and can't give one user's to another.
func TestAliasesAreSealed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		raw := db.SQL(t)
		bob := session.Key{AppID: alice.AppID, OpenID: "ou_bob"}
		exec := func(query string, args ...any) {
			t.Helper()
			if _, err := raw.Exec(query, args...); err != nil {
				t.Fatal(err)
			}
		}
		resolves := func(alias string, want session.Key, wantErr error) {
			t.Helper()
			if key, err := s.Sessions.Resolve(t.Context(), alice.AppID, alias); key != want || !errors.Is(err, wantErr) {
				t.Errorf("Resolve(%s) = %v, %v; want %v, %v", alias, key, err, want, wantErr)
			}
		}
		nobody := session.Key{}
		put(t, s, grant(alice, "1"))
		put(t, s, grant(bob, "2"))
		for _, column := range []string{"union_id", "user_id"} {
			alias := map[string]string{"union_id": "on_ou_alice", "user_id": "uou_alice"}[column]
			exec(`UPDATE sessions SET ` + column + ` = (SELECT ` + column + ` FROM sessions WHERE open_id = 'ou_alice') WHERE open_id = 'ou_bob'`)
			resolves(alias, alice, nil)
			exec(`UPDATE sessions SET ` + column + `_seal = (SELECT ` + column + `_seal FROM sessions WHERE open_id = 'ou_alice') WHERE open_id = 'ou_bob'`)
			resolves(alias, alice, nil)
			exec(`UPDATE sessions SET ` + column + ` = 'on_elsewhere' WHERE open_id = 'ou_alice'`)
			resolves(alias, nobody, session.ErrNotFound)
			resolves("on_elsewhere", nobody, session.ErrNotFound)
			put(t, s, grant(alice, "1"))
			put(t, s, grant(bob, "2"))
			resolves(alias, alice, nil)
		}
		// A user_id that looks like another kind of id leads to nobody.
		g := grant(bob, "2")
		g.UserID = "ou_alice"
		put(t, s, g)
		resolves("ou_alice", nobody, session.ErrNotFound)
		// So does one of a user whose profile was read.
		if err := s.Profiles.Set(t.Context(), bob, session.Profile{}, "on_new", ""); err != nil {
			t.Fatal(err)
		}
		resolves("on_new", bob, nil)
		exec(`UPDATE sessions SET union_id = 'on_new' WHERE open_id = 'ou_alice'`)
		resolves("on_new", bob, nil)
	})
}

// An administrator may give a user_id to another person: then Lark says so of
// the new one. An old row that is put back makes the id belong to two users,
// and so to neither.
func TestAliasIsGivenToAnother(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		raw := db.SQL(t)
		bob := session.Key{AppID: alice.AppID, OpenID: "ou_bob"}
		put(t, s, grant(alice, "1"))
		put(t, s, grant(bob, "2"))
		var record []byte
		if err := raw.QueryRow(`SELECT user_id_seal FROM sessions WHERE open_id = 'ou_alice'`).Scan(&record); err != nil {
			t.Fatal(err)
		}
		if err := s.Profiles.Set(t.Context(), bob, session.Profile{}, "", "uou_alice"); err != nil {
			t.Fatal(err)
		}
		if key, err := s.Sessions.Resolve(t.Context(), alice.AppID, "uou_alice"); err != nil || key != bob {
			t.Errorf("after a sync: %v, %v", key, err)
		}
		if row := load(t, s, alice); row.UserID != "" || row.UnionID == "" || row.AccessToken.Expose() != "access-1" {
			t.Errorf("the former owner has %q and %q", row.UserID, row.UnionID)
		}
		p, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "x"}, time.Minute, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Consents.Finish(t.Context(), p.ID, grant(alice, "3")); err != nil {
			t.Fatal(err)
		}
		if key, err := s.Sessions.Resolve(t.Context(), alice.AppID, "uou_alice"); err != nil || key != alice {
			t.Errorf("after a consent: %v, %v", key, err)
		}
		if err := s.Profiles.Set(t.Context(), bob, session.Profile{}, "", "uou_alice"); err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Exec(`UPDATE sessions SET user_id = 'uou_alice', user_id_seal = $1 WHERE open_id = 'ou_alice'`, record); err != nil {
			t.Fatal(err)
		}
		if key, err := s.Sessions.Resolve(t.Context(), alice.AppID, "uou_alice"); !errors.Is(err, session.ErrAmbiguous) {
			t.Errorf("with an old row: %v, %v", key, err)
		}
	})
}

// The lease is the right to spend a refresh token: one owner at a time, and a
// pair is stored over the one that it was made from or not at all.
func TestLease(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		first := claim(t, s, alice, 1, time.Minute)
		if _, err := s.Leases.Claim(t.Context(), alice, 1, time.Minute); !errors.Is(err, session.ErrLeased) {
			t.Fatalf("a second claim: %v", err)
		}
		if _, err := s.Leases.Claim(t.Context(), alice, 7, time.Minute); !errors.Is(err, session.ErrConflict) {
			t.Fatalf("a claim of another version: %v", err)
		}
		if _, err := s.Leases.Replace(t.Context(), first, renewed("2")); err != nil {
			t.Fatal(err)
		}
		got := load(t, s, alice)
		if got.Version != 2 || got.RefreshToken.Expose() != "refresh-2" || got.Attempts != 0 || got.RefreshedAt.IsZero() {
			t.Errorf("after Replace: %+v", got)
		}
		// The same lease again: its answer may have been lost on the way.
		if _, err := s.Leases.Replace(t.Context(), first, renewed("2")); err != nil {
			t.Errorf("a repeated store of the same pair: %v", err)
		}
		if _, err := s.Leases.Replace(t.Context(), first, renewed("3")); !errors.Is(err, session.ErrConflict) {
			t.Errorf("another pair over a newer version: %v", err)
		}
		claim(t, s, alice, 2, time.Minute)
	})
}

// An owner that died is succeeded when its lease runs out, and the successor
// sees that the refresh token may have been spent.
func TestLeaseRunsOut(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		late := claim(t, s, alice, 1, 0)
		next := claim(t, s, alice, 1, time.Minute)
		if next.Session.Attempts != 2 {
			t.Errorf("attempts = %d, want 2", next.Session.Attempts)
		}
		if _, err := s.Leases.Release(t.Context(), late, store.Failure{MaybeSpent: true}); !errors.Is(err, session.ErrConflict) {
			t.Errorf("the late owner gave back what is another's: %v", err)
		}
		ended, err := s.Leases.End(t.Context(), next, store.Ending{State: session.ConsentRequired, Reason: session.RefreshTokenUsed})
		if err != nil || ended.State != session.ConsentRequired || ended.AccessToken.Empty() {
			t.Fatalf("End: %+v, %v", ended, err)
		}
		// The late owner had the new pair all the time: it is the good one.
		back, err := s.Leases.Replace(t.Context(), late, renewed("2"))
		if err != nil || back.State != session.Active || back.Reason != "" {
			t.Errorf("the late pair: %+v, %v", back, err)
		}
	})
}

func TestReleaseKeepsTheJournal(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		for i, c := range []struct {
			spent    bool
			attempts int
		}{{false, 0}, {true, 1}, {false, 1}, {true, 2}} {
			l := claim(t, s, alice, 1, time.Minute)
			row, err := s.Leases.Release(t.Context(), l, store.Failure{MaybeSpent: c.spent})
			if err != nil || row.Attempts != c.attempts || row.Failures != i+1 {
				t.Errorf("release %d: attempts %d failures %d, %v", i, row.Attempts, row.Failures, err)
			}
		}
	})
}

// A pair that can't be used is stored, and its session rests; one that can ends
// the rest.
func TestReplaceMayRest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		useless := renewed("2")
		useless.Failures, useless.Retry = 3, time.Minute
		row, err := s.Leases.Replace(t.Context(), claim(t, s, alice, 1, time.Minute), useless)
		if rest := time.Until(row.RetryAt); err != nil || row.Failures != 3 || rest < 50*time.Second || rest > time.Minute+time.Second {
			t.Errorf("failures %d, rest %v, %v", row.Failures, rest, err)
		}
		row, err = s.Leases.Replace(t.Context(), claim(t, s, alice, 2, time.Minute), renewed("3"))
		if err != nil || row.Failures != 0 || !row.RetryAt.IsZero() {
			t.Errorf("failures %d, rest until %v, %v", row.Failures, row.RetryAt, err)
		}
	})
}

// A refresh that is under way when its user revokes must not bring the session
// back.
func TestRevokeBeatsRefresh(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		put(t, s, grant(alice, "1"))
		l := claim(t, s, alice, 1, time.Minute)
		before, err := s.Sessions.Revoke(t.Context(), alice, session.Revoked)
		if err != nil || before.RefreshToken.Expose() != "refresh-1" {
			t.Fatalf("Revoke: %v", err)
		}
		if _, err := s.Leases.Replace(t.Context(), l, renewed("2")); !errors.Is(err, session.ErrConflict) {
			t.Errorf("a late pair over a revoked session: %v", err)
		}
		got := load(t, s, alice)
		if got.State != session.ConsentRequired || got.Reason != session.Revoked || !got.AccessToken.Empty() ||
			!got.RefreshToken.Empty() || got.Profile != (session.Profile{Name: before.Profile.Name}) || got.Profile.Name == "" {
			t.Errorf("after Revoke: %+v", got)
		}
		if a, _ := s.Sessions.Cached(alice); a != nil && a.Usable(time.Now()) {
			t.Error("a revoked token is still in the cache")
		}
	})
}

// A row that was moved to another user, or to another column, does not open,
// and is an error of the store rather than an absent session.
func TestMovedRowDoesNotOpen(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		bob := session.Key{AppID: alice.AppID, OpenID: "ou_bob"}
		put(t, s, grant(alice, "1"))
		put(t, s, grant(bob, "2"))
		raw := db.SQL(t)
		for _, change := range []string{
			`UPDATE sessions SET access_token = (SELECT access_token FROM sessions WHERE open_id = 'ou_alice') WHERE open_id = 'ou_bob'`,
			`UPDATE sessions SET access_token = refresh_token WHERE open_id = 'ou_bob'`,
			`UPDATE sessions SET access_token = 'garbage' WHERE open_id = 'ou_bob'`,
		} {
			if _, err := raw.Exec(change); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Sessions.Load(t.Context(), bob); !errors.Is(err, session.ErrUnavailable) {
				t.Errorf("%s: %v", change, err)
			}
		}
		load(t, s, alice)
	})
}

// What decides where and how long a token is used is sealed with the token: a
// row in which it was changed has no token, before and after a refresh and a
// rotation of the keys.
func TestTermsAreSealed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := with(t, db, newKey, oldKey)
		raw := db.SQL(t)
		changed := func(after string) {
			t.Helper()
			load(t, s, alice)
			for _, change := range []string{
				`token_url = 'https://accounts.example/anycross/trigger/callback/X'`, `token_url = ''`, `token_type = 'MAC'`, `scope = scope || ' mail:user_mailbox'`,
				`expires_at = expires_at + 3600000`, `expires_at = 1`, `issued_at = 0`, `refresh_expires_at = refresh_expires_at + 1`, `granted_at = 0`,
			} {
				column, _, _ := strings.Cut(change, " ")
				var was any
				if err := raw.QueryRow(`SELECT ` + column + ` FROM sessions`).Scan(&was); err != nil {
					t.Fatal(err)
				}
				if _, err := raw.Exec(`UPDATE sessions SET ` + change); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Sessions.Load(t.Context(), alice); !errors.Is(err, session.ErrUnavailable) {
					t.Errorf("%s: SET %s: Load: %v", after, change, err)
				}
				s.Sessions.Forget(alice)
				if _, err := s.Sessions.Access(t.Context(), alice); !errors.Is(err, session.ErrUnavailable) {
					t.Errorf("%s: SET %s: Access: %v", after, change, err)
				}
				if _, err := raw.Exec(`UPDATE sessions SET `+column+` = $1`, was); err != nil {
					t.Fatal(err)
				}
			}
			load(t, s, alice)
		}
		put(t, with(t, db, oldKey), grant(alice, "1"))
		changed("a consent")
		if _, err := s.Reseal(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		changed("a rotation")
		if _, err := s.Leases.Replace(t.Context(), claim(t, s, alice, 1, time.Minute), renewed("2")); err != nil {
			t.Fatal(err)
		}
		changed("a refresh")
	})
}

// A row that was changed is an answer of the database: its user gets no token,
// and the others' rows are read as ever. It can be revoked, and does not hide the
// others from whoever looks at all.
func TestChangedRowIsItsUsersOnly(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		raw := db.SQL(t)
		bob := session.Key{AppID: alice.AppID, OpenID: "ou_bob"}
		put(t, s, grant(alice, "1"))
		put(t, s, grant(bob, "2"))
		for _, change := range []string{`expires_at = expires_at + 1`, `profile = access_token`} {
			if _, err := raw.Exec(`UPDATE sessions SET ` + change + ` WHERE open_id = 'ou_alice'`); err != nil {
				t.Fatal(err)
			}
		}
		if a, err := s.Sessions.Access(t.Context(), alice); !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("the changed row: %+v, %v", a, err)
		}
		if _, err := raw.Exec(`UPDATE sessions SET state = 'disabled' WHERE open_id = 'ou_bob'`); err != nil {
			t.Fatal(err)
		}
		if a, err := s.Sessions.Access(t.Context(), bob); err != nil || a.State != session.Disabled {
			t.Errorf("another user's row: %+v, %v", a, err)
		}
		if list, err := s.Directory.List(t.Context(), session.Key{}, store.SessionFilter{}, 10); err != nil || len(list) != 2 || list[1].Profile.Name == "" {
			t.Errorf("the list: %+v, %v", list, err)
		}
		before, err := s.Sessions.Revoke(t.Context(), alice, session.Revoked)
		if err != nil || !before.AccessToken.Empty() {
			t.Errorf("Revoke: %+v, %v", before, err)
		}
		if row := load(t, s, alice); row.State != session.ConsentRequired || row.Reason != session.Revoked {
			t.Errorf("after Revoke: %+v", row)
		}
	})
}

// Nothing secret is in clear anywhere in the database, after a refresh either.
func TestNothingInClear(t *testing.T) {
	db := dbtest.SQLite(t)
	s := db.Open(t, nil)
	put(t, s, grant(alice, "CANARY-1"))
	if _, err := s.Leases.Replace(t.Context(), claim(t, s, alice, 1, time.Minute), renewed("CANARY-2")); err != nil {
		t.Fatal(err)
	}
	p, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "offline_access"}, time.Second, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Consents.SetLink(t.Context(), p, session.NewSecret("https://CANARY-link"), session.NewSecret("CANARY-device"), "", time.Second, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Consents.Get(t.Context(), p.ID); err != nil || got.Link.Expose() != "https://CANARY-link" {
		t.Fatalf("the link does not come back: %v", err)
	}
	path := strings.TrimPrefix(db.URL, "sqlite:")
	for _, file := range []string{path, path + "-wal"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, canary := range []string{"CANARY", "canary.example", "Alice"} {
			if strings.Contains(string(content), canary) {
				t.Errorf("%s is in clear in %s", canary, file)
			}
		}
	}
}

// With the wrong key, or without one that is in use, nothing starts: stored
// sessions would look absent, and their users would be asked again.
func TestWrongKeyRefusesToStart(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		put(t, db.Open(t, nil), grant(alice, "1"))
		if !db.Postgres {
			return // the open store holds the file
		}
		other, _ := seal.ParseKeyring(seal.NewKey("other"))
		sameID, _ := seal.ParseKeyring(seal.NewKey("test"))
		for name, ring := range map[string]*seal.Keyring{"another key": other, "other bytes": sameID} {
			_, err := store.Open(t.Context(), store.Config{URL: session.NewSecret(db.URL), Keys: ring})
			if !errors.Is(err, store.ErrSetup) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestSQLiteKeyFile(t *testing.T) {
	db := dbtest.SQLite(t)
	var log bytes.Buffer
	open := func() (*store.DB, error) {
		return store.Open(t.Context(), store.Config{URL: session.NewSecret(db.URL), Log: slog.New(slog.NewTextHandler(&log, nil))})
	}
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, grant(alice, "1"))
	if _, err := open(); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second process: %v", err)
	}
	s.Close()
	file := strings.TrimPrefix(db.URL, "sqlite:") + ".key"
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if s, err = open(); err != nil {
		t.Fatal(err)
	}
	load(t, s, alice)
	s.Close()
	const warning = "every user of this machine may read the key file"
	if strings.Contains(log.String(), warning) {
		t.Errorf("warned about a key file of mode 0600: %s", &log)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if e, err := store.Examine(t.Context(), store.Config{URL: session.NewSecret(db.URL)}); err != nil || e.KeyFileOpen != file {
		t.Errorf("examined with a key file of mode 0644: %+v, %v", e, err)
	}
	if s, err = open(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if n := strings.Count(log.String(), warning); n != 1 {
		t.Errorf("%d warnings about a key file of mode 0644: %s", n, &log)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); !errors.Is(err, store.ErrSetup) {
		t.Errorf("without the key file of stored sessions: %v", err)
	}
}

// A change on one replica reaches the cache of another within a second, by
// notification and by polling.
func TestReplicasAgree(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"", "off"} {
		t.Run("listen="+how, func(t *testing.T) {
			db := dbtest.Postgres(t)
			one, two := db.Open(t, nil), db.Open(t, func(c *store.Config) { c.ListenURL = session.NewSecret(how) })
			put(t, one, grant(alice, "1"))
			if _, err := two.Sessions.Access(t.Context(), alice); err != nil {
				t.Fatal(err)
			}
			changed, stop := two.Changes.Watch(alice)
			defer stop()
			for round := range 3 { // the first may meet a connection that is just being made
				put(t, one, grant(alice, fmt.Sprint(round)))
				deadline := time.After(5 * time.Second)
				for gone := false; !gone; {
					select {
					case <-changed:
						a, checked := two.Sessions.Cached(alice)
						gone = a == nil || !checked || a.Version == int64(round+2)
					case <-deadline:
						t.Fatal("the other replica's cache was not told")
					}
				}
				if a, err := two.Sessions.Access(t.Context(), alice); err != nil || a.Version != int64(round+2) {
					t.Fatalf("version %v, %v", a, err)
				}
			}
		})
	}
}

// 64 misses of one user at once are one query.
func TestMissesAreShared(t *testing.T) {
	path := dbtest.SQLite(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(t.Context(), store.Config{URL: session.NewSecret(path.URL), Keys: path.Keys})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		put(t, s, grant(alice, "1"))
		queries, answer := 0, make(chan struct{})
		s.Sessions.OnLoaded(func() { queries++; <-answer })
		for range 64 {
			go func() {
				if _, err := s.Sessions.Access(t.Context(), alice); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait() // all of them wait now
		if queries != 1 {
			t.Errorf("%d queries", queries)
		}
		close(answer)
		synctest.Wait()
	})
}

// A look-up that began before another replica revoked does not put the old token
// back as one that is checked.
func TestLookupDuringRevocation(t *testing.T) {
	db := dbtest.Postgres(t)
	here, there := db.Open(t, nil), db.Open(t, nil)
	put(t, there, grant(alice, "1"))
	changed, stop := here.Changes.Watch(alice)
	defer stop()
	here.Sessions.OnLoaded(func() {
		here.Sessions.OnLoaded(nil)
		if _, err := there.Sessions.Revoke(t.Context(), alice, session.Revoked); err != nil {
			t.Error(err)
		}
		here.Changes.Heard(load(t, there, alice)) // the notification itself may come later
	})
	if a, err := here.Sessions.Access(t.Context(), alice); err != nil || a.Version != 1 {
		t.Fatalf("the look-up: %v, %v", a, err)
	}
	<-changed
	if a, checked := here.Sessions.Cached(alice); checked {
		t.Errorf("version %d is served as checked", a.Version)
	}
	if a, err := here.Sessions.Access(t.Context(), alice); err != nil || a.State != session.ConsentRequired {
		t.Errorf("the next look-up: %v, %v", a, err)
	}
}

// A write whose answer is late does not take the place of a newer one, although
// the notification of the first write comes even later.
func TestLateWrite(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		first := put(t, s, grant(alice, "1"))
		s.Sessions.OnStored(func(*session.Session) {
			s.Sessions.OnStored(nil)
			put(t, s, grant(alice, "3"))
			s.Changes.Heard(first)
			if _, checked := s.Sessions.Cached(alice); checked {
				t.Error("served as checked, although the news said otherwise")
			}
		})
		if late := put(t, s, grant(alice, "2")); late.Version != 2 {
			t.Fatalf("version %d", late.Version)
		}
		if a, _ := s.Sessions.Cached(alice); a == nil || a.Version != 3 {
			t.Errorf("cached %+v", a)
		}
	})
}

// Polling comes to rest: a change is behind the next question when it is older
// than the overlap, and what is cached already stays.
func TestPollingSettles(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	here, there := db.Open(t, nil), db.Open(t, nil)
	put(t, here, grant(alice, "1"))
	if _, err := here.Sessions.Access(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	var changedAt, after int64
	raw := db.SQL(t)
	if err := raw.QueryRow(`UPDATE sessions SET changed_at = changed_at - 1000 RETURNING changed_at`).Scan(&changedAt); err != nil {
		t.Fatal(err)
	}
	since := there.Changes.PollOnce(t.Context(), changedAt)
	if err := raw.QueryRow(`SELECT larkside_now()`).Scan(&after); err != nil {
		t.Fatal(err)
	}
	if since < changedAt+1000 || since > after {
		t.Errorf("the next question is about %d ms after the change", since-changedAt)
	}
	if put(t, there, grant(alice, "2")); here.Changes.PollOnce(t.Context(), since) < since {
		t.Error("the clock goes back")
	}
	if a, checked := here.Sessions.Cached(alice); a != nil && checked && a.Version != 2 {
		t.Errorf("the other replica's change is not seen: %+v", a)
	}
	a, err := here.Sessions.Access(t.Context(), alice)
	if err != nil || a.Version != 2 {
		t.Fatalf("%v, %v", a, err)
	}
	for range 3 {
		since = here.Changes.PollOnce(t.Context(), since)
	}
	if again, _ := here.Sessions.Cached(alice); again != a {
		t.Error("what is cached is dropped again")
	}
}

// One user has one open consent, whoever asks; only one of many begins it.
func TestOneOpenConsent(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		var mu sync.Mutex
		began := map[bool]int{}
		ids := map[string]bool{}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				p, first, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "offline_access"}, time.Second, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				began[first]++
				ids[p.ID] = true
			})
		}
		wg.Wait()
		if began[true] != 1 || len(ids) != 1 {
			t.Errorf("began %v, ids %v", began, ids)
		}
		for id := range ids {
			if _, err := s.Consents.Close(t.Context(), id, session.ConsentDone, ""); err != nil {
				t.Error(err)
			}
			if _, err := s.Consents.Close(t.Context(), id, session.ConsentFailed, ""); !errors.Is(err, session.ErrConflict) {
				t.Errorf("closed twice: %v", err)
			}
		}
		if _, first, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "x"}, time.Second, time.Minute); err != nil || !first {
			t.Errorf("after it was closed: %v, %v", first, err)
		}
		if list, err := s.Consents.History.List(t.Context(), "", store.ConsentFilter{}, 10); err != nil || len(list) != 2 || list[0].State != session.ConsentPending {
			t.Errorf("list: %+v, %v", list, err)
		}
	})
}

// The ceiling holds over replicas in any sliding period.
func TestRateIsShared(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		limits := []session.Limit{{N: 10, Period: time.Minute}, {N: 15, Period: time.Hour}}
		total := 0
		for range 8 {
			n, _, err := s.Rates.Take(t.Context(), "app", limits, 3)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
		if total != 10 {
			t.Errorf("%d admitted, want 10", total)
		}
		if n, wait, _ := s.Rates.Take(t.Context(), "app", limits, 1); n != 0 || wait <= 0 || wait > time.Minute+5*time.Second {
			t.Errorf("admitted %d, wait %s", n, wait)
		}
		if n, _, _ := s.Rates.Take(t.Context(), "another app", limits, 3); n != 3 {
			t.Errorf("another app was admitted %d", n)
		}
	})
}

// While the database is away, what is cached goes on.
func TestCacheOutlivesTheDatabase(t *testing.T) {
	db := dbtest.SQLite(t)
	s := db.Open(t, func(c *store.Config) { c.CacheTTL = time.Nanosecond })
	put(t, s, grant(alice, "1"))
	s.Close()
	if a, err := s.Sessions.Access(t.Context(), alice); err != nil || !a.Usable(time.Now()) {
		t.Errorf("cached: %v", err)
	}
	if _, err := s.Sessions.Access(t.Context(), session.Key{AppID: "cli_a", OpenID: "ou_bob"}); !errors.Is(err, session.ErrUnavailable) {
		t.Errorf("not cached: %v", err)
	}
}
