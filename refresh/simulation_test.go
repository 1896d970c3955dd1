package refresh

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

var (
	simSeeds = flag.Int("seeds", 0, "how many seeds TestSimulation runs; 0: 40, or 8 with -race or -short")
	simSeed  = flag.Uint64("seed", 0, "run this one seed of TestSimulation")
)

// TestSimulation runs the real code of several replicas on one database and one
// Lark, with random requests, hang-ups, lost answers, crashes, stopped
// processes, clock steps and database failures, and judges by the emulator's
// ledger:
//
//   - no refresh token is answered with a pair twice,
//   - no access token is sent past its expiry, nor another user's,
//   - a grant is lost only in the window that doc.go names, and labelled,
//   - when the faults stop, every session that was not lost works again.
//
// A failing seed is printed; "go test ./refresh -run TestSimulation -seed N"
// replays it.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		simulate(t, *simSeed)
		return
	}
	n := *simSeeds
	switch {
	case n > 0:
	case testing.Short() || raceDetector:
		n = 8
	default:
		n = 40
	}
	var failed atomic.Bool
	for seed := uint64(1); seed <= uint64(n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if failed.Load() {
				t.Skip("another seed has failed")
			}
			defer func() {
				if t.Failed() {
					failed.Store(true)
					t.Logf("replay with: go test ./refresh -run TestSimulation -seed %d", seed)
				}
			}()
			simulate(t, seed)
		})
	}
}

// sim is one run. Everything random comes from its seed.
type sim struct {
	t        *testing.T
	rng      *rand.Rand
	lark     *larktest.Platform
	db       *dbtest.DB
	raw      *sql.DB
	replicas []*simReplica
	boots    int
	keys     []session.Key
	// lossy is set once an answer of Lark's may have been lost for a user after
	// the rotation: by a fault, or by a crash while the token endpoint was asked.
	lossy map[session.Key]bool
	// story is what was done and what the replicas logged, for a run that fails.
	story story
}

// simReplica is one process. Crashing cuts its ways to the database and to Lark
// and leaves its goroutines to themselves.
type simReplica struct {
	name int
	// dead cuts the way to Lark.
	dead   atomic.Bool
	store  *store.DB
	source *Source
	// skew is how far its clock is off; pause is how long it is stopped between
	// Lark's answer and its store. Both in nanoseconds.
	skew, pause atomic.Int64
	stop        context.CancelFunc
}

const (
	simUsers    = 3
	simReplicas = 3
	simSteps    = 60
)

func simulate(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		s := &sim{
			t: t, rng: rand.New(rand.NewPCG(seed, 1)), lossy: map[session.Key]bool{}, db: sharedSQLite(t),
			lark: inprocess.NewLark(t, func(c *larktest.Config) { c.AccessLife = 10 * time.Minute }),
		}
		for range simReplicas {
			s.replicas = append(s.replicas, s.boot())
		}
		s.raw = s.db.SQL(t)
		for i := range simUsers {
			id := s.lark.AddUser(larktest.User{OpenID: fmt.Sprintf("ou_sim%d", i)})
			dbtest.Seed(t, s.replicas[0].store, s.lark, time.Now(), id)
			s.keys = append(s.keys, dbtest.Key(id))
		}
		s.story.began = time.Now()
		defer s.tell()
		for range simSteps {
			s.step()
			s.judge()
		}
		s.settle()
	})
}

func (s *sim) boot() *simReplica {
	s.boots++
	r := &simReplica{name: s.boots}
	db := s.db.Open(s.t, func(c *store.Config) { c.CacheTTL, c.Now = 5*time.Second, r.now })
	ctx, stop := context.WithCancel(context.Background())
	client := inprocess.Client(s.t, s.lark, roundTrip(func(req *http.Request) (*http.Response, error) {
		if r.dead.Load() {
			return nil, errors.New("the process is dead")
		}
		return s.lark.Transport().RoundTrip(req)
	}))
	r.store, r.stop = db, stop
	c := configOf(db)
	c.Apps, c.Sweep = map[string]Lark{larktest.AppID: client}, 20*time.Minute
	c.Now, c.Log = r.now, slog.New(slog.NewTextHandler(&s.story, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if r.source, err = New(c); err != nil {
		s.t.Fatal(err)
	}
	r.source.testingOnlyBeforeStore = func(session.Key) { time.Sleep(time.Duration(r.pause.Load())) }
	go r.source.Run(ctx)
	s.t.Cleanup(stop)
	return r
}

func (r *simReplica) now() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) }

// step does one random thing.
func (s *sim) step() {
	r := s.replicas[s.rng.IntN(len(s.replicas))]
	k := s.keys[s.rng.IntN(len(s.keys))]
	switch n := s.rng.IntN(100); {
	case n < 45:
		s.requests(1 + s.rng.IntN(6))
	case n < 60:
		time.Sleep(time.Duration(s.rng.IntN(int(8 * time.Minute))))
	case n < 72:
		s.faultAtLark(k)
	case n < 80:
		s.crash(r)
	case n < 86:
		s.databaseAway()
	case n < 90:
		r.skew.Store(int64(time.Duration(s.rng.IntN(9)-4) * time.Second))
	case n < 94:
		s.stopped(r, k)
	case n < 97:
		s.lark.ClearFaults()
	default:
		time.Sleep(time.Duration(s.rng.IntN(int(48 * time.Hour))))
	}
}

// requests come at once, at any replicas, for any users; some hang up.
func (s *sim) requests(n int) {
	type call struct {
		r *simReplica
		k session.Key
		d time.Duration
	}
	calls := make([]call, n)
	for i := range calls {
		calls[i] = call{s.replicas[s.rng.IntN(simReplicas)], s.keys[s.rng.IntN(simUsers)], time.Duration(1+s.rng.IntN(40_000)) * time.Millisecond}
	}
	together(n, func(i int) {
		c := calls[i]
		ctx, hangUp := context.WithTimeout(s.t.Context(), c.d)
		defer hangUp()
		a, how, err := c.r.source.Token(ctx, c.k)
		s.note("replica %d, %s, hangs up after %v: %v, %v", c.r.name, c.k.OpenID, c.d, how, err)
		if err == nil {
			s.use(c.k, a, c.r.now())
		}
	})
}

// use sends the token to Lark as a proxied request would.
func (s *sim) use(k session.Key, a *session.Access, now time.Time) {
	if a.Key != k {
		s.t.Errorf("%v was given the token of %v", k, a.Key)
	}
	if !a.Usable(now) {
		s.t.Errorf("%v was given a token that is not usable", k)
	}
}

func (s *sim) faultAtLark(k session.Key) {
	f := larktest.Fault{Endpoint: larktest.TokenEndpoint, OpenID: k.OpenID, Times: 1 + s.rng.IntN(3)}
	switch s.rng.IntN(8) {
	case 0:
		f.Code = 20050
	case 1:
		f.Code = 20072
	case 2:
		f.Code = 99991400
	case 3:
		f.Drop = true
	case 4:
		f.Status, f.Body = 502, "<html>"
	case 5:
		f.Delay = time.Duration(s.rng.IntN(9000)) * time.Millisecond
	case 6:
		f.Processed, f.Drop = true, true
		s.lossy[k] = true
	case 7:
		f.Delay = 11 * time.Second // longer than the exchange may take
		s.lossy[k] = true
	}
	s.note("fault %+v", f)
	s.lark.Fault(f)
}

// crash kills a replica: nothing that it has in hand reaches the database any
// more. A fresh one takes its place.
func (s *sim) crash(r *simReplica) {
	r.dead.Store(true)
	r.stop()
	r.store.Close()
	i := slices.Index(s.replicas, r)
	s.replicas[i] = s.boot()
	// Looked at once it is dead: a statement that waits for the database when
	// its process is killed may take the lease all the same.
	for _, k := range s.keys {
		row, err := s.replicas[i].store.Sessions.Load(s.t.Context(), k)
		if err != nil {
			s.t.Fatal(err)
		}
		if row.Attempts > 0 {
			s.lossy[k] = true // an exchange may have been under way
		}
		s.note("replica %d is killed, %d takes its place; %s: %s, version %d, %d attempts, %d failures",
			r.name, s.boots, k.OpenID, row.State, row.Version, row.Attempts, row.Failures)
	}
}

// databaseAway takes the table away for a while, under load.
func (s *sim) databaseAway() {
	if _, err := s.raw.Exec(`ALTER TABLE sessions RENAME TO away`); err != nil {
		s.t.Fatal(err)
	}
	back := make(chan struct{})
	d := time.Duration(s.rng.IntN(30)) * time.Second
	s.note("database away for %v", d)
	go func() {
		defer close(back)
		time.Sleep(d)
		if _, err := s.raw.Exec(`ALTER TABLE away RENAME TO sessions`); err != nil {
			s.t.Error(err)
		}
	}()
	s.requests(3)
	<-back
}

// stopped halts one replica, between Lark's answer and its store, for longer
// than its lease.
func (s *sim) stopped(r *simReplica, k session.Key) {
	s.note("replica %d is stopped after its next answer", r.name)
	r.pause.Store(int64(45 * time.Second))
	s.requests(4)
	synctest.Wait()
	time.Sleep(time.Minute)
	r.pause.Store(0)
}

// judge checks what must hold at any time.
func (s *sim) judge() {
	synctest.Wait()
	for _, k := range s.keys {
		for _, token := range s.lark.Ledger(k.OpenID) {
			if n := answered(token); n > 1 {
				s.t.Errorf("%s: a refresh token was answered %d times", k.OpenID, n)
			}
		}
	}
}

// settle stops all faults and asks for every session until it is what it will
// remain.
func (s *sim) settle() {
	s.lark.ClearFaults()
	for _, r := range s.replicas {
		r.skew.Store(0)
	}
	time.Sleep(5 * time.Minute)
	for _, k := range s.keys {
		s.settleOne(k)
	}
	// What still runs in the background has to end inside the bubble.
	for _, r := range s.replicas {
		r.stop()
		if err := r.source.Shutdown(s.t.Context()); err != nil {
			s.t.Error(err)
		}
	}
	time.Sleep(30 * time.Minute)
}

func (s *sim) settleOne(k session.Key) {
	var last error
	for range 20 {
		a, _, err := s.replicas[0].source.Token(s.t.Context(), k)
		if err == nil {
			s.use(k, a, time.Now())
			return
		}
		last = err
		var e *session.ConsentRequiredError
		if errors.As(err, &e) {
			if !s.lossy[k] {
				s.t.Errorf("%s was lost (%s) though no answer of Lark's was", k.OpenID, e.Reason)
			}
			if e.Reason != session.RefreshTokenUsed {
				s.t.Errorf("%s was lost as %s, want %s", k.OpenID, e.Reason, session.RefreshTokenUsed)
			}
			return
		}
		time.Sleep(30 * time.Second)
	}
	s.t.Errorf("%s does not settle: %v", k.OpenID, last)
}

// story is written by many at once.
type story struct {
	mu    sync.Mutex
	text  bytes.Buffer
	began time.Time
}

func (st *story) Write(line []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	fmt.Fprintf(&st.text, "%12v  %s", time.Since(st.began), line)
	return len(line), nil
}

func (s *sim) note(format string, args ...any) { fmt.Fprintf(&s.story, format+"\n", args...) }

// tell prints what happened and every use of every refresh token.
func (s *sim) tell() {
	if !s.t.Failed() {
		return
	}
	s.story.mu.Lock()
	s.t.Log("\n" + s.story.text.String())
	s.story.mu.Unlock()
	for _, k := range s.keys {
		for _, token := range s.lark.Ledger(k.OpenID) {
			for _, r := range token.Redemptions {
				s.t.Logf("%s: %v %+v", k.OpenID, token.ID, r)
			}
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
