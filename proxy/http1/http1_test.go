package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/proxy/http1"
)

// upstream is a server that plays its connections from a script.
type upstream struct {
	net.Listener
	accepted atomic.Int64
}

// serve answers each connection by play, in its own goroutine.
func serve(t testing.TB, play func(c net.Conn, r *bufio.Reader)) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.accepted.Add(1)
			go func() {
				defer c.Close()
				play(c, bufio.NewReader(c))
			}()
		}
	}()
	return u
}

// says answers every request on a connection with text; HEAD gets of it what
// comes before the body.
func says(text string) func(net.Conn, *bufio.Reader) {
	return saysTo(func(method string) string {
		last := max(strings.LastIndex(text, "HTTP/1."), 0)
		for _, end := range []string{"\r\n\r\n", "\n\n"} {
			if i := strings.Index(text[last:], end); i >= 0 && method == "HEAD" {
				return text[:last+i+len(end)]
			}
		}
		return text
	})
}

// saysTo answers every request on a connection.
func saysTo(answer func(method string) string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, answer(req.Method)); err != nil {
				return
			}
		}
	}
}

func standard() *http.Transport {
	return &http.Transport{DisableCompression: true, ResponseHeaderTimeout: 5 * time.Second, MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 16}
}

func lean(t testing.TB, host string, change func(*http1.Config)) *http1.Transport {
	t.Helper()
	c := http1.Config{
		Scheme: "http", Host: host, HeaderTimeout: 5 * time.Second, HandshakeTimeout: 5 * time.Second,
		IdleTimeout: time.Minute, MaxIdle: 16, MaxHeaderBytes: 64 << 10, Fallback: refuse{},
	}
	if change != nil {
		change(&c)
	}
	l := http1.New(c)
	t.Cleanup(l.CloseIdleConnections)
	return l
}

// refuse is a fallback that is not to be used.
type refuse struct{}

func (refuse) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("went to the fallback")
}

// seen is all of an answer that a client can see.
func seen(rt http.RoundTripper, r *http.Request) string {
	var interim []string
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			interim = append(interim, fmt.Sprint(code, h))
			return nil
		},
	}))
	res, err := rt.RoundTrip(r)
	if err != nil {
		return "no answer"
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	end := "whole"
	if err != nil {
		end = "cut"
	}
	return fmt.Sprintf("%q %s %s %d %d %q %v %v %v %s", interim, res.Proto, res.Status, res.StatusCode, res.ContentLength, body, res.Header, res.TransferEncoding, res.Trailer, end)
}

// answers are what upstream may say, good and bad.
var answers = map[string]string{
	"length":                 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
	"chunked":                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"chunk extension":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
	"trailers":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5\r\nhello\r\n0\r\nSum: 1\r\nMore: 2\r\n\r\n",
	"until the end":          "HTTP/1.1 200 OK\r\n\r\nhello",
	"HTTP/1.0":               "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	"HTTP/1.0 kept":          "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
	"close":                  "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
	"nothing":                "HTTP/1.1 204 No Content\r\n\r\n",
	"not modified":           "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
	"empty":                  "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"redirect":               "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.test/\r\nContent-Length: 0\r\n\r\n",
	"no reason":              "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
	"early hints":            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	"continue unasked":       "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	"error":                  "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
	"header twice":           "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
	"folded header":          "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
	"length twice":           "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"two lengths":            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
	"length and chunked":     "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"negative length":        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
	"odd length":             "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
	"gzip, chunked":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"bad chunk":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
	"chunk cut":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhel",
	"not HTTP":               "SSH-2.0-OpenSSH_9.6\r\n\r\n",
	"HTTP/2":                 "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
	"no status":              "HTTP/1.1 abc OK\r\n\r\n",
	"header without colon":   "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
	"space before the colon": "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
	"header too large":       "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70<<10) + "\r\nContent-Length: 0\r\n\r\n",
	"empty line first":       "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"bare line feeds":        "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
}

// Whatever upstream says, a client sees of it what net/http's own transport
// shows, request after request.
func TestAnswersAsNetHTTP(t *testing.T) {
	for name, answer := range answers {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
			t.Run(method+" "+name, func(t *testing.T) {
				t.Parallel()
				closes := strings.Contains(answer, "close") || name == "until the end" || name == "HTTP/1.0" || strings.Contains(name, "cut")
				play := says(answer)
				if closes {
					play = func(c net.Conn, r *bufio.Reader) {
						if req, err := http.ReadRequest(r); err == nil {
							io.Copy(io.Discard, req.Body)
							text := answer
							if head, _, ok := strings.Cut(answer, "\r\n\r\n"); ok && method == "HEAD" {
								text = head + "\r\n\r\n"
							}
							io.WriteString(c, text)
						}
					}
				}
				u := serve(t, play)
				request := func() *http.Request {
					var body io.Reader
					if method == "POST" {
						body = strings.NewReader("a body")
					}
					r, err := http.NewRequestWithContext(t.Context(), method, "http://"+u.Addr().String()+"/path?q", body)
					if err != nil {
						t.Fatal(err)
					}
					return r
				}
				net := standard()
				defer net.CloseIdleConnections()
				ours := lean(t, u.Addr().String(), nil)
				for i := range 3 {
					want, got := seen(net, request()), seen(ours, request())
					if got != want {
						t.Errorf("request %d\ngot  %s\nwant %s", i, got, want)
					}
				}
			})
		}
	}
}

// What goes out is what net/http sends, byte by byte.
func TestRequestsAsNetHTTP(t *testing.T) {
	var got [2]string
	for name, build := range map[string]func() *http.Request{
		"plain": func() *http.Request { return request(t, "GET", "/a%2Fb?x=%zz", nil) },
		"opaque": func() *http.Request {
			r := request(t, "GET", "/", nil)
			r.URL.Opaque = "/open-apis/a%2Fb?x;y"
			r.URL.Path = ""
			return r
		},
		"headers": func() *http.Request {
			r := request(t, "DELETE", "/", nil)
			r.Header = http.Header{"User-Agent": {""}, "X-A": {"1", "2"}, "Authorization": {"Bearer t"}, "Te": {"trailers"}}
			r.Host = "open.feishu.cn"
			return r
		},
		"body": func() *http.Request { return request(t, "POST", "/", strings.NewReader("hello")) },
		"large body": func() *http.Request {
			return request(t, "PUT", "/", bytes.NewReader(make([]byte, 100<<10)))
		},
		"chunked": func() *http.Request { return request(t, "PATCH", "/", io.MultiReader(strings.NewReader("hello"))) },
		"trailers": func() *http.Request {
			r := request(t, "PATCH", "/", io.MultiReader(strings.NewReader("hello")))
			r.Trailer = http.Header{"Sum": {"1"}}
			return r
		},
	} {
		for i, makeTransport := range []func(host string) http.RoundTripper{
			func(string) http.RoundTripper { return standard() },
			func(host string) http.RoundTripper { return lean(t, host, nil) },
		} {
			bytesSeen := make(chan string, 1)
			u := serve(t, func(c net.Conn, _ *bufio.Reader) {
				var raw bytes.Buffer
				req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &raw)))
				if err == nil {
					io.Copy(io.Discard, req.Body)
				}
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				bytesSeen <- raw.String()
			})
			r := build()
			r.URL.Host = u.Addr().String()
			if r.Host == "upstream.test" {
				r.Host = "open.feishu.cn"
			}
			res, err := makeTransport(u.Addr().String()).RoundTrip(r)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			res.Body.Close()
			got[i] = <-bytesSeen
		}
		if got[0] != got[1] {
			t.Errorf("%s:\nnet/http %q\nours     %q", name, got[0], got[1])
		}
	}
}

func request(t testing.TB, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://upstream.test"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func to(t testing.TB, u *upstream, method string, body io.Reader) *http.Request {
	r := request(t, method, "/", body)
	r.URL.Host = u.Addr().String()
	return r
}

// A byte that nobody asked for, wherever it waits, never becomes part of the
// next request's answer: it costs its connection.
func TestUnaskedBytes(t *testing.T) {
	const good, evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	// later waits until more has arrived, where the test says so.
	for name, c := range map[string]struct{ method, answer, later string }{
		"with the answer":        {"GET", good + evil, ""},
		"far behind the answer":  {"GET", good + strings.Repeat("\r\n", 6<<10) + evil, ""},
		"a line":                 {"GET", good + "\r\n", ""},
		"later":                  {"GET", good, evil},
		"a part, later":          {"GET", good, evil[:1]},
		"body of HEAD":           {"HEAD", good, ""},
		"body of HEAD, later":    {"HEAD", good[:len(good)-4], good[len(good)-4:] + evil},
		"body of a 204":          {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\ngood", ""},
		"behind the last chunk":  {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n" + evil, ""},
		"timeout of an idle one": {"GET", good, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"},
	} {
		for _, tls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, tls), func(t *testing.T) {
				sent := make(chan struct{}, 10)
				play := func(conn net.Conn, r *bufio.Reader) {
					for {
						if _, err := http.ReadRequest(r); err != nil {
							return
						}
						io.WriteString(conn, c.answer)
						io.WriteString(conn, c.later)
						sent <- struct{}{}
					}
				}
				u, rt, scheme := serve(t, play), (*http1.Transport)(nil), "http"
				if tls {
					scheme = "https"
					u, rt = secure(t, play)
				} else {
					rt = lean(t, u.Addr().String(), nil)
				}
				for i := range 3 {
					r := to(t, u, c.method, nil)
					r.URL.Scheme = scheme
					if got := seen(rt, r); got == "no answer" || strings.Contains(got, "evil") || strings.Contains(got, "408") {
						t.Errorf("request %d: %s", i, got)
					}
					<-sent
				}
				if n := u.accepted.Load(); n != 3 {
					t.Errorf("%d connections for 3 requests", n)
				}
			})
		}
	}
}

// The first bytes of a TLS record count as well, though crypto/tls shows
// nothing of them: its rest would come after the next request.
func TestUnaskedPartOfRecord(t *testing.T) {
	const good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
	for _, behind := range []int{1, 5, 20} {
		hold := new(holdBack)
		u, rt, _ := secureBy(t, func(c net.Conn) net.Conn { return hold.over(c) }, func(c net.Conn, r *bufio.Reader) {
			for {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				hold.behind(behind)
				io.WriteString(c, good)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			}
		})
		for range 3 {
			r := to(t, u, "POST", nil) // is not sent again
			r.URL.Scheme = "https"
			if got := seen(rt, r); !strings.Contains(got, "good") {
				t.Errorf("%d bytes behind: %s", behind, got)
			}
		}
		if n := u.accepted.Load(); n != 3 {
			t.Errorf("%d bytes behind: %d connections for 3 requests", behind, n)
		}
	}
}

// holdBack joins one write with the first bytes of the next, and keeps the rest
// of that.
type holdBack struct {
	n       atomic.Int64
	waiting []byte
}

func (h *holdBack) behind(n int) { h.waiting = nil; h.n.Store(int64(n)) }

func (h *holdBack) over(c net.Conn) net.Conn { return &heldConn{c, h} }

type heldConn struct {
	net.Conn
	h *holdBack
}

func (c *heldConn) Write(b []byte) (int, error) {
	n := c.h.n.Load()
	switch {
	case n == 0:
		return c.Conn.Write(b)
	case c.h.waiting == nil:
		c.h.waiting = slices.Clone(b)
		return len(b), nil
	}
	c.h.n.Store(0)
	_, err := c.Conn.Write(append(c.h.waiting, b[:n]...))
	return len(b), err
}

// secure is serve over TLS, with a transport that trusts it.
func secure(t testing.TB, play func(net.Conn, *bufio.Reader)) (*upstream, *http1.Transport) {
	t.Helper()
	u, rt, _ := secureBy(t, func(c net.Conn) net.Conn { return c }, play)
	return u, rt
}

func secureBy(t testing.TB, over func(net.Conn) net.Conn, play func(net.Conn, *bufio.Reader)) (*upstream, *http1.Transport, *x509.CertPool) {
	t.Helper()
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	defer certificates.Close()
	server := certificates.TLS.Clone()
	server.NextProtos = []string{"http/1.1"}
	u := serve(t, func(c net.Conn, _ *bufio.Reader) {
		secured := tls.Server(over(c), server)
		play(secured, bufio.NewReader(secured))
	})
	roots := x509.NewCertPool()
	roots.AddCert(certificates.Certificate())
	return u, lean(t, u.Addr().String(), func(c *http1.Config) {
		c.Scheme, c.TLS = "https", &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}), roots
}

func TestConnectionsAreReused(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	u := serve(t, says(answer))
	rt := lean(t, u.Addr().String(), nil)
	for range 10 {
		seen(rt, to(t, u, "GET", nil))
		seen(rt, to(t, u, "POST", strings.NewReader("body")))
		seen(rt, to(t, u, "HEAD", nil))
	}
	if n := u.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	v, secured := secure(t, says(answer))
	for range 10 {
		r := to(t, v, "POST", strings.NewReader("body"))
		r.URL.Scheme = "https"
		seen(secured, r)
	}
	if n := v.accepted.Load(); n != 1 {
		t.Errorf("%d connections over TLS", n)
	}
}

// A connection that upstream closed while it was idle is noticed before it is
// used, so a POST does not fail on it.
func TestClosedWhileIdle(t *testing.T) {
	closed := make(chan struct{}, 1)
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		c.Close()
		closed <- struct{}{}
	})
	rt := lean(t, u.Addr().String(), nil)
	for range 5 {
		r := to(t, u, "POST", io.MultiReader(strings.NewReader("no GetBody")))
		if got := seen(rt, r); !strings.Contains(got, "ok") {
			t.Errorf("got %s", got)
		}
		<-closed
	}
}

// An answer that comes before the body has gone out is passed on, and its
// connection not used again.
func TestEarlyAnswer(t *testing.T) {
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, c)
		}
	})
	rt := lean(t, u.Addr().String(), nil)
	body, feed := io.Pipe()
	r := to(t, u, "POST", body)
	if got := seen(rt, r); !strings.Contains(got, "413") {
		t.Errorf("got %s", got)
	}
	feed.Close()
	if got := seen(rt, to(t, u, "POST", strings.NewReader("x"))); !strings.Contains(got, "413") || u.accepted.Load() != 2 {
		t.Errorf("got %s on connection %d", got, u.accepted.Load())
	}
}

// Both ways stream at the same time.
func TestStreamsBothWays(t *testing.T) {
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		b := make([]byte, 1)
		for {
			if _, err := req.Body.Read(b); err != nil {
				break
			}
			fmt.Fprintf(c, "1\r\n%s\r\n", b)
		}
		io.WriteString(c, "0\r\n\r\n")
	})
	body, feed := io.Pipe()
	res, err := lean(t, u.Addr().String(), nil).RoundTrip(to(t, u, "POST", body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b := make([]byte, 1)
	for _, letter := range "streams" {
		io.WriteString(feed, string(letter))
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != string(letter) {
			t.Fatalf("%q %v", b, err)
		}
	}
	feed.Close()
	if _, err := res.Body.Read(b); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// A context that is done ends the wait for a header and the reading of a body.
func TestCancel(t *testing.T) {
	asked := make(chan struct{}, 2)
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.URL.Path == "/body" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
		}
		asked <- struct{}{}
		io.Copy(io.Discard, c)
	})
	rt := lean(t, u.Addr().String(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := rt.RoundTrip(to(t, u, "GET", nil).WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the header: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	r := to(t, u, "GET", nil).WithContext(ctx)
	r.URL.Path = "/body"
	res, err := rt.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	cancel()
	if _, err := io.ReadAll(res.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("reading the body: %v", err)
	}
	res.Body.Close()
}

// Silence is a timeout, and what streams slowly is none.
func TestHeaderTimeout(t *testing.T) {
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.Copy(io.Discard, c)
	})
	for _, body := range []io.Reader{nil, strings.NewReader("body")} {
		rt := lean(t, u.Addr().String(), func(c *http1.Config) { c.HeaderTimeout = 50 * time.Millisecond })
		_, err := rt.RoundTrip(to(t, u, "POST", body))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("got %v", err)
		}
	}
	slow := serve(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
		for range 5 {
			<-time.After(30 * time.Millisecond)
			io.WriteString(c, "x")
		}
	})
	rt := lean(t, slow.Addr().String(), func(c *http1.Config) { c.HeaderTimeout = 50 * time.Millisecond })
	if got := seen(rt, to(t, slow, "GET", nil)); !strings.Contains(got, "xxxxx") {
		t.Errorf("got %s", got)
	}
}

// The limit on one answer's header does nothing to the next exchange on the
// connection: not when it ran out meanwhile, and not while that one streams.
func TestHeaderTimeoutOfTheLast(t *testing.T) {
	slowly := func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			const header = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
			if req.URL.Path != "/slow" {
				io.WriteString(c, header+"quick")
				continue
			}
			io.WriteString(c, header)
			for range 5 {
				<-time.After(30 * time.Millisecond)
				io.WriteString(c, "x")
			}
		}
	}
	plain := serve(t, slowly)
	secured, _, roots := secureBy(t, func(c net.Conn) net.Conn { return c }, slowly)
	short := func(c *http1.Config) { c.HeaderTimeout = 50 * time.Millisecond }
	for scheme, u := range map[string]*upstream{"http": plain, "https": secured} {
		rt := lean(t, u.Addr().String(), func(c *http1.Config) {
			c.Scheme, c.TLS = scheme, &tls.Config{RootCAs: roots}
			short(c)
		})
		get := func(path string, body io.Reader, want string) {
			t.Helper()
			r := to(t, u, "POST", body)
			r.URL.Scheme, r.URL.Path = scheme, path
			if got := seen(rt, r); !strings.Contains(got, want) {
				t.Errorf("%s: got %s", scheme, got)
			}
		}
		get("/quick", nil, "quick")
		http1.Expire(rt)
		get("/quick", nil, "quick")
		get("/slow", nil, "xxxxx")
		get("/quick", nil, "quick")
		// A body that takes longer than the limit.
		slow, feed := io.Pipe()
		go func() {
			for range 5 {
				<-time.After(30 * time.Millisecond)
				io.WriteString(feed, "y")
			}
			feed.Close()
		}()
		get("/quick", slow, "quick")
		http1.Expire(rt)
		get("/slow", nil, "xxxxx")
		if n := u.accepted.Load(); n != 1 {
			t.Errorf("%s: %d connections", scheme, n)
		}
	}
}

// Neither a header without end nor interim answers without end take memory or
// time without end, and no error quotes what upstream sent.
func TestEndlessAnswers(t *testing.T) {
	for name, start := range map[string]string{
		"header":  "HTTP/1.1 200 OK\r\n",
		"interim": "",
	} {
		more := map[string]string{"header": "Canary: canary\r\n", "interim": "HTTP/1.1 103 Early Hints\r\nCanary: canary\r\n\r\n"}[name]
		u := serve(t, func(c net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(c, start)
			for {
				if _, err := io.WriteString(c, more); err != nil {
					return
				}
			}
		})
		_, err := lean(t, u.Addr().String(), nil).RoundTrip(to(t, u, "GET", nil))
		if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "too large a header") {
			t.Errorf("%s: %v", name, err)
		}
	}
	u := serve(t, says("canary canary\r\n\r\n"))
	if _, err := lean(t, u.Addr().String(), nil).RoundTrip(to(t, u, "GET", nil)); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("not HTTP: %v", err)
	}
}

// What could be read as two headers never goes out, wherever it comes from.
func TestInvalidRequests(t *testing.T) {
	u := serve(t, says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	rt := lean(t, u.Addr().String(), nil)
	for name, change := range map[string]func(*http.Request){
		"value":  func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer canary\r\nX: y"} },
		"name":   func(r *http.Request) { r.Header["X: y\r\nZ"] = []string{"canary"} },
		"method": func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nX: y\r\n\r\nGET" },
		"target": func(r *http.Request) { r.URL.Opaque = "/ HTTP/1.1\r\nX: y\r\n\r\n" },
	} {
		r := to(t, u, "GET", nil)
		change(r)
		if _, err := rt.RoundTrip(r); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What this transport doesn't do goes to the other one.
func TestFallback(t *testing.T) {
	u := serve(t, says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	rt := lean(t, u.Addr().String(), nil)
	for name, change := range map[string]func(*http.Request){
		"expect":  func(r *http.Request) { r.Header.Set("Expect", "100-continue") },
		"upgrade": func(r *http.Request) { r.Header.Set("Upgrade", "websocket") },
		"host":    func(r *http.Request) { r.URL.Host = "elsewhere.test" },
		"scheme":  func(r *http.Request) { r.URL.Scheme = "https" },
		"connect": func(r *http.Request) { r.Method = "CONNECT" },
	} {
		r := to(t, u, "GET", nil)
		change(r)
		if _, err := rt.RoundTrip(r); err == nil || !strings.Contains(err.Error(), "fallback") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An upstream that speaks HTTP/2 only is spoken to by net/http.
func TestHTTP2Only(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := server.TLS.Clone()
		// A Go server would go on without ALPN; others don't.
		if c.GetConfigForClient = nil; !slices.Contains(hello.SupportedProtos, "h2") {
			c.NextProtos = []string{"other"}
		}
		return c, nil
	}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	fallback := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer fallback.CloseIdleConnections()
	host := server.Listener.Addr().String()
	rt := lean(t, host, func(c *http1.Config) { c.Scheme, c.TLS, c.Fallback = "https", &tls.Config{RootCAs: roots}, fallback })
	for range 2 {
		r, _ := http.NewRequestWithContext(t.Context(), "POST", "https://"+host+"/", strings.NewReader("body"))
		if got := seen(rt, r); !strings.Contains(got, "HTTP/2.0") {
			t.Errorf("got %s", got)
		}
	}
}

// A certificate that nobody trusts gets no request.
func TestUntrusted(t *testing.T) {
	u, _ := secure(t, says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	rt := lean(t, u.Addr().String(), func(c *http1.Config) { c.Scheme = "https" })
	r := to(t, u, "GET", nil)
	r.URL.Scheme = "https"
	var unknown *tls.CertificateVerificationError
	if _, err := rt.RoundTrip(r); !errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
}

// Many requests at once each get their own answer, some of them given up in the
// middle.
func TestManyAtOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Id", r.Header.Get("Id"))
		fmt.Fprintf(w, "%s %s %s", r.Header.Get("Id"), body, strings.Repeat("x", 8<<10))
	}))
	defer server.Close()
	host := server.Listener.Addr().String()
	rt := lean(t, host, nil)
	var all sync.WaitGroup
	for worker := range 32 {
		all.Go(func() {
			for i := range 200 {
				id := fmt.Sprintf("%d-%d", worker, i)
				var body io.Reader
				if i%3 == 0 {
					body = strings.NewReader("body of " + id)
				}
				r := request(t, "POST", "/", body)
				r.URL.Host = host
				r.Header.Set("Id", id)
				ctx, cancel := context.WithCancel(t.Context())
				res, err := rt.RoundTrip(r.WithContext(ctx))
				if err != nil {
					t.Errorf("%s: %v", id, err)
					cancel()
					return
				}
				if i%5 == 0 { // given up
					cancel()
					res.Body.Close()
					continue
				}
				text, err := io.ReadAll(res.Body)
				if err != nil || !strings.HasPrefix(string(text), id+" ") || res.Header.Get("Id") != id {
					t.Errorf("%s got %.40s, %v", id, text, err)
				}
				if body != nil && !strings.Contains(string(text), "body of "+id+" ") {
					t.Errorf("%s got another's body", id)
				}
				res.Body.Close()
				cancel()
			}
		})
	}
	all.Wait()
}

// Idle connections are closed in time.
func TestIdleTimeout(t *testing.T) {
	closed := make(chan struct{})
	u := serve(t, func(c net.Conn, r *bufio.Reader) {
		says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c, r)
		close(closed)
	})
	rt := lean(t, u.Addr().String(), func(c *http1.Config) { c.IdleTimeout = 20 * time.Millisecond })
	seen(rt, to(t, u, "GET", nil))
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("still open")
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	answer := says("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	plain := serve(b, answer)
	run := func(name string, rt http.RoundTripper, url string, body bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					ctx, cancel := context.WithCancel(b.Context())
					r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
					if body {
						r.Method, r.Body, r.ContentLength = "POST", heldBody{strings.NewReader("the body")}, 8
					}
					res, err := rt.RoundTrip(r)
					if err != nil {
						b.Error(err)
						cancel()
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					cancel()
				}
			})
		})
	}
	for _, method := range []string{"GET", "POST"} {
		url := "http://" + plain.Addr().String() + "/"
		run("method="+method+"/transport=standard", standard(), url, method == "POST")
		run("method="+method+"/transport=http1", lean(b, plain.Addr().String(), nil), url, method == "POST")
	}
	u, rt, roots := secureBy(b, func(c net.Conn) net.Conn { return c }, answer)
	over := standard()
	over.TLSClientConfig = &tls.Config{RootCAs: roots}
	url := "https://" + u.Addr().String() + "/"
	run("method=GET-TLS/transport=standard", over, url, false)
	run("method=GET-TLS/transport=http1", rt, url, false)
}
