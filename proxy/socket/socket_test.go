package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// networks are what there are sockets for.
var networks = []string{"tcp", "unix"}

// pair returns a Conn and the connection's other end.
func pair(t testing.TB, network string) (here *Conn, there net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); there.Close() })
	return New(dialled), there
}

// noise is n bytes, no two stretches of them alike.
func noise(n int) []byte {
	b := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// What there is no room for waits for it, and comes whole and in order, in both
// directions at a time.
func TestMuch(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			here, there := pair(t, network)
			sent := noise(8 << 20)
			go func() {
				io.Copy(there, there)
				there.Close()
			}()
			wrote := make(chan error, 1)
			go func() {
				n, err := here.Write(sent)
				if err == nil && n != len(sent) {
					err = io.ErrShortWrite
				}
				wrote <- errors.Join(err, here.CloseWrite())
			}()
			got, err := io.ReadAll(here)
			if err := errors.Join(err, <-wrote); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came back of %d, or others", len(got), len(sent))
			}
		})
	}
}

// With Await, Write returns when the answer is there, and not before.
func TestAwait(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			here, there := pair(t, network)
			here.Await = true
			asked, answer := make(chan struct{}), make(chan struct{})
			go func() {
				io.ReadFull(there, make([]byte, len("question")))
				close(asked)
				<-answer
				io.WriteString(there, "answer")
			}()
			wrote := make(chan error, 1)
			go func() {
				n, err := here.Write([]byte("question"))
				if n != len("question") && err == nil {
					err = io.ErrShortWrite
				}
				wrote <- err
			}()
			<-asked
			for range 100 { // it has had every chance to return
				runtime.Gosched()
			}
			select {
			case err := <-wrote:
				t.Fatalf("returned before there was an answer: %v", err)
			default:
			}
			close(answer)
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 16)
			if n, err := here.Read(b); string(b[:n]) != "answer" || err != nil {
				t.Errorf("read %q, %v", b[:n], err)
			}
		})
	}
}

// A question for which there is no room at once is written whole, and does not
// wait for the answer after that.
func TestAwaitOfMuch(t *testing.T) {
	here, there := pair(t, "tcp")
	here.Await = true
	sent := noise(8 << 20)
	wrote := make(chan error, 1)
	go func() {
		_, err := here.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(there, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes came")
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// What ends the wait for an answer is told by the Read after it: all of the
// question is out.
func TestAwaitEnds(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		end      func(here *Conn, there net.Conn)
		want     error
	}{
		{"the deadline", func(here *Conn, _ net.Conn) { here.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		{"the end of the connection", func(_ *Conn, there net.Conn) { there.Close() }, io.EOF},
		{"a reset", func(_ *Conn, there net.Conn) {
			there.(*net.TCPConn).SetLinger(0)
			there.Close()
		}, syscall.ECONNRESET},
		{"closing it", func(here *Conn, _ net.Conn) { here.Close() }, net.ErrClosed},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			here, there := pair(t, "tcp")
			here.Await = true
			go func() {
				io.ReadFull(there, make([]byte, 1))
				tc.end(here, there)
			}()
			if n, err := here.Write([]byte("?")); n != 1 || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
			if n, err := here.Read(make([]byte, 1)); n != 0 || !errors.Is(err, tc.want) {
				t.Errorf("read %d, %v, want %v", n, err, tc.want)
			}
		})
	}
}

// Errors are those of package net: net/http looks at them.
func TestErrors(t *testing.T) {
	past := time.Unix(1, 0)
	for _, tc := range []struct {
		sentence string
		op       string
		await    bool
		before   func(here *Conn, there net.Conn)
		want     error
		timeout  bool
	}{
		{"reading past the deadline", "read", false, func(c *Conn, _ net.Conn) { c.SetReadDeadline(past) }, os.ErrDeadlineExceeded, true},
		{"writing past the deadline", "write", false, func(c *Conn, _ net.Conn) { c.SetWriteDeadline(past) }, os.ErrDeadlineExceeded, true},
		{"asking past the deadline of reading", "write", true, func(c *Conn, _ net.Conn) { c.SetReadDeadline(past) }, os.ErrDeadlineExceeded, true},
		{"reading a closed one", "read", false, func(c *Conn, _ net.Conn) { c.Close() }, net.ErrClosed, false},
		{"writing to a closed one", "write", false, func(c *Conn, _ net.Conn) { c.Close() }, net.ErrClosed, false},
		{"asking a closed one", "write", true, func(c *Conn, _ net.Conn) { c.Close() }, net.ErrClosed, false},
		{"reading a reset one", "read", false, reset, syscall.ECONNRESET, false},
		{"writing to a reset one", "write", false, reset, syscall.EPIPE, false},
		{"asking a reset one", "write", true, reset, syscall.EPIPE, false},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			here, there := pair(t, "tcp")
			here.Await = tc.await
			tc.before(here, there)
			call := here.Read
			if tc.op == "write" {
				call = here.Write
				if tc.want == syscall.EPIPE {
					here.Read(make([]byte, 1)) // it waits for the reset, and takes its error
				}
			}
			n, err := call(make([]byte, 1))
			var op *net.OpError
			if n != 0 || !errors.Is(err, tc.want) || !errors.As(err, &op) {
				t.Fatalf("%d, %v, want %v of package net", n, err, tc.want)
			}
			if op.Op != tc.op || op.Net != "tcp" || op.Addr == nil || op.Timeout() != tc.timeout {
				t.Errorf("%+v", op)
			}
		})
	}
}

func reset(_ *Conn, there net.Conn) {
	there.(*net.TCPConn).SetLinger(0)
	there.Close()
}

func TestEnd(t *testing.T) {
	here, there := pair(t, "tcp")
	there.Close()
	if n, err := here.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestNothing(t *testing.T) {
	here, _ := pair(t, "tcp")
	here.Await = true
	if n, err := here.Read(nil); n != 0 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	if n, err := here.Write(nil); n != 0 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
}

func TestSilent(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		before   func(here *Conn, there net.Conn)
		want     bool
	}{
		{"nothing has come", func(*Conn, net.Conn) {}, true},
		{"all that came was read", func(c *Conn, there net.Conn) {
			there.Write([]byte("x"))
			c.Read(make([]byte, 2))
		}, true},
		{"a byte", func(c *Conn, there net.Conn) {
			there.Write([]byte("ab"))
			c.Read(make([]byte, 1))
		}, false},
		{"the end", func(c *Conn, there net.Conn) {
			there.Write([]byte("a"))
			there.Close()
			c.Read(make([]byte, 1))
			c.Read(make([]byte, 1)) // it waits for the end
		}, false},
		{"the deadline is over", func(c *Conn, _ net.Conn) { c.SetReadDeadline(time.Unix(1, 0)) }, false},
		{"closed", func(c *Conn, _ net.Conn) { c.Close() }, false},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			here, there := pair(t, "tcp")
			tc.before(here, there)
			if got := here.Silent(); got != tc.want {
				t.Errorf("silent: %v", got)
			}
		})
	}
}

// What is no socket is used as it is, and never said to be silent.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	here := New(a)
	here.Await = true
	go io.Copy(b, b)
	if n, err := here.Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if n, err := here.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	if here.Silent() {
		t.Error("silent")
	}
	if err := here.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func TestAllocatesNothing(t *testing.T) {
	here, there := pair(t, "tcp")
	go io.Copy(there, there)
	b := make([]byte, 64)
	for _, await := range []bool{false, true} {
		here.Await = await
		if n := testing.AllocsPerRun(100, func() { exchange(t, here, b) }); n > 0 {
			t.Errorf("with Await %v: %v allocations", await, n)
		}
	}
}

func exchange(t testing.TB, c net.Conn, b []byte) {
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
}

// An exchange with a local process, and with package net for comparison.
func BenchmarkExchange(b *testing.B) {
	for _, kind := range []string{"net", "socket", "await"} {
		b.Run(kind, func(b *testing.B) {
			here, there := pair(b, "tcp")
			go io.Copy(there, there)
			here.Await = kind == "await"
			var c net.Conn = here
			if kind == "net" {
				c = here.Conn
			}
			buffer := make([]byte, 1024)
			b.ReportAllocs()
			for b.Loop() {
				exchange(b, c, buffer)
			}
		})
	}
}
