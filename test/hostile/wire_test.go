package hostile

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"larkside/test/process"
)

// S1 to S5, S9, S11, S12: however a request is spelled, Lark gets the user's
// token once, or nothing; and the next request is what it would have been.
func TestSpellings(t *testing.T) {
	t.Parallel()
	p, front := begin(t, nil)
	const user = "X-Lark-User-Id: " + alice
	get := func(lines ...string) string {
		return "GET " + echo + " HTTP/1.1\r\nHost: {host}\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
	}
	post := func(body string, lines ...string) string {
		return "POST " + echo + " HTTP/1.1\r\nHost: {host}\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n" + body
	}
	const closing = "Connection: close"
	for _, c := range []struct {
		text      string
		status    int // 0: any 4xx or 501, or no answer at all
		forwarded int // -1: any number
	}{
		{get(user, closing, "Connection: Authorization"), 200, 1},
		{get(user, "Connection: close, AUTHORIZATION, x-lark-user-id"), 200, 1},
		{get(user, "Connection:", "Connection: authorization", "Connection: Authori, zation", closing), 200, 1},
		{get(user, "Connection: close,,authorization;q=1, \tAuthorization\t"), 200, 1},
		{get(user, closing, "Keep-Alive: Authorization", "TE: trailers, authorization", "Trailer: Authorization", "Proxy-Connection: Authorization"), 200, 1},
		{get(user, closing, "X_Lark_User_Id: "+bob, "x-lark_user-id: "+bob, "X-LARKSIDE-KEY: k", "Cookie: a=b", "Baggage: a=b"), 200, 1},
		{get(user, closing, "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http", "X-Forwarded-For: 1.2.3.4", "Forwarded: host=evil.example", "X-Original-URI: /open-apis/im/v1"), 200, 1},
		{get(user, closing, "Authorization: Bearer u-evil", "AUTHORIZATION: Basic eA==", "Proxy-Authorization: Basic eA=="), 200, 1},
		{get(user, user, closing), 200, 1},
		{get("x-lark-user-id:  \t"+alice+" \t ", closing), 200, 1},
		{get(user, "User-Agent: kube-probe/1.30", closing), 200, 1},
		{get("User-Agent: kube-probe/1.30", closing), 400, 0},
		{get(user, "X-Lark-User-Id: "+bob, closing), 400, 0},
		{get("X-Lark-User-Id: "+alice+","+bob, closing), 400, 0},
		{get("X-Lark-User-Id: "+alice+", ", closing), 400, 0},
		{get("X-Lark-User-Id:", closing), 400, 0},
		{get("X-Lark-User-Id: "+strings.Repeat("o", 4096), closing), 400, 0},
		{get("X-Lark-User-Id: \xcf\x81u_a", closing), 400, 0},
		{get("X-Lark-User-Id: "+alice+"\xff", closing), 400, 0},
		{get("X-Lark-User-Id: %6fu_a11ce00000000000000000000000000a", closing), 400, 0},
		{get("X_Lark_User_Id: "+alice, closing), 400, 0},
		{get("X-Lark-User-Id : "+alice, closing), 0, 0},
		{get(" X-Lark-User-Id: "+alice, closing), 0, 0},
		{get("X-Lark-User-Id: "+alice+"\x00", closing), 0, 0},
		{get("X-Lark-User-Id: "+alice+"\rX-Y: 1", closing), 0, 0},
		// obs-fold: net/http joins the lines, and a list is no user.
		{get("X-Lark-User-Id: "+alice, " "+bob, closing), 0, 0},
		{get("X-Padding: a", "\tX-Lark-User-Id: "+alice, closing), 400, 0},
		// Two readings of where a request ends.
		{post("0\r\n\r\n", user, closing, "Transfer-Encoding: chunked, identity"), 0, 0},
		{post("0\r\n\r\n", user, closing, "Transfer-Encoding: identity"), 0, 0},
		{post("0\r\n\r\n", user, closing, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 0, 0},
		{post("0\r\n\r\n", user, closing, "Transfer-Encoding: xchunked"), 0, 0},
		{post("0\r\n\r\n", user, closing, "Transfer-Encoding:\vchunked"), 0, 0},
		{post("xx", user, closing, "Content-Length: 1", "Content-Length: 2"), 0, 0},
		{post("xx", user, closing, "Content-Length: +2"), 0, 0},
		{post("xx", user, closing, "Content-Length: 0x2"), 0, 0},
		{post("xx", user, closing, "Content-Length: 1, 1"), 0, 0},
		{post("1\nx\n0\n\n", user, closing, "Transfer-Encoding: chunked"), 0, -1},
		{post("1;ext=\nx\r\n0\r\n\r\n", user, closing, "Transfer-Encoding: chunked"), 0, -1},
		{post("-1\r\nx\r\n0\r\n\r\n", user, closing, "Transfer-Encoding: chunked"), 0, -1},
		{post("fffffffffffffffff\r\nx\r\n0\r\n\r\n", user, closing, "Transfer-Encoding: chunked"), 0, -1},
		{post("1\r\nx\r\n0\r\n\r\nGET /open-apis/im/v1/chats HTTP/1.1\r\nHost: {host}\r\n"+user+"\r\n\r\n", user, closing, "Transfer-Encoding: chunked", "Content-Length: 4"), 200, 1},
		{post("1;a=b;c=\"d\"\r\nx\r\n0\r\n\r\n", user, closing, "Transfer-Encoding: chunked"), 200, 1},
		{post("1\r\nx\r\n0\r\nAuthorization: Bearer u-evil\r\nX-Lark-User-Id: "+bob+"\r\n\r\n", user, closing, "Transfer-Encoding: chunked", "Trailer: Authorization, X-Lark-User-Id"), 200, 1},
		// HTTP of other times.
		{"GET " + echo + " HTTP/1.0\r\nHost: {host}\r\n" + user + "\r\n\r\n", 200, 1},
		{"GET " + echo + " HTTP/1.0\r\n" + user + "\r\n\r\n", 403, 0},
		{"GET " + echo + " HTTP/1.0\r\nHost: {host}\r\n" + user + "\r\nConnection: keep-alive\r\n\r\nGET " + echo + " HTTP/1.1\r\nHost: {host}\r\nX-Lark-User-Id: " + bob + "\r\n\r\n", 200, 1},
		{"POST " + echo + " HTTP/1.0\r\nHost: {host}\r\n" + user + "\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET " + echo + " HTTP/1.1\r\nHost: {host}\r\nX-Lark-User-Id: " + bob + "\r\n\r\n", 200, 1},
		{"POST " + echo + " HTTP/1.0\r\nHost: {host}\r\n" + user + "\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, 1},
		{"GET " + echo + "\r\n", 0, 0},
		{"GET " + echo + " HTTP/0.9\r\n\r\n", 0, 0},
		{"GET " + echo + " HTTP/3.0\r\nHost: {host}\r\n" + user + "\r\n\r\n", 0, 0},
		{"GET " + echo + " HTTP/1.1\r\n" + user + "\r\n" + closing + "\r\n\r\n", 0, 0},
		{"GET " + echo + " HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n" + user + "\r\n\r\n", 0, 0},
		{"GE\x00T " + echo + " HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n\r\n", 0, 0},
		// Within the 64 KiB that a header may have, and 4 KiB that net/http adds.
		{get(user, closing, "X-Padding: "+strings.Repeat("a", 60<<10)), 200, 1},
		{get(user, closing, "X-Padding: "+strings.Repeat("a", 1<<20)), 431, 0},
		{get(user, closing, strings.Repeat("X-A: 1\r\n", 20_000)+"X-B: 1"), 431, 0},
		// Protocols that are none of ours.
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 0},
		{get(user, "Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), 200, 1},
		{get(user, "Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"), 200, 1},
		{"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n" + user + "\r\n\r\n", 405, 0},
		{"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n" + user + "\r\n\r\nGET ", 405, 0},
		{"CONNECT " + echo + " HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n" + user + "\r\n\r\n4\r\nGET \r\n0\r\n\r\n", 405, 0},
		{"TRACE " + echo + " HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n\r\n", 405, 0},
		// Targets.
		{"GET http://evil.example" + echo + " HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n" + closing + "\r\n\r\n", 400, 0},
		{"GET //evil.example" + echo + " HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n" + closing + "\r\n\r\n", 400, 0},
		{"OPTIONS * HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n" + closing + "\r\n\r\n", 400, 0},
		{"GET " + echo + "#/../../im HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n" + closing + "\r\n\r\n", 400, 0},
		{"GET /healthz/.." + echo + " HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n" + closing + "\r\n\r\n", 400, 0},
		{"GET /healthz%2f.." + echo + " HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n" + closing + "\r\n\r\n", 400, 0},
		{"GET /healthz HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/1.30\r\n" + user + "\r\n" + closing + "\r\n\r\n", 403, 0},
		{"GET /healthz;x HTTP/1.1\r\nHost: {host}\r\n" + user + "\r\n" + closing + "\r\n\r\n", 403, 0},
		{"GET " + echo + " HTTP/1.1\r\nHost: evil.example\r\n" + user + "\r\n" + closing + "\r\n\r\n", 403, 0},
	} {
		front.taken()
		answer := send(t, p.URL, c.text)
		got := status(answer)
		if c.status != 0 && got != c.status || c.status == 0 && got != 0 && got/100 != 4 && got != 501 && got != 505 {
			t.Errorf("%.200q: answer %.200q", c.text, answer)
		}
		if n := strings.Count(answer, "HTTP/1.1 ") + strings.Count(answer, "HTTP/1.0 "); n > 1 {
			t.Errorf("%.200q: %d answers", c.text, n)
		}
		calls := front.taken()
		if c.forwarded >= 0 && len(calls) != c.forwarded {
			t.Errorf("%.200q: Lark got %d requests", c.text, len(calls))
		}
		front.ofAlice(t, p, c.text, calls)
		front.unharmed(t, p, c.text)
	}
}

// S6, S7: the query is judged by nobody, so nothing can hide in it; Lark gets
// it byte by byte, however much it is.
func TestQueries(t *testing.T) {
	t.Parallel()
	p, front := begin(t, nil)
	var many strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&many, "a%d&", i)
	}
	for _, query := range []string{
		many.String() + "path=/open-apis/im/v1", "a;b=1&%zz&c=%", "user_id=" + bob + "&X-Lark-User-Id=" + bob, "?=?&&==", "x=/open-apis/../im",
	} {
		front.taken()
		send(t, p.URL, "GET "+echo+"?"+query+" HTTP/1.1\r\nHost: {host}\r\nX-Lark-User-Id: "+alice+"\r\nConnection: close\r\n\r\n")
		calls := front.taken()
		if len(calls) != 1 || calls[0].target != echo+"?"+query {
			t.Errorf("%.100q: Lark got %.200v", query, calls)
		}
		front.ofAlice(t, p, query, calls)
		// The same query does not make an allowed path of another.
		answer := send(t, p.URL, "GET /open-apis/im/v1/chats?"+query+" HTTP/1.1\r\nHost: {host}\r\nX-Lark-User-Id: "+alice+"\r\nConnection: close\r\n\r\n")
		if status(answer) != 403 || len(front.taken()) != 0 {
			t.Errorf("%.100q: answer %.200q", query, answer)
		}
	}
	front.unharmed(t, p, "queries")
}

// S30: a flood of requests that announce a body and are refused.
func TestExpectFlood(t *testing.T) {
	t.Parallel()
	p, front := begin(t, nil)
	stop := front.attack("/open-apis/apaas/v1/refuse", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Connection", "close")
		rw.WriteHeader(http.StatusExpectationFailed)
	})
	defer stop()
	const flood = 1000
	slots := make(chan bool, 50)
	done := make(chan string, flood)
	for range flood {
		slots <- true
		conn := process.Dial(t, p.URL)
		go func() {
			defer func() { conn.Close(); <-slots }()
			fmt.Fprintf(conn, "POST /open-apis/apaas/v1/refuse HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: %s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", process.Host(p.URL), alice)
			line, _ := bufio.NewReader(conn).ReadString('\n')
			done <- line
		}()
		if len(done)%100 == 50 {
			front.unharmed(t, p, "part of the flood")
		}
	}
	for range flood {
		if line := <-done; !strings.Contains(line, " 417 ") {
			t.Fatalf("answer %q", line)
		}
	}
	front.unharmed(t, p, "a flood of Expect")
}

// S30: callers that leave in the middle of an answer, or of their own request.
func TestAborted(t *testing.T) {
	t.Parallel()
	p, front := begin(t, nil)
	for i := range 60 {
		conn := process.Dial(t, p.URL)
		switch i % 3 {
		case 0: // an answer of which nothing but the beginning is read
			fmt.Fprintf(conn, "GET /open-apis/apaas/v1/larktest/bytes?n=10000000 HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: %s\r\n\r\n", process.Host(p.URL), alice)
			io.ReadFull(conn, make([]byte, 100))
		case 1: // a body that ends before its length
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: %s\r\nContent-Length: 1000000\r\n\r\nabc", echo, process.Host(p.URL), alice)
		case 2: // a second request begun behind the first
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: %s\r\n\r\nGET %s HTTP/1.1\r\nX-Lark-User-Id: %s\r\n", echo, process.Host(p.URL), alice, echo, bob)
			io.ReadFull(conn, make([]byte, 10))
		}
		conn.(*net.TCPConn).SetLinger(0) // a reset
		conn.Close()
		front.unharmed(t, p, fmt.Sprint("abort ", i))
	}
}

// S30: headers that do not come are not waited for on any listener, nor are
// bodies; a stream in which nothing happens is.
func TestSlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the real limits, half a minute")
	}
	t.Parallel()
	p, front := begin(t, map[string]string{"CONSENT_LISTEN": "127.0.0.1:0", "PUBLIC_URL": "http://localhost:1", "EVENTS": "http", "EVENT_TOKEN": "event-token", "EVENT_ENCRYPT_KEY": "event-encrypt-key"})
	for name, c := range map[string]struct {
		url, text string
		within    time.Duration
	}{
		"header, proxy":   {p.URL, "GET / HTTP/1.1\r\nHost: {host}\r\nX-", 10 * time.Second},
		"header, admin":   {p.AdminURL, "GET / HTTP/1.1\r\nHost: {host}\r\nX-", 10 * time.Second},
		"header, consent": {p.ConsentURL, "GET / HTTP/1.1\r\nHost: {host}\r\nX-", 10 * time.Second},
		"nothing, proxy":  {p.URL, "", 10 * time.Second},
		"body, proxy":     {p.URL, "POST " + echo + " HTTP/1.1\r\nHost: {host}\r\nX-Lark-User-Id: " + alice + "\r\nContent-Length: 10\r\n\r\nabc", 30 * time.Second},
		"body, admin":     {p.AdminURL, "POST /api/v1/consents HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{", 30 * time.Second},
		"body, consent":   {p.ConsentURL, "POST /consent/events HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{", 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := process.Dial(t, c.url)
			conn.SetDeadline(time.Now().Add(c.within + process.Patience/2))
			io.WriteString(conn, strings.ReplaceAll(c.text, "{host}", process.Host(c.url)))
			if _, err := io.ReadAll(conn); err != nil {
				if e, ok := err.(net.Error); ok && e.Timeout() {
					t.Errorf("still open after %v", c.within+process.Patience/2)
				}
			}
		})
	}
	t.Run("a silent stream", func(t *testing.T) {
		t.Parallel()
		stop := front.attack("/open-apis/apaas/v1/silent", func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(rw, "data: 1\n\n")
			rw.(http.Flusher).Flush()
			select {
			case <-time.After(33 * time.Second): // longer than each limit above
				io.WriteString(rw, "data: 2\n\n")
			case <-r.Context().Done():
			}
		})
		defer stop()
		a := p.Get(t, "/open-apis/apaas/v1/silent", alice)
		if a.Body != "data: 1\n\ndata: 2\n\n" {
			t.Errorf("got %q", a.Body)
		}
	})
}
