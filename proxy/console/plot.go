package console

import (
	"cmp"
	"context"
	"slices"

	"larkside/telemetry"
)

var (
	requestsByOutcome = telemetry.Tracked{Instrument: "http.server.request.duration", By: telemetry.Outcome}
	refreshesByClass  = telemetry.Tracked{Instrument: "larkside.refreshes", By: telemetry.Class}
	consentsByState   = telemetry.Tracked{Instrument: "larkside.consents", By: telemetry.State}
)

// Tracked returns what the overview plots: give it to [telemetry.NewHistory].
func Tracked() []telemetry.Tracked {
	return []telemetry.Tracked{requestsByOutcome, refreshesByClass, consentsByState}
}

// kind is a plot: what it counts, and which groups its values fall into.
type kind struct {
	name    string
	tracked telemetry.Tracked
	// apart is counted beside the others: it is in neither drawing nor total.
	// nil: there is none.
	apart *group
	// groups are stacked from the bottom up. Values that no group names count
	// for the last one.
	groups []group
}

// group is some values in one colour.
type group struct {
	name, colour string
	values       []string
}

var kinds = []kind{
	{"requests", requestsByOutcome, nil, []group{
		{"forwarded", "ok", []string{"proxied", "refreshed_replayed", "refreshed_not_replayed", "passed_through", "tenant_token", "answered_here", "authorized"}},
		{"asked", "ask", []string{"authorization_required", "scope_missing"}},
		{"failed", "bad", []string{"store_unavailable", "refresh_unavailable", "app_misconfigured", "upstream_unreachable", "upstream_timeout", "draining", "aborted"}},
		{"refused", "dim", nil},
	}},
	{"refreshes", refreshesByClass, nil, []group{
		{"renewed", "ok", []string{"renewed", "won_by_other", "superseded"}},
		{"later", "ask", []string{"transient", "rested", "stopped", "contended", "store_failed", "misconfigured"}},
		{"lost", "bad", []string{"rotation_lost", "reused", "dead"}},
		{"ended", "dim", nil},
	}},
	// Each consent is counted once when it starts and once when it ends.
	{"consents", consentsByState, &group{"started", "dim", []string{"pending"}}, []group{
		{"granted", "ok", []string{"done"}},
		{"unanswered", "ask", []string{"declined", "expired", "superseded"}},
		{"broken", "bad", nil},
	}},
}

const (
	plotWidth, plotHeight = 600, 100
	bars                  = 60
)

// plot is a chart of the last hour, a bar for each minute.
type plot struct {
	Name  string
	Total int64
	// Top is what the highest bar's scale ends at, Busiest the most in a minute.
	Top, Busiest int64
	Groups       []groupView
	// Apart is what is counted beside them; its name is empty if nothing is.
	Apart groupView
	Bars  []bar
	Rows  []plotRow
}

type groupView struct {
	Name, Colour string
	Total        int64
}

// bar is a rectangle of the drawing.
type bar struct {
	X, Y, Width, Height int
	Colour              string
}

// plotRow is one value in numbers, for readers who can't see the drawing.
type plotRow struct {
	Value, Colour       string
	Five, Quarter, Hour int64
}

func (k *Console) plots(ctx context.Context) []plot {
	var all []plot
	for _, kd := range kinds {
		all = append(all, draw(kd, k.History.Series(ctx, kd.tracked, minute)))
	}
	return all
}

func draw(kd kind, series []telemetry.Series) plot {
	p := plot{Name: kd.name}
	counted := make([][]int64, len(kd.groups))
	for i, g := range kd.groups {
		counted[i] = make([]int64, bars)
		p.Groups = append(p.Groups, groupView{Name: g.name, Colour: g.colour})
	}
	sums := make([]int64, bars)
	if kd.apart != nil {
		p.Apart = groupView{Name: kd.apart.name, Colour: kd.apart.colour}
	}
	for _, s := range series {
		if kd.apart != nil && slices.Contains(kd.apart.values, s.Value) {
			p.Apart.Total += s.Total
			continue
		}
		in := kd.groupOf(s.Value)
		for i, n := range s.Steps {
			counted[in][i] += n
			sums[i] += n
		}
		p.Groups[in].Total += s.Total
		p.Total += s.Total
		if s.Total > 0 {
			p.Rows = append(p.Rows, plotRow{Value: visible(cmp.Or(s.Value, "—")), Colour: kd.groups[in].colour,
				Five: sum(s.Steps[bars-5:]), Quarter: sum(s.Steps[bars-15:]), Hour: s.Total})
		}
	}
	slices.SortStableFunc(p.Rows, func(a, b plotRow) int { return cmp.Compare(b.Hour, a.Hour) })
	p.Busiest = slices.Max(sums)
	p.Top = roundUp(p.Busiest)
	for i := range bars {
		ground := int64(0)
		for in, g := range kd.groups {
			n := counted[in][i]
			if n == 0 {
				continue
			}
			from, to := scale(ground, p.Top), scale(ground+n, p.Top)
			height := max(1, to-from)
			p.Bars = append(p.Bars, bar{X: i * plotWidth / bars, Y: plotHeight - from - height, Width: plotWidth/bars - 2, Height: height, Colour: g.colour})
			ground += n
		}
	}
	return p
}

func (kd kind) groupOf(value string) int {
	for i, g := range kd.groups {
		if slices.Contains(g.values, value) {
			return i
		}
	}
	return len(kd.groups) - 1
}

func scale(n, top int64) int { return int(n * plotHeight / max(1, top)) }

func sum(steps []int64) (total int64) {
	for _, n := range steps {
		total += n
	}
	return total
}

// roundUp returns the next of 4, 10, 20, 40, 100, 200, 400…: its half is a whole
// number too.
func roundUp(n int64) int64 {
	for unit := int64(1); ; unit *= 10 {
		for _, top := range []int64{4 * unit, 10 * unit, 20 * unit} {
			if n <= top {
				return top
			}
		}
	}
}
