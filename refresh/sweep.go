package refresh

import (
	"context"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/session"
)

const (
	// sweepAtOnce is how many idle sessions are renewed at a time. The governor
	// delays them.
	sweepAtOnce = 8
	// sweepLimit is how many idle sessions one sweep renews.
	sweepLimit = 500
)

// Run renews idle sessions and reads profiles until ctx ends. Each of the two
// jobs is done by one replica at a time. It also asks Lark now and then about
// apps that Lark refuses, on each replica.
func (s *Source) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, a := range s.apps {
		g.Go(func() error { s.probeRefused(ctx, a); return nil })
	}
	if s.sweepEvery > 0 {
		g.Go(func() error { return s.every(ctx, "sweep", s.sweepEvery, s.sweep) })
	}
	if s.syncEvery > 0 {
		for id := range s.apps {
			g.Go(func() error {
				return s.every(ctx, "sync/"+id, min(s.syncEvery, time.Minute), func(ctx context.Context) { s.syncDue(ctx, id) })
			})
		}
	}
	return g.Wait()
}

// every does a job about every period if this replica has been elected for it.
func (s *Source) every(ctx context.Context, name string, period time.Duration, work func(context.Context)) error {
	for {
		// The jitter keeps replicas that were started together apart.
		timer := time.NewTimer(period + rand.N(period/10+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		leads, err := s.elections.Lead(ctx, name, 2*period)
		switch {
		case err != nil:
			s.log.DebugContext(ctx, "no lead without the database", "work", name, "error", err)
		case leads:
			work(ctx)
		}
	}
}

// sweep renews the sessions that nobody has used for most of their refresh
// token's life. A session that fails is tried again after its own backoff.
func (s *Source) sweep(ctx context.Context) {
	due, err := s.leases.Due(ctx, sweepLimit)
	if err != nil {
		s.log.WarnContext(ctx, "idle sessions could not be looked through", "error", err)
		return
	}
	var g errgroup.Group
	g.SetLimit(sweepAtOnce)
	for _, key := range due {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			s.sweepOne(ctx, key)
			return nil
		})
	}
	g.Wait()
}

func (s *Source) sweepOne(ctx context.Context, key session.Key) {
	row, err := s.sessions.Load(ctx, key)
	if err != nil {
		return
	}
	_, _, _ = s.runs.Do(ctx, key, func(ctx context.Context) (*session.Access, error) {
		return s.renew(ctx, key, want{version: row.Version, force: true})
	})
}
