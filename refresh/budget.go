package refresh

import (
	"context"

	"larkside/session"
)

// Budget returns the limits on app's calls to the token endpoint, and how much
// of each is used now over all replicas. Both are nil for an unknown app.
func (s *Source) Budget(ctx context.Context, appID string) (limits []session.Limit, used []int, err error) {
	a, ok := s.apps[appID]
	if !ok {
		return nil, nil, nil
	}
	used, err = a.governor.rates.Used(ctx, a.governor.name(), a.governor.limits)
	return a.governor.limits, used, err
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
