package singleflight_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"larkside/session/singleflight"
)

// The caller that started shared work may leave; the work goes on for the rest.
func TestGroupOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g singleflight.Group[string, int]
		first, leave := context.WithCancel(t.Context())
		finish := make(chan struct{})
		runs := 0
		work := func(ctx context.Context) (int, error) {
			runs++
			<-finish
			return 7, ctx.Err()
		}
		go func() {
			if _, _, err := g.Do(first, "alice", work); !errors.Is(err, context.Canceled) {
				t.Errorf("the first caller: %v", err)
			}
		}()
		synctest.Wait()
		go func() {
			if v, joined, err := g.Do(t.Context(), "alice", work); v != 7 || !joined || err != nil {
				t.Errorf("the second caller: %d, joined %v, %v", v, joined, err)
			}
		}()
		synctest.Wait()
		leave()
		synctest.Wait()
		close(finish)
		synctest.Wait()
		if runs != 1 {
			t.Errorf("%d runs", runs)
		}
	})
}
