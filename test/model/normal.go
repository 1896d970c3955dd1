package model

// normal forgets what can make no difference any more, so that states which
// behave alike are one. The protocol is what successors says; this is only why
// the search ends soon, and a test checks that it leaves nothing out.
func (c Config) normal(s state) state {
	for i := range s.replicas {
		c.normalRun(&s.replicas[i], s.row)
	}
	for g := range s.lark {
		ch := &s.lark[g]
		if ch.wanted || s.revoking == uint8(g)+1 || s.inUse(uint8(g)) {
			continue
		}
		// Nobody looks at this chain again, but for whether it was revoked.
		ch.current, ch.late = 0, false
		if !ch.left {
			*ch = chain{}
		}
	}
	return s
}

func (c Config) normalRun(r *replica, row row) {
	if r.version != row.version {
		r.version = 0 // an old one, whichever
	}
	mine := r.owns && r.version != 0
	switch {
	case r.at == loaded && r.version == 0 && c.Mutation != ClaimAnyVersion,
		r.at == giveBack && !mine,
		r.at == ending && !mine && c.Mutation != EndAnyVersion:
		// The run's next statement finds no row.
		*r = replica{}
	case r.at == loaded && c.Mutation != ClaimAnyVersion:
		r.grant, r.gen = 0, 0 // claim reads them again
	case r.at == giveBack:
		*r = replica{at: giveBack, version: r.version, spent: r.spent, owns: true}
	case r.at == ending:
		*r = replica{at: ending, version: r.version, again: r.again, owns: r.owns}
	case r.at == answered && r.answer == dead:
		*r = replica{at: answered, answer: dead, version: r.version, again: r.again, owns: r.owns}
	case r.at == answered, r.at == revoking:
		r.again = false
	}
	if r.at != claimed {
		r.tookOver = false // it is for judging the request that was sent
	}
}

// inUse is whether a run may still spend or store tokens of a chain.
func (s *state) inUse(grant uint8) bool {
	for _, r := range s.replicas {
		if r.grant == grant && (r.spending() || r.at == revoking) {
			return true
		}
	}
	return false
}

// sorted puts the replicas in order: which is which makes no difference.
func (s state) sorted() state {
	r := &s.replicas
	for i := 1; i < len(r); i++ {
		for j := i; j > 0 && r[j].number() > r[j-1].number(); j-- {
			r[j], r[j-1] = r[j-1], r[j]
		}
	}
	return s
}

func (r replica) number() uint64 {
	n := uint64(r.at)<<32 | uint64(r.version)<<24 | uint64(r.grant)<<20 | uint64(r.gen)<<16 | uint64(r.answer)<<8
	for bit, b := range [...]bool{r.again, r.spent, r.owns, r.overran, r.tookOver} {
		if b {
			n |= 1 << bit
		}
	}
	return n
}
