package consent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/larktest"
)

// signingIn is a SignIn under way.
type signingIn struct {
	link string
	life time.Duration
	who  *session.Session
	err  error
	over chan struct{}
}

// signIn begins a SignIn and returns once it has shown the link, or is over.
func (w *world) signIn(ctx context.Context, f *Manager) *signingIn {
	w.T.Helper()
	s := &signingIn{over: make(chan struct{})}
	shown := make(chan struct{})
	go func() {
		defer close(s.over)
		s.who, s.err = f.SignIn(ctx, larktest.AppID, func(link string, life time.Duration) {
			s.link, s.life = link, life
			close(shown)
		})
	}()
	select {
	case <-shown:
	case <-s.over:
	}
	return s
}

func (w *world) noDefault() {
	w.T.Helper()
	if key, err := w.Store.Defaults.Get(w.T.Context(), larktest.AppID); !errors.Is(err, session.ErrNotFound) {
		w.T.Errorf("default user %v, %v", key, err)
	}
}

// Whoever approves becomes the default user, and no card is sent.
func TestSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(nil)
		for _, openID := range []string{larktest.Bob, larktest.Alice, larktest.Alice} {
			s := w.signIn(t.Context(), f)
			if s.link == "" || s.life != 240*time.Second {
				t.Fatalf("%+v", s)
			}
			time.Sleep(20 * time.Second)
			w.approve(s.link, openID)
			<-s.over
			if s.err != nil || s.who.OpenID != openID || s.who.RefreshToken.Empty() || s.who.Profile.Name == "" {
				t.Fatalf("%+v, %v", s.who, s.err)
			}
			if key, err := w.Store.Defaults.Get(t.Context(), larktest.AppID); err != nil || key != s.who.Key {
				t.Errorf("default user %v, %v", key, err)
			}
			if w.cards(openID) != 0 {
				t.Error("a card was sent")
			}
		}
		trail, err := w.Store.Audit.List(t.Context(), "", store.AuditFilter{Action: store.AuditSignIn}, 9)
		if err != nil || len(trail) != 3 || trail[2].OpenID != larktest.Bob {
			t.Errorf("audit %+v, %v", trail, err)
		}
		larktest.NoViolations(t, w.Lark)
	})
}

func TestSignInDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.signIn(t.Context(), w.replica(nil))
		if err := w.Lark.Decline(s.link, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		<-s.over
		var why *SignInError
		if !errors.As(s.err, &why) || why.Reason != session.Declined {
			t.Errorf("%v", s.err)
		}
		w.noSession(alice)
		w.noDefault()
	})
}

func TestSignInExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		began := time.Now()
		s := w.signIn(t.Context(), w.replica(nil))
		<-s.over
		var why *SignInError
		if !errors.As(s.err, &why) || why.Reason != "expired" || time.Since(began) > 250*time.Second {
			t.Errorf("after %v: %v", time.Since(began), s.err)
		}
	})
}

// Lark fails for a while: polling goes on.
func TestSignInLarkAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Drop: true, Times: 2})
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 400, Body: `{"error":"slow_down","code":20087}`})
		s := w.signIn(t.Context(), w.replica(nil))
		w.approve(s.link, larktest.Alice)
		if <-s.over; s.err != nil || s.who.OpenID != larktest.Alice {
			t.Errorf("%v, %v", s.who, s.err)
		}
	})
}

// Lark does not say whose tokens these are: they are revoked, and nobody is the
// default user.
func TestSignInOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Set: map[string]any{"data": nil}, Times: -1})
		s := w.signIn(t.Context(), w.replica(nil))
		w.approve(s.link, larktest.Alice)
		<-s.over
		var why *SignInError
		if !errors.As(s.err, &why) || why.Reason != reasonUserInfo {
			t.Errorf("%v", s.err)
		}
		w.allRevoked(larktest.Alice)
		w.noSession(alice)
		w.noDefault()
	})
}

// The terminal is closed while Lark issues the tokens: they are stored all the same.
func TestSignInTerminalClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		ctx, hangUp := context.WithCancel(t.Context())
		s := w.signIn(ctx, w.replica(nil))
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true, Processed: true})
		w.approve(s.link, larktest.Alice)
		time.Sleep(6 * time.Second)
		hangUp()
		synctest.Wait()
		held.Release()
		<-s.over
		if key, err := w.Store.Defaults.Get(t.Context(), larktest.AppID); err != nil || key != alice {
			t.Errorf("default user %v, %v; the sign-in ended with %v", key, err, s.err)
		}
	})
}

// Closed earlier, the sign-in is over at once.
func TestSignInGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		ctx, hangUp := context.WithCancel(t.Context())
		f := w.replica(nil)
		s := w.signIn(ctx, f)
		hangUp()
		if <-s.over; !errors.Is(s.err, context.Canceled) {
			t.Errorf("%v", s.err)
		}
		if err := f.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if s := w.signIn(t.Context(), f); !errors.Is(s.err, session.ErrUnavailable) {
			t.Errorf("after the shutdown: %v", s.err)
		}
		w.noDefault()
	})
}

// A scope that is not enabled is the operator's to mend, and the log says how.
func TestSignInScopeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Status: 400, Body: `{"error":"invalid_scope","code":20027}`})
		s := w.signIn(t.Context(), w.replica(nil))
		var why *SignInError
		if !errors.As(s.err, &why) || why.Reason != session.ScopeNotEnabled {
			t.Errorf("%v", s.err)
		}
	})
}
