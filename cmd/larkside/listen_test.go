package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"larkside/cmd/larkside/settings"
)

func mustListen(t *testing.T, a settings.Address) net.Listener {
	t.Helper()
	l, err := listen(t.Context(), "LISTEN", a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestListenOnAnyPort(t *testing.T) {
	l := mustListen(t, settings.Address{Network: "tcp", Addr: "127.0.0.1:0"})
	if _, port, _ := net.SplitHostPort(l.Addr().String()); port == "0" {
		t.Errorf("address %s", l.Addr())
	}
}

// The message has to say which setting to change.
func TestPortInUse(t *testing.T) {
	l := mustListen(t, settings.Address{Network: "tcp", Addr: "127.0.0.1:0"})
	_, err := listen(t.Context(), "ADMIN_LISTEN", settings.Address{Network: "tcp", Addr: l.Addr().String()})
	want := "LARKSIDE_ADMIN_LISTEN: " + l.Addr().String() + " is in use by another process; stop that or choose another address"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	l := mustListen(t, settings.Address{Network: "unix", Addr: path})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	_, err = listen(t.Context(), "LISTEN", settings.Address{Network: "unix", Addr: path})
	if err == nil || !strings.Contains(err.Error(), "LARKSIDE_LISTEN: "+path+" is in use by another process") {
		t.Errorf("a second listener: %v", err)
	}
	l.Close()
	<-accepted
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket file stays behind: %v", err)
	}
}

// A process that was killed leaves its socket file behind.
func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	dead := mustListen(t, settings.Address{Network: "unix", Addr: path})
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	mustListen(t, settings.Address{Network: "unix", Addr: path})
}

func TestOtherFilesAreNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := listen(t.Context(), "LISTEN", settings.Address{Network: "unix", Addr: path})
	if err == nil || !strings.Contains(err.Error(), "exists and is not a socket") {
		t.Errorf("error %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("content %q, %v", content, err)
	}
}

func TestListenElsewhere(t *testing.T) {
	_, err := listen(t.Context(), "LISTEN", settings.Address{Network: "unix", Addr: filepath.Join(t.TempDir(), "no", "proxy.sock")})
	if err == nil || !strings.HasPrefix(err.Error(), "LARKSIDE_LISTEN: ") {
		t.Errorf("error %v", err)
	}
}

// A handler's deadline ends a write before patience does; the zero time ends
// none, and a later one than patience lets it be.
func TestDeadlineOfTheHandler(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		patience time.Duration
		set      func(net.Conn) error
	}{
		{"an earlier one", time.Hour, func(c net.Conn) error { return c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)) }},
		{"of both directions", time.Hour, func(c net.Conn) error { return c.SetDeadline(time.Now().Add(20 * time.Millisecond)) }},
		{"one that has passed", time.Hour, func(c net.Conn) error { return c.SetWriteDeadline(time.Unix(1, 0)) }},
		{"a later one", 20 * time.Millisecond, func(c net.Conn) error { return c.SetWriteDeadline(time.Now().Add(time.Hour)) }},
		{"none any more", 20 * time.Millisecond, func(c net.Conn) error {
			return errors.Join(c.SetDeadline(time.Now().Add(time.Hour)), c.SetWriteDeadline(time.Time{}))
		}},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			here, there := net.Pipe() // nobody reads
			defer here.Close()
			defer there.Close()
			conn := &patientConn{Conn: here, patience: tc.patience}
			if err := tc.set(conn); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := conn.Write([]byte("x"))
				ended <- err
			}()
			select {
			case err := <-ended:
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("still writes")
			}
		})
	}
}

// A deadline of the past does not stay when it is taken back.
func TestDeadlineTakenBack(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	go io.Copy(io.Discard, there)
	conn := &patientConn{Conn: here, patience: time.Hour}
	conn.SetWriteDeadline(time.Unix(1, 0))
	conn.SetWriteDeadline(time.Time{})
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}

// A client that reads nothing is let go of; one that reads slowly, and in all
// for much longer, is not.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	const patience = 300 * time.Millisecond
	for _, reads := range []bool{false, true} {
		ended := make(chan error, 1)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			part := make([]byte, 256<<10)
			for range 200 {
				if _, err := w.Write(part); err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		})}
		l := patientListener{mustListen(t, settings.Address{Network: "tcp", Addr: "127.0.0.1:0"}), patience}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if reads {
			go func() {
				tick := time.NewTicker(5 * time.Millisecond) // at 50 MiB, a second
				defer tick.Stop()
				for range tick.C {
					if _, err := io.CopyN(io.Discard, conn, 256<<10); err != nil {
						return
					}
				}
			}()
		}
		select {
		case err := <-ended:
			if reads != (err == nil) {
				t.Errorf("reads %v: %v", reads, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("reads %v: the server still writes", reads)
		}
	}
}

// deadlineConn notes the deadlines that it is given.
type deadlineConn struct {
	net.Conn
	writes []time.Time
}

func (c *deadlineConn) SetWriteDeadline(t time.Time) error {
	c.writes = append(c.writes, t)
	return nil
}

func (*deadlineConn) Write(b []byte) (int, error) { return len(b), nil }

// A deadline costs a timer: one that leaves a write its patience is kept.
func TestDeadlineIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := new(deadlineConn)
		conn := &patientConn{Conn: below, patience: time.Minute}
		for range 100 {
			conn.Write([]byte("x"))
			conn.SetWriteDeadline(time.Time{}) // as net/http does
			if left := time.Until(below.writes[len(below.writes)-1]); left < time.Minute || left > 75*time.Second {
				t.Fatalf("a write has %v", left)
			}
			time.Sleep(time.Second)
		}
		if n := len(below.writes); n != 7 {
			t.Errorf("the deadline was set %d times in 100 s, want once in 16 s", n)
		}
	})
}
