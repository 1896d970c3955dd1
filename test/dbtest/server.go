package dbtest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"larkside/test/port"
)

// Server is a PostgreSQL server of a test's own, for tests that stop it, limit
// it or fail over to a standby.
type Server struct {
	// Port is where it listens on 127.0.0.1.
	Port int

	t        testing.TB
	bin      string
	dir      string
	settings []string
	uid, gid int // whom it runs as; 0: as this process
	running  *exec.Cmd
	ended    chan struct{}
	stopped  atomic.Bool // on purpose
	log      bytes.Buffer
}

// StartServer starts an empty server with settings, such as
// "max_connections=20", and stops it when the test ends. It skips the test where
// there are no server binaries.
func StartServer(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := newServer(t, settings)
	if out, err := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.run()
	return s
}

// StartStandby starts a hot standby of s with the same settings.
func (s *Server) StartStandby(t testing.TB) *Server {
	t.Helper()
	standby := newServer(t, s.settings)
	out, err := standby.command("pg_basebackup", "-D", standby.data(), "-d", s.url(), "-R", "-c", "fast", "-X", "stream", "--no-sync").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	standby.run()
	return standby
}

// Promote makes a standby the primary, and returns when it takes writes.
func (s *Server) Promote() {
	s.t.Helper()
	if out, err := s.command("pg_ctl", "promote", "-w", "-D", s.data()).CombinedOutput(); err != nil {
		s.t.Fatalf("pg_ctl promote: %v\n%s", err, out)
	}
}

func newServer(t testing.TB, settings []string) *Server {
	t.Helper()
	s := &Server{Port: reservedPort(t), t: t, bin: serverBinaries(t), dir: TempDir(t), settings: settings}
	if os.Getuid() == 0 {
		s.become("postgres") // initdb refuses to run as root
	}
	return s
}

func serverBinaries(t testing.TB) string {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if path, err := exec.LookPath("initdb"); err == nil {
		candidates = append(candidates, filepath.Dir(path))
	}
	if dir := os.Getenv("LARKSIDE_TEST_PGBIN"); dir != "" {
		candidates = append(candidates, dir)
	}
	for i := len(candidates) - 1; i >= 0; i-- {
		// Some systems have only a part of the programs on the path.
		_, err1 := os.Stat(filepath.Join(candidates[i], "initdb"))
		_, err2 := os.Stat(filepath.Join(candidates[i], "pg_basebackup"))
		if err1 == nil && err2 == nil {
			return candidates[i]
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no PostgreSQL server binaries; ./test/run sets LARKSIDE_TEST_PGBIN")
	}
	t.Skip("no PostgreSQL server binaries: set LARKSIDE_TEST_PGBIN")
	return ""
}

// reservedPort is nobody else's, also while the server is down.
func reservedPort(t testing.TB) int {
	address, err := netip.ParseAddrPort(port.Address(t))
	if err != nil {
		t.Fatal(err)
	}
	return int(address.Port())
}

func (s *Server) become(name string) {
	u, err := user.Lookup(name)
	if err != nil {
		s.t.Skipf("PostgreSQL does not run as root, and there is no user to run it as: %v", err)
	}
	s.uid, _ = strconv.Atoi(u.Uid)
	s.gid, _ = strconv.Atoi(u.Gid)
	if err := os.Chown(s.dir, s.uid, s.gid); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	if s.uid != 0 {
		runAs(cmd, s.uid, s.gid)
	}
	return cmd
}

func (s *Server) run() {
	s.t.Helper()
	s.Start()
	s.t.Cleanup(s.Stop)
	s.await()
}

// Start starts a server that was stopped. It does not wait until connections are
// taken.
func (s *Server) Start() {
	s.t.Helper()
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.Port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
		"-c", "max_connections=200", "-c", "shared_buffers=16MB",
		// A shutdown waits for connections that hang while they log in.
		"-c", "authentication_timeout=2s"}
	for _, setting := range s.settings { // the last one of a name counts
		args = append(args, "-c", setting)
	}
	cmd := s.command("postgres", args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &s.log, &s.log, 5*time.Second
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("starting PostgreSQL: %v", err)
	}
	ended := make(chan struct{})
	s.running, s.ended = cmd, ended
	s.stopped.Store(false)
	go func() {
		err := cmd.Wait()
		if !s.stopped.Load() {
			s.t.Errorf("PostgreSQL ended by itself: %v\n%s", err, s.log.Bytes()[max(0, s.log.Len()-2000):])
		}
		close(ended)
	}()
}

// Stop is pg_ctl -m immediate: what was committed is found again by recovery.
func (s *Server) Stop() {
	s.stopped.Store(true)
	s.running.Process.Signal(syscall.SIGQUIT)
	<-s.ended
}

// Discard stops a server that a test is done with before its end, and removes
// its files.
func (s *Server) Discard() {
	s.t.Helper()
	s.Stop()
	if err := os.RemoveAll(s.data()); err != nil {
		s.t.Fatal(err)
	}
}

// await returns when the server takes connections.
func (s *Server) await() {
	s.t.Helper()
	db := s.DB(s.t).SQL(s.t)
	Eventually(s.t, "PostgreSQL takes connections", func() bool { return db.PingContext(context.Background()) == nil })
}

// Limited returns a database that belongs to a role which may have n
// connections at once.
func (s *Server) Limited(t testing.TB, n int) *DB {
	t.Helper()
	admin := s.DB(t).SQL(t)
	for _, statement := range []string{fmt.Sprintf("CREATE ROLE limited LOGIN CONNECTION LIMIT %d", n), "CREATE DATABASE limited OWNER limited"} {
		if _, err := admin.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return &DB{URL: "postgres://limited@" + s.Address() + "/limited?sslmode=disable", Postgres: true, Keys: keys(t)}
}

// Eventually returns when done reports true. After 30 s the test has failed.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		if done() {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// Address is host:port.
func (s *Server) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

func (s *Server) url() string { return ServerURL(s.Address()) }

// ServerURL is the URL of the database of a [Server] that is reached at address,
// which may be a comma-separated list.
func ServerURL(address string) string {
	return "postgres://postgres@" + address + "/postgres?sslmode=disable"
}

// DB is the server's database.
func (s *Server) DB(t testing.TB) *DB { return &DB{URL: s.url(), Postgres: true, Keys: keys(t)} }
