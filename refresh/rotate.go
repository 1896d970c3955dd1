package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/telemetry"
)

// want is what a run is for.
type want struct {
	// version is the one that the caller saw. Another one in the row is a
	// result by itself.
	version int64
	// refused: Lark did not accept this version's access token.
	refused bool
	// force: renew even if the access token is fresh.
	force bool
}

const (
	// leaseTries bounds how often a run starts over because another owner was
	// at work on the session.
	leaseTries = 5
	// userRetry is how long a user whom Lark disabled is left alone.
	userRetry = time.Hour
	// claimQueue is how long a run waits at most for others that claim.
	claimQueue = 250 * time.Millisecond
	// storeQuickly is how long a run tries to store a new pair before it lets
	// its callers go and goes on behind them.
	storeQuickly = 2 * time.Second
)

// renew runs the protocol of the package comment once. Group sees to it that
// it runs once at a time for each session in this process.
func (s *Source) renew(ctx context.Context, key session.Key, w want) (*session.Access, error) {
	ctx, span := s.tracer.Start(ctx, "token.refresh", trace.WithAttributes(telemetry.AppID.String(key.AppID), s.users.Attr(key.OpenID)))
	defer span.End()
	began := time.Now()
	a, class, err := s.attempt(ctx, key, w)
	span.SetAttributes(telemetry.RefreshClass.String(string(class)))
	if err != nil {
		span.SetStatus(codes.Error, string(class))
		span.SetAttributes(telemetry.ErrorType.String(string(class)))
	}
	s.metrics.ran(ctx, class, time.Since(began))
	return a, err
}

func (s *Source) attempt(ctx context.Context, key session.Key, w want) (*session.Access, Class, error) {
	app, ok := s.apps[key.AppID]
	if !ok {
		return nil, Unconfigured, fmt.Errorf("app %q is not configured", key.AppID)
	}
	changed, stop := s.changes.Watch(key)
	defer stop()
	for range leaseTries {
		row, err := s.sessions.Load(ctx, key)
		if errors.Is(err, session.ErrNotFound) {
			return nil, NotRenewable, &session.ConsentRequiredError{Reason: session.NoSession}
		}
		if err != nil {
			return nil, StoreFailed, retryLater(err)
		}
		if a, class, err := s.settled(row, w); class != "" {
			return a, class, err
		}
		if err := app.resting(); err != nil {
			return nil, Rested, err
		}
		if err := s.stopped(); err != nil {
			return nil, Stopped, err
		}
		if a, class, err := s.admission(ctx, app, row, w, changed); class != "" {
			return a, class, err
		}
		lease, until, err := s.claim(ctx, row)
		if err == nil {
			return s.exchange(ctx, app, lease, w, until)
		}
		app.governor.pass()
		switch {
		case s.stopped() != nil:
			return nil, Stopped, s.stopped()
		case errors.Is(err, session.ErrLeased):
			began := time.Now()
			s.awaitOwner(ctx, row)
			s.metrics.waitedForLease(ctx, time.Since(began))
		case !errors.Is(err, session.ErrConflict):
			return nil, StoreFailed, retryLater(err)
		}
	}
	return nil, Contended, &session.RetryError{Err: fmt.Errorf("others are at work on the session: %w", session.ErrRefreshUnavailable), After: time.Second}
}

// claim leases row's session and says until when Lark may be asked. Claims of
// this replica queue for each other: the rate admits many calls at a moment,
// when everything has expired at once, and a crowd of them in the database would
// be felt by the requests that need no renewal. One that the database does not
// answer holds nobody up for long.
func (s *Source) claim(ctx context.Context, row *session.Session) (l *store.Lease, until time.Time, err error) {
	patience := time.NewTimer(claimQueue)
	defer patience.Stop()
	select {
	case s.claiming <- struct{}{}:
		defer func() { <-s.claiming }()
	case <-patience.C:
	case <-s.stopping:
	}
	if err := s.stopped(); err != nil {
		return nil, until, err
	}
	// Counted from before the claim: a process that is stopped right after
	// it must not wake up and send what another has taken over.
	until = time.Now().Add(s.exchangeTimeout)
	l, err = s.leases.Claim(ctx, row.Key, row.Version, 2*s.exchangeTimeout)
	return l, until, err
}

// admission waits for a call under the app's rate. Should the row decide
// meanwhile, since another replica was faster, the place in line is given up and
// that is the result; an empty class means that Lark may be asked.
func (s *Source) admission(ctx context.Context, app *app, row *session.Session, w want, changed <-chan struct{}) (*session.Access, Class, error) {
	asked := time.Now()
	turn := app.governor.join(row.Key.OpenID)
	defer func() { s.metrics.waitedForRate(ctx, app.governor.wasUrgent(turn), time.Since(asked)) }()
	for {
		select {
		case err := <-turn.ready:
			if err != nil {
				return nil, StoreFailed, retryLater(err)
			}
			return nil, "", nil
		case <-changed:
			now, err := s.sessions.Load(ctx, row.Key)
			if err != nil {
				continue // it decides nothing that is known
			}
			if a, class, err := s.settled(now, w); class != "" {
				app.governor.leave(turn)
				return a, class, err
			}
		case <-s.stopping:
			app.governor.leave(turn)
			return nil, Stopped, s.stopped()
		case <-ctx.Done():
			app.governor.leave(turn)
			return nil, StoreFailed, retryLater(context.Cause(ctx))
		}
	}
}

// settled says what the row decides without Lark; an empty class means that
// Lark has to be asked.
func (s *Source) settled(row *session.Session, w want) (*session.Access, Class, error) {
	a := session.NewAccess(row)
	now := s.now()
	moved := row.Version != w.version
	switch {
	case a.Usable(now) && (moved || !w.refused && !w.force && now.Before(a.RefreshAt(s.threshold))):
		return a, WonByOther, nil
	case w.refused && row.AfterRefusal && now.Sub(row.IssuedAt).Abs() < successorRest && a.Usable(now):
		return nil, Refused, &session.ConsentRequiredError{Reason: session.TokenRefused}
	case s.isUnstored(row.Key):
		return nil, StoreFailed, retryLater(fmt.Errorf("a renewed token awaits the database: %w", session.ErrUnavailable))
	}
	if err := s.hopeless(a); err != nil {
		return nil, NotRenewable, err
	}
	return nil, "", nil
}

// awaitOwner returns when another owner of the session's lease has come to a
// result, or may have died.
func (s *Source) awaitOwner(ctx context.Context, row *session.Session) {
	changed, stop := s.changes.Watch(row.Key)
	defer stop()
	deadline := time.NewTimer(2 * s.exchangeTimeout)
	defer deadline.Stop()
	// Notifications are quick but may be lost.
	look := time.NewTicker(250 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.stopping:
			return
		case <-deadline.C:
			return
		case <-changed:
		case <-look.C:
		}
		now, err := s.sessions.Load(ctx, row.Key)
		if err != nil || now.Version != row.Version || now.State != row.State || now.Failures != row.Failures {
			return
		}
	}
}

// exchange spends the lease's refresh token and settles what came of it.
func (s *Source) exchange(ctx context.Context, app *app, l *store.Lease, w want, until time.Time) (*session.Access, Class, error) {
	done, err := app.admit()
	if err != nil {
		s.leases.Release(ctx, l, store.Failure{}) // else it runs out by itself
		return nil, Rested, err
	}
	// The run's context has no cancellation of any caller's (session.Group);
	// this deadline is well before the lease's.
	call, cancel := context.WithDeadline(ctx, until)
	// expires_in counts from some moment between asking and the answer; from
	// before the first, a token is never taken for valid past its expiry.
	asked := s.now()
	s.metrics.asks(ctx, l.Session.ExpiresAt.Sub(asked))
	token, err := app.client.Refresh(call, l.Session.TokenURL, l.Session.RefreshToken)
	cancel()
	done(err)
	if err != nil {
		return s.failed(ctx, app, l, w, err)
	}
	for _, warning := range token.Warnings {
		s.logFor(l.Session.Key).WarnContext(ctx, "Lark's token answer is odd", "what", warning)
	}
	if s.testingOnlyBeforeStore != nil {
		s.testingOnlyBeforeStore(l.Session.Key)
	}
	return s.keep(ctx, l, newTokens(l.Session, token, asked, w.refused))
}

func newTokens(old *session.Session, t lark.Token, asked time.Time, refused bool) store.Tokens {
	n := store.Tokens{
		AfterRefusal: refused,
		AccessToken:  t.AccessToken, RefreshToken: t.RefreshToken,
		TokenType: t.TokenType, TokenURL: t.TokenURL, Scope: t.Scope,
		IssuedAt: asked, ExpiresAt: asked.Add(t.ExpiresIn),
	}
	if n.AccessToken.Empty() {
		// Only the refresh token was readable. The old access token stays good.
		n.AccessToken, n.TokenType, n.IssuedAt, n.ExpiresAt = old.AccessToken, old.TokenType, old.IssuedAt, old.ExpiresAt
	}
	if n.Scope == "" {
		n.Scope = old.Scope
	}
	if !n.RefreshToken.Empty() {
		n.RefreshExpiresAt = asked.Add(t.RefreshExpiresIn)
	}
	return n
}

// keep stores a new pair. Until that has succeeded this process has the only
// good copy of the grant, so a failing database is asked until it answers: at
// first while the callers wait, then behind them.
func (s *Source) keep(ctx context.Context, l *store.Lease, t store.Tokens) (*session.Access, Class, error) {
	quick, cancel := context.WithTimeout(ctx, storeQuickly)
	defer cancel()
	a, class, err := s.storeOnce(quick, l, t)
	if class != StoreFailed {
		return a, class, err
	}
	s.logFor(l.Session.Key).ErrorContext(ctx, "the database does not take a renewed token; trying until it does", "error", err)
	s.unstored.Store(l.Session.Key, true)
	s.behind.Go(func() { s.keepTrying(context.WithoutCancel(ctx), l, t) })
	return nil, StoreFailed, retryLater(err)
}

func (s *Source) keepTrying(ctx context.Context, l *store.Lease, t store.Tokens) {
	defer s.unstored.Delete(l.Session.Key)
	for try := 0; ; try++ {
		select {
		case <-time.After(backoff(try, 100*time.Millisecond, 2*time.Second)):
		case <-s.leases.Closed():
			s.logFor(l.Session.Key).ErrorContext(ctx, "a renewed token could not be stored before the process ended; its session is lost")
			return
		}
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, class, _ := s.storeOnce(call, l, t)
		cancel()
		if class != StoreFailed {
			s.logFor(l.Session.Key).InfoContext(ctx, "the database took a renewed token", "result", string(class))
			return
		}
	}
}

func (s *Source) storeOnce(ctx context.Context, l *store.Lease, t store.Tokens) (*session.Access, Class, error) {
	stored, err := s.leases.Replace(ctx, l, t)
	switch {
	case err == nil:
		return session.NewAccess(stored), Renewed, nil
	case errors.Is(err, session.ErrConflict):
		return s.superseded(ctx, l, t)
	}
	return nil, StoreFailed, err
}

// superseded is for a pair that came too late: the user has consented anew, and
// that grant counts, or has revoked, and then this pair must not live on. A pair
// older than a new consent is not revoked at Lark: no page says whether that
// would end the new grant too.
func (s *Source) superseded(ctx context.Context, l *store.Lease, t store.Tokens) (*session.Access, Class, error) {
	row, err := s.sessions.Load(ctx, l.Session.Key)
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		return nil, StoreFailed, err
	}
	if err != nil || row.Reason == session.Revoked {
		s.behind.Go(func() {
			s.discard(context.WithoutCancel(ctx), l.Session.Key, t.AccessToken, t.RefreshToken)
		})
		return nil, NotRenewable, &session.ConsentRequiredError{Reason: session.Revoked}
	}
	return s.found(row, Superseded)
}

// found is the result that a row read after the fact holds.
func (s *Source) found(row *session.Session, class Class) (*session.Access, Class, error) {
	a := session.NewAccess(row)
	if a.Usable(s.now()) {
		return a, class, nil
	}
	if err := s.hopeless(a); err != nil {
		return nil, class, err
	}
	return nil, class, &session.RetryError{Err: session.ErrRefreshUnavailable, After: time.Second}
}

// failed settles an error of the token endpoint (step 7).
func (s *Source) failed(ctx context.Context, app *app, l *store.Lease, w want, cause error) (*session.Access, Class, error) {
	var e *lark.Error
	if !errors.As(cause, &e) {
		e = &lark.Error{Class: lark.Unknown, Outcome: lark.Lost, Err: cause}
	}
	if span := trace.SpanFromContext(ctx); e.Code != 0 {
		span.SetAttributes(telemetry.LarkCode.Int(e.Code), telemetry.LarkLogID.String(e.LogID))
	}
	switch e.Class {
	case lark.Reauthorize:
		return s.dead(ctx, l, w, e)
	case lark.UserDisabled:
		if !e.Doubtful() || s.confirmed(ctx, app, l.Session) {
			return s.end(ctx, l, store.Ending{State: session.Disabled, Reason: e.Reason, DropAccess: w.refused, Retry: userRetry}, UserDisabled, e)
		}
	}
	return s.later(ctx, l, w, e)
}

const (
	// doubtPeriod is how much later Lark has to say again that a user does not
	// exist before that alone is believed.
	doubtPeriod = time.Minute
	// doubtTimeout bounds the question to the directory.
	doubtTimeout = 3 * time.Second
)

// confirmed reports whether row's user is gone indeed: the directory says so,
// or Lark said so before, at least doubtPeriod ago, and no refresh has succeeded
// since. A directory that can't be asked confirms nothing.
func (s *Source) confirmed(ctx context.Context, app *app, row *session.Session) bool {
	if !row.DoubtedAt.IsZero() && s.now().Sub(row.DoubtedAt) >= doubtPeriod {
		return true
	}
	asking, cancel := context.WithTimeout(ctx, doubtTimeout)
	defer cancel()
	people, err := app.client.Users(asking, []string{row.OpenID})
	return err == nil && len(people) == 1 && gone(people[0])
}

// dead settles Lark's word that the refresh token is spent, revoked, malformed
// or too old.
func (s *Source) dead(ctx context.Context, l *store.Lease, w want, e *lark.Error) (*session.Access, Class, error) {
	row, err := s.sessions.Load(ctx, l.Session.Key)
	if err == nil && row.Version != l.Session.Version {
		return s.found(row, WonByOther)
	}
	class := Dead
	if e.Reason == session.RefreshTokenUsed {
		class = Reused
		if l.Session.Attempts > 1 {
			class = RotationLost
		}
	}
	return s.end(ctx, l, store.Ending{State: session.ConsentRequired, Reason: e.Reason, DropAccess: w.refused}, class, e)
}

// end marks the session. While its access token lives, callers get that.
func (s *Source) end(ctx context.Context, l *store.Lease, ending store.Ending, class Class, e *lark.Error) (*session.Access, Class, error) {
	row, err := s.leases.End(ctx, l, ending)
	switch {
	case errors.Is(err, session.ErrConflict):
		row, err = s.sessions.Load(ctx, l.Session.Key)
		if err != nil {
			return nil, StoreFailed, retryLater(err)
		}
		return s.found(row, WonByOther)
	case err != nil:
		return nil, StoreFailed, retryLater(err)
	}
	s.logFor(row.Key).WarnContext(ctx, "a session can't be renewed any more",
		"state", row.State, "reason", row.Reason, "class", string(class), "error", e)
	s.ended(ctx, row)
	return s.found(row, class)
}

// later keeps the session for another try.
func (s *Source) later(ctx context.Context, l *store.Lease, w want, e *lark.Error) (*session.Access, Class, error) {
	class, answer := Transient, session.ErrRefreshUnavailable
	rest := max(backoff(l.Session.Failures, time.Second, 30*time.Second), e.RetryAfter)
	switch e.Class {
	case lark.AppRefused:
		// The app rests as a whole; the session is to go on when that ends.
		class, answer, rest = Misconfigured, session.ErrAppMisconfigured, 0
	case lark.Misconfigured:
		// A request that Lark can't use says nothing about other sessions.
		class, answer = Misconfigured, session.ErrAppMisconfigured
	}
	row, err := s.leases.Release(ctx, l, store.Failure{MaybeSpent: e.Outcome == lark.Lost, Retry: rest, Doubted: e.Doubtful()})
	if err != nil {
		row = l.Session // the lease runs out by itself
	}
	if e.Class != lark.AppRefused { // which is logged once, for all sessions
		s.complaints.Log(ctx, slog.LevelWarn, "a refresh failed; the session is kept", row.AppID, "app_id", row.AppID, s.users.Log(row.OpenID),
			"failures", row.Failures, "retry_in", rest.Round(time.Millisecond).String(), "error", e)
	}
	if a := session.NewAccess(row); a.Usable(s.now()) && !w.refused {
		return a, class, nil
	}
	return nil, class, &session.RetryError{Err: fmt.Errorf("%w: %w", answer, e), After: atLeastASecond(rest)}
}

// backoff doubles from first to most, and adds up to a quarter so that what
// failed together does not come back together.
func backoff(failures int, first, most time.Duration) time.Duration {
	d := most
	if failures < 16 {
		d = min(most, first<<failures)
	}
	return d + rand.N(d/4+1)
}

func (s *Source) isUnstored(key session.Key) bool {
	_, ok := s.unstored.Load(key)
	return ok
}
