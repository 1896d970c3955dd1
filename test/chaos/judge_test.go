package chaos

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// judge holds the ledger and the callers' records against the promises.
//
// Never excused:
//   - a refresh token that is answered with a pair twice
//   - a token that reaches Lark with somebody else's request, one that was never
//     issued, a header that must not reach it
//   - an access token that left for Lark after its end, but for one that could
//     not be renewed, and by the wrong clock of a replica still lived. When it left
//     nobody sees; it may arrive late where the process, or its connections to
//     Lark, stood still meanwhile
//
// A caller whose access token lived (a call had been served with it, and it had
// life left when the answer came) is served. Excused are: 502 and 504 while the
// replica's connections to Lark were cut; 503 while the replica had no database (or
// had only just been started) and had not had that token in its cache; no answer at
// all from a process that was killed or stopped. That PostgreSQL takes no more
// connections excuses nothing while those that there are live.
//
// A caller whose access token has ended may get 503; 401 only if the grant is
// lost, with reason refresh_token_used. A grant is lost by a rotation whose answer
// the ledger knows did not get out, or by one that was followed by a kill, a cut
// or a stop of the process that had the answer in hand, or that hung on the way for
// longer than anybody waits.
//
// A refresh token that was answered is sent again only after one of the same.
type judge struct {
	x       *experiment
	tokens  map[string]larktest.Issued
	byLog   map[string]delivered
	refresh map[string][]larktest.Issued // by user, in the order of issue
	served  map[string][]use             // by user, in order of time
	events  []event

	failures []string
	doubts   []string
	counts   map[string]int
	slow     []time.Duration
}

// use is a call that was served, and with which token.
type use struct {
	call
	token string
}

// delivered is a call with one of its arrivals.
type delivered struct {
	call
	arrival
}

const (
	// early is how much before its end a token may count as ended: expires_in is
	// in whole seconds, and counts from before Lark was asked.
	early = 1500 * time.Millisecond
	// late is how long after its end a token may arrive with a call that began
	// before, and how long a pair may take from Lark into the database with
	// nothing in its way: the machine may be busy.
	late = 3 * time.Second
	// recovery is how long PostgreSQL may take to come back after a crash and a
	// replica to reach it; or how long a statement that met a connection which
	// hangs may take to give up (5 s) and a renewed pair, meanwhile in memory
	// only, to be stored at the next try.
	recovery = 8 * time.Second
	// around is how far an effect may be from the fault that caused it.
	around = time.Second
)

func newJudge(x *experiment) *judge {
	x.harvest(true)
	j := &judge{
		x: x, events: x.events, counts: map[string]int{}, byLog: map[string]delivered{},
		tokens: map[string]larktest.Issued{}, refresh: map[string][]larktest.Issued{}, served: map[string][]use{},
	}
	for _, issued := range x.lark.Ledger("") {
		j.tokens[issued.ID] = issued
		if issued.Kind == larktest.RefreshToken {
			j.refresh[issued.OpenID] = append(j.refresh[issued.OpenID], issued)
		}
	}
	for _, c := range x.asked {
		seen := x.calls[c.id]
		for _, a := range seen {
			j.byLog[a.logID] = delivered{c, a}
		}
		if len(seen) > 0 && c.status == http.StatusOK {
			j.served[c.user] = append(j.served[c.user], use{c, seen[len(seen)-1].token})
		}
	}
	for _, uses := range j.served {
		slices.SortFunc(uses, func(a, b use) int { return a.to.Compare(b.to) })
	}
	return j
}

// unexcused is about a call that failed while no fault was in force that explains
// it. The judge knows when faults began and ended, not how long a busy machine
// takes to recover from them, so a few of these are shown and not held against
// larkside; see TestChaos. A wrong user, a token spent twice or a grant lost
// without a cause always is: fail.
func (j *judge) unexcused(format string, args ...any) {
	j.doubts = append(j.doubts, fmt.Sprintf(format, args...))
}

// starved is whether the machine was so busy that waiting for the processor, not
// any fault, is what calls failed of: half of those that were served took longer
// than a second, which in peace take a few milliseconds.
func (j *judge) starved() bool {
	n := len(j.slow)
	return n > 0 && j.slow[n/2] > time.Second
}

func (j *judge) fail(format string, args ...any) {
	j.failures = append(j.failures, fmt.Sprintf(format, args...))
}

func (j *judge) judge() {
	for _, issued := range j.tokens {
		answered := 0
		for _, r := range issued.Redemptions {
			j.counts["redemptions "+string(r.Outcome)]++
			if r.Outcome == larktest.Answered {
				answered++
			}
		}
		if answered > 1 {
			j.fail("refresh token %s of %s was answered %d times:%s", issued.ID, issued.OpenID, answered, j.story(issued.OpenID))
		}
	}
	for _, v := range j.x.lark.Violations() {
		j.violation(v)
	}
	for _, c := range j.x.asked {
		j.call(c)
	}
	slices.Sort(j.slow)
	for _, r := range j.x.replicas {
		for _, l := range r.lives {
			j.label(l.log)
			j.counts["times that a replica missed its notifications"] += len(l.log.Find(func(l process.Line) bool {
				return strings.HasPrefix(l.Msg, "change notifications do not come")
			}))
		}
	}
}

// label checks that a lost grant is told from a stolen one.
func (j *judge) label(log *process.Log) {
	for _, line := range log.Find(func(l process.Line) bool { return l.Text("reason") == "refresh_token_used" }) {
		class := line.Text("class")
		j.counts["sessions ended, class "+class]++
		if class != "rotation_lost" {
			j.fail("a session whose token was lost ended with class %q: %s", class, line.Raw)
		}
	}
}

// violation judges what the emulator complains about.
func (j *judge) violation(v larktest.Violation) {
	switch v.Kind {
	case larktest.Replayed:
		id := strings.TrimPrefix(v.Detail, "refresh token ")
		if cause := j.whyReplayed(j.tokens[id], v); cause != "" {
			j.counts["replays excused by: "+string(cause)]++
			return
		}
	case larktest.ExpiredToken:
		d := j.byLog[v.LogID]
		ended := j.tokens[d.token].Expiry
		switch {
		case d.from.Before(ended) && d.at.Sub(ended) < late:
			j.counts["tokens that ended on the way"]++
		case d.from.Before(ended) && j.during(ended.Add(-around), d.at, -1, pause, longPause):
			j.counts["tokens that ended in a stopped process"]++
		case d.from.Before(ended) && j.hung(ended, d):
			j.counts["tokens that ended on the way, on a connection to Lark that hung"]++
		case d.at.Sub(ended) < clock.Abs()+late && !j.renewed(d):
			j.counts["tokens that ended by a clock other than a replica's, and could not be renewed"]++
		default:
			j.fail("an access token was sent %v past its end at %s by replica %d, for a call of %s of %s; before it:%s%s", d.at.Sub(ended), j.clock(v.At), d.replica, j.clock(d.from), d.user, j.faultsBefore(d.call), j.story(d.user))
		}
		return
	}
	j.fail("violation at %s: %s of %s: %s%s", j.clock(v.At), v.Kind, v.OpenID, v.Detail, j.story(v.OpenID))
}

// hung is whether the connections to Lark of the call's replica hung from before
// its token's end until the call arrived.
func (j *judge) hung(ended time.Time, d delivered) bool {
	return slices.ContainsFunc(j.events, func(e event) bool {
		return e.kind == larkStall && e.replica == d.replica && !e.from.After(ended) && e.to.After(d.at.Add(-around))
	})
}

// hungLong is whether the connections of a replica to Lark hung at a time for so
// long that nobody waits any more for what was on the way. A busy machine lets
// them hang for longer than was planned.
func (j *judge) hungLong(at time.Time, replica int) bool {
	return slices.ContainsFunc(j.events, func(e event) bool {
		return e.kind == larkStall && (replica < 0 || e.replica == replica) && e.to.Sub(e.from) > lease/2-around &&
			!e.from.After(at.Add(around)) && e.to.After(at.Add(-around))
	})
}

// renewed is whether the user had a newer access token, for long enough before
// the call that its replica must have seen it. One that was lost on the way is
// none.
func (j *judge) renewed(d delivered) bool {
	sent := j.tokens[d.token]
	for _, t := range j.refresh[d.user] {
		if j.arrived(t, d.from) && t.Issued.After(sent.Issued.Add(time.Millisecond)) && j.storedBy(t.Issued, -1).Add(cacheTTL+around).Before(d.from) {
			return true
		}
	}
	return false
}

// whyReplayed is the fault after which a refresh token may be sent again.
func (j *judge) whyReplayed(t larktest.Issued, v larktest.Violation) kind {
	if sender, ok := j.x.redeemers[v.LogID]; ok && j.during(v.At.Add(-around), v.At, sender.replica, longPause) {
		return longPause // between the claim and the request
	} else if ok && j.hungLong(v.At, sender.replica) {
		return larkStall // it was sent before the other, which was answered
	}
	for _, r := range t.Redemptions {
		if r.Outcome == larktest.Answered {
			return j.whyLost(r, v.At)
		}
	}
	return ""
}

// whyLost is the fault by which the answer of a rotation may have got lost, or
// lies in the hands of a stopped process at the given time.
func (j *judge) whyLost(r larktest.Redemption, at time.Time) kind {
	by, ok := j.x.redeemers[r.LogID]
	replica := by.replica
	if !ok {
		replica = -1 // the ledger has not seen it end
	}
	unsafe := j.storedBy(r.At, replica)
	switch {
	case !ok && j.during(r.At, unsafe, replica, kill), ok && j.killed(by, unsafe):
		return kill
	case j.during(r.At, unsafe, replica, larkCut):
		return larkCut
	case j.hungLong(r.At, replica):
		return larkStall
	case j.during(r.At.Add(-lease/2), at, replica, longPause):
		return longPause
	}
	return ""
}

// accepting is how long a connection waits to be accepted, at most. A process
// that has been killed takes longer to be back.
const accepting = 200 * time.Millisecond

// killed is whether the process that sent a refresh token was killed before a
// time. It may be long dead, and its replica back, when the request comes to
// Lark: what hangs on the way goes on without it.
func (j *judge) killed(by redeemer, before time.Time) bool {
	return slices.ContainsFunc(j.events, func(e event) bool {
		return e.kind == kill && e.replica == by.replica && e.from.After(by.connected.Add(-accepting)) && !e.from.After(before)
	})
}

// storedBy is when the pair of a rotation is in the database at the latest, if
// the replica lives: at once, unless something holds the answer or the store up.
func (j *judge) storedBy(from time.Time, replica int) time.Time {
	slack := late
	if *strict {
		slack = around
	}
	by := from.Add(slack)
	for _, e := range j.events { // in the order in which they began
		wait, ok := holdUp[e.kind]
		concerns := replica < 0 || e.replica < 0 || e.replica == replica
		if until := e.to.Add(wait + slack); ok && concerns && !e.from.After(by) && !e.to.Before(from) && until.After(by) {
			by = until
		}
	}
	return by
}

// holdUp is how long after each of these faults what it held up goes on at the
// latest. A replica asks a failing database again after 2.5 s at most.
var holdUp = map[kind]time.Duration{
	larkStall: 0, heldAnswers: 0, pause: 0, longPause: 0,
	databaseCut: recovery, databaseStall: recovery, restart: recovery,
	failover: recovery, failoverDead: recovery, expelled: recovery,
}

// noDatabase are the faults during which a replica may have no database. One
// that takes no more connections leaves it those that it has.
var noDatabase = []kind{restart, failover, failoverDead, expelled, databaseCut, databaseStall, pause, longPause}

// during is whether a fault of one of the kinds was in force between from and
// to, for the replica or for all; -1: for any.
func (j *judge) during(from, to time.Time, replica int, kinds ...kind) bool {
	return slices.ContainsFunc(j.events, func(e event) bool {
		ended := !e.to.IsZero() && e.to.Before(from)
		return slices.Contains(kinds, e.kind) && !ended && !e.from.After(to) &&
			(replica < 0 || e.replica < 0 || e.replica == replica)
	})
}

// call judges what one caller saw.
func (j *judge) call(c call) {
	outcome := fmt.Sprint(c.status)
	switch {
	case c.hungUp:
		j.counts["calls: hung up"]++
		return
	case c.status == 0:
		outcome = "no answer"
	case c.name != "":
		outcome += " " + c.name
	}
	if c.reason != "" {
		outcome += " " + c.reason
	}
	if c.status == http.StatusOK {
		j.slow = append(j.slow, c.to.Sub(c.from))
		if seen := j.x.calls[c.id]; len(seen) == 0 || seen[len(seen)-1].owner != c.user {
			j.fail("a call of %s was answered for another: %+v", c.user, seen)
		}
		j.counts["calls: 200"]++
		return
	}
	lived := j.lived(c)
	excuse := j.excuse(c, lived)
	switch {
	case excuse == "" && c.status == http.StatusUnauthorized:
		j.fail("%s (after %v): %s got %s from replica %d, and no fault has cost the grant:%s", j.clock(c.to), c.to.Sub(c.from), c.user, outcome, c.replica, j.story(c.user))
	case excuse == "":
		j.unexcused("%s (life %d of replica %d, after %v): %s got %s %q %v; its access token lived: %v; before it:%s", j.clock(c.to), c.life, c.replica, c.to.Sub(c.from), c.user, outcome, c.message, c.err, lived != "", j.faultsBefore(c))
		j.counts["calls: "+outcome+", NOT EXCUSED"]++
	default:
		j.counts["calls: "+outcome+", "+excuse]++
	}
}

// faultsBefore is what may have to do with a call, for who reads a doubt.
func (j *judge) faultsBefore(c call) string {
	var b strings.Builder
	for _, e := range j.events {
		if (e.replica < 0 || e.replica == c.replica) && e.from.Before(c.to) && e.to.After(c.from.Add(-2*recovery)) {
			fmt.Fprintf(&b, "\n\t%s to %s: %s", j.clock(e.from), j.clock(e.to), e.kind)
		}
	}
	return b.String()
}

// lived returns an access token of the caller's that larkside had and that
// lived all through the call; empty: none.
func (j *judge) lived(c call) string {
	uses := j.served[c.user]
	for i := len(uses) - 1; i >= 0; i-- {
		u := uses[i]
		if u.to.Before(c.from.Add(-2 * accessLife())) {
			break
		}
		if !u.to.Before(c.from) || !j.tokens[u.token].Expiry.Add(-early).After(c.to) {
			continue // what follows takes long
		}
		if j.tokens[u.token].Expiry.Add(-j.margin(u.token)).After(c.to) && (*clock == 0 || !j.replaced(u, c.to)) {
			return u.token
		}
	}
	return ""
}

// replaced is whether a newer pair had arrived by then. Renewed after a twentieth
// of its life, a token may outlive the one that came in its place, and larkside
// keeps the newest only.
func (j *judge) replaced(u use, by time.Time) bool {
	return slices.ContainsFunc(j.refresh[u.user], func(t larktest.Issued) bool {
		return t.Issued.After(j.tokens[u.token].Issued.Add(time.Millisecond)) && t.Issued.Before(by) && j.arrived(t, by)
	})
}

// arrived is whether larkside got hold of a pair.
func (j *judge) arrived(t larktest.Issued, by time.Time) bool {
	return t.Parent == "" || slices.ContainsFunc(j.tokens[t.Parent].Redemptions, func(r larktest.Redemption) bool {
		return r.Outcome == larktest.Answered && j.whyLost(r, by) == ""
	})
}

// margin is how much before its end larkside may take a token for ended: longer
// when Lark was slow to answer.
func (j *judge) margin(token string) time.Duration {
	issued := j.tokens[token].Issued
	early := early + clock.Abs()
	if j.during(issued.Add(-around), issued, -1, larkStall, tokenHang, heldAnswers, slowAnswers, pause, longPause) {
		return early + 4*time.Second
	}
	return early
}

// excuse is why a call may have failed; empty: for no reason.
func (j *judge) excuse(c call, lived string) string {
	switch {
	case c.status == 0 && j.during(c.from.Add(-100*time.Millisecond), c.to, c.replica, kill, pause, longPause):
		return "process killed or stopped"
	case c.status == http.StatusBadGateway, c.status == http.StatusGatewayTimeout:
		if j.during(c.from.Add(-around), c.to, c.replica, larkCut, larkStall) {
			return "no connection to Lark"
		}
		return ""
	case c.status == http.StatusServiceUnavailable && !c.ready:
		return "process starting"
	case c.status == http.StatusServiceUnavailable && (lived == "" || !j.cached(c, lived)) &&
		j.during(c.from.Add(-recovery), c.to, c.replica, noDatabase...):
		// Another replica may have renewed the token; this one can't know.
		return "no database, not cached"
	case lived != "":
		return ""
	case c.status == http.StatusUnauthorized && c.reason == "refresh_token_used":
		return j.lost(c)
	case c.name == "refresh_unavailable", c.status == 0 && c.to.Sub(c.from) >= patience:
		return "token ended"
	}
	return ""
}

// cached is whether this very process had the token in its cache: it had served
// it twice, since what it hears of another replica's renewal it does not keep
// before it is asked again, and no newer one had been made, of which a
// notification would have told it.
func (j *judge) cached(c call, token string) bool {
	var first *use
	twice := false
	for _, u := range j.served[c.user] {
		if u.token != token || u.replica != c.replica || u.life != c.life || !u.to.Before(c.from) {
			continue
		}
		twice = twice || first != nil && u.from.After(first.to)
		if first == nil {
			first = &u
		}
	}
	newer := slices.ContainsFunc(j.refresh[c.user], func(t larktest.Issued) bool {
		return t.Issued.After(j.tokens[token].Issued.Add(time.Millisecond)) && t.Issued.Before(c.to)
	})
	return twice && !newer
}

// lost is how the grant was lost of which a 401 tells; empty: it was not.
func (j *judge) lost(c call) string {
	for _, g := range j.current(c) {
		// The last rotation of its chain before the answer.
		var last larktest.Issued
		for _, t := range j.refresh[c.user] {
			if t.Grant == g && slices.ContainsFunc(t.Redemptions, func(r larktest.Redemption) bool {
				return r.Outcome != larktest.Refused && r.At.Before(c.to)
			}) {
				last = t
			}
		}
		for _, r := range last.Redemptions {
			switch cause := j.whyLost(r, c.to); {
			case r.Outcome == larktest.Unanswered:
				return "grant lost: the answer did not get out"
			case r.Outcome == larktest.Answered && cause != "":
				return "grant lost: " + string(cause)
			}
		}
	}
	return ""
}

// current returns the grants of which a call may tell: those that were stored
// before it ended and not replaced so long before it began that the replica must
// have seen it. There may be several: users who are told again, by a call that
// waited or since the database failed, consent again.
func (j *judge) current(c call) (grants []int) {
	stale := cacheTTL + around
	if j.during(c.from.Add(-recovery), c.to, c.replica, noDatabase...) {
		stale = recovery
	}
	left := j.x.stored[c.user]
	for _, t := range j.refresh[c.user] {
		if t.Parent != "" {
			continue
		}
		if len(left) == 0 || left[0].from.After(c.to) {
			break
		}
		if s := left[0]; !s.failed && s.to.Before(c.from.Add(-stale)) {
			grants = grants[:0]
		}
		left = left[1:]
		grants = append(grants, t.Grant)
	}
	return grants
}

// story is what happened to a user's refresh tokens, for who reads a failure.
func (j *judge) story(user string) string {
	var b strings.Builder
	left := j.x.stored[user]
	for _, t := range j.refresh[user] {
		if t.Parent == "" && len(left) > 0 {
			fmt.Fprintf(&b, "\n\tgrant %d stored %s to %s, failed: %v", t.Grant, j.clock(left[0].from), j.clock(left[0].to), left[0].failed)
			left = left[1:]
		}
		for _, r := range t.Redemptions {
			by, ok := j.x.redeemers[r.LogID]
			fmt.Fprintf(&b, "\n\tgrant %d, token of %s: %s at %s by %d (%v), connected at %s", t.Grant, j.clock(t.Issued), r.Outcome, j.clock(r.At), by.replica, ok, j.clock(by.connected))
		}
	}
	return b.String()
}

func (j *judge) clock(at time.Time) string {
	return fmt.Sprintf("%+.2fs", at.Sub(j.events[0].from).Seconds())
}

// report is the counts.
func (j *judge) report(plan []planned) string {
	var b strings.Builder
	faults := map[string]int{}
	for _, p := range plan {
		faults[string(p.kind)]++
	}
	section := func(name string, counts map[string]int) {
		fmt.Fprintf(&b, "%s\n", name)
		for _, key := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, "  %6d  %s\n", counts[key], key)
		}
	}
	fmt.Fprintf(&b, "%s\n", replay())
	section("faults", faults)
	section("seen", j.counts)
	fmt.Fprintf(&b, "  %6d  consents anew\n", j.x.consents)
	if n := len(j.slow); n > 0 {
		fmt.Fprintf(&b, "served calls took %v (median), %v (99%%), %v (longest)\n", j.slow[n/2].Round(time.Microsecond), j.slow[n*99/100].Round(time.Millisecond), j.slow[n-1].Round(time.Millisecond))
	}
	fmt.Fprintf(&b, "%d failures\n", len(j.failures))
	return b.String()
}
