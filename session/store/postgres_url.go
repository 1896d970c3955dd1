package store

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"

	"larkside/session"
)

// connectTimeout bounds how long making a connection takes, over all hosts of
// the URL.
const connectTimeout = queryTimeout

// CheckURL judges the form of a PostgreSQL URL. Its errors say what to write
// instead, and quote nothing.
func CheckURL(raw session.Secret) error {
	_, err := driverURL(raw)
	return err
}

var (
	errScheme   = errors.New("it does not begin with postgres://")
	errURL      = errors.New("it is no URL")
	errEncoding = errors.New("in the user and the password, characters other than letters, digits and -._~ need percent-encoding: @ is %40, / is %2F, # is %23, ? is %3F, % is %25")
	errSocket   = errors.New("the directory of a Unix socket is a parameter: postgres:///database?host=/run/postgresql")
	errBinding  = errors.New("the driver has no channel_binding=require: take it out, and have the server prove itself by sslmode=verify-full")
)

// idle are parameters of libpq's that the driver does not have, and whose
// absence changes nothing that an operator relies on. The server would refuse
// them as settings that it does not know.
var idle = map[string][]string{
	"channel_binding": {"disable", "prefer"},
	"gssencmode":      {"disable", "prefer"},
	"keepalives":      nil, "keepalives_idle": nil, "keepalives_interval": nil, "keepalives_count": nil,
	"tcp_user_timeout": nil, "sslcompression": nil,
}

// driverURL returns a URL for the driver that means what raw does, with
// defaults for what raw leaves open. Its errors are those of [CheckURL].
func driverURL(raw session.Secret) (string, error) {
	u, err := parseURL(raw.Expose())
	if err != nil {
		return "", err
	}
	query := u.Query()
	for name, values := range idle {
		if values == nil || slices.Contains(values, query.Get(name)) {
			query.Del(name)
		}
	}
	if query.Get("channel_binding") == "require" {
		// What it prevents, a server in between, a checked certificate does, too.
		if query.Get("sslmode") != "verify-full" && query.Get("sslrootcert") != "system" {
			return "", errBinding
		}
		query.Del("channel_binding")
	}
	setDefault := func(name, value string) {
		if !query.Has(name) {
			query.Set(name, value)
		}
	}
	// Parse, bind and execute go in one message. A look-up is one round trip
	// then, and PgBouncer in transaction mode can't separate the three.
	setDefault("binary_parameters", "yes")
	several := 1 + max(strings.Count(query.Get("host"), ","), strings.Count(query.Get("hostaddr"), ","))
	if several > 1 {
		// The others are standbys, which take no writes.
		setDefault("target_session_attrs", "read-write")
	}
	// The driver waits that long for each host. A statement must get past those
	// that are gone.
	setDefault("connect_timeout", strconv.Itoa(max(1, int(connectTimeout/time.Second)/several)))
	u.RawQuery = query.Encode()
	text := u.String()
	if _, err := pq.NewConfig(text); err != nil {
		return "", err // names a parameter, and its value
	}
	return text, nil
}

// parseURL returns a URL whose hosts, if there are several, are parameters.
func parseURL(raw string) (*url.URL, error) {
	one, hosts, ports := splitHosts(raw)
	u, err := url.Parse(one)
	switch _, login, _ := strings.Cut(raw, "://"); {
	case !strings.HasPrefix(raw, "postgres://") && !strings.HasPrefix(raw, "postgresql://"):
		return nil, errScheme
	case err != nil && strings.Contains(strings.ToLower(login[strings.LastIndexByte(login, '@')+1:]), "%2f"):
		return nil, errSocket
	case err != nil && userIsPlain(login):
		return nil, errURL
	// The parser ended the host at a character of the password.
	case err != nil, strings.Contains(u.Path+u.Fragment, "@"):
		return nil, errEncoding
	}
	query := u.Query()
	if u.User == nil && !query.Has("user") && strings.Contains(u.RawQuery, "@") {
		return nil, errEncoding
	}
	if hosts != "" {
		query.Set("host", hosts)
	}
	if ports != "" {
		query.Set("port", ports)
	}
	u.RawQuery = query.Encode()
	return u, nil
}

// userIsPlain reports whether user and password are not what a URL fails to
// parse for.
func userIsPlain(login string) bool {
	user, _, ok := strings.Cut(login, "@")
	_, err := url.Parse("postgres://" + user + "@host")
	return ok && err == nil && !strings.ContainsAny(user, "/?#")
}

// splitHosts takes a list of hosts, such as h1:5432,h2:5432, out of a URL, since
// the driver takes it only as parameters. A URL with one host stays as it is.
func splitHosts(raw string) (rest, hosts, ports string) {
	scheme, after, _ := strings.Cut(raw, "://")
	end := strings.IndexAny(after, "/?#")
	if end < 0 {
		end = len(after)
	}
	start := strings.LastIndexByte(after[:end], '@') + 1
	list := strings.Split(after[start:end], ",")
	if len(list) == 1 {
		return raw, "", ""
	}
	var names, numbers []string
	explicit := false
	for _, item := range list {
		host, port, err := net.SplitHostPort(item)
		if err != nil {
			host, port = strings.Trim(item, "[]"), "5432"
		} else {
			explicit = true
		}
		names, numbers = append(names, host), append(numbers, port)
	}
	if explicit {
		ports = strings.Join(numbers, ",")
	}
	return scheme + "://" + after[:start] + after[end:], strings.Join(names, ","), ports
}
