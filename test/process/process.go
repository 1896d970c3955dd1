// Package process runs the real larkside for tests: the binary, its
// listeners, its log, signals and exit statuses, one replica or several.
//
//	func TestMain(m *testing.M) { os.Exit(process.Main(m)) }
//
//	func TestCall(t *testing.T) {
//		p := process.Seeded(t, process.Options{}, larktest.Alice)
//		a := p.Get(t, "/open-apis/apaas/v1/apps", larktest.Alice)
//		larktest.NoViolations(t, p.Lark)
//	}
//
// Each process ends with its test. Whatever a test is about, its log is looked
// through then for tokens, the app's secret, panics and data races: see
// [Process.Log]. Package inprocess is for tests of Larkside's parts, without a
// process.
package process

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// Patience bounds every wait of this package for something that should come at
// once. It is long for the sake of loaded machines; nothing waits for it to
// pass, but what fails.
const Patience = 30 * time.Second

// Options say how a process is started. The zero value is a larkside for the
// emulator's default app that has no emulator: give it one.
type Options struct {
	// Lark is what it takes for Lark; nil: OPEN_URL and ACCOUNTS_URL are as Env
	// says, or the real ones.
	Lark *larktest.Platform
	// AppID and AppSecret are the app; empty: the emulator's default app.
	AppID, AppSecret string
	// DB is its database, from [Each], [SQLite] or [Postgres], and may be shared
	// by several processes on PostgreSQL. Nil: a SQLite file of its own, with the
	// key file that larkside makes.
	DB *dbtest.DB
	// Env are more settings, by their names without LARKSIDE_. They win over
	// what follows from the other fields. An empty value leaves the variable out.
	Env map[string]string
	// Environ are more variables, NAME=value. Nothing else is inherited but the
	// PATH.
	Environ []string
	// Program is the file to run. Empty: that of [Binary].
	Program string
	// Args is the command line; none: serve.
	Args []string
	// Unready makes Start return when the listeners are open, without waiting
	// for the database: for a process that is not to become ready yet.
	Unready bool
	// Ingress stands in front of the consent listener, where the emulator's
	// default app has its callback, and leads to the process that was started
	// last.
	Ingress *Balancer
}

// environ is the process's environment, sorted.
func (o Options) environ(t testing.TB) []string {
	env := map[string]string{
		"APP_ID":     orElse(o.AppID, larktest.AppID),
		"APP_SECRET": orElse(o.AppSecret, larktest.AppSecret),
		"LISTEN":     "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0",
		"LOG_LEVEL": "debug", "LOG_FORMAT": "json",
	}
	if o.Lark != nil {
		env["OPEN_URL"], env["ACCOUNTS_URL"] = o.Lark.URL, o.Lark.URL
	}
	if o.DB != nil {
		env["DATABASE_URL"], env["ENCRYPTION_KEYS"] = o.DB.URL, Keys
	} else {
		env["DATABASE_URL"] = "sqlite:" + dbtest.TempDir(t) + "/larkside.db"
	}
	if o.Ingress != nil {
		env["CONSENT_LISTEN"], env["PUBLIC_URL"] = "127.0.0.1:0", o.Ingress.URL
	}
	maps.Copy(env, o.Env)
	all := []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range env {
		if value != "" {
			all = append(all, "LARKSIDE_"+name+"="+value)
		}
	}
	all = append(all, o.Environ...)
	slices.Sort(all)
	return all
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// Process is a running larkside. Its methods may be called concurrently, except
// Restart.
type Process struct {
	// URL, AdminURL, AuthzURL and ConsentURL are where the listeners are, without
	// a trailing slash; one that is off or a Unix socket is empty. Restart changes
	// them.
	URL, AdminURL, AuthzURL, ConsentURL string
	// Lark, DB and Ingress are those of its Options.
	Lark    *larktest.Platform
	DB      *dbtest.DB
	Ingress *Balancer

	t       testing.TB
	program string
	args    []string
	environ []string
	unready bool
	dir     string
	log     *Log
	cmd     *exec.Cmd
	out     *output
	// ended is closed when the process has ended; status is valid then.
	ended  chan struct{}
	status int
}

// Start runs larkside until the test ends, and returns when it is ready. The
// test fails if it does not get there.
func Start(t testing.TB, o Options) *Process {
	t.Helper()
	p := prepare(t, o)
	p.launch()
	t.Cleanup(p.finish)
	p.await()
	return p
}

// Seeded is Start for users who have consented a minute ago. Without an emulator
// and a database o gets an emulator with its defaults and SQLite.
func Seeded(t testing.TB, o Options, openIDs ...string) *Process {
	t.Helper()
	if o.Lark == nil {
		o.Lark = larktest.Start(t, nil)
	}
	if o.DB == nil {
		o.DB = SQLite(t)
	}
	Seed(t, o.DB, o.Lark, time.Minute, openIDs...)
	return Start(t, o)
}

// await returns when the process serves.
func (p *Process) await() {
	p.t.Helper()
	p.awaitListeners()
	if p.Ingress != nil {
		p.Ingress.Set(p.t, p.ConsentURL)
	}
	if !p.unready {
		p.AwaitReady()
	}
}

func prepare(t testing.TB, o Options) *Process {
	t.Helper()
	if o.Ingress != nil {
		err := o.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.RedirectURIs = []string{o.Ingress.URL + "/consent/callback"} })
		if err != nil {
			t.Fatal(err)
		}
	}
	return &Process{
		Lark: o.Lark, DB: o.DB, Ingress: o.Ingress,
		t: t, program: o.Program, args: o.Args, environ: o.environ(t), unready: o.Unready, dir: dbtest.TempDir(t),
		log: newLog(o.AppSecret, larktest.AppSecret, strings.TrimPrefix(Keys, "test:")),
	}
}

func (p *Process) launch() {
	p.t.Helper()
	program := p.program
	if program == "" {
		program = Binary(p.t)
	}
	cmd := exec.Command(program, p.args...)
	p.out = &output{}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.environ, p.dir, p.out, p.log
	// What a killed process leaves open must not hold Wait for ever.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("starting larkside: %v", err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		err := cmd.Wait()
		p.status = cmd.ProcessState.ExitCode()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			p.log.Write([]byte("process: " + err.Error() + "\n"))
		}
		p.log.close()
		close(ended)
	}()
}

// awaitListeners learns the addresses from the log, in the order in which they
// are opened.
func (p *Process) awaitListeners() {
	p.t.Helper()
	for _, l := range []struct {
		name, setting string
		url           *string
	}{{"proxy", "LISTEN", &p.URL}, {"admin", "ADMIN_LISTEN", &p.AdminURL}, {"authz", "AUTHZ_LISTEN", &p.AuthzURL}, {"consent", "CONSENT_LISTEN", &p.ConsentURL}} {
		address := p.setting(l.setting)
		if *l.url = ""; address == "" || address == "off" {
			continue
		}
		line := p.log.Await(p.t, "the "+l.name+" listener", func(line Line) bool {
			return line.Msg == "listening" && line.Text("listener") == l.name
		})
		if !strings.HasPrefix(address, "unix:") {
			*l.url = "http://" + line.Text("address")
		}
	}
}

func (p *Process) setting(name string) string {
	value := ""
	for _, v := range p.environ {
		if rest, ok := strings.CutPrefix(v, "LARKSIDE_"+name+"="); ok {
			value = rest
		}
	}
	return value
}

// AwaitReady returns when the log says "ready".
func (p *Process) AwaitReady() {
	p.t.Helper()
	p.log.Await(p.t, "ready", func(l Line) bool { return l.Msg == "ready" })
}

// Log is what the process has written to standard error, since its last start.
func (p *Process) Log() *Log { return p.log }

// Stdout is what the process has written to standard output, since its last
// start.
func (p *Process) Stdout() string { return p.out.String() }

// Signal sends a signal; none if the process has ended.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("sending %v: %v", s, err)
	}
}

// Kill ends it as kill -9 does and returns when it is gone.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// Stop sends SIGTERM and returns the exit status.
func (p *Process) Stop() (status int) {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Wait returns the exit status once the process has ended; -1 when a signal
// ended it.
func (p *Process) Wait() (status int) {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.status
	case <-time.After(Patience):
		p.t.Fatalf("larkside is still running\n%s", p.log.Tail(40))
		return 0
	}
}

// Ended returns a channel that is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Dir is the directory that it runs in, empty at the start.
func (p *Process) Dir() string { return p.dir }

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Restart starts it again with the same settings, database and directory, on
// new ports, killing it first if it still runs. The log begins anew.
func (p *Process) Restart() {
	p.t.Helper()
	p.Kill()
	p.check()
	p.log = newLog(p.log.secrets...)
	p.launch()
	p.await()
}

// finish is the test's end: the process is asked to stop, then killed.
func (p *Process) finish() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		p.Kill()
	}
	p.check()
	if p.t.Failed() {
		p.t.Logf("the end of larkside's log:\n%s", p.log.Tail(60))
	}
}

// check looks through the log for what may never be there.
func (p *Process) check() {
	p.t.Helper()
	for _, problem := range p.log.Problems() {
		p.t.Errorf("larkside's log: %s", problem)
	}
}

// Result is what a command that has run to its end leaves behind.
type Result struct {
	// Status is the exit status.
	Status         int
	Stdout, Stderr string
}

// Run runs larkside to its end: for commands, and for starts that fail.
func Run(t testing.TB, o Options) Result {
	t.Helper()
	p := prepare(t, o)
	p.launch()
	timer := time.AfterFunc(Patience, func() { p.cmd.Process.Kill() })
	<-p.ended
	if !timer.Stop() {
		t.Errorf("larkside %q did not end within %v", o.Args, Patience)
	}
	p.check()
	return Result{p.status, p.out.String(), p.log.String()}
}

// Command runs a command of the same binary with the same settings, such as
// "healthcheck"; more are further settings, as NAME=value without LARKSIDE_.
func (p *Process) Command(t testing.TB, args []string, more ...string) Result {
	t.Helper()
	c := &Process{t: t, program: p.program, args: args, environ: slices.Clone(p.environ), dir: p.dir, log: newLog(p.log.secrets...)}
	for _, s := range more {
		c.environ = append(c.environ, "LARKSIDE_"+s)
	}
	c.launch()
	select {
	case <-c.ended:
	case <-time.After(Patience):
		c.Kill()
		t.Errorf("larkside %q did not end within %v", args, Patience)
	}
	c.check()
	return Result{c.status, c.out.String(), c.log.String()}
}

// output collects standard output.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Eventually calls ok a few times in each tenth of a second until it reports
// true. The test fails with what when that takes longer than [Patience]. Where
// the emulator sees the change, [Await] is better.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain: %s", Patience, what)
		}
	}
}
