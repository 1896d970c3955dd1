package consent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
)

// SignInError says why nobody has signed in: "declined", "expired", or the reason
// that a consent would have failed with.
type SignInError struct {
	Reason session.Reason
	Err    error
}

func (e *SignInError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("nobody has signed in: %s", e.Reason)
	}
	return fmt.Sprintf("nobody has signed in: %s: %v", e.Reason, e.Err)
}

func (e *SignInError) Unwrap() error { return e.Err }

// SignIn asks whoever opens a link to authorize the app, and makes that person the
// default user of the app. It calls show with the link and how long it works, and
// waits for the answer. It returns the stored session. Its errors are a
// [SignInError], [session.ErrNotAsked] if no link can be had,
// [session.ErrUnavailable], or the cause of the end of ctx.
//
// It is for one person at their own terminal. A consent that a request starts is
// for one user, whom the request has named; this one is for whoever approves. So
// nothing is kept of it before that: if this process ends, it has to be begun again.
func (m *Manager) SignIn(ctx context.Context, appID string, show func(link string, life time.Duration)) (*session.Session, error) {
	app, ok := m.apps[appID]
	if !ok {
		return nil, fmt.Errorf("signing in: app %q: %w", appID, session.ErrNotFound)
	}
	if !m.enter() {
		return nil, fmt.Errorf("signing in: %w: %w", session.ErrUnavailable, errClosing)
	}
	defer m.tasks.Done()
	admitted, wait, err := m.rates.Take(ctx, "consent/"+appID, startRates, 1)
	switch {
	case err != nil:
		return nil, err
	case admitted == 0:
		return nil, &session.RetryError{Err: fmt.Errorf("signing in: too many consents: %w", session.ErrNotAsked), After: max(wait, retrySoon)}
	}
	d, err := app.StartDevice(ctx, m.scopes)
	if err != nil {
		return nil, m.signInFailed(ctx, appID, err)
	}
	show(d.VerificationURIComplete, d.ExpiresIn)
	token, err := m.awaitSignIn(ctx, appID, app, d)
	if err != nil {
		return nil, err
	}
	// Lark issues these tokens once. They are stored although the terminal may be
	// closed by now.
	ctx, cancel := m.detach(ctx)
	defer cancel()
	return m.storeSignIn(ctx, appID, app, token)
}

// awaitSignIn polls until the person has decided (RFC 8628 section 3.5).
func (m *Manager) awaitSignIn(ctx context.Context, appID string, app Lark, d lark.DeviceAuthorization) (lark.Token, error) {
	over := time.NewTimer(d.ExpiresIn)
	defer over.Stop()
	for interval := d.Interval; ; {
		pause := time.NewTimer(interval)
		select {
		case <-pause.C:
		case <-over.C:
			pause.Stop()
			return lark.Token{}, &SignInError{Reason: session.Reason(session.ConsentExpired)}
		case <-ctx.Done():
			pause.Stop()
			return lark.Token{}, context.Cause(ctx)
		}
		token, err := m.pollSignIn(ctx, app, d)
		var e *lark.Error
		errors.As(err, &e)
		_, refused := refusalOf(e)
		switch {
		case err == nil:
			return token, nil
		case errors.Is(err, lark.ErrAuthorizationPending):
		case errors.Is(err, lark.ErrSlowDown):
			interval = min(interval+slowDown, slowest)
		case errors.Is(err, lark.ErrAccessDenied):
			return lark.Token{}, &SignInError{Reason: session.Declined}
		case errors.Is(err, lark.ErrExpired):
			return lark.Token{}, &SignInError{Reason: session.Reason(session.ConsentExpired)}
		case refused, e != nil && (e.Class == lark.Reauthorize || e.Class == lark.UserDisabled && !e.Doubtful()):
			return lark.Token{}, m.signInFailed(ctx, appID, err)
		default:
			m.complaints.Log(ctx, slog.LevelWarn, "can't poll a sign-in; trying again until it expires", appID, "app_id", appID, "error", err)
			interval = max(interval, min(2*interval, slowestBlind))
		}
	}
}

// pollSignIn asks once. The end of ctx does not cut it off, since Lark may issue the
// tokens at that moment.
func (m *Manager) pollSignIn(ctx context.Context, app Lark, d lark.DeviceAuthorization) (lark.Token, error) {
	ctx, stop := m.detach(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	return app.PollDevice(ctx, d.DeviceCode)
}

// signInFailed logs why Lark gave no link or no tokens, and returns the error for it.
func (m *Manager) signInFailed(ctx context.Context, appID string, cause error) error {
	reason, remedy := session.Reason(reasonStartFailed), "try again; doctor checks the app"
	var e *lark.Error
	errors.As(cause, &e)
	if r, ok := refusalOf(e); ok {
		reason, remedy = session.Reason(r.reason), r.remedy
	} else if e != nil && e.Class == lark.AppRefused {
		return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrAppMisconfigured, cause), After: retryFailed}
	}
	m.complaints.Log(ctx, slog.LevelError, "a sign-in failed", appID+string(reason), "reason", string(reason), "do", remedy, "app_id", appID, "error", cause)
	return &SignInError{Reason: reason, Err: cause}
}

// storeSignIn finds out whose tokens these are, stores them and makes that user the
// default one. Tokens that can't be stored are revoked at Lark.
func (m *Manager) storeSignIn(ctx context.Context, appID string, app Lark, t lark.Token) (*session.Session, error) {
	received := m.now()
	discard := func(err error) (*session.Session, error) {
		m.Discard(ctx, session.Key{AppID: appID}, t.AccessToken, t.RefreshToken)
		return nil, err
	}
	if t.TokenType != "Bearer" {
		return discard(&SignInError{Reason: session.UnsupportedToken})
	}
	who, err := ownerOf(ctx, app, t)
	if err != nil {
		m.complaints.Log(ctx, slog.LevelError, "can't find out who signed in", appID, "app_id", appID, "error", err)
		return discard(&SignInError{Reason: reasonUserInfo, Err: err})
	}
	grant := grantOf(session.Key{AppID: appID, OpenID: who.OpenID}, t, who, received)
	var stored *session.Session
	err = m.retryStore(ctx, func(ctx context.Context) (err error) {
		stored, err = m.sessions.Put(ctx, grant)
		return err
	})
	if err != nil {
		return discard(err)
	}
	m.audit.Write(ctx, store.AuditEntry{Actor: store.ByUser, Action: store.AuditSignIn, Key: grant.Key, Result: string(session.ConsentDone)})
	return stored, m.retryStore(ctx, func(ctx context.Context) error { return m.defaults.Set(ctx, grant.Key) })
}
