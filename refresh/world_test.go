package refresh

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/seal"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// world is a Lark, a database and one replica, in a synctest bubble: its clock
// runs only while everyone waits.
type world struct {
	t        *testing.T
	platform *larktest.Platform
	store    *store.DB
	source   *Source
	dbPath   string
	ring     *seal.Keyring
}

// inWorld runs f in a bubble. changeLark and change may be nil.
func inWorld(t *testing.T, changeLark func(*larktest.Config), change func(*Config), f func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		lc := larktest.Config{URL: "http://lark.test", TokenPerSecond: -1, TokenPerMinute: -1}
		if changeLark != nil {
			changeLark(&lc)
		}
		ring, err := seal.ParseKeyring(seal.NewKey("test"))
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, platform: larktest.New(lc), dbPath: filepath.Join(dbtest.TempDir(t), "larkside.db"), ring: ring}
		t.Cleanup(w.platform.Close)
		w.store, w.source = w.replica(change)
		f(t, w)
	})
}

// shutdown ends the first replica's renewals.
func (w *world) shutdown() {
	w.t.Helper()
	if err := w.source.Shutdown(w.t.Context()); err != nil {
		w.t.Error(err)
	}
}

// configOf takes from db what a Source needs of it.
func configOf(db *store.DB) Config {
	return Config{Sessions: db.Sessions, Leases: db.Leases, Profiles: db.Profiles, Rates: db.Rates, Elections: db.Elections, Changes: db.Changes}
}

// replica opens another process's worth of Larkside on the same database.
func (w *world) replica(change func(*Config)) (*store.DB, *Source) {
	db, err := store.Open(w.t.Context(), store.Config{
		URL: session.NewSecret("sqlite:" + w.dbPath), Keys: w.ring, TestingOnlyShared: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { db.Close() })
	client, err := lark.New(lark.Config{
		AppID: larktest.AppID, Secret: func() session.Secret { return session.NewSecret(larktest.AppSecret) },
		OpenURL: "http://lark.test", AccountsURL: "http://lark.test", TokenURL: "http://lark.test/open-apis/authen/v2/oauth/token",
		Transport: w.platform.Transport(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	c := configOf(db)
	c.Apps = map[string]Lark{larktest.AppID: client}
	c.Discard = func(ctx context.Context, _ session.Key, access, refresh session.Secret) {
		client.Revoke(ctx, refresh, "refresh_token")
		client.Revoke(ctx, access, "access_token")
	}
	if change != nil {
		change(&c)
	}
	source, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return db, source
}

func key(openID string) session.Key { return session.Key{AppID: larktest.AppID, OpenID: openID} }

// consented gives a user a session as a consent would.
func (w *world) consented(openID string) session.Key {
	w.t.Helper()
	g, err := w.platform.Grant(larktest.AppID, openID, "offline_access", "app_engine:workspace.table:read")
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now()
	_, err = w.store.Sessions.Put(w.t.Context(), session.Session{
		Key: key(openID), AccessToken: session.NewSecret(g.AccessToken), RefreshToken: session.NewSecret(g.RefreshToken),
		TokenType: "Bearer", TokenURL: "http://lark.test/open-apis/authen/v2/oauth/token", Scope: g.Scope,
		IssuedAt: now, ExpiresAt: now.Add(g.ExpiresIn), RefreshExpiresAt: now.Add(g.RefreshExpiresIn), GrantedAt: now, SyncedAt: now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return key(openID)
}

func (w *world) row(k session.Key) *session.Session {
	w.t.Helper()
	row, err := w.store.Sessions.Load(w.t.Context(), k)
	if err != nil {
		w.t.Fatal(err)
	}
	return row
}

// answered counts, over all refresh tokens ever issued to a user, the
// redemptions that Lark answered with a pair; the ledger's own list of
// violations has what must never be.
func (w *world) answered(openID string) int {
	n := 0
	for _, token := range w.platform.Ledger(openID) {
		for _, r := range w.platform.Redemptions(token.ID) {
			if r.Outcome == larktest.Answered {
				n++
			}
		}
	}
	return n
}

func (w *world) attempts() int { return len(w.platform.Calls(larktest.To(larktest.TokenEndpoint))) }

// together runs f n times at once and waits for all.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func users(w *world, n int) []session.Key {
	keys := make([]session.Key, n)
	for i := range keys {
		id := w.platform.AddUser(larktest.User{OpenID: fmt.Sprintf("ou_user%d", i), Name: fmt.Sprintf("User %d", i)})
		keys[i] = w.consented(id)
	}
	return keys
}

func (w *world) token(k session.Key) (*session.Access, session.Lookup, error) {
	return w.source.Token(w.t.Context(), k)
}

func background() context.Context { return context.Background() }
