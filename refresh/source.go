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
	// Refresh spends a refresh token. Its errors are *lark.Error.
	Refresh(ctx context.Context, tokenURL string, refreshToken session.Secret) (lark.Token, error)
	// Verify asks Lark whether it accepts the app's id and secret.
	Verify(ctx context.Context) error
	// Users reads the profiles of up to 50 users.
	Users(ctx context.Context, openIDs []string) ([]lark.ContactUser, error)
}

// Config is what a [Source] needs.
type Config struct {
	// Sessions, Leases, Profiles, Rates, Elections and Changes are those of one
	// database; required.
	Sessions  *store.Sessions
	Leases    *store.Leases
	Profiles  *store.Profiles
	Rates     *store.Rates
	Elections *store.Elections
	Changes   *store.Changes
	// Apps has the client of each app, by the app's id; required.
	Apps map[string]Lark
	// Threshold is the fraction of an access token's life. With less left, the
	// token is renewed behind the requests that use it. 0: 0.1.
	Threshold float64
	// Limits bound the calls to the token endpoint, per app and over all
	// replicas. None: 40 in a second and 900 in a minute.
	Limits []session.Limit
	// Sweep is how often sessions that nobody uses are renewed if they are due.
	// 0: never.
	Sweep time.Duration
	// Sync is how old a profile may get before it is read from Lark again. 0:
	// it is never read again.
	Sync time.Duration
	// CallTimeout bounds one call to the token endpoint. A lease lasts twice as
	// long. 0: 10 s.
	CallTimeout time.Duration
	// Ended is called once for each session that can't be renewed any more,
	// possibly concurrently. Nil: no callback.
	Ended func(ctx context.Context, s *session.Session)
	// Discard is called with a pair that was renewed while its user revoked, so
	// that it can be revoked at Lark. It is called possibly concurrently, on a
	// context that no caller cancels. Nil: the pair works until it expires.
	Discard func(ctx context.Context, key session.Key, access, refresh session.Secret)
	// Users writes user ids to spans and logs.
	Users telemetry.Users
	// Now is the clock that judges expiry. Nil: time.Now.
	Now func() time.Time
	// Log receives what an operator can act on. Nil: no log.
	Log *slog.Logger
}

// Source finds access tokens and renews them. It is safe for concurrent use.
type Source struct {
	sessions    *store.Sessions
	leases      *store.Leases
	profiles    *store.Profiles
	elections   *store.Elections
	changes     *store.Changes
	apps        map[string]*app
	threshold   float64
	callTimeout time.Duration
	sweepEvery  time.Duration
	syncEvery   time.Duration
	ended       func(context.Context, *session.Session)
	discard     func(ctx context.Context, key session.Key, access, refresh session.Secret)
	users       telemetry.Users
	now         func() time.Time
	log         *slog.Logger
	complaints  *telemetry.Complaints
	tracer      trace.Tracer
	metrics     metrics

	runs singleflight.Group[session.Key, *session.Access]
	// accepted gets an item when Lark accepts an app again. See AwaitAccepted.
	accepted chan struct{}
	// claiming has an item while a run claims a lease. See claim.
	claiming chan struct{}
	// behind counts the goroutines that go on after a run has ended.
	behind sync.WaitGroup
	// stopping is closed by Shutdown. After that no run begins to ask Lark.
	stopping chan struct{}
	stop     func()
	// unstored has the keys of the pairs that Lark has issued and the database
	// has not taken yet. See storePair.
	unstored sync.Map

	// testingOnlyBeforeStore runs between Lark's answer and the store.
	testingOnlyBeforeStore func(session.Key)
}

const (
	defaultThreshold   = 0.1
	defaultCallTimeout = 10 * time.Second
	// renewPeriod is how often a request whose token is near its end may start
	// a renewal.
	renewPeriod = time.Second
	// successorRest is for a token that replaced a refused one and is refused,
	// too: for so long it is not renewed. Whatever refuses both would refuse
	// the next one as well, and each would cost a rotation.
	successorRest = 30 * time.Second
	// longestRest is longer than any rest that Larkside stores. A longer one,
	// which a database whose clock was wrong leaves behind, does not count.
	longestRest = 2 * userRetry
)

// resting returns how long Lark is not to be asked to renew a.
func resting(a *session.Access, now time.Time) time.Duration {
	rest := a.RetryAt().Sub(now)
	if rest <= 0 || rest > longestRest {
		return 0
	}
	return rest
}

// New checks c and returns a Source. [Source.Run] does what needs a clock.
func New(c Config) (*Source, error) {
	if c.Sessions == nil || c.Leases == nil || c.Profiles == nil || c.Rates == nil || c.Elections == nil || c.Changes == nil {
		return nil, errors.New("refresh: a part of the store is missing")
	}
	if len(c.Apps) == 0 {
		return nil, errors.New("refresh: at least one app is required")
	}
	s := &Source{
		sessions: c.Sessions, leases: c.Leases, profiles: c.Profiles, elections: c.Elections, changes: c.Changes,
		threshold: c.Threshold, callTimeout: c.CallTimeout,
		sweepEvery: c.Sweep, syncEvery: c.Sync, ended: c.Ended, discard: c.Discard, users: c.Users, now: c.Now, log: c.Log,
		apps:     make(map[string]*app, len(c.Apps)),
		tracer:   otel.Tracer("larkside/refresh"),
		stopping: make(chan struct{}),
		claiming: make(chan struct{}, 1),
		accepted: make(chan struct{}, 1),
	}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	if s.threshold == 0 {
		s.threshold = defaultThreshold
	}
	if s.callTimeout == 0 {
		s.callTimeout = defaultCallTimeout
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
		s.apps[id] = newApp(id, client, newGovernor(id, c.Rates, limits), s.accepted, s.now, s.log)
	}
	var err error
	s.metrics, err = newMetrics(s)
	return s, err
}

// Token returns an access token of key that is valid now, and where it was
// found. It returns a token that is near its end at once, and renews it behind
// the request. It waits for the renewal of an expired one. Errors wrap
// [session.ErrConsentRequired] (a [session.ConsentRequiredError] with the
// reason), [session.ErrUserDisabled], [session.ErrAppMisconfigured],
// [session.ErrRefreshUnavailable] or [session.ErrUnavailable] (each a
// [session.RetryError]), or are ctx's.
func (s *Source) Token(ctx context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	now := s.now()
	if a, checked := s.sessions.Cached(key); checked {
		switch {
		case a.Usable(now):
			s.renewBehind(ctx, a, now)
			return a, session.FromCache, nil
		case a.Renewable && a.State == session.Active:
			return s.waitForRenewal(ctx, a)
		}
		// The cache alone is no reason to send anybody away or to ask for
		// consent: the user may just have authorized on another replica.
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
	return s.waitForRenewal(ctx, a)
}

// renewBehind starts a renewal if a is near its end, once a second at most.
// Most requests pay one comparison for it.
func (s *Source) renewBehind(ctx context.Context, a *session.Access, now time.Time) {
	if now.Before(a.RefreshAt(s.threshold)) || !a.Renewable || resting(a, now) > 0 || !a.ClaimRenewal(now, renewPeriod) {
		return
	}
	s.runs.Start(ctx, a.Key, func(ctx context.Context) (*session.Access, error) {
		return s.renew(ctx, a.Key, want{version: a.Version})
	})
}

// waitForRenewal is for a request that can't use a.
func (s *Source) waitForRenewal(ctx context.Context, a *session.Access) (*session.Access, session.Lookup, error) {
	if err := s.renewalBlocked(a); err != nil {
		return nil, session.Missing, err
	}
	fresh, joined, err := s.runOrJoin(ctx, a.Key, want{version: a.Version})
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

// renewalBlocked returns why Lark is not asked to renew a now, or nil if it can
// be asked.
func (s *Source) renewalBlocked(a *session.Access) error {
	if rest := resting(a, s.now()); rest > 0 && a.Renewable {
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

// ReplaceRefused is called when Lark refused the access token of key at version. It
// returns another token: the stored one if that has another version, else the
// result of one forced refresh. Errors are those of [Source.Token].
func (s *Source) ReplaceRefused(ctx context.Context, key session.Key, version int64) (*session.Access, error) {
	for {
		fresh, joined, err := s.runOrJoin(ctx, key, want{version: version, refused: true})
		switch {
		case err != nil:
			return nil, err
		case fresh.Version != version && fresh.Usable(s.now()):
			return fresh, nil
		case !joined:
			return nil, retryLater(fmt.Errorf("%w: the token was refused, and there is no other", session.ErrRefreshUnavailable))
		}
		// The run was another caller's and did not know of the refusal. It
		// failed and returned the present token. The next run knows.
	}
}

// runOrJoin returns the result of a run for key. joined reports whether another
// caller had started it. Its call to Lark goes before those that nobody waits
// for.
func (s *Source) runOrJoin(ctx context.Context, key session.Key, w want) (a *session.Access, joined bool, err error) {
	if app, ok := s.apps[key.AppID]; ok {
		defer app.governor.expect(key.OpenID)()
	}
	return s.runs.Do(ctx, key, func(ctx context.Context) (*session.Access, error) {
		return s.renew(ctx, key, w)
	})
}

// Refresh renews key's session now, even if its token is fresh. It returns an
// error if that fails, even if the present token is usable.
func (s *Source) Refresh(ctx context.Context, key session.Key) (*session.Access, error) {
	a, err := s.sessions.Access(ctx, key)
	if errors.Is(err, session.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		return nil, retryLater(err)
	}
	if err := s.renewalBlocked(a); err != nil {
		return nil, err
	}
	fresh, _, err := s.runOrJoin(ctx, key, want{version: a.Version, force: true})
	if err == nil && fresh.Version == a.Version {
		// The run failed and returned the present token. What it has stored says
		// why.
		if now, err := s.sessions.Access(ctx, key); err == nil {
			if err := s.renewalBlocked(now); err != nil {
				return nil, err
			}
		}
		if err := s.Resting(key.AppID); err != nil {
			return nil, err
		}
		return nil, &session.RetryError{Err: fmt.Errorf("%w: nothing was renewed", session.ErrRefreshUnavailable), After: time.Second}
	}
	return fresh, err
}

// Shutdown lets no further renewal begin. It returns when those under way have
// ended and their pairs are stored, even if no caller waits for them any more.
// Renewals that have not asked Lark yet end with
// [session.ErrRefreshUnavailable]. It returns an error if ctx ends earlier, and
// then grants may be lost. It may be called again.
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

// stopped returns the error of a run that has not asked Lark yet, once Shutdown
// has been called, and nil before.
func (s *Source) stopped() error {
	select {
	case <-s.stopping:
		return retryLater(fmt.Errorf("%w: this replica is stopping", session.ErrRefreshUnavailable))
	default:
		return nil
	}
}

// retryLater makes err a [session.RetryError], unless it is one.
func retryLater(err error) error {
	var known *session.RetryError
	if errors.As(err, &known) {
		return err
	}
	return &session.RetryError{Err: err, After: time.Second}
}

func atLeastASecond(d time.Duration) time.Duration { return max(time.Second, d) }

// logFor returns the log with the attributes of key.
func (s *Source) logFor(key session.Key) *slog.Logger {
	return s.log.With("app_id", key.AppID, s.users.Log(key.OpenID))
}
