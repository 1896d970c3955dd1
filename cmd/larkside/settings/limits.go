package settings

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"larkside/session"
)

// CallerLimits are what callers may do, by name.
//
// An entry is a caller's name, a colon and fields separated by semicolons;
// entries are separated by commas. The fields, each at most once:
//
//	users=ou_a|ou_b   only for these users, by open_id or the name that is sent;
//	                  and no tenant token. *: all users, and the tenant
//	paths=/a/|/b      only for these paths, as in INJECT_PATHS
//	methods=GET|HEAD  only these methods
//	rate=10/1s        at most so many requests in any such time, on average
//
// White space around commas, semicolons and bars is ignored.
type CallerLimits map[string]CallerLimit

// CallerLimit narrows what one caller may do. The zero value narrows nothing.
type CallerLimit struct {
	Users    []string // nil: all users, and the tenant
	Paths    []string // nil: all paths
	Methods  []string // nil: all methods
	Requests int      // in any Period on average; 0: no limit
	Period   time.Duration
}

func parseCallerLimits(v string) (CallerLimits, error) {
	all := CallerLimits{}
	for entry := range strings.SplitSeq(v, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, fields, ok := strings.Cut(entry, ":")
		if !ok || !validName.MatchString(name) {
			return nil, reason(fmt.Sprintf("%q is not name:users=…;paths=…;methods=…;rate=…", entry))
		}
		if _, twice := all[name]; twice {
			return nil, reason(fmt.Sprintf("%q is there twice", name))
		}
		limit, err := parseCallerLimit(fields)
		if err != nil {
			return nil, reason(fmt.Sprintf("%q: %v", name, err))
		}
		all[name] = limit
	}
	return all, nil
}

func parseCallerLimit(fields string) (limit CallerLimit, err error) {
	seen := map[string]bool{}
	for field := range strings.SplitSeq(fields, ";") {
		key, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || seen[key] {
			return limit, reason(fmt.Sprintf("%q is not users=, paths=, methods= or rate=, each once", field))
		}
		seen[key] = true
		switch key {
		case "users":
			limit.Users, err = parseLimitUsers(value)
		case "paths":
			limit.Paths, err = parseLimitPaths(value)
		case "methods":
			limit.Methods, err = parseLimitMethods(value)
		case "rate":
			limit.Requests, limit.Period, err = parseLimitRate(value)
		default:
			err = reason(fmt.Sprintf("%q: the nearest known field is %q", key, Nearest(key, []string{"users", "paths", "methods", "rate"})))
		}
		if err != nil {
			return limit, err
		}
	}
	return limit, nil
}

// parseLimitUsers returns nil for all users.
func parseLimitUsers(v string) ([]string, error) {
	users := bars(v)
	switch {
	case slices.Equal(users, []string{"*"}):
		return nil, nil
	case len(users) == 0:
		return nil, reason("users= names nobody")
	}
	for _, id := range users {
		if !session.IsUserID(id) {
			return nil, reason(fmt.Sprintf("%q is no user's id", id))
		}
	}
	return users, nil
}

func parseLimitPaths(v string) ([]string, error) {
	all := bars(v)
	for _, path := range all {
		if !canonical(path) {
			return nil, reason(fmt.Sprintf("%q is no path in plain form", path))
		}
		if err := checkPath(path); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, reason("paths= names none")
	}
	return all, nil
}

func parseLimitMethods(v string) ([]string, error) {
	all := bars(v)
	for _, method := range all {
		if strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return nil, reason(fmt.Sprintf("%q is no method in capital letters", method))
		}
	}
	if len(all) == 0 {
		return nil, reason("methods= names none")
	}
	return all, nil
}

func parseLimitRate(v string) (count int, per time.Duration, err error) {
	all, err := parseRates(v)
	if err != nil || len(all) != 1 {
		return 0, 0, reason(fmt.Sprintf("%q is not count/duration, such as 10/1s", v))
	}
	return all[0].N, all[0].Period, nil
}

// bars splits a list.
func bars(v string) []string {
	var all []string
	for one := range strings.SplitSeq(v, "|") {
		if one = strings.TrimSpace(one); one != "" {
			all = append(all, one)
		}
	}
	return all
}

// checkCallers refuses limits of callers that have no key: such a limit never
// applies, so whoever it was meant for is not limited. Its errors are reasons.
func (l CallerLimits) checkCallers(keys NamedSecrets) error {
	names := keys.names()
	for _, name := range slices.Sorted(maps.Keys(l)) {
		switch {
		case len(names) == 0:
			return reason("there are no " + Prefix + "CALLER_KEYS")
		case !slices.Contains(names, name):
			return reason(fmt.Sprintf("%sCALLER_KEYS has no %q, the nearest is %q", Prefix, name, Nearest(name, names)))
		}
	}
	return nil
}
