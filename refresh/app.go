package refresh

import (
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
	id       string
	client   Lark
	governor *governor
	// breaker opens when the token endpoint keeps failing, for whatever
	// sessions.
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	now     func() time.Time
	log     *slog.Logger

	mu sync.Mutex
	// refusal is Lark's last answer that refused the app itself, nil if Lark
	// accepts it. probeAt is when one refresh, the probe, is tried nevertheless.
	refusal error
	probeAt time.Time
}

const (
	// breakAfter is how many calls in a row must fail for the circuit to open.
	breakAfter = 10
	// breakFor is how long it stays open before one call is let through.
	breakFor = 2 * time.Second
	// probeEvery is how often a refused app is tried.
	probeEvery = 30 * time.Second
)

func newApp(id string, client Lark, g *governor, now func() time.Time, log *slog.Logger) *app {
	return &app{
		id: id, client: client, now: now, log: log.With("app_id", id),
		governor: g,
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
// nothing.
func (a *app) resting() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.refused(); err != nil {
		return err
	}
	if a.breaker.State() == gobreaker.StateOpen {
		return errCircuitOpen()
	}
	return nil
}

// refused returns Lark's refusal if no probe is due. a.mu is held.
func (a *app) refused() error {
	if rest := a.probeAt.Sub(a.now()); a.refusal != nil && rest > 0 {
		return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrAppMisconfigured, a.refusal), After: atLeastASecond(rest)}
	}
	return nil
}

// enter is resting for a run that goes on to call the token endpoint. For a
// refused app it makes the first run the probe, so that the others rest and
// take neither the rate nor a lease. A probe that does not call gives that back
// by leave.
func (a *app) enter() (probe bool, err error) {
	if err := a.resting(); err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.refused(); err != nil { // another run was faster
		return false, err
	}
	if probe = a.refusal != nil; probe {
		a.probeAt = a.now().Add(probeEvery)
	}
	return probe, nil
}

// leave ends a run that has not called the token endpoint.
func (a *app) leave(probe bool) {
	if probe {
		a.probeNow()
	}
}

func errCircuitOpen() error {
	return &session.RetryError{Err: fmt.Errorf("%w: the token endpoint keeps failing", session.ErrRefreshUnavailable), After: breakFor}
}

// admit gives the right to call the token endpoint once. The caller passes the
// call's error to done. For an app that Lark refuses, only the probe is
// admitted.
func (a *app) admit(probe bool) (done func(error), err error) {
	a.mu.Lock()
	if err = a.refused(); probe {
		err = nil
	}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	report, err := a.breaker.Allow()
	if err != nil {
		return nil, errCircuitOpen()
	}
	return func(err error) {
		a.note(err)
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

// note records what a call says about whether Lark accepts the app. It logs
// changes only.
func (a *app) note(err error) {
	var e *lark.Error
	refused := errors.As(err, &e) && e.Class == lark.AppRefused
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case refused:
		if a.refusal == nil {
			a.log.Error("Lark refuses the app; no session is renewed and nobody is asked to authorize until this is mended", "error", err)
		}
		a.refusal, a.probeAt = err, a.now().Add(probeEvery)
	case err == nil && a.refusal != nil:
		a.log.Info("Lark accepts the app again")
		a.refusal = nil
	}
}

// refreshSwitch is Lark's code for an app whose switch "refresh
// user_access_token" is off in the console.
const refreshSwitch = 20074

// Report takes the outcome of another call to Lark that authenticated as the
// app, such as the start of a consent. A success of such a call says nothing
// about the refresh switch.
func (s *Source) Report(appID string, err error) {
	a, ok := s.apps[appID]
	if !ok {
		return
	}
	var refusal *lark.Error
	if err == nil && errors.As(a.lastRefusal(), &refusal) && refusal.Code == refreshSwitch {
		return
	}
	a.note(err)
}

func (a *app) lastRefusal() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusal
}

// probeNow lets the next refresh be tried.
func (a *app) probeNow() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probeAt = time.Time{}
}

// Refusal returns why Lark refuses the app. It is nil if Lark accepts the app,
// or has not been asked yet.
func (s *Source) Refusal(appID string) error {
	if a, ok := s.apps[appID]; ok {
		return a.lastRefusal()
	}
	return nil
}

// Reconsider lets apps that Lark refuses be tried at once. It is called when an
// app's secret has changed.
func (s *Source) Reconsider() {
	for _, a := range s.apps {
		a.probeNow()
	}
}

// Admitted returns an error if Lark refuses the app. It is called before a
// consent is started, so that nobody gets the card of an app that can't use the
// answer.
func (s *Source) Admitted(appID string) error {
	a, ok := s.apps[appID]
	if !ok {
		return fmt.Errorf("app %q is not configured", appID)
	}
	if err := a.resting(); errors.Is(err, session.ErrAppMisconfigured) {
		return err
	}
	return nil
}
