package proxy

import (
	"net/http"
	"strings"
)

// stripped are the names of the request headers that never go upstream, in lower
// case with "-" for "_": who the user is and who calls, cookies, where the request
// came from, and what belongs to one connection. See also stripPrefixes.
var stripped = map[string]bool{
	"x-lark-user-id": true, "x-lark-app-id": true,
	"cookie": true, "cookie2": true,
	"forwarded": true, "via": true, "x-real-ip": true, "x-client-ip": true, "true-client-ip": true,
	"cf-connecting-ip": true, "x-cluster-client-ip": true, "x-rewrite-url": true, "x-forwarded": true,
	"upgrade": true, "connection": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "http2-settings": true,
	// Traces. With PropagateTrace the first two are set anew.
	"traceparent": true, "tracestate": true, "baggage": true, "b3": true, "uber-trace-id": true,
	"sentry-trace": true, "x-cloud-trace-context": true, "x-amzn-trace-id": true,
}

var stripPrefixes = [...]string{"x-larkside-", "x-lark-mcp-", "x-forwarded-", "x-original-", "proxy-", "x-b3-", "x-datadog-"}

// strip reports whether the request header of this name is not forwarded. It
// doesn't allocate.
func strip(name string) bool {
	if name == mcpToolsHeader {
		return false
	}
	if name == "" || strings.IndexByte("bcfhkpstuvx", name[0]|0x20) < 0 {
		return false // the usual case: no name or prefix below begins so
	}
	var buf [32]byte
	folded := fold(buf[:0], name)
	if stripped[string(folded)] {
		return true
	}
	for _, prefix := range stripPrefixes {
		if len(folded) >= len(prefix) && string(folded[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

// larkside reports whether name is a header of Larkside's, in any spelling.
func larkside(name string) bool {
	var buf [32]byte
	return strings.HasPrefix(string(fold(buf[:0], name)), "x-larkside-")
}

// fold appends name to buf as a careless server reads it: in lower case, with "-"
// for "_", and without blanks at its end. Of a name that is longer than buf only
// the beginning is appended, with a "*" at its end, so that only a prefix matches.
func fold(buf []byte, name string) []byte {
	name = strings.TrimRight(name, " \t")
	for i := 0; i < len(name) && len(buf) < cap(buf); i++ {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '_':
			c = '-'
		}
		buf = append(buf, c)
	}
	if len(name) > cap(buf) {
		buf[cap(buf)-1] = '*'
	}
	return buf
}

// stripRequest removes from h the headers that are not forwarded. Authorization is
// one of them: [credential.authorize] sets the one that is sent.
func stripRequest(h http.Header) {
	for name := range h {
		if strip(name) {
			delete(h, name)
		}
	}
	delete(h, "Authorization")
}

// Strip removes from h, the header of a request, what Lark must not get. It is for
// what forwards a request itself, and sets or removes Authorization as it is told.
func Strip(h http.Header) {
	if len(h[userHeader]) > 0 || len(h[proofHeader]) > 0 {
		takeWait(h)
	}
	stripRequest(h)
}

// stripAnswer removes Larkside's own headers from what upstream sent.
func stripAnswer(h http.Header) {
	for name := range h {
		if len(name) > len("X-Larkside-") && (name[0]|0x20) == 'x' && larkside(name) {
			delete(h, name)
		}
	}
}

// gzipOnly and asIs are shared by all requests and never changed.
var gzipOnly, asIs = []string{"gzip"}, []string{"identity"}

// acceptReadable lets upstream use only encodings in which Larkside can read the
// code of an error.
func acceptReadable(h http.Header) {
	accepted := h["Accept-Encoding"]
	switch {
	case len(accepted) == 0:
	case accepts(accepted, "gzip"):
		h["Accept-Encoding"] = gzipOnly
	default:
		h["Accept-Encoding"] = asIs
	}
}

func accepts(header []string, encoding string) bool {
	for _, line := range header {
		for item := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(item, ";")
			if strings.EqualFold(strings.TrimSpace(name), encoding) {
				return true
			}
		}
	}
	return false
}
