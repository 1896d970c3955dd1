package consent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

const (
	// holdFor is how long the lease on a consent lasts once its tokens have
	// come.
	holdFor = 5 * time.Minute
	// userInfoTimeout and userInfoTries bound the question to Lark whose tokens
	// these are: about a minute.
	userInfoTimeout = 5 * time.Second
	userInfoTries   = 10
)

// finish checks what was granted for p. It stores the grant and closes p, or
// revokes the grant at Lark and stores nothing. It returns the closed consent,
// or an error if the outcome is not known. Both flows end here. The package
// comment explains the order.
func (m *Manager) finish(ctx context.Context, p *session.Consent, t lark.Token) (*session.Consent, error) {
	received := m.now()
	for _, w := range t.Warnings {
		m.log.WarnContext(ctx, "Lark's answer to a consent is odd", "app_id", p.AppID, m.users.Log(p.OpenID), "warning", w)
	}
	if err := m.consents.Leases.Extend(ctx, p.ID, holdFor); err != nil && ctx.Err() == nil {
		// Without the lease another replica may poll with the spent code and
		// close the consent first. Then these tokens are revoked.
		m.logThrottled(ctx, "can't hold a consent", p.Key, err)
	}
	if t.TokenType != "Bearer" {
		return m.reject(ctx, p, t, string(session.UnsupportedToken))
	}
	who, err := ownerOf(ctx, m.apps[p.AppID], t)
	switch {
	case err != nil:
		m.logThrottled(ctx, "can't find out who granted a consent", p.Key, err)
		return m.reject(ctx, p, t, reasonUserInfo)
	case who.OpenID != p.OpenID:
		m.log.WarnContext(ctx, "a consent was granted by another user than it was meant for; nothing is stored",
			"app_id", p.AppID, m.users.Log(p.OpenID), "consent", p.ID)
		return m.reject(ctx, p, t, reasonWrongAccount)
	}
	return m.storeGrant(ctx, p, t, who, received)
}

// ownerOf asks Lark whose tokens these are. It tries for long, since they can't
// be issued again.
func ownerOf(ctx context.Context, app Lark, t lark.Token) (who lark.UserInfo, err error) {
	err = retry(ctx, 250*time.Millisecond, userInfoTries, func() (again bool, err error) {
		asking, cancel := context.WithTimeout(ctx, userInfoTimeout)
		defer cancel()
		who, err = app.UserInfo(asking, t.AccessToken)
		var e *lark.Error
		return errors.As(err, &e) && (e.Class == lark.Retry || e.Class == lark.Unknown || e.Doubtful()), err
	})
	return who, err
}

// storeGrant stores the grant and closes p, in one transaction.
func (m *Manager) storeGrant(ctx context.Context, p *session.Consent, t lark.Token, who lark.UserInfo, received time.Time) (*session.Consent, error) {
	g := grantOf(p.Key, t, who, received)
	if t.RefreshToken.Empty() {
		m.warnOfShortGrant(ctx, p, t)
	}
	first := false
	err := m.retryStore(ctx, func(ctx context.Context) error {
		stored, err := m.consents.Finish(ctx, p.ID, g)
		first = err == nil && stored.Version == 1
		return err
	})
	switch {
	case errors.Is(err, session.ErrConflict):
		m.log.WarnContext(ctx, "a consent was granted after it had ended; the grant is revoked", "app_id", p.AppID,
			m.users.Log(p.OpenID), "consent", p.ID)
		m.Discard(ctx, p.Key, t.AccessToken, t.RefreshToken)
		return m.consents.Get(ctx, p.ID)
	case err != nil:
		m.log.ErrorContext(ctx, "a grant could not be stored and is lost", "app_id", p.AppID, m.users.Log(p.OpenID), "error", err)
		m.Discard(ctx, p.Key, t.AccessToken, t.RefreshToken)
		return nil, err
	}
	if first {
		m.log.InfoContext(ctx, "a user has consented for the first time", "app_id", p.AppID, m.users.Log(p.OpenID), "consent", p.ID)
	}
	done := *p
	done.State, done.Reason = session.ConsentDone, ""
	if now, err := m.consents.Get(ctx, p.ID); err == nil {
		done = *now // since p was read, the card may have been sent
	}
	m.afterClose(ctx, &done)
	return &done, nil
}

// warnOfShortGrant says that a grant can't be renewed although offline_access
// was asked for, which is always. The cause is the app's, so the line comes once
// for all of its users.
func (m *Manager) warnOfShortGrant(ctx context.Context, p *session.Consent, t lark.Token) {
	do := "enable offline_access as a user token scope under Permissions & Scopes in the developer console, and publish a version"
	if slices.Contains(parseScopes(t.Scope), offlineAccess) {
		do = `switch "refresh user_access_token" on under Security Settings in the developer console, and publish a version`
	}
	m.complaints.Log(ctx, slog.LevelWarn, "Lark issued no refresh token; the user is asked again when the access token ends", p.AppID,
		"do", do, "app_id", p.AppID, m.users.Log(p.OpenID), "scope", t.Scope)
}

// grantOf returns what to store of tokens that were received at a time.
func grantOf(key session.Key, t lark.Token, who lark.UserInfo, received time.Time) session.Session {
	g := session.Session{
		Key: key, UnionID: who.UnionID, UserID: who.UserID, Profile: who.Profile,
		AccessToken: t.AccessToken, RefreshToken: t.RefreshToken,
		TokenType: t.TokenType, TokenURL: t.TokenURL, Scope: t.Scope,
		IssuedAt: received, ExpiresAt: received.Add(t.ExpiresIn), GrantedAt: received, SyncedAt: received,
	}
	if !t.RefreshToken.Empty() {
		g.RefreshExpiresAt = received.Add(t.RefreshExpiresIn)
	}
	return g
}

// reject closes p as failed and revokes what was granted.
func (m *Manager) reject(ctx context.Context, p *session.Consent, t lark.Token, reason string) (*session.Consent, error) {
	var closed *session.Consent
	err := m.retryStore(ctx, func(ctx context.Context) (err error) {
		closed, err = m.close(ctx, p, session.ConsentFailed, reason)
		return err
	})
	m.Discard(ctx, p.Key, t.AccessToken, t.RefreshToken)
	if errors.Is(err, session.ErrConflict) {
		return m.consents.Get(ctx, p.ID)
	}
	return closed, err
}

// retryStore calls write until the database answers or ctx ends, when the
// process does.
func (m *Manager) retryStore(ctx context.Context, write func(context.Context) error) error {
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
