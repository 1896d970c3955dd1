package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"larkside/proxy/edge"
	"larkside/session"
)

// CallerLimit narrows what one caller may do. The zero value narrows nothing.
type CallerLimit struct {
	// Users are the only ones for whom the caller may ask, by open_id or by the
	// name that it sends. A caller with a list gets no tenant token either: that
	// one acts for everybody. nil: all users, and the tenant.
	Users []string
	// Paths are the only ones that the caller may ask for, with a user or
	// without, in the form of [Config.InjectPaths]. nil: all. The calls by which
	// SDKs fetch a placeholder for the app's token are answered all the same.
	Paths []string
	// Methods are the only ones that the caller may use, with the same exception.
	// nil: all.
	Methods []string
	// Requests are admitted in any Period on average, and as many at once after
	// a rest. 0: no limit.
	Requests int
	Period   time.Duration
}

func (l CallerLimit) check() error {
	var problems []error
	if l.Users != nil && len(l.Users) == 0 || slices.Contains(l.Users, "") {
		problems = append(problems, errors.New("users: want at least one, none empty"))
	}
	if l.Methods != nil && len(l.Methods) == 0 || slices.Contains(l.Methods, "") {
		problems = append(problems, errors.New("methods: want at least one, none empty"))
	}
	for _, path := range l.Paths {
		problems = append(problems, checkPath(path))
	}
	if l.Requests < 0 || l.Requests > 0 && l.Period <= 0 {
		problems = append(problems, errors.New("requests: want a number and a period"))
	}
	return errors.Join(problems...)
}

func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || !plain(path) || !clean(path) {
		return fmt.Errorf("path %q: want it to begin with / and to be in its simplest form, without escapes", path)
	}
	return nil
}

// allowance is a CallerLimit at work. A nil one admits everything.
type allowance struct {
	users   map[string]bool // nil: all
	paths   []string        // nil: all
	methods []string        // nil: all
	rate    *rate.Limiter   // nil: no limit
}

func newAllowance(l CallerLimit) *allowance {
	a := &allowance{paths: l.Paths, methods: l.Methods}
	if l.Users != nil {
		a.users = make(map[string]bool, len(l.Users))
		for _, id := range l.Users {
			a.users[id] = true
		}
	}
	if l.Requests > 0 {
		a.rate = rate.NewLimiter(rate.Limit(float64(l.Requests)/l.Period.Seconds()), l.Requests)
	}
	return a
}

// take counts one request, or says when the next is admitted.
func (a *allowance) take() error {
	if a == nil || a.rate == nil {
		return nil
	}
	return takeOne(a.rate)
}

// request says whether the caller may use the method on a canonical path.
func (a *allowance) request(method, path string) error {
	switch {
	case a == nil:
		return nil
	case a.paths != nil && matchAny(a.paths, path) < 0:
		return edge.CallerNotAllowed
	case a.methods != nil && !slices.Contains(a.methods, method):
		return edge.CallerNotAllowed
	}
	return nil
}

// user says whether the caller may ask for the user with this open_id whom it
// calls name.
func (a *allowance) user(openID, name string) error {
	if a == nil || a.users == nil || a.users[openID] || a.users[name] {
		return nil
	}
	return edge.CallerNotAllowed
}

// tenant says whether the caller may act as the app.
func (a *allowance) tenant() error {
	if a == nil || a.users == nil {
		return nil
	}
	return edge.CallerNotAllowed
}

func takeOne(l *rate.Limiter) error {
	now := time.Now()
	r := l.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	r.CancelAt(now) // who is refused does not push the others back
	return &edge.Answer{Failure: edge.CallerRateLimited, RetryAfter: wait}
}

// Wrong keys are answered with 401 up to this rate, over all peers: behind
// loopback or a mesh an address tells nobody apart. Beyond it they get a 429;
// right keys are not held up.
const (
	wrongKeysPerSecond = 10
	wrongKeysAtOnce    = 10
)

// callers is who may use the proxy, and for what.
type callers struct {
	keys   func() []Caller       // nil: everybody may
	limits map[string]*allowance // by name; never changed
	wrong  *rate.Limiter
}

func newCallers(c Config) callers {
	s := callers{c.CallerKeys, make(map[string]*allowance), rate.NewLimiter(wrongKeysPerSecond, wrongKeysAtOnce)}
	for name, limit := range c.CallerLimits {
		s.limits[name] = newAllowance(limit)
	}
	return s
}

// identify returns the name of the caller that h proves and what it may do; ""
// and everything where callers need no proof. It counts the request. The check
// takes the same time whichever key was sent, and tries them all.
func (s *callers) identify(h http.Header) (string, *allowance, error) {
	if s.keys == nil {
		return "", nil, nil
	}
	value, _, agree := one(h, callerHeader)
	sent := session.NewSecret(value)
	name, found := "", false
	for _, c := range s.keys() {
		if c.Key.Equal(sent) && !c.Key.Empty() {
			name, found = c.Name, true
		}
	}
	if !found || !agree {
		if err := takeOne(s.wrong); err != nil {
			return "", nil, err
		}
		return "", nil, edge.CallerUnauthenticated
	}
	allowed := s.limits[name]
	return name, allowed, allowed.take()
}
