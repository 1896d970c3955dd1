package telemetry

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

const (
	// HistoryStep is the time between two of the counts that [History] keeps.
	HistoryStep = 10 * time.Second
	// historySpan is how far back it remembers.
	historySpan = time.Hour
	// historyFresh is how old a look may be to serve [History.Series].
	historyFresh = time.Second
	// historySlots is one more than the span holds: the running step.
	historySlots = int(historySpan/HistoryStep) + 1
	// historySeries is how many values of an attribute are told apart; the rest
	// is counted under "other".
	historySeries = 32
)

// Tracked is what a [History] remembers: how often a counter or a histogram
// counted, by the value of one attribute.
type Tracked struct {
	// Instrument is the OpenTelemetry name.
	Instrument string
	By         attribute.Key
}

// collector is a metric reader as History needs it: cumulative.
type collector interface {
	Collect(ctx context.Context, into *metricdata.ResourceMetrics) error
}

// History remembers the last hour of a few instruments, for people who look at
// one process: Prometheus is for the rest. It reads what /metrics reads, so
// counting costs nothing more; looking costs what a scrape costs, since it runs
// the callbacks of every instrument, and some of them ask the database. Make it
// with [NewHistory], give it to [Start], and run [History.Run]. It is safe for
// concurrent use.
type History struct {
	tracked []Tracked

	mu     sync.Mutex
	reader collector
	looked time.Time // when the last look ended
	// slot is the running step: the time divided by HistoryStep.
	slot   int64
	series map[Tracked]map[string]*line
}

// line is one series.
type line struct {
	total int64 // as the reader gave it last
	// steps is a ring: slot s stands at s modulo its length.
	steps [historySlots]int64
}

// NewHistory returns a History of these, which remembers nothing yet.
func NewHistory(tracked ...Tracked) *History {
	h := &History{tracked: tracked, series: make(map[Tracked]map[string]*line)}
	for _, t := range tracked {
		h.series[t] = make(map[string]*line)
	}
	return h
}

func (h *History) read(from collector) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reader = from
}

// Run looks at the instruments in each step until ctx ends.
func (h *History) Run(ctx context.Context) {
	tick := time.NewTicker(HistoryStep / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			h.look(ctx, now)
		}
	}
}

// look books what was counted since the last look under the step of now.
func (h *History) look(ctx context.Context, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lookLocked(ctx, now)
}

// lookLocked is look with h.mu held.
func (h *History) lookLocked(ctx context.Context, now time.Time) {
	h.advance(now.UnixNano() / int64(HistoryStep))
	if h.reader == nil {
		return
	}
	var all metricdata.ResourceMetrics
	if err := h.reader.Collect(ctx, &all); err != nil && ctx.Err() == nil {
		otel.Handle(err) // what could be read is there all the same
	}
	h.looked = time.Now()
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			for _, t := range h.tracked {
				if t.Instrument == m.Name {
					h.book(t, totals(m.Data, t.By))
				}
			}
		}
	}
}

// advance makes slot the running one and forgets what it overwrites. A clock
// that was set back goes on in the step that it was in.
func (h *History) advance(slot int64) {
	for n := min(slot-h.slot, int64(historySlots)); n > 0; n-- {
		at := index(slot - n + 1)
		for _, lines := range h.series {
			for _, l := range lines {
				l.steps[at] = 0
			}
		}
	}
	h.slot = max(h.slot, slot)
}

func index(slot int64) int { return int(slot % int64(historySlots)) }

func (h *History) book(t Tracked, totals map[string]int64) {
	lines := h.series[t]
	other := int64(0)
	for value, total := range totals {
		l := lines[value]
		if l == nil && len(lines) >= historySeries-1 {
			other += total
			continue
		}
		if l == nil {
			l = &line{}
			lines[value] = l
		}
		h.add(l, total)
	}
	if other > 0 {
		const name = "other"
		if lines[name] == nil {
			lines[name] = &line{}
		}
		h.add(lines[name], other)
	}
}

func (h *History) add(l *line, total int64) {
	l.steps[index(h.slot)] += max(0, total-l.total)
	l.total = total
}

// totals sums what an instrument has counted since the start, by the value of
// one attribute.
func totals(data metricdata.Aggregation, by attribute.Key) map[string]int64 {
	sums := make(map[string]int64)
	add := func(set attribute.Set, n int64) {
		value, _ := set.Value(by)
		sums[value.String()] += n
	}
	switch d := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			add(p.Attributes, p.Value)
		}
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			add(p.Attributes, int64(p.Count))
		}
	case metricdata.Histogram[int64]:
		for _, p := range d.DataPoints {
			add(p.Attributes, int64(p.Count))
		}
	}
	return sums
}

// Series is what was counted with one value of the attribute.
type Series struct {
	Value string
	// Steps are the last hour's counts, the oldest first and the running step
	// last.
	Steps []int64
	// Total is their sum.
	Total int64
}

// Series returns what t counted in the last hour, in steps of the given number
// of [HistoryStep]s, by value. It is empty for what is not tracked. It looks at
// the instruments unless that was done within the last second: one look serves
// several calls, also of several goroutines.
func (h *History) Series(ctx context.Context, t Tracked, perStep int) []Series {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.looked) >= historyFresh {
		h.lookLocked(ctx, now)
	}
	steps := int(historySpan/HistoryStep) / perStep
	var all []Series
	for value, l := range h.series[t] {
		s := Series{Value: value, Steps: make([]int64, steps)}
		for back := range steps * perStep {
			n := l.steps[index(h.slot-int64(back))]
			s.Steps[steps-1-back/perStep] += n
			s.Total += n
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Series) int { return cmp.Compare(a.Value, b.Value) })
	return all
}
