package admin

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/telemetry"
)

// openToAll are the paths that kubelet and Prometheus ask for. They call by the pod's
// IP address and have no key.
var openToAll = []string{"/healthz", "/readyz", "/metrics"}

// guard gives each request an id, by which its log lines are found, and refuses
// the requests of web pages.
func (a *admin) guard(next http.Handler) http.Handler {
	hosts := edge.Hosts{Names: a.AllowHosts, Loopback: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(context.WithValue(r.Context(), telemetry.RequestIDKey{}, telemetry.NewRequestID()))
		if !slices.Contains(openToAll, r.URL.Path) {
			if err := hosts.Check(r); err != nil {
				a.fail(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// locked returns a handler that lets next answer only requests with the key, if there
// is a key.
func (a *admin) locked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.authenticated(r) {
			a.fail(w, r, edge.AdminUnauthenticated)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// authenticated reports whether r has the key, or none is needed. It compares in
// constant time.
func (a *admin) authenticated(r *http.Request) bool {
	if a.Key == nil {
		return true
	}
	key := a.Key()
	if key.Empty() {
		return true
	}
	scheme, sent, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && key.Equal(session.NewSecret(strings.TrimSpace(sent)))
}

func actor(r *http.Request) Actor { return Actor{Name: "admin", Address: r.RemoteAddr} }
