package refresh

import (
	"context"
	"fmt"
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

// world has a replica's Source beside what [inprocess.World] has.
type world struct {
	*inprocess.World
	source *Source
}

// inWorld runs f in a synctest bubble. changeLark and change may be nil.
func inWorld(t *testing.T, changeLark func(*larktest.Config), change func(*Config), f func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{World: inprocess.New(t, sharedSQLite(t), changeLark)}
		w.source = w.newSource(w.Store, change)
		f(t, w)
	})
}

func sharedSQLite(t *testing.T) *dbtest.DB {
	db := dbtest.SQLite(t)
	db.Shared = true
	return db
}

// shutdown ends the first replica's renewals.
func (w *world) shutdown() {
	w.T.Helper()
	if err := w.source.Shutdown(w.T.Context()); err != nil {
		w.T.Error(err)
	}
}

// configOf takes from db what a Source needs of it.
func configOf(db *store.DB) Config {
	return Config{Sessions: db.Sessions, Leases: db.Leases, Profiles: db.Profiles, Rates: db.Rates, Elections: db.Elections, Changes: db.Changes}
}

// replica is another process's Source on the same database.
func (w *world) replica(change func(*Config)) *Source {
	w.T.Helper()
	return w.newSource(w.DB.Open(w.T, nil), change)
}

func (w *world) newSource(db *store.DB, change func(*Config)) *Source {
	w.T.Helper()
	client := inprocess.Client(w.T, w.Lark, nil)
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
		w.T.Fatal(err)
	}
	return source
}

// consented gives a user a session as a consent of now would.
func (w *world) consented(openID string) session.Key {
	w.T.Helper()
	dbtest.Seed(w.T, w.Store, w.Lark, time.Now(), openID)
	return dbtest.Key(openID)
}

// answered counts, over all refresh tokens ever issued to a user, the
// redemptions that Lark answered with a pair; the ledger's own list of
// violations has what must never be.
func (w *world) answered(openID string) int {
	n := 0
	for _, token := range w.Lark.Ledger(openID) {
		n += answered(token)
	}
	return n
}

func answered(token larktest.Issued) (n int) {
	for _, r := range token.Redemptions {
		if r.Outcome == larktest.Answered {
			n++
		}
	}
	return n
}

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
		id := w.Lark.AddUser(larktest.User{OpenID: fmt.Sprintf("ou_user%d", i), Name: fmt.Sprintf("User %d", i)})
		keys[i] = w.consented(id)
	}
	return keys
}

func (w *world) token(k session.Key) (*session.Access, session.Lookup, error) {
	return w.source.Token(w.T.Context(), k)
}
