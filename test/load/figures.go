package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/session"
	"larkside/test/load/tokens"
)

// figures are in the order in which they are measured. One without rows is left
// out.
var figures = []struct {
	name    string
	measure func(*bench, context.Context) (table, error)
}{
	{"throughput", (*bench).throughput},
	{"latency", (*bench).latency},
	{"memory", (*bench).memory},
	{"users", (*bench).users},
	{"miss", (*bench).miss},
	{"ready", (*bench).ready},
	{"expiry", (*bench).expiry},
}

func figureNames() (names []string) {
	for _, g := range figures {
		names = append(names, g.name)
	}
	return names
}

// throughput is what a closed loop gets through each proxy, and for how much CPU.
func (b *bench) throughput(ctx context.Context) (t table, err error) {
	t.title = fmt.Sprintf("Closed loop, answers of 1 KiB, %d rounds of %v", b.rounds, b.length)
	t.add("upstream", "connections", "proxy", "requests/s", "of tuned's", "CPU µs/request", "of tuned's")
	for _, up := range b.upstreams {
		hops, stop, err := b.start(ctx, up, "tuned", "larkside", "traced", "naive", "caddy")
		if err != nil {
			return t, err
		}
		defer stop()
		for _, conns := range b.conns {
			all, err := interleave(b.rounds, hops, func(h *hop) (sample, error) {
				return h.measure(ctx, conns, someUsers, b.length)
			})
			if err != nil {
				return t, err
			}
			for _, h := range hops {
				t.add(append([]string{up.protocol, fmt.Sprint(conns), h.name}, besideTuned(all, h.name)...)...)
			}
		}
		stop()
	}
	return t, nil
}

// besideTuned are a hop's requests per second and CPU time, each with its ratio
// to tuned's.
func besideTuned(all map[string]*series, name string) (cells []string) {
	for i, values := range all[name] {
		cells = append(cells, fmt.Sprintf("%.0f", median(values)), spread("%.2f", byRound(values, all["tuned"][i], ratio)))
	}
	return cells
}

// latency is what a proxy adds to the time that a request takes at a constant
// rate.
func (b *bench) latency(ctx context.Context) (t table, err error) {
	const rate = 1000
	t.title = fmt.Sprintf("Open loop, %d requests a second, %d rounds of %v", rate, b.rounds, 2*b.length)
	t.add("upstream", "proxy", "p50 µs", "p99 µs", "adds to p50, µs", "adds to p99, µs")
	for _, up := range b.upstreams {
		hops, stop, err := b.start(ctx, up, "none", "tuned", "larkside", "traced", "naive", "caddy")
		if err != nil {
			return t, err
		}
		defer stop()
		all, err := interleave(b.rounds, hops, func(h *hop) (sample, error) {
			return open(ctx, []*hop{h}, rate, someUsers, b.length/2, 2*b.length)
		})
		if err != nil {
			return t, err
		}
		stop()
		for _, h := range hops {
			var latency, added []string
			for i, values := range all[h.name] {
				latency = append(latency, fmt.Sprintf("%.0f", median(values)))
				added = append(added, spread("%.0f", byRound(values, all["none"][i], difference)))
			}
			t.add(slices.Concat([]string{up.protocol, h.name}, latency, added)...)
		}
	}
	return t, nil
}

// memory is what a larkside keeps in RAM.
func (b *bench) memory(ctx context.Context) (t table, err error) {
	const streams = 64
	t.title = "Memory"
	t.add("", "MiB resident", "more than before")
	idle, err := b.startSeeded(ctx, "idle", b.upstreams[0], someUsers)
	if err != nil {
		return t, err
	}
	defer idle.stop()
	time.Sleep(b.idle)
	rss, err := idle.process.residentMiB()
	if err != nil {
		return t, err
	}
	t.add("idle", fmt.Sprintf("%.1f", rss), "")

	crowd, err := b.startSeeded(ctx, "crowd", b.upstreams[0], b.many)
	if err != nil {
		return t, err
	}
	defer crowd.stop()
	before, most, err := crowd.growth(func() error {
		_, err := crowd.closed(ctx, 16, once(0, b.many))
		return err
	})
	if err != nil {
		return t, err
	}
	time.Sleep(b.idle)
	after, err := crowd.process.residentMiB()
	if err != nil {
		return t, err
	}
	mib := float64(b.many*tokens.Bytes) / (1 << 20)
	for _, row := range []struct {
		when string
		rss  float64
	}{
		{"the most while all come at once", most}, {fmt.Sprintf("%v later", b.idle), after},
	} {
		t.add(fmt.Sprintf("%d cached users, %.0f MiB of tokens: %s", b.many, mib, row.when), fmt.Sprintf("%.1f", row.rss),
			fmt.Sprintf("%.1f, %.2f times the tokens", row.rss-before, (row.rss-before)/mib))
	}

	for _, up := range b.upstreams {
		for _, method := range []string{"GET", "POST"} {
			before, most, err := b.streams(ctx, up, method, streams)
			if err != nil {
				return t, err
			}
			t.add(fmt.Sprintf("%d parallel streams of %d MiB, %s, %s", streams, b.stream>>20, method, up.protocol),
				fmt.Sprintf("%.1f", most), fmt.Sprintf("%.1f", most-before))
		}
	}
	return t, nil
}

// streams is the memory of a larkside that has served small requests, and the
// most that it has while n bodies go through it at a time.
func (b *bench) streams(ctx context.Context, up upstream, method string, n int) (before, most float64, err error) {
	h, err := b.startSeeded(ctx, "streams", up, 1)
	if err != nil {
		return 0, 0, err
	}
	defer h.stop()
	if _, err := h.closed(ctx, n, during(b.length, 1)); err != nil {
		return 0, 0, err
	}
	return h.growth(func() error {
		g, ctx := errgroup.WithContext(ctx)
		for range n {
			g.Go(func() error { return h.stream(ctx, method, b.stream) })
		}
		return g.Wait()
	})
}

// users is the throughput with many users, all of them cached, in random order.
func (b *bench) users(ctx context.Context) (t table, err error) {
	const conns = 64
	t.title = fmt.Sprintf("%d cached users in random order, %d connections, HTTP/1.1, %d rounds of %v", b.many, conns, b.rounds, b.length)
	t.add("proxy", "requests/s", "of tuned's", "CPU µs/request", "of tuned's", "MiB resident")
	tuned, err := b.startReference(ctx, "tuned", b.upstreams[0], b.many)
	if err != nil {
		return t, err
	}
	defer tuned.stop()
	hops := []*hop{tuned}
	for _, v := range []struct{ name, env string }{{"larkside", "GOGC="}, {"larkside, GOGC=100", "GOGC=100"}} {
		// No entry is checked against the database while this is measured.
		h, err := b.startSeeded(ctx, v.name, b.upstreams[0], b.many, "LARKSIDE_CACHE_TTL=1h", v.env)
		if err != nil {
			return t, err
		}
		defer h.stop()
		hops = append(hops, h)
	}
	for _, h := range hops {
		if _, err := h.closed(ctx, 16, once(0, b.many)); err != nil {
			return t, err
		}
	}
	all, err := interleave(b.rounds, hops, func(h *hop) (sample, error) { return h.measure(ctx, conns, b.many, b.length) })
	if err != nil {
		return t, err
	}
	for _, h := range hops {
		rss, err := h.process.residentMiB()
		if err != nil {
			return t, err
		}
		t.add(slices.Concat([]string{h.name}, besideTuned(all, h.name), []string{fmt.Sprintf("%.0f", rss)})...)
	}
	return t, nil
}

// miss compares the look-up of a session that is not cached with a bare SELECT.
func (b *bench) miss(ctx context.Context) (t table, err error) {
	const sessions = 1000
	t.title = fmt.Sprintf("A session that is not cached, read and unsealed, beside a bare SELECT by primary key, %d rounds", b.rounds)
	t.add("database", "SELECT, p50 µs", "miss, p50 µs", "miss of SELECT")
	err = b.onEach(ctx, sessions, func(d *database) error {
		var all series
		for range b.rounds {
			s, err := d.lookups(ctx, sessions)
			if err != nil {
				return err
			}
			all[0], all[1] = append(all[0], s[0]), append(all[1], s[1])
		}
		t.add(d.kind, fmt.Sprintf("%.0f", median(all[0])), fmt.Sprintf("%.0f", median(all[1])), spread("%.2f", byRound(all[1], all[0], ratio)))
		return nil
	})
	return t, err
}

// ready is the time from the start of a process to its readiness.
func (b *bench) ready(ctx context.Context) (t table, err error) {
	t.title = fmt.Sprintf("From the start of the process to ready, %d sessions stored, %d rounds", b.many, b.rounds)
	t.add("database", "ready after, ms")
	err = b.onEach(ctx, b.many, func(d *database) error {
		var took []float64
		for range b.rounds {
			h, err := b.startLarkside(ctx, "larkside", b.upstreams[0], d)
			if err != nil {
				return err
			}
			h.stop()
			took = append(took, float64(h.process.ready)/1e6)
		}
		t.add(d.kind, spread("%.0f", took))
		return nil
	})
	return t, err
}

// expiry is a morning on which everybody comes and all sessions have expired:
// three replicas on one PostgreSQL, while other users' tokens are cached.
func (b *bench) expiry(ctx context.Context) (t table, err error) {
	const replicas, perSecond, rate = 3, 200, 250
	if postgresURL() == "" {
		return t, nil
	}
	db, err := b.seeded(ctx, b.postgres, someUsers+b.expired, func(user int, s *session.Session) {
		if user >= someUsers {
			s.IssuedAt, s.ExpiresAt = s.IssuedAt.Add(-3*time.Hour), s.ExpiresAt.Add(-3*time.Hour)
		}
	})
	if err != nil {
		return t, err
	}
	defer db.drop()
	var hops []*hop
	for range replicas {
		h, err := b.startLarkside(ctx, "larkside", b.upstreams[0], db, fmt.Sprintf("LARKSIDE_REFRESH_RATE=%d/1s", perSecond))
		if err != nil {
			return t, err
		}
		defer h.stop()
		if _, err := h.closed(ctx, 4, once(0, someUsers)); err != nil {
			return t, err
		}
		hops = append(hops, h)
	}
	// The first second's calls may all be made at its beginning.
	allowed := float64(b.expired)/perSecond - 1
	hits := func(ctx context.Context) (sample, error) {
		return open(ctx, hops, rate, someUsers, b.length, time.Duration(allowed*float64(time.Second)))
	}
	quiet, err := hits(ctx)
	if err != nil {
		return t, err
	}
	var busy sample
	var took time.Duration
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { busy, err = hits(gctx); return err })
	g.Go(func() error {
		began, next := time.Now(), once(someUsers, b.expired)
		renewals, ctx := errgroup.WithContext(gctx)
		for _, h := range hops {
			renewals.Go(func() error { _, err := h.closed(ctx, 170, next); return err })
		}
		err := renewals.Wait()
		took = time.Since(began)
		return err
	})
	if err := g.Wait(); err != nil {
		return t, err
	}
	t.title = fmt.Sprintf("%d sessions expire at once, three replicas, REFRESH_RATE=%d/1s, %d hits/s beside them", b.expired, perSecond, rate)
	t.add("", "", "ratio")
	t.add("all renewed after", fmt.Sprintf("%.1f s", took.Seconds()), fmt.Sprintf("%.2f of the %.1f s that the rate allows", took.Seconds()/allowed, allowed))
	for i, name := range []string{"p50", "p99"} {
		t.add("hits meanwhile, "+name, fmt.Sprintf("%.0f µs", busy[i]), fmt.Sprintf("%.2f of the %.0f µs before", busy[i]/quiet[i], quiet[i]))
	}
	return t, nil
}
