package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"larkside/session"
)

// Rates counts calls over all replicas, by the database's clock.
type Rates struct{ db *database }

// rateBuckets is how many buckets a period is cut into. Calls are counted by
// bucket, and the oldest bucket counts in full. So the ceiling holds in every
// sliding period, and up to a twentieth of the rate stays unused.
const rateBuckets = 20

// rateTries bounds how often a compare-and-swap that another won is tried
// again.
const rateTries = 20

// window counts the calls of one limit, bucket by bucket.
type window struct {
	// First is the number of the bucket that Counts begins with: its start
	// divided by the bucket's length.
	First  int64 `json:"first"`
	Counts []int `json:"counts"`
}

// take returns how many of n calls may be made at now (milliseconds). If none
// may, it returns how long to wait before asking again.
func (w *window) take(l session.Limit, now int64, n int) (admitted int, wait time.Duration) {
	length := max(1, l.Period.Milliseconds()/rateBuckets)
	bucket := now / length
	if w.First > bucket {
		*w = window{} // the clock was set back; counts in its future would block until then
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
	// The first bucket with calls leaves the period one bucket after it is
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
func (w *window) add(l session.Limit, now int64, n int) {
	bucket := now / max(1, l.Period.Milliseconds()/rateBuckets)
	if len(w.Counts) == 0 {
		w.First = bucket
	}
	for w.First+int64(len(w.Counts)) <= bucket {
		w.Counts = append(w.Counts, 0)
	}
	w.Counts[bucket-w.First] += n
}

// drop removes the buckets before oldest.
func (w *window) drop(oldest int64) {
	for len(w.Counts) > 0 && w.First < oldest {
		w.Counts, w.First = w.Counts[1:], w.First+1
	}
}

// Take admits up to n calls under all limits, counted by name. If it admits
// none, wait is how long to wait before asking again. Limits are counted by
// their position. One with N 0 neither limits these calls nor counts them.
func (r *Rates) Take(ctx context.Context, name string, limits []session.Limit, n int) (admitted int, wait time.Duration, err error) {
	for range rateTries {
		admitted, wait, err = r.try(ctx, name, limits, n)
		if !errors.Is(err, session.ErrConflict) {
			return admitted, wait, err
		}
	}
	return 0, 50 * time.Millisecond, nil
}

const queryRate = `SELECT windows, version, larkside_now() AS now FROM rates WHERE name = $1`

// rateRow is the result of queryRate.
type rateRow struct {
	Windows string `db:"windows"`
	Version int64  `db:"version"`
	Now     int64  `db:"now"`
}

// windows returns what is counted for n limits. It counts anew if that many were
// not counted for, and if add can't have made what is stored.
func (r *rateRow) windows(n int) []window {
	anew := make([]window, n)
	var windows []window
	if len(r.Windows) > maxWindows || json.Unmarshal([]byte(r.Windows), &windows) != nil || len(windows) != n {
		return anew
	}
	if slices.ContainsFunc(windows, func(w window) bool { return !w.possible() }) {
		return anew
	}
	return windows
}

// maxWindows is longer than the windows of any limits, as JSON.
const maxWindows = 16 << 10

// maxCalls is more than any limit lets through in a bucket. The limit of a window
// says nothing about it, since kinds of calls that share a window have limits of
// their own.
const maxCalls = 1_000_000

// possible reports whether add can have made w.
func (w *window) possible() bool {
	return w.First >= 0 && len(w.Counts) <= rateBuckets+1 && !slices.ContainsFunc(w.Counts, func(c int) bool { return c < 0 || c > maxCalls })
}

const (
	queryRateInsert  = `INSERT INTO rates (name, windows, version) VALUES ($1, $2, 1) ON CONFLICT (name) DO NOTHING`
	queryRateReplace = `UPDATE rates SET windows = $2, version = $4 WHERE name = $1 AND version = $3`
)

func (r *Rates) try(ctx context.Context, name string, limits []session.Limit, n int) (admitted int, wait time.Duration, err error) {
	var row rateRow
	err = r.db.GetContext(ctx, &row, queryRate, name)
	if errors.Is(err, sql.ErrNoRows) {
		if _, err = r.db.ExecContext(ctx, queryRateInsert, name, "[]"); err == nil {
			return 0, 0, fmt.Errorf("counting calls: %w", session.ErrConflict)
		}
	}
	if err != nil {
		return 0, 0, unavailable(err, "counting calls")
	}
	windows := row.windows(len(limits))
	if admitted, wait = takeAll(windows, limits, row.Now, n); admitted == 0 {
		return 0, wait, nil
	}
	text, err := json.Marshal(windows)
	if err != nil {
		return 0, 0, fmt.Errorf("counting calls: %w", err)
	}
	result, err := r.db.ExecContext(ctx, queryRateReplace, name, string(text), row.Version, rand.Int64())
	if err := changedOne(result, err, "counting calls"); err != nil {
		return 0, 0, err
	}
	return admitted, 0, nil
}

// takeAll admits what every window admits and counts it in all of them.
func takeAll(windows []window, limits []session.Limit, now int64, n int) (admitted int, wait time.Duration) {
	admitted = n
	for i, l := range limits {
		if l.N == 0 {
			continue
		}
		a, w := windows[i].take(l, now, n)
		admitted, wait = min(admitted, a), max(wait, w)
	}
	if admitted <= 0 {
		return 0, wait
	}
	for i, l := range limits {
		if l.N > 0 {
			windows[i].add(l, now, admitted)
		}
	}
	return admitted, 0
}

// Used returns how much of each limit the calls counted by name use now. It
// changes nothing.
func (r *Rates) Used(ctx context.Context, name string, limits []session.Limit) ([]int, error) {
	used := make([]int, len(limits))
	var row rateRow
	err := r.db.GetContext(ctx, &row, queryRate, name)
	if errors.Is(err, sql.ErrNoRows) {
		return used, nil
	}
	if err != nil {
		return nil, unavailable(err, "reading counted calls")
	}
	windows := row.windows(len(limits))
	for i := range windows {
		if limits[i].N == 0 {
			continue
		}
		// When it is asked for all calls, take returns how many are left.
		free, _ := windows[i].take(limits[i], row.Now, limits[i].N)
		used[i] = limits[i].N - max(0, free)
	}
	return used, nil
}
