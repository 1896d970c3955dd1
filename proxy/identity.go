package proxy

import (
	"net/http"
	"slices"
	"strings"

	"larkside/proxy/edge"
)

// The headers that an app steers Larkside with, in the one spelling that is
// honoured. Any other spelling that some server would take for the same
// (X_Lark_User_Id) is neither honoured nor forwarded.
const (
	userHeader   = "X-Lark-User-Id"
	appHeader    = "X-Lark-App-Id"
	callerHeader = "X-Larkside-Key"
)

// maxUserID is in bytes; Lark's own ids are 35.
const maxUserID = 128

// one returns the value of a header that may stand once, or several times with
// the same value: the Go SDK adds what is set on the client and on the call.
func one(h http.Header, name string) (value string, present, agree bool) {
	values := h[name]
	if len(values) == 0 {
		return "", false, true
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return "", true, false
		}
	}
	return values[0], true, true
}

// userID returns the user that h names, or "" when it names none.
func userID(h http.Header) (string, error) {
	id, present, agree := one(h, userHeader)
	switch {
	case !present:
		return "", nil
	case !agree:
		return "", badUserID("the header stands more than once with different values")
	case id == "" || len(id) > maxUserID:
		return "", badUserID("the value is empty or longer than 128 bytes")
	}
	for i := range len(id) {
		if !idByte(id[i]) {
			return "", badUserID("the value has a character outside [A-Za-z0-9_.@-]")
		}
	}
	return id, nil
}

// badUserID is InvalidUserID with the one of its causes that applies.
func badUserID(cause string) error {
	return &edge.Answer{Failure: edge.InvalidUserID, Detail: "X-Lark-User-Id is not usable: " + cause + "."}
}

func idByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '_' || c == '.' || c == '@' || c == '-'
}

// appID returns the app that h names, or the default one.
func (p *proxy) appID(h http.Header) (string, error) {
	id, present, agree := one(h, appHeader)
	switch {
	case !present:
		return p.cfg.Apps[0], nil
	case !agree || !slices.Contains(p.cfg.Apps, id):
		return "", edge.UnknownApp
	}
	return id, nil
}

// placeholders are what apps put into Authorization because their SDK insists
// on something. The last one is the Python SDK's, when it has nothing.
var placeholders = [...]string{"larkside", "t-larkside", "u-larkside", "None"}

// ownAuthorization returns the Authorization that an app brought itself, or ""
// for none or a placeholder.
func ownAuthorization(h http.Header) string {
	values := h["Authorization"]
	if len(values) == 0 {
		return ""
	}
	value := strings.TrimSpace(values[0])
	scheme, token, _ := strings.Cut(value, " ")
	if strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(token)
		if token == "" || slices.Contains(placeholders[:], token) {
			return ""
		}
	}
	return value
}

// stripped are the names, in lower case with "-" for "_", of what never goes
// upstream: who the user is and who calls, cookies, where a request came from,
// and whatever belongs to one connection. Prefixes are in stripPrefix.
var stripped = map[string]bool{
	"x-lark-user-id": true, "x-lark-app-id": true,
	"cookie": true, "cookie2": true,
	"forwarded": true, "via": true, "x-real-ip": true, "x-client-ip": true, "true-client-ip": true,
	"cf-connecting-ip": true, "x-cluster-client-ip": true, "x-rewrite-url": true, "x-forwarded": true,
	"upgrade": true, "connection": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "http2-settings": true,
	// Traces: with PropagateTrace the first two are set anew.
	"traceparent": true, "tracestate": true, "baggage": true, "b3": true, "uber-trace-id": true,
	"sentry-trace": true, "x-cloud-trace-context": true, "x-amzn-trace-id": true,
}

var stripPrefixes = [...]string{"x-larkside-", "x-forwarded-", "x-original-", "proxy-", "x-b3-", "x-datadog-"}

// strip reports whether the request header name stays here. It does not
// allocate; long names matter by their beginning only.
func strip(name string) bool {
	if name == "" || strings.IndexByte("bcfhkpstuvx", name[0]|0x20) < 0 {
		return false // nothing below begins so; most headers leave here
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

// larkside reports whether name is one of ours, in any spelling.
func larkside(name string) bool {
	var buf [32]byte
	return strings.HasPrefix(string(fold(buf[:0], name)), "x-larkside-")
}

// fold appends to buf, up to its capacity, name as a careless server reads it:
// without regard to case, "_" as "-", no blanks behind.
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
		// Longer than any whole name below: only a prefix can match.
		buf[cap(buf)-1] = '*'
	}
	return buf
}

// stripRequest removes from h what stays here, Authorization included: what is
// sent is set anew by authorize.
func stripRequest(h http.Header) {
	for name := range h {
		if strip(name) {
			delete(h, name)
		}
	}
	delete(h, "Authorization")
}

// stripAnswer removes our own names from what upstream sent.
func stripAnswer(h http.Header) {
	for name := range h {
		if len(name) > len("X-Larkside-") && (name[0]|0x20) == 'x' && larkside(name) {
			delete(h, name)
		}
	}
}
