package edge

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Hosts says which requests a listener accepts by their Host, and refuses those
// that a web page has made.
//
// No web page has business with Larkside. A page can make the browser on the
// same machine send requests to a loopback port. It gives itself away by the
// Host that it was loaded from (DNS rebinding), or by the headers that browsers
// add. The zero Hosts accepts no Host.
type Hosts struct {
	// Names are the accepted values: a name, which admits any port, or
	// name:port, or "*" for all. Letter case and a final dot don't matter.
	Names []string
	// Loopback accepts localhost and every loopback address too.
	Loopback bool
}

// Check returns [HostNotAllowed] for a request that comes, or may come, from a
// web page. Over a Unix socket any Host is accepted: no browser gets there, and
// its clients send whatever name they like.
func (h Hosts) Check(r *http.Request) error {
	if CrossSite(r) || !h.Allow(r.Host) && !overUnixSocket(r) {
		return HostNotAllowed
	}
	return nil
}

// Allow reports whether a Host value is accepted.
func (h Hosts) Allow(host string) bool {
	name := hostname(host)
	return h.Loopback && loopback(name) || slices.ContainsFunc(h.Names, func(entry string) bool {
		return entry == "*" || strings.EqualFold(entry, host) || strings.EqualFold(strings.Trim(entry, "[]"), name)
	})
}

func loopback(name string) bool {
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}

// hostname returns host without port, brackets and a final dot.
func hostname(host string) string {
	i := strings.LastIndexByte(host, ':')
	bracketed := strings.HasPrefix(host, "[")
	if i > strings.LastIndexByte(host, ']') && (bracketed || strings.IndexByte(host, ':') == i) && digits(host[i+1:]) {
		host = host[:i]
	}
	if bracketed {
		host = strings.TrimSuffix(host[1:], "]")
	}
	return strings.TrimSuffix(host, ".")
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// CrossSite reports whether a browser says that the page of another site made
// the request. Sources: Fetch Metadata (Sec-Fetch-Site), RFC 6454 (Origin).
func CrossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return true
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return false
	}
	// "null" has no host. The scheme isn't compared: an ingress may have changed it.
	origin, err := url.Parse(origins[0])
	return err != nil || len(origins) > 1 || origin.Host == "" || !strings.EqualFold(origin.Host, r.Host)
}

// MayBePage reports whether the page of a web site, of any site, may have made the
// request. [Hosts.Check] lets pages of the listener's own origin pass, and what a
// person types into a browser. A request that acts for a user without naming one
// needs more than that: a file that somebody shares in Lark would be a page of this
// origin once a browser opens it, and so could call everything.
//
// A page gives itself away by Origin or Sec-Fetch-Site. Old browsers send neither
// with a GET, but all call themselves Mozilla. Editors that are made of a browser
// send the same. They are told apart by a JSON body without an Origin: browsers put
// an Origin on every POST, whoever makes it.
func MayBePage(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	switch {
	case len(r.Header["Origin"]) > 0:
		return true
	case site == "" && !strings.HasPrefix(r.UserAgent(), "Mozilla/"):
		return false
	case site != "" && site != "none" || len(r.Header["Sec-Fetch-Site"]) > 1:
		return true
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return r.Method != http.MethodPost || err != nil || kind != "application/json"
}

func overUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}
