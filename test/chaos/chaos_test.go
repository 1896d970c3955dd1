package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"larkside/session/store"
	"larkside/test/larktest"
	"larkside/test/process"
)

var (
	duration = flag.Duration("duration", 15*time.Second, "how long new faults strike; the longest ends after 22 s, and leases of the killed run out after 20 s")
	strict   = flag.Bool("strict", false, "fail on a single call that failed while no fault explains it; for a quiet machine")
	clock    = flag.Duration("clock", 0, "how far the clock of one replica is off, in whole seconds, such as 90s or -90s; access tokens live for minutes then")
	seed     = flag.Uint64("seed", 0, "seed of the fault schedule; 0: a new one, which is printed")
)

const (
	replicaCount = 3
	userCount    = 40
	// lease is twice larkside's exchange timeout.
	lease    = 20 * time.Second
	cacheTTL = 2 * time.Second
	// wrongClock is the replica whose clock is off.
	wrongClock = replicaCount - 1
)

// accessLife and threshold make a session be renewed every few seconds. Each
// token lives for half of accessLife up to the whole.
//
// Lark's tokens live for 2 h. A clock that is 90 s off means little to them, and
// makes nonsense of those that live for 9 s: renewed is what has ended by any
// clock. So they live for longer than it is off beside such a clock, and are
// renewed after a twentieth of their life.
func accessLife() time.Duration {
	if *clock != 0 {
		return 8 * clock.Abs() / 3 // half of it, but for a twentieth, is a quarter more
	}
	return 9 * time.Second
}

func threshold() string {
	if *clock != 0 {
		return "0.95"
	}
	return "0.3"
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(process.Main(m))
}

func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1 << 32)
	}
	t.Logf("seed %d; replay with: %s", *seed, replay())
	x := newExperiment(t)
	plan := schedule(rand.New(rand.NewPCG(*seed, 1)), *duration)
	stop := x.startLoad()
	x.play(plan)
	x.settle()
	stop()
	j := newJudge(x)
	j.judge()
	t.Log(j.report(plan))
	for _, failure := range j.failures {
		t.Error(failure)
	}
	if len(j.failures) > 0 {
		t.Errorf("the same faults again: %s", replay())
	}
	for _, doubt := range j.doubts {
		t.Log(doubt)
	}
	if n := len(j.doubts); n > 0 && (*strict || n*100 > len(x.asked) && !j.starved()) {
		t.Errorf("%d of %d calls failed without a fault that explains it", n, len(x.asked))
	}
}

func replay() string {
	again := fmt.Sprintf("go test -v ./test/chaos -seed %d -duration %v", *seed, *duration)
	if *clock != 0 {
		again += fmt.Sprintf(" -clock %v", *clock)
	}
	return again
}

// experiment is a run of the test: all that takes part, and what was seen.
type experiment struct {
	t        *testing.T
	lark     *larktest.Platform
	database *database
	replicas []*replica
	users    []string
	store    *store.DB // the users' consents come this way

	mu sync.Mutex // guards events and asked
	// events are the faults that were in force, for the judge.
	events []event
	// asked are the calls that ended.
	asked []call

	// calls is what the emulator saw of them, by their id; seen the ledger's
	// number of the last one taken, harvested the length of asked then.
	calls map[string][]arrival
	// redeemers are those who sent a refresh token, by the log id.
	redeemers       map[string]redeemer
	seen, harvested int
	// consented is how many of asked were looked through for users who need to
	// consent, consents how many did.
	consented, consents int
	lastConsent         time.Time
	// stored has for each user what became of the grants, in the order in which
	// the emulator issued them.
	stored map[string][]stored
}

// redeemer is who sent a refresh token: the process of the replica that connected
// to Lark at that time.
type redeemer struct {
	replica   int
	connected time.Time
}

// event is a fault while it was in force.
type event struct {
	kind     kind
	replica  int // -1: all
	from, to time.Time
}

// replica is one larkside; its process comes and goes.
type replica struct {
	database, listen *link
	lark             *cutter
	process          *process.Process

	mu    sync.Mutex
	lives []life // its processes, one after the other
}

// life is one process from start to end.
type life struct {
	n   int
	url string
	log *process.Log
	// saidReady is whether ready has been found in the log.
	saidReady *atomic.Bool
}

func (l life) ready() bool {
	if !l.saidReady.Load() && len(l.log.Find(func(l process.Line) bool { return l.Msg == "ready" })) > 0 {
		l.saidReady.Store(true)
	}
	return l.saidReady.Load()
}

// begin notes a process that has started.
func (r *replica) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives = append(r.lives, life{len(r.lives), r.process.URL, r.process.Log(), new(atomic.Bool)})
}

func (r *replica) life() life {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lives[len(r.lives)-1]
}

func newExperiment(t *testing.T) *experiment {
	x := &experiment{t: t, database: startDatabase(t), calls: map[string][]arrival{}, redeemers: map[string]redeemer{}, stored: map[string][]stored{}}
	x.lark = larktest.New(larktest.Config{
		URL: "http://lark.test", AdHocUsers: true, AccessLife: accessLife(), RandomLives: true, KeepCalls: 50_000, TokenPerMinute: -1,
	})
	t.Cleanup(x.lark.Close)
	for i := range userCount {
		x.users = append(x.users, fmt.Sprintf("ou_%032x", i+1))
	}
	x.store = x.database.link().DB().Open(t, nil)
	for _, user := range x.users {
		x.consent(user)
	}
	x.consents = 0
	program := ""
	if *clock != 0 {
		program = clockProgram(t)
	}
	for i := range replicaCount {
		r := &replica{database: x.database.link(), listen: x.database.link()}
		r.lark = newCutter(t, "")
		r.lark.lead(x.serveLark(i, r.lark.beganAt))
		options := x.options(r)
		if *clock != 0 && i == wrongClock {
			options.Program = program
			options.Environ = []string{fmt.Sprintf("%s=%d", clockVariable, int(clock.Seconds()))}
		}
		r.process = process.Start(t, options)
		r.process.AwaitReady()
		if i == wrongClock {
			checkClock(t, r.process.Log())
		}
		r.begin()
		x.replicas = append(x.replicas, r)
	}
	return x
}

// replicaHeader and connectedHeader say in the ledger which replica a request
// came from, and when its connection was made.
const (
	replicaHeader   = "X-Chaos-Replica"
	connectedHeader = "X-Chaos-Connected"
)

// serveLark serves the emulator to one replica, which takes it for its outbound
// proxy: that way all its requests come in here, whatever URL a session's
// TokenURL has, and the ledger can tell who spent a refresh token.
func (x *experiment) serveLark(replica int, connected func(address string) time.Time) (address string) {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.Header.Set(replicaHeader, strconv.Itoa(replica))
		r.Header.Set(connectedHeader, connected(r.RemoteAddr).Format(time.RFC3339Nano))
		x.lark.ServeHTTP(rw, r)
	}))
	x.t.Cleanup(func() {
		x.lark.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

func (x *experiment) options(r *replica) process.Options {
	return process.Options{
		Lark: x.lark, DB: r.database.DB(), Unready: true,
		Env: map[string]string{
			"DATABASE_LISTEN_URL": r.listen.URL(),
			"UPSTREAM_PROXY":      "http://" + r.lark.address(), "CARD": "off", "LOG_LEVEL": "info",
			// Tokens this short would meet the default ceiling of 900 a minute, which
			// is not what this is about.
			"REFRESH_RATE": "45/1s,6000/1m", "REFRESH_THRESHOLD": threshold(), "CACHE_TTL": cacheTTL.String(), "SHUTDOWN_GRACE": "5s",
		},
	}
}

// began notes a fault that has begun; the function returned, that it is over.
func (x *experiment) began(k kind, replica int) (over func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := len(x.events)
	x.events = append(x.events, event{k, replica, time.Now(), time.Time{}})
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.events[n].to = time.Now()
	}
}

// kind of fault.
type kind string

const (
	kill           kind = "kill -9"
	pause          kind = "SIGSTOP"
	longPause      kind = "SIGSTOP for longer than the lease"
	restart        kind = "PostgreSQL restarted"
	failover       kind = "the standby promoted, the old primary read-only"
	failoverDead   kind = "the standby promoted, the old primary dead"
	full           kind = "PostgreSQL takes no more connections"
	expelled       kind = "PostgreSQL ends all connections and takes no more"
	silentListen   kind = "LISTEN connection of a replica silent"
	databaseCut    kind = "database connections of a replica cut"
	databaseStall  kind = "database connections of a replica hang"
	larkCut        kind = "connections of a replica to Lark cut"
	larkStall      kind = "connections of a replica to Lark hang"
	tokenHang      kind = "token endpoint hangs"
	heldAnswers    kind = "token answers held back after the rotation"
	slowAnswers    kind = "slow token answers"
	lostRequests   kind = "token requests lost"
	lostAnswers    kind = "token answers lost after the rotation"
	spoiledAnswers kind = "token answers truncated after the rotation"
	gateway        kind = "504 after the rotation"
	busy           kind = "20050, 20072, 429"
)

// menu says how often a fault strikes, relative to the others, for how long, and
// what must not be broken twice at a time.
var menu = []struct {
	kind        kind
	weight      int
	least, most time.Duration
	resource    string
}{
	{kill, 7, 100 * time.Millisecond, 2 * time.Second, "process"},
	{pause, 4, 50 * time.Millisecond, 3 * time.Second, "process"},
	{longPause, 1, lease + time.Second, lease + 3*time.Second, "process"},
	{restart, 2, 100 * time.Millisecond, 2 * time.Second, "postgres"},
	{failover, 1, 3 * time.Second, 20 * time.Second, "postgres"},
	{failoverDead, 1, 2 * time.Second, 5 * time.Second, "postgres"},
	{full, 1, time.Second, 4 * time.Second, "postgres"},
	{expelled, 1, 200 * time.Millisecond, 2 * time.Second, "postgres"},
	{silentListen, 2, 200 * time.Millisecond, 4 * time.Second, "listen"},
	{databaseCut, 3, 0, 2 * time.Second, "database"},
	{databaseStall, 3, 200 * time.Millisecond, 4 * time.Second, "database"},
	{larkCut, 3, 0, time.Second, "connections"},
	{larkStall, 3, 200 * time.Millisecond, 3 * time.Second, "connections"},
	{tokenHang, 2, 200 * time.Millisecond, 3 * time.Second, "lark"},
	{heldAnswers, 2, 200 * time.Millisecond, 2 * time.Second, "lark"},
	{slowAnswers, 3, time.Second, 3 * time.Second, "lark"},
	{lostRequests, 2, time.Second, 3 * time.Second, "lark"},
	{lostAnswers, 1, time.Second, 2 * time.Second, "lark"},
	{spoiledAnswers, 1, time.Second, 2 * time.Second, "lark"},
	{gateway, 1, time.Second, 2 * time.Second, "lark"},
	{busy, 3, time.Second, 3 * time.Second, "lark"},
}

// planned is one fault of the schedule. Times count from the start.
type planned struct {
	kind     kind
	replica  int
	from, to time.Duration
	// n and delay are for faults of the emulator.
	n     int
	delay time.Duration
}

// schedule is the same for the same seed and length. One replica at least is
// left alone at any time.
func schedule(rng *rand.Rand, length time.Duration) []planned {
	free := map[string]time.Duration{}
	var plan []planned
	// One that is longer than a short run.
	stopped := planned{kind: longPause, replica: rng.IntN(replicaCount), from: 500 * time.Millisecond, to: lease + 1500*time.Millisecond}
	plan = append(plan, stopped)
	free[fmt.Sprint("process", stopped.replica)] = stopped.to
	total := 0
	for _, m := range menu {
		total += m.weight
	}
	for at := 500 * time.Millisecond; at < length; at += 100*time.Millisecond + upTo(rng, 700*time.Millisecond) {
		i, pick := 0, rng.IntN(total)
		for pick >= menu[i].weight {
			pick -= menu[i].weight
			i++
		}
		m := menu[i]
		p := planned{kind: m.kind, replica: -1, from: at, to: at + m.least + upTo(rng, m.most-m.least), n: 1 + rng.IntN(3), delay: upTo(rng, 1500*time.Millisecond)}
		resource, replica := m.resource, rng.IntN(replicaCount)
		if resource == "process" || resource == "database" || resource == "connections" || resource == "listen" {
			p.replica = replica
			resource = fmt.Sprint(resource, replica)
		}
		if p.to > length || free[resource] > at || m.resource == "process" && othersBusy(free, replica, at) {
			continue
		}
		free[resource] = p.to
		plan = append(plan, p)
	}
	return plan
}

func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

// othersBusy is whether no other replica would be left at work.
func othersBusy(free map[string]time.Duration, replica int, at time.Duration) bool {
	for i := range replicaCount {
		if i != replica && free[fmt.Sprint("process", i)] <= at {
			return false
		}
	}
	return true
}

// play lets the faults of the plan strike and end.
func (x *experiment) play(plan []planned) {
	start := time.Now()
	type ending struct {
		at   time.Duration
		undo func()
	}
	var endings []ending
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	endUntil := func(now time.Duration) {
		due := endings
		endings = nil
		for _, e := range due {
			if e.at > now {
				endings = append(endings, e)
			} else {
				e.undo()
			}
		}
	}
	for len(plan) > 0 || len(endings) > 0 {
		<-tick.C
		now := time.Since(start)
		for len(plan) > 0 && plan[0].from <= now {
			// A fault may strike late, since another took its time to begin or end.
			// What it must not meet ends before it all the same.
			endUntil(plan[0].from)
			endings = append(endings, ending{plan[0].to, x.strike(plan[0])})
			plan = plan[1:]
		}
		endUntil(now)
		x.harvest(false)
		x.consentAnew()
	}
}

// strike begins a fault and returns what ends it.
func (x *experiment) strike(p planned) (undo func()) {
	var end func()
	over := x.began(p.kind, p.replica)
	switch p.kind {
	case kill:
		r := x.replicas[p.replica]
		r.process.Kill()
		end = func() { r.process.Restart(); r.begin() }
	case pause, longPause:
		r := x.replicas[p.replica]
		r.process.Signal(syscall.SIGSTOP)
		end = func() { r.process.Signal(syscall.SIGCONT) }
	case restart:
		server := x.database.server()
		server.Stop()
		end = server.Start
	case failover, failoverDead:
		end = x.database.failOver(p.kind == failoverDead)
		over() // the new primary is there: that the old one lives on excuses nothing
		return end
	case full, expelled:
		x.database.execute("ALTER ROLE " + role + " CONNECTION LIMIT 0")
		if p.kind == expelled {
			x.database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + role + "'")
		}
		end = func() { x.database.execute("ALTER ROLE " + role + " CONNECTION LIMIT -1") }
	case databaseCut, larkCut:
		end = x.disturb(p, (*cutter).cut, true)
	case databaseStall, larkStall:
		end = x.disturb(p, (*cutter).flow, false)
	case silentListen:
		end = x.disturb(p, (*cutter).silence, true)
	default:
		end = x.spoil(p)
	}
	return func() { end(); over() }
}

// disturb does something to all connections of a kind; end does the opposite.
func (x *experiment) disturb(p planned, do func(*cutter, bool), how bool) (end func()) {
	r := x.replicas[p.replica]
	var cutters []*cutter
	switch p.kind {
	case larkCut, larkStall:
		cutters = []*cutter{r.lark}
	case silentListen:
		cutters = r.listen.cutters[:]
	default:
		cutters = slices.Concat(r.database.cutters[:], r.listen.cutters[:])
	}
	for _, c := range cutters {
		do(c, how)
	}
	return func() {
		for _, c := range cutters {
			do(c, !how)
		}
	}
}

// spoil lets the emulator misbehave.
func (x *experiment) spoil(p planned) (end func()) {
	f := larktest.Fault{Endpoint: larktest.TokenEndpoint, Times: p.n}
	switch p.kind {
	case tokenHang:
		f.Hang, f.Times = true, -1
	case heldAnswers:
		f.HangAnswer = true
	case slowAnswers:
		f.Delay, f.Times = p.delay, 10*p.n
	case lostRequests:
		f.Drop, f.Times = true, 3*p.n
	case lostAnswers:
		f.Drop, f.Processed = true, true
	case spoiledAnswers:
		f.Truncate = true
	case gateway:
		f.Status, f.Processed = 504, true
	case busy:
		f.Code, f.Times = []int{20050, 20072, 99991400}[p.n-1], 3*p.n
	}
	return x.lark.Fault(f).Remove
}

// settle waits until every user is served by every replica again.
func (x *experiment) settle() {
	over := x.began("after the faults", -1)
	defer over()
	for _, r := range x.replicas {
		r.process.AwaitReady()
	}
	for _, user := range x.users {
		for i := range x.replicas {
			process.Eventually(x.t, fmt.Sprintf("%s is served by replica %d", user, i), func() bool {
				x.harvest(false)
				x.consentAnew()
				return x.ask(x.t.Context(), user, i).status == 200
			})
		}
	}
	process.Eventually(x.t, "every session is active", func() bool {
		active, others := x.database.sessions()
		if *clock != 0 {
			// Their access tokens live on for minutes, so that nobody is told yet.
			for _, user := range others {
				x.consent(user)
			}
		}
		return active == userCount
	})
}
