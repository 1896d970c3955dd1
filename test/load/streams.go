package main

import (
	"context"
	"fmt"
)

// streams measures bodies of 10 MiB, down and up.
func (b *bench) streams(ctx context.Context) error {
	for _, p := range protocols {
		targets, stop, err := b.start(ctx, p.secure)
		if err != nil {
			stop()
			return err
		}
		rows := [][]string{{"proxy", "down MiB/s", "vs tuned", "CPU s/GiB", "up MiB/s", "vs tuned", "CPU s/GiB"}}
		ways := []loop{download, upload}
		all := map[loop]map[string]series{}
		for _, way := range ways {
			all[way], err = b.interleave(ctx, targets, job{Loop: way, Conns: 4, Users: b.users, Size: 10 << 20, Length: b.length})
			if err != nil {
				stop()
				return err
			}
		}
		stop()
		for _, t := range targets {
			row := []string{t.name}
			for _, way := range ways {
				s, tuned := all[way][t.name], all[way]["tuned"]
				var base []float64
				if tuned != nil {
					base = tuned.of(rateMiB)
				}
				ratio := b.note("stream", p.name+", "+string(way), t.name, "MiB/s", s.of(rateMiB), base)
				row = append(row, middle(over(s.of(rateMiB)), "%.0f"), cell(ratio, "%.2f"))
				if t.direct {
					row = append(row, "-")
				} else {
					b.note("stream", p.name+", "+string(way), t.name, "CPU s/GiB", s.of(cpuPerGiB), nil)
					row = append(row, middle(over(s.of(cpuPerGiB)), "%.2f"))
				}
			}
			rows = append(rows, row)
		}
		b.table(fmt.Sprintf("10 MiB bodies, %s, 4 at a time", p.name), rows)
	}
	return nil
}

// sse measures how much later than the upstream's the first event comes.
func (b *bench) sse(ctx context.Context) error {
	for _, p := range protocols {
		targets, stop, err := b.start(ctx, p.secure)
		if err != nil {
			stop()
			return err
		}
		all, err := b.interleave(ctx, targets, job{Loop: events, Conns: 2, Users: b.users, Length: b.length})
		stop()
		if err != nil {
			return err
		}
		rows := [][]string{{"proxy", "p50 µs", "p99 µs", "greatest µs"}}
		for _, t := range targets {
			s := all[t.name]
			greatest := s.of(func(m measured) float64 { return m.Max })
			b.note("sse", p.name, t.name, "first event p50 µs", s.of(p50), nil)
			b.note("sse", p.name, t.name, "first event p99 µs", s.of(p99), nil)
			b.note("sse", p.name, t.name, "first event max µs", greatest, nil)
			rows = append(rows, []string{t.name, cell(over(s.of(p50)), "%.0f"), cell(over(s.of(p99)), "%.0f"), middle(over(greatest), "%.0f")})
		}
		b.table(fmt.Sprintf("From the upstream's first event to the caller, %s", p.name), rows)
	}
	return nil
}
