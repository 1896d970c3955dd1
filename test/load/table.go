package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
)

// table is a figure. The first row has the heads.
type table struct {
	title string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print writes t and the command that measures it again.
func (t table) print(out io.Writer, command string) {
	fmt.Fprintf(out, "\n## %s\n\n", t.title)
	for i, row := range t.rows {
		fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintln(out, strings.Repeat("|---", len(row))+"|")
		}
	}
	fmt.Fprintf(out, "\n`%s`\n", command)
}

// sample is what one hop has in one round: requests per second and microseconds
// of CPU for each, or the p50 and the p99 of the latency in microseconds.
type sample [2]float64

// series are the two values of a sample, round by round.
type series [2][]float64

// interleave measures all hops in each round, in a new random order each time. A
// first round is not counted: connections are opened in it.
func interleave(rounds int, hops []*hop, measure func(*hop) (sample, error)) (map[string]*series, error) {
	all := map[string]*series{}
	for _, h := range hops {
		all[h.name] = &series{}
	}
	for round := range rounds + 1 {
		for _, i := range rand.Perm(len(hops)) {
			m, err := measure(hops[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", hops[i].name, err)
			}
			for k, v := range m {
				if s := all[hops[i].name]; round > 0 {
					s[k] = append(s[k], v)
				}
			}
		}
	}
	return all, nil
}

// byRound combines the values of each round with those of another hop in the
// same round.
func byRound(values, others []float64, combine func(value, other float64) float64) []float64 {
	out := make([]float64, len(values))
	for i := range values {
		out[i] = combine(values[i], others[i])
	}
	return out
}

func ratio(value, other float64) float64      { return value / other }
func difference(value, other float64) float64 { return value - other }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// spread is the median with the least and the greatest value.
func spread(format string, values []float64) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", median(values), slices.Min(values), slices.Max(values))
}
