package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"larkside/proxy"
)

func halfClosing(patience time.Duration) func(*proxy.Config) {
	return func(c *proxy.Config) { c.HalfClosePatience = patience }
}

// halfClosed sends text, which is all that comes from this caller.
func (b *bed) halfClosed(text string) *bufio.Reader {
	b.t.Helper()
	conn := b.dial()
	io.WriteString(conn, strings.ReplaceAll(text, "{host}", b.addr))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		b.t.Fatal(err)
	}
	return bufio.NewReader(conn)
}

const getTable = "GET " + table + " HTTP/1.1\r\nHost: {host}\r\nX-Lark-User-Id: ou_1\r\n"

// A caller that half-closes gets its answer, also when Lark takes a moment, and
// when it streams for longer than the proxy's patience.
func TestHalfClosedCallerIsAnswered(t *testing.T) {
	t.Parallel()
	b := start(t, halfClosing(2*time.Second))
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for i := range 4 {
			select {
			case <-r.Context().Done():
				t.Error("the call to Lark was given up")
				return
			case <-time.After(600 * time.Millisecond):
				fmt.Fprint(w, i)
				w.(http.Flusher).Flush()
			}
		}
	})
	for name, text := range map[string]string{
		"GET":     getTable + "\r\n",
		"close":   getTable + "Connection: close\r\n\r\n",
		"POST":    strings.Replace(getTable, "GET", "POST", 1) + "Content-Length: 5\r\n\r\nhello",
		"chunked": strings.Replace(getTable, "GET", "POST", 1) + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := b.read(b.halfClosed(text), "GET"); a.StatusCode != 200 || a.body != "0123" {
				t.Errorf("answer %d %q", a.StatusCode, a.body)
			}
		})
	}
	t.Run("requests in a row", func(t *testing.T) {
		t.Parallel()
		r := b.halfClosed(getTable + "\r\n" + getTable + "\r\n")
		for range 2 {
			if a := b.read(r, "GET"); a.StatusCode != 200 || a.body != "0123" {
				t.Errorf("answer %d %q", a.StatusCode, a.body)
			}
		}
	})
}

// One for which nothing comes is taken for one that hung up, and so are its
// further requests.
func TestHalfClosedAndSilent(t *testing.T) {
	b := start(t, halfClosing(50*time.Millisecond))
	ended := make(chan bool, 2)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "begins" {
			io.WriteString(w, "data: 1\n\n")
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
		ended <- true
	})
	for _, text := range []string{getTable + "\r\n", strings.Replace(getTable, table, table+"?begins", 1) + "\r\n"} {
		r := b.halfClosed(text)
		if rest, err := io.ReadAll(r); isTimeout(err) {
			t.Errorf("still open after %q", rest)
		}
		<-ended
	}
}

// What was asked on a connection before has no say in how long a request on it
// may take.
func TestPatienceIsOfOneRequest(t *testing.T) {
	t.Parallel()
	b := start(t, halfClosing(100*time.Millisecond))
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(300 * time.Millisecond)
		io.WriteString(w, "done")
	})
	conn := b.dial()
	r := bufio.NewReader(conn)
	for range 3 {
		io.WriteString(conn, strings.ReplaceAll(getTable, "{host}", b.addr)+"\r\n")
		if a := b.read(r, "GET"); a.StatusCode != 200 || a.body != "done" {
			t.Errorf("answer %d %q", a.StatusCode, a.body)
		}
	}
}

// A connection that broke has nobody behind it, so nothing is waited for.
func TestBrokenCallerIsGone(t *testing.T) {
	b := start(t, halfClosing(time.Hour))
	asked, ended := make(chan bool, 1), make(chan bool)
	b.lark.answer(func(_ http.ResponseWriter, r *http.Request) {
		asked <- true
		<-r.Context().Done()
		close(ended)
	})
	conn := b.dial()
	io.WriteString(conn, strings.ReplaceAll(getTable, "{host}", b.addr)+"\r\n")
	<-asked
	conn.(*net.TCPConn).SetLinger(0) // what is sent is a reset
	conn.Close()
	<-ended
}

// The header of an answer is a part of it: the patience begins anew.
func TestHalfClosedAndSlowBody(t *testing.T) {
	t.Parallel()
	b := start(t, halfClosing(time.Second))
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(600 * time.Millisecond)
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		<-time.After(600 * time.Millisecond)
		io.WriteString(w, "data: 1\n\n")
	})
	if a := b.read(b.halfClosed(getTable+"\r\n"), "GET"); a.StatusCode != 200 || a.body != "data: 1\n\n" {
		t.Errorf("answer %d %q", a.StatusCode, a.body)
	}
}
