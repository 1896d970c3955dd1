package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// No web page has business here. A page can make the browser on this machine
// send requests to a loopback port; it gives itself away by the Host it was
// loaded from (DNS rebinding) or by the headers that browsers add.

// hosts are the Host values that are accepted; nil: loopback names.
type hosts []string

func (a hosts) allow(host string) bool {
	name := hostname(host)
	if a == nil {
		if strings.EqualFold(name, "localhost") {
			return true
		}
		ip, err := netip.ParseAddr(name)
		return err == nil && ip.Unmap().IsLoopback()
	}
	return slices.ContainsFunc(a, func(entry string) bool {
		return entry == "*" || strings.EqualFold(entry, host) || strings.EqualFold(strings.Trim(entry, "[]"), name)
	})
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

// fromPage reports whether r comes, or may come, from a web page.
func (p *proxy) fromPage(r *http.Request) bool {
	return crossSite(r) || !p.hosts.allow(r.Host) && !overUnixSocket(r)
}

func crossSite(r *http.Request) bool {
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "same-origin", "none":
	default:
		return true
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return false
	}
	origin, err := url.Parse(origins[0])
	return err != nil || len(origins) > 1 || origin.Host == "" || !strings.EqualFold(origin.Host, r.Host)
}

func overUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}
