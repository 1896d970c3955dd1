package doctor

import (
	"errors"
	"fmt"
	"strings"

	"larkside/session/lark"
)

// Verdict is what an answer of Lark's means for what Larkside believes.
type Verdict string

const (
	AsBelieved Verdict = "as believed"
	Differs    Verdict = "differs"
	// Settled: nothing was believed, and now it is known.
	Settled Verdict = "settled"
	// NotSeen: it was not tried, or did not show.
	NotSeen Verdict = "not seen"
)

// factsPage says what Larkside believes about Lark. That it has every section
// that is cited here is checked in test/facts_test.go.
const factsPage = "deploy/docs/lark.md"

// Observation is one line of [Live].
type Observation struct {
	Step string `json:"step"`
	// Believed is what Larkside relies on. Facts names the sections of factsPage
	// that say so.
	Believed string  `json:"believed"`
	Facts    string  `json:"facts"`
	Answered string  `json:"answered"`
	Verdict  Verdict `json:"verdict"`
}

// belief is what is believed of one step.
type belief struct{ step, believed, facts string }

// observe writes down what came of a step.
func (l *live) observe(b belief, answered string, v Verdict) {
	o := Observation{b.step, b.believed, b.facts, answered, v}
	l.observations = append(l.observations, o)
	l.say("%-11s  %s\n             believed: %s (facts %s)\n             answered: %s", strings.ToUpper(string(v)), b.step, b.believed, b.facts, answered)
}

// expect observes as believed if ok.
func (l *live) expect(b belief, answered string, ok bool) {
	v := Differs
	if ok {
		v = AsBelieved
	}
	l.observe(b, answered, v)
}

// settle observes the answer to a question that was open.
func (l *live) settle(b belief, answered string) { l.observe(b, answered, Settled) }

// skip observes that a step was not taken.
func (l *live) skip(b belief, why string) { l.observe(b, why, NotSeen) }

// said is what an error says of Lark's answer; without one it is fine.
func said(err error, fine string) string {
	var e *lark.Error
	switch {
	case err == nil:
		return fine
	case !errors.As(err, &e) || e.HTTPStatus == 0:
		return err.Error()
	}
	text := fmt.Sprintf("HTTP %d", e.HTTPStatus)
	if e.Code != 0 {
		text += fmt.Sprintf(", code %d", e.Code)
	}
	for _, s := range []string{e.Name, e.Description} {
		if s != "" {
			text += ", " + s
		}
	}
	return text
}

// code is Lark's, of an error that it answered, else 0.
func code(err error) int {
	var e *lark.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}
