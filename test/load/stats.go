package main

import (
	"math"
	"slices"
)

// percentile is the smallest of the sorted values that at least the fraction p,
// in (0,1], of them do not exceed (nearest rank). NaN without values.
func percentile(sorted []int64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	// The product of 0.99 and 100 is a little above 99: what is off by less than
	// a millionth of a rank is the rank.
	rank := int(math.Ceil(p*float64(len(sorted)) - 1e-6))
	return float64(sorted[min(max(rank, 1), len(sorted))-1])
}

// spread is the middle of a figure over the rounds, and how far it went.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	// N is the number of rounds that had the figure; all else is 0 without any.
	N int `json:"n"`
}

// over ignores what is not a number: a round without the figure.
func over(values []float64) spread {
	kept := slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	if len(kept) == 0 {
		return spread{}
	}
	slices.Sort(kept)
	n := len(kept)
	return spread{(kept[(n-1)/2] + kept[n/2]) / 2, kept[0], kept[n-1], n}
}

// ratios divides round by round. Rounds that one of the two lacks are left out.
func ratios(values, base []float64) []float64 {
	out := make([]float64, min(len(values), len(base)))
	for i := range out {
		out[i] = values[i] / base[i]
	}
	return out
}

// added is what a proxy adds over no proxy, round by round.
func added(values, none []float64) []float64 {
	out := make([]float64, min(len(values), len(none)))
	for i := range out {
		out[i] = values[i] - none[i]
	}
	return out
}

// positive leaves out what nothing can be compared with: in a round in which no
// proxy was slower than tuned, tuned adds less than nothing.
func positive(values []float64) []float64 {
	out := slices.Clone(values)
	for i, v := range out {
		if v <= 0 {
			out[i] = math.NaN()
		}
	}
	return out
}

// median sorts values.
func median(values []int64) float64 {
	slices.Sort(values)
	return percentile(values, 0.5)
}
