package lifecycle

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// migrate starts "larkside migrate" on a database. It is not waited for.
func migrate(t *testing.T, db *dbtest.DB) *exec.Cmd {
	t.Helper()
	c := exec.Command(process.Binary(t), "migrate")
	c.Env = []string{"LARKSIDE_DATABASE_URL=" + db.URL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

// Two processes make the schema at once: both succeed, and it is made once.
func TestTwoMigrateAtOnce(t *testing.T) {
	db := process.Postgres(t)
	var both sync.WaitGroup
	for range 2 {
		c := migrate(t, db)
		both.Go(func() {
			if err := c.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	var steps int
	if err := db.SQL(t).QueryRow(`SELECT count(*) FROM larkside_schema`).Scan(&steps); err != nil || steps != 1 {
		t.Errorf("%d steps, %v", steps, err)
	}
}

// A process that is killed in the middle of a step leaves nothing behind, and
// nobody waits for its lock.
func TestMigrateIsKilled(t *testing.T) {
	db := process.Postgres(t)
	sql := db.SQL(t)
	// The step has made some tables when it comes to one that this transaction
	// is about to make.
	tx, err := sql.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`CREATE TABLE audit (id text)`); err != nil {
		t.Fatal(err)
	}
	c := migrate(t, db)
	waits := func(n int) func() bool {
		return func() bool {
			var waiting int
			err := sql.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
				AND wait_event_type = 'Lock' AND query LIKE '%CREATE TABLE sessions%'`).Scan(&waiting)
			if err != nil {
				t.Fatal(err)
			}
			return waiting == n
		}
	}
	process.Eventually(t, "a step in the middle", waits(1))
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	process.Eventually(t, "end of the killed one's transaction", waits(0))
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	var tables int
	if err := sql.QueryRow(`SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`).Scan(&tables); err != nil || tables != 0 {
		t.Errorf("%d tables are left, %v", tables, err)
	}
	began := time.Now()
	if got := process.Run(t, process.Options{DB: db, Args: []string{"migrate"}}); got.Status != 0 {
		t.Errorf("%+v", got)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the next one took %v", took)
	}
}

// A role that may not do what is needed ends the process at once, with exit
// status 2 and what to grant.
func TestRoleWithoutRights(t *testing.T) {
	db := process.Postgres(t)
	role := db.Role(t)
	lark := larktest.Start(t, nil)
	for _, args := range [][]string{{"migrate"}, {"serve"}} {
		began := time.Now()
		got := process.Run(t, process.Options{DB: role, Lark: lark, Args: args})
		if got.Status != 2 || !strings.Contains(got.Stderr, "LARKSIDE_DATABASE_URL: ") ||
			!strings.Contains(got.Stderr, "GRANT USAGE, CREATE ON SCHEMA public TO "+role.RoleName()) || strings.Contains(got.Stderr, "not there yet") {
			t.Errorf("%q: %+v", args, got)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%q took %v", args, took)
		}
	}
}
