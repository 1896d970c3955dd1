package admin

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"larkside/session"
)

// openToAll are asked by kubelet and Prometheus, by pod IP and without a key.
var openToAll = []string{"/healthz", "/readyz", "/metrics"}

// guard lets through what may ask. A web page can make the browser on this
// machine send requests to a loopback port; it gives itself away by the Host
// that it was loaded from (DNS rebinding) or by the headers that browsers add.
func (a *admin) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case slices.Contains(openToAll, r.URL.Path):
		case crossSite(r) || !overUnixSocket(r) && !a.knownHost(r.Host):
			a.fail(w, r, hostNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// locked lets next answer who has the key, when there is one.
func (a *admin) locked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.authenticated(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="larkside admin"`)
			a.fail(w, r, unauthenticated)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// authenticated compares in constant time.
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

// knownHost judges a Host header.
func (a *admin) knownHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.Unmap().IsLoopback() ||
		slices.ContainsFunc(a.AllowHosts, func(allowed string) bool {
			return allowed == "*" || strings.EqualFold(allowed, name) || strings.EqualFold(allowed, host)
		})
}

// crossSite reports whether a browser says that another site's page is behind
// the request. Source: Fetch Metadata (Sec-Fetch-Site), RFC 6454 (Origin).
func crossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return true
	}
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return false
	}
	// "null" has no host. The scheme may have been changed by an ingress.
	origin, err := url.Parse(origins[0])
	return err != nil || len(origins) > 1 || origin.Host == "" || !strings.EqualFold(origin.Host, r.Host)
}

// overUnixSocket reports whether r came where no browser gets.
func overUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

func actor(r *http.Request) Actor { return Actor{Name: "admin", Address: r.RemoteAddr} }
