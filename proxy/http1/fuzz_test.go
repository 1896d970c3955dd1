package http1_test

import (
	"bufio"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
)

// FuzzAnswer says anything at all, and closes: a client sees of it what
// net/http's own transport shows. That one passes a change of protocols on,
// which nobody asked for; this one refuses it.
func FuzzAnswer(f *testing.F) {
	log.SetOutput(io.Discard) // net/http logs what was unsolicited
	f.Cleanup(func() { log.SetOutput(os.Stderr) })
	for _, answer := range answers {
		if len(answer) < 1<<10 {
			f.Add(answer, uint8(0))
			f.Add(answer, uint8(1))
			f.Add(answer+answer, uint8(2))
		}
	}
	f.Add("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", uint8(0))
	f.Add("HTTP/1.1 099 What\r\n\r\nx", uint8(0))
	f.Add("HTTP/1.1 199 What\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", uint8(0))
	var answer atomic.Pointer[string]
	u := serve(f, func(c net.Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, *answer.Load())
		}
	})
	f.Fuzz(func(t *testing.T, text string, method uint8) {
		if len(text) > 32<<10 {
			return
		}
		answer.Store(&text)
		ask := func(rt http.RoundTripper) string {
			var body io.Reader
			m := []string{"GET", "HEAD", "POST"}[method%3]
			if m == "POST" {
				body = strings.NewReader("body")
			}
			return seen(rt, to(t, u, m, body))
		}
		net := standard()
		defer net.CloseIdleConnections()
		ours := lean(t, u.Addr().String(), nil)
		want, got := ask(net), ask(ours)
		if strings.Contains(want, " 101 ") && got == "no answer" {
			return
		}
		if got != want {
			t.Errorf("%q\ngot  %s\nwant %s", text, got, want)
		}
		// Nothing of it is left for the next request. (A POST would not be sent
		// again when it meets the connection's end.)
		next := okay
		method = 0
		answer.Store(&next)
		if got := ask(ours); !strings.Contains(got, "200 OK 200 2") {
			t.Errorf("after %q: %s", text, got)
		}
	})
}
