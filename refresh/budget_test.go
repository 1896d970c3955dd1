package refresh

import (
	"errors"
	"testing"

	"larkside/session"
	"larkside/test/larktest"
)

// An operator's wish for new tokens that Lark does not fulfil is not called a
// success because the old token still works.
func TestRefreshByHandThatFails(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		w.platform.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 503})
		if a, err := w.source.Refresh(t.Context(), k); !errors.Is(err, session.ErrRefreshUnavailable) {
			t.Errorf("with Lark failing: %v, %v", a, err)
		}
		if a, _, err := w.token(k); err != nil || !a.Usable(w.source.now()) {
			t.Errorf("the token that there was: %v", err)
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
		w.platform.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20074})
		w.source.Refresh(t.Context(), k)
		if err := w.source.Resting(larktest.AppID); !errors.Is(err, session.ErrAppMisconfigured) {
			t.Errorf("with the refresh switch off: %v", err)
		}
	})
}
