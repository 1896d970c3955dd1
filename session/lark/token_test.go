package lark_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/port"
)

const issued = `{"code":0,"access_token":"eyJa.1","expires_in":7200,"refresh_token":"eyJr.1","refresh_token_expires_in":604800,"token_type":"Bearer","scope":"auth:user.id:read offline_access"}`

func TestExchangeAndRefresh(t *testing.T) {
	f := serve(t, says(200, issued))
	c := f.client(t)
	got, err := c.Exchange(t.Context(), session.NewSecret(authCode), "https://app.example/cb", session.NewSecret(verifier))
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Refresh(t.Context(), "", session.NewSecret(refreshToken))
	if err != nil {
		t.Fatal(err)
	}
	for _, tok := range []lark.Token{got, again} {
		if tok.AccessToken.Expose() != "eyJa.1" || tok.RefreshToken.Expose() != "eyJr.1" || tok.TokenType != "Bearer" ||
			tok.Scope != "auth:user.id:read offline_access" || tok.TokenURL != f.URL+"/oauth/v3/token" ||
			tok.ExpiresIn != 2*time.Hour || tok.RefreshExpiresIn != 7*24*time.Hour || tok.Warnings != nil {
			t.Errorf("got %+v", tok)
		}
	}
	seen := f.requests("/oauth/v3/token")
	want := []map[string]string{
		{"grant_type": "authorization_code", "code": authCode, "redirect_uri": "https://app.example/cb", "code_verifier": verifier, "client_id": "cli_test", "client_secret": appSecret},
		{"grant_type": "refresh_token", "refresh_token": refreshToken, "client_id": "cli_test", "client_secret": appSecret}, // no scope
	}
	for i, r := range seen {
		if d := cmp.Diff(want[i], r.form); d != "" {
			t.Errorf("request %d: %s", i, d)
		}
		if r.Header.Get("Authorization") != "" || r.URL.RawQuery != "" || r.Method != "POST" || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("request %d: %s %s %v", i, r.Method, r.URL, r.Header)
		}
	}
}

// A grant is refreshed where it was made, but only on a host of Lark's.
func TestRefreshTokenURL(t *testing.T) {
	f := serve(t, says(200, issued))
	other := serve(t, says(200, issued))
	c := f.client(t)
	for given, want := range map[string]string{
		"": f.URL + "/oauth/v3/token",
		f.URL + "/open-apis/authen/v2/oauth/token":                     f.URL + "/open-apis/authen/v2/oauth/token",
		other.URL + "/oauth/v3/token":                                  f.URL + "/oauth/v3/token",
		strings.Replace(f.URL, "http", "https", 1) + "/oauth/v3/token": f.URL + "/oauth/v3/token",
		"://": f.URL + "/oauth/v3/token",
	} {
		tok, err := c.Refresh(t.Context(), given, session.NewSecret(refreshToken))
		if err != nil || tok.TokenURL != want {
			t.Errorf("%q went to %q, %v", given, tok.TokenURL, err)
		}
		if (tok.Warnings != nil) != (given != "" && given != want) {
			t.Errorf("%q: warnings %q", given, tok.Warnings)
		}
	}
	if len(other.seen) != 0 {
		t.Error("a host out of the row got the secrets")
	}
}

// Odd lifetimes cost no one a token, and the warning names what came.
func TestLifetimes(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name, expires, refreshExpires string
		access, refresh               time.Duration
		warn                          string
	}{
		{"one second", `1`, `60`, time.Second, time.Minute, ""},
		{"strings", `"7200"`, `"604800"`, 2 * time.Hour, 7 * day, ""},
		{"fractions", `7200.5`, `6.048e5`, 2*time.Hour + 500*time.Millisecond, 7 * day, ""},
		{"zero", `0`, `0`, 0, 7 * day, "0"},
		{"negative", `-5`, `-5`, 0, 7 * day, "-5"},
		{"absurd", `1e12`, `1000000000000`, day, 400 * day, "1e12"},
		{"beyond float", `1e999`, `-1e999`, day, 7 * day, "1e999"},
		{"null", `null`, `null`, 2 * time.Hour, 7 * day, "missing"},
		{"objects", `{}`, `[1]`, 2 * time.Hour, 7 * day, "{}"},
		{"words", `"soon"`, `"NaN"`, 2 * time.Hour, 7 * day, "soon"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := fmt.Sprintf(`{"code":0,"access_token":"a","expires_in":%s,"refresh_token":"r","refresh_token_expires_in":%s,"token_type":"Bearer"}`, tt.expires, tt.refreshExpires)
			tok, err := serve(t, says(200, body)).client(t).Refresh(t.Context(), "", session.NewSecret(refreshToken))
			if err != nil {
				t.Fatal(err)
			}
			if tok.ExpiresIn != tt.access || tok.RefreshExpiresIn != tt.refresh {
				t.Errorf("lives %s and %s, want %s and %s", tok.ExpiresIn, tok.RefreshExpiresIn, tt.access, tt.refresh)
			}
			if tok.RefreshToken.Expose() != "r" {
				t.Error("the rotated refresh token was thrown away")
			}
			if w := strings.Join(tok.Warnings, "; "); (w == "") != (tt.warn == "") || !strings.Contains(w, tt.warn) {
				t.Errorf("warnings %q do not name %q", w, tt.warn)
			}
		})
	}
}

// What may be odd in a successful answer without making it useless.
func TestTolerantAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		body  string
		check func(lark.Token) bool
	}{
		"code as a string":       {`{"code":"0","access_token":"a","token_type":"Bearer"}`, func(k lark.Token) bool { return k.AccessToken.Expose() == "a" }},
		"code unreadable":        {`{"code":[],"access_token":"a","refresh_token":"r"}`, func(k lark.Token) bool { return k.RefreshToken.Expose() == "r" }},
		"no code":                {`{"access_token":"a"}`, func(k lark.Token) bool { return k.ExpiresIn == 2*time.Hour && k.RefreshExpiresIn == 0 }},
		"no refresh token":       {`{"access_token":"a"}`, func(k lark.Token) bool { return k.RefreshToken.Empty() }},
		"refresh token a number": {`{"access_token":"a","refresh_token":5}`, func(k lark.Token) bool { return k.RefreshToken.Empty() }},
		"repeated member":        {`{"access_token":"a","access_token":"b"}`, func(k lark.Token) bool { return k.AccessToken.Expose() == "b" }},
		"other case":             {`{"access_token":"a","Access_Token":"b"}`, func(k lark.Token) bool { return k.AccessToken.Expose() == "a" }},
		"token type spelled":     {`{"access_token":"a","token_type":"bearer"}`, func(k lark.Token) bool { return k.TokenType == "Bearer" && len(k.Warnings) == 1 }},
		"no token type":          {`{"access_token":"a"}`, func(k lark.Token) bool { return k.TokenType == "Bearer" }},
		"DPoP":                   {`{"access_token":"a","token_type":"DPoP"}`, func(k lark.Token) bool { return k.TokenType == "DPoP" }},
		"scope of a wrong type":  {`{"access_token":"a","scope":["x"]}`, func(k lark.Token) bool { return k.Scope == "" }},
		"blanks in scope":        {`{"access_token":"a","scope":"  x\n y "}`, func(k lark.Token) bool { return k.Scope == "x y" }},
		"NUL in scope":           {`{"access_token":"a","scope":"x\u0000 y"}`, func(k lark.Token) bool { return k.Scope == "" }},
		"NUL in token type":      {`{"access_token":"a","token_type":"Bearer\u0000"}`, func(k lark.Token) bool { return k.TokenType == "Bearer" }},
		"NUL in refresh token":   {`{"access_token":"a","refresh_token":"r\u0000"}`, func(k lark.Token) bool { return k.RefreshToken.Expose() == "r\x00" }},
		"error is null":          {`{"access_token":"a","error":null}`, func(k lark.Token) bool { return k.AccessToken.Expose() == "a" }},
		"only a new refresh token": {`{"refresh_token":"r"}`, func(k lark.Token) bool {
			return k.RefreshToken.Expose() == "r" && k.AccessToken.Empty() && k.ExpiresIn == 0
		}},
		"access token with a line break": {`{"access_token":"a\r\nX: y","refresh_token":"r"}`, func(k lark.Token) bool {
			return k.RefreshToken.Expose() == "r" && k.AccessToken.Empty()
		}},
		"hint": {`{"access_token":"eyJb.1","expires_in":1,"token_type":"Bearer","status_message":"scope x waits for the admin"}`, func(k lark.Token) bool {
			return cmp.Equal(k.Warnings, []string{"Lark says: scope x waits for the admin"})
		}},
		"hint with a token": {`{"access_token":"` + accessToken + `","status_message":"` + accessToken + `"}`, func(k lark.Token) bool {
			return !strings.Contains(strings.Join(k.Warnings, ""), "canary")
		}},
		"lifetime with a token": {`{"access_token":"` + accessToken + `","expires_in":"` + accessToken + `"}`, func(k lark.Token) bool {
			return !strings.Contains(strings.Join(k.Warnings, ""), "canary")
		}},
		"deep member": {`{"access_token":"a","x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, func(k lark.Token) bool { return true }},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, func(w http.ResponseWriter, _ request) {
				w.Header().Set("Content-Type", "text/html") // wrong, and no reason to lose a token
				io.WriteString(w, tt.body)
			})
			tok, err := f.client(t).Refresh(t.Context(), "", session.NewSecret(refreshToken))
			if err != nil || !tt.check(tok) {
				t.Errorf("%+v, %v", tok, err)
			}
		})
	}
}

// Answers that are none: class Retry, outcome Lost, for every operation.
func TestUselessAnswers(t *testing.T) {
	gz := func() string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(bytes.Repeat([]byte(" "), 64<<20))
		z.Close()
		return b.String()
	}()
	for name, reply := range map[string]func(http.ResponseWriter, request){
		"not JSON":      says(200, `<html>`),
		"an array":      says(200, `[{"access_token":"a"}]`),
		"null":          says(200, `null`),
		"a string":      says(200, `"access_token"`),
		"cut JSON":      says(200, `{"code":0,"access_token":"a","refresh_tok`),
		"two objects":   says(200, `{"access_token":"a"}{"access_token":"b"}`),
		"too deep":      says(200, `{"access_token":"a","x":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+`}`),
		"nothing in it": says(200, `{"code":0,"msg":"ok"}`),
		"no content":    says(204, ``),
		"wrong types":   says(200, `{"access_token":{},"device_code":1,"data":{"open_id":[],"message_id":false},"tenant_access_token":7}`),
		"truncated": func(w http.ResponseWriter, _ request) {
			w.Header().Set("Content-Length", "500")
			io.WriteString(w, issued)
		},
		"cut chunk": func(w http.ResponseWriter, _ request) {
			io.WriteString(w, `{"access_token":"a"`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"too large": func(w http.ResponseWriter, _ request) {
			chunk := bytes.Repeat([]byte(" "), 64<<10)
			for range 160 { // 10 MiB
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"gzip bomb": func(w http.ResponseWriter, _ request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, gz)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, reply).client(t)
			for op, run := range operations {
				if op == "Revoke" && (name == "no content" || name == "nothing in it" || name == "wrong types") ||
					op == "UpdateCard" && (name == "nothing in it" || name == "wrong types") || op == "Users" && (name == "nothing in it" || name == "wrong types") {
					continue // these want no result, or an empty one
				}
				e := asError(t, run(t.Context(), c))
				if e.Class != lark.Retry || e.Outcome != lark.Lost {
					t.Errorf("%s: %s, %s: %v", op, e.Class, e.Outcome, e)
				}
			}
		})
	}
}

// A transport that unpacks by itself is bounded too.
func TestBombThroughForeignTransport(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, _ request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.Copy(z, io.LimitReader(zeros{}, 64<<20))
		z.Close()
	})
	config := f.config()
	config.Transport = &http.Transport{}
	c, err := lark.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if e := asError(t, operations["Refresh"](t.Context(), c)); e.Outcome != lark.Lost || !strings.Contains(e.Error(), "too large") {
		t.Error(e)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An answer without end is not read to the end of memory.
func TestEndlessAnswer(t *testing.T) {
	for name, op := range operations {
		read := &counter{}
		c := through(t, func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: read}, nil
		})
		e := asError(t, op(t.Context(), c))
		if e.Class != lark.Retry || e.Outcome != lark.Lost || !read.closed || read.n > 4<<20 {
			t.Errorf("%s: %d bytes read, closed %v: %v", name, read.n, read.closed, e)
		}
	}
}

// counter is an endless body that gives up before the machine does.
type counter struct {
	n      int
	closed bool
}

func (c *counter) Read(p []byte) (int, error) {
	if c.n += len(p); c.n > 64<<20 {
		return 0, io.EOF
	}
	return zeros{}.Read(p)
}

func (c *counter) Close() error { c.closed = true; return nil }

// A transport that says nothing about its connections may have sent it.
func TestUnknownTransportIsLost(t *testing.T) {
	c := through(t, func(*http.Request) (*http.Response, error) { return nil, errors.New("no idea") })
	for name, op := range operations {
		if e := asError(t, op(t.Context(), c)); e.Outcome != lark.Lost {
			t.Errorf("%s: %s", name, e.Outcome)
		}
	}
}

func through(t *testing.T, f roundTripper) *lark.Client {
	config := (&fake{Server: &httptest.Server{URL: "http://lark.invalid"}}).config()
	config.Transport = f
	c, err := lark.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNotSentWhenNobodyListens(t *testing.T) {
	f := &fake{Server: &httptest.Server{URL: "http://" + port.Address(t)}}
	c := f.client(t)
	for name, op := range operations {
		if e := asError(t, op(t.Context(), c)); e.Class != lark.Retry || e.Outcome != lark.NotSent || e.HTTPStatus != 0 {
			t.Errorf("%s: %s, %s: %v", name, e.Class, e.Outcome, e)
		}
	}
}

// A certificate that we don't trust is noticed before anything is sent.
func TestNotSentToUntrustedTLS(t *testing.T) {
	f := &fake{}
	f.Server = httptest.NewUnstartedServer(f.handler(says(200, issued)))
	f.Config.ErrorLog = nil
	f.StartTLS()
	t.Cleanup(f.Close)
	if e := asError(t, operations["Refresh"](t.Context(), f.client(t))); e.Outcome != lark.NotSent || len(f.seen) != 0 {
		t.Errorf("%s after %d requests: %v", e.Outcome, len(f.seen), e)
	}
}

// Sent and not answered: over HTTP/1.1 and 2, on a fresh connection and on one
// from the pool. The token is never sent a second time by the transport.
func TestLostAnswers(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			f := &fake{}
			f.Server = httptest.NewUnstartedServer(f.handler(func(w http.ResponseWriter, r request) {
				if r.form["refresh_token"] == refreshToken {
					panic(http.ErrAbortHandler)
				}
				answer(w, 200, issued)
			}))
			f.EnableHTTP2 = h2
			f.StartTLS()
			t.Cleanup(f.Close)
			config := f.config()
			config.Transport = f.Client().Transport
			c, err := lark.New(config)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				e := asError(t, operations["Refresh"](t.Context(), c))
				if e.Class != lark.Retry || e.Outcome != lark.Lost {
					t.Errorf("%s, %s: %v", e.Class, e.Outcome, e)
				}
				if err := operations["Exchange"](t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(f.requests("/oauth/v3/token")); n != 4 {
				t.Errorf("%d requests for 4 calls", n)
			}
		})
	}
}

func TestTimeoutIsLost(t *testing.T) {
	release := make(chan struct{})
	f := serve(t, func(http.ResponseWriter, request) { <-release })
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := operations["Refresh"](ctx, f.client(t))
	if e := asError(t, err); e.Class != lark.Retry || e.Outcome != lark.Lost || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s, %s: %v", e.Class, e.Outcome, e)
	}
}

// No call lasts for ever, also where nobody bounds it.
func TestCallsEnd(t *testing.T) {
	silent := roundTripper(func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	})
	for name, call := range operations {
		synctest.Test(t, func(t *testing.T) {
			config := (&fake{Server: &httptest.Server{URL: "http://lark.invalid"}}).config()
			config.Transport = silent
			c, err := lark.New(config)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := call(context.WithoutCancel(t.Context()), c); err == nil || time.Since(began) > 2*time.Minute {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
		})
	}
}

// The hop that carries the app secret ignores the environment's proxy. In a
// process of its own, since net/http looks at the environment once.
func TestEnvironmentProxyIsNotUsed(t *testing.T) {
	if os.Getenv("HTTP_PROXY") == "" {
		proxy := serve(t, says(502, ``))
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		child.Env = append(os.Environ(), "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL)
		if out, err := child.CombinedOutput(); err != nil || len(proxy.seen) != 0 {
			t.Errorf("the proxy saw %d requests: %v\n%s", len(proxy.seen), err, out)
		}
		return
	}
	config := serve(t, says(200, `{}`)).config()
	// Loopback is never proxied by net/http, so ask for a name that is not.
	config.TokenURL = "http://lark.invalid/oauth/v3/token"
	c, err := lark.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if e := asError(t, operations["Refresh"](t.Context(), c)); e.Outcome != lark.NotSent {
		t.Error(e)
	}
}

// The secret is asked at each use and may change under running calls; each
// request carries one of the values, whole, in every place.
func TestSecretRotation(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, r request) {
		if strings.HasSuffix(r.URL.Path, "/internal") {
			answer(w, 200, `{"code":0,"tenant_access_token":"t-1","expire":7200}`)
			return
		}
		answer(w, 200, `{"code":0,"access_token":"a","token_type":"Bearer","expires_in":1,"data":{"message_id":"om_1"}}`)
	})
	var mu sync.Mutex
	secret := session.NewSecret("first")
	config := f.config()
	config.Secret = func() session.Secret { mu.Lock(); defer mu.Unlock(); return secret }
	c, err := lark.New(config)
	if err != nil {
		t.Fatal(err)
	}
	run := func() {
		var wg sync.WaitGroup
		for range 8 {
			for _, name := range []string{"Refresh", "SendCard", "TenantAccessToken"} {
				wg.Go(func() {
					if err := operations[name](t.Context(), c); err != nil {
						t.Error(name, err)
					}
				})
			}
		}
		wg.Wait()
	}
	change := make(chan struct{})
	go func() {
		defer close(change)
		mu.Lock()
		defer mu.Unlock()
		secret = session.NewSecret("second")
	}()
	run()
	<-change
	before := len(f.seen)
	run()
	for _, r := range f.seen[before:] {
		if strings.Contains(r.body, "first") {
			t.Errorf("%s still used the old secret", r.URL.Path)
		}
	}
	if n := len(f.requests("/open-apis/auth/v3/tenant_access_token/internal")); n == 0 {
		t.Error("no tenant token was asked for")
	}
}

func TestAuthorizeURL(t *testing.T) {
	f := serve(t, says(200, `{}`))
	got, err := url.Parse(f.client(t).AuthorizeURL("https://app.example/cb?a=b", "st+ate", "chal", []string{"offline_access", "task:task:read"}))
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"client_id": {"cli_test"}, "response_type": {"code"}, "redirect_uri": {"https://app.example/cb?a=b"}, "state": {"st+ate"},
		"scope": {"offline_access task:task:read"}, "code_challenge": {"chal"}, "code_challenge_method": {"S256"}, "prompt": {"consent"},
	}
	if d := cmp.Diff(want, got.Query()); d != "" || got.Path != "/open-apis/authen/v1/authorize" || strings.Contains(got.RawQuery, "+") {
		t.Errorf("%s: %s", got, d)
	}
}

// Whatever comes, a token or a clean error.
func FuzzTokenReply(f *testing.F) {
	for _, seed := range []string{issued, `{"code":20064,"error":"invalid_grant"}`, `{"code":"0","access_token":"a","expires_in":"1e999"}`, `[]`, `{"access_token":"\ud800"}`,
		`{"access_token":"a","scope":"\u0000","token_type":"\u0000"}`,
		`{"refresh_token":"r","refresh_token_expires_in":-1,"status_message":"x"}`, `{"error":"` + appSecret + `","msg":"` + refreshToken + `"}`, strings.Repeat("[", 100)} {
		f.Add(200, seed)
		f.Add(400, seed)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return
		}
		c := through(t, func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		tok, err := c.Refresh(t.Context(), "", session.NewSecret(refreshToken))
		if err != nil {
			var e *lark.Error
			if !errors.As(err, &e) || e.Class == "" || e.Outcome == "" || strings.ContainsAny(e.Error(), "\n\r") {
				t.Fatalf("%+v", err)
			}
			assertWhole(t, e.Error())
			return
		}
		switch {
		case status/100 != 2:
			t.Errorf("a token out of HTTP %d", status)
		case tok.AccessToken.Empty() && tok.RefreshToken.Empty():
			t.Error("neither token nor error")
		case tok.ExpiresIn < 0 || tok.ExpiresIn > 24*time.Hour, tok.RefreshExpiresIn < 0 || tok.RefreshExpiresIn > 400*24*time.Hour:
			t.Errorf("lives %s, %s", tok.ExpiresIn, tok.RefreshExpiresIn)
		case strings.ContainsFunc(tok.AccessToken.Expose(), func(r rune) bool { return r <= ' ' || r > '~' }):
			t.Error("a token that can't stand in a header")
		case strings.ContainsRune(tok.Scope+tok.TokenType, 0):
			t.Error("a text that PostgreSQL does not take")
		}
		assertWhole(t, strings.Join(tok.Warnings, "\n"))
	})
}

// assertWhole is assertClean for text that may hold pieces of our canaries by
// the fuzzer's own doing.
func assertWhole(t *testing.T, text string) {
	t.Helper()
	for _, c := range []string{appSecret, refreshToken} {
		if strings.Contains(text, c) {
			t.Errorf("%q shows a secret", text)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
