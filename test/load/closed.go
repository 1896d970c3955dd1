package main

import (
	"context"
	"fmt"
	"time"
)

// protocols are what the upstream speaks, in the order in which they are
// measured.
var protocols = []struct {
	name   string
	secure bool
}{{"HTTP/1.1", false}, {"TLS, HTTP/2", true}}

// start runs every proxy that is wanted and installed, and no proxy, towards the
// upstream's plain or TLS listener, each with its users' tokens at hand.
func (b *bench) start(ctx context.Context, secure bool) (all []*target, stop func(), err error) {
	stop = func() {
		for _, t := range all {
			t.stop()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	all = append(all, b.none(secure))
	for _, name := range b.proxies {
		var t *target
		switch name {
		case "naive", "tuned":
			t, err = b.startReference(name, secure)
		case "larkside", "traced":
			t, err = b.startSeeded(ctx, name, secure)
		default:
			t, err = b.startOther(name, secure)
		}
		if err != nil {
			return all, stop, fmt.Errorf("%s: %w", name, err)
		}
		if t == nil {
			fmt.Fprintf(b.out, "%s is not installed\n", name)
			continue
		}
		all = append(all, t)
	}
	for _, t := range all {
		if _, err = b.drive(ctx, t.to(job{Loop: onceEach, Conns: 4, Users: b.users})); err != nil {
			return all, stop, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return all, stop, nil
}

func (b *bench) none(secure bool) *target {
	if secure {
		return &target{name: "none", addr: b.up.TLS, direct: true, roots: b.up.Roots}
	}
	return &target{name: "none", addr: b.up.Plain, direct: true}
}

func (b *bench) startReference(name string, secure bool) (*target, error) {
	to := "http://" + b.up.Plain
	if secure {
		to = "https://" + b.up.TLS
	}
	c, p, err := b.role(name, []string{"LOAD_TARGET=" + to, "LOAD_ROOTS=" + b.up.Roots})
	if err != nil {
		return nil, err
	}
	return &target{name: name, addr: p.Plain, child: c, stats: func() (s runtimeStats, err error) {
		return s, getJSON(p.Stats, &s)
	}}, nil
}

func (b *bench) startSeeded(ctx context.Context, name string, secure bool) (*target, error) {
	s, err := b.sqlite()
	if err != nil {
		return nil, err
	}
	if err := b.seed(ctx, s, 0, b.users, nil); err != nil {
		return nil, err
	}
	o := larksideOptions{name: name, store: s, secure: secure}
	if name == "traced" {
		o.sampled = "1"
	}
	r, err := b.startLarkside(o)
	if err != nil {
		return nil, err
	}
	return r.target, nil
}

// closed measures throughput, CPU and allocations.
func (b *bench) closed(ctx context.Context) error {
	for _, p := range protocols {
		if err := b.closedOver(ctx, p.name, p.secure); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) closedOver(ctx context.Context, protocol string, secure bool) error {
	targets, stop, err := b.start(ctx, secure)
	defer stop()
	if err != nil {
		return err
	}
	for _, conns := range b.conns {
		j := job{Loop: closedLoop, Conns: conns, Users: b.users, Warm: warm(b.length), Length: b.length}
		if err := b.settle(ctx, targets, j); err != nil {
			return err
		}
		all, err := b.interleave(ctx, targets, j)
		if err != nil {
			return err
		}
		rows := [][]string{{"proxy", "requests/s", "vs tuned", "p50 µs", "p99 µs", "CPU ms/1000", "vs tuned", "allocations"}}
		of := fmt.Sprintf("%s, %d connections", protocol, conns)
		tuned := all["tuned"]
		for _, t := range targets {
			s := all[t.name]
			note := func(quantity string, f func(measured) float64) (spread, spread) {
				var base []float64
				if tuned != nil {
					base = tuned.of(f)
				}
				return over(s.of(f)), b.note("closed", of, t.name, quantity, s.of(f), base)
			}
			through, ratio := note("requests/s", throughput)
			fifty, _ := note("p50 µs", p50)
			ninetyNine, _ := note("p99 µs", p99)
			row := []string{t.name, middle(through, "%.0f"), cell(ratio, "%.2f"), middle(fifty, "%.0f"), middle(ninetyNine, "%.0f"), "-", "-", "-"}
			if !t.direct {
				used, usedRatio := note("CPU ms/1000 requests", cpu)
				row[5], row[6] = middle(used, "%.0f"), cell(usedRatio, "%.2f")
			}
			if t.stats != nil {
				n, _ := note("allocations/request", allocs)
				row[7] = middle(n, "%.1f")
			}
			rows = append(rows, row)
		}
		b.table("Closed loop, "+of+", 1 KiB answers", rows)
	}
	return nil
}

// settle lets each proxy open the connections to the upstream that a job needs.
// Over TLS that is a millisecond of CPU for each, which belongs to no round.
func (b *bench) settle(ctx context.Context, targets []*target, j job) error {
	j.Warm, j.Length = 0, 50*time.Millisecond+time.Duration(j.Conns)*2*time.Millisecond
	for _, t := range targets {
		if _, err := b.drive(ctx, t.to(j)); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

// open measures what each adds at a constant rate.
func (b *bench) open(ctx context.Context) error {
	for _, p := range protocols {
		targets, stop, err := b.start(ctx, p.secure)
		if err == nil {
			err = b.openOver(ctx, "open", p.name, targets, b.users)
		}
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// openLength is long enough for ten requests beyond p99.
func (b *bench) openLength() time.Duration {
	return max(2*b.length, time.Duration(1000/b.rate*float64(time.Second)))
}

func (b *bench) openOver(ctx context.Context, scenario, of string, targets []*target, users int) error {
	length := b.openLength()
	all, err := b.interleave(ctx, targets, job{Loop: openLoop, Conns: 64, Users: users, Rate: b.rate, Warm: warm(length), Length: length})
	if err != nil {
		return err
	}
	rows := [][]string{{"proxy", "p50 µs", "p99 µs", "adds to p50", "vs tuned", "adds to p99", "vs tuned", "CPU ms/1000"}}
	for _, t := range targets {
		s := all[t.name]
		row := []string{t.name}
		row = append(row, middle(over(s.of(p50)), "%.0f"), middle(over(s.of(p99)), "%.0f"))
		b.note(scenario, of, t.name, "p50 µs", s.of(p50), nil)
		b.note(scenario, of, t.name, "p99 µs", s.of(p99), nil)
		if t.direct {
			rows = append(rows, append(row, "-", "-", "-", "-", "-"))
			continue
		}
		for _, q := range []struct {
			name string
			f    func(measured) float64
		}{{"p50", p50}, {"p99", p99}} {
			adds := added(s.of(q.f), all["none"].of(q.f))
			var base []float64
			if all["tuned"] != nil {
				base = positive(added(all["tuned"].of(q.f), all["none"].of(q.f)))
			}
			ratio := b.note(scenario, of, t.name, "added to "+q.name+" µs", adds, base)
			row = append(row, middle(over(adds), "%.0f"), cell(ratio, "%.2f"))
		}
		b.note(scenario, of, t.name, "CPU ms/1000 requests", s.of(cpu), nil)
		rows = append(rows, append(row, middle(over(s.of(cpu)), "%.0f")))
	}
	b.table(fmt.Sprintf("Open loop, %s, %.0f requests/s", of, b.rate), rows)
	return nil
}
