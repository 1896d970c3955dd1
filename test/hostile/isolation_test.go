package hostile

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// It goes on until enough is counted, however long that takes.
var isolationAnswers = flag.Int64("answers", 20_000, "how many answers TestIsolation wants at least, for each database; a tenth with -short")

// successorRest is how long the successor of a refused token is not renewed
// again, and a bit.
const successorRest = 31 * time.Second

const secondApp = larktest.AppID + "2"

// twins are ids that something careless would take for one another: built
// around what might separate an app from a user, or alike but for case.
var twins = []string{
	"ou_a", "ou_A", "OU_a", "ou_a.b", "ou_a_b", "ou_a-b", "ou_a@b", "ou_a.", "ou_a_", "ou_.a", "ou__a", "ou_a.b.c", "ou_a..b", "ou_2ou_a", "ou_a2", "ou_a20",
}

// S17: two hundred users at once, each in two apps under the same open_id:
// hits, refreshes, replays and callers that hang up. Lark says whose token each
// call bore.
func TestIsolation(t *testing.T) {
	process.Each(t, isolate)
}

func isolate(t *testing.T, db *dbtest.DB) {
	var users []larktest.User
	for i := range 200 {
		id := fmt.Sprintf("ou_%032x", i)
		if i < len(twins) {
			id = twins[i]
		}
		users = append(users, larktest.User{OpenID: id, UserID: fmt.Sprintf("user.%d", i), UnionID: fmt.Sprintf("on_%d", i)})
	}
	lark := larktest.Start(t, &larktest.Config{
		Apps:  []larktest.App{{ID: larktest.AppID, Secret: larktest.AppSecret}, {ID: secondApp, Secret: "secret-of-the-second-app"}},
		Users: users, TokenPerSecond: -1, TokenPerMinute: -1,
	})
	seedBoth(t, db, lark, users)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{
		"APPS": secondApp + ":secret-of-the-second-app", "REFRESH_RATE": "100000/1s", "LOG_LEVEL": "info", "CACHE_SIZE": "150", "CACHE_TTL": "100ms",
	}})
	began := time.Now()
	var group sync.WaitGroup
	var answered, hungUp, unavailable atomic.Int64
	want := *isolationAnswers
	if testing.Short() {
		want /= 10
	}
	enough := func() bool {
		return answered.Load() >= want && hungUp.Load() >= 100 &&
			lark.Summary().Redemptions[larktest.Answered] >= 100 || t.Failed()
	}
	for i, u := range users {
		group.Go(func() {
			// A connection whose request was given up before it was sent is closed by
			// the server when no header has come for 10 s. It must not be used then.
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 5 * time.Second}}
			defer client.CloseIdleConnections()
			// revocable is when each app's access token may be revoked, so that
			// Lark never refuses a successor that must not be renewed yet.
			revocable := map[string]time.Time{larktest.AppID: began, secondApp: began}
			for !enough() {
				app, id := []string{larktest.AppID, secondApp}[rand.IntN(2)], u.OpenID
				name := id
				if !strings.HasPrefix(id, "ou_") {
					name = u.UserID
				} else if rand.IntN(4) == 0 {
					name = []string{u.UserID, u.UnionID}[rand.IntN(2)]
				}
				owner := lark.OpenIDIn(app, id)
				if at, ok := revocable[app]; ok && time.Now().After(at) && rand.IntN(20) == 0 {
					delete(revocable, app)
					lark.Revoke(owner, larktest.AccessToken)
				}
				body := fmt.Sprint("body of ", app, " ", id)
				ask, stop := context.WithCancel(t.Context())
				if rand.IntN(10) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(5_000))*time.Microsecond, stop)
				}
				r, _ := http.NewRequestWithContext(ask, "POST", p.URL+echo, strings.NewReader(body))
				r.Header.Set("X-Lark-User-Id", name)
				r.Header.Set("X-Lark-App-Id", app)
				r.Header.Set(larktest.ExpectUserHeader, owner)
				a, err := try(client, r)
				gone := ask.Err() != nil
				stop()
				switch {
				case err != nil && gone:
					hungUp.Add(1)
				case err != nil:
					t.Errorf("user %d: %v", i, err)
					return
				case a.Status == 503 && (a.Name() == "refresh_unavailable" || a.Name() == "store_unavailable"):
					unavailable.Add(1) // the machine is too busy for an answer in time
				case a.Status != 200 || a.Envelope.Owner.OpenID != owner || a.Envelope.Owner.AppID != app:
					// A user whose token Lark refuses gets the next one: no 401 here.
					t.Errorf("%s of %s got %d %s", id, app, a.Status, a.Body)
					return
				default:
					answered.Add(1)
					if _, ok := revocable[app]; !ok {
						revocable[app] = time.Now().Add(successorRest)
					}
				}
			}
		})
	}
	group.Wait()
	larktest.NoViolations(t, lark)
	t.Logf("%d answers, %d callers hung up, %d told to come back, %d refreshes, in %s", answered.Load(), hungUp.Load(), unavailable.Load(),
		lark.Summary().Redemptions[larktest.Answered], time.Since(began).Round(time.Second))
	// Unicode twins are nobody.
	for _, id := range []string{"оu_a", "ou_а", "ou_a\u200b", "ou_\uff41", "ou_a\u0301"} {
		if a := p.Get(t, echo, id); a.Status != 400 || a.Name() != "invalid_user_id" {
			t.Errorf("%q: %d %s", id, a.Status, a.Body)
		}
	}
	// The witness sees what it should.
	p.Get(t, echo, users[20].OpenID, larktest.ExpectUserHeader, users[21].OpenID)
	if n := len(lark.Violations(larktest.WrongUser)); n != 1 {
		t.Errorf("the emulator saw %d wrong users where there is one", n)
	}
}

// seedBoth stores a session for each user in each app, under the same open_id.
// Lark's open_ids differ by app, and so do the owners that the emulator names.
func seedBoth(t *testing.T, db *dbtest.DB, lark *larktest.Platform, users []larktest.User) {
	t.Helper()
	open, err := store.Open(t.Context(), store.Config{URL: session.NewSecret(db.URL), Keys: db.Keys})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	at := time.Now().Add(-time.Minute)
	for _, u := range users {
		for _, app := range []string{larktest.AppID, secondApp} {
			s := dbtest.Session(t, lark, session.Key{AppID: app, OpenID: lark.OpenIDIn(app, u.OpenID)}, at)
			s.OpenID = u.OpenID
			_, err := open.Sessions.Put(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func try(client *http.Client, r *http.Request) (*process.Answer, error) {
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	return process.Read(res)
}
