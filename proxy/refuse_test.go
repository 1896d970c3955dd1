package proxy_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"larkside/session"
)

func gz(s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.Bytes()
}

const (
	invalidToken = `{"code":99991668,"msg":"Invalid access token for authorization. Please make a request with token attached.","error":{"log_id":"l"}}`
	notForUsers  = `{"msg":"user access token not support","code":99991668}`
)

// refuses makes lark refuse every token older than version with that answer.
func (b *bed) refuses(version int64, status int, answer string) {
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		got := b.lark.record(r)
		for v := range version {
			if strings.HasSuffix(got.auth()[0], fmt.Sprintf("-v%d", v)) {
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				w.WriteHeader(status)
				io.WriteString(w, answer)
				return
			}
		}
		fmt.Fprintf(w, "served %s", got.body)
	})
}

// One refresh, one replay, for each code that means it.
func TestRefusedTokenIsRenewed(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		answer string
	}{
		"invalid":              {400, invalidToken},
		"expired":              {401, `{"code":99991677,"msg":"Authentication token expired"}`},
		"malformed":            {400, `{"code":99991671,"msg":"token must start with t- or u-"}`},
		"old API, invalid":     {200, `{"code":20005,"msg":"The user access token passed is invalid."}`},
		"old API, expired":     {200, `{"code":20006,"msg":"expired"}`},
		"oldest APIs":          {400, `{"code":4001,"msg":"invalid token"}`},
		"code last":            {400, `{"error":{"code":0,"x":["}"]},"msg":"{\"","code":99991677}`},
		"spaced":               {400, "\n{\t\"code\" :\r\n 99991677 , \"msg\":\"\"}"},
		"broken behind it":     {400, `{"code":99991677,"msg":`},
		"under a server error": {500, `{"code":99991677}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			b.refuses(2, c.status, c.answer)
			a := b.post(table, "payload")
			if a.StatusCode != 200 || a.body != "served payload" {
				t.Fatalf("answer %d %s", a.StatusCode, a.body)
			}
			seen := b.lark.requests()
			if len(seen) != 2 || b.tokens.refreshed() != 1 {
				t.Fatalf("%d requests, %d refreshes", len(seen), b.tokens.refreshed())
			}
			sees(t, seen[0], user1)
			sees(t, seen[1], "Bearer "+token("ou_1", 2))
			if a.Header.Get("X-Larkside-Hint") != "" {
				t.Error("a hint")
			}
		})
	}
}

func TestCompressedRefusal(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		if got := b.lark.record(r); got.auth()[0] == user1 {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(400)
			w.Write(gz(invalidToken))
			return
		}
		io.WriteString(w, "served")
	})
	if a := b.get(table, "Accept-Encoding: gzip"); a.body != "served" || b.tokens.refreshed() != 1 {
		t.Errorf("answer %d %q, %d refreshes", a.StatusCode, a.body, b.tokens.refreshed())
	}
}

func TestStillRefused(t *testing.T) {
	b := start(t, nil)
	b.refuses(9, 400, invalidToken)
	a := b.get(table)
	fields := a.isError(t, 401, "authorization_required")
	if fields["reason"] != "token_refused" || fields["authorize_url"] == nil {
		t.Errorf("error %v", fields)
	}
	if n := len(b.lark.requests()); n != 2 || b.tokens.refreshed() != 1 {
		t.Errorf("%d requests, %d refreshes", n, b.tokens.refreshed())
	}
	if asked := b.asker.all(); len(asked) != 1 || asked[0].Reason != session.TokenRefused {
		t.Errorf("asked %v", asked)
	}
}

// The refresh itself may fail.
func TestRefusedAndNoRefresh(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		name   string
	}{
		{&session.RetryError{Err: session.ErrRefreshUnavailable, After: 1}, 503, "refresh_unavailable"},
		{session.ErrUnavailable, 503, "store_unavailable"},
		{session.ErrAppMisconfigured, 503, "app_misconfigured"},
		{session.ErrUserDisabled, 403, "user_disabled"},
		{&session.ConsentRequiredError{Reason: session.RefreshTokenExpired}, 401, "authorization_required"},
	} {
		for _, body := range []string{"", strings.Repeat("x", 100<<10)} {
			b := start(t, nil)
			b.refuses(9, 400, invalidToken)
			b.tokens.set("ou_1", func(g *grant) { g.refresh = c.err })
			b.post(table, body).isError(t, c.status, c.name)
			b.lark.one(t)
		}
	}
}

// Bodies are replayed as far as they are kept; beyond that the refresh is made
// all the same.
func TestReplayOfBodies(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 4096)
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(s), s) }
	for name, c := range map[string]struct {
		send     string
		body     string
		replayed bool
	}{
		"64 KiB":            {fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(text), text), text, true},
		"one more":          {fmt.Sprintf("Content-Length: %d\r\n\r\n%sx", len(text)+1, text), text + "x", false},
		"chunked":           {"Transfer-Encoding: chunked\r\n\r\n" + chunk(text), text, true},
		"chunked, one more": {"Transfer-Encoding: chunked\r\n\r\n" + chunk(text+"x"), text + "x", false},
		"empty":             {"Content-Length: 0\r\n\r\n", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			b.refuses(2, 400, invalidToken)
			a := b.raw("PUT " + table + " HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\n" + c.send)
			if b.tokens.refreshed() != 1 {
				t.Errorf("%d refreshes", b.tokens.refreshed())
			}
			for _, got := range b.lark.requests() {
				if got.body != c.body {
					t.Errorf("upstream saw %d bytes of %d", len(got.body), len(c.body))
				}
			}
			if c.replayed {
				if a.StatusCode != 200 || a.body != "served "+c.body {
					t.Errorf("answer %d %.100s", a.StatusCode, a.body)
				}
				return
			}
			b.lark.one(t)
			if a.StatusCode != 400 || a.body != invalidToken || a.Header.Get("X-Larkside-Hint") != "not-replayed" {
				t.Errorf("answer %d %s, hint %q", a.StatusCode, a.body, a.Header.Get("X-Larkside-Hint"))
			}
			if got := a.Header.Get("Content-Length"); got != fmt.Sprint(len(invalidToken)) {
				t.Errorf("Content-Length %s", got)
			}
		})
	}
}

// Lark may refuse before it has read the body; what is still to come is sent
// with the replay.
func TestRefusedBeforeTheBodyCame(t *testing.T) {
	b := start(t, nil)
	refusedOnce := make(chan bool, 1)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == user1 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(400)
			io.WriteString(w, invalidToken)
			refusedOnce <- true
			return
		}
		fmt.Fprintf(w, "served %s", b.lark.record(r).body)
	})
	a := b.raw("POST "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1", "Expect: 100-continue", "Content-Length: 5", "", "hello")
	<-refusedOnce
	if a.StatusCode != 200 || a.body != "served hello" {
		t.Errorf("answer %d %s", a.StatusCode, a.body)
	}
}

// Many requests with the same refused token make one refresh.
func TestConcurrentRefusals(t *testing.T) {
	b := start(t, nil)
	b.refuses(2, 401, `{"code":99991677,"msg":"expired"}`)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			body := fmt.Sprint("payload ", i)
			req, _ := http.NewRequest("POST", "http://"+b.addr+table, strings.NewReader(body))
			req.Header.Set("X-Lark-User-Id", "ou_1")
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if got, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(got) != "served "+body {
				t.Errorf("answer %d %s", res.StatusCode, got)
			}
		})
	}
	group.Wait()
	if n := b.tokens.refreshed(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

// "user access token not support" must never cost a rotation.
func TestWrongKindOfToken(t *testing.T) {
	b := start(t, nil)
	for _, answer := range []string{notForUsers, strings.ToUpper(notForUsers[:40]) + notForUsers[40:], `{"code":99991668,"msg":"user access token not support"`} {
		b.lark.reset()
		b.refuses(9, 400, strings.ReplaceAll(answer, `"MSG"`, `"msg"`))
		a := b.get(table)
		if a.StatusCode != 400 || a.Header.Get("X-Larkside-Hint") != "tenant-token-only" {
			t.Errorf("answer %d %s, hint %q", a.StatusCode, a.body, a.Header.Get("X-Larkside-Hint"))
		}
		b.lark.one(t)
	}
	if b.tokens.refreshed() != 0 || len(b.asker.all()) != 0 {
		t.Errorf("%d refreshes, asked %v", b.tokens.refreshed(), b.asker.all())
	}
}

func TestMissingScope(t *testing.T) {
	answer := `{"code":99991679,"msg":"Unauthorized","error":{"permission_violations":[{"subject":"bad scope\r\n"},` +
		`{"type":"action_privilege_required","subject":"task:task:read"},{"subject":"task:task:write"}]}}`
	b := start(t, nil)
	b.refuses(9, 400, answer)
	a := b.get(table)
	if a.StatusCode != 400 || a.body != answer {
		t.Errorf("answer %d %s", a.StatusCode, a.body)
	}
	if got := a.Header.Get("X-Larkside-Authorize-Url"); !strings.Contains(got, "ou_1") {
		t.Errorf("X-Larkside-Authorize-Url %q", got)
	}
	asked := b.asker.all()
	if len(asked) != 1 || fmt.Sprint(asked[0].AnyOf) != "[task:task:read task:task:write]" || asked[0].key != key("ou_1") {
		t.Errorf("asked %v", asked)
	}
	b.lark.one(t)

	// Asking may fail; Lark's answer is passed on all the same.
	b.asker.err = errors.New("no card today")
	if a := b.get(table); a.StatusCode != 400 || a.body != answer || a.Header.Get("X-Larkside-Authorize-Url") != "" {
		t.Errorf("answer %d %s", a.StatusCode, a.body)
	}

	// The app lacks it: no user can help.
	b.asker.err = nil
	b.refuses(9, 400, `{"code":99991672,"msg":"Access denied"}`)
	if a := b.get(table); a.Header.Get("X-Larkside-Hint") != "app-scope-missing" || a.Header.Get("X-Larkside-Authorize-Url") != "" {
		t.Errorf("header %v", a.Header)
	}
	if b.tokens.refreshed() != 0 || len(b.asker.all()) != 1 {
		t.Errorf("%d refreshes, asked %v", b.tokens.refreshed(), b.asker.all())
	}
}

// What an app sends with a token of its own is its own affair.
func TestOwnTokenRefused(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		b.lark.record(r)
		w.WriteHeader(400)
		io.WriteString(w, invalidToken)
	})
	if a := b.raw("GET "+table+" HTTP/1.1", "Authorization: Bearer own"); a.body != invalidToken {
		t.Errorf("answer %d %s", a.StatusCode, a.body)
	}
	b.lark.one(t)
	if b.tokens.refreshed() != 0 {
		t.Error("refreshed")
	}
}
