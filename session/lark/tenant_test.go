package lark_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

// tokens is Lark's tenant token endpoint as a transport, for use in a bubble.
type tokens struct {
	mu      sync.Mutex
	n       int
	delay   time.Duration
	life    int
	failing string // an answer instead of a token
	secret  string
	bodies  []string
}

func (k *tokens) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	k.mu.Lock()
	k.n++
	k.bodies = append(k.bodies, string(body))
	reply, delay := k.failing, k.delay
	if reply == "" {
		reply = fmt.Sprintf(`{"code":0,"tenant_access_token":"t-%d","expire":%d}`, k.n, k.life)
	}
	k.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(reply))}, nil
}

func (k *tokens) set(f func()) { k.mu.Lock(); defer k.mu.Unlock(); f() }

func (k *tokens) client(t *testing.T) *lark.Client {
	c, err := lark.New(lark.Config{
		AppID: "cli_test", OpenURL: "http://o.invalid", AccountsURL: "http://a.invalid", TokenURL: "http://a.invalid/t", Transport: k,
		Secret: func() session.Secret { k.mu.Lock(); defer k.mu.Unlock(); return session.NewSecret(k.secret) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func expect(t *testing.T, c *lark.Client, want string) {
	t.Helper()
	got, err := c.TenantAccessToken(t.Context())
	if err != nil || got.Expose() != want {
		t.Errorf("got %q, %v; want %q", got.Expose(), err, want)
	}
}

func TestTenantAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokens{delay: time.Second, life: 7200, secret: "s1"}
		c := k.client(t)
		for range 50 { // one request for all
			go expect(t, c, "t-1")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if k.n != 1 {
			t.Errorf("%d requests for 50 callers", k.n)
		}
		time.Sleep(2*time.Hour - 3*time.Minute - 10*time.Second)
		expect(t, c, "t-1") // not yet in its last minutes
		synctest.Wait()
		if k.n != 1 {
			t.Error("renewed too early")
		}

		time.Sleep(11 * time.Second)
		start := time.Now()
		expect(t, c, "t-1") // still valid: served at once, renewed behind
		if time.Since(start) != 0 {
			t.Error("a caller waited though a token was valid")
		}
		time.Sleep(2 * time.Second)
		expect(t, c, "t-2")

		// Lark is down in the last minutes: the token is served to its end.
		k.set(func() { k.failing = `{"code":99991400}` })
		time.Sleep(2*time.Hour - 10*time.Second)
		expect(t, c, "t-2")
		time.Sleep(20 * time.Second)
		_, err := c.TenantAccessToken(t.Context())
		if e := asError(t, err); e.Class != lark.Retry {
			t.Error(e)
		}
		k.set(func() { k.failing = "" })
		time.Sleep(time.Second)
		if got, err := c.TenantAccessToken(t.Context()); err != nil || got.Empty() {
			t.Errorf("did not recover: %v", err)
		}
	})
}

// A failing Lark is asked at most once a second, whoever asks for how many.
func TestTenantAccessTokenPausesAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokens{life: 7200, secret: "s1", failing: `{"code":10015,"msg":"bad"}`}
		c := k.client(t)
		for range 1000 {
			_, err := c.TenantAccessToken(t.Context())
			if e := asError(t, err); e.Class != lark.AppRefused {
				t.Fatal(e)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if k.n != 10 {
			t.Errorf("%d requests in 10 s", k.n)
		}
		// Another secret is tried at once.
		k.set(func() { k.failing, k.secret = "", "s2" })
		expect(t, c, "t-11")
		if !strings.Contains(k.bodies[10], `"s2"`) {
			t.Error("the old secret was sent")
		}
	})
}

// The caller who started the request goes away; the others get their token.
func TestTenantAccessTokenSurvivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokens{delay: 5 * time.Second, life: 1, secret: "s1"}
		c := k.client(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.TenantAccessToken(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first caller got %v", err)
		}
		start := time.Now()
		expect(t, c, "t-1")
		if k.n != 1 || time.Since(start) != 4*time.Second {
			t.Errorf("%d requests, waited %s", k.n, time.Since(start))
		}
		// A secret that changes during a request: its token is not used.
		time.Sleep(2 * time.Second)
		go func() {
			time.Sleep(time.Second)
			k.set(func() { k.secret = "s2" })
			expect(t, c, "t-3") // while the old secret's request still runs
		}()
		expect(t, c, "t-3")
		// One request lasts ten seconds at most.
		k.set(func() { k.delay = time.Hour })
		time.Sleep(2 * time.Second)
		start = time.Now()
		_, err = c.TenantAccessToken(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

// refuse says that Lark refused a token and checks which one comes instead.
func refuse(t *testing.T, c *lark.Client, refused, want string) {
	t.Helper()
	got, err := c.ReplaceTenantAccessToken(t.Context(), session.NewSecret(refused))
	if err != nil || got.Expose() != want {
		t.Errorf("instead of %s: %q, %v; want %s", refused, got.Expose(), err, want)
	}
}

func TestReplaceTenantAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokens{delay: time.Second, life: 7200, secret: "s1"}
		c := k.client(t)
		expect(t, c, "t-1")
		for range 50 { // one request for all
			go refuse(t, c, "t-1", "t-2")
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		expect(t, c, "t-2")
		refuse(t, c, "t-1", "t-2") // it is replaced already
		refuse(t, c, "t-2", "t-2") // once in 30 s
		if k.n != 2 {
			t.Errorf("%d requests, want 2", k.n)
		}
		time.Sleep(30 * time.Second)
		refuse(t, c, "t-2", "t-3")
		expect(t, c, "t-3")
	})
}

// Lark gives the token that it gave before while more than half an hour of its
// life is left: then the route is what refuses it.
func TestReplaceTenantAccessTokenBySameOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokens{secret: "s1", failing: `{"code":0,"tenant_access_token":"t-same","expire":7200}`}
		c := k.client(t)
		expect(t, c, "t-same")
		for range 1000 {
			refuse(t, c, "t-same", "t-same")
			time.Sleep(100 * time.Millisecond)
		}
		if k.n != 5 {
			t.Errorf("%d requests in 100 s, want the first and four more", k.n)
		}
		k.set(func() { k.secret = "s2" }) // another secret's token is another token
		k.set(func() { k.failing, k.life = "", 7200 })
		refuse(t, c, "t-same", "t-6")
	})
}

// A token that can't be replaced for the moment is kept: on most routes it may
// be as good as before.
func TestReplaceTenantAccessTokenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokens{life: 7200, secret: "s1"}
		c := k.client(t)
		expect(t, c, "t-1")
		k.set(func() { k.failing = `{"code":99991400}` })
		for range 100 {
			_, err := c.ReplaceTenantAccessToken(t.Context(), session.NewSecret("t-1"))
			if e := asError(t, err); e.Class != lark.Retry {
				t.Fatal(e)
			}
			expect(t, c, "t-1")
			time.Sleep(10 * time.Millisecond)
		}
		if k.n != 2 {
			t.Errorf("%d requests in a second, want the first and one more", k.n)
		}
		k.set(func() { k.failing = "" })
		refuse(t, c, "t-1", "t-3") // a failure doesn't begin the 30 s
	})
}

// Who reported the refusal goes away; the token is fetched all the same.
func TestReplaceTenantAccessTokenSurvivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokens{delay: 5 * time.Second, life: 7200, secret: "s1"}
		c := k.client(t)
		expect(t, c, "t-1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.ReplaceTenantAccessToken(ctx, session.NewSecret("t-1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first caller got %v", err)
		}
		expect(t, c, "t-1") // until the other one is there
		refuse(t, c, "t-1", "t-2")
		if k.n != 2 {
			t.Errorf("%d requests, want 2", k.n)
		}
	})
}
