package proxy

import (
	"net/http"
	"strings"

	"larkside/proxy/edge"
)

// serveAuthz answers a mesh that forwards requests itself: 200 with the Authorization
// to send, or what the proxy listener would have answered.
func (p *proxy) serveAuthz(x *request) error {
	raw, err := p.identifyCaller(x)
	if err != nil {
		return err
	}
	// rest is the original path if it follows authz's own path (Envoy), else "".
	path := pathOf(raw)
	rest := strings.TrimPrefix(path, authzPath)
	if len(rest) == len(path) || rest != "" && rest[0] != '/' {
		return &edge.Answer{Failure: edge.PathNotAllowed, Detail: "There is nothing at this path: the authz listener has only /-/larkside/authz."}
	}
	method, err := originalMethod(x.in)
	if err != nil {
		return err
	}
	original, err := originalPath(x.in.Header, rest)
	if err != nil {
		return err
	}
	if x.target, err = p.paths.judge(method, original); err != nil {
		return err
	}
	if x.target.class.own || x.target.class.mcp {
		return edge.PathNotAllowed // a mesh copies Authorization only
	}
	if err := p.chooseCredential(x, nil); err != nil {
		return err
	}
	if x.credential.kind == nothing {
		if err := x.who.limit.request(x.target.method, x.target.path); err != nil {
			return err
		}
	}
	x.result.outcome = Authorized
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	x.wait.note(h)
	if err := p.authorizeMesh(x, h); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusOK)
	return nil
}

// authorizeMesh sets the Authorization header that the mesh copies. Where the
// request goes is up to the configuration of the mesh; that its path is an inject
// path is checked here as for the proxy. The app's own Authorization is handed
// back, since a mesh that copies an absent header removes it from the request. Envoy
// leaves it as it is unless it is told to remove it.
func (p *proxy) authorizeMesh(x *request, h http.Header) error {
	out := &http.Request{Header: http.Header{}, URL: p.cfg.Upstream, Host: p.origin.host}
	if err := x.credential.authorize(out, p.origin, x.target.class, x.who.user); err != nil {
		return err
	}
	if values := out.Header["Authorization"]; len(values) > 0 {
		h["Authorization"] = values
	} else if len(x.in.Header["Authorization"]) > 0 {
		h.Set("X-Envoy-Auth-Headers-To-Remove", "authorization")
	}
	return nil
}

// A mesh says once what the original method and path were. If a second source
// says something else, or nothing, it comes from a client.

// originalMethod returns the method of the request that a mesh asks about.
func originalMethod(in *http.Request) (string, error) {
	methods := sources(in.Header, "X-Forwarded-Method", "X-Original-Method")
	if len(methods) == 0 {
		return in.Method, nil
	}
	method := methods[0]
	if !allEqual(methods) || !isToken(method) || method == http.MethodConnect || method == http.MethodTrace {
		return "", edge.MethodNotAllowed
	}
	return method, nil
}

// originalPath returns the path, without query, of the request that a mesh asks
// about.
func originalPath(h http.Header, rest string) (string, error) {
	paths := sources(h, "X-Forwarded-Uri", "X-Original-Uri")
	for i, target := range paths {
		if !isTarget(target) {
			return "", edge.AmbiguousPath
		}
		paths[i] = pathOf(target)
	}
	if rest != "" {
		paths = append(paths, rest)
	}
	if len(paths) == 0 || !allEqual(paths) {
		return "", edge.AmbiguousPath
	}
	return paths[0], nil
}

// sources returns all values of the named headers.
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

// isTarget reports whether value can be a request's target in origin form (RFC
// 9112 section 3.2.1). net/http checks that of a request line, not of a header. A
// target has no blank; a list has, which something made of two headers.
func isTarget(value string) bool {
	return strings.HasPrefix(value, "/") && !strings.ContainsAny(value, "# \t")
}

// isToken reports whether a method consists of the characters that a method may
// have (RFC 9110 section 5.6.2). A list does not.
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
