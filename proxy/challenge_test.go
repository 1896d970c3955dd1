package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/session"
)

// Section 5, authorization_required.
func TestChallenge(t *testing.T) {
	b := start(t, nil)
	a := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new")
	fields := a.isError(t, 401, "authorization_required")
	const link = "https://accounts.feishu.cn/device?code=ou_new&x=1"
	if fields["reason"] != "no_session" || fields["authorize_url"] != link || fields["expires_in"] != 600.0 || fields["card"] != "sent" {
		t.Errorf("error %v", fields)
	}
	for name, want := range map[string]string{
		"WWW-Authenticate":         `Bearer realm="lark", error="invalid_token"`,
		"X-Larkside-Authorize-Url": link,
		"Retry-After":              "2",
		"Preference-Applied":       "",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !strings.Contains(a.body, link) {
		t.Errorf("the link can't be read: %s", a.body)
	}
	if code, _, _ := a.larkside(t); code != 18401001 {
		t.Errorf("code %d", code)
	}
	again := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new").isError(t, 401, "authorization_required")
	if again["card"] != "already_sent" {
		t.Errorf("error %v", again)
	}
	b.lark.none(t)
}

func TestChallengeReasons(t *testing.T) {
	b := start(t, nil)
	for _, reason := range []session.Reason{session.RefreshTokenExpired, session.RefreshTokenUsed, session.Revoked, session.Declined} {
		b.tokens.set("ou_1", func(g *grant) { g.err = fmt.Errorf("looking up: %w", &session.ConsentRequiredError{Reason: reason}) })
		if fields := b.get(table).isError(t, 401, "authorization_required"); fields["reason"] != string(reason) {
			t.Errorf("error %v, want %s", fields, reason)
		}
	}
}

// The caller gets its 401 when asking fails, except for what has its own name.
func TestAskingFails(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		name   string
	}{
		{errors.New("chat is down"), 401, "authorization_required"},
		{session.ErrUnavailable, 503, "store_unavailable"},
		{session.ErrAppMisconfigured, 503, "app_misconfigured"},
		{session.ErrUserDisabled, 403, "user_disabled"},
	} {
		b := start(t, nil)
		b.asker.err = c.err
		a := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new")
		fields := a.isError(t, c.status, c.name)
		if c.status == 401 && (fields["card"] != "failed" || fields["authorize_url"] != nil || a.Header.Get("Retry-After") == "") {
			t.Errorf("error %v", fields)
		}
	}
	b := start(t, func(c *proxy.Config) { c.Asker = nil })
	if fields := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new").isError(t, 401, "authorization_required"); fields["card"] != "off" {
		t.Errorf("without an asker: %v", fields)
	}
}

// hold sends a request that waits, and returns once its user was asked.
func (b *bed) hold(lines ...string) func() reply {
	b.asker.mu.Lock()
	b.asker.began = make(chan struct{}, 1)
	b.asker.mu.Unlock()
	conn := b.dial()
	text := strings.Join(append([]string{lines[0], "Host: " + b.addr}, lines[1:]...), "\r\n")
	if !strings.Contains(text, "\r\n\r\n") {
		text += "\r\n\r\n"
	}
	io.WriteString(conn, text)
	<-b.asker.began
	return func() reply { return b.read(bufio.NewReader(conn), "") }
}

// A request that asks for it waits until its user has authorized, whatever body
// it has.
func TestWaitForConsent(t *testing.T) {
	for name, body := range map[string]string{
		"no body": "\r\n", "body": "Content-Length: 5\r\n\r\nhello", "chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			b.lark.answer(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "served "+b.lark.record(r).body) })
			answer := b.hold("POST "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "Prefer: respond-async, wait=30", body)
			b.lark.none(t)
			b.tokens.grant("ou_new")
			a := answer()
			if a.StatusCode != 200 || a.Header.Get("Preference-Applied") != "wait" || name != "no body" && a.body != "served hello" {
				t.Errorf("answer %d %q, Preference-Applied %q", a.StatusCode, a.body, a.Header.Get("Preference-Applied"))
			}
			sees(t, b.lark.one(t), "Bearer "+token("ou_new", 1))
		})
	}
}

func TestWaitEnds(t *testing.T) {
	t.Run("by the clock", func(t *testing.T) {
		b := start(t, func(c *proxy.Config) { c.MaxWait = 50 * time.Millisecond })
		a := b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "Prefer: wait=3600")()
		a.isError(t, 401, "authorization_required")
		if a.Header.Get("Preference-Applied") != "wait" {
			t.Error("no Preference-Applied")
		}
	})
	t.Run("declined", func(t *testing.T) {
		b := start(t, nil)
		answer := b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "Prefer: wait=30")
		b.tokens.change("ou_new", &session.ConsentRequiredError{Reason: session.Declined})
		if fields := answer().isError(t, 401, "authorization_required"); fields["reason"] != "declined" {
			t.Errorf("error %v", fields)
		}
	})
	t.Run("by a failure", func(t *testing.T) {
		b := start(t, nil)
		answer := b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "Prefer: wait=30")
		b.tokens.fail(session.ErrUnavailable)
		b.tokens.grant("ou_new")
		answer().isError(t, 503, "store_unavailable")
	})
}

// A refused token isn't consented to by being there still.
func TestWaitAfterRefusal(t *testing.T) {
	b := start(t, nil)
	b.refuses(3, 400, invalidToken)
	answer := b.hold("POST "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1", "Prefer: wait=30", "Content-Length: 5\r\n\r\nhello")
	b.tokens.grant("ou_1")
	if a := answer(); a.StatusCode != 200 || a.body != "served hello" {
		t.Errorf("answer %d %s", a.StatusCode, a.body)
	}
	if n := len(b.lark.requests()); n != 3 {
		t.Errorf("%d requests", n)
	}
}

func TestNoWait(t *testing.T) {
	long := strings.Repeat("x", 65<<10)
	for name, header := range map[string]string{
		"zero":              "Prefer: wait=0",
		"nonsense":          "Prefer: wait=soon",
		"negative":          "Prefer: wait=-1",
		"other":             "Prefer: waits=9, return=minimal",
		"body too long":     fmt.Sprintf("Prefer: wait=9\r\nContent-Length: %d\r\n\r\n%s", len(long), long),
		"chunked, too long": fmt.Sprintf("Prefer: wait=9\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long),
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			a := b.raw("POST "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", header)
			a.isError(t, 401, "authorization_required")
			if a.Header.Get("Preference-Applied") != "" {
				t.Error("Preference-Applied")
			}
		})
	}
	// Only what a wait could help waits.
	b := start(t, nil)
	b.tokens.fail(session.ErrUnavailable)
	b.get(table, "Prefer: wait=9").isError(t, 503, "store_unavailable")
	b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: on_x", "Prefer: wait=9").isError(t, 401, "authorization_required")
}

func TestWaitPreferenceSpellings(t *testing.T) {
	for _, header := range []string{"Prefer: WAIT = 30", `prefer: wait="30"`, "Prefer: a=1;b=2, wait=30;x=y", "Prefer: a\r\nPrefer: wait=30, wait=0"} {
		b := start(t, nil)
		answer := b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", header)
		b.tokens.grant("ou_new")
		if a := answer(); a.StatusCode != 200 {
			t.Errorf("%s: status %d", header, a.StatusCode)
		}
	}
}

// Those who wait are bounded, and a place is free again when its request ends.
func TestWaitersAreBounded(t *testing.T) {
	waits := make(chan bool, 2)
	b := start(t, func(c *proxy.Config) { c.MaxWaiters = 2; c.Waiter = watched{c.Waiter, waits} })
	wait := []string{"GET " + table + " HTTP/1.1", "X-Lark-User-Id: ou_new", "Prefer: wait=30"}
	one, two := b.hold(wait...), b.hold(wait...)
	<-waits // asked is before waiting
	<-waits
	a := b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_third", "Prefer: wait=30")()
	a.isError(t, 401, "authorization_required")
	if a.Header.Get("Preference-Applied") != "" {
		t.Error("a third request waits")
	}
	b.tokens.grant("ou_new")
	if a, b := one(), two(); a.StatusCode != 200 || b.StatusCode != 200 {
		t.Errorf("status %d, %d", a.StatusCode, b.StatusCode)
	}
	three := b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_fourth", "Prefer: wait=30")
	b.tokens.grant("ou_fourth")
	if a := three(); a.StatusCode != 200 {
		t.Errorf("status %d", a.StatusCode)
	}
}

// No caller can hold all places: another one finds some free. What a caller wants
// is known to whoever asks the user.
func TestEachCallerHasPlaces(t *testing.T) {
	waits := make(chan bool, 4)
	b := start(t, func(c *proxy.Config) {
		c.MaxWaiters, c.Waiter = 4, watched{c.Waiter, waits}
		c.CallerKeys = func() []proxy.Caller {
			return []proxy.Caller{{Name: "greedy", Key: session.NewSecret("key-of-greedy")}, {Name: "greedy", Key: session.NewSecret("next-key-of-greedy")},
				{Name: "modest", Key: session.NewSecret("key-of-modest")}}
		}
	})
	wait := func(key string) func() reply {
		return b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "Prefer: wait=30", "X-Larkside-Key: "+key)
	}
	held := []func() reply{wait("key-of-greedy"), wait("next-key-of-greedy")}
	<-waits
	<-waits
	if a := wait("key-of-greedy")(); a.StatusCode != 401 || a.Header.Get("Preference-Applied") != "" {
		t.Errorf("beyond its share: status %d, Preference-Applied %q", a.StatusCode, a.Header.Get("Preference-Applied"))
	}
	held = append(held, wait("key-of-modest"))
	<-waits
	b.tokens.grant("ou_new")
	for _, answer := range held {
		if a := answer(); a.StatusCode != 200 {
			t.Errorf("status %d", a.StatusCode)
		}
	}
	if asked := b.asker.all(); asked[0].Caller != "greedy" || asked[0].Wait != 30*time.Second || asked[3].Caller != "modest" {
		t.Errorf("asked: %+v", asked)
	}
}

// A caller that hangs up frees its place at once.
func TestWaiterHangsUp(t *testing.T) {
	waits := make(chan bool, 1)
	b := start(t, func(c *proxy.Config) {
		c.MaxWaiters = 1
		c.Waiter = watched{c.Waiter, waits}
		c.HalfClosePatience = 100 * time.Millisecond
	})
	conn := b.dial()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_new\r\nPrefer: wait=50\r\nContent-Length: 1\r\n\r\nx", table, b.addr)
	<-waits
	waited := func() bool {
		a := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_other", "Prefer: wait=1")
		return a.Header.Get("Preference-Applied") != ""
	}
	if waited() {
		t.Fatal("there is a second place")
	}
	conn.Close()
	eventually(t, waited)
}

// watched tells when a wait begins.
type watched struct {
	proxy.Waiter
	begun chan bool
}

func (w watched) Wait(ctx context.Context, k session.Key) error {
	select {
	case w.begun <- true:
	default:
	}
	return w.Waiter.Wait(ctx, k)
}

// A crowd of unknown users leaves nothing behind.
func TestCrowdLeavesNothing(t *testing.T) {
	b := start(t, nil)
	before := runtime.NumGoroutine()
	var group sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 20}}
	for i := range 500 {
		group.Go(func() {
			req, _ := http.NewRequest("GET", "http://"+b.addr+table, nil)
			req.Header.Set("X-Lark-User-Id", fmt.Sprint("ou_x", i))
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != 401 {
				t.Errorf("status %d", res.StatusCode)
			}
		})
	}
	group.Wait()
	client.CloseIdleConnections()
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+5; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
