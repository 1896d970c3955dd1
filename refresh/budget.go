package refresh

import (
	"context"
	"fmt"
	"time"

	"larkside/session"
)

// Budget returns the limits on app's calls to the token endpoint, and how much
// of each is used now over all replicas. Both are nil for an unknown app.
func (s *Source) Budget(ctx context.Context, appID string) (limits []session.Limit, used []int, err error) {
	a, ok := s.apps[appID]
	if !ok {
		return nil, nil, nil
	}
	// The first limits are those of all calls.
	used, err = a.governor.rates.Used(ctx, a.governor.name(), a.governor.limitsFor(session.CodeExchange))
	if err != nil {
		return a.governor.limits, nil, err
	}
	return a.governor.limits, used[:len(a.governor.limits)], nil
}

// AwaitTurn waits until a call to appID's token endpoint may be made that is no
// refresh: those wait for their turn by themselves. It returns ctx's error, or
// one that wraps [session.ErrUnavailable] if the database can't count the call.
func (s *Source) AwaitTurn(ctx context.Context, appID string, call session.TokenCall) error {
	a, ok := s.apps[appID]
	if !ok {
		return fmt.Errorf("app %q is not configured", appID)
	}
	asked := time.Now()
	turn := a.governor.joinCall(call)
	defer func() { s.metrics.waitedForRate(ctx, call, time.Since(asked)) }()
	select {
	case err := <-turn.ready:
		return err
	case <-ctx.Done():
		a.governor.leave(turn)
		return context.Cause(ctx)
	}
}

// Resting returns why this replica does not call app's token endpoint now: Lark
// refuses the app, or the endpoint keeps failing. It returns nil if it calls
// it.
func (s *Source) Resting(appID string) error {
	if a, ok := s.apps[appID]; ok {
		return a.resting(false)
	}
	return nil
}

// name is the name by which the app's calls are counted.
func (g *governor) name() string { return "token/" + g.app }
