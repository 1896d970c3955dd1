package store

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"larkside/session"
)

// connectTimeout bounds how long making a connection takes, over all hosts of
// the URL.
const connectTimeout = queryTimeout

// driverURL returns a URL for the driver that means what raw does, with
// defaults for what raw leaves open. Its errors quote nothing.
func driverURL(raw session.Secret) (string, error) {
	one, hosts, ports := splitHosts(raw.Expose())
	u, err := url.Parse(one)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", fmt.Errorf("%w: want postgres://…", ErrSetup) // the parser would quote the password
	}
	query := u.Query()
	setDefault := func(name, value string) {
		if !query.Has(name) {
			query.Set(name, value)
		}
	}
	if hosts != "" {
		query.Set("host", hosts)
	}
	if ports != "" {
		query.Set("port", ports)
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
	return u.String(), nil
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
