package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"larkside/session"
	"larkside/session/lark"
)

// app is what all sessions of one app share: its client, the rate of calls to
// the token endpoint, and whether the endpoint is worth calling.
type app struct {
	client   Lark
	governor *governor
	// breaker opens when the token endpoint keeps failing, for whatever
	// sessions.
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	now     func() time.Time
	log     *slog.Logger

	// wake makes the prober look again: the app has just been refused, or its
	// secret has changed. accepted gets an item when Lark accepts an app again;
	// all apps share it.
	wake, accepted chan struct{}

	mu sync.Mutex
	// refusal is Lark's last answer that refused the app itself, nil if Lark
	// accepts it. refusedAt is when Lark first refused it, and probeAt when Lark
	// is asked again.
	refusal            error
	refusedAt, probeAt time.Time
	// refusedFor is the session whose refresh was refused with the refusal; zero
	// if that came from another call.
	refusedFor session.Key
}

const (
	// breakAfter is how many calls in a row must fail for the circuit to open.
	breakAfter = 10
	// breakFor is how long it stays open before one call is let through.
	breakFor = 2 * time.Second
	// probeEvery is how often a refused app is tried.
	probeEvery = 30 * time.Second
)

func newApp(id string, client Lark, g *governor, accepted chan struct{}, now func() time.Time, log *slog.Logger) *app {
	return &app{
		client: client, now: now, log: log.With("app_id", id),
		governor: g, wake: make(chan struct{}, 1), accepted: accepted,
		breaker: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: id, MaxRequests: 1, Timeout: breakFor,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
			OnStateChange: func(name string, from, to gobreaker.State) {
				log.Warn("the circuit to Lark's token endpoint changed", "app_id", name, "from", from.String(), "to", to.String())
			},
		}),
	}
}

// resting returns why the token endpoint is not called now, or nil. It changes
// nothing. A probe is called although Lark refuses the app.
func (a *app) resting(probe bool) error {
	if err := a.misconfigured(); err != nil && !probe {
		return err
	}
	if a.breaker.State() == gobreaker.StateOpen {
		return errCircuitOpen()
	}
	return nil
}

// misconfigured returns an error while Lark refuses the app.
func (a *app) misconfigured() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refusal == nil {
		return nil
	}
	return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrAppMisconfigured, a.refusal), After: atLeastASecond(a.probeAt.Sub(a.now()))}
}

func errCircuitOpen() error {
	return &session.RetryError{Err: fmt.Errorf("%w: the token endpoint keeps failing", session.ErrRefreshUnavailable), After: breakFor}
}

// allow gives the right to call the token endpoint once, to refresh key's
// session. The caller passes the call's error to done. For an app that Lark
// refuses, only a probe is allowed.
func (a *app) allow(key session.Key, probe bool) (done func(error), err error) {
	if err := a.resting(probe); err != nil {
		return nil, err
	}
	report, err := a.breaker.Allow()
	if err != nil {
		return nil, errCircuitOpen()
	}
	return func(err error) {
		a.note(key, err)
		report(transient(err))
	}, nil
}

// transient returns err if it says that the endpoint fails, and nil if it says
// that the endpoint refused one request.
func transient(err error) error {
	var e *lark.Error
	if errors.As(err, &e) && e.Class != lark.Retry {
		return nil
	}
	return err
}

// appRefused reports whether Lark refused the app itself.
func appRefused(err error) bool {
	var e *lark.Error
	return errors.As(err, &e) && e.Class == lark.AppRefused
}

// note records what a call says about whether Lark accepts the app. key is the
// session that the call was to refresh; zero for another call. It logs changes
// only.
func (a *app) note(key session.Key, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case appRefused(err):
		if a.refusal == nil {
			a.log.Error("Lark refuses the app; no session is renewed and nobody is asked to authorize until this is mended", "error", err)
			a.refusedAt = a.now()
		}
		a.refusal, a.refusedFor, a.probeAt = err, key, a.now().Add(probeEvery)
		signal(a.wake)
	case err == nil && a.refusal != nil:
		a.log.Info("Lark accepts the app again")
		a.refusal = nil
		signal(a.accepted)
	}
}

// signal puts an item into a channel for one, unless it has one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Report takes the outcome of another call to Lark that authenticated as the
// app, such as the start of a consent. A success is no reason to believe that
// Lark lets the app renew sessions again: the probe finds that out.
func (s *Source) Report(appID string, err error) {
	if a, ok := s.apps[appID]; ok && appRefused(err) {
		a.note(session.Key{}, err)
	}
}

func (a *app) lastRefusal() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusal
}

// probeNow has the app tried at once if Lark refuses it.
func (a *app) probeNow() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probeAt = time.Time{}
	signal(a.wake)
}

// Refusal returns why Lark refuses the app. It is nil if Lark accepts the app,
// or has not been asked yet.
func (s *Source) Refusal(appID string) error {
	if a, ok := s.apps[appID]; ok {
		return a.lastRefusal()
	}
	return nil
}

// RefusedSince returns when Lark first refused the app, as far as this process
// knows. It is zero if [Source.Refusal] is nil.
func (s *Source) RefusedSince(appID string) time.Time {
	a, ok := s.apps[appID]
	if !ok {
		return time.Time{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refusal == nil {
		return time.Time{}
	}
	return a.refusedAt
}

// AllRefused reports whether Lark refuses every app.
func (s *Source) AllRefused() bool {
	for _, a := range s.apps {
		if a.lastRefusal() == nil {
			return false
		}
	}
	return true
}

// AwaitAccepted returns when Lark refuses some of the apps at most, or ctx ends.
// One caller at a time may wait. It needs [Source.Run], which asks Lark again.
func (s *Source) AwaitAccepted(ctx context.Context) error {
	for s.AllRefused() {
		select {
		case <-s.accepted:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Reconsider has apps that Lark refuses tried at once. It is called when an
// app's secret has changed.
func (s *Source) Reconsider() {
	for _, a := range s.apps {
		a.probeNow()
	}
}

// CheckApp returns an error while Lark refuses the app. It is called before a
// consent is started, so that nobody gets the card of an app that can't use the
// answer.
func (s *Source) CheckApp(appID string) error {
	a, ok := s.apps[appID]
	if !ok {
		return fmt.Errorf("app %q is not configured", appID)
	}
	return a.misconfigured()
}
