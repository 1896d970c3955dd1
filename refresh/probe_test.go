package refresh

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

// runSource does the source's work in the background until the test ends.
func (w *world) runSource() {
	ctx, stop := context.WithCancel(w.T.Context())
	w.T.Cleanup(stop)
	go w.source.Run(ctx)
}

// An app that Lark refuses is asked about every 30 s without any traffic,
// whatever the refusal was about and wherever Lark made it.
func TestRefusedAppIsProbed(t *testing.T) {
	for name, change := range map[string]func(*larktest.App, bool){
		"the secret is another one": func(a *larktest.App, refused bool) {
			a.Secret = larktest.AppSecret
			if refused {
				a.Secret = "another-secret"
			}
		},
		"not enabled":                      func(a *larktest.App, refused bool) { a.Disabled = refused },
		"not installed":                    func(a *larktest.App, refused bool) { a.NotInstalled = refused },
		"refreshing is off":                func(a *larktest.App, refused bool) { a.RefreshOff = refused },
		"no version is published any more": func(a *larktest.App, refused bool) { a.Unpublished = refused },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, nil, func(t *testing.T, w *world) {
				w.runSource()
				key := w.consented(larktest.Alice)
				w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { change(a, true) })
				if _, err := w.source.Refresh(t.Context(), key); w.source.Refusal(larktest.AppID) == nil {
					t.Fatalf("not refused: %v", err)
				}
				before := w.TokenCalls()
				time.Sleep(10 * time.Minute)
				if w.source.Refusal(larktest.AppID) == nil {
					t.Error("accepted while Lark still refuses the app")
				}
				if n := w.TokenCalls() - before; n > 20 {
					t.Errorf("%d calls to the token endpoint in ten minutes", n)
				}
				w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { change(a, false) })
				time.Sleep(probeEvery + time.Second)
				if err := w.source.Refusal(larktest.AppID); err != nil {
					t.Errorf("still refused after 30 s: %v", err)
				}
				if _, err := w.source.Refresh(t.Context(), key); err != nil {
					t.Error(err)
				}
				larktest.NoViolations(t, w.Lark)
			})
		})
	}
}

// The session that met the refresh switch has ended meanwhile: then it has to do
// that Lark accepts the app's secret.
func TestProbeWithoutItsSession(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		w.runSource()
		key := w.consented(larktest.Alice)
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RefreshOff = true })
		w.source.Refresh(t.Context(), key)
		if err := w.Lark.Revoke(larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RefreshOff = false })
		time.Sleep(probeEvery + time.Second)
		if err := w.source.Refusal(larktest.AppID); err != nil {
			t.Errorf("still refused: %v", err)
		}
	})
}

// A new secret is tried at once.
func TestNewSecretIsTriedAtOnce(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		w.runSource()
		key := w.consented(larktest.Alice)
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Secret = "another-secret" })
		w.source.Refresh(t.Context(), key)
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Secret = larktest.AppSecret })
		began := time.Now()
		w.source.Reconsider()
		if err := w.source.AwaitAccepted(t.Context()); err != nil || time.Since(began) > time.Second {
			t.Errorf("accepted after %v: %v", time.Since(began), err)
		}
	})
}

// Nobody is asked to authorize an app that Lark refuses, also not at the moment
// when the next probe is due.
func TestCheckApp(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) { // nothing runs that would probe
		w.source.Report(larktest.AppID, w.wrongSecret())
		for range 40 {
			var retry *session.RetryError
			if err := w.source.CheckApp(larktest.AppID); !errors.Is(err, session.ErrAppMisconfigured) || !errors.As(err, &retry) || retry.After < time.Second {
				t.Fatalf("got %v", err)
			}
			time.Sleep(time.Second)
		}
		if err := w.source.CheckApp("cli_other"); err == nil || errors.Is(err, session.ErrAppMisconfigured) {
			t.Errorf("an unknown app: %v", err)
		}
	})
}

// wrongSecret is Lark's answer to a wrong app secret.
func (w *world) wrongSecret() error {
	w.T.Helper()
	w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Secret = "another-secret" })
	defer w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Secret = larktest.AppSecret })
	err := inprocess.Client(w.T, w.Lark, nil).Verify(w.T.Context())
	if err == nil || strings.Contains(err.Error(), larktest.AppSecret) {
		w.T.Fatalf("a wrong secret: %v", err)
	}
	return err
}

// One app of two that is refused holds nothing back. Both do, until one is
// accepted.
func TestAwaitAccepted(t *testing.T) {
	const other = "cli_other"
	two := func(c *Config) { c.Apps[other] = c.Apps[larktest.AppID] }
	inWorld(t, nil, two, func(t *testing.T, w *world) {
		refusal := w.wrongSecret()
		w.source.Report(larktest.AppID, refusal)
		if w.source.AllRefused() {
			t.Error("one of two is not all")
		}
		if err := w.source.AwaitAccepted(t.Context()); err != nil {
			t.Error(err)
		}
		w.source.Report(other, refusal)
		if !w.source.AllRefused() {
			t.Error("two of two are all")
		}
		ended := make(chan error, 1)
		go func() { ended <- w.source.AwaitAccepted(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("returned while Lark refuses both: %v", err)
		default:
		}
		w.source.Report(other, nil) // says nothing; the probe does
		w.runSource()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		synctest.Wait() // until both are accepted
		w.source.Report(larktest.AppID, refusal)
		w.source.Report(other, refusal)
		if err := w.source.AwaitAccepted(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
