package refresh

import (
	"context"
	"errors"
	"time"

	"larkside/session"
)

// probeTimeout bounds one probe, with the wait for the rate.
const probeTimeout = 20 * time.Second

// probeRefused asks Lark about an app that it refuses, every probeEvery and when
// the app's secret has changed, until ctx ends. Traffic can't be relied on for
// that: a replica that is not ready gets none.
func (s *Source) probeRefused(ctx context.Context, a *app) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var due <-chan time.Time // never, while Lark accepts the app
		if rest, refused := a.untilProbe(); refused {
			timer.Reset(rest)
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-due:
			s.probe(ctx, a)
		}
	}
}

// untilProbe returns how long a refused app is left alone.
func (a *app) untilProbe() (rest time.Duration, refused bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(0, a.probeAt.Sub(a.now())), a.refusal != nil
}

// probe asks Lark once whether it accepts the app, in the way in which Lark
// refused it if that can be repeated.
func (s *Source) probe(ctx context.Context, a *app) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if key, ok := a.beginProbe(); ok && s.probeByRefresh(ctx, a, key) {
		return
	}
	if err := a.client.Verify(ctx); err == nil || appRefused(err) {
		a.note(session.Key{}, err)
	}
}

// beginProbe sets the time of the probe after this one. If Lark refused the app
// when a session was renewed, it returns that session.
func (a *app) beginProbe() (key session.Key, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probeAt = a.now().Add(probeEvery)
	return a.refusedFor, a.refusedFor != session.Key{}
}

// probeByRefresh renews the session whose renewal showed that Lark refuses the
// app. Nothing else says whether Lark lets the app renew sessions: a refresh
// token that is made up may be refused before Lark looks at the app's switches. It
// reports false if the session can't be renewed for another reason now.
func (s *Source) probeByRefresh(ctx context.Context, a *app, key session.Key) (asked bool) {
	row, err := s.sessions.Load(ctx, key)
	if err != nil {
		return !errors.Is(err, session.ErrNotFound)
	}
	probe := func(ctx context.Context) (*session.Access, error) {
		return s.renew(ctx, key, want{version: row.Version, force: true, probe: true})
	}
	fresh, joined, err := s.runs.Do(ctx, key, probe)
	for joined && ctx.Err() == nil {
		// The run that a request began is no probe. It rests, and so ends soon.
		fresh, joined, err = s.runs.Do(ctx, key, probe)
	}
	switch {
	case errors.Is(err, session.ErrConsentRequired), errors.Is(err, session.ErrUserDisabled), err == nil && !fresh.Renewable:
		return false
	case err == nil && fresh.Version != row.Version: // renewed here or on another replica
		a.note(key, nil)
	}
	return true
}
