package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Limit is a ceiling: at most N calls in any Period.
type Limit struct {
	N      int
	Period time.Duration
}

// rateBuckets is how finely a period is cut. Calls are counted per bucket and
// the oldest bucket counts whole, so the ceiling is never passed in any sliding
// period; a twentieth of the rate is the price.
const rateBuckets = 20

// rateTries bounds how often a lost compare-and-swap is tried again.
const rateTries = 20

// window counts the calls of one limit, bucket by bucket.
type window struct {
	// First is the number of the bucket that Counts begins with: its start
	// divided by the bucket's length.
	First  int64 `json:"first"`
	Counts []int `json:"counts"`
}

// take admits up to n calls at now (milliseconds) and says, when it admits
// none, after how long it is worth asking again.
func (w *window) take(l Limit, now int64, n int) (admitted int, wait time.Duration) {
	length := max(1, l.Period.Milliseconds()/rateBuckets)
	bucket := now / length
	if w.First > bucket {
		*w = window{} // the clock was set back; what lies ahead of it would block until then
	}
	w.drop(bucket - rateBuckets)
	used := 0
	for _, c := range w.Counts {
		used += c
	}
	admitted = min(n, l.N-used)
	if admitted > 0 {
		return admitted, 0
	}
	// The first bucket that counts leaves the period one bucket after it is
	// rateBuckets old.
	for i, c := range w.Counts {
		if c > 0 {
			leaves := (w.First + int64(i) + rateBuckets + 1) * length
			return 0, time.Duration(max(1, leaves-now)) * time.Millisecond
		}
	}
	return 0, l.Period
}

// add counts n calls at now.
func (w *window) add(l Limit, now int64, n int) {
	bucket := now / max(1, l.Period.Milliseconds()/rateBuckets)
	if len(w.Counts) == 0 {
		w.First = bucket
	}
	for w.First+int64(len(w.Counts)) <= bucket {
		w.Counts = append(w.Counts, 0)
	}
	w.Counts[bucket-w.First] += n
}

// drop forgets the buckets before oldest.
func (w *window) drop(oldest int64) {
	for len(w.Counts) > 0 && w.First < oldest {
		w.Counts, w.First = w.Counts[1:], w.First+1
	}
}

// TakeRate admits up to n calls under all limits, counted by name over all
// replicas and by the database's clock. When it admits none, wait is how long
// it takes until it may be worth asking again.
func (s *Store) TakeRate(ctx context.Context, name string, limits []Limit, n int) (admitted int, wait time.Duration, err error) {
	for range rateTries {
		admitted, wait, err = s.tryRate(ctx, name, limits, n)
		if !errors.Is(err, ErrConflict) {
			return admitted, wait, err
		}
	}
	return 0, 50 * time.Millisecond, nil
}

func (s *Store) tryRate(ctx context.Context, name string, limits []Limit, n int) (admitted int, wait time.Duration, err error) {
	var r struct {
		Windows string `db:"windows"`
		Version int64  `db:"version"`
		Now     int64  `db:"now"`
	}
	err = s.db.GetContext(ctx, &r, queryRate, name)
	if errors.Is(err, sql.ErrNoRows) {
		if _, err = s.db.ExecContext(ctx, queryRateInsert, name, "[]"); err == nil {
			return 0, 0, fmt.Errorf("counting calls: %w", ErrConflict)
		}
	}
	if err != nil {
		return 0, 0, unavailable(err, "counting calls")
	}
	var windows []window
	if json.Unmarshal([]byte(r.Windows), &windows) != nil || len(windows) != len(limits) {
		windows = make([]window, len(limits)) // new, or the limits were changed
	}
	if admitted, wait = takeAll(windows, limits, r.Now, n); admitted == 0 {
		return 0, wait, nil
	}
	text, err := json.Marshal(windows)
	if err != nil {
		return 0, 0, fmt.Errorf("counting calls: %w", err)
	}
	result, err := s.db.ExecContext(ctx, queryRateReplace, name, string(text), r.Version)
	if err := affectedOne(result, err, "counting calls"); err != nil {
		return 0, 0, err
	}
	return admitted, 0, nil
}

// takeAll admits what every window admits and counts it in all of them.
func takeAll(windows []window, limits []Limit, now int64, n int) (admitted int, wait time.Duration) {
	admitted = n
	for i, l := range limits {
		a, w := windows[i].take(l, now, n)
		admitted, wait = min(admitted, a), max(wait, w)
	}
	if admitted <= 0 {
		return 0, wait
	}
	for i, l := range limits {
		windows[i].add(l, now, admitted)
	}
	return admitted, 0
}
