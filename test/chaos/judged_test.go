package chaos

import (
	"testing"
	"time"

	"larkside/test/larktest"
)

// A process asks, hangs on the way, and is killed. What became of its answer is
// not larkside's fault, even if the replica is back before Lark gets the request.
// A kill of an earlier process excuses nothing.
func TestJudgeOfTheKilled(t *testing.T) {
	start := time.Now()
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	for name, c := range map[string]struct {
		connected, killed, back, answered float64
		cause                             kind
	}{
		"before the answer":                         {connected: 1, killed: 5, back: 7, answered: 6, cause: kill},
		"before the answer, and back before it":     {connected: 1, killed: 5, back: 5.5, answered: 6, cause: kill},
		"after the answer, before the pair is safe": {connected: 1, killed: 6.5, back: 7, answered: 6, cause: kill},
		"in the moment of connecting":               {connected: 5.1, killed: 5, back: 5.5, answered: 6, cause: kill},
		"when the pair was safe":                    {connected: 1, killed: 12, back: 13, answered: 6},
		"another process before":                    {connected: 5.4, killed: 5, back: 5.3, answered: 6},
		"another process a moment before":           {connected: 5.4, killed: 5, back: 6.1, answered: 6},
	} {
		t.Run(name, func(t *testing.T) {
			j := &judge{x: &experiment{redeemers: map[string]redeemer{"log": {0, at(c.connected)}}}, events: []event{
				{larkStall, 0, at(4), at(5.9)},
				{kill, 0, at(c.killed), at(c.back)},
				{kill, 1, at(0), at(20)}, // another replica
			}}
			r := larktest.Redemption{At: at(c.answered), Outcome: larktest.Answered, LogID: "log"}
			if got := j.whyLost(r, at(15)); got != c.cause {
				t.Errorf("lost by %q, want %q", got, c.cause)
			}
		})
	}
}

// A token that lived when its call began may end on a connection to Lark that
// hangs. Nothing else that hung excuses it.
func TestJudgeOfWhatHangs(t *testing.T) {
	start := time.Now()
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	for name, c := range map[string]struct {
		called float64
		hung   event
		failed bool
	}{
		"from before its end until it arrives": {called: 1, hung: event{larkStall, 0, at(3), at(20)}},
		"until long before it arrives":         {called: 1, hung: event{larkStall, 0, at(3), at(12)}, failed: true},
		"from after its end":                   {called: 1, hung: event{larkStall, 0, at(11), at(20)}, failed: true},
		"on another replica":                   {called: 1, hung: event{larkStall, 1, at(3), at(20)}, failed: true},
		"the database instead":                 {called: 1, hung: event{databaseStall, 0, at(3), at(20)}, failed: true},
		"for a call that began after its end":  {called: 12, hung: event{larkStall, 0, at(3), at(20)}, failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			j := &judge{
				x: &experiment{}, events: []event{c.hung}, counts: map[string]int{},
				tokens: map[string]larktest.Issued{"token": {ID: "token", Issued: at(0), Expiry: at(10)}},
				byLog:  map[string]delivered{"log": {call{from: at(c.called), user: "user"}, arrival{at: at(20), token: "token"}}},
			}
			j.violation(larktest.Violation{Kind: larktest.ExpiredToken, LogID: "log", At: at(20)})
			if failed := len(j.failures) > 0; failed != c.failed {
				t.Errorf("failed: %v, want %v; %v", failed, c.failed, j.failures)
			}
		})
	}
}

// Nobody waits for what hangs on the way to Lark or back for longer than an
// exchange may take: its answer is lost, and it may come after the next one's.
func TestJudgeOfWhatHangsForLong(t *testing.T) {
	start := time.Now()
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	for name, c := range map[string]struct {
		hung  event
		cause kind
	}{
		"for longer than an exchange":    {event{larkStall, 0, at(3), at(15)}, larkStall},
		"for less":                       {event{larkStall, 0, at(9), at(15)}, ""},
		"on another replica":             {event{larkStall, 1, at(3), at(15)}, ""},
		"and had gone on long before it": {event{larkStall, 0, at(0), at(12)}, ""},
		"and began long after it":        {event{larkStall, 0, at(17), at(29)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			redeemers := map[string]redeemer{"log": {0, at(-5)}, "another": {2, at(-5)}}
			j := &judge{x: &experiment{redeemers: redeemers}, events: []event{c.hung}}
			if got := j.whyLost(larktest.Redemption{At: at(15), Outcome: larktest.Answered, LogID: "log"}, at(20)); got != c.cause {
				t.Errorf("an answer is lost by %q, want %q", got, c.cause)
			}
			answered := larktest.Issued{Redemptions: []larktest.Redemption{{At: at(14), Outcome: larktest.Answered, LogID: "another"}}}
			if got := j.whyReplayed(answered, larktest.Violation{LogID: "log", At: at(15)}); got != c.cause {
				t.Errorf("a request comes after the next one by %q, want %q", got, c.cause)
			}
		})
	}
}
