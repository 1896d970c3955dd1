package consent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/refresh"
	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

// The tests of this file run consents and refreshes together on the limits of
// Lark's token endpoint: 50 calls in a second, 1000 in a minute.

var measure = flag.Bool("measure", false, "let the tests of the token endpoint's rate open 2,000 and 10,000 consents, which takes minutes")

// rated is a world in which every call to the token endpoint is governed.
type rated struct {
	*world
	t       *testing.T
	source  *refresh.Source
	manager *Manager
}

func newRated(t *testing.T, life time.Duration) *rated {
	db := dbtest.SQLite(t)
	db.Shared = true
	w := &rated{t: t, world: newWorldOn(t, db, func(c *larktest.Config) {
		c.TokenPerSecond, c.TokenPerMinute, c.KeepCalls = 50, 1000, 100_000
		c.DeviceLife = life
	})}
	w.source, w.manager = w.replica(w.Store)
	w.replica(db.Open(t, nil))
	return w
}

// replica is a process on db that runs.
func (w *rated) replica(db *store.DB) (*refresh.Source, *Manager) {
	client := inprocess.Client(w.t, w.Lark, nil)
	source, err := refresh.New(refresh.Config{
		Sessions: db.Sessions, Leases: db.Leases, Profiles: db.Profiles, Rates: db.Rates, Elections: db.Elections, Changes: db.Changes,
		Apps: map[string]refresh.Lark{larktest.AppID: client},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	f := w.device(func(c *Config) { c.use(db); c.AwaitTurn = source.AwaitTurn })
	// The context of the test has ended by then.
	w.t.Cleanup(func() { source.Shutdown(context.Background()) })
	return source, f
}

// open opens consents for n users without sending cards, at the 15 in a second
// that Lark takes for long, and returns their links.
func (w *rated) open(first, n int) (keys []session.Key, links []string) {
	w.t.Helper()
	client := inprocess.Client(w.t, w.Lark, nil)
	for i := range n {
		time.Sleep(time.Second / 15)
		key := w.person(first + i)
		p, _, err := w.Store.Consents.Begin(w.t.Context(), session.Consent{Key: key, Flow: session.DeviceFlow, Scopes: "offline_access"}, startLease, time.Hour)
		if err != nil {
			w.t.Fatal(err)
		}
		d, err := client.StartDevice(w.t.Context(), []string{"offline_access"})
		if err != nil {
			w.t.Fatal(err)
		}
		link := session.NewSecret(d.VerificationURIComplete)
		if err := w.Store.Consents.SetLink(w.t.Context(), p, link, d.DeviceCode, "", d.Interval, d.ExpiresIn); err != nil {
			w.t.Fatal(err)
		}
		keys, links = append(keys, key), append(links, link.Expose())
	}
	return keys, links
}

// refused counts the calls to the token endpoint that Lark refused for their
// number.
func (w *rated) refused() (n int) {
	for _, c := range w.Lark.Calls(larktest.To(larktest.TokenEndpoint)) {
		if c.Status == 429 || c.Code == 99991400 {
			n++
		}
	}
	return n
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// Any number of open consents, nearly all of them due, leave the refreshes their share:
// requests don't wait, grants that nobody uses are renewed, and Lark refuses
// nothing.
func TestOpenConsentsLeaveRefreshesTheirShare(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("takes minutes with the race detector; ./test/run runs it without")
	}
	open, minutes := 500, 2
	if *measure {
		open, minutes = 10_000, 3
	}
	synctest.Test(t, func(t *testing.T) {
		w := newRated(t, 40*time.Minute)
		seed := func(kind string, n int) []session.Key {
			keys := make([]session.Key, n)
			for i := range keys {
				keys[i] = dbtest.Key(w.Lark.AddUser(larktest.User{OpenID: fmt.Sprintf("ou_%s%d", kind, i)}))
				dbtest.Seed(t, w.Store, w.Lark, time.Now(), keys[i].OpenID)
			}
			return keys
		}
		expired := seed("expired", 60*minutes)
		time.Sleep(15 * time.Minute)
		ending := seed("ending", 1000)
		time.Sleep(time.Hour + 34*time.Minute)
		began := time.Now()
		w.open(0, open)
		time.Sleep(time.Until(began.Add(16 * time.Minute))) // the first have expired, the others are renewed behind requests

		before := w.TokenCalls()
		for _, k := range ending {
			w.source.Token(t.Context(), k)
		}
		var waited []time.Duration
		for _, k := range expired { // one request in a second waits for its refresh
			began := time.Now()
			if _, _, err := w.source.Token(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			waited = append(waited, time.Since(began))
			time.Sleep(time.Second)
		}
		renewed := 0
		for _, k := range ending {
			if !w.Row(k).RefreshedAt.IsZero() {
				renewed++
			}
		}
		all := w.TokenCalls() - before
		polls := all - renewed - len(expired)
		t.Logf("%d open consents, %d minutes: %d calls, of which %d polls, %d idle refreshes; requests waited %v for theirs, %v at most",
			open, minutes, all, polls, renewed, median(waited), slices.Max(waited))
		if n := w.refused(); n != 0 {
			t.Errorf("Lark refused %d calls", n)
		}
		if slices.Max(waited) > 2*time.Second {
			t.Errorf("a request waited %v for its refresh", slices.Max(waited))
		}
		if renewed < 100*minutes || polls < 100*minutes {
			t.Errorf("in %d minutes %d idle refreshes and %d polls", minutes, renewed, polls)
		}
	})
}

// How long after a user's approval the session is there, with other consents
// open: for an app that is called again after 3 s, for a request that waits, and
// if nothing more happens.
func TestTimeFromClickToSession(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("takes minutes with the race detector; ./test/run runs it without")
	}
	type sort struct {
		name string
		// at most this long, in the median, with 1, 100 and 2,000 open consents
		most [3]time.Duration
		then func(w *rated, k session.Key)
	}
	for _, s := range []sort{
		{"a request waits", [3]time.Duration{5 * time.Second, 5 * time.Second, 6 * time.Second}, nil},
		{"the app calls again after 3 s", [3]time.Duration{8 * time.Second, 8 * time.Second, 8 * time.Second}, func(w *rated, k session.Key) {
			time.Sleep(3 * time.Second)
			if _, err := w.manager.Ask(w.t.Context(), k, session.ConsentRequest{}); err != nil && !errors.Is(err, session.ErrConflict) {
				w.t.Error(err) // a conflict: the session is there already
			}
		}},
		{"nothing more happens", [3]time.Duration{20 * time.Second, time.Minute, 8 * time.Minute}, func(*rated, session.Key) {}},
	} {
		for i, open := range []int{1, 100, 2000} {
			t.Run(fmt.Sprintf("%s, %d open", s.name, open), func(t *testing.T) {
				if open > 100 && !*measure {
					t.Skip("run with -measure")
				}
				synctest.Test(t, func(t *testing.T) {
					var took []time.Duration
					for round := range max(1, 10/open) {
						took = append(took, clicks(t, uint64(round), open, s.then)...)
					}
					t.Logf("median %v of %d, %v at most", median(took).Round(100*time.Millisecond), len(took), slices.Max(took).Round(100*time.Millisecond))
					if m := median(took); m > s.most[i] {
						t.Errorf("median %v, want %v at most", m, s.most[i])
					}
				})
			})
		}
	}
}

// clicks lets up to 40 users of n approve within a minute, and returns how long
// after that each had a session. then is what happens after the approval; nil: a
// request waits since before.
func clicks(t *testing.T, seed uint64, n int, then func(*rated, session.Key)) (took []time.Duration) {
	w := newRated(t, 10*time.Minute)
	keys, links := w.open(0, n)
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	var gone sync.WaitGroup
	var mu sync.Mutex
	for _, i := range rng.Perm(n)[:min(n, 40)] {
		at := time.Duration(rng.Int64N(int64(time.Minute)))
		gone.Go(func() {
			if then == nil {
				if _, err := w.manager.Ask(t.Context(), keys[i], session.ConsentRequest{Wait: 3 * time.Minute}); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(20*time.Second + at)
			approved := time.Now()
			w.approve(links[i], keys[i].OpenID)
			if then != nil {
				gone.Go(func() { then(w, keys[i]) })
			}
			if d, ok := w.awaitSession(keys[i], approved); ok {
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	gone.Wait()
	if n := w.refused(); n != 0 {
		t.Errorf("Lark refused %d calls", n)
	}
	return took
}

func (w *rated) awaitSession(key session.Key, since time.Time) (time.Duration, bool) {
	changed, stop := w.Store.Changes.Watch(key)
	defer stop()
	ctx, cancel := context.WithTimeout(w.t.Context(), 9*time.Minute)
	defer cancel()
	for {
		if _, err := w.Store.Sessions.Load(ctx, key); err == nil {
			return time.Since(since), true
		} else if !errors.Is(err, session.ErrNotFound) && ctx.Err() == nil {
			w.t.Error(err)
			return 0, false
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return 9 * time.Minute, true
		}
	}
}
