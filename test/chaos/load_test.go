package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
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
	ready        bool   // the process had said so before
	name, reason string // of an error of larkside's own
	message      string
	err          error
}

// arrival is a call as the emulator saw it.
type arrival struct {
	at                  time.Time
	token, owner, logID string
}

var callID atomic.Int64

// ask makes one call and records it.
func (x *experiment) ask(ctx context.Context, user string, replica int) call {
	life := x.replicas[replica].life()
	c := call{id: fmt.Sprint(callID.Add(1)), user: user, replica: replica, life: life.n, ready: life.ready(), from: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r := process.NewRequest(x.t, http.MethodGet, life.url+"/open-apis/apaas/v1/workspaces/w/tables", user, "", larktest.ExpectUserHeader, user, callHeader, c.id)
	if a, err := process.Try(r.WithContext(ctx)); err != nil {
		c.err = err
	} else {
		c.status, c.name, c.reason, c.message = a.Status, a.Name(), a.Envelope.Error.Reason, a.Envelope.Msg
	}
	c.to = time.Now()
	c.hungUp = context.Cause(ctx) == errHungUp
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked = append(x.asked, c)
	return c
}

var errHungUp = fmt.Errorf("hung up")

// startLoad makes calls until the function returned is called, at a pace that
// does not depend on the answers, but for a bound on the calls that wait for one
// replica.
func (x *experiment) startLoad() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	x.t.Cleanup(cancel)
	var g sync.WaitGroup
	for i := range x.replicas {
		g.Go(func() { x.load(ctx, i, rand.New(rand.NewPCG(*seed, uint64(2+i)))) })
	}
	return func() { cancel(); g.Wait() }
}

func (x *experiment) load(ctx context.Context, replica int, rng *rand.Rand) {
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
		user, hangUp, after := x.users[rng.IntN(len(x.users))], rng.IntN(20) == 0, upTo(rng, 20*time.Millisecond)
		g.TryGo(func() error {
			if hangUp {
				x.askAndHangUp(user, replica, after)
			} else {
				x.ask(context.Background(), user, replica)
			}
			return nil
		})
	}
}

func (x *experiment) askAndHangUp(user string, replica int, after time.Duration) {
	ctx, hangUp := context.WithCancelCause(context.Background())
	defer hangUp(nil)
	defer time.AfterFunc(after, func() { hangUp(errHungUp) }).Stop()
	x.ask(ctx, user, replica)
}

// harvest keeps what the judge needs of the ledger's calls, which it forgets in
// time. Unless all is wanted that is done once in a few thousand.
func (x *experiment) harvest(all bool) {
	x.mu.Lock()
	n := len(x.asked)
	x.mu.Unlock()
	if !all && n-x.harvested < 5000 {
		return
	}
	x.harvested = n
	seen := x.seen
	for _, c := range x.lark.Calls(func(c larktest.Call) bool { return c.Seq > seen }) {
		x.seen = max(x.seen, c.Seq)
		if replica, err := strconv.Atoi(c.Header.Get(replicaHeader)); err == nil && c.Endpoint == larktest.TokenEndpoint {
			connected, err := time.Parse(time.RFC3339Nano, c.Header.Get(connectedHeader))
			if err != nil {
				x.t.Errorf("when did replica %d connect: %v", replica, err)
			}
			x.redeemers[c.LogID] = redeemer{replica, connected}
		}
		if id := c.Header.Get(callHeader); id != "" {
			// A call may come twice: a GET is sent again when its connection was cut.
			x.calls[id] = append(x.calls[id], arrival{c.At, c.TokenID, c.Owner, c.LogID})
		}
	}
}

// consentAnew is what users do who were told that their grant is lost, not at
// once.
func (x *experiment) consentAnew() {
	if time.Since(x.lastConsent) < 500*time.Millisecond {
		return
	}
	x.lastConsent = time.Now()
	x.mu.Lock()
	told := map[string]bool{}
	for _, c := range x.asked[x.consented:] {
		told[c.user] = told[c.user] || c.status == http.StatusUnauthorized
	}
	x.consented = len(x.asked)
	x.mu.Unlock()
	for user, lost := range told {
		if lost {
			x.consent(user)
		}
	}
}

// consent stores a new grant as the consent flow does. Without a database the
// user is told again and comes again.
func (x *experiment) consent(user string) {
	g := stored{from: time.Now()}
	_, err := x.store.Sessions.Put(x.t.Context(), dbtest.Session(x.t, x.lark, dbtest.Key(user), g.from))
	g.to, g.failed = time.Now(), err != nil
	x.stored[user] = append(x.stored[user], g)
	if err == nil {
		x.consents++
	}
}

// stored is when a grant became the user's session. One that failed may have,
// too: the database's answer can be what got lost.
type stored struct {
	from, to time.Time
	failed   bool
}
