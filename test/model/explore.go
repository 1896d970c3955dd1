package model

import (
	"errors"
	"fmt"
	"strings"
)

// Result says how much a search has looked at.
type Result struct {
	// States and Steps are how many were looked at. Resting counts the states
	// in which nothing happens by itself any more.
	States, Steps, Resting int
}

// The promises that can be found to be broken. The package comment says what
// each is.
var (
	ErrResent       = errors.New("an answered refresh token is sent again")
	ErrDropped      = errors.New("a grant is lost without a crash or a lost answer")
	ErrWentBack     = errors.New("the row goes back to an older pair")
	ErrCameBack     = errors.New("a token comes back after its revocation")
	ErrWronglyEnded = errors.New("a session ends that should not, or under the wrong name")
	ErrStuck        = errors.New("the system does not come to rest, or not where it should")
)

// CounterExample is a way to a state in which something is broken. It wraps one
// of the errors above.
type CounterExample struct {
	Broken error
	// Trace has a line for each step.
	Trace string
}

// Error returns the broken promise and the way to it.
func (e *CounterExample) Error() string { return e.Broken.Error() + "\n" + e.Trace }

// Unwrap returns Broken.
func (e *CounterExample) Unwrap() error { return e.Broken }

// search is a breadth-first one, so a counter-example is a shortest one.
type search struct {
	config Config
	index  map[state]int32
	states []state
	parent []int32
	// onward are the steps that happen by themselves, of all states in turn;
	// those of state i begin at first[i].
	onward []int32
	first  []int32
	result Result
}

// Explore visits every state that the model can get into. The error is a
// *[CounterExample] or nil.
func Explore(c Config) (Result, error) {
	x := &search{config: c, index: map[state]int32{}}
	x.add(initial(), -1)
	var err error
	for i := int32(0); i < int32(len(x.states)) && err == nil; i++ {
		x.first = append(x.first, int32(len(x.onward)))
		err = x.expand(i)
	}
	if err == nil {
		x.first = append(x.first, int32(len(x.onward)))
		err = x.comesToRest()
	}
	x.result.States = len(x.states)
	return x.result, err
}

func (x *search) add(s state, parent int32) int32 {
	n, ok := x.index[s]
	if !ok {
		n = int32(len(x.states))
		x.index[s] = n
		x.states = append(x.states, s)
		x.parent = append(x.parent, parent)
	}
	return n
}

func (x *search) expand(i int32) (err error) {
	from := x.states[i]
	x.config.successors(from, func(st step, to state) {
		x.result.Steps++
		broken := judgeStep(from, st, to)
		if broken == nil {
			broken = judge(to)
		}
		if broken != nil && err == nil {
			err = x.counterExample(broken, i, st, to)
		}
		n := x.add(to.sorted(), i)
		if st.kind == progress && n != i {
			x.onward = append(x.onward, n)
		}
	})
	return err
}

// judgeStep checks what only a step shows.
func judgeStep(from state, st step, to state) error {
	if st.who >= 0 && from.replicas[st.who].at == claimed && to.replicas[st.who].at == asking && from.resends(int(st.who)) {
		return ErrResent
	}
	a, b := from.row, to.row
	if b.empty {
		return nil
	}
	if from.lark[b.grant].left {
		return ErrCameBack
	}
	if !a.empty && (b.grant < a.grant || b.grant == a.grant && b.gen < a.gen) {
		return ErrWentBack
	}
	return nil
}

// resends is whether replica i is about to send a token again that was answered
// and that it could know about.
func (s *state) resends(i int) bool {
	r := s.replicas[i]
	ch := s.lark[r.grant]
	return r.gen != ch.current && ch.fate != lost && !r.overran && !r.tookOver
}

// judge checks what has to hold in every state.
func judge(s state) error {
	ch := s.lark[s.row.grant]
	if s.row.ended && (!s.row.labelled || s.row.gen == ch.current || ch.fate != lost && !s.lateHolder()) {
		return ErrWronglyEnded
	}
	newest := s.newest()
	if !s.lark[newest].wanted {
		return nil
	}
	switch s.lark[newest].fate {
	case stored:
		if s.row.grant != newest || s.row.gen != s.lark[newest].current {
			return ErrDropped
		}
	case held:
		for i := range s.replicas {
			if s.holds(i) && s.replicas[i].version == s.row.version {
				return nil
			}
		}
		return ErrDropped
	case dropped:
		return ErrDropped
	}
	return nil
}

// lateHolder is whether a replica whose lease has run out has the row's next
// pair.
func (s *state) lateHolder() bool {
	for i := range s.replicas {
		if s.holds(i) && s.replicas[i].overran && s.replicas[i].grant == s.row.grant {
			return true
		}
	}
	return false
}

// comesToRest checks that the steps that happen by themselves form no cycle and
// end only where they may.
func (x *search) comesToRest() error {
	const open, done = 1, 2
	colour := make([]uint8, len(x.states))
	next := append([]int32(nil), x.first[:len(x.states)]...)
	var path []int32
	for start := range x.states {
		if colour[start] == 0 {
			path = append(path, int32(start))
		}
		for len(path) > 0 {
			i := path[len(path)-1]
			colour[i] = open
			if next[i] == x.first[i+1] {
				if x.first[i] == x.first[i+1] {
					x.result.Resting++
					if !x.states[i].mayRest() {
						return x.counterExample(ErrStuck, i, step{}, state{})
					}
				}
				colour[i] = done
				path = path[:len(path)-1]
				continue
			}
			n := x.onward[next[i]]
			next[i]++
			switch colour[n] {
			case 0:
				path = append(path, n)
			case open:
				return x.counterExample(ErrStuck, i, step{}, state{})
			}
		}
	}
	return nil
}

// mayRest judges a state in which nothing happens by itself.
func (s *state) mayRest() bool {
	for _, r := range s.replicas {
		if r.at != idle {
			return false
		}
	}
	for g, ch := range s.lark {
		consentedAnew := ch.fate == dropped && s.newest() > uint8(g)
		if ch.left && !ch.dead && ch.fate != lost && !consentedAnew {
			return false
		}
	}
	ch := s.lark[s.row.grant]
	switch {
	case s.row.empty:
		return ch.left
	case s.row.ended:
		return ch.fate == lost
	}
	return s.row.fresh && s.row.gen == ch.current && !ch.dead
}

// counterExample walks the way to state i, and the last step, with the replicas
// under their names.
func (x *search) counterExample(broken error, i int32, last step, to state) error {
	way := []int32{i}
	for x.parent[way[0]] >= 0 {
		way = append([]int32{x.parent[way[0]]}, way...)
	}
	var b strings.Builder
	now := initial()
	line := func(st step, s state) {
		who := ""
		if st.who >= 0 {
			who = string(rune('A'+st.who)) + " "
		}
		mark := [...]string{progress: " ", fault: "!", environment: "~"}[st.kind]
		fmt.Fprintf(&b, "%s %-62s %s\n", mark, who+st.what, s)
	}
	line(step{-1, "at first", progress}, now)
	for _, n := range way[1:] {
		x.config.follow(&now, x.states[n], line)
	}
	if last.what != "" {
		x.config.follow(&now, to.sorted(), line)
	}
	return &CounterExample{broken, b.String()}
}

// follow takes the step from now that leads to want, whatever the order of the
// replicas there.
func (c Config) follow(now *state, want state, line func(step, state)) {
	found := false
	c.successors(*now, func(st step, to state) {
		if !found && to.sorted() == want {
			found = true
			line(st, to)
			*now = to
		}
	})
}

// String is what a trace shows of a state.
func (s state) String() string {
	pairOf := func(grant, gen uint8) string { return fmt.Sprintf("%c%d", 'a'+grant, gen) }
	r := s.row
	token := pairOf(r.grant, r.gen)
	if r.empty {
		token = "revoked"
	}
	words := fmt.Sprintf("row v%d %s attempts %d", r.version, token, r.attempts)
	if r.ended {
		words += " ended"
	}
	if !r.fresh && !r.empty {
		words += " old"
	}
	if r.leased {
		words += " leased"
	}
	words += " | Lark"
	for g := range s.newest() + 1 {
		words += " " + pairOf(g, s.lark[g].current)
		if s.lark[g].dead {
			words += " revoked"
		}
	}
	return words
}
