package lifecycle

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// service spreads requests over replicas as a Kubernetes Service does: a
// replica that is leaving gets no new ones.
type service struct {
	mu       sync.RWMutex
	backends []*backend
	next     atomic.Int64
}

type backend struct {
	httputil.ReverseProxy
	busy sync.WaitGroup // requests that were given to it
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	b := s.backends[int(s.next.Add(1))%len(s.backends)]
	b.busy.Add(1)
	s.mu.RUnlock()
	defer b.busy.Done()
	b.ServeHTTP(w, r)
}

// set returns when what was given to the replicas before has been answered, for
// which a pod has its preStop: one told to stop closes its idle connections, on
// which a request may be on its way.
func (s *service) set(t *testing.T, replicas ...*process.Process) {
	t.Helper()
	var backends []*backend
	for _, p := range replicas {
		u, err := url.Parse(p.URL)
		if err != nil {
			t.Fatal(err)
		}
		b := new(backend)
		b.Rewrite = func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = u.Host }
		backends = append(backends, b)
	}
	s.mu.Lock()
	before := s.backends
	s.backends = backends
	s.mu.Unlock()
	for _, b := range before {
		b.busy.Wait()
	}
}

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
	var front service
	front.set(t, replicas...)
	server := httptest.NewServer(&front)
	t.Cleanup(server.Close)

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
				r := process.NewRequest(t, "GET", server.URL+call, openID, "")
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
		rest := append(append([]*process.Process{}, replicas[:i]...), replicas[i+1:]...)
		// As a pod is deleted: taken off the Service, told to stop (a preStop
		// sleep stands between the two), and gone when it has finished.
		front.set(t, rest...)
		if status := replicas[i].Stop(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		more(50)
		replicas[i] = start()
		front.set(t, replicas...)
		more(200)
	}
	close(stop)
	load.Wait()
	for _, v := range lark.Violations() {
		t.Errorf("violation: %s %s %s", v.Kind, v.OpenID, v.Detail)
	}
	t.Logf("%d requests, %d renewals, three replicas replaced", answered.Load(), renewals())
}
