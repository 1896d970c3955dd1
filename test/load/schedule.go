package main

import "time"

// schedule says when each request of an open loop is meant to be sent.
type schedule struct {
	start time.Time
	// rate is in requests per second.
	rate float64
}

// at is when request i, from 0, is due. It depends on nothing but i: a request
// that is late does not move those behind it.
func (s schedule) at(i int) time.Time {
	return s.start.Add(time.Duration(float64(i) / s.rate * float64(time.Second)))
}

// count is how many requests are due within length.
func (s schedule) count(length time.Duration) int { return int(s.rate * length.Seconds()) }
