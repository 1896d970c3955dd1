package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"larkside/proxy"
)

// first reads n bytes of a body that isn't at its end.
func first(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		t.Fatalf("reading the first bytes: %v", err)
	}
	return string(buf)
}

// What Lark sends arrives while Lark still sends, whatever it is called and
// whether or not its length is known.
func TestAnswersStream(t *testing.T) {
	big := strings.Repeat("x", 100<<10)
	for name, c := range map[string]struct {
		status      int
		contentType string
		length      bool
		head, rest  string
	}{
		"events":                     {200, "text/event-stream", false, "data: 1\n\n", "data: 2\n\n"},
		"chunks":                     {200, "application/octet-stream", false, "abc", "def"},
		"known length":               {200, "application/octet-stream", true, "abc", big},
		"short, of known length":     {200, "text/plain", true, "abc", "def"},
		"JSON, chunked, code first":  {200, "application/json", false, `{"code":0,`, `"data":{}}`},
		"JSON lines":                 {200, "application/json", false, "{\"a\":1}\n", "{\"a\":2}\n"},
		"JSON array":                 {200, "application/json", false, `[{"a":1},`, `{"a":2}]`},
		"large JSON, known length":   {200, "application/json", true, `{"data":"`, big + `"}`},
		"failure, code first":        {500, "application/json", false, `{"code":2320002,`, `"msg":""}`},
		"failure that is not JSON":   {502, "text/html", false, "<html>", "</html>"},
		"failure as events":          {400, "text/event-stream", false, "data: 1\n\n", "data: 2\n\n"},
		"failure, known length":      {400, "application/json", true, `{"code":2320001,`, big},
		"JSON of another media type": {200, "application/problem+json", false, `{"code":0,`, `"x":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			goOn := make(chan bool)
			b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				if c.length {
					w.Header().Set("Content-Length", fmt.Sprint(len(c.head)+len(c.rest)))
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.head)
				w.(http.Flusher).Flush()
				<-goOn
				io.WriteString(w, c.rest)
			})
			req, _ := http.NewRequest("GET", "http://"+b.addr+table, nil)
			req.Header.Set("X-Lark-User-Id", "ou_1")
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got := first(t, res.Body, len(c.head)); got != c.head {
				t.Fatalf("first bytes %q", got)
			}
			close(goOn)
			rest, err := io.ReadAll(res.Body)
			if string(rest) != c.rest || err != nil || res.StatusCode != c.status {
				t.Errorf("status %d, rest of %d bytes, %v", res.StatusCode, len(rest), err)
			}
			if c.length != (res.ContentLength >= 0) {
				t.Errorf("Content-Length %d", res.ContentLength)
			}
		})
	}
}

// The header of a long answer doesn't wait for its body.
func TestHeaderComesAhead(t *testing.T) {
	b := start(t, nil)
	goOn := make(chan bool)
	defer close(goOn)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		w.(http.Flusher).Flush()
		<-goOn
	})
	req, _ := http.NewRequest("GET", "http://"+b.addr+table, nil)
	req.Header.Set("X-Lark-User-Id", "ou_1")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

// What the app sends reaches Lark while the app still sends.
func TestUploadsStream(t *testing.T) {
	for name, length := range map[string]int64{"chunked": -1, "larger than the buffer": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			arrived := make(chan string)
			b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
				arrived <- first(t, r.Body, 5)
				n, _ := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n)
			})
			pr, pw := io.Pipe()
			req, _ := http.NewRequest("POST", "http://"+b.addr+table, pr)
			req.ContentLength = length
			req.Header.Set("X-Lark-User-Id", "ou_1")
			go func() {
				io.WriteString(pw, "hello")
				if got := <-arrived; got != "hello" {
					t.Errorf("upstream saw %q first", got)
				}
				pw.Write(bytes.Repeat([]byte("x"), 100<<10-5))
				pw.Close()
			}()
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if string(body) != fmt.Sprint(100<<10-5) {
				t.Errorf("upstream counted %s", body)
			}
		})
	}
}

// Bytes pass as they came, both ways, 16 MiB of them, over both protocols.
func TestLargeBodies(t *testing.T) {
	const size = 16 << 20
	pattern := func() io.Reader { return io.LimitReader(&counter{}, size) }
	want := sha256.New()
	io.Copy(want, pattern())
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", h2), func(t *testing.T) {
			upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if (r.ProtoMajor == 2) != h2 {
					t.Errorf("upstream was asked over %s", r.Proto)
				}
				got := sha256.New()
				io.Copy(got, r.Body)
				w.Header().Set("X-Sum", fmt.Sprintf("%x", got.Sum(nil)))
				io.Copy(w, pattern())
			}))
			upstream.EnableHTTP2 = h2
			upstream.StartTLS()
			t.Cleanup(upstream.Close)
			b := start(t, func(c *proxy.Config) { c.Upstream, c.Transport = mustURL(upstream.URL), trusting(upstream) })
			req, _ := http.NewRequest("PUT", "http://"+b.addr+table, pattern())
			req.Header.Set("X-Lark-User-Id", "ou_1")
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			got := sha256.New()
			if _, err := io.Copy(got, res.Body); err != nil {
				t.Fatal(err)
			}
			sum := fmt.Sprintf("%x", want.Sum(nil))
			if res.Header.Get("X-Sum") != sum || fmt.Sprintf("%x", got.Sum(nil)) != sum {
				t.Error("bytes were changed on their way")
			}
		})
	}
}

// counter reads as an endless pattern without a short period.
type counter struct{ n uint32 }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		c.n = c.n*1664525 + 1013904223
		b[i] = byte(c.n >> 24)
	}
	return len(b), nil
}

// Status, header and body of a failure of Lark's are Lark's own.
func TestAnswersAreUntouched(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
	}{
		"business error":            {400, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, `{ "code" : 2320001 , "msg":"bad" }` + "\n"},
		"rate limit":                {429, http.Header{"X-Ogw-Ratelimit-Reset": {"3"}, "Content-Type": {"application/json"}}, `{"code":99991400,"msg":"limit"}`},
		"wrong token kind":          {400, http.Header{"Content-Type": {"application/json"}}, `{"code":99991663,"msg":"Invalid access token"}`},
		"plain text":                {404, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, "404 page not found"},
		"no content type":           {404, http.Header{"Content-Type": nil}, "<html>"},
		"truncated JSON":            {400, http.Header{"Content-Type": {"application/json"}}, `{"code":9999`},
		"string code":               {400, http.Header{"Content-Type": {"application/json"}}, `{"code":"99991677"}`},
		"inner code":                {400, http.Header{"Content-Type": {"application/json"}}, `{"data":{"code":99991677},"code":1}`},
		"code in a string":          {400, http.Header{"Content-Type": {"application/json"}}, `{"msg":"\"code\":99991677","code":1}`},
		"float":                     {400, http.Header{"Content-Type": {"application/json"}}, `{"code":99991677.5}`},
		"huge":                      {500, http.Header{"Content-Type": {"application/json"}}, `{"msg":"` + strings.Repeat("x", 1<<20) + `","code":99991677}`},
		"large success":             {200, http.Header{"Content-Type": {"application/json"}}, `{"msg":"` + strings.Repeat("x", 4<<10) + `","code":20005}`},
		"large success, code first": {200, http.Header{"Content-Type": {"application/json"}}, `{"code":20005,"msg":"` + strings.Repeat("x", 4<<10) + `"}`},
		"success in text":           {200, http.Header{"Content-Type": {"text/plain"}}, `{"code":20005}`},
		"redirect":                  {302, http.Header{"Location": {"/x"}, "Content-Type": {"application/json"}}, `{"code":20005}`},
		"empty":                     {400, http.Header{"Content-Type": {"application/json"}}, ""},
		"cookies":                   {200, http.Header{"Set-Cookie": {"a=1", "b=2"}, "Content-Type": {"application/json"}}, `{"code":0}`},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", name, chunked), func(t *testing.T) {
				b := start(t, nil)
				b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
					b.lark.record(r)
					for k, v := range c.header {
						w.Header()[k] = v
					}
					if !chunked {
						w.Header().Set("Content-Length", fmt.Sprint(len(c.body)))
					}
					w.WriteHeader(c.status)
					if chunked {
						w.(http.Flusher).Flush()
					}
					io.WriteString(w, c.body)
				})
				a := b.get(table)
				if a.StatusCode != c.status || a.body != c.body {
					t.Errorf("answer %d %.100q, want %d %.100q", a.StatusCode, a.body, c.status, c.body)
				}
				if chunked != (a.ContentLength < 0) && c.body != "" {
					t.Errorf("Content-Length %d", a.ContentLength)
				}
				for k, v := range c.header {
					if fmt.Sprint(a.Header[k]) != fmt.Sprint(v) {
						t.Errorf("%s: %v, want %v", k, a.Header[k], v)
					}
				}
				b.lark.one(t)
				if n := b.tokens.refreshed(); n != 0 {
					t.Errorf("%d refreshes", n)
				}
			})
		}
	}
}

// Compressed bytes are not ours to expand; an encoding that nobody here could
// read in a refusal isn't asked for.
func TestCompression(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		b.lark.record(r)
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "application/json")
		w.Write(gz(`{"code":0}`))
	})
	for asked, want := range map[string]string{"gzip": "gzip", "gzip, deflate, br": "gzip", "br": "identity", "": ""} {
		b.lark.reset()
		var header []string
		if asked != "" {
			header = []string{"Accept-Encoding: " + asked}
		}
		a := b.get(table, header...)
		if a.body != string(gz(`{"code":0}`)) || a.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: answer %q", asked, a.body)
		}
		if got := b.lark.one(t).header.Get("Accept-Encoding"); got != want {
			t.Errorf("%q became %q, want %q", asked, got, want)
		}
	}
	b.lark.reset()
	b.raw("GET "+mail+" HTTP/1.1", "Authorization: Bearer own", "Accept-Encoding: br")
	if got := b.lark.one(t).header.Get("Accept-Encoding"); got != "br" {
		t.Errorf("without a user br became %q", got)
	}
}

func TestHead(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "12345")
		w.WriteHeader(400)
	})
	a := b.raw("HEAD "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1")
	if a.StatusCode != 400 || a.ContentLength != 12345 {
		t.Errorf("status %d, length %d", a.StatusCode, a.ContentLength)
	}
	if a := b.raw("HEAD " + table + " HTTP/1.1"); a.StatusCode != 400 || a.body != "" || a.ContentLength <= 0 {
		t.Errorf("status %d, body %q, length %d", a.StatusCode, a.body, a.ContentLength)
	}
}

// An answer that breaks off at Lark breaks off at the app: a truncated body
// must not look whole.
func TestAnswerBrokenOff(t *testing.T) {
	for name, text := range map[string]string{
		"known length":           "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nabc",
		"chunked":                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"while it is looked at":  "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"code\"",
		"JSON, success, chunked": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			b.lark.answer(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, _ := w.(http.Hijacker).Hijack()
				io.WriteString(conn, text)
				conn.Close()
			})
			conn := b.dial()
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\n\r\n", table, b.addr)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return // cut before anything was passed on
			}
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("whole: %d %q", res.StatusCode, body)
			}
		})
	}
}

// A caller that hangs up ends the call to Lark.
func TestHangUpEndsUpstreamCall(t *testing.T) {
	b := start(t, halfClosing(100*time.Millisecond))
	arrived, ended := make(chan bool), make(chan bool)
	b.lark.answer(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+b.addr+table, nil)
	req.Header.Set("X-Lark-User-Id", "ou_1")
	go http.DefaultTransport.RoundTrip(req)
	<-arrived
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("Lark was still asked")
	}
}

func TestResponseTrailers(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Late", "2")
	})
	a := b.get(table)
	if a.Trailer.Get("X-Sum") != "1" || a.Trailer.Get("X-Late") != "2" {
		t.Errorf("trailers %v", a.Trailer)
	}
}

// A slow reader of bytes one by one gets the same.
func TestBodyByteByByte(t *testing.T) {
	b := start(t, nil)
	text := strings.Repeat("0123456789", 500)
	req, _ := http.NewRequest("POST", "http://"+b.addr+table, iotest.OneByteReader(strings.NewReader(text)))
	req.Header.Set("X-Lark-User-Id", "ou_1")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := b.lark.one(t); got.body != text {
		t.Errorf("upstream saw %d bytes", len(got.body))
	}
}

// A kept connection that Lark has closed costs no request, also not one whose
// body was read already.
func TestStaleConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	bodies := make(chan string, 3)
	go func() {
		for connection := range 2 {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			for served := range 2 {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				body, _ := io.ReadAll(req.Body)
				bodies <- string(body)
				if connection == 0 && served == 1 {
					conn.Close() // as if it had been idle for too long
					break
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}
	}()
	b := start(t, func(c *proxy.Config) { c.Upstream = mustURL("http://" + ln.Addr().String()) })
	for i := range 2 {
		a := b.post(table, "hello", "Idempotency-Key: 1") // says that it may be sent twice
		if a.StatusCode != 200 || a.body != "ok" {
			t.Fatalf("request %d: answer %d %s", i, a.StatusCode, a.body)
		}
	}
	for range 3 {
		if got := <-bodies; got != "hello" {
			t.Errorf("upstream saw %q", got)
		}
	}
}
