package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func mustListen(t *testing.T, a address) net.Listener {
	t.Helper()
	l, err := listen(t.Context(), "LISTEN", a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestListenOnAnyPort(t *testing.T) {
	l := mustListen(t, address{"tcp", "127.0.0.1:0"})
	if _, port, _ := net.SplitHostPort(l.Addr().String()); port == "0" {
		t.Errorf("address %s", l.Addr())
	}
}

// The message has to say which setting to change.
func TestPortInUse(t *testing.T) {
	l := mustListen(t, address{"tcp", "127.0.0.1:0"})
	_, err := listen(t.Context(), "ADMIN_LISTEN", address{"tcp", l.Addr().String()})
	want := "LARKSIDE_ADMIN_LISTEN: " + l.Addr().String() + " is in use by another process; stop that or choose another address"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	l := mustListen(t, address{"unix", path})
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
	_, err = listen(t.Context(), "LISTEN", address{"unix", path})
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
	dead := mustListen(t, address{"unix", path})
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	mustListen(t, address{"unix", path})
}

func TestOtherFilesAreNotReplaced(t *testing.T) {
	path := writeFile(t, "precious")
	_, err := listen(t.Context(), "LISTEN", address{"unix", path})
	if err == nil || !strings.Contains(err.Error(), "exists and is not a socket") {
		t.Errorf("error %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("content %q, %v", content, err)
	}
}

func TestListenElsewhere(t *testing.T) {
	_, err := listen(t.Context(), "LISTEN", address{"unix", filepath.Join(t.TempDir(), "no", "proxy.sock")})
	if err == nil || !strings.HasPrefix(err.Error(), "LARKSIDE_LISTEN: ") {
		t.Errorf("error %v", err)
	}
}
