package dbtest

import (
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/larktest"
)

// TokenPath is where the emulator issues tokens.
const TokenPath = "/open-apis/authen/v2/oauth/token"

// Key is a user's key in the default app.
func Key(openID string) session.Key { return session.Key{AppID: larktest.AppID, OpenID: openID} }

// Session is what a consent that was given at that time has brought, yet to be
// stored. Without scopes it has those of [larktest.Platform.Grant].
func Session(t testing.TB, p *larktest.Platform, key session.Key, at time.Time, scopes ...string) session.Session {
	t.Helper()
	tokens, err := p.Grant(key.AppID, key.OpenID, scopes...)
	if err != nil {
		t.Fatal(err)
	}
	user, err := p.User(key.OpenID)
	if err != nil {
		t.Fatal(err)
	}
	return session.Session{
		Key: key, UnionID: user.UnionID, UserID: user.UserID,
		AccessToken: session.NewSecret(tokens.AccessToken), RefreshToken: session.NewSecret(tokens.RefreshToken),
		TokenType: "Bearer", TokenURL: p.URL + TokenPath, Scope: tokens.Scope,
		IssuedAt: at, ExpiresAt: at.Add(tokens.ExpiresIn), RefreshExpiresAt: at.Add(tokens.RefreshExpiresIn),
		GrantedAt: at, SyncedAt: at,
	}
}

// Seed stores a session for each user as if they had consented at that time.
func Seed(t testing.TB, s *store.DB, p *larktest.Platform, at time.Time, openIDs ...string) {
	t.Helper()
	for _, id := range openIDs {
		if _, err := s.Sessions.Put(t.Context(), Session(t, p, Key(id), at)); err != nil {
			t.Fatal(err)
		}
	}
}
