package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// figures is what -json writes.
type figures struct {
	Machine   string   `json:"machine"`
	BinaryMiB float64  `json:"binary_mib"`
	Figures   []figure `json:"figures"`
}

// figure is one measured quantity of one proxy, round by round.
type figure struct {
	Scenario string `json:"scenario"`
	// Case is what was varied: protocol, connections, users.
	Case  string `json:"case"`
	Proxy string `json:"proxy"`
	// Quantity has its unit in it.
	Quantity string    `json:"quantity"`
	Values   []float64 `json:"values"`
	// Ratio is to the base of the scenario, tuned for most; nil without one.
	Ratio *spread `json:"ratio,omitempty"`
}

// note keeps a figure and returns its ratio to base, which may be nil.
func (b *bench) note(scenario, of, proxy, quantity string, values, base []float64) spread {
	f := figure{Scenario: scenario, Case: of, Proxy: proxy, Quantity: quantity, Values: finite(values)}
	var s spread
	if base != nil {
		s = over(ratios(values, base))
		f.Ratio = &s
	}
	b.figures.Figures = append(b.figures.Figures, f)
	return s
}

// finite is values without what JSON has no word for.
func finite(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
}

// measured is one run of one proxy.
type measured struct {
	*outcome
	// allocs is per request; NaN where it is not known.
	allocs float64
}

// series are a target's runs, round by round.
type series []measured

func (s series) of(f func(measured) float64) []float64 {
	out := make([]float64, len(s))
	for i, m := range s {
		out[i] = f(m)
	}
	return out
}

func throughput(m measured) float64 { return m.perSecond() }
func cpu(m measured) float64        { return m.cpuPer1000() * 1000 } // ms
func allocs(m measured) float64     { return m.allocs }
func p50(m measured) float64        { return m.P50 }
func p99(m measured) float64        { return m.P99 }
func rateMiB(m measured) float64    { return float64(m.Bytes) / (1 << 20) / m.Seconds }
func cpuPerGiB(m measured) float64  { return m.CPU / (float64(m.Bytes) / (1 << 30)) }

// interleave gives j to each target in each round, in a new order each time.
func (b *bench) interleave(ctx context.Context, targets []*target, j job) (map[string]series, error) {
	return b.interleaveEach(ctx, targets, func(*target) job { return j })
}

func (b *bench) interleaveEach(ctx context.Context, targets []*target, job func(*target) job) (map[string]series, error) {
	all := map[string]series{}
	for range b.rounds {
		for _, i := range rand.Perm(len(targets)) {
			t := targets[i]
			m, err := b.measure(ctx, t, t.to(job(t)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			all[t.name] = append(all[t.name], m)
		}
	}
	return all, nil
}

// measure does a job and counts allocations around it.
func (b *bench) measure(ctx context.Context, t *target, j job) (measured, error) {
	m := measured{allocs: math.NaN()}
	var before, again, after runtimeStats
	var err error
	if t.stats != nil {
		// Asking allocates too: the second time tells how much.
		if before, err = t.stats(); err == nil {
			again, err = t.stats()
		}
		if err != nil {
			return m, err
		}
	}
	if m.outcome, err = b.drive(ctx, j); err != nil {
		return m, err
	}
	if t.stats != nil {
		if after, err = t.stats(); err != nil {
			return m, err
		}
		asking := again.Mallocs - before.Mallocs
		m.allocs = (after.Mallocs - again.Mallocs - asking) / float64(m.Total)
	}
	return m, nil
}

// warm is what precedes a measurement of length.
func warm(length time.Duration) time.Duration { return min(length/4, 250*time.Millisecond) }

// table prints rows of equal length; the first are the heads.
func (b *bench) table(title string, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, cell := range r {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	fmt.Fprintf(b.out, "\n%s\n\n", title)
	for n, r := range rows {
		for i, cell := range r {
			fmt.Fprintf(b.out, "| %s%s ", cell, strings.Repeat(" ", width[i]-len([]rune(cell))))
		}
		fmt.Fprintln(b.out, "|")
		if n == 0 {
			for i := range r {
				fmt.Fprintf(b.out, "|%s", strings.Repeat("-", width[i]+2))
			}
			fmt.Fprintln(b.out, "|")
		}
	}
}

// cell is a spread as the tables show it.
func cell(s spread, format string) string {
	if s.N == 0 {
		return "-"
	}
	f := func(v float64) string { return fmt.Sprintf(format, v) }
	if s.N == 1 {
		return f(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", f(s.Median), f(s.Min), f(s.Max))
}

// middle is a value without its spread.
func middle(s spread, format string) string {
	if s.N == 0 {
		return "-"
	}
	return fmt.Sprintf(format, s.Median)
}
