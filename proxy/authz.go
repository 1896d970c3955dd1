package proxy

import (
	"net/http"
	"strings"
)

// serveOwn serves what is under /-/larkside/, of which nothing is forwarded.
func (p *proxy) serveOwn(x *exchange) error {
	path := pathOf(x.raw)
	rest := strings.TrimPrefix(path, authzPath)
	if len(rest) == len(path) || rest != "" && rest[0] != '/' {
		return &failure{Failure: pathNotAllowed, detail: "There is nothing at this path: /-/larkside/ has only authz."}
	}
	return p.authz(x, rest)
}

// authz answers a mesh that forwards by itself: 200 with the Authorization to
// send, or what the proxy would have answered. rest is the original path if it
// came behind authz's own (Envoy), else "".
func (p *proxy) authz(x *exchange, rest string) error {
	method, ok := original(x.in.Header, "", "X-Forwarded-Method", "X-Original-Method")
	if !ok || method == http.MethodConnect || method == http.MethodTrace {
		return methodNotAllowed
	}
	if method != "" {
		x.method = method
	}
	uri, ok := original(x.in.Header, rest, "X-Forwarded-Uri", "X-Original-Uri")
	if !ok || !strings.HasPrefix(uri, "/") || strings.Contains(uri, "#") {
		return ambiguousPath
	}
	if x.path, x.class, ok = p.judge(uri); !ok {
		return ambiguousPath
	}
	if x.class.own {
		return pathNotAllowed
	}
	if err := p.admit(x); err != nil {
		return err
	}
	if x.credential == nothing {
		if err := x.allowed.path(x.path); err != nil {
			return err
		}
	}
	x.outcome = Authorized
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	x.noteWait(h)
	if err := p.authorizeMesh(x, h); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusOK)
	return nil
}

// authorizeMesh sets the Authorization that a mesh copies. Where the request
// goes is the mesh's configuration; that the path is an inject path is judged
// here as for the proxy. The app's own Authorization is handed back, since a
// mesh that copies a header that isn't there removes it.
func (p *proxy) authorizeMesh(x *exchange, h http.Header) error {
	out := &http.Request{Header: http.Header{}, URL: p.cfg.Upstream, Host: p.origin.host}
	if err := p.authorize(x, out); err != nil {
		return err
	}
	if values := out.Header["Authorization"]; len(values) > 0 {
		h["Authorization"] = values
	}
	return nil
}

// original returns what all the sources say that say something, without a
// query, or false when they contradict each other.
func original(h http.Header, rest string, headers ...string) (string, bool) {
	said := rest
	for _, name := range headers {
		for _, value := range h[name] {
			value = pathOf(value)
			if said != "" && said != value {
				return "", false
			}
			said = value
		}
	}
	return said, true
}
