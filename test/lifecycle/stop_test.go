package lifecycle

import (
	"syscall"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// A renewal runs behind a request that has long been answered when the process
// is told to stop, and the grace period is over before Lark answers: the process
// waits for the new pair all the same, and the next one works with it.
func TestStopWhileRenewing(t *testing.T) {
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := larktest.Start(t, nil)
		process.Seed(t, db, lark, 115*time.Minute, larktest.Alice)
		p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"SHUTDOWN_GRACE": "100ms"}})
		// Lark has rotated; only its answer is late.
		late := lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, HangAnswer: true})
		if a := p.Get(t, call, larktest.Alice); a.Status != 200 || a.Owner() != larktest.Alice {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		process.AwaitHit(t, late)
		p.Signal(syscall.SIGTERM)
		p.Log().AwaitText(t, "stopping")
		timer := time.AfterFunc(500*time.Millisecond, late.Release)
		defer timer.Stop()
		if status := p.Wait(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		var attempts, version int
		row := db.SQL(t).QueryRow("SELECT attempts, version FROM sessions")
		if err := row.Scan(&attempts, &version); err != nil || attempts != 0 || version != 2 {
			t.Errorf("%d attempts, version %d, %v: what Lark answered is not stored", attempts, version, err)
		}
		p.Restart()
		if a := p.Get(t, call, larktest.Alice); a.Status != 200 || a.Owner() != larktest.Alice {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		larktest.NoViolations(t, lark)
	})
}
