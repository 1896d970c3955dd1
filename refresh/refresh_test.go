package refresh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"larkside/session"
	"larkside/session/lark"
	"larkside/telemetry"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// A fresh token comes from the cache; Lark is not asked.
func TestFreshTokenIsServed(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		for range 3 {
			a, found, err := w.token(k)
			if err != nil || found != session.FromCache || a.Key != k {
				t.Fatalf("%v %v", found, err)
			}
		}
		if n := w.TokenCalls(); n != 0 {
			t.Errorf("%d calls to the token endpoint", n)
		}
	})
}

func TestNoSession(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		_, found, err := w.token(dbtest.Key("ou_nobody"))
		var e *session.ConsentRequiredError
		if !errors.As(err, &e) || e.Reason != session.NoSession || found != session.Missing {
			t.Errorf("%v %v", found, err)
		}
	})
}

// Near its end a token is served at once, however slow Lark is, and renewed
// behind the requests, once.
func TestRenewedBehindRequests(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		first, _, _ := w.token(k)
		time.Sleep(2*time.Hour - 10*time.Minute)
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true})
		start := time.Now()
		for range 100 {
			a, _, err := w.token(k)
			if err != nil || a.Version != first.Version {
				t.Fatalf("version %d, %v", a.Version, err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the requests waited %s", d)
		}
		synctest.Wait()
		slow.Release()
		synctest.Wait()
		if a, _, err := w.token(k); err != nil || a.Version != first.Version+1 {
			t.Errorf("after the renewal: %+v, %v", a, err)
		}
		if n := w.answered(larktest.Alice); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
	})
}

// An expired token is waited for: many callers, one refresh.
func TestExpiredIsRefreshedOnce(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Delay: time.Second})
		var refreshed, waited atomic.Int32
		together(50, func(int) {
			a, found, err := w.token(k)
			if err != nil || !a.Usable(time.Now()) {
				t.Errorf("%v", err)
			}
			switch found {
			case session.Refreshed:
				refreshed.Add(1)
			case session.Waited:
				waited.Add(1)
			}
		})
		if w.answered(larktest.Alice) != 1 || refreshed.Load() != 1 || waited.Load() != 49 {
			t.Errorf("%d answered, %d refreshed, %d waited", w.answered(larktest.Alice), refreshed.Load(), waited.Load())
		}
	})
}

// A caller that hangs up does not abort the refresh: the refresh token may be
// spent already, and the new pair must be stored.
func TestCallerHangsUp(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, HangAnswer: true})
		ctx, hangUp := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, _, err := w.source.Token(ctx, k)
			gone <- err
		}()
		synctest.Wait()
		hangUp()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller got %v", err)
		}
		slow.Release()
		synctest.Wait()
		if row := w.Row(k); row.Version != 2 {
			t.Errorf("version %d: the new pair was not stored", row.Version)
		}
	})
}

// Every row of the token endpoint's table, as a refresh meets it.
func TestEveryCode(t *testing.T) {
	for _, c := range []struct {
		code   int
		class  Class
		state  session.State
		reason session.Reason
		err    error
	}{
		{20001, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20002, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20009, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20036, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20048, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20063, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20067, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20068, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20069, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20070, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20074, Misconfigured, session.Active, "", session.ErrAppMisconfigured},
		{20010, UserDisabled, session.Disabled, session.UserNotPermitted, session.ErrUserDisabled},
		{20066, UserDisabled, session.Disabled, session.UserGone, session.ErrUserDisabled},
		{20008, Transient, session.Active, "", session.ErrRefreshUnavailable}, // see TestDoubtedUser
		{20024, Dead, session.ConsentRequired, session.RefreshTokenInvalid, session.ErrConsentRequired},
		{20026, Dead, session.ConsentRequired, session.RefreshTokenInvalid, session.ErrConsentRequired},
		{20037, Dead, session.ConsentRequired, session.RefreshTokenExpired, session.ErrConsentRequired},
		{20064, Reused, session.ConsentRequired, session.RefreshTokenUsed, session.ErrConsentRequired},
		{20073, Reused, session.ConsentRequired, session.RefreshTokenUsed, session.ErrConsentRequired},
		{20050, Transient, session.Active, "", session.ErrRefreshUnavailable},
		{20072, Transient, session.Active, "", session.ErrRefreshUnavailable},
		{99991400, Transient, session.Active, "", session.ErrRefreshUnavailable},
		{21000, Transient, session.Active, "", session.ErrRefreshUnavailable},
		{12345, Transient, session.Active, "", session.ErrRefreshUnavailable},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			inWorld(t, nil, nil, func(t *testing.T, w *world) {
				k := w.consented(larktest.Alice)
				time.Sleep(3 * time.Hour)
				w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: c.code, Times: -1})
				_, class, err := w.source.run(context.Background(), k, want{version: 1})
				if class != c.class || !errors.Is(err, c.err) {
					t.Errorf("class %s, %v", class, err)
				}
				if row := w.Row(k); row.State != c.state || row.Reason != c.reason {
					t.Errorf("state %s reason %q", row.State, row.Reason)
				}
			})
		})
	}
}

// "User does not exist" comes now and then for users who do. It is believed when
// the directory says so too, or when it comes again at least a minute later.
func TestDoubtedUser(t *testing.T) {
	doubt := larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20008}
	expired := func(t *testing.T, w *world) session.Key {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		w.Lark.Fault(doubt)
		if _, _, err := w.token(k); !errors.Is(err, session.ErrRefreshUnavailable) {
			t.Fatalf("the first time: %v", err)
		}
		return k
	}
	t.Run("once", func(t *testing.T) {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := expired(t, w)
			time.Sleep(2 * time.Minute)
			if _, _, err := w.token(k); err != nil {
				t.Fatalf("when Lark says otherwise: %v", err)
			}
			time.Sleep(3 * time.Hour)
			w.Lark.Fault(doubt)
			if _, _, err := w.token(k); !errors.Is(err, session.ErrRefreshUnavailable) {
				t.Errorf("a doubt that was cleared counts: %v", err)
			}
		})
	})
	t.Run("again within a minute", func(t *testing.T) {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := expired(t, w)
			for range 5 {
				time.Sleep(10 * time.Second)
				w.Lark.Fault(doubt)
				if _, _, err := w.token(k); !errors.Is(err, session.ErrRefreshUnavailable) {
					t.Errorf("got %v", err)
				}
			}
		})
	})
	t.Run("again later", func(t *testing.T) {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := expired(t, w)
			time.Sleep(time.Minute)
			w.Lark.Fault(doubt)
			if _, _, err := w.token(k); !errors.Is(err, session.ErrUserDisabled) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("the directory says so", func(t *testing.T) {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := w.consented(larktest.Alice)
			time.Sleep(3 * time.Hour)
			w.Lark.UpdateUser(larktest.Alice, func(u *larktest.User) { u.Status = larktest.Resigned })
			w.Lark.Fault(doubt)
			if _, _, err := w.token(k); !errors.Is(err, session.ErrUserDisabled) {
				t.Errorf("got %v", err)
			}
		})
	})
}

// While the access token lives, no answer of Lark's takes it away.
func TestFailureBehindALivingToken(t *testing.T) {
	for _, f := range map[string]larktest.Fault{
		"internal error":  {Code: 20050},
		"dead":            {Code: 20037},
		"used":            {Code: 20073},
		"app refused":     {Code: 20002},
		"connection cut":  {Drop: true},
		"answer lost":     {Processed: true, Drop: true},
		"truncated":       {Truncate: true},
		"ten megabytes":   {Pad: 10 << 20},
		"a gateway's 502": {Status: http.StatusBadGateway, Body: "<html>bad gateway</html>", ContentType: "text/html"},
		"no tokens":       {Omit: []string{"access_token", "refresh_token"}},
	} {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := w.consented(larktest.Alice)
			time.Sleep(2*time.Hour - 5*time.Minute)
			f.Endpoint, f.Times = larktest.TokenEndpoint, -1
			w.Lark.Fault(f)
			for range 4 * 60 {
				if a, _, err := w.token(k); err != nil || !a.Usable(time.Now()) {
					t.Fatalf("%+v: %v", f, err)
				}
				time.Sleep(time.Second)
			}
			w.Lark.ClearFaults()
		})
	}
}

// A session that keeps failing is tried at most once a second, then at doubling
// intervals up to 30 s, however many requests come; and it is never given up.
func TestBackoff(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		down := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20050, Times: -1})
		for range 600 * 10 {
			var e *session.RetryError
			if _, _, err := w.token(k); !errors.As(err, &e) || !errors.Is(err, session.ErrRefreshUnavailable) || e.After < time.Second {
				t.Fatalf("%v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		calls := w.Lark.Calls(larktest.To(larktest.TokenEndpoint))
		for i, least := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			if gap := calls[i+1].At.Sub(calls[i].At); gap < least*time.Second || gap > least*time.Second*5/4+time.Second {
				t.Errorf("gap %d is %s, want %d s and at most a quarter more", i, gap, least)
			}
		}
		down.Remove()
		time.Sleep(40 * time.Second)
		if a, _, err := w.token(k); err != nil || !a.Usable(time.Now()) {
			t.Errorf("after 10 minutes of failure: %v", err)
		}
	})
}

// An answer that never came is asked for again with the same token. If that was
// spent, the loss is told from a theft, and the old token lives on.
func TestCrashWindow(t *testing.T) {
	t.Run("lost before Lark saw it", func(t *testing.T) {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := w.consented(larktest.Alice)
			time.Sleep(3 * time.Hour)
			w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Drop: true})
			if _, _, err := w.token(k); !errors.Is(err, session.ErrRefreshUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if _, _, err := w.token(k); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("lost after Lark rotated", func(t *testing.T) {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := w.consented(larktest.Alice)
			time.Sleep(2*time.Hour - 5*time.Minute)
			w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Processed: true, Drop: true})
			w.token(k)
			synctest.Wait()
			time.Sleep(2 * time.Second)
			_, class, err := w.source.run(context.Background(), k, want{version: 1})
			if class != RotationLost || err != nil {
				t.Errorf("class %s, %v", class, err)
			}
			row := w.Row(k)
			if row.State != session.ConsentRequired || row.Reason != session.RefreshTokenUsed {
				t.Errorf("%s %s", row.State, row.Reason)
			}
			if _, _, err := w.token(k); err != nil {
				t.Errorf("the old token lives, but: %v", err)
			}
			time.Sleep(10 * time.Minute)
			var e *session.ConsentRequiredError
			if _, _, err := w.token(k); !errors.As(err, &e) || e.Reason != session.RefreshTokenUsed {
				t.Errorf("after its end: %v", err)
			}
		})
	})
}

// A process that is told to stop while a renewal runs behind a request, which has
// long been answered, stores what Lark answers.
func TestShutdownStores(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		before := w.Row(k)
		time.Sleep(before.ExpiresAt.Sub(before.IssuedAt) * 95 / 100)
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true})
		if a, _, err := w.token(k); err != nil || a.Version != before.Version {
			t.Fatalf("%+v, %v", a, err)
		}
		if err := held.Await(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		down := make(chan error, 1)
		go func() { down <- w.source.Shutdown(t.Context()) }()
		synctest.Wait()
		select {
		case <-down:
			t.Fatal("it does not wait for the renewal")
		default:
		}
		held.Release()
		if err := <-down; err != nil {
			t.Error(err)
		}
		if after := w.Row(k); after.Version == before.Version || after.Attempts != 0 {
			t.Errorf("version %d, %d attempts: the new pair is not stored", after.Version, after.Attempts)
		}
	})
}

// What has not asked Lark yet when the process is told to stop, does not begin.
func TestShutdownBeginsNothing(t *testing.T) {
	slow := func(c *Config) { c.Limits = []session.Limit{{N: 1, Period: time.Minute}} }
	inWorld(t, nil, slow, func(t *testing.T, w *world) {
		keys := users(w, 5)
		time.Sleep(3 * time.Hour)
		errs := make(chan error, len(keys))
		for _, k := range keys {
			go func() {
				_, _, err := w.token(k)
				errs <- err
			}()
		}
		synctest.Wait() // one was admitted, four stand in line
		w.shutdown()
		later := 0
		for range keys {
			if err := <-errs; errors.Is(err, session.ErrRefreshUnavailable) {
				later++
			} else if err != nil {
				t.Error(err)
			}
		}
		if later != 4 || w.TokenCalls() != 1 {
			t.Errorf("%d were told to come again, %d calls to the token endpoint", later, w.TokenCalls())
		}
		for _, k := range keys {
			if row := w.Row(k); row.State != session.Active || row.Attempts != 0 {
				t.Errorf("%s: %s, %d attempts", k.OpenID, row.State, row.Attempts)
			}
		}
	})
}

// Claims queue for each other, but none for long behind one that the database
// does not answer, and none at all when the process is told to stop.
func TestClaimsQueue(t *testing.T) {
	type ending struct {
		sentence string
		end      func(w *world)
		after    time.Duration
		stopped  bool
	}
	for _, tc := range []ending{
		{"the one before has ended", func(w *world) { <-w.source.claiming }, 0, false},
		{"the one before hangs", func(*world) {}, claimWait, false},
		{"the process stops", func(w *world) { w.shutdown() }, 0, true},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			inWorld(t, nil, nil, func(t *testing.T, w *world) {
				k := w.consented(larktest.Alice)
				time.Sleep(3 * time.Hour)
				began := time.Now()
				w.source.claiming <- struct{}{} // somebody claims
				got := make(chan error, 1)
				go func() {
					_, _, err := w.token(k)
					got <- err
				}()
				synctest.Wait()
				if n := w.TokenCalls(); n != 0 || len(got) > 0 {
					t.Errorf("%d calls to the token endpoint while another claims", n)
				}
				tc.end(w)
				err := <-got
				if took := time.Since(began); took != tc.after || errors.Is(err, session.ErrRefreshUnavailable) != tc.stopped || !tc.stopped && err != nil {
					t.Errorf("%v after %v", err, took)
				}
				if row := w.Row(k); row.Attempts != 0 || tc.stopped != (w.TokenCalls() == 0) {
					t.Errorf("%d attempts, %d calls", row.Attempts, w.TokenCalls())
				}
			})
		})
	}
}

// A renewal that outlasts all patience is said to.
func TestShutdownGivesUp(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true})
		go w.token(k)
		if err := held.Await(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.source.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		held.Release()
		w.shutdown()
	})
}

// Two replicas find the same expired session at the same instant.
func TestReplicasRefreshOnce(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		second := w.replica(nil)
		third := w.replica(nil)
		time.Sleep(3 * time.Hour)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Delay: time.Second, Times: -1})
		together(3, func(i int) {
			s := []*Source{w.source, second, third}[i]
			if a, _, err := s.Token(t.Context(), k); err != nil || !a.Usable(time.Now()) {
				t.Errorf("replica %d: %v", i, err)
			}
		})
		if w.TokenCalls() != 1 {
			t.Errorf("%d calls to the token endpoint, want 1", w.TokenCalls())
		}
	})
}

// The holder of the lease dies; when it has run out another replica goes on.
func TestLeaseOfTheDeadIsTakenOver(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		if _, err := w.Store.Leases.Claim(t.Context(), k, 1, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, _, err := w.token(k); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 19*time.Second || d > 25*time.Second {
			t.Errorf("took over after %s", d)
		}
	})
}

// Lark has rotated and the database does not take the new pair: it is kept in
// memory and stored when the database is back.
func TestDatabaseFailsAfterTheExchange(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		raw := w.DB.SQL(t)
		w.source.testingOnlyBeforeStore = func(session.Key) {
			if _, err := raw.Exec(`ALTER TABLE sessions RENAME TO away`); err != nil {
				t.Error(err)
			}
		}
		if _, _, err := w.token(k); !errors.Is(err, session.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(time.Minute)
		if _, _, err := w.token(k); !errors.Is(err, session.ErrUnavailable) {
			t.Errorf("meanwhile: %v", err)
		}
		if _, err := raw.Exec(`ALTER TABLE away RENAME TO sessions`); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if row := w.Row(k); row.Version != 2 || row.State != session.Active {
			t.Errorf("version %d, %s", row.Version, row.State)
		}
		if _, _, err := w.token(k); err != nil || w.TokenCalls() != 1 {
			t.Errorf("%d calls, %v", w.TokenCalls(), err)
		}
	})
}

// Stopped longer than its lease, with the new pair in hand: another replica
// gives the grant up, the late store brings it back.
func TestLateStoreBringsTheSessionBack(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		other := w.replica(nil)
		time.Sleep(3 * time.Hour)
		w.source.testingOnlyBeforeStore = func(session.Key) { time.Sleep(time.Minute) }
		done := make(chan error, 1)
		go func() {
			_, _, err := w.token(k)
			done <- err
		}()
		time.Sleep(time.Second)
		if _, _, err := other.Token(t.Context(), k); !errors.Is(err, session.ErrConsentRequired) {
			t.Errorf("the other replica: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("the late one: %v", err)
		}
		if row := w.Row(k); row.State != session.Active || row.Version != 2 {
			t.Errorf("%s, version %d", row.State, row.Version)
		}
	})
}

// The user revokes while a refresh is under way: what it brings is revoked too.
func TestRevokedMeanwhile(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(3 * time.Hour)
		w.source.testingOnlyBeforeStore = func(session.Key) {
			if _, err := w.Store.Sessions.Revoke(t.Context(), k, session.Revoked); err != nil {
				t.Error(err)
			}
		}
		if _, _, err := w.token(k); !errors.Is(err, session.ErrConsentRequired) {
			t.Errorf("got %v", err)
		}
		w.shutdown()
		for _, token := range w.Lark.Ledger(larktest.Alice) {
			if token.Kind == larktest.RefreshToken && !token.Spent && !token.Revoked {
				t.Error("a refresh token outlives the revocation")
			}
		}
	})
}

// Lark refuses a token that looks good: one refresh for all who were refused.
func TestRefusedTokenIsRenewedOnce(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		// From the first moment of a token's life.
		together(20, func(int) {
			a, err := w.source.ReplaceRefused(t.Context(), k, 1)
			if err != nil || a.Version != 2 {
				t.Errorf("%v", err)
			}
		})
		if _, err := w.source.ReplaceRefused(t.Context(), k, 1); err != nil {
			t.Error(err)
		}
		if w.TokenCalls() != 1 {
			t.Errorf("%d refreshes", w.TokenCalls())
		}
		// What refuses the successor too refuses the next one as well, whichever
		// replica hears of it.
		other := w.replica(nil)
		for _, s := range []*Source{w.source, other} {
			time.Sleep(10 * time.Second)
			if _, err := s.ReplaceRefused(t.Context(), k, 2); !errors.Is(err, session.ErrConsentRequired) {
				t.Errorf("the successor: %v", err)
			}
		}
		if w.TokenCalls() != 1 {
			t.Errorf("%d refreshes", w.TokenCalls())
		}
		// Later it is a token like any other, and so is the pair of a new consent.
		time.Sleep(11 * time.Second)
		if a, err := w.source.ReplaceRefused(t.Context(), k, 2); err != nil || a.Version != 3 {
			t.Errorf("half a minute later: %v", err)
		}
		w.consented(larktest.Alice)
		if a, err := w.source.ReplaceRefused(t.Context(), k, 4); err != nil || a.Version != 5 {
			t.Errorf("after a new consent: %v", err)
		}
	})
}

// A refused token may find a renewal under way that began behind a request.
// When that one fails for the moment it keeps the token that there is, which is
// no answer to who was refused: Lark's hiccup asks nobody to consent.
func TestRefusedJoinsAFailingRenewal(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(2*time.Hour - 5*time.Minute)
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true, Code: 20072})
		if a, _, err := w.token(k); err != nil || a.Version != 1 {
			t.Fatalf("behind a request: %v", err)
		}
		synctest.Wait()
		if slow.Hits() != 1 {
			t.Fatal("no renewal is under way")
		}
		refused := make(chan error, 1)
		go func() {
			_, err := w.source.ReplaceRefused(t.Context(), k, 1)
			refused <- err
		}()
		synctest.Wait()
		slow.Release()
		if err := <-refused; !errors.Is(err, session.ErrRefreshUnavailable) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
		if a, err := w.source.ReplaceRefused(t.Context(), k, 1); err != nil || a.Version != 2 {
			t.Errorf("when Lark is back: %v", err)
		}
	})
}

// A request that has to wait for a renewal which the sweep has queued, or a
// request before it, takes that renewal's place forward.
func TestWaitingPromotes(t *testing.T) {
	rates := []session.Limit{{N: 2, Period: time.Minute}} // the sweep may use half of it
	inWorld(t, nil, func(c *Config) { c.Limits, c.Sweep = rates, time.Minute }, func(t *testing.T, w *world) {
		keys := users(w, 8)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		time.Sleep(6 * 24 * time.Hour)
		go w.source.Run(ctx)
		time.Sleep(90 * time.Second) // the sweep's eight are in line
		start := time.Now()
		together(len(keys), func(i int) {
			if row := w.Row(keys[i]); row.Version != 1 || i < len(keys)/2 {
				return
			}
			if _, _, err := w.token(keys[i]); err != nil {
				t.Error(err)
			}
		})
		// Two a minute for at most four of them; in the sweep's order, and at its
		// half of the rate, the last would wait for eight minutes.
		if d := time.Since(start); d > 3*time.Minute {
			t.Errorf("the last one waited for %s behind the sweep", d)
		}
		stop()
		time.Sleep(10 * time.Minute)
	})
}

// A clock that jumps costs a renewal at the most, and no grant: forward, every
// token counts as expired; back, Lark refuses tokens that look fresh here.
func TestClockJumps(t *testing.T) {
	var jump atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
	inWorld(t, nil, func(c *Config) { c.Now = now }, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		jump.Store(int64(24 * time.Hour))
		if a, _, err := w.token(k); err != nil || a.Version != 2 {
			t.Fatalf("after a jump forward: %v", err)
		}
		time.Sleep(3 * time.Hour) // Lark's token is over
		jump.Store(0)
		a, _, err := w.token(k)
		if err != nil || a.Version != 2 {
			t.Fatalf("after a jump back: %v", err)
		}
		if a, err := w.source.ReplaceRefused(t.Context(), k, a.Version); err != nil || a.Version != 3 {
			t.Fatalf("refused by Lark after a jump back: %v", err)
		}
		if row := w.Row(k); row.State != session.Active || w.TokenCalls() != 2 {
			t.Errorf("%s after %d refreshes", row.State, w.TokenCalls())
		}
	})
}

func TestRefusedWhileLarkFails(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		k := w.consented(larktest.Alice)
		time.Sleep(time.Minute)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20072})
		if _, err := w.source.ReplaceRefused(t.Context(), k, 1); !errors.Is(err, session.ErrRefreshUnavailable) {
			t.Errorf("got %v", err)
		}
		// A dead grant whose access token Lark refuses is not served again.
		time.Sleep(time.Minute)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20064})
		if _, err := w.source.ReplaceRefused(t.Context(), k, 1); !errors.Is(err, session.ErrConsentRequired) {
			t.Errorf("got %v", err)
		}
		if _, _, err := w.token(k); !errors.Is(err, session.ErrConsentRequired) {
			t.Errorf("served all the same: %v", err)
		}
	})
}

// Lark refuses the app: it is asked once in 30 s, not once for each user, and
// the first success puts all right.
func TestRefusedApp(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		w.runSource()
		keys := users(w, 20)
		time.Sleep(3 * time.Hour)
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RefreshOff = true })
		for range 60 {
			for _, k := range keys {
				if _, _, err := w.token(k); !errors.Is(err, session.ErrAppMisconfigured) {
					t.Fatalf("got %v", err)
				}
			}
			time.Sleep(time.Second)
		}
		if n := w.TokenCalls(); n < 2 || n > 3 {
			t.Errorf("%d calls in a minute", n)
		}
		if w.source.Refusal(larktest.AppID) == nil || w.source.RefusedSince(larktest.AppID).IsZero() {
			t.Error("no refusal on record")
		}
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RefreshOff = false })
		w.source.Reconsider()
		synctest.Wait()
		for _, k := range keys {
			if _, _, err := w.token(k); err != nil {
				t.Error(err)
			}
		}
		if err := w.source.Refusal(larktest.AppID); err != nil || !w.source.RefusedSince(larktest.AppID).IsZero() {
			t.Errorf("still refused: %v", err)
		}
	})
}

// The token endpoint fails for everyone: the circuit opens, and users are not
// tried one by one.
func TestCircuitOpens(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		keys := users(w, 100)
		time.Sleep(3 * time.Hour)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 503, Body: "down", Times: -1})
		for _, k := range keys {
			if _, _, err := w.token(k); !errors.Is(err, session.ErrRefreshUnavailable) {
				t.Fatal(err)
			}
		}
		if n := w.TokenCalls(); n != breakAfter {
			t.Errorf("%d calls, want %d", n, breakAfter)
		}
		w.Lark.ClearFaults()
		time.Sleep(breakFor + time.Second)
		for _, k := range keys[breakAfter:] {
			if _, _, err := w.token(k); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// After its rest an open circuit lets one call through, however many wait for one.
// While Lark has not answered it, and when it fails, the others are not sent.
func TestCircuitIsProbedByOne(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		keys := users(w, 100)
		time.Sleep(3 * time.Hour)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 503, Body: "down", Times: breakAfter})
		for _, k := range keys[:breakAfter] {
			if _, _, err := w.token(k); !errors.Is(err, session.ErrRefreshUnavailable) {
				t.Fatal(err)
			}
		}
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true, Status: 503, Body: "down", Times: -1})
		time.Sleep(breakFor + time.Second)
		crowd := keys[breakAfter:]
		done := make(chan error)
		go func() {
			together(len(crowd), func(i int) {
				if _, _, err := w.token(crowd[i]); !errors.Is(err, session.ErrRefreshUnavailable) {
					t.Errorf("user %d: %v", i, err)
				}
			})
			close(done)
		}()
		time.Sleep(5 * time.Second) // the rate lets all of them through
		if n := slow.Hits(); n != 1 {
			t.Errorf("%d calls while the first is not answered, want 1", n)
		}
		slow.Release()
		<-done
		if n := slow.Hits(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
	})
}

// A pair whose access token can't be used is no success: its user's requests
// would bring one rotation each, and use up the rate of all.
func TestUselessPairRests(t *testing.T) {
	for name, set := range map[string]map[string]any{
		"expired":                    {"expires_in": 0},
		"no Bearer":                  {"token_type": "MAC"},
		"a token with a blank in it": {"access_token": "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, nil, func(t *testing.T, w *world) {
				k := w.consented(larktest.Alice)
				other := w.replica(nil)
				time.Sleep(3 * time.Hour)
				w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Processed: true, Times: -1, Set: set})
				before := w.TokenCalls()
				for i := range 600 { // a minute
					source := []*Source{w.source, other}[i%2]
					_, _, err := source.Token(t.Context(), k)
					if retry, ok := errors.AsType[*session.RetryError](err); !errors.Is(err, session.ErrRefreshUnavailable) || !ok || retry.After < time.Second {
						t.Fatal(err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n := w.TokenCalls() - before; n < 4 || n > 7 { // 1 s, 2 s, 4 s, 8 s, 16 s, and a quarter more
					t.Errorf("%d calls in a minute", n)
				}
				w.Lark.ClearFaults()
				time.Sleep(40 * time.Second)
				if a, _, err := w.token(k); err != nil || !a.Usable(time.Now()) {
					t.Errorf("when Lark is well: %v", err)
				}
				if row := w.Row(k); row.Failures != 0 || !row.RetryAt.IsZero() {
					t.Errorf("the session still rests: %+v", row)
				}
			})
		})
	}
}

// Everything expires at once on three replicas: Lark never answers 429, all are
// served, in the time that the rate allows and a tenth more.
func TestMassExpiry(t *testing.T) {
	rates := []session.Limit{{N: 40, Period: time.Second}, {N: 900, Period: time.Minute}}
	strict := func(c *larktest.Config) { c.TokenPerSecond, c.TokenPerMinute = 50, 1000 }
	inWorld(t, strict, func(c *Config) { c.Limits = rates }, func(t *testing.T, w *world) {
		n := 5000
		if raceDetector || testing.Short() {
			n = 500 // test/run does all 5,000 without them
		}
		keys := users(w, n)
		sources := []*Source{w.source}
		for range 2 {
			s := w.replica(func(c *Config) { c.Limits = rates })
			sources = append(sources, s)
		}
		time.Sleep(3 * time.Hour)
		start := time.Now()
		together(n, func(i int) {
			if _, _, err := sources[i%3].Token(t.Context(), keys[i]); err != nil {
				t.Errorf("user %d: %v", i, err)
			}
		})
		took := time.Since(start)
		// 900 in each minute, and what is left in the last one at 40/s.
		most := time.Duration(n/900)*time.Minute + time.Duration(n%900)*time.Second/40
		if took > most*11/10 {
			t.Errorf("took %s, want at most a tenth more than %s", took, most)
		}
		if calls := w.TokenCalls(); calls != n {
			t.Errorf("%d calls to the token endpoint for %d sessions", calls, n)
		}
	})
}

// Three replicas are asked for the same sessions at once. Whoever finds that
// another is at work hands its admission on, so the rate is spent on refreshes
// only.
func TestAdmissionsAreNotWasted(t *testing.T) {
	rates := []session.Limit{{N: 20, Period: time.Second}}
	inWorld(t, nil, func(c *Config) { c.Limits = rates }, func(t *testing.T, w *world) {
		const n = 200
		keys := users(w, n)
		sources := []*Source{w.source}
		for range 2 {
			s := w.replica(func(c *Config) { c.Limits = rates })
			sources = append(sources, s)
		}
		time.Sleep(3 * time.Hour)
		start := time.Now()
		together(3*n, func(i int) {
			if _, _, err := sources[i%3].Token(t.Context(), keys[i/3]); err != nil {
				t.Errorf("user %d on replica %d: %v", i/3, i%3, err)
			}
		})
		// 20 in each 1.05 s, so ten rounds; at the end all of a replica's waiters
		// may be late before the database's news tells them so.
		if took, most := time.Since(start), 13*time.Second; took > most {
			t.Errorf("took %s, want at most %s", took, most)
		}
		if calls := w.TokenCalls(); calls != n {
			t.Errorf("%d calls to the token endpoint for %d sessions", calls, n)
		}
	})
}

// News that decides nothing, such as a listening connection that comes back
// again and again, costs nobody their place in line.
func TestNewsKeepsThePlaceInLine(t *testing.T) {
	rates := []session.Limit{{N: 1, Period: 20 * time.Second}}
	inWorld(t, nil, func(c *Config) { c.Limits = rates }, func(t *testing.T, w *world) {
		keys := users(w, 2)
		time.Sleep(3 * time.Hour)
		if _, _, err := w.token(keys[0]); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, _, err := w.token(keys[1])
			done <- err
		}()
		for range 12 {
			time.Sleep(time.Second)
			// A consent that begins and ends changes the user, not the session.
			p, _, err := w.Store.Consents.Begin(t.Context(), session.Consent{Key: keys[1], Flow: session.DeviceFlow, Scopes: "x"}, time.Second, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Store.Consents.Close(t.Context(), p.ID, session.ConsentFailed, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Who waits goes before the sweep, even from another replica.
func TestUrgentGoesFirst(t *testing.T) {
	rates := []session.Limit{{N: 10, Period: time.Minute}}
	inWorld(t, nil, func(c *Config) { c.Limits, c.Sweep = rates, time.Minute }, func(t *testing.T, w *world) {
		keys := users(w, 50)
		other := w.replica(func(c *Config) { c.Limits = rates })
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		time.Sleep(6 * 24 * time.Hour)
		go w.source.Run(ctx)
		time.Sleep(2*time.Minute + 30*time.Second)
		start := time.Now()
		if _, _, err := other.Token(t.Context(), keys[49]); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("the sweep kept a waiting request for %s", d)
		}
		stop()
		time.Sleep(2 * time.Minute)
	})
}

// Nobody uses the sessions, and they do not die: each is renewed once in its
// refresh token's life, before a fifth of that is left, and not in one burst.
func TestSweepKeepsIdleSessions(t *testing.T) {
	inWorld(t, nil, func(c *Config) { c.Sweep = 10 * time.Minute }, func(t *testing.T, w *world) {
		keys := users(w, 60)
		other := w.replica(func(c *Config) { c.Sweep = 10 * time.Minute })
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go w.source.Run(ctx)
		go other.Run(ctx)
		granted := time.Now()
		time.Sleep(7 * 24 * time.Hour)
		hours := map[int]int{}
		for _, call := range w.Lark.Calls(larktest.To(larktest.TokenEndpoint)) {
			age := call.At.Sub(granted)
			if age > 6*24*time.Hour-9*time.Hour {
				t.Errorf("renewed after %s", age)
			}
			hours[int(age.Hours())]++
		}
		for _, k := range keys {
			if row := w.Row(k); row.Version != 2 || row.State != session.Active {
				t.Errorf("%s: version %d, %s", k.OpenID, row.Version, row.State)
			}
		}
		if len(hours) < 15 {
			t.Errorf("renewed in %d different hours: a burst", len(hours))
		}
		stop()
		time.Sleep(time.Hour)
	})
}

// At Lark's 365-day limit the sweep stops instead of looping.
func TestSweepStopsAtTheLimit(t *testing.T) {
	for name, fault := range map[string]*larktest.Fault{
		"as Lark says": nil,
		// Lark says so if the last token has less than a second. It is kept for 7
		// days like any with an absurd life, and then tried.
		"a life of 0": {Endpoint: larktest.TokenEndpoint, Set: map[string]any{"refresh_token_expires_in": 0}},
	} {
		inWorld(t, func(c *larktest.Config) { c.GrantLife = 24 * time.Hour; c.RefreshLife = 20 * time.Hour }, func(c *Config) { c.Sweep = 10 * time.Minute }, func(t *testing.T, w *world) {
			k := w.consented(larktest.Alice)
			if fault != nil {
				w.Lark.Fault(*fault)
			}
			ctx, stop := context.WithCancel(t.Context())
			go w.source.Run(ctx)
			time.Sleep(9 * 24 * time.Hour)
			stop()
			time.Sleep(time.Hour)
			if row := w.Row(k); row.State != session.ConsentRequired || row.Reason != session.RefreshTokenExpired {
				t.Errorf("%s: %s %s", name, row.State, row.Reason)
			}
			// The closer the limit, the shorter the refresh token that Lark gives:
			// a few steps, each a third of the one before.
			if n := w.TokenCalls(); n > 12 {
				t.Errorf("%s: %d calls to the token endpoint", name, n)
			}
		})
	}
}

// Absurd lifetimes: the new refresh token is kept whatever else came.
func TestAbsurdLifetimes(t *testing.T) {
	for _, set := range []map[string]any{
		{"expires_in": 0}, {"expires_in": -7200}, {"expires_in": 1e12}, {"expires_in": "soon"},
		{"refresh_token_expires_in": 0}, {"refresh_token_expires_in": -1}, {"refresh_token_expires_in": 1e12},
	} {
		inWorld(t, nil, nil, func(t *testing.T, w *world) {
			k := w.consented(larktest.Alice)
			time.Sleep(3 * time.Hour)
			w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Set: set})
			w.token(k)
			time.Sleep(5 * time.Second)
			a, _, err := w.token(k)
			if err != nil || !a.Usable(time.Now()) {
				t.Errorf("%v: %v", set, err)
			}
			if row := w.Row(k); row.State != session.Active {
				t.Errorf("%v: %s %s", set, row.State, row.Reason)
			}
		})
	}
}

// What Lark knows about people is read 50 at a time; those who left are marked,
// and one user's failure does not stop the rest.
func TestUserSync(t *testing.T) {
	inWorld(t, nil, func(c *Config) { c.Sync = time.Hour }, func(t *testing.T, w *world) {
		keys := users(w, 120)
		w.Lark.UpdateUser(keys[7].OpenID, func(u *larktest.User) { u.Status = larktest.Resigned })
		if _, err := w.Store.Sessions.Put(t.Context(), session.Session{Key: dbtest.Key("ou_unknown_to_lark"), TokenType: "Bearer", GrantedAt: time.Now(), SyncedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		n, err := w.source.SyncUsers(t.Context(), larktest.AppID, time.Now(), nil)
		if err != nil || n.Read != 119 || n.Disabled != 1 || n.Absent != 1 {
			t.Errorf("%+v, %v", n, err)
		}
		if row := w.Row(keys[3]); row.Profile.Name != "User 3" {
			t.Errorf("profile %+v", row.Profile)
		}
		if _, _, err := w.token(keys[7]); !errors.Is(err, session.ErrUserDisabled) {
			t.Errorf("a user who left: %v", err)
		}
		w.Lark.UpdateUser(keys[7].OpenID, func(u *larktest.User) { u.Status = larktest.Active })
		time.Sleep(time.Second)
		w.source.SyncUsers(t.Context(), larktest.AppID, time.Now(), nil)
		if _, _, err := w.token(keys[7]); err != nil {
			t.Errorf("a user who came back: %v", err)
		}
	})
}

// A reading that fails again and again is counted, so that somebody is told; one
// that finds nothing to do is done.
func TestUserSyncIsCounted(t *testing.T) {
	reader, before := metric.NewManualReader(), otel.GetMeterProvider()
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))
	t.Cleanup(func() { otel.SetMeterProvider(before) })
	inWorld(t, nil, func(c *Config) { c.Sync = time.Hour }, func(t *testing.T, w *world) {
		users(w, 1)
		w.source.syncDue(t.Context(), larktest.AppID) // nothing is due
		time.Sleep(2 * time.Hour)
		fault := w.Lark.Fault(larktest.Fault{Endpoint: larktest.ContactEndpoint, Status: 403, Times: -1})
		w.source.syncDue(t.Context(), larktest.AppID)
		w.source.syncDue(t.Context(), larktest.AppID)
		stopping, stop := context.WithCancel(t.Context())
		stop()
		w.source.syncDue(stopping, larktest.AppID) // is no failure of Lark's
		checkSyncs(t, reader, map[string]int64{syncDone: 1, syncFailed: 2})
		fault.Remove()
		w.source.syncDue(t.Context(), larktest.AppID)
		checkSyncs(t, reader, map[string]int64{syncDone: 2, syncFailed: 2})
	})
}

func checkSyncs(t *testing.T, reader *metric.ManualReader, want map[string]int64) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != "larkside.profile.syncs" {
				continue
			}
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				result, _ := p.Attributes.Value(telemetry.Result)
				got[result.AsString()] += p.Value
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

var _ Lark = (*lark.Client)(nil)
