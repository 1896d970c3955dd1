package consent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

const (
	// holdFor keeps other replicas off a consent whose tokens are in hand.
	holdFor = 5 * time.Minute
	// userInfoTimeout and userInfoTries bound how long Lark is asked whose
	// tokens these are: about a minute.
	userInfoTimeout = 5 * time.Second
	userInfoTries   = 10
)

// finish takes what was granted for p to its end: checked, stored, and the
// consent closed, or revoked at Lark and nothing stored. It returns the consent
// as it is then, or an error when that is not known. Both flows end here; see
// the package comment for the order of things.
func (f *Flow) finish(ctx context.Context, p *session.Consent, t lark.Token) (*session.Consent, error) {
	received := f.now()
	for _, w := range t.Warnings {
		f.log.WarnContext(ctx, "Lark's answer to a consent is odd", "app_id", p.AppID, f.users.Log(p.OpenID), "warning", w)
	}
	if err := f.consents.Leases.Extend(ctx, p.ID, holdFor); err != nil && ctx.Err() == nil {
		// Without it another replica may poll a spent code, and lose us the race
		// to close; the tokens would be revoked then, not leaked.
		f.grumble(ctx, "can't hold a consent", p.Key, err)
	}
	if t.TokenType != "Bearer" {
		return f.reject(ctx, p, t, reasonTokenType)
	}
	who, err := whose(ctx, f.apps[p.AppID], t)
	switch {
	case err != nil:
		f.grumble(ctx, "can't find out who granted a consent", p.Key, err)
		return f.reject(ctx, p, t, reasonUserInfo)
	case who.OpenID != p.OpenID:
		f.log.WarnContext(ctx, "a consent was granted by another user than it was meant for; nothing is stored",
			"app_id", p.AppID, f.users.Log(p.OpenID), "consent", p.ID)
		return f.reject(ctx, p, t, reasonWrongAccount)
	}
	return f.keep(ctx, p, t, who, received)
}

// whose asks Lark, with patience: the tokens can't be had again.
func whose(ctx context.Context, app Lark, t lark.Token) (who lark.UserInfo, err error) {
	err = retry(ctx, 250*time.Millisecond, userInfoTries, func() (again bool, err error) {
		asking, cancel := context.WithTimeout(ctx, userInfoTimeout)
		defer cancel()
		who, err = app.UserInfo(asking, t.AccessToken)
		var e *lark.Error
		return errors.As(err, &e) && (e.Class == lark.Retry || e.Class == lark.Unknown || e.Doubtful()), err
	})
	return who, err
}

// keep stores the grant and closes p in one transaction.
func (f *Flow) keep(ctx context.Context, p *session.Consent, t lark.Token, who lark.UserInfo, received time.Time) (*session.Consent, error) {
	g := session.Session{
		Key: p.Key, UnionID: who.UnionID, UserID: who.UserID, Profile: who.Profile,
		AccessToken: t.AccessToken, RefreshToken: t.RefreshToken,
		TokenType: t.TokenType, TokenURL: t.TokenURL, Scope: t.Scope,
		IssuedAt: received, ExpiresAt: received.Add(t.ExpiresIn), GrantedAt: received, SyncedAt: received,
	}
	if !t.RefreshToken.Empty() {
		g.RefreshExpiresAt = received.Add(t.RefreshExpiresIn)
	}
	err := f.insist(ctx, func(ctx context.Context) error {
		_, err := f.consents.Finish(ctx, p.ID, g)
		return err
	})
	switch {
	case errors.Is(err, session.ErrConflict):
		f.log.WarnContext(ctx, "a consent was granted after it had ended; the grant is revoked", "app_id", p.AppID,
			f.users.Log(p.OpenID), "consent", p.ID)
		f.Discard(ctx, p.Key, t.AccessToken, t.RefreshToken)
		return f.consents.Get(ctx, p.ID)
	case err != nil:
		f.log.ErrorContext(ctx, "a grant could not be stored and is lost", "app_id", p.AppID, f.users.Log(p.OpenID), "error", err)
		f.Discard(ctx, p.Key, t.AccessToken, t.RefreshToken)
		return nil, err
	}
	done := *p
	done.State, done.Reason = session.ConsentDone, ""
	if now, err := f.consents.Get(ctx, p.ID); err == nil {
		done = *now // the card may have been sent since p was read
	}
	f.closed(ctx, &done)
	return &done, nil
}

// reject closes p as failed and revokes what was granted.
func (f *Flow) reject(ctx context.Context, p *session.Consent, t lark.Token, reason string) (*session.Consent, error) {
	var closed *session.Consent
	err := f.insist(ctx, func(ctx context.Context) (err error) {
		closed, err = f.close(ctx, p, session.ConsentFailed, reason)
		return err
	})
	f.Discard(ctx, p.Key, t.AccessToken, t.RefreshToken)
	if errors.Is(err, session.ErrConflict) {
		return f.consents.Get(ctx, p.ID)
	}
	return closed, err
}

// insist writes to the store until it answers or ctx ends, which is when the
// process does.
func (f *Flow) insist(ctx context.Context, write func(context.Context) error) error {
	err := retry(ctx, 50*time.Millisecond, 0, func() (again bool, err error) {
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		err = write(bounded)
		return errors.Is(err, session.ErrUnavailable), err
	})
	if err != nil {
		return fmt.Errorf("finishing a consent: %w", err)
	}
	return nil
}
