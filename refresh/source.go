package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/singleflight"
	"larkside/session/store"
	"larkside/telemetry"
)

// Lark is what refreshing needs of one app's client. *lark.Client is one.
type Lark interface {
	// Refresh spends a refresh token. Errors are *lark.Error.
	Refresh(ctx context.Context, tokenURL string, refreshToken session.Secret) (lark.Token, error)
	// Users reads up to 50 people's data.
	Users(ctx context.Context, openIDs []string) ([]lark.ContactUser, error)
}

// Config is what a [Source] needs. Zero values stand for the defaults named.
type Config struct {
	// Sessions, Leases, Profiles, Rates, Elections and Changes are those of one
	// database; required.
	Sessions  *store.Sessions
	Leases    *store.Leases
	Profiles  *store.Profiles
	Rates     *store.Rates
	Elections *store.Elections
	Changes   *store.Changes
	// Apps holds the client of each app by its id.
	Apps map[string]Lark
	// Threshold: a token with less than this fraction of its life left is
	// renewed behind the requests that use it. 0: 0.1.
	Threshold float64
	// Limits bound the calls to the token endpoint per app over all replicas.
	// None: 40 in a second and 900 in a minute.
	Limits []session.Limit
	// Sweep is how often idle sessions are looked through. 0: never.
	Sweep time.Duration
	// Sync is how old a person's data may get. 0: it is never read again.
	Sync time.Duration
	// ExchangeTimeout bounds one call to the token endpoint, 0: 10 s; the
	// lease lasts twice as long.
	ExchangeTimeout time.Duration
	// Ended is called when a session was found to be past renewal, at most once
	// for each, possibly concurrently. Nil: nobody cares.
	Ended func(ctx context.Context, s *session.Session)
	// Discard is given a pair that was renewed while its user revoked: it must
	// end at Lark. Called possibly concurrently, on a context that no caller
	// cancels. Nil: it lives until it expires.
	Discard func(ctx context.Context, key session.Key, access, refresh session.Secret)
	// Users writes user ids into spans and logs.
	Users telemetry.Users
	// Now is the clock that judges expiry. Nil: time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Source finds access tokens and keeps them renewed. It is safe for concurrent
// use.
type Source struct {
	sessions        *store.Sessions
	leases          *store.Leases
	profiles        *store.Profiles
	elections       *store.Elections
	changes         *store.Changes
	apps            map[string]*app
	threshold       float64
	exchangeTimeout time.Duration
	sweepEvery      time.Duration
	syncEvery       time.Duration
	ended           func(context.Context, *session.Session)
	discard         func(ctx context.Context, key session.Key, access, refresh session.Secret)
	users           telemetry.Users
	now             func() time.Time
	log             *slog.Logger
	complaints      *telemetry.Complaints
	tracer          trace.Tracer
	metrics         metrics

	runs singleflight.Group[session.Key, *session.Access]
	// claiming holds an item while a run claims a lease. See claim.
	claiming chan struct{}
	// behind counts what a run leaves to do after its end.
	behind sync.WaitGroup
	// stopping is closed by Shutdown: no run begins to ask Lark after it.
	stopping chan struct{}
	stop     func()
	// unstored holds the keys of pairs that Lark has issued and the database has
	// not taken yet. See keep.
	unstored sync.Map

	// testingOnlyBeforeStore runs between Lark's answer and the store.
	testingOnlyBeforeStore func(session.Key)
}

const (
	defaultThreshold       = 0.1
	defaultExchangeTimeout = 10 * time.Second
	// renewPeriod is how often a request that finds its token near the end may
	// start a renewal behind it.
	renewPeriod = time.Second
	// successorRest is how long the successor of a refused token is not renewed
	// again when it is refused too: what refuses both refuses the next one as
	// well, and each would cost a rotation.
	successorRest = 30 * time.Second
)

// New returns a Source. Run [Source.Run] beside it for the sweep.
func New(c Config) (*Source, error) {
	if c.Sessions == nil || c.Leases == nil || c.Profiles == nil || c.Rates == nil || c.Elections == nil || c.Changes == nil {
		return nil, errors.New("refresh: a part of the store is missing")
	}
	if len(c.Apps) == 0 {
		return nil, errors.New("refresh: at least one app is required")
	}
	s := &Source{
		sessions: c.Sessions, leases: c.Leases, profiles: c.Profiles, elections: c.Elections, changes: c.Changes,
		threshold: c.Threshold, exchangeTimeout: c.ExchangeTimeout,
		sweepEvery: c.Sweep, syncEvery: c.Sync, ended: c.Ended, discard: c.Discard, users: c.Users, now: c.Now, log: c.Log,
		apps:     make(map[string]*app, len(c.Apps)),
		tracer:   otel.Tracer("larkside/refresh"),
		stopping: make(chan struct{}),
		claiming: make(chan struct{}, 1),
	}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	if s.threshold == 0 {
		s.threshold = defaultThreshold
	}
	if s.exchangeTimeout == 0 {
		s.exchangeTimeout = defaultExchangeTimeout
	}
	if s.ended == nil {
		s.ended = func(context.Context, *session.Session) {}
	}
	if s.discard == nil {
		s.discard = func(context.Context, session.Key, session.Secret, session.Secret) {}
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.complaints = telemetry.NewComplaints(s.log)
	limits := c.Limits
	if len(limits) == 0 {
		limits = []session.Limit{{N: 40, Period: time.Second}, {N: 900, Period: time.Minute}}
	}
	for id, client := range c.Apps {
		s.apps[id] = newApp(id, client, newGovernor(id, c.Rates, limits), s.now, s.log)
	}
	var err error
	s.metrics, err = newMetrics(s)
	return s, err
}

// Token returns an access token of key that is valid now, and where it was
// found. A token near its end is returned at once and renewed behind the
// request; an expired one is waited for. Errors wrap [session.ErrConsentRequired]
// (a [session.ConsentRequiredError] with the reason), [session.ErrUserDisabled],
// [session.ErrAppMisconfigured], [session.ErrRefreshUnavailable] or
// [session.ErrUnavailable] (each a [session.RetryError]), or are ctx's.
func (s *Source) Token(ctx context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	now := s.now()
	if a, checked := s.sessions.Cached(key); checked {
		switch {
		case a.Usable(now):
			s.renewBehind(ctx, a, now)
			return a, session.FromCache, nil
		case a.Renewable && a.State == session.Active:
			return s.wait(ctx, a)
		}
		// Nobody is sent away, or asked to authorize, on the word of the cache:
		// the user may just have done so on another replica.
	}
	a, err := s.sessions.Access(ctx, key)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return nil, session.Missing, &session.ConsentRequiredError{Reason: session.NoSession}
	case err != nil:
		return nil, session.Missing, retryLater(err)
	case a.Usable(now):
		s.renewBehind(ctx, a, now)
		return a, session.FromDatabase, nil
	}
	return s.wait(ctx, a)
}

// renewBehind starts a renewal if a is near its end. For all requests but one a
// second it costs two comparisons and an atomic load.
func (s *Source) renewBehind(ctx context.Context, a *session.Access, now time.Time) {
	if now.Before(a.RefreshAt(s.threshold)) || !a.Renewable || now.Before(a.RetryAt()) || !a.ClaimRenewal(now, renewPeriod) {
		return
	}
	s.runs.Start(ctx, a.Key, func(ctx context.Context) (*session.Access, error) {
		return s.renew(ctx, a.Key, want{version: a.Version})
	})
}

// wait is for a request that can't go on with a.
func (s *Source) wait(ctx context.Context, a *session.Access) (*session.Access, session.Lookup, error) {
	if err := s.hopeless(a); err != nil {
		return nil, session.Missing, err
	}
	fresh, joined, err := s.await(ctx, a.Key, want{version: a.Version})
	switch {
	case err != nil:
		return nil, session.Missing, err
	case !fresh.Usable(s.now()):
		return nil, session.Missing, retryLater(fmt.Errorf("the renewed token is not usable: %w", session.ErrRefreshUnavailable))
	case joined:
		return fresh, session.Waited, nil
	}
	return fresh, session.Refreshed, nil
}

// hopeless says why asking Lark to renew a is of no use now.
func (s *Source) hopeless(a *session.Access) error {
	if rest := a.RetryAt().Sub(s.now()); rest > 0 && a.Renewable {
		if a.State == session.Disabled {
			return session.ErrUserDisabled
		}
		return &session.RetryError{Err: session.ErrRefreshUnavailable, After: atLeastASecond(rest)}
	}
	switch {
	case a.State == session.Disabled && !a.Renewable:
		return session.ErrUserDisabled
	case a.State == session.ConsentRequired:
		return &session.ConsentRequiredError{Reason: a.Reason}
	case !a.Renewable:
		return &session.ConsentRequiredError{Reason: session.NoRefreshToken}
	}
	return nil
}

// Refused is told when Lark refused the access token of key at version. It
// returns another one: the stored one if that has moved on already, else the
// result of one forced refresh. Errors are those of [Source.Token].
func (s *Source) Refused(ctx context.Context, key session.Key, version int64) (*session.Access, error) {
	for {
		fresh, joined, err := s.await(ctx, key, want{version: version, refused: true})
		switch {
		case err != nil:
			return nil, err
		case fresh.Version != version && fresh.Usable(s.now()):
			return fresh, nil
		case !joined:
			return nil, retryLater(fmt.Errorf("%w: the token was refused and no other came", session.ErrRefreshUnavailable))
		}
		// The run that was joined did not know of the refusal: it failed for the
		// moment and kept the token that there is. The next run knows.
	}
}

// await returns what a run for key brings, and whether that run had been
// started by another caller. The run's call to Lark goes before those that
// nobody waits for.
func (s *Source) await(ctx context.Context, key session.Key, w want) (a *session.Access, joined bool, err error) {
	if app, ok := s.apps[key.AppID]; ok {
		defer app.governor.expect(key.OpenID)()
	}
	return s.runs.Do(ctx, key, func(ctx context.Context) (*session.Access, error) {
		return s.renew(ctx, key, w)
	})
}

// Refresh renews key's session now, whether it needs it or not. When that fails
// it is an error, whatever the token that there was is still good for.
func (s *Source) Refresh(ctx context.Context, key session.Key) (*session.Access, error) {
	a, err := s.sessions.Access(ctx, key)
	if errors.Is(err, session.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		return nil, retryLater(err)
	}
	if err := s.hopeless(a); err != nil {
		return nil, err
	}
	fresh, _, err := s.await(ctx, key, want{version: a.Version, force: true})
	if err == nil && fresh.Version == a.Version {
		// The token that there was still works, so the failure was not passed on.
		return nil, &session.RetryError{Err: fmt.Errorf("%w: nothing was renewed", session.ErrRefreshUnavailable), After: time.Second}
	}
	return fresh, err
}

// Shutdown begins no renewal any more and returns when those under way have
// ended and the database has taken what they brought, whoever asked for them and
// has left since; or with ctx's error, and then grants may be lost. Those that
// have not asked Lark yet end with [session.ErrRefreshUnavailable]. It may be
// called again.
func (s *Source) Shutdown(ctx context.Context) error {
	s.stop()
	if err := s.runs.Wait(ctx); err != nil {
		return fmt.Errorf("renewals are under way: %w", err)
	}
	done := make(chan struct{})
	go func() {
		s.behind.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("renewed tokens are not stored: %w", context.Cause(ctx))
	}
}

// stopped is the error of a run that has not asked Lark when the process ends,
// nil while it goes on.
func (s *Source) stopped() error {
	select {
	case <-s.stopping:
		return retryLater(fmt.Errorf("%w: this replica is stopping", session.ErrRefreshUnavailable))
	default:
		return nil
	}
}

// retryLater gives an error that passes by itself a time to come back.
func retryLater(err error) error {
	var known *session.RetryError
	if errors.As(err, &known) {
		return err
	}
	return &session.RetryError{Err: err, After: time.Second}
}

func atLeastASecond(d time.Duration) time.Duration { return max(time.Second, d) }

// logFor is the log with whose session it is about.
func (s *Source) logFor(key session.Key) *slog.Logger {
	return s.log.With("app_id", key.AppID, s.users.Log(key.OpenID))
}
