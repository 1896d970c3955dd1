package port

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
)

// Connections are refused before a server listens at a reserved address, and
// after it has stopped.
func TestAddress(t *testing.T) {
	address := Address(t)
	refused := func() {
		t.Helper()
		if conn, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("want a refused connection, got %v, %v", conn, err)
		}
	}
	refused()
	for range 3 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		l.Close()
		refused()
	}
}

// The system gives the port to nobody who doesn't ask for it, even to one who
// leaves it no other choice.
func TestReserved(t *testing.T) {
	number, release, err := reserve()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	choose := func(_, _ string, raw syscall.RawConn) error {
		const ipLocalPortRange = 51 // Linux 6.3
		var err error
		raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, number<<16|number)
		})
		return err
	}
	listen := func() error {
		l, err := (&net.ListenConfig{Control: choose}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err == nil {
			l.Close()
		}
		return err
	}
	dial := func() error {
		conn, err := (&net.Dialer{Control: choose}).Dial("tcp", l.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err
	}
	err = listen()
	if errors.Is(err, syscall.ENOPROTOOPT) {
		t.Skip("this kernel can't be asked for a port out of a range")
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a listener: %v", err)
	}
	if err := dial(); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("a connection: %v", err)
	}
	release()
	if err := listen(); err != nil {
		t.Errorf("a listener, once it is released: %v", err)
	}
}
