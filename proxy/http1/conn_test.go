package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/proxy/http1"
)

const okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// eventually polls for what happens a little later.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%s: it did not happen", what)
		}
	}
}

// closing is a body that says whether it was closed.
type closing struct {
	io.Reader
	closed atomic.Bool
}

func (c *closing) Close() error { c.closed.Store(true); return nil }

// A request whose context is done goes nowhere.
func TestCanceledBefore(t *testing.T) {
	var asked atomic.Int64
	u := serve(t, saysTo(func(string) string { asked.Add(1); return okay }))
	rt := lean(t, u.Addr().String(), nil)
	seen(rt, to(t, u, "GET", nil)) // leaves a connection that could be used
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	body := &closing{Reader: strings.NewReader("x")}
	if _, err := rt.RoundTrip(to(t, u, "POST", body).WithContext(ctx)); !errors.Is(err, cause) || !body.closed.Load() {
		t.Errorf("%v, body closed: %v", err, body.closed.Load())
	}
	seen(rt, to(t, u, "GET", nil))
	if asked.Load() != 2 || u.accepted.Load() != 1 {
		t.Errorf("asked %d times on %d connections", asked.Load(), u.accepted.Load())
	}
}

// net/http's server ends a request's context right after its answer, which must
// not harm who gets the connection next.
func TestContextEndsWithTheAnswer(t *testing.T) {
	u := serve(t, says(okay))
	rt := lean(t, u.Addr().String(), nil)
	for i := range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		res, err := rt.RoundTrip(to(t, u, "GET", nil).WithContext(ctx))
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		go cancel()
		io.ReadAll(res.Body) // whole or not
		res.Body.Close()
		if got := seen(rt, to(t, u, "POST", nil)); !strings.Contains(got, "ok") {
			t.Fatalf("after request %d: %s", i, got)
		}
	}
}

// A context that is over before the body is closes the connection, though all
// of the body is there: its watch may set a deadline at any time.
func TestContextEndsBeforeTheAnswer(t *testing.T) {
	var open atomic.Int64
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		open.Add(1)
		defer open.Add(-1)
		says(okay)(c, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	res, err := lean(t, u.Addr().String(), nil).RoundTrip(to(t, u, "GET", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	io.ReadAll(res.Body)
	eventually(t, "the connection ends", func() bool { return open.Load() == 0 })
}

// An upstream that says it will close is not waited for, and what is no answer
// to HTTP/1.1 not trusted with a second request.
func TestNoReuse(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 099 What\r\nContent-Length: 2\r\n\r\nok",
	} {
		u := serve(t, says(answer))
		rt := lean(t, u.Addr().String(), nil)
		seen(rt, to(t, u, "POST", nil))
		if got := seen(rt, to(t, u, "POST", nil)); !strings.Contains(got, "ok") || u.accepted.Load() != 2 {
			t.Errorf("%q: %s on %d connections", answer, got, u.accepted.Load())
		}
	}
	// net/http would pass this on; nobody can have asked for it here.
	u := serve(t, says("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))
	if got := seen(lean(t, u.Addr().String(), nil), to(t, u, "GET", nil)); got != "no answer" {
		t.Errorf("101: %s", got)
	}
}

// hangUp answers the first request of each connection and closes at the second.
func hangUp(asked *atomic.Int64, bodies *sync.Map) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for first := true; ; first = false {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			bodies.Store(asked.Add(1), string(body))
			if !first {
				return
			}
			io.WriteString(c, okay)
		}
	}
}

// Upstream closes at the moment it is asked: what does no harm twice is asked
// again, once, on a new connection, and nothing else.
func TestRetry(t *testing.T) {
	repeatable := func(r *http.Request) { r.Header.Set("Idempotency-Key", "1") }
	for name, c := range map[string]struct {
		method string
		body   func() io.Reader
		change func(*http.Request)
		again  bool
	}{
		"GET":                     {"GET", nil, nil, true},
		"HEAD":                    {"HEAD", nil, nil, true},
		"POST":                    {"POST", nil, nil, false},
		"DELETE":                  {"DELETE", nil, nil, false},
		"body":                    {"POST", func() io.Reader { return strings.NewReader("body") }, nil, false},
		"repeatable body":         {"POST", func() io.Reader { return strings.NewReader("body") }, repeatable, true},
		"repeatable, no GetBody":  {"POST", func() io.Reader { return io.MultiReader(strings.NewReader("body")) }, repeatable, false},
		"repeatable, GetBody bad": {"POST", func() io.Reader { return strings.NewReader("body") }, func(r *http.Request) { repeatable(r); r.GetBody = stale }, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			var bodies sync.Map
			u := serve(t, hangUp(&asked, &bodies))
			rt := lean(t, u.Addr().String(), nil)
			const idle = 3
			var held []*http.Response
			for range idle { // as many idle connections
				res, err := rt.RoundTrip(to(t, u, "GET", nil))
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, res)
			}
			for _, res := range held {
				io.ReadAll(res.Body)
			}
			var body io.Reader
			if c.body != nil {
				body = c.body()
			}
			r := to(t, u, c.method, body)
			if c.change != nil {
				c.change(r)
			}
			got, want := seen(rt, r), int64(idle+1)
			if c.again {
				want++
			}
			if c.again != (got != "no answer") || asked.Load() != want {
				t.Errorf("%s, asked %d times, want %d", got, asked.Load(), want)
			}
			if last, _ := bodies.Load(want); c.body != nil && last != "body" {
				t.Errorf("upstream got %q", last)
			}
		})
	}
}

func stale() (io.ReadCloser, error) { return nil, errors.New("stale") }

// What upstream does not answer in time it is not asked twice.
func TestSilenceIsNoRetry(t *testing.T) {
	var asked atomic.Int64
	u := serve(t, saysTo(func(string) string {
		if asked.Add(1) == 1 {
			return okay
		}
		return ""
	}))
	rt := lean(t, u.Addr().String(), func(c *http1.Config) { c.HeaderTimeout = 50 * time.Millisecond })
	seen(rt, to(t, u, "GET", nil))
	if got := seen(rt, to(t, u, "GET", nil)); got != "no answer" || asked.Load() != 2 || u.accepted.Load() != 1 {
		t.Errorf("%s, asked %d times on %d connections", got, asked.Load(), u.accepted.Load())
	}
}

// A body that breaks off is the request's end, told as such, and not repeated.
func TestBodyBreaksOff(t *testing.T) {
	u := serve(t, says(okay))
	rt := lean(t, u.Addr().String(), nil)
	broken := errors.New("broken")
	for name, body := range map[string]io.Reader{
		"error": io.MultiReader(strings.NewReader("a"), readerFunc(func([]byte) (int, error) { return 0, broken })),
		"short": strings.NewReader("a"),
	} {
		for _, length := range []int64{-1, 10} {
			if length < 0 && name == "short" {
				continue
			}
			seen(rt, to(t, u, "GET", nil))
			r := to(t, u, "POST", io.MultiReader(body))
			r.ContentLength = length
			r.Header.Set("Idempotency-Key", "1")
			r.GetBody = func() (io.ReadCloser, error) { t.Error("sent again"); return http.NoBody, nil }
			_, err := rt.RoundTrip(r)
			if name == "error" && !errors.Is(err, broken) || err == nil || strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s, length %d: %v", name, length, err)
			}
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// Close ends a Read that waits.
func TestCloseWhileReading(t *testing.T) {
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
		io.Copy(io.Discard, c)
	})
	res, err := lean(t, u.Addr().String(), nil).RoundTrip(to(t, u, "GET", nil))
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(res.Body, make([]byte, 1))
	ended := make(chan error)
	go func() {
		_, err := res.Body.Read(make([]byte, 1))
		ended <- err
	}()
	res.Body.Close()
	if err := <-ended; err == nil || err == io.EOF {
		t.Errorf("got %v", err)
	}
}

// Idle connections are as many as may be, and CloseIdleConnections closes those
// in use as soon as they aren't.
func TestIdleConnections(t *testing.T) {
	var open atomic.Int64
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		open.Add(1)
		defer open.Add(-1)
		says(okay)(c, r)
	})
	rt := lean(t, u.Addr().String(), func(c *http1.Config) { c.MaxIdle = 3 })
	at := func(n int) (held []*http.Response) {
		for range n {
			res, err := rt.RoundTrip(to(t, u, "GET", nil))
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, res)
		}
		return held
	}
	end := func(held []*http.Response) {
		for _, res := range held {
			io.ReadAll(res.Body)
			res.Body.Close()
		}
	}
	end(at(10))
	eventually(t, "3 stay", func() bool { return open.Load() == 3 })
	before := u.accepted.Load()
	held := at(3)
	if n := u.accepted.Load() - before; n != 0 {
		t.Errorf("%d new connections while 3 were idle", n)
	}
	rt.CloseIdleConnections()
	end(held)
	eventually(t, "none stays", func() bool { return open.Load() == 0 })
	end(at(1))
	end(at(1))
	if n := u.accepted.Load() - before; n != 1 {
		t.Errorf("%d connections after CloseIdleConnections", n)
	}
}

// What fails, is given up or ends leaves no file and no goroutine behind.
func TestNothingLeaks(t *testing.T) {
	files := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(all)
	}
	leaks := func(t *testing.T, use func(t *testing.T)) {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		defer debug.SetGCPercent(debug.SetGCPercent(-1)) // would close what nobody holds
		fds, goroutines := files(), runtime.NumGoroutine()
		t.Run("use", use) // its end ends its servers
		eventually(t, "files return", func() bool { return files() <= fds })
		eventually(t, "goroutines return", func() bool { return runtime.NumGoroutine() <= goroutines })
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			leaks(t, func(t *testing.T) {
				u := serve(t, func(c net.Conn, r *bufio.Reader) {
					req, err := http.ReadRequest(r)
					if err == nil {
						io.Copy(io.Discard, req.Body)
						io.WriteString(c, answer)
					}
				})
				rt := lean(t, u.Addr().String(), nil)
				for _, method := range []string{"GET", "HEAD", "POST"} {
					seen(rt, to(t, u, method, strings.NewReader("body")))
					ctx, cancel := context.WithCancel(t.Context())
					if res, err := rt.RoundTrip(to(t, u, method, nil).WithContext(ctx)); err == nil {
						res.Body.Close() // unread
					}
					cancel()
				}
			})
		})
	}
	t.Run("TLS", func(t *testing.T) {
		leaks(t, func(t *testing.T) {
			u, good := secure(t, says(okay))
			untrusting := lean(t, u.Addr().String(), func(c *http1.Config) { c.Scheme = "https" })
			plain := serve(t, says(okay))
			slow := lean(t, plain.Addr().String(), func(c *http1.Config) { c.Scheme, c.HandshakeTimeout = "https", 20*time.Millisecond })
			for host, rt := range map[*upstream][]http.RoundTripper{u: {good, untrusting}, plain: {slow}} {
				for _, rt := range rt {
					r := to(t, host, "GET", nil)
					r.URL.Scheme = "https"
					seen(rt, r)
				}
			}
		})
	})
}

// An address of IPv6 is one, with TLS too.
func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }))
	host := l.Addr().String()
	r := request(t, "GET", "/", nil)
	r.URL.Host, r.Host = host, host
	if got := seen(lean(t, host, nil), r); !strings.Contains(got, host) {
		t.Errorf("got %s", got)
	}
}

// How a host becomes an address to dial and a name to verify.
func TestAddress(t *testing.T) {
	for host, want := range map[string]string{
		"open.feishu.cn": "open.feishu.cn:443", "open.feishu.cn:": "open.feishu.cn:443", "open.feishu.cn:8443": "open.feishu.cn:8443",
		"[::1]": "[::1]:443", "[::1]:8443": "[::1]:8443", "飞书.cn": "xn--1jq782p.cn:443",
	} {
		if got, name := http1.Address(http1.New(http1.Config{Scheme: "https", Host: host})); got != want || !strings.Contains(want, name) || strings.ContainsAny(name, "[]") {
			t.Errorf("%s: dials %s, verifies %s", host, got, name)
		}
	}
}

// A new connection resumes the TLS session of an old one.
func TestResumption(t *testing.T) {
	u, rt := secure(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	for i := range 3 {
		r := to(t, u, "GET", nil)
		r.URL.Scheme = "https"
		res, err := rt.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadAll(res.Body)
		if res.TLS == nil || res.TLS.DidResume != (i > 0) || res.TLS.Version < tls.VersionTLS12 {
			t.Errorf("connection %d: %+v", i, res.TLS)
		}
	}
}

// Bodies of all sizes arrive as they are, with their length and without.
func TestRequestBodies(t *testing.T) {
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Error: %v\r\nContent-Length: %d\r\n\r\n%s", err, len(body), body)
		}
	})
	rt := lean(t, u.Addr().String(), nil)
	for _, size := range []int{0, 1, 4095, 4096, 4097, 32 << 10, 100<<10 + 1} {
		for _, known := range []bool{true, false} {
			sent := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
			r := to(t, u, "PUT", io.MultiReader(bytes.NewReader(sent)))
			if r.ContentLength = -1; known {
				r.ContentLength = int64(size)
			}
			res, err := rt.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(res.Body)
			if !bytes.Equal(got, sent) || res.Header.Get("X-Error") != "<nil>" {
				t.Errorf("%d bytes, length known %v: %d came back, %v", size, known, len(got), res.Header)
			}
		}
	}
	if n := u.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// heldBody is in memory.
type heldBody struct{ *strings.Reader }

func (heldBody) Close() error { return nil }
func (heldBody) Held() bool   { return true }

// A short body that is in memory comes with its header, in one piece.
func TestHeldBody(t *testing.T) {
	first := make(chan string, 1)
	u := serve(t, func(c net.Conn, _ *bufio.Reader) {
		for {
			b := make([]byte, 8<<10)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			first <- string(b[:n])
			io.WriteString(c, okay)
		}
	})
	rt := lean(t, u.Addr().String(), nil)
	for range 100 {
		r := to(t, u, "POST", heldBody{strings.NewReader("the body")})
		r.ContentLength = 8
		if got := seen(rt, r); !strings.Contains(got, "ok") {
			t.Fatalf("got %s", got)
		}
		if got := <-first; !strings.HasSuffix(got, "\r\n\r\nthe body") {
			t.Fatalf("first came %q", got)
		}
	}
	if n := u.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	// One that turns out to be shorter than it says spoils the request only.
	r := to(t, u, "POST", heldBody{strings.NewReader("short")})
	r.ContentLength = 8
	if _, err := rt.RoundTrip(r); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("short: %v", err)
	}
}
