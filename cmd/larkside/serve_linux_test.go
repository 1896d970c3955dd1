package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
	"larkside/test/dbtest"
	"larkside/test/port"
	"larkside/test/process"
)

// A listener that ends is noticed at once, also while the database is awaited:
// otherwise the process would live on without it.
func TestListenerEndsWhileTheDatabaseIsAwaited(t *testing.T) {
	address := port.Address(t)
	cfg, err := settings.Parse([]string{"LARKSIDE_APP_ID=cli_a", "LARKSIDE_APP_SECRET=secret-of-the-app", "LARKSIDE_LISTEN=" + address,
		"LARKSIDE_ADMIN_LISTEN=127.0.0.1:0", "LARKSIDE_ENCRYPTION_KEYS=" + process.Keys,
		"LARKSIDE_DATABASE_URL=postgres://u@127.0.0.1:1/x?sslmode=disable"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error)
	go func() { ended <- run(ctx, cfg, operate.Build{}, slog.New(slog.DiscardHandler), nil) }()
	dbtest.Eventually(t, "the proxy listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err := breakListener(address); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "serving on the proxy listener") {
		t.Errorf("run ended with %v", err)
	}
}

// breakListener makes accept fail on the socket of this process.
func breakListener(address string) error {
	for fd := range 1024 {
		name, err := syscall.Getsockname(fd)
		listening, _ := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
		if a, ok := name.(*syscall.SockaddrInet4); err == nil && ok && netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String() == address && listening == 1 {
			return syscall.Shutdown(fd, syscall.SHUT_RDWR)
		}
	}
	return errors.New("no such listener")
}
