package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"larkside/session/seal"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/port"
	"larkside/test/process"
)

// held is a request that hangs at Lark until its fault is released.
func held(t *testing.T, lark *larktest.Platform, p *process.Process) (fault *larktest.Injection, answer <-chan *process.Answer) {
	t.Helper()
	fault = lark.Fault(larktest.Fault{Endpoint: larktest.API, Path: records, Hang: true})
	done := make(chan *process.Answer, 1)
	r := p.Request(t, http.MethodGet, records, alice, "")
	go func() {
		a, _ := process.Try(r) // nil when it was cut
		done <- a
	}()
	process.AwaitHit(t, fault)
	return fault, done
}

// A download that is under way at SIGTERM arrives whole; then the process ends
// well.
func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	res, err := http.DefaultClient.Do(p.Request(t, "GET", helpers+"/sse?n=3&gate=drain", alice, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	events := bufio.NewScanner(res.Body)
	next := func() string {
		for events.Scan() {
			if data, ok := strings.CutPrefix(events.Text(), "data:"); ok {
				return data
			}
		}
		return ""
	}
	emit := func() {
		if !lark.Emit("drain", t.Context().Done()) {
			t.Fatal("nobody listens any more")
		}
	}
	emit()
	if next() == "" {
		t.Fatalf("no first event: %v", events.Err())
	}
	p.Signal(syscall.SIGTERM)
	p.Log().AwaitText(t, "stopping")
	for i := range 2 {
		if emit(); next() == "" {
			t.Fatalf("event %d is missing: %v", i+2, events.Err())
		}
	}
	if events.Scan(); events.Err() != nil {
		t.Errorf("the end: %v", events.Err())
	}
	if status := p.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// The second signal stops at once, whatever runs.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice)
	_, answer := held(t, lark, p)
	p.Signal(syscall.SIGTERM)
	p.Log().AwaitText(t, "stopping")
	began := time.Now()
	p.Signal(os.Interrupt)
	if status := p.Wait(); status != 1 || time.Since(began) > 10*time.Second {
		t.Errorf("exit status %d after %v", status, time.Since(began))
	}
	if a := <-answer; a != nil {
		t.Errorf("an answer after all: %d %s", a.Status, a.Body)
	}
}

// SHUTDOWN_GRACE is an upper bound.
func TestShutdownGrace(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{"SHUTDOWN_GRACE": "500ms"}}, alice)
	_, answer := held(t, lark, p)
	began := time.Now()
	if status := p.Stop(); status != 1 {
		t.Errorf("exit status %d though a request was cut", status)
	}
	if took := time.Since(began); took < 500*time.Millisecond || took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	<-answer
}

// A port in use is said so, by the name of the setting, and before anything else
// is touched.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, setting := range []string{"LISTEN", "ADMIN_LISTEN", "CONSENT_LISTEN"} {
		got := process.Run(t, process.Options{Env: map[string]string{setting: l.Addr().String()}})
		if want := "LARKSIDE_" + setting + ": " + l.Addr().String() + " is in use"; got.Status != 1 || !strings.Contains(got.Stderr, want) {
			t.Errorf("exit status %d, want 1 and %q:\n%s", got.Status, want, got.Stderr)
		}
	}
}

// A second process on one SQLite database is refused; the first goes on, and the
// database is free when it has ended.
func TestSQLiteInUse(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	db := process.SQLite(t)
	process.Seed(t, db, lark, time.Minute, alice)
	o := process.Options{Lark: lark, DB: db}
	p := process.Start(t, o)
	got := process.Run(t, o)
	if got.Status != 1 || !strings.Contains(got.Stderr, "LARKSIDE_DATABASE_URL") || !strings.Contains(got.Stderr, "in use by another process") {
		t.Errorf("exit status %d:\n%s", got.Status, got.Stderr)
	}
	isDataOf(t, p.Get(t, records, alice), alice)
	p.Kill()
	isDataOf(t, process.Start(t, o).Get(t, records, alice), alice)
}

// A PostgreSQL that is not there yet is waited for, which the log, the probes
// and the answers say.
func TestPostgresIsLate(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	lark := newLark(t, nil)
	process.Seed(t, db, lark, time.Minute, alice)
	way := process.Forward(t, db)
	p := process.Start(t, process.Options{Lark: lark, DB: way.DB(t, db), Unready: true})
	line := p.Log().AwaitText(t, "the database is not there yet")
	if line.Level != "WARN" || line.Text("retry_in") == "" {
		t.Errorf("log: %s", line.Raw)
	}
	a := p.Get(t, records, alice)
	if is(t, a, 503, "store_unavailable"); a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if a := p.Admin(t, "GET", "/healthz"); a.Status != 200 {
		t.Errorf("healthz: %d", a.Status)
	}
	if a := p.Admin(t, "GET", "/readyz"); a.Status != 503 || !strings.Contains(a.Body, "waiting for the database") {
		t.Errorf("readyz: %d %s", a.Status, a.Body)
	}
	way.Open(t)
	p.AwaitReady()
	isDataOf(t, p.Get(t, records, alice), alice)
	if a := p.Admin(t, "GET", "/readyz"); a.Status != 200 {
		t.Errorf("readyz: %d %s", a.Status, a.Body)
	}
}

// A database URL that is mended in its file while it is waited for is used.
func TestDatabaseURLIsMended(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	lark := newLark(t, nil)
	file := filepath.Join(dbtest.TempDir(t), "url")
	dead := process.Forward(t, db).DB(t, db) // never opened
	if err := os.WriteFile(file, []byte(dead.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	p := process.Start(t, process.Options{Lark: lark, DB: db, Unready: true, Env: map[string]string{"DATABASE_URL": "", "DATABASE_URL_FILE": file}})
	p.Log().AwaitText(t, "the database is not there yet")
	if err := os.WriteFile(file, []byte(db.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGHUP)
	p.AwaitReady()
}

// SIGTERM ends the wait for a database.
func TestStoppedWhileWaitingForPostgres(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	p := process.Start(t, process.Options{DB: process.Forward(t, db).DB(t, db), Unready: true})
	p.Log().AwaitText(t, "the database is not there yet")
	if status := p.Stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// Without the key that the sessions are sealed with nothing starts, rather than
// asking every user again.
func TestWrongEncryptionKey(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		process.Seed(t, db, lark, time.Minute, alice)
		other := seal.NewKey("other").Expose()
		got := process.Run(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"ENCRYPTION_KEYS": other}})
		if got.Status != 1 || !strings.Contains(got.Stderr, "test") || !strings.Contains(got.Stderr, "key") {
			t.Errorf("exit status %d:\n%s", got.Status, got.Stderr)
		}
		// Beside the right one it is fine: that is how keys are changed.
		p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"ENCRYPTION_KEYS": other + "," + process.Keys}})
		isDataOf(t, p.Get(t, records, alice), alice)
	})
}

// A newer schema that only adds is worked with, and one that needs a newer binary
// is refused.
func TestNewerSchema(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		process.Seed(t, db, lark, time.Minute, alice)
		sql := db.SQL(t)
		for _, change := range []string{
			"ALTER TABLE sessions ADD COLUMN added text NOT NULL DEFAULT ''",
			"ALTER TABLE consents ADD COLUMN added text NOT NULL DEFAULT ''",
			"INSERT INTO larkside_schema (version, oldest, made_at) VALUES (2, 1, 0)",
		} {
			if _, err := sql.Exec(change); err != nil {
				t.Fatal(err)
			}
		}
		p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"SCOPES": scopes}})
		isDataOf(t, p.Get(t, records, alice), alice)
		p.Consent(t, records, bob)
		if status := p.Stop(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		if _, err := sql.Exec("INSERT INTO larkside_schema (version, oldest, made_at) VALUES (3, 3, 0)"); err != nil {
			t.Fatal(err)
		}
		got := process.Run(t, process.Options{DB: db})
		if got.Status != 1 || !strings.Contains(got.Stderr, "newer") || !strings.Contains(got.Stderr, "larkside migrate --to 1") {
			t.Errorf("exit status %d:\n%s", got.Status, got.Stderr)
		}
	})
}

// Every problem of the settings is said at once, a line each, and no secret.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	got := process.Run(t, process.Options{AppSecret: "a-secret-in-the-wrong-place", Env: map[string]string{
		"APP_ID": "", "BRAND": "dingtalk", "LISTEM": "1", "REFRESH_THRESHOLD": "2", "DATABASE_URL": "postgres://u:hunter2@db/x",
		"LISTEN": "0.0.0.0:0", "ENCRYPTION_KEYS": "a:hunter2",
	}})
	if got.Status != 2 {
		t.Errorf("exit status %d", got.Status)
	}
	for _, line := range []string{
		"LARKSIDE_APP_ID: ", `LARKSIDE_BRAND: got "dingtalk"`, "LARKSIDE_LISTEM: ", "LARKSIDE_LISTEN: ", `LARKSIDE_REFRESH_THRESHOLD: got "2"`,
		"LARKSIDE_ENCRYPTION_KEYS: ",
	} {
		if n := strings.Count("\n"+got.Stderr, "\n"+line); n != 1 {
			t.Errorf("%d lines %q, want 1", n, line)
		}
	}
	for _, secret := range []string{"hunter2", "a-secret-in-the-wrong-place"} {
		if strings.Contains(got.Stderr, secret) {
			t.Errorf("%s is shown", secret)
		}
	}
	if t.Failed() {
		t.Log(got.Stderr)
	}
}

// Nothing but app id and secret is needed: SQLite and its key file appear in the
// directory it is started in.
func TestNothingButTheApp(t *testing.T) {
	t.Parallel()
	p := process.Start(t, process.Options{Env: map[string]string{"DATABASE_URL": ""}})
	for _, name := range []string{"larkside.db", "larkside.db.key"} {
		info, err := os.Stat(filepath.Join(p.Dir(), name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
}

// A Unix socket serves as a listener does, for owner and group only, and one
// that a killed process left behind is no obstacle.
func TestUnixSockets(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	dir := dbtest.TempDir(t)
	socket := filepath.Join(dir, "p.sock")
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{"LISTEN": "unix:" + socket}}, alice)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	ask := func() {
		t.Helper()
		res, err := client.Do(process.NewRequest(t, "GET", "http://localhost"+records, alice, ""))
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
	ask()
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info, err)
	}
	p.Restart() // by kill -9
	client.CloseIdleConnections()
	ask()
	if status := p.Stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A secret that is changed in its file is used without a restart, and heals an
// app that Lark refused because of it.
func TestSecretFile(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	file := filepath.Join(dbtest.TempDir(t), "secret")
	write := func(secret string) {
		t.Helper()
		// As Kubernetes does: a new file in the place of the old one.
		if err := os.WriteFile(file+".new", []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("the-old-secret")
	db := process.SQLite(t)
	process.Seed(t, db, lark, 3*time.Hour, alice, bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"APP_SECRET": "", "APP_SECRET_FILE": file}, Unready: true})
	p.Log().AwaitText(t, "not ready: Lark refuses every app")
	is(t, p.Get(t, records, alice), 503, "app_misconfigured")
	write(larktest.AppSecret)
	p.Signal(syscall.SIGHUP)
	p.AwaitReady()
	process.Eventually(t, "the new secret", func() bool { return p.Get(t, records, alice).Status == 200 })
	if a := p.Admin(t, "GET", "/readyz"); a.Status != 200 {
		t.Errorf("readyz: %d %s", a.Status, a.Body)
	}
	// Changed at both ends, and only seen by the file's change.
	if err := lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Secret = "the-next-secret" }); err != nil {
		t.Fatal(err)
	}
	write("the-next-secret")
	process.Eventually(t, "the next secret", func() bool { return p.Get(t, records, bob).Status == 200 })
}

// The commands that look at a running instance, and the request that ends it.
func TestCommands(t *testing.T) {
	t.Parallel()
	p := process.Start(t, process.Options{})
	for _, args := range [][]string{{"healthcheck", "--admin", p.AdminURL}, {"wait", "--timeout", "20s", "--admin", p.AdminURL}, {"version"}, {"env"}, {"keys", "new"}} {
		if got := p.Command(t, args); got.Status != 0 {
			t.Errorf("%q: exit status %d\n%s%s", args, got.Status, got.Stdout, got.Stderr)
		}
	}
	gone := "http://" + port.Address(t)
	for _, args := range [][]string{{"healthcheck", "--admin", gone}, {"wait", "--timeout", "1s", "--admin", gone}} {
		if got := p.Command(t, args); got.Status != 1 {
			t.Errorf("%q: exit status %d\n%s%s", args, got.Status, got.Stdout, got.Stderr)
		}
	}
	if a := p.Admin(t, "POST", "/quitquitquit"); a.Status != 200 {
		t.Errorf("quitquitquit: %d %s", a.Status, a.Body)
	}
	if status := p.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// Two replicas that start on an empty database at once raise the schema once.
func TestReplicasStartTogether(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	lark := newLark(t, nil)
	var all []*process.Process
	for range 3 {
		all = append(all, process.Start(t, process.Options{Lark: lark, DB: db, Unready: true, Env: map[string]string{"SCOPES": scopes}}))
	}
	for _, p := range all {
		p.AwaitReady()
	}
	all[0].Consent(t, records, alice)
	for i, p := range all {
		if a := p.Get(t, records, alice); a.Status != 200 {
			t.Errorf("replica %d: %s", i, fmt.Sprint(a.Status, a.Body))
		}
	}
}
