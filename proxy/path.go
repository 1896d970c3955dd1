package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"larkside/proxy/edge"
)

// A path is judged in canonical form and forwarded as it came. Upstream may decode
// it, clean it, or do neither. So a path is refused if its meaning depends on that,
// and what may be done with it (its class) must be the same at each stage of
// decoding.

// target is what a request is for.
type target struct {
	method string // for a mesh, that of the original request
	raw    string // path and query as they came
	path   string // canonical; "" as long as it isn't judged
	class  class
}

// class is what may be done with a path.
type class struct {
	// inject and tenant: a user's token, the tenant's token may be added.
	inject, tenant bool
	// tokenCall: one of the calls by which SDKs fetch their app's token.
	tokenCall bool
	// mcp: goes to the MCP server. A user's token may be added.
	mcp bool
	// own: reserved for Larkside, never forwarded.
	own bool
}

// takesUser reports whether a user's token may be added.
func (c class) takesUser() bool { return c.inject || c.mcp }

const (
	ownPrefix = "/-/larkside/"
	authzPath = "/-/larkside/authz"
	// tokenPrefix is where SDKs fetch tenant and app tokens.
	tokenPrefix     = "/open-apis/auth/v3/"
	tenantTokenPath = tokenPrefix + "tenant_access_token/internal"
	appTokenPath    = tokenPrefix + "app_access_token/internal"
	// userInfoPath is the only path of /open-apis/authen/ that hands out no token.
	userInfoPath = "/open-apis/authen/v1/user_info"
)

// fetchesAppToken reports whether an SDK calls for its tenant's or app's token with
// the app's secret. Such a call needs no Authorization.
func (t *target) fetchesAppToken() bool {
	return t.method == http.MethodPost && (t.path == tenantTokenPath || t.path == appTokenPath)
}

// originForm returns the path and query of r byte by byte as they came. It is
// false for a target that is no path: "*", an authority, an absolute URL of another
// host. An absolute URL that names this proxy loses its origin (RFC 9112 section
// 3.2.2), since a request doesn't say where it is sent.
func originForm(r *http.Request, hosts edge.Hosts) (string, bool) {
	raw := r.RequestURI
	if !strings.HasPrefix(raw, "/") {
		_, rest, found := strings.Cut(raw, "://")
		if !found || r.URL.User != nil || !hosts.Allow(r.URL.Host) {
			return "", false
		}
		switch i := strings.IndexAny(rest, "/?"); {
		case i < 0:
			raw = "/"
		case rest[i] == '?':
			raw = "/" + rest[i:]
		default:
			raw = rest[i:]
		}
	}
	// A fragment is never sent (RFC 9112 section 3.2.1), but some parsers cut one
	// off.
	return raw, !strings.Contains(raw, "#")
}

// pathOf returns raw without its query.
func pathOf(raw string) string {
	if i := strings.IndexByte(raw, '?'); i >= 0 {
		return raw[:i]
	}
	return raw
}

// paths are the settings by which paths are classified.
type paths struct {
	inject, tenant []string
	mcp            bool // there is an MCP server
}

// judge returns the target of a request, or ambiguous_path if two readers could
// take its path for different ones.
func (p *paths) judge(method, raw string) (target, error) {
	canonical, c, ok := p.canonical(pathOf(raw))
	if !ok {
		return target{}, edge.AmbiguousPath
	}
	return target{method, raw, canonical, c}, nil
}

// canonical returns the canonical form and the class of a path, or false if they
// depend on who reads it.
func (p *paths) canonical(path string) (form string, c class, ok bool) {
	if plain(path) {
		return path, p.classify(path), clean(path)
	}
	if !wellEscaped(path) {
		return "", class{}, false
	}
	once := unescape(path, false)
	twice := unescape(once, false)
	if !clean(once) || !clean(twice) {
		return "", class{}, false
	}
	// %2F within a segment is data: the range of a sheet, a name.
	form = unescape(path, true)
	c = p.classify(form)
	return form, c, c == p.classify(once) && c == p.classify(twice)
}

func (p *paths) classify(path string) class {
	closed := closedPath(path)
	if p.mcp && path == mcpPath {
		return class{mcp: true}
	}
	return class{
		inject:    !closed && matchAny(p.inject, path) >= 0,
		tenant:    !closed && matchAny(p.tenant, path) >= 0,
		tokenCall: strings.HasPrefix(path, tokenPrefix),
		own:       path == strings.TrimSuffix(ownPrefix, "/") || strings.HasPrefix(path, ownPrefix),
	}
}

// checkPath returns what is wrong with a path of the settings.
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || !plain(path) || !clean(path) {
		return fmt.Errorf("path %q: want it to begin with / and to be in its simplest form, without escapes", path)
	}
	return nil
}

// matchAny returns the index of the first pattern that path is under, or -1.
func matchAny(patterns []string, path string) int {
	for i, pattern := range patterns {
		if path == pattern || strings.HasSuffix(pattern, "/") && strings.HasPrefix(path, pattern) {
			return i
		}
	}
	return -1
}

// closedPath reports whether no setting can open path to a user's token: tokens are
// issued and exchanged there, or it is not Lark's own (anycross serves the webhooks of
// Lark's customers, who would get the token). Other letter case, or a parameter after
// a semicolon, doesn't change that: upstream might ignore them.
func closedPath(path string) bool {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if segmentIs(first, "oauth") || segmentIs(first, "anycross") {
		return true
	}
	second, _, _ := strings.Cut(rest, "/")
	return segmentIs(first, "open-apis") && path != userInfoPath &&
		(segmentIs(second, "auth") || segmentIs(second, "authen"))
}

func segmentIs(segment, name string) bool {
	if i := strings.IndexByte(segment, ';'); i >= 0 {
		segment = segment[:i]
	}
	return strings.EqualFold(segment, name)
}

// plain reports whether path has nothing to decode: ASCII without escapes.
func plain(path string) bool {
	for i := range len(path) {
		if path[i] == '%' || path[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// clean reports whether a decoded path has only one reading: it is valid UTF-8 and
// has no empty segment, no dot segment, not even one with a parameter that some
// servers drop ("..;x"), no backslash and no control character.
func clean(path string) bool {
	if !utf8.ValidString(path) {
		return false
	}
	start := 1
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			if i == start && i != len(path) || dotSegment(path[start:i]) {
				return false
			}
			start = i + 1
			continue
		}
		switch c := path[i]; {
		case c < ' ', c == '\\', c == 0x7f:
			return false
		case c == 0xc2 && path[i+1] < 0xa0: // U+0080 to U+009F
			return false
		}
	}
	return true
}

func dotSegment(s string) bool {
	return strings.HasPrefix(s, ".") && (isDots(s) || isDots(s[:max(0, strings.IndexByte(s, ';'))]))
}

func isDots(s string) bool { return s == "." || s == ".." }

// wellEscaped reports whether every % begins an escape.
func wellEscaped(path string) bool {
	for i := range len(path) {
		if path[i] == '%' {
			if _, ok := escaped(path, i); !ok {
				return false
			}
		}
	}
	return true
}

// unescape decodes each escape of s once. A % that begins none stays. With
// keepSlash an escaped slash becomes %2F.
func unescape(s string, keepSlash bool) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		c, ok := escaped(s, i)
		switch {
		case !ok:
			b.WriteByte(s[i])
			continue
		case c == '/' && keepSlash:
			b.WriteString("%2F")
		default:
			b.WriteByte(c)
		}
		i += 2
	}
	return b.String()
}

// escaped decodes the escape that begins at s[i], if one does.
func escaped(s string, i int) (byte, bool) {
	if s[i] != '%' || i+2 >= len(s) {
		return 0, false
	}
	hi, ok1 := unhex(s[i+1])
	lo, ok2 := unhex(s[i+2])
	return hi<<4 | lo, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
