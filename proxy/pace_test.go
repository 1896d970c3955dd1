package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"larkside/proxy"
)

func impatient(patience time.Duration) func(*proxy.Config) {
	return func(c *proxy.Config) { c.BodyPatience = patience }
}

// S30: a body that does not come holds nothing for ever, whatever becomes of
// the request.
func TestSlowBodies(t *testing.T) {
	user := "X-Lark-User-Id: ou_1\r\n"
	for name, c := range map[string]struct{ path, header, body string }{
		"kept":                {table, user + "Content-Length: 10\r\n", "abc"},
		"nothing of it":       {table, user + "Content-Length: 10\r\n", ""},
		"too large to keep":   {table, user + "Content-Length: 1000000\r\n", "abc"},
		"chunked":             {table, user + "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n"},
		"a chunk's head":      {table, user + "Transfer-Encoding: chunked\r\n", "3"},
		"without a user":      {mail, "Authorization: Bearer own\r\nContent-Length: 10\r\n", "abc"},
		"a refusal":           {mail, user + "Content-Length: 10\r\n", "abc"},
		"a refusal, chunked":  {mail, user + "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n"},
		"an app's token call": {"/open-apis/auth/v3/tenant_access_token/internal", "Content-Length: 10\r\n", "abc"},
		"no token yet":        {table, "X-Lark-User-Id: ou_none\r\nContent-Length: 10\r\n", "abc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, impatient(100*time.Millisecond))
			conn := b.dial()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", c.path, b.addr, c.header, c.body)
			// The end of the connection, not its deadline in this test.
			if _, err := io.ReadAll(conn); isTimeout(err) {
				t.Error("the connection is still open")
			}
			b.get(table)
			whole := slices.DeleteFunc(b.lark.requests(), func(got received) bool { return got.broken })
			if len(whole) != 1 || whole[0].method != "GET" {
				t.Fatalf("upstream took these for whole: %+v", whole)
			}
			sees(t, whole[0], user1)
		})
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// A byte now and then is as good as none.
func TestDrippingBody(t *testing.T) {
	b := start(t, impatient(300*time.Millisecond))
	conn := b.dial()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nContent-Length: 1000000\r\n\r\n", table, b.addr)
	ended := make(chan bool)
	go func() {
		io.Copy(io.Discard, conn)
		close(ended)
	}()
	drip := time.NewTicker(20 * time.Millisecond)
	defer drip.Stop()
	for sent := 0; ; sent++ {
		select {
		case <-drip.C:
			conn.Write([]byte("x")) // fails when it has ended
		case <-ended:
			if sent >= 500 {
				t.Errorf("ended after %d bytes", sent)
			}
			return
		}
	}
}

// What moves is not cut, however long it takes; nor is the answer behind it.
func TestLongUpload(t *testing.T) {
	const patience = time.Second
	b := start(t, impatient(patience))
	arrived := make(chan int, 1)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 4<<10)
		for {
			n, err := io.ReadFull(r.Body, buf)
			if err != nil {
				break
			}
			arrived <- n
		}
		fmt.Fprint(w, "done")
	})
	conn := b.dial()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nTransfer-Encoding: chunked\r\n\r\n", table, b.addr)
	part := strings.Repeat("x", 4<<10)
	for began := time.Now(); time.Since(began) < 3*patience; {
		fmt.Fprintf(conn, "%x\r\n%s\r\n", len(part), part)
		select {
		case <-arrived:
		case <-time.After(10 * time.Second):
			t.Fatal("what was sent did not arrive")
		}
	}
	io.WriteString(conn, "0\r\n\r\n")
	if a := b.read(bufio.NewReader(conn), "POST"); a.StatusCode != 200 || a.body != "done" {
		t.Errorf("answer %d %q", a.StatusCode, a.body)
	}
}

// The time in which Lark takes nothing of a body, or has not answered yet, is
// not the caller's.
func TestSlowLarkIsNotTheCallersFault(t *testing.T) {
	t.Parallel()
	// Longer than a busy machine keeps the caller from sending.
	const patience = time.Second
	b := start(t, impatient(patience))
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(patience + patience/2)
		n, err := io.Copy(io.Discard, r.Body)
		<-time.After(patience + patience/2)
		fmt.Fprint(w, n, err)
	})
	for _, size := range []int{10, 8 << 20} { // more than any socket's buffer
		if a := b.post(table, strings.Repeat("x", size)); a.body != fmt.Sprint(size, " <nil>") {
			t.Errorf("%d bytes: answer %d %q", size, a.StatusCode, a.body)
		}
	}
}
