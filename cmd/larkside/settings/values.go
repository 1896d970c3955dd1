package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"larkside/session"
	"larkside/session/store"
)

// OnOff is true for "on".
type OnOff bool

// NamedSecret is one name:secret of a list.
type NamedSecret struct {
	Name   string // an app's id, a caller's name
	Secret session.Secret
}

// NamedSecrets are a list in which a name may stand twice.
type NamedSecrets []NamedSecret

// get returns the secret of the first entry with this name, or an empty one.
func (n NamedSecrets) get(name string) session.Secret {
	for _, s := range n {
		if s.Name == name {
			return s.Secret
		}
	}
	return session.Secret{}
}

// names are the names, each once, in the order of the list.
func (n NamedSecrets) names() []string {
	var all []string
	for _, s := range n {
		if !slices.Contains(all, s.Name) {
			all = append(all, s.Name)
		}
	}
	return all
}

var validName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)

// parseNamedSecrets reads "name:secret", separated by commas or white space. A
// name may stand twice with different secrets: so keys are rotated.
func parseNamedSecrets(list string) (NamedSecrets, error) {
	var all NamedSecrets
	for i, entry := range strings.FieldsFunc(list, listSeparator) {
		name, secret, ok := strings.Cut(entry, ":")
		if !ok || secret == "" || !validName.MatchString(name) {
			return nil, reason(fmt.Sprintf("entry %d is not name:secret with a name of A-Za-z0-9_.-", i+1))
		}
		all = append(all, NamedSecret{name, session.NewSecret(secret)})
	}
	if all == nil {
		return nil, reason("the list is empty")
	}
	return all, nil
}

func listSeparator(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }

// BaseURL is an absolute http(s) URL without trailing slash, query and user.
type BaseURL string

func parseBaseURL(v string) (BaseURL, error) {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", reason("not an http or https URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(v, "#"):
		return "", reason("more than scheme, host, port and path")
	}
	return BaseURL(strings.TrimRight(v, "/")), nil
}

// Issuer is the URL of an OIDC issuer, byte by byte as it was given.
type Issuer string

func parseIssuer(v string) (Issuer, error) {
	_, err := parseBaseURL(v)
	return Issuer(v), err
}

// MCPURL is a [BaseURL], mcpOn for the brand's own, or empty for off.
type MCPURL BaseURL

const mcpOn MCPURL = "on"

func parseMCPURL(v string) (MCPURL, error) {
	switch v {
	case "off":
		return "", nil
	case "on":
		return mcpOn, nil
	}
	u, err := parseBaseURL(v)
	return MCPURL(u), err
}

// loopback reports whether the URL's host is this machine.
func (b BaseURL) loopback() bool {
	u, err := url.Parse(string(b))
	return err == nil && isLoopback(u.Hostname())
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// Address is where a listener listens; the zero address is off.
type Address struct {
	Network string // tcp or unix
	Addr    string // host:port or an absolute path
}

// Off reports whether nothing listens.
func (a Address) Off() bool { return a.Network == "" }

// loopback reports whether only this machine can reach it. A host name other
// than localhost can mean anything.
func (a Address) loopback() bool {
	if a.Network != "tcp" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Addr)
	return err == nil && isLoopback(host)
}

// Port is the port, "" for a Unix socket.
func (a Address) Port() string {
	if a.Network != "tcp" {
		return ""
	}
	_, port, _ := net.SplitHostPort(a.Addr)
	return port
}

func (a Address) String() string {
	switch a.Network {
	case "":
		return "off"
	case "unix":
		return "unix:" + a.Addr
	}
	return a.Addr
}

// maxSocketPath is the longest path that fits into a socket address on every
// system we know (macOS; Linux takes 107).
const maxSocketPath = 103

// ParseAddress reads host:port, unix:/path.sock or off.
func ParseAddress(v string) (Address, error) {
	if v == "off" {
		return Address{}, nil
	}
	if path, ok := strings.CutPrefix(v, "unix:"); ok {
		if !filepath.IsAbs(path) || len(path) > maxSocketPath {
			return Address{}, reason(fmt.Sprintf("not an absolute path of at most %d bytes", maxSocketPath))
		}
		return Address{"unix", filepath.Clean(path)}, nil
	}
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return Address{}, reason("not host:port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return Address{}, reason("the port is not a number from 0 to 65535")
	}
	return Address{"tcp", net.JoinHostPort(host, port)}, nil
}

// Paths are the syntax of INJECT_PATHS and TENANT_PATHS.
type Paths []string

func parsePaths(v string) (Paths, error) {
	var all Paths
	for _, path := range strings.Split(v, ",") {
		path = strings.TrimSpace(path)
		if path == "" {
			continue
		}
		if err := checkPath(path); err != nil {
			return nil, err
		}
		all = append(all, path)
	}
	return all, nil
}

// checkPath refuses a path that no request can match. Its errors are reasons.
func checkPath(path string) error {
	prefix := strings.TrimRight(path, "*")
	switch {
	case prefix != path && strings.HasSuffix(prefix, "/") && canonical(prefix):
		return reason(fmt.Sprintf("%q: a path that ends in / is a prefix, so write %q", path, prefix))
	case strings.Contains(path, "*"):
		return reason(fmt.Sprintf("%q: there are no wildcards", path))
	case !canonical(path):
		return reason(fmt.Sprintf("%q", path))
	}
	return nil
}

// canonical reports whether path is in the form in which requests are judged.
func canonical(path string) bool {
	odd := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`%?#\`, r) }
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, odd) || strings.Contains(path, "//") {
		return false
	}
	dots := func(segment string) bool { return segment == "." || segment == ".." }
	return !slices.ContainsFunc(strings.Split(path, "/"), dots)
}

// Scopes are what a user is asked for, offline_access included.
type Scopes []string

const (
	// maxRedirectScopes is what Lark's authorize page takes at once. Source:
	// Lark "obtain OAuth code", as of 2026-09.
	maxRedirectScopes = 200
	// sureDeviceScopes is what a device flow takes for sure. Lark names no limit.
	sureDeviceScopes = 50
)

func parseScopes(v string) (Scopes, error) {
	var all Scopes
	for _, scope := range append(strings.FieldsFunc(v, listSeparator), "offline_access") {
		if !scopeShape.MatchString(scope) {
			return nil, fmt.Errorf("%q is no scope", scope)
		}
		if !slices.Contains(all, scope) {
			all = append(all, scope)
		}
	}
	return all, nil
}

// scopeShape is that of Lark's scopes, such as im:message:send_as_bot. Lark refuses
// a whole list for one that has another shape.
var scopeShape = regexp.MustCompile(`^[a-z0-9_.]+(:[a-z0-9_.]+)*$`)

// Hosts are Host values: a name or address with or without port, or "*".
type Hosts []string

var validHost = regexp.MustCompile(`^(\*|[a-z0-9_.-]+(:[0-9]+)?|\[[0-9a-f:.]+\](:[0-9]+)?|[0-9a-f:.]+)$`)

func parseHosts(v string) (Hosts, error) {
	var all Hosts
	for _, host := range strings.FieldsFunc(strings.ToLower(v), listSeparator) {
		if !validHost.MatchString(host) {
			return nil, reason(fmt.Sprintf("%q", host))
		}
		all = append(all, host)
	}
	return all, nil
}

// Rates hold together: the tightest one decides.
type Rates []session.Limit

func parseRates(v string) (Rates, error) {
	var all Rates
	for entry := range strings.SplitSeq(v, ",") {
		count, per, _ := strings.Cut(strings.TrimSpace(entry), "/")
		n, err := strconv.Atoi(count)
		d, err2 := time.ParseDuration(per)
		if err != nil || err2 != nil || n < 1 || d <= 0 {
			return nil, reason(fmt.Sprintf("%q", entry))
		}
		all = append(all, session.Limit{N: n, Period: d})
	}
	return all, nil
}

// Size is a number of bytes.
type Size int64

func parseSize(v string) (Size, error) {
	number, unit := v, int64(1)
	for suffix, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if cut, ok := strings.CutSuffix(v, suffix); ok {
			number, unit = cut, bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<40)/unit {
		return 0, reason("not a size of at most 1 TiB")
	}
	return Size(n * unit), nil
}

// Certificates are extra roots; nil: none.
type Certificates struct{ Pool *x509.CertPool }

func parseCertificates(path string) (Certificates, error) {
	pem, err := readBounded(path)
	if err != nil {
		return Certificates{}, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // an image without roots has only the extra ones
	}
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return Certificates{}, reason("no certificate in it")
	}
	return Certificates{pool}, nil
}

func isPostgres(raw string) bool {
	return strings.HasPrefix(raw, "postgres://") || strings.HasPrefix(raw, "postgresql://")
}

// checkDatabaseURL judges the form of DATABASE_URL. Its errors quote nothing.
func checkDatabaseURL(raw string) error {
	if path, ok := strings.CutPrefix(raw, "sqlite:"); ok && path != "" {
		return checkSQLitePath(path)
	}
	if !isPostgres(raw) {
		return errors.New("neither postgres://… nor sqlite:PATH")
	}
	if err := store.CheckURL(session.NewSecret(raw)); err != nil {
		return reason(err.Error())
	}
	return nil
}

// checkSQLitePath refuses what would become a file of an odd name although
// something else is meant: other programs take a URL, or keep the database in
// memory. Its errors are reasons.
func checkSQLitePath(path string) error {
	switch {
	case strings.Contains(path, ":memory:"):
		return reason("every session would be lost at a restart")
	case strings.HasPrefix(path, "//"):
		meant := path[len("//"):]
		if meant == "" {
			meant = "larkside.db"
		}
		return reason("sqlite: is followed by a path: sqlite:" + meant)
	}
	return nil
}

// checkListenURL judges the form of DATABASE_LISTEN_URL.
func checkListenURL(raw string) error {
	switch {
	case raw == "off":
		return nil
	case isPostgres(raw):
		return checkDatabaseURL(raw)
	}
	return errors.New("neither postgres://… nor off")
}

func isProxyURL(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) && u.Hostname() != ""
}
