package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/proxy"
)

// script is an upstream that plays its connections from a script.
type script struct {
	net.Listener
	accepted atomic.Int64
}

func (s *script) config(c *proxy.Config) { c.Upstream = mustURL("http://" + s.Addr().String()) }

// serve plays each connection in a goroutine of its own; n counts them from 1.
func serve(t testing.TB, play func(n int64, c net.Conn, r *bufio.Reader)) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := s.accepted.Add(1)
			go func() {
				defer c.Close()
				play(n, c, bufio.NewReader(c))
			}()
		}
	}()
	return s
}

const okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// says answers every request on a connection with text.
func says(text string) func(int64, net.Conn, *bufio.Reader) {
	return func(_ int64, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// An upstream that answers a GET without reading its body takes the body for the
// next request. It must find nobody's request behind it: here the body is the
// beginning of a POST, which would swallow whatever comes next.
func TestUnreadBodies(t *testing.T) {
	const attack = "POST /open-apis/apaas/v1/attack HTTP/1.1\r\nHost: lark\r\nContent-Length: 100000\r\n\r\n"
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "DELETE", "PROPFIND"} {
		for name, framed := range map[string]string{
			"known length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(attack), attack),
			"chunked":      fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(attack), attack),
		} {
			t.Run(method+", "+name, func(t *testing.T) {
				var mu sync.Mutex
				seen := make(map[int64]*bytes.Buffer)
				s := serve(t, func(n int64, c net.Conn, _ *bufio.Reader) {
					mu.Lock()
					all := new(bytes.Buffer)
					seen[n] = all
					mu.Unlock()
					r := bufio.NewReader(io.TeeReader(c, &locked{&mu, all}))
					for {
						req, err := http.ReadRequest(r)
						if err != nil {
							return
						}
						if req.Method == "POST" {
							io.Copy(io.Discard, req.Body)
						}
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				b := start(t, s.config)
				b.tokens.grant("ou_2")
				if a := b.raw(method + " " + table + " HTTP/1.1\r\nHost: " + b.addr + "\r\nX-Lark-User-Id: ou_1\r\n" + framed); a.StatusCode != 200 {
					t.Fatalf("the attacker's answer: %d %s", a.StatusCode, a.body)
				}
				if a := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_2"); a.StatusCode != 200 {
					t.Errorf("the next user's answer: %d %s", a.StatusCode, a.body)
				}
				mu.Lock()
				defer mu.Unlock()
				for n, all := range seen {
					if text := all.String(); strings.Contains(text, token("ou_1", 1)) && strings.Contains(text, token("ou_2", 1)) {
						t.Errorf("connection %d has both users' requests: %q", n, text)
					}
				}
			})
		}
	}
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// All others share their connection, with a body and without.
func TestConnectionsAreReused(t *testing.T) {
	s := serve(t, says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	b := start(t, s.config)
	for range 5 {
		for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS"} {
			b.raw(method+" "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1")
			b.raw(method+" "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1", "Content-Length: 0")
		}
		for _, method := range []string{"POST", "PUT", "PATCH"} {
			b.raw(method + " " + table + " HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 4\r\n\r\nbody")
			b.raw(method + " " + table + " HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
		}
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// connections counts the connections that server accepts. It has not been
// started yet.
func connections(server *httptest.Server) *atomic.Int64 {
	var n atomic.Int64
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
	return &n
}

// Over HTTP/2 the requests of all users share connections, whatever they carry.
func TestHTTP2IsShared(t *testing.T) {
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Proto, " ", string(body))
	}))
	upstream.EnableHTTP2 = true
	accepted := connections(upstream)
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	b := start(t, func(c *proxy.Config) { c.Upstream, c.Transport = mustURL(upstream.URL), trusting(upstream) })
	for range 5 {
		for _, method := range []string{"GET", "DELETE", "POST"} {
			a := b.raw(method + " " + table + " HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 4\r\n\r\nbody")
			if a.body != "HTTP/2.0 body" {
				t.Errorf("%s: answer %d %q", method, a.StatusCode, a.body)
			}
		}
	}
	// Two: the bodies that HTTP/1.1 would have to keep apart have their own.
	if n := accepted.Load(); n > 2 {
		t.Errorf("%d connections", n)
	}
}

// When idle connections have died without a sign, one request finds out, and
// not one for each of them.
func TestIdleConnectionsThatDied(t *testing.T) {
	const idle = 40
	var dead atomic.Int64 // connections up to this one
	var together sync.WaitGroup
	together.Add(idle)
	s := serve(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for first := true; ; first = false {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if n <= dead.Load() {
				io.Copy(io.Discard, c)
				return
			}
			if n <= idle && first {
				together.Done() // none is idle before all are there
				together.Wait()
			}
			io.WriteString(c, okay)
		}
	})
	b := start(t, func(c *proxy.Config) {
		s.config(c)
		c.UpstreamTimeout = 500 * time.Millisecond
	})
	var all sync.WaitGroup
	for range idle {
		conn := b.dial()
		all.Go(func() {
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nConnection: close\r\n\r\n", table, b.addr)
			if answer, _ := io.ReadAll(conn); !bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
				t.Errorf("answer %q", answer)
			}
		})
	}
	all.Wait()
	if n := s.accepted.Load(); n != idle {
		t.Fatalf("%d connections", n)
	}
	dead.Store(idle)
	b.get(table).isError(t, 504, "upstream_timeout")
	for range 3 {
		if a := b.get(table); a.StatusCode != 200 {
			t.Fatalf("after the first timeout: %d %s", a.StatusCode, a.body)
		}
	}
}

// A route that times out again and again does not keep the pool empty: requests
// sent before the idle connections were closed say nothing about those that
// came after.
func TestIdleConnectionsAreClosedOnce(t *testing.T) {
	s := serve(t, says(okay))
	tr := proxy.NewTransport(proxy.TransportConfig{})
	t.Cleanup(tr.CloseIdleConnections)
	ask := func(want int64) {
		t.Helper()
		req, _ := http.NewRequest("GET", "http://"+s.Addr().String()+"/", nil)
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if n := s.accepted.Load(); n != want {
			t.Errorf("connection %d, want %d", n, want)
		}
	}
	ask(1)
	first, second := tr.Age(), tr.Age() // two requests that wait for long
	tr.TimedOut(first)
	ask(2)
	tr.TimedOut(second)
	ask(2)
	tr.TimedOut(tr.Age())
	ask(3)
}

// A connection over HTTP/2 that has died without a sign is noticed, also while
// requests wait on it.
func TestHTTP2ConnectionThatDied(t *testing.T) {
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	upstream.EnableHTTP2 = true
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	var dead atomic.Int64
	relay := serve(t, func(n int64, c net.Conn, _ *bufio.Reader) {
		to, err := net.Dial("tcp", upstream.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		pass := func(to io.Writer, from io.Reader) {
			buf := make([]byte, 4<<10)
			for {
				got, err := from.Read(buf)
				if err != nil {
					return
				}
				if n > dead.Load() {
					to.Write(buf[:got])
				}
			}
		}
		go pass(c, to)
		pass(to, c)
	})
	tr := trusting(upstream)
	for _, tr := range tr.Both() {
		if h2 := tr.HTTP2; h2 == nil || h2.SendPingTimeout <= 0 || h2.PingTimeout <= 0 || h2.SendPingTimeout+h2.PingTimeout >= tr.ResponseHeaderTimeout {
			t.Errorf("no health check that comes before a request's timeout: %+v", h2)
		}
		tr.HTTP2.SendPingTimeout, tr.HTTP2.PingTimeout = 100*time.Millisecond, 500*time.Millisecond
	}
	b := start(t, func(c *proxy.Config) { c.Upstream, c.Transport = mustURL("https://"+relay.Addr().String()), tr })
	if a := b.get(table); a.body != "HTTP/2.0" {
		t.Fatalf("answer %d %s", a.StatusCode, a.body)
	}
	dead.Store(1)
	b.get(table).isError(t, 502, "upstream_unreachable") // within the test's patience, which is less than 30 s
	if a := b.get(table); a.body != "HTTP/2.0" || relay.accepted.Load() != 2 {
		t.Errorf("answer %d %s on connection %d", a.StatusCode, a.body, relay.accepted.Load())
	}
}

// A POST on a connection that the upstream closed after its last answer goes out
// on another one.
func TestClosedAfterEachAnswer(t *testing.T) {
	closed := make(chan bool, 1)
	s := serve(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, okay)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, r) // until the proxy has noticed, and closes its side
		closed <- true
	})
	b := start(t, s.config)
	const rounds = 20
	for i := range rounds {
		post := b.post
		if i%2 == 0 {
			post = func(path, body string, _ ...string) reply {
				return b.raw(fmt.Sprintf("POST %s HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", path, len(body), body))
			}
		}
		if a := post(table, "a body"); a.StatusCode != 200 || a.body != "ok" {
			t.Fatalf("request %d: %d %s", i, a.StatusCode, a.body)
		}
		<-closed
	}
	if n := s.accepted.Load(); n != rounds {
		t.Errorf("%d connections", n)
	}
}

// The upstream closes at the moment that it is asked: what does no harm twice is
// asked again on a new connection, and nothing else.
func TestClosedWhenAsked(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		again   bool
	}{
		"GET":                {"GET {path} HTTP/1.1\r\n\r\n", true},
		"HEAD":               {"HEAD {path} HTTP/1.1\r\n\r\n", true},
		"POST":               {"POST {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false},
		"DELETE":             {"DELETE {path} HTTP/1.1\r\n\r\n", false},
		"POST with a body":   {"POST {path} HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", false},
		"PUT with a body":    {"PUT {path} HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", false},
		"POST, repeatable":   {"POST {path} HTTP/1.1\r\nIdempotency-Key: 1\r\nContent-Length: 4\r\n\r\nbody", true},
		"repeatable, chunks": {"POST {path} HTTP/1.1\r\nIdempotency-Key: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			var last atomic.Value
			s := serve(t, func(_ int64, c net.Conn, r *bufio.Reader) {
				for first := true; ; first = false {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					body, _ := io.ReadAll(req.Body)
					last.Store(string(body))
					asked.Add(1)
					if !first {
						return
					}
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			b := start(t, s.config)
			b.get(table) // leaves an idle connection
			request := strings.Replace(strings.Replace(c.request, "{path}", table, 1), "\r\n", "\r\nX-Lark-User-Id: ou_1\r\n", 1)
			want, status := int64(2), 502
			if c.again {
				want, status = 3, 200
			}
			if a := b.raw(request); a.StatusCode != status || asked.Load() != want {
				t.Errorf("status %d, asked %d times; want %d, %d times", a.StatusCode, asked.Load(), status, want)
			}
			if strings.Contains(request, "body") && last.Load() != "body" {
				t.Errorf("upstream got %q last", last.Load())
			}
		})
	}
}

// What the upstream does not answer in time it is not asked twice.
func TestSilenceIsNoRetry(t *testing.T) {
	var asked atomic.Int64
	s := serve(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if asked.Add(1) == 1 {
				io.WriteString(c, okay)
			}
		}
	})
	b := start(t, func(c *proxy.Config) {
		s.config(c)
		c.UpstreamTimeout = 50 * time.Millisecond
	})
	b.get(table)
	b.get(table).isError(t, 504, "upstream_timeout")
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// An answer that comes before the body has gone out is passed on, and the next
// request has a connection without the rest of that body.
func TestAnswerBeforeTheBody(t *testing.T) {
	s := serve(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, c)
		}
	})
	b := start(t, func(c *proxy.Config) {
		s.config(c)
		c.BodyPatience = 200 * time.Millisecond // net/http waits for what is being read
	})
	for n := range int64(3) {
		conn := b.dial()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 1000000\r\n\r\nabc", table, b.addr)
		a := b.read(bufio.NewReader(conn), "POST")
		if a.StatusCode != 413 || a.body != "no" || s.accepted.Load() != n+1 {
			t.Errorf("answer %d %q on connection %d", a.StatusCode, a.body, s.accepted.Load())
		}
	}
}

// The time limit is on the header only: an answer that streams slowly, and the
// next one on its connection, are whole; nor does the time count that the
// caller takes for a body.
func TestSlowAnswersAreNoTimeout(t *testing.T) {
	t.Parallel()
	s := serve(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			for range 5 {
				<-time.After(300 * time.Millisecond)
				io.WriteString(c, "x")
			}
		}
	})
	b := start(t, func(c *proxy.Config) {
		s.config(c)
		c.UpstreamTimeout = time.Second
	})
	for range 2 {
		if a := b.get(table); a.StatusCode != 200 || a.body != "xxxxx" {
			t.Errorf("answer %d %q", a.StatusCode, a.body)
		}
	}
	conn := b.dial()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 100005\r\n\r\n%s", table, b.addr, strings.Repeat("y", 100_000))
	for range 5 {
		<-time.After(300 * time.Millisecond)
		io.WriteString(conn, "y")
	}
	if a := b.read(bufio.NewReader(conn), "POST"); a.StatusCode != 200 || a.body != "xxxxx" {
		t.Errorf("answer %d %q", a.StatusCode, a.body)
	}
}

// Bodies of all sizes arrive as they are, with their length and without.
func TestRequestBodies(t *testing.T) {
	b := start(t, nil)
	for _, size := range []int{0, 1, 4095, 4096, 4097, 32 << 10, 64 << 10, 64<<10 + 1, 100<<10 + 1} {
		sent := strings.Repeat("0123456789", size/10+1)[:size]
		for _, known := range []bool{true, false} {
			b.lark.reset()
			a := b.post(table, sent)
			if !known {
				b.lark.reset()
				chunk := ""
				if size > 0 {
					chunk = fmt.Sprintf("%x\r\n%s\r\n", size, sent)
				}
				a = b.raw("POST " + table + " HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + "0\r\n\r\n")
			}
			if a.StatusCode != 200 {
				t.Fatalf("%d bytes: %d %s", size, a.StatusCode, a.body)
			}
			if got := b.lark.one(t); got.body != sent || got.broken {
				t.Errorf("%d bytes, length known %v: %d arrived", size, known, len(got.body))
			}
		}
	}
}

// What an upstream may say, and what of it reaches the caller: an answer that
// can be read in one way only, or 502. Nothing that it sent is logged.
func TestWhatUpstreamSays(t *testing.T) {
	const refused = "502 "
	for name, c := range map[string]struct{ answer, want string }{
		"length":                 {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary", "200 canary"},
		"chunked":                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ncanary\r\n0\r\n\r\n", "200 canary"},
		"chunk extension":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\ncanary\r\n0\r\n\r\n", "200 canary"},
		"until the end":          {"HTTP/1.1 200 OK\r\n\r\ncanary", "200 canary"},
		"HTTP/1.0":               {"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\ncanary", "200 canary"},
		"nothing":                {"HTTP/1.1 204 No Content\r\n\r\n", "204 "},
		"not modified":           {"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", "304 "},
		"no reason":              {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200 "},
		"continue unasked":       {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary", "200 canary"},
		"length twice":           {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Length: 6\r\n\r\ncanary", "200 canary"},
		"length and chunked":     {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ncanary\r\n0\r\n\r\n", "200 canary"},
		"bare line feeds":        {"HTTP/1.1 200 OK\nContent-Length: 6\n\ncanary", "200 canary"},
		"two lengths":            {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Length: 7\r\n\r\ncanary!", refused},
		"negative length":        {"HTTP/1.1 200 OK\r\nContent-Length: -6\r\n\r\ncanary", refused},
		"odd length":             {"HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\ncanary", refused},
		"gzip, chunked":          {"HTTP/1.1 200 OK\r\nTransfer-Encoding: canary, chunked\r\n\r\n6\r\ncanary\r\n0\r\n\r\n", refused},
		"not HTTP":               {"SSH-2.0-canary\r\n\r\n", refused},
		"HTTP/2":                 {"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "200 "},
		"no status":              {"HTTP/1.1 canary OK\r\n\r\n", refused},
		"header without colon":   {"HTTP/1.1 200 OK\r\ncanary canary\r\n\r\n", refused},
		"space before the colon": {"HTTP/1.1 200 OK\r\nCanary canary : y\r\nContent-Length: 0\r\n\r\n", "200 "}, // without that line
		"folded first line":      {"HTTP/1.1 200 OK\r\n canary\r\nContent-Length: 0\r\n\r\n", refused},
		"header too large":       {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("canary", 100<<10) + "\r\nContent-Length: 0\r\n\r\n", refused},
		"nothing at all":         {"", refused},
		"bad chunk":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\nhello\r\n0\r\n\r\n", "cut"},
		"bad trailer":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ncanary\r\n0\r\ncanary canary\r\n\r\n", "cut"},
		"cut":                    {"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncanary", "cut"},
	} {
		t.Run(name, func(t *testing.T) {
			var log lines
			s := serve(t, func(_ int64, conn net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil {
					io.WriteString(conn, c.answer)
				}
			})
			b := start(t, func(cfg *proxy.Config) {
				s.config(cfg)
				cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			conn := b.dial()
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nConnection: close\r\n\r\n", table, b.addr)
			if got := seen(conn); got != c.want {
				t.Errorf("the caller saw %q, want %q", got, c.want)
			}
			if text := log.String(); strings.Contains(strings.ToLower(text), "canary") {
				t.Errorf("logged: %s", text)
			}
		})
	}
}

// seen is what a caller sees of an answer: its status, and the body if it is
// Lark's.
func seen(conn net.Conn) string {
	r := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return "cut"
		}
		if res.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return "cut"
		}
		if res.Header.Get("X-Larkside-Error") != "" {
			body = nil
		}
		return fmt.Sprint(res.StatusCode, " ", string(body))
	}
}

// Neither a header without end nor interim answers without end take more memory
// or time than there is for a header.
func TestEndlessHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		start, more string
		status      int
		want        string
	}{
		"header":          {"HTTP/1.1 200 OK\r\n", "Canary: canary\r\n", 502, "upstream_unreachable"},
		"interim answers": {"", "HTTP/1.1 103 Early Hints\r\nCanary: canary\r\n\r\n", 504, "upstream_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(_ int64, conn net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				io.WriteString(conn, c.start)
				for {
					if _, err := io.WriteString(conn, c.more); err != nil {
						return
					}
				}
			})
			b := start(t, func(cfg *proxy.Config) {
				s.config(cfg)
				cfg.UpstreamTimeout = 500 * time.Millisecond
			})
			b.get(table).isError(t, c.status, c.want)
		})
	}
}

// A new connection resumes the TLS session of an old one, so that a connection
// for each GET with a body is no full handshake.
func TestResumption(t *testing.T) {
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, fmt.Sprint(r.Proto, " ", r.TLS.DidResume, " ", r.TLS.Version >= tls.VersionTLS12))
	}))
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	b := start(t, func(c *proxy.Config) { c.Upstream, c.Transport = mustURL(upstream.URL), trusting(upstream) })
	for i := range 3 {
		a := b.raw("GET " + table + " HTTP/1.1\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 4\r\n\r\nbody")
		if want := fmt.Sprint("HTTP/1.1 ", i > 0, " true"); a.body != want {
			t.Errorf("request %d: %s, want %s", i, a.body, want)
		}
	}
}
