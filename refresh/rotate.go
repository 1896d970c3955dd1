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
	// version is the one that the caller saw. A usable token of another version
	// is a result.
	version int64
	// refused: Lark refused the access token of this version.
	refused bool
	// force: renew even if the access token is fresh.
	force bool
	// probe: ask Lark although it refuses the app, to learn whether it still
	// does.
	probe bool
}

const (
	// leaseTries bounds how often a run starts over because another owner had
	// the lease.
	leaseTries = 5
	// firstRest is how long a session rests after a refresh that failed. It doubles
	// with each further one, up to longestBackoff.
	firstRest      = time.Second
	longestBackoff = 30 * time.Second
	// userRetry is how long Lark is not asked about a user whom it disabled.
	userRetry = time.Hour
	// claimWait is how long a run waits at most for other claims of this
	// process.
	claimWait = 250 * time.Millisecond
	// storeWait is how long callers wait for a new pair to be stored. After
	// that the run goes on without them.
	storeWait = 2 * time.Second
)

// renew runs the protocol of the package comment once. The singleflight group
// sees to it that one run for each session is under way in this process.
func (s *Source) renew(ctx context.Context, key session.Key, w want) (*session.Access, error) {
	ctx, span := s.tracer.Start(ctx, "token.refresh", trace.WithAttributes(telemetry.AppID.String(key.AppID), s.users.Attr(key.OpenID)))
	defer span.End()
	began := time.Now()
	a, class, err := s.run(ctx, key, w)
	span.SetAttributes(telemetry.RefreshClass.String(string(class)))
	if err != nil {
		span.SetStatus(codes.Error, string(class))
		span.SetAttributes(telemetry.ErrorType.String(string(class)))
	}
	s.metrics.ran(ctx, class, time.Since(began))
	return a, err
}

// run takes steps 2 to 4 of the protocol until the row decides or the lease is
// taken, and then spends the refresh token.
func (s *Source) run(ctx context.Context, key session.Key, w want) (*session.Access, Class, error) {
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
		if a, class, err := s.decidedByRow(row, w); class != "" {
			return a, class, err
		}
		if err := app.resting(w.probe); err != nil {
			return nil, Rested, err
		}
		if err := s.stopped(); err != nil {
			return nil, Stopped, err
		}
		if a, class, err := s.waitForRate(ctx, app, row, w, changed); class != "" {
			return a, class, err
		}
		lease, until, err := s.claim(ctx, row)
		if err == nil {
			return s.spend(ctx, app, lease, w, until)
		}
		app.governor.pass(1)
		switch {
		case s.stopped() != nil:
			return nil, Stopped, s.stopped()
		case errors.Is(err, session.ErrLeased):
			began := time.Now()
			s.waitForOwner(ctx, row)
			s.metrics.waitedForLease(ctx, time.Since(began))
		case !errors.Is(err, session.ErrConflict):
			return nil, StoreFailed, retryLater(err)
		}
	}
	return nil, Contended, &session.RetryError{Err: fmt.Errorf("other owners kept the session's lease: %w", session.ErrRefreshUnavailable), After: time.Second}
}

// decidedByRow returns the result if the row decides without Lark. An empty
// class means that Lark has to be asked.
func (s *Source) decidedByRow(row *session.Session, w want) (*session.Access, Class, error) {
	a := session.NewAccess(row)
	now := s.now()
	moved := row.Version != w.version
	switch {
	case a.Usable(now) && (moved || !w.refused && !w.force && now.Before(a.RefreshAt(s.threshold))):
		return a, WonByOther, nil
	case w.refused && row.AfterRefusal && now.Sub(row.IssuedAt).Abs() < successorRest && a.Usable(now):
		return nil, SuccessorRefused, &session.ConsentRequiredError{Reason: session.TokenRefused}
	case s.isUnstored(row.Key):
		return nil, StoreFailed, retryLater(fmt.Errorf("a renewed token is not stored yet: %w", session.ErrUnavailable))
	}
	if err := s.renewalBlocked(a); err != nil {
		return nil, NotRenewable, err
	}
	return nil, "", nil
}

// waitForRate waits until the app's rate admits a call. If the row decides
// meanwhile, because another replica was faster, it gives up the place in line
// and returns that result. An empty class means that Lark may be asked.
func (s *Source) waitForRate(ctx context.Context, app *app, row *session.Session, w want, changed <-chan struct{}) (*session.Access, Class, error) {
	asked := time.Now()
	turn := app.governor.joinRefresh(row.Key.OpenID)
	defer func() { s.metrics.waitedForRate(ctx, app.governor.callOf(turn), time.Since(asked)) }()
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
				continue // nothing is known, so keep waiting
			}
			if a, class, err := s.decidedByRow(now, w); class != "" {
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

// claim leases row's session and returns until when Lark may be asked.
//
// Claims of this process wait for each other. When many tokens expire at once
// the rate admits many calls in a moment, and as many statements would slow
// down the requests that need no renewal. A claim that the database does not
// answer holds the others up for claimWait at most.
func (s *Source) claim(ctx context.Context, row *session.Session) (l *store.Lease, until time.Time, err error) {
	timer := time.NewTimer(claimWait)
	defer timer.Stop()
	select {
	case s.claiming <- struct{}{}:
		defer func() { <-s.claiming }()
	case <-timer.C:
	case <-s.stopping:
	}
	if err := s.stopped(); err != nil {
		return nil, until, err
	}
	// The time counts from before the claim. A process that is stopped right
	// after the claim must not wake up and send what another owner has taken
	// over.
	until = time.Now().Add(s.callTimeout)
	l, err = s.leases.Claim(ctx, row.Key, row.Version, 2*s.callTimeout)
	return l, until, err
}

// waitForOwner returns when the owner of the session's lease has stored a
// result, or may have died.
func (s *Source) waitForOwner(ctx context.Context, row *session.Session) {
	changed, stop := s.changes.Watch(row.Key)
	defer stop()
	deadline := time.NewTimer(2 * s.callTimeout)
	defer deadline.Stop()
	// Notifications are quick but may be lost, so the row is read now and then.
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

// spend sends the lease's refresh token to Lark (step 5) and stores what comes
// of it (steps 6 and 7).
func (s *Source) spend(ctx context.Context, app *app, l *store.Lease, w want, until time.Time) (*session.Access, Class, error) {
	done, err := app.allow(l.Session.Key, w.probe)
	if err != nil {
		app.governor.pass(1)
		s.leases.Release(ctx, l, store.Failure{}) // if it fails, the lease runs out
		return nil, Rested, err
	}
	// No caller can cancel the run's context (singleflight). This deadline is
	// well before the lease's.
	call, cancel := context.WithDeadline(ctx, until)
	// expires_in counts from some moment between the request and the answer.
	// Counted from before the request, no token is taken for valid after its
	// expiry.
	asked := s.now()
	s.metrics.asks(ctx, l.Session.ExpiresAt.Sub(asked))
	token, err := app.client.Refresh(call, l.Session.TokenURL, l.Session.RefreshToken)
	cancel()
	done(err)
	if err != nil {
		return s.handleError(ctx, app, l, w, err)
	}
	for _, warning := range token.Warnings {
		s.logFor(l.Session.Key).WarnContext(ctx, "Lark's token answer is odd", "what", warning)
	}
	if s.testingOnlyBeforeStore != nil {
		s.testingOnlyBeforeStore(l.Session.Key)
	}
	pair := newTokens(l.Session, token, asked, w.refused)
	if !usable(pair, s.now()) {
		// Each request would bring a rotation, and use up the rate of all users.
		pair.Failures, pair.Retry = l.Session.Failures+1, backoff(l.Session.Failures, firstRest, longestBackoff)
	}
	return s.storePair(ctx, l, pair)
}

// usable reports whether the pair's access token can be sent at all.
func usable(t store.Tokens, now time.Time) bool {
	a := session.NewAccess(&session.Session{State: session.Active, AccessToken: t.AccessToken, TokenType: t.TokenType, ExpiresAt: t.ExpiresAt})
	return a.Usable(now)
}

func newTokens(old *session.Session, t lark.Token, asked time.Time, refused bool) store.Tokens {
	n := store.Tokens{
		AfterRefusal: refused,
		AccessToken:  t.AccessToken, RefreshToken: t.RefreshToken,
		TokenType: t.TokenType, TokenURL: t.TokenURL, Scope: t.Scope,
		IssuedAt: asked, ExpiresAt: asked.Add(t.ExpiresIn),
	}
	if n.AccessToken.Empty() {
		// Only the refresh token could be read. The old access token still
		// works.
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

// storePair stores a new pair (step 6). Until that has succeeded, this process
// has the only good copy of the grant. So a database that fails is tried until
// it succeeds: while the callers wait at first, then behind them.
func (s *Source) storePair(ctx context.Context, l *store.Lease, t store.Tokens) (*session.Access, Class, error) {
	waiting, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	a, class, err := s.storeOnce(waiting, l, t)
	if class != StoreFailed {
		return a, class, err
	}
	key := l.Session.Key
	s.logFor(key).ErrorContext(ctx, "the database does not take a renewed token; trying until it does", "error", err)
	s.unstored.Store(key, true)
	s.behind.Go(func() {
		defer s.unstored.Delete(key)
		ctx := context.WithoutCancel(ctx)
		for try := 0; ; try++ {
			select {
			case <-time.After(backoff(try, 100*time.Millisecond, 2*time.Second)):
			case <-s.leases.Closed():
				s.logFor(key).ErrorContext(ctx, "a renewed token could not be stored before the process ended; its session is lost")
				return
			}
			attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, class, _ := s.storeOnce(attempt, l, t)
			cancel()
			if class != StoreFailed {
				s.logFor(key).InfoContext(ctx, "the database took a renewed token", "result", string(class))
				return
			}
		}
	})
	return nil, StoreFailed, retryLater(err)
}

// storeOnce stores a new pair. If the version has moved, the pair comes too
// late. Either the user has consented anew: then that grant counts. (The late
// pair is not revoked at Lark, since no page says whether that would end the
// new grant, too.) Or the user has revoked: then the late pair must end at
// Lark, too.
func (s *Source) storeOnce(ctx context.Context, l *store.Lease, t store.Tokens) (*session.Access, Class, error) {
	key := l.Session.Key
	stored, err := s.leases.Replace(ctx, l, t)
	if err == nil {
		return session.NewAccess(stored), Renewed, nil
	}
	if !errors.Is(err, session.ErrConflict) {
		return nil, StoreFailed, err
	}
	row, err := s.sessions.Load(ctx, key)
	switch {
	case err != nil && !errors.Is(err, session.ErrNotFound):
		return nil, StoreFailed, err
	case err != nil, row.Reason == session.Revoked:
		s.behind.Go(func() { s.discard(context.WithoutCancel(ctx), key, t.AccessToken, t.RefreshToken) })
		return nil, NotRenewable, &session.ConsentRequiredError{Reason: session.Revoked}
	}
	return s.resultOf(row, Superseded)
}

// resultOf returns what a caller gets of a row that was read after a run: its
// token if that is usable, else why there is none.
func (s *Source) resultOf(row *session.Session, class Class) (*session.Access, Class, error) {
	a := session.NewAccess(row)
	if a.Usable(s.now()) {
		return a, class, nil
	}
	if err := s.renewalBlocked(a); err != nil {
		return nil, class, err
	}
	return nil, class, &session.RetryError{Err: session.ErrRefreshUnavailable, After: time.Second}
}

// handleError decides what an error of the token endpoint means for the session
// (step 7).
func (s *Source) handleError(ctx context.Context, app *app, l *store.Lease, w want, cause error) (*session.Access, Class, error) {
	var e *lark.Error
	if !errors.As(cause, &e) {
		e = &lark.Error{Class: lark.Unknown, Outcome: lark.Lost, Err: cause}
	}
	if span := trace.SpanFromContext(ctx); e.Code != 0 {
		span.SetAttributes(telemetry.LarkCode.Int(e.Code), telemetry.LarkLogID.String(e.LogID))
	}

	// The refresh token is spent, revoked, malformed or too old. Before that is
	// believed, the row is read again: another owner may have stored a newer
	// pair.
	if e.Class == lark.Reauthorize {
		row, err := s.sessions.Load(ctx, l.Session.Key)
		if err == nil && row.Version != l.Session.Version {
			return s.resultOf(row, WonByOther)
		}
		class := Dead
		switch {
		case e.Reason == session.RefreshTokenUsed && l.Session.Attempts > 1:
			class = RotationLost
		case e.Reason == session.RefreshTokenUsed:
			class = Reused
		}
		return s.endSession(ctx, l, store.Ending{State: session.ConsentRequired, Reason: e.Reason, DropAccess: w.refused}, class, e)
	}

	// The user is gone or may not use the app.
	if e.Class == lark.UserDisabled && (!e.Doubtful() || s.isGone(ctx, app, l.Session)) {
		return s.endSession(ctx, l, store.Ending{State: session.Disabled, Reason: e.Reason, DropAccess: w.refused, Retry: userRetry}, UserDisabled, e)
	}

	// Everything else passes, or is the operator's to fix. The session is kept
	// for another try.
	class, answer := Transient, session.ErrRefreshUnavailable
	rest := max(backoff(l.Session.Failures, firstRest, longestBackoff), e.RetryAfter)
	switch e.Class {
	case lark.AppRefused:
		// The app as a whole rests, so the session needs no rest of its own.
		class, answer, rest = Misconfigured, session.ErrAppMisconfigured, 0
	case lark.Misconfigured:
		// Lark could not use this request, which says nothing about other
		// sessions.
		class, answer = Misconfigured, session.ErrAppMisconfigured
	}
	row, err := s.leases.Release(ctx, l, store.Failure{MaybeSpent: e.Outcome == lark.Lost, Retry: rest, Doubted: e.Doubtful()})
	if err != nil {
		row = l.Session // the lease runs out
	}
	if e.Class != lark.AppRefused { // that is logged once for all sessions
		s.complaints.Log(ctx, slog.LevelWarn, "a refresh failed; the session is kept", row.AppID, "app_id", row.AppID, s.users.Log(row.OpenID),
			"failures", row.Failures, "retry_in", rest.Round(time.Millisecond).String(), "error", e)
	}
	if a := session.NewAccess(row); a.Usable(s.now()) && !w.refused {
		return a, class, nil
	}
	return nil, class, &session.RetryError{Err: fmt.Errorf("%w: %w", answer, e), After: atLeastASecond(rest)}
}

// endSession marks the session as one that can't be renewed. Callers get its
// access token while that is usable.
func (s *Source) endSession(ctx context.Context, l *store.Lease, ending store.Ending, class Class, e *lark.Error) (*session.Access, Class, error) {
	row, err := s.leases.End(ctx, l, ending)
	if errors.Is(err, session.ErrConflict) {
		if row, err = s.sessions.Load(ctx, l.Session.Key); err == nil {
			return s.resultOf(row, WonByOther)
		}
	}
	if err != nil {
		return nil, StoreFailed, retryLater(err)
	}
	s.logFor(row.Key).WarnContext(ctx, "a session can't be renewed any more",
		"state", row.State, "reason", row.Reason, "class", string(class), "error", e)
	s.ended(ctx, row)
	return s.resultOf(row, class)
}

const (
	// doubtPeriod is how much later Lark has to say again that a user does not
	// exist before that is believed without the directory.
	doubtPeriod = time.Minute
	// doubtTimeout bounds the question to the directory.
	doubtTimeout = 3 * time.Second
)

// isGone reports whether a user of whom Lark said so does not exist indeed: the
// directory says so too, or Lark said so before, at least doubtPeriod ago, and
// no refresh has succeeded since. It is false if the directory can't be asked.
func (s *Source) isGone(ctx context.Context, app *app, row *session.Session) bool {
	if !row.DoubtedAt.IsZero() && s.now().Sub(row.DoubtedAt) >= doubtPeriod {
		return true
	}
	asking, cancel := context.WithTimeout(ctx, doubtTimeout)
	defer cancel()
	people, err := app.client.Users(asking, []string{row.OpenID})
	return err == nil && len(people) == 1 && gone(people[0])
}

// backoff doubles from first to most. It adds up to a quarter, so that what
// failed together is not tried again together.
func backoff(failures int, first, most time.Duration) time.Duration {
	d := most
	if failures = max(0, failures); failures < 16 {
		d = min(most, first<<failures)
	}
	return d + rand.N(d/4+1)
}

func (s *Source) isUnstored(key session.Key) bool {
	_, ok := s.unstored.Load(key)
	return ok
}
