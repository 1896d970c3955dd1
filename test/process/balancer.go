package process

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Balancer spreads requests over backends as a Kubernetes Service does: one that
// is leaving gets no new ones. Its URL is known before any process is.
type Balancer struct {
	URL string

	mu       sync.RWMutex
	backends []*backend
	next     atomic.Int64
}

type backend struct {
	httputil.ReverseProxy
	busy sync.WaitGroup // requests that were given to it
}

// NewBalancer returns one that listens until the test ends. It needs [Balancer.Set]
// before the first request.
func NewBalancer(t testing.TB) *Balancer {
	b := &Balancer{}
	server := httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(server.Close)
	b.URL = server.URL
	return b
}

func (b *Balancer) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.RLock()
	to := b.backends[int(b.next.Add(1))%len(b.backends)]
	to.busy.Add(1)
	b.mu.RUnlock()
	defer to.busy.Done()
	to.ServeHTTP(w, r)
}

// Set changes where requests go. It returns when what was given to the backends
// before has been answered, for which a pod has its preStop: one told to stop
// closes its idle connections, on which a request may be on its way.
func (b *Balancer) Set(t testing.TB, urls ...string) {
	t.Helper()
	var backends []*backend
	for _, one := range urls {
		u, err := url.Parse(one)
		if err != nil {
			t.Fatal(err)
		}
		to := new(backend)
		to.Rewrite = func(r *httputil.ProxyRequest) { r.SetURL(u) }
		backends = append(backends, to)
	}
	b.mu.Lock()
	before := b.backends
	b.backends = backends
	b.mu.Unlock()
	for _, one := range before {
		one.busy.Wait()
	}
}
