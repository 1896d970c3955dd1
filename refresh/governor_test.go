package refresh

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/test/larktest"
)

// Calls of all kinds wait for the same rate, and go in the order of their kinds
// whatever the order in which they came.
func TestCallsGoInTheOrderOfTheirKinds(t *testing.T) {
	inWorld(t, nil, func(c *Config) { c.Limits = []session.Limit{{N: 16, Period: time.Minute}} }, func(t *testing.T, w *world) {
		for range 16 {
			// Each in a moment of its own, so that the rate lets one call through at
			// a time later.
			time.Sleep(3 * time.Second)
			if err := w.source.AwaitTurn(t.Context(), larktest.AppID, session.CodeExchange); err != nil {
				t.Fatal(err)
			}
		}
		g := w.source.apps[larktest.AppID].governor
		var mu sync.Mutex
		var order []session.TokenCall
		var gone sync.WaitGroup
		for call := session.TokenCalls - 1; call >= 0; call-- {
			turn := g.joinCall(call)
			gone.Go(func() {
				if err := <-turn.ready; err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, call)
			})
			synctest.Wait()
		}
		gone.Wait()
		if !slices.IsSorted(order) {
			t.Errorf("admitted in the order %v", order)
		}
	})
}

// However many polls and idle refreshes there are, each kind finds what is kept
// for it, over all replicas.
func TestKindsHaveTheirShare(t *testing.T) {
	limits := func(c *Config) { c.Limits = []session.Limit{{N: 80, Period: time.Minute}} }
	inWorld(t, nil, limits, func(t *testing.T, w *world) {
		other := w.replica(limits)
		admitted := func(s *Source, call session.TokenCall, n int) (got int) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var mu sync.Mutex
			together(n, func(int) {
				err := s.AwaitTurn(ctx, larktest.AppID, call)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					got++
				case !errors.Is(err, context.DeadlineExceeded):
					t.Error(err)
				}
			})
			return got
		}
		for _, step := range []struct {
			call   session.TokenCall
			source *Source
			want   int
		}{
			{session.QuietPoll, w.source, 20},      // two eighths
			{session.DevicePoll, other, 20},        // four eighths, with those
			{session.IdleRefresh, w.source, 20},    // until six eighths are used
			{session.QuietPoll, other, 0},          //
			{session.AwaitedRefresh, w.source, 20}, // all that is left
			{session.CodeExchange, other, 0},
		} {
			if got := admitted(step.source, step.call, 100); got != step.want {
				t.Errorf("%d calls of kind %v, want %d", got, step.call, step.want)
			}
		}
	})
}

func TestAwaitTurnUnknownApp(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		if err := w.source.AwaitTurn(t.Context(), "cli_other", session.DevicePoll); err == nil {
			t.Error("no error")
		}
		w.Store.Close()
		if err := w.source.AwaitTurn(t.Context(), larktest.AppID, session.DevicePoll); !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("without the database: %v", err)
		}
	})
}
