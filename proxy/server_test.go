package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What net/http refuses by itself has Lark's envelope, so that an SDK reports it, on
// a new connection and behind another request.
func TestUnreadableRequests(t *testing.T) {
	b := start(t, nil)
	host := "Host: " + b.addr + "\r\n"
	for text, want := range map[string]string{
		"GET " + table + "%zz HTTP/1.1\r\n" + host + "\r\n":                                           "malformed_request",
		"GET table HTTP/1.1\r\n" + host + "\r\n":                                                      "malformed_request",
		"GET " + table + " HTTP/9.9\r\n" + host + "\r\n":                                              "malformed_request",
		"GET " + table + " HTTP/1.1\r\n\r\n":                                                          "malformed_request",
		"G@T " + table + " HTTP/1.1\r\n" + host + "\r\n":                                              "malformed_request",
		"GET " + table + " HTTP/1.1\r\n" + host + "X-Y : 1\r\n\r\n":                                   "malformed_request",
		"GET " + table + " HTTP/1.1\r\n" + host + "X-Y: \x00\r\n\r\n":                                 "malformed_request",
		"POST " + table + " HTTP/1.1\r\n" + host + "Content-Length: x\r\n\r\n":                        "malformed_request",
		"POST " + table + " HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip\r\n\r\n":                  "malformed_request",
		"GET " + table + " HTTP/1.1\r\n" + host + "Expect: x\r\n\r\n":                                 "malformed_request",
		"GET " + table + " HTTP/1.1\r\n" + host + "X-Y: " + strings.Repeat("a", 100<<10) + "\r\n\r\n": "header_too_large",
		"GET " + table + "?" + strings.Repeat("a", 100<<10) + " HTTP/1.1\r\n" + host + "\r\n":         "header_too_large",
		"GET " + table + " HTTP/1.1\r\n" + host + strings.Repeat("X-Y: aaaaaaaa\r\n", 8<<10) + "\r\n": "header_too_large",
	} {
		status := map[string]int{"malformed_request": 400, "header_too_large": 431}[want]
		for _, before := range []string{"", "GET " + table + " HTTP/1.1\r\n" + host + "X-Lark-User-Id: ou_1\r\n\r\n"} {
			conn := b.dial()
			r := bufio.NewReader(conn)
			if before != "" {
				io.WriteString(conn, before)
				if a := b.read(r, "GET"); a.StatusCode != 200 {
					t.Fatalf("%d %s", a.StatusCode, a.body)
				}
			}
			io.WriteString(conn, text)
			a := b.read(r, "GET")
			a.isError(t, status, want)
			if !a.Close || a.Header.Get("Date") == "" {
				t.Errorf("%.60q: header %v", text, a.Header)
			}
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("%.60q: %.100q behind the answer", text, rest)
			}
		}
	}
}

// Lark's answer is passed on byte by byte, also when it looks like net/http's own.
func TestAnswersThatLookLikeTheServersOwn(t *testing.T) {
	const own = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
		for range 3 {
			io.WriteString(w, own+strings.Repeat("x", 8<<10))
			w.(http.Flusher).Flush()
		}
	})
	if a := b.get(table); a.StatusCode != 200 || a.body != strings.Repeat(own+strings.Repeat("x", 8<<10), 3) {
		t.Errorf("%d %.200q", a.StatusCode, a.body)
	}
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
		w.Header().Set("Connection", "close")
		http.Error(w, "400 Bad Request", 400)
	})
	if a := b.get(table); a.StatusCode != 400 || a.body != "400 Bad Request\n" || a.Header.Get("X-Larkside-Error") != "" {
		t.Errorf("%d %q %v", a.StatusCode, a.body, a.Header)
	}
}

// A request whose end two readers see in different places is the last one of its
// connection: what follows was never meant as a request, or was.
func TestLengthBesideChunks(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		b.lark.record(r)
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "{}")
	})
	next := "GET " + table + "/smuggled HTTP/1.1\r\nHost: " + b.addr + "\r\nX-Lark-User-Id: ou_1\r\n\r\n"
	// In HTTP/1.0 there are no chunks, so that the length alone counts here, and
	// perhaps not in front of here.
	old := fmt.Sprintf("POST %s HTTP/1.0\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", table, b.addr, next)
	conn := b.dial()
	io.WriteString(conn, old)
	r := bufio.NewReader(conn)
	if a := b.read(r, "POST"); a.StatusCode != 200 {
		t.Errorf("HTTP/1.0: %d %v", a.StatusCode, a.Header)
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("HTTP/1.0: the next request was answered: %.100q", rest)
	}
	for name, header := range map[string]string{
		"both": fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n", len("1\r\nx\r\n0\r\n\r\n"+next)), "chunks alone": "Transfer-Encoding: chunked\r\n",
	} {
		for path, status := range map[string]int{table: 200, mail: 403} {
			b.lark.reset()
			conn := b.dial()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\n%s\r\n1\r\nx\r\n0\r\n\r\n%s", path, b.addr, header, next)
			r := bufio.NewReader(conn)
			if a := b.read(r, "POST"); a.StatusCode != status || !a.Close {
				t.Errorf("%s: %d %v", name, a.StatusCode, a.Header)
			}
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("%s: the next request was answered: %.100q", name, rest)
			}
			for _, got := range b.lark.requests() {
				if got.body != "x" || strings.Contains(got.uri, "smuggled") {
					t.Errorf("%s: upstream saw %s with %q", name, got.uri, got.body)
				}
			}
		}
	}
}
