package main

import (
	"context"
	"errors"
	"fmt"
)

// scale lets one thing grow at a time.
func (b *bench) scale(ctx context.Context) error {
	if err := b.scaleUsers(ctx); err != nil {
		return err
	}
	if err := b.scaleConns(ctx); err != nil {
		return err
	}
	return b.scaleReplicas(ctx)
}

var scaleHeads = []string{"requests/s", "p50 µs", "p99 µs", "CPU ms/1000", "allocations", "MiB resident"}

func (b *bench) scaleRow(of string, t *target, s series) ([]string, error) {
	rss := 0.0
	for _, pid := range t.pids() {
		one, err := residentMiB(pid)
		if err != nil {
			return nil, err
		}
		rss += one
	}
	row := []string{t.name}
	for _, q := range []struct {
		name, format string
		f            func(measured) float64
	}{
		{"requests/s", "%.0f", throughput}, {"p50 µs", "%.0f", p50}, {"p99 µs", "%.0f", p99},
		{"CPU ms/1000 requests", "%.0f", cpu}, {"allocations/request", "%.1f", allocs},
	} {
		b.note("scale", of, t.name, q.name, s.of(q.f), nil)
		row = append(row, cell(over(s.of(q.f)), q.format))
	}
	b.note("scale", of, t.name, "MiB resident", []float64{rss}, nil)
	return append(row, fmt.Sprintf("%.0f", rss)), nil
}

// scaleUsers asks for more and more users, all cached, over 64 connections.
func (b *bench) scaleUsers(ctx context.Context) error {
	s, err := b.manyUsers(ctx)
	if err != nil {
		return err
	}
	tuned, err := b.startReference("tuned", false)
	if err != nil {
		return err
	}
	defer tuned.stop()
	r, err := b.startLarkside(larksideOptions{name: "larkside", store: s, env: []string{"LARKSIDE_CACHE_TTL=1h"}})
	if err != nil {
		return err
	}
	defer r.stop()
	rows := [][]string{append([]string{"users", "proxy"}, scaleHeads...)}
	targets := []*target{tuned, r.target}
	for _, users := range []int{1, 100, 10_000, many} {
		for _, t := range targets {
			if _, err := b.drive(ctx, t.to(job{Loop: onceEach, Conns: 16, Users: users})); err != nil {
				return err
			}
		}
		all, err := b.interleave(ctx, targets, job{Loop: closedLoop, Conns: 64, Users: users, Warm: warm(b.length), Length: b.length})
		if err != nil {
			return err
		}
		for _, t := range targets {
			row, err := b.scaleRow(fmt.Sprintf("%d users", users), t, all[t.name])
			if err != nil {
				return err
			}
			rows = append(rows, append([]string{fmt.Sprint(users)}, row...))
		}
	}
	b.table("More users, all cached, 64 connections, HTTP/1.1", rows)
	return nil
}

// scaleConns has more and more callers at once.
func (b *bench) scaleConns(ctx context.Context) error {
	tuned, err := b.startReference("tuned", false)
	if err != nil {
		return err
	}
	defer tuned.stop()
	larkside, err := b.startSeeded(ctx, "larkside", false)
	if err != nil {
		return err
	}
	defer larkside.stop()
	rows := [][]string{append([]string{"connections", "proxy"}, scaleHeads...)}
	targets := []*target{tuned, larkside}
	for _, conns := range []int{1, 2, 4, 16, 64, 256} {
		all, err := b.interleave(ctx, targets, job{Loop: closedLoop, Conns: conns, Users: b.users, Warm: warm(b.length), Length: b.length})
		if err != nil {
			return err
		}
		for _, t := range targets {
			row, err := b.scaleRow(fmt.Sprintf("%d connections", conns), t, all[t.name])
			if err != nil {
				return err
			}
			rows = append(rows, append([]string{fmt.Sprint(conns)}, row...))
		}
	}
	b.table("More connections, HTTP/1.1", rows)
	return nil
}

// scaleReplicas spreads 64 connections over more and more processes on one
// database: PostgreSQL, or a SQLite file each where there is none.
func (b *bench) scaleReplicas(ctx context.Context) error {
	const most = 8
	shared, err := b.postgres()
	if err != nil && !errors.Is(err, errNoPostgres) {
		return err
	}
	kind := "PostgreSQL"
	if shared == nil {
		kind = "a SQLite file each"
	} else {
		defer shared.drop()
		if err := b.seed(ctx, shared, 0, b.users, nil); err != nil {
			return err
		}
	}
	rows := [][]string{append([]string{"replicas", "proxy"}, scaleHeads...)}
	var replicas []*target
	for n := 1; n <= most; n *= 2 {
		for len(replicas) < n {
			s := shared
			if s == nil {
				if s, err = b.sqlite(); err == nil {
					err = b.seed(ctx, s, 0, b.users, nil)
				}
				if err != nil {
					return err
				}
			}
			r, err := b.startLarkside(larksideOptions{name: "larkside", store: s})
			if err != nil {
				return err
			}
			defer r.stop()
			if _, err := b.drive(ctx, r.to(job{Loop: onceEach, Conns: 4, Users: b.users})); err != nil {
				return err
			}
			replicas = append(replicas, r.target)
		}
		j := job{Loop: closedLoop, Conns: 64, Users: b.users, Warm: warm(b.length), Length: b.length}
		rss := 0.0
		for _, r := range replicas {
			j.Addrs, j.PIDs = append(j.Addrs, r.addr), append(j.PIDs, r.pids()...)
		}
		var s series
		for range b.rounds {
			m, err := b.measure(ctx, &target{}, j)
			if err != nil {
				return err
			}
			s = append(s, m)
		}
		row, err := b.scaleRow(fmt.Sprintf("%d replicas", n), &target{name: "larkside"}, s)
		if err != nil {
			return err
		}
		for _, pid := range j.PIDs {
			one, err := residentMiB(pid)
			if err != nil {
				return err
			}
			rss += one
		}
		row[len(row)-1] = fmt.Sprintf("%.0f", rss)
		rows = append(rows, append([]string{fmt.Sprint(n)}, row...))
	}
	b.table("More replicas ("+kind+") on this machine, 64 connections, HTTP/1.1", rows)
	return nil
}
