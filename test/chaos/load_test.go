package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/session"
	"larkside/test/larktest"
)

// patience is how long a caller waits for an answer.
const patience = 10 * time.Second

const (
	// callsPerSecond and callsAtOnce are for each replica.
	callsPerSecond = 40
	callsAtOnce    = 100
)

// callHeader lets the ledger's calls be told apart.
const callHeader = "X-Chaos-Call"

// call is one request as its caller saw it.
type call struct {
	id       string
	user     string
	replica  int
	life     int
	from, to time.Time
	// status is 0 when no answer came; hungUp if the caller did not want one.
	status       int
	hungUp       bool
	ready        bool   // for a 503: the process had been ready
	name, reason string // of an error of larkside's own
	message      string
	err          error
}

// arrival is a call as the emulator saw it.
type arrival struct {
	at                  time.Time
	token, owner, logID string
}

var (
	callers = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	callID  atomic.Int64
)

// ask makes one call and records it.
func (w *world) ask(ctx context.Context, user string, replica int) call {
	life := w.replicas[replica].life()
	c := call{id: fmt.Sprint(callID.Add(1)), user: user, replica: replica, life: life.n, from: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, life.url+"/open-apis/apaas/v1/workspaces/w/tables", nil)
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-Lark-User-Id", user)
	r.Header.Set(larktest.ExpectUserHeader, user)
	r.Header.Set(callHeader, c.id)
	c.read(callers.Do(r))
	c.to = time.Now()
	c.hungUp = context.Cause(ctx) == errHungUp
	c.ready = c.status != http.StatusServiceUnavailable || life.ready()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, c)
	return c
}

func (c *call) read(res *http.Response, err error) {
	if err != nil {
		c.err = err
		return
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.err = err
		return
	}
	var envelope struct {
		Msg   string
		Error struct{ Reason string }
	}
	json.Unmarshal(body, &envelope) // what isn't JSON has no reason
	c.status, c.name = res.StatusCode, res.Header.Get("X-Larkside-Error")
	c.reason, c.message = envelope.Error.Reason, envelope.Msg
}

var errHungUp = fmt.Errorf("hung up")

// startLoad makes calls until the function returned is called, at a pace that
// does not depend on the answers, but for a bound on the calls that wait for one
// replica.
func (w *world) startLoad() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	var g sync.WaitGroup
	for i := range w.replicas {
		g.Go(func() { w.load(ctx, i, rand.New(rand.NewPCG(*seed, uint64(2+i)))) })
	}
	return func() { cancel(); g.Wait() }
}

func (w *world) load(ctx context.Context, replica int, rng *rand.Rand) {
	var g errgroup.Group
	defer g.Wait()
	g.SetLimit(callsAtOnce)
	pace := time.NewTicker(time.Second / callsPerSecond)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		user, hangUp, after := w.users[rng.IntN(len(w.users))], rng.IntN(20) == 0, upTo(rng, 20*time.Millisecond)
		g.TryGo(func() error {
			if hangUp {
				w.askAndHangUp(user, replica, after)
			} else {
				w.ask(context.Background(), user, replica)
			}
			return nil
		})
	}
}

func (w *world) askAndHangUp(user string, replica int, after time.Duration) {
	ctx, hangUp := context.WithCancelCause(context.Background())
	defer hangUp(nil)
	defer time.AfterFunc(after, func() { hangUp(errHungUp) }).Stop()
	w.ask(ctx, user, replica)
}

// harvest keeps what the judge needs of the ledger's calls, which it forgets in
// time. Unless all is wanted that is done once in a few thousand.
func (w *world) harvest(all bool) {
	w.mu.Lock()
	n := len(w.asked)
	w.mu.Unlock()
	if !all && n-w.harvested < 5000 {
		return
	}
	w.harvested = n
	seen := w.seen
	for _, c := range w.lark.Calls(func(c larktest.Call) bool { return c.Seq > seen }) {
		w.seen = max(w.seen, c.Seq)
		if replica, err := strconv.Atoi(c.Header.Get(replicaHeader)); err == nil && c.Endpoint == larktest.TokenEndpoint {
			w.redeemers[c.LogID] = replica
		}
		if id := c.Header.Get(callHeader); id != "" {
			// A call may come twice: a GET is sent again when its connection was cut.
			w.calls[id] = append(w.calls[id], arrival{c.At, c.TokenID, c.Owner, c.LogID})
		}
	}
}

// consentAnew is what users do who were told that their grant is lost, not at
// once.
func (w *world) consentAnew() {
	if time.Since(w.lastConsent) < 500*time.Millisecond {
		return
	}
	w.lastConsent = time.Now()
	w.mu.Lock()
	told := map[string]bool{}
	for _, c := range w.asked[w.consented:] {
		told[c.user] = told[c.user] || c.status == http.StatusUnauthorized
	}
	w.consented = len(w.asked)
	w.mu.Unlock()
	for user, lost := range told {
		if lost {
			w.consent(user)
		}
	}
}

// consent stores a new grant as the consent flow does. Without a database the
// user is told again and comes again.
func (w *world) consent(user string) {
	granted, err := w.lark.Grant(larktest.AppID, user)
	if err != nil {
		w.t.Errorf("granting: %v", err)
		return
	}
	now := time.Now()
	g := stored{from: now}
	_, err = w.store.Sessions.Put(w.t.Context(), session.Session{
		Key:         session.Key{AppID: larktest.AppID, OpenID: user},
		AccessToken: session.NewSecret(granted.AccessToken), RefreshToken: session.NewSecret(granted.RefreshToken),
		TokenType: "Bearer", TokenURL: w.lark.URL + "/open-apis/authen/v2/oauth/token", Scope: granted.Scope,
		IssuedAt: now, ExpiresAt: now.Add(granted.ExpiresIn), RefreshExpiresAt: now.Add(granted.RefreshExpiresIn),
		GrantedAt: now, SyncedAt: now,
	})
	g.to, g.failed = time.Now(), err != nil
	w.stored[user] = append(w.stored[user], g)
	if err == nil {
		w.consents++
	}
}

// stored is when a grant became the user's session. One that failed may have,
// too: the database's answer can be what got lost.
type stored struct {
	from, to time.Time
	failed   bool
}
