package saves

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

// person is a user, and the day before them. Times count from midnight.
type person struct {
	openID string
	// granted: the user has consented the day before.
	granted bool
	// ends is when an administrator takes the grant back; 0: not that day.
	ends time.Duration
	// thinks is how long the user takes to follow a link.
	thinks time.Duration
	tasks  []task
}

// task is some calls, by the instance that each comes to. together: the first two
// are made at once.
type task struct {
	at       time.Duration
	together bool
	calls    [callsPerTask]int
}

// steady reports whether nobody has to ask the user for anything that day.
func (p *person) steady() bool { return p.granted && p.ends == 0 }

// asked reports whether the user calls at a time at which there is no grant.
func (p *person) asked() bool {
	return !p.granted || p.ends > 0 && p.tasks[len(p.tasks)-1].at > p.ends
}

// people returns the same users and the same day each time.
func people(users, tasks int) []*person {
	rng := rand.New(rand.NewPCG(1, 2))
	within := func(from, to time.Duration) time.Duration { return from + time.Duration(rng.Int64N(int64(to-from))) }
	all := make([]*person, users)
	for i := range all {
		p := &person{openID: fmt.Sprintf("ou_user%d", i), granted: i >= users*newShare/1000, thinks: within(time.Minute, 5*time.Minute)}
		if p.granted && i < users*(newShare+endingShare)/1000 {
			p.ends = within(day.begin+(day.end-day.begin)/8, day.end-(day.end-day.begin)/4)
		}
		for range tasks {
			next := task{at: within(day.begin, day.end), together: rng.IntN(togetherEvery) == 0}
			for k := range next.calls {
				next.calls[k] = rng.IntN(instances)
			}
			p.tasks = append(p.tasks, next)
		}
		slices.SortFunc(p.tasks, func(a, b task) int { return int(a.at - b.at) })
		all[i] = p
	}
	return all
}

// way is how an app's calls get their tokens.
type way interface {
	// call makes a user's call on an instance. Without a token it returns false,
	// and the link by which the user can consent, if there is one.
	call(instance int, openID string) (link string, ok bool)
	// consent is what the link's page does once the user has opened it.
	consent(t testing.TB, openID, link string)
}

// world is a Lark and a database, with what is counted there.
type world struct {
	lark *larktest.Platform
	db   *dbtest.DB
	statements
	driverName string
	// calls are the app's, and without are those that found no token. withoutSteady and
	// messagesSteady are of steady users.
	calls, without, withoutSteady atomic.Int64
	// tokenCalls are those to the token endpoint, and refusals what it refused.
	tokenCalls, refusals     atomic.Int64
	messages, messagesSteady int
}

// begin starts the world. Everybody is in it, and nothing has been granted.
func (w *world) begin(t testing.TB, people []*person) {
	w.db = dbtest.SQLite(t)
	w.db.Shared = true
	w.driverName = w.statements.driver(t)
	w.lark = inprocess.NewLark(t, func(c *larktest.Config) {
		c.TokenPerSecond, c.TokenPerMinute = 0, 0 // Lark's
		c.Apps = []larktest.App{{
			ID: larktest.AppID, Secret: larktest.AppSecret, Name: "Tables", Scopes: larktest.DefaultScopes(),
			RedirectURIs: []string{callback},
		}}
		// It says little, so that the emulator is done soon.
		c.Routes = []larktest.Route{{Method: http.MethodGet, Pattern: path, Takes: larktest.TakesUser, Scopes: scopes[:1],
			Serve: func(w http.ResponseWriter, _ *http.Request, _ string) { io.WriteString(w, `{"code":0}`) }}}
	})
	for _, p := range people {
		w.lark.AddUser(larktest.User{OpenID: p.openID, Name: p.openID})
	}
}

// RoundTrip is the way to Lark. It takes its time, and counts.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	takes := callTakes
	token := r.URL.Path == dbtest.TokenPath
	if token {
		takes = tokenTakes
	}
	time.Sleep(takes / 2)
	answer, err := w.lark.Transport().RoundTrip(r)
	time.Sleep(takes / 2)
	if token {
		w.tokenCalls.Add(1)
		if err == nil && answer.StatusCode != http.StatusOK {
			w.refusals.Add(1)
		}
	}
	return answer, err
}

// live has everybody work through the day.
func (w *world) live(t testing.TB, people []*person, way way) {
	midnight := time.Now().Truncate(24 * time.Hour)
	w.statements.reset()
	var all sync.WaitGroup
	for _, p := range people {
		if p.ends > 0 {
			all.Go(func() {
				time.Sleep(time.Until(midnight.Add(p.ends)))
				if err := w.lark.Revoke(p.openID); err != nil {
					t.Error(err)
				}
			})
		}
		var deciding atomic.Bool
		all.Go(func() {
			for _, task := range p.tasks {
				time.Sleep(time.Until(midnight.Add(task.at)))
				link, ok := w.work(p, task, way)
				if !ok && link != "" && deciding.CompareAndSwap(false, true) {
					all.Go(func() {
						time.Sleep(p.thinks)
						way.consent(t, p.openID, link)
						deciding.Store(false)
					})
				}
			}
		})
	}
	all.Wait()
	time.Sleep(time.Until(midnight.Add(day.until)))
	for _, p := range people {
		n := len(w.lark.Messages(p.openID))
		w.messages += n
		if p.steady() {
			w.messagesSteady += n
		}
	}
}

// work does a task, until a call finds no token.
func (w *world) work(p *person, task task, way way) (link string, ok bool) {
	rest := task.calls[:]
	if task.together {
		var other sync.WaitGroup
		var otherLink string
		var otherOK bool
		other.Go(func() { otherLink, otherOK = w.call(p, rest[1], way) })
		link, ok = w.call(p, rest[0], way)
		other.Wait()
		if !otherOK {
			link, ok = otherLink, false
		}
		if !ok {
			return link, false
		}
		rest = rest[2:]
	}
	for _, instance := range rest {
		if link, ok = w.call(p, instance, way); !ok {
			return link, false
		}
		time.Sleep(time.Second)
	}
	return "", true
}

func (w *world) call(p *person, instance int, way way) (link string, ok bool) {
	w.calls.Add(1)
	link, ok = way.call(instance, p.openID)
	if !ok {
		w.without.Add(1)
		if p.steady() {
			w.withoutSteady.Add(1)
		}
	}
	return link, ok
}

// yesterday is the day before, at whose end everybody consents who has by then. It
// returns when counting begins.
func yesterday(people []*person, seed func(openID string, at time.Time)) {
	midnight := time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
	time.Sleep(day.end)
	for _, p := range people {
		if p.granted {
			seed(p.openID, time.Now())
		}
	}
	time.Sleep(time.Until(midnight.Add(day.from)))
}
