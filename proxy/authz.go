package proxy

import (
	"net/http"
	"strings"

	"larkside/proxy/edge"
)

// serveOwn serves what is under /-/larkside/, of which nothing is forwarded.
func (p *proxy) serveOwn(x *exchange) error {
	path := pathOf(x.raw)
	rest := strings.TrimPrefix(path, authzPath)
	if len(rest) == len(path) || rest != "" && rest[0] != '/' {
		return &edge.Answer{Failure: edge.PathNotAllowed, Detail: "There is nothing at this path: /-/larkside/ has only authz."}
	}
	return p.authz(x, rest)
}

// authz answers a mesh that forwards by itself: 200 with the Authorization to
// send, or what the proxy would have answered. rest is the original path if it
// came behind authz's own (Envoy), else "". A mesh says once what the original
// was: a second source that differs is a client's, and so is an empty one.
func (p *proxy) authz(x *exchange, rest string) error {
	methods := sources(x.in.Header, "X-Forwarded-Method", "X-Original-Method")
	if len(methods) > 0 {
		method := methods[0]
		if !allEqual(methods) || !isToken(method) || method == http.MethodConnect || method == http.MethodTrace {
			return edge.MethodNotAllowed
		}
		x.method = method
	}
	paths := sources(x.in.Header, "X-Forwarded-Uri", "X-Original-Uri")
	for i, target := range paths {
		if !isTarget(target) {
			return edge.AmbiguousPath
		}
		paths[i] = pathOf(target)
	}
	if rest != "" {
		paths = append(paths, rest)
	}
	if len(paths) == 0 || !allEqual(paths) {
		return edge.AmbiguousPath
	}
	var ok bool
	if x.path, x.class, ok = p.judge(paths[0]); !ok {
		return edge.AmbiguousPath
	}
	if x.class.own {
		return edge.PathNotAllowed
	}
	if err := p.admit(x); err != nil {
		return err
	}
	if x.credential == nothing {
		if err := x.allowed.request(x.method, x.path); err != nil {
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

// sources returns all the values of the named headers.
func sources(h http.Header, names ...string) []string {
	var values []string
	for _, name := range names {
		values = append(values, h[name]...)
	}
	return values
}

func allEqual(values []string) bool {
	for _, v := range values {
		if v != values[0] {
			return false
		}
	}
	return true
}

// isTarget reports whether value can be the target of a request in origin form
// (RFC 9112 section 3.2.1), as net/http has seen to for those that came on a
// request line. A blank is in none: it stands in a list, which something has
// made of two headers.
func isTarget(value string) bool {
	return strings.HasPrefix(value, "/") && !strings.ContainsAny(value, "# \t")
}

// isToken reports whether a method is one by its letters (RFC 9110 section
// 5.6.2): also not a list.
func isToken(method string) bool {
	for i := range len(method) {
		c := method[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return method != ""
}
