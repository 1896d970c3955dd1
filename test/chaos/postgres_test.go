package chaos

import (
	"bytes"
	"database/sql"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/seal"
	"larkside/test/dbtest"
	"larkside/test/port"
	"larkside/test/process"
)

// postgres is a PostgreSQL server of our own, since this test restarts it.
type postgres struct {
	t       *testing.T
	bin     string
	dir     string
	address string
	as      *syscall.Credential
	running *exec.Cmd
	ended   chan struct{}
	stopped atomic.Bool // on purpose
	log     bytes.Buffer
}

// startPostgres skips the test where there is no server to start.
func startPostgres(t *testing.T) *postgres {
	t.Helper()
	p := &postgres{t: t, bin: serverBinaries(t), dir: dbtest.TempDir(t), address: port.Address(t)}
	if os.Getuid() == 0 {
		p.become(t, "postgres") // initdb refuses to run as root
	}
	data := filepath.Join(p.dir, "data")
	if out, err := p.command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	p.start()
	t.Cleanup(func() { p.stop() })
	p.await()
	return p
}

func serverBinaries(t *testing.T) string {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if dir := os.Getenv("LARKSIDE_TEST_PGBIN"); dir != "" {
		candidates = append(candidates, dir)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		candidates = append(candidates, filepath.Dir(path))
	}
	for i := len(candidates) - 1; i >= 0; i-- {
		if _, err := os.Stat(filepath.Join(candidates[i], "initdb")); err == nil {
			return candidates[i]
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no PostgreSQL server binaries; ./test/run sets LARKSIDE_TEST_PGBIN")
	}
	t.Skip("no PostgreSQL server binaries: set LARKSIDE_TEST_PGBIN")
	return ""
}

func (p *postgres) become(t *testing.T, name string) {
	u, err := user.Lookup(name)
	if err != nil {
		t.Skipf("PostgreSQL does not run as root, and there is no user to run it as: %v", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	p.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(p.dir, uid, gid); err != nil {
		t.Fatal(err)
	}
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.as}
	return cmd
}

func (p *postgres) start() {
	p.t.Helper()
	_, number, _ := net.SplitHostPort(p.address)
	cmd := p.command("postgres", "-D", filepath.Join(p.dir, "data"), "-p", number,
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
		"-c", "max_connections=200", "-c", "shared_buffers=16MB",
		// A shutdown waits for connections that hang while they log in.
		"-c", "authentication_timeout=2s")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &p.log, &p.log, 5*time.Second
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("starting PostgreSQL: %v", err)
	}
	ended := make(chan struct{})
	p.running, p.ended = cmd, ended
	p.stopped.Store(false)
	go func() {
		err := cmd.Wait()
		if !p.stopped.Load() {
			p.t.Errorf("PostgreSQL ended by itself: %v\n%s", err, p.log.Bytes()[max(0, p.log.Len()-2000):])
		}
		close(ended)
	}()
}

// stop is pg_ctl -m immediate: what was committed is found again by recovery.
func (p *postgres) stop() {
	p.stopped.Store(true)
	p.running.Process.Signal(syscall.SIGQUIT)
	<-p.ended
}

// await returns when the server takes connections.
func (p *postgres) await() {
	p.t.Helper()
	db := p.db().SQL(p.t)
	process.Eventually(p.t, "PostgreSQL takes connections", func() bool { return db.Ping() == nil })
}

func (p *postgres) db() *dbtest.DB { return p.through(p.address) }

// through is the database as it is reached by way of a cutter.
func (p *postgres) through(address string) *dbtest.DB {
	ring, err := seal.ParseKeyring(session.NewSecret(process.Keys))
	if err != nil {
		p.t.Fatal(err)
	}
	return &dbtest.DB{URL: "postgres://postgres@" + address + "/postgres?sslmode=disable", Postgres: true, Keys: ring}
}

// count is a look at the sessions, once the server is up.
func count(t *testing.T, db *sql.DB, state string) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM sessions WHERE state = $1", state).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
