package admin

import (
	"net/http"
	"slices"

	"larkside/proxy/edge"
	"larkside/telemetry"
)

// openToAll are the paths that kubelet and Prometheus ask for. They call by the pod's
// IP address and have no key.
var openToAll = []string{"/healthz", "/readyz", "/metrics"}

// guard gives each request an id, by which its log lines are found, and refuses
// the requests of web pages.
func (a *admin) guard(next http.Handler) http.Handler {
	hosts := edge.Hosts{Names: a.AllowHosts, Loopback: true}
	return telemetry.WithRequestID(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(openToAll, r.URL.Path) {
			if err := hosts.Check(r); err != nil {
				a.fail(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	}))
}

// locked returns a handler that lets next answer only requests with the key, if there
// is a key.
func (a *admin) locked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ := edge.Bearer(r)
		if err := a.Key.Check(r, sent); err != nil {
			a.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func actor(r *http.Request) Actor { return Actor{Name: "admin", Address: r.RemoteAddr} }
