package model

// Config is the size of a model and what is wrong with it.
type Config struct {
	// Replicas is at most 3.
	Replicas int
	// Rotations bounds the times that an access token gets old, per grant.
	Rotations int
	// Consents is how often the user may consent anew, at most 1, and Revocations
	// how often revoke.
	Consents, Revocations int
	// Mutation breaks one rule; empty: none.
	Mutation Mutation
	// Unmerged leaves states apart that behave alike; see normal.go.
	Unmerged bool
}

// Mutation is a rule of the protocol that is broken to see whether the search
// finds what the rule is for.
type Mutation string

const (
	// ReplaceAnyVersion stores a pair whatever the row's version.
	ReplaceAnyVersion Mutation = "Replace does not check the version"
	// ReplaceUnderLease stores a pair only while the lease is one's own.
	ReplaceUnderLease Mutation = "Replace asks for the lease"
	// ReplaceOnce drops a pair when the first try to store it fails.
	ReplaceOnce Mutation = "Replace is not tried again"
	// EndMovesVersion counts the version up when a session ends.
	EndMovesVersion Mutation = "End moves the version"
	// EndAnyVersion ends the session whatever the row's version and lease.
	EndAnyVersion Mutation = "End checks nothing"
	// ClaimAnyVersion uses the refresh token that was read before the lease.
	ClaimAnyVersion Mutation = "the row is not read again under the lease"
	// ClaimAnyTime takes the lease although another has it.
	ClaimAnyTime Mutation = "the lease is taken from its owner"
	// NoJournal does not count attempts.
	NoJournal Mutation = "attempts are not counted"
	// LostIsDead takes an answer that did not come for a refusal.
	LostIsDead Mutation = "a lost answer ends the session"
	// RevokeKeepsVersion revokes without counting the version up.
	RevokeKeepsVersion Mutation = "Revoke does not move the version"
	// LeaseForEver has leases without a deadline.
	LeaseForEver Mutation = "leases do not run out"
)

const (
	maxReplicas  = 3
	maxGrants    = 2
	manyAttempts = 2
)

// state is all there is. It is comparable: the search hashes it.
type state struct {
	lark     [maxGrants]chain
	row      row
	replicas [maxReplicas]replica
	// revoking is 1 + the grant and the generation of a refresh token that a
	// revocation still has to end at Lark; revoked counts revocations.
	revoking, revokingGen, revoked uint8
}

// chain is one authorization as Lark has it.
type chain struct {
	// current is the generation of the refresh token that works; 0 is the
	// consent's.
	current uint8
	dead    bool // revoked at Lark
	// late: a request with the current token is on its way although its sender
	// has given up on it.
	late bool
	fate fate
	// wanted is cleared when the user revokes or consents anew.
	wanted bool
	// left: the user revoked it.
	left bool
}

// fate is where the newest pair of a chain is.
type fate uint8

const (
	stored  fate = iota // it is, or was, in the row
	held                // a living replica has it, or is about to get it
	lost                // its receiver died, or its answer never arrived
	dropped             // a replica threw it away
)

type row struct {
	version    uint8
	grant, gen uint8 // the pair
	empty      bool  // no pair: revoked
	ended      bool  // consent_required, refresh_token_used
	labelled   bool  // … by class rotation_lost
	fresh      bool  // the access token needs no renewal
	// leased until the deadline. The owner is the replica that owns, so that
	// replicas can change places; none, if that run is over.
	leased   bool
	attempts uint8
}

type counter uint8

const (
	idle     counter = iota
	loaded           // step 2 is done; step 4 is next, or waiting for the lease
	claimed          // step 4 is done
	asking           // the request is on its way
	answered         // Lark has acted; step 6 or 7 is next when the answer is here
	ending           // the row was read again and has not moved
	giveBack         // nothing changed; Release is next
	revoking         // a pair that came too late is to be revoked at Lark
)

// answer of the token endpoint.
type answer uint8

const (
	none  answer = iota
	pair         // tokens of generation gen+1
	dead         // 20064, 20073
	retry        // refused for the moment
)

type replica struct {
	at         counter
	version    uint8 // as read
	grant, gen uint8 // the refresh token of the run
	answer     answer
	again      bool // attempts > 1 under the lease
	spent      bool // giveBack: Lark may have acted
	owns       bool // the lease is this run's
	overran    bool // the lease ran out under this run
	// tookOver: the lease had run out under another run that was at work still
	// and may get, or has, the pair.
	tookOver bool
}

// kind of a step.
type kind uint8

const (
	progress kind = iota // happens by itself
	fault
	environment // may happen or not
)

type step struct {
	who  int8 // replica, or -1
	what string
	kind kind
}

func initial() state {
	var s state
	s.lark[0].wanted = true
	s.row = row{version: 1, fresh: true}
	return s
}

// successors calls tell with each step that is possible in s.
func (c Config) successors(s state, tell func(step, state)) {
	emit := func(st step, to state) {
		if !c.Unmerged {
			to = c.normal(to)
		}
		tell(st, to)
	}
	for i := range c.Replicas {
		c.run(s, i, emit)
		if s.replicas[i].at != idle {
			to := s
			to.over(i, true)
			emit(step{int8(i), "is killed", fault}, to)
		}
	}
	c.time(s, emit)
	c.user(s, emit)
	for g := range s.lark {
		if !s.lark[g].late {
			continue
		}
		to := s
		to.rotate(uint8(g), lost)
		emit(step{-1, "Lark gets the late request and rotates; nobody hears of it", progress}, to)
		to = s
		to.lark[g].late = false
		emit(step{-1, "the late request gets lost", progress}, to)
	}
}

// time is what passes: access tokens and leases.
func (c Config) time(s state, emit func(step, state)) {
	if r := s.row; r.fresh && !r.empty && !r.ended && int(r.gen) < c.Rotations {
		to := s
		to.row.fresh = false
		emit(step{-1, "the access token gets old", environment}, to)
	}
	if s.row.leased && c.Mutation != LeaseForEver {
		to := s
		to.row.leased = false
		st := step{-1, "the lease runs out; its owner is gone", progress}
		for i := range to.replicas {
			if to.replicas[i].owns {
				to.replicas[i].overran = true
				st = step{int8(i), "outlasts its lease", fault}
			}
		}
		emit(st, to)
	}
}

// user is what the user does, and what it sets off at Lark.
func (c Config) user(s state, emit func(step, state)) {
	if n := 1 + int(s.newest()); n <= c.Consents {
		to := s
		to.lark[n-1].wanted = false
		to.lark[n].wanted = true
		to.row = row{version: s.row.version + 1, grant: uint8(n), fresh: true}
		to.disown()
		emit(step{-1, "the user consents anew", environment}, to)
	}
	if !s.row.empty && s.revoking == 0 && int(s.revoked) < c.Revocations {
		to := s
		g := s.row.grant
		to.lark[g].wanted, to.lark[g].left = false, true
		to.row = row{version: s.row.version + 1, grant: g, empty: true}
		if c.Mutation == RevokeKeepsVersion {
			to.row.version--
		}
		to.disown()
		to.revoked++
		to.revoking, to.revokingGen = 1+g, s.row.gen
		emit(step{-1, "the user revokes", environment}, to)
	}
	if s.revoking != 0 {
		to := s
		to.revokeAtLark(s.revoking-1, s.revokingGen)
		to.revoking, to.revokingGen = 0, 0
		emit(step{-1, "the revocation reaches Lark", progress}, to)
	}
}

// run is the next step of replica i's run.
func (c Config) run(s state, i int, emit func(step, state)) {
	r := s.replicas[i]
	do := func(k kind, what string, change func(*state)) {
		to := s
		change(&to)
		emit(step{int8(i), what, k}, to)
	}
	switch r.at {
	case idle:
		if !s.row.fresh && !s.row.ended && !s.row.empty {
			do(progress, "loads the row: to be renewed", func(to *state) {
				to.replicas[i] = replica{at: loaded, version: s.row.version, grant: s.row.grant, gen: s.row.gen}
			})
		}
	case loaded:
		c.claim(s, i, do)
	case claimed:
		do(progress, "sends the refresh token", func(to *state) { to.replicas[i].at = asking })
		do(fault, "can't connect to Lark", func(to *state) { to.replicas[i].at = giveBack })
	case asking:
		c.ask(s, i, do)
	case answered:
		c.settle(s, i, do)
		do(fault, "never gets the answer", func(to *state) {
			if r.answer == pair {
				to.lark[r.grant].fate = lost
			}
			to.lostAnswer(c, i)
		})
	case ending:
		c.statement(i, do, "ends the session", func(to *state) { c.end(to, i) })
	case giveBack:
		c.release(s, i, do)
	case revoking:
		do(progress, "revokes the late pair at Lark", func(to *state) {
			to.revokeAtLark(r.grant, r.gen+1)
			to.over(i, false)
		})
	}
}

// doer emits a step of the replica in hand.
type doer func(k kind, what string, change func(*state))

// statement is one UPDATE with which the run ends, and how it may fail.
func (c Config) statement(i int, do doer, what string, change func(*state)) {
	do(progress, what, func(to *state) { change(to); to.over(i, false) })
	do(fault, what+"; the database fails", func(to *state) { to.over(i, false) })
	do(fault, what+"; only the database's answer gets lost", func(to *state) { change(to); to.over(i, false) })
}

// claim is queryClaim. While another has the lease the run waits.
func (c Config) claim(s state, i int, do doer) {
	r := s.replicas[i]
	switch {
	case r.version != s.row.version && c.Mutation != ClaimAnyVersion:
		do(progress, "claims: the version has moved", func(to *state) { to.over(i, false) })
		return
	case s.row.leased && c.Mutation != ClaimAnyTime:
		return
	}
	take := func(to *state) {
		to.disown()
		to.row.leased = true
		if c.Mutation != NoJournal {
			to.row.attempts = min(to.row.attempts+1, manyAttempts)
		}
	}
	do(progress, "claims the lease", func(to *state) {
		take(to)
		me := &to.replicas[i]
		me.at, me.owns, me.again = claimed, true, to.row.attempts > 1
		for _, other := range to.replicas {
			me.tookOver = me.tookOver || other.overran && other.version == r.version && other.spending()
		}
		// What the row says now, under the lease. The versions are the same, so
		// this changes something in the mutation only, where it is left out.
		if c.Mutation != ClaimAnyVersion {
			me.grant, me.gen = to.row.grant, to.row.gen
		}
	})
	do(fault, "claims the lease; only the database's answer gets lost", func(to *state) {
		take(to)
		to.replicas[i] = replica{}
	})
}

// ask is Lark's side of the token endpoint.
func (c Config) ask(s state, i int, do doer) {
	r := s.replicas[i]
	ch := s.lark[r.grant]
	answers := func(a answer) func(*state) {
		return func(to *state) { to.replicas[i].at, to.replicas[i].answer = answered, a }
	}
	usable := r.gen == ch.current && !ch.dead
	if usable {
		do(progress, "its token is rotated by Lark", func(to *state) {
			answers(pair)(to)
			to.rotate(r.grant, held)
		})
	} else {
		do(progress, "its token is refused by Lark: spent or revoked", answers(dead))
	}
	do(fault, "is refused by Lark for the moment", func(to *state) { to.replicas[i].at = giveBack })
	do(fault, "times out; the request got lost", func(to *state) { to.lostAnswer(c, i) })
	if usable {
		do(fault, "times out; the request is still on its way", func(to *state) {
			to.lark[r.grant].late = true
			to.lostAnswer(c, i)
		})
	}
}

// settle is steps 6 and 7.
func (c Config) settle(s state, i int, do doer) {
	r := s.replicas[i]
	switch r.answer {
	case pair:
		do(progress, "stores the pair", func(to *state) { c.replace(to, i) })
		do(fault, "stores the pair; the database fails", func(to *state) {
			if c.Mutation == ReplaceOnce {
				to.drop(i)
			}
		})
		if s.row.version == r.version {
			do(fault, "stores the pair; only the database's answer gets lost", func(to *state) {
				c.replace(to, i)
				to.replicas[i] = r // and tries again
				to.replicas[i].owns = false
			})
		}
	case dead:
		if s.row.version != r.version && c.Mutation != EndAnyVersion {
			do(progress, "reads the row again: another has won", func(to *state) { to.over(i, false) })
		} else {
			do(progress, "reads the row again: unchanged", func(to *state) { to.replicas[i].at = ending })
		}
		do(fault, "can't read the row again", func(to *state) { to.replicas[i].at = ending })
	}
}

// replace is queryReplace and what follows from it (storeOnce).
func (c Config) replace(to *state, i int) {
	r := to.replicas[i]
	matches := to.row.version == r.version || c.Mutation == ReplaceAnyVersion
	if c.Mutation == ReplaceUnderLease {
		matches = matches && r.owns
	}
	switch {
	case matches:
		to.row = row{version: to.row.version + 1, grant: r.grant, gen: r.gen + 1, fresh: true}
		to.lark[r.grant].fate = stored
		to.disown()
		to.over(i, false)
	case !to.row.empty && to.row.grant == r.grant && to.row.gen == r.gen+1:
		to.over(i, false) // alreadyReplaced
	case to.row.empty:
		to.replicas[i].at = revoking
	default:
		to.drop(i)
	}
}

// end is queryEnd.
func (c Config) end(to *state, i int) {
	r := to.replicas[i]
	if c.Mutation != EndAnyVersion && (to.row.version != r.version || !r.owns) {
		return
	}
	to.row.ended, to.row.labelled = true, r.again
	to.row.leased = false
	if c.Mutation == EndMovesVersion {
		to.row.version++
	}
	to.disown()
}

// release is queryRelease.
func (c Config) release(s state, i int, do doer) {
	r := s.replicas[i]
	back := func(attempts uint8) func(*state) {
		return func(to *state) {
			if to.row.version == r.version && r.owns {
				to.row.leased, to.row.attempts = false, attempts
				to.disown()
			}
		}
	}
	attempts := s.row.attempts
	if r.spent || attempts == 0 {
		c.statement(i, do, "releases the lease, the attempt left open", back(attempts))
		return
	}
	c.statement(i, do, "releases the lease", back(attempts-1))
	if attempts == manyAttempts {
		c.statement(i, do, "releases the lease, one of many attempts taken back", back(attempts))
	}
}

// lostAnswer is lark.Lost: nobody knows whether the token was spent.
func (s *state) lostAnswer(c Config, i int) {
	r := &s.replicas[i]
	r.answer = none
	if c.Mutation == LostIsDead {
		r.at = ending
		return
	}
	r.at, r.spent = giveBack, true
}

// rotate spends the current refresh token of a chain.
func (s *state) rotate(grant uint8, f fate) {
	ch := &s.lark[grant]
	ch.current, ch.fate, ch.late = ch.current+1, f, false
}

// revokeAtLark ends a refresh token. A spent one is taken to end nothing.
func (s *state) revokeAtLark(grant, gen uint8) {
	if ch := &s.lark[grant]; ch.current == gen {
		ch.dead, ch.late = true, false
	}
}

// spending is whether the run may still send its refresh token or store what it
// got for it.
func (r replica) spending() bool {
	return r.at == claimed || r.at == asking || r.at == answered && r.answer == pair
}

// holds is whether replica i has the newest pair of its chain, or it is on its
// way there, and it is not stored.
func (s *state) holds(i int) bool {
	r := &s.replicas[i]
	return r.answer == pair && s.lark[r.grant].fate == held && s.lark[r.grant].current == r.gen+1
}

// drop ends replica i's run and throws its pair away.
func (s *state) drop(i int) {
	if s.holds(i) {
		s.lark[s.replicas[i].grant].fate = dropped
	}
	s.over(i, false)
}

// over ends replica i's run. killed: with all that it had in memory, and its
// request may still get to Lark.
func (s *state) over(i int, killed bool) {
	r := s.replicas[i]
	if killed && s.holds(i) {
		s.lark[r.grant].fate = lost
	}
	if ch := &s.lark[r.grant]; killed && r.at == asking && ch.current == r.gen && !ch.dead {
		ch.late = true
	}
	s.replicas[i] = replica{}
}

// disown takes the lease from whoever has it.
func (s *state) disown() {
	for i := range s.replicas {
		s.replicas[i].owns = false
	}
}

// newest is the grant of the latest consent.
func (s *state) newest() uint8 {
	if s.lark[1].wanted || s.lark[1].left {
		return 1
	}
	return 0
}
