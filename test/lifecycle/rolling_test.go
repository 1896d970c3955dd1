package lifecycle

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// Three replicas are replaced one after the other while requests, and with them
// renewals, go on: not one request fails, and no refresh token is sent twice.
func TestRollingRestart(t *testing.T) {
	const users, workers = 30, 8
	// Tokens are renewed behind requests all the time.
	lark := larktest.Start(t, &larktest.Config{AccessLife: 4 * time.Second, TokenPerSecond: -1, TokenPerMinute: -1})
	db := process.Postgres(t)
	ids := make([]string, users)
	for i := range ids {
		ids[i] = lark.AddUser(larktest.User{OpenID: fmt.Sprintf("ou_roll%d", i), Name: fmt.Sprintf("User %d", i)})
	}
	for i := range 3 { // so that renewals don't all come at once
		process.Seed(t, db, lark, time.Duration(i)*600*time.Millisecond, ids[i*users/3:(i+1)*users/3]...)
	}
	start := func() *process.Process {
		return process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{
			"REFRESH_THRESHOLD": "0.5", "REFRESH_RATE": "1000/1s", "LOG_LEVEL": "info",
		}})
	}
	replicas := []*process.Process{start(), start(), start()}
	service := process.NewBalancer(t)
	service.Set(t, replicas[0].URL, replicas[1].URL, replicas[2].URL)

	var answered atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for worker := range workers {
		load.Go(func() {
			for i := worker; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				openID := ids[i%users]
				r := process.NewRequest(t, "GET", service.URL+call, openID, "")
				a, err := process.Try(r)
				if err != nil || a.Status != 200 || a.Owner() != openID {
					t.Errorf("a request failed: %v %+v", err, a)
					return
				}
				answered.Add(1)
			}
		})
	}
	renewals := func() int { return len(lark.Calls(larktest.To(larktest.TokenEndpoint))) }
	// more waits until so many more requests were answered, and some renewals with
	// them, however fast that goes.
	more := func(n int64) {
		t.Helper()
		requests, renewed := answered.Load()+n, renewals()+users/3
		process.Eventually(t, "requests and renewals going on", func() bool {
			return answered.Load() >= requests && renewals() >= renewed || t.Failed()
		})
	}
	more(200)
	for i := range replicas {
		after, last := replicas[(i+1)%3].URL, replicas[(i+2)%3].URL
		// As a pod is deleted: taken off the Service, told to stop (a preStop
		// sleep stands between the two), and gone when it has finished.
		service.Set(t, after, last)
		if status := replicas[i].Stop(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		more(50)
		replicas[i] = start()
		service.Set(t, after, last, replicas[i].URL)
		more(200)
	}
	close(stop)
	load.Wait()
	larktest.NoViolations(t, lark)
	t.Logf("%d requests, %d renewals, three replicas replaced", answered.Load(), renewals())
}
