package refresh

import (
	"errors"
	"math"
	"testing"
	"time"

	"larkside/session"
	"larkside/test/larktest"
)

// An operator's wish for new tokens that Lark does not fulfil is not called a
// success because the old token still works.
func TestRefreshByHandThatFails(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 503})
		if a, err := w.source.Refresh(t.Context(), k); !errors.Is(err, session.ErrRefreshUnavailable) {
			t.Errorf("with Lark failing: %v, %v", a, err)
		}
		if a, _, err := w.token(k); err != nil || !a.Usable(w.source.now()) {
			t.Errorf("the token that there was: %v", err)
		}
	})
}

// When Lark says that the grant is dead, an operator is told so, and is not told
// to try again, although the access token works until it expires.
func TestRefreshByHandOfDeadGrant(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20037})
		_, err := w.source.Refresh(t.Context(), k)
		var dead *session.ConsentRequiredError
		if !errors.As(err, &dead) || dead.Reason != session.RefreshTokenExpired {
			t.Errorf("the first try: %v", err)
		}
		if a, _, err := w.token(k); err != nil || !a.Usable(w.source.now()) {
			t.Errorf("the access token: %v", err)
		}
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20066})
		k = w.consented(larktest.Bob)
		if _, err := w.source.Refresh(t.Context(), k); !errors.Is(err, session.ErrUserDisabled) {
			t.Errorf("a disabled user: %v", err)
		}
	})
}

// The metrics ask the database about budgets every few seconds, however often
// they are read.
func TestBudgetsAreRemembered(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		b := &budgets{source: w.source}
		used := func() float64 {
			t.Helper()
			all := b.read(t.Context())[larktest.AppID]
			if len(all) != 2 {
				t.Fatalf("%v", all)
			}
			return all[1].used
		}
		if n := used(); n != 0 {
			t.Errorf("before the first call: %v", n)
		}
		if _, err := w.source.Refresh(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if n := used(); n != 0 {
			t.Errorf("asked again at once: %v", n)
		}
		b.at = b.at.Add(-budgetAge)
		if n := used(); n == 0 {
			t.Error("not asked again later")
		}
	})
}

// The budget counts what was sent, and a refused app is said to rest.
func TestBudgetAndResting(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		if _, err := w.source.Refresh(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		limits, used, err := w.source.Budget(t.Context(), larktest.AppID)
		if err != nil || len(limits) != 2 || len(used) != 2 || used[1] != 1 {
			t.Errorf("budget %v, used %v, %v", limits, used, err)
		}
		if limits, used, err := w.source.Budget(t.Context(), "cli_other"); limits != nil || used != nil || err != nil {
			t.Errorf("an unknown app: %v %v %v", limits, used, err)
		}
		if err := w.source.Resting(larktest.AppID); err != nil {
			t.Errorf("resting: %v", err)
		}
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20074})
		w.source.Refresh(t.Context(), k)
		if err := w.source.Resting(larktest.AppID); !errors.Is(err, session.ErrAppMisconfigured) {
			t.Errorf("with the refresh switch off: %v", err)
		}
	})
}

// Whatever number of failures a row has, the pause is a pause: a negative one
// would end the process.
func TestBackoffOfAnyNumber(t *testing.T) {
	for _, failures := range []int{math.MinInt, -1, 0, 1, 15, 16, math.MaxInt} {
		if d := backoff(failures, time.Second, 30*time.Second); d < time.Second || d > 38*time.Second {
			t.Errorf("after %d failures: %s", failures, d)
		}
	}
}
