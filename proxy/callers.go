package proxy

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"larkside/proxy/edge"
	"larkside/session"
)

// Caller is an app that may use the proxy.
type Caller struct {
	// Name stands for the caller in metrics, traces and the access log.
	Name string
	// Key is what the caller sends in X-Larkside-Key.
	Key session.Secret
}

// CallerLimit narrows what one caller may do. The zero value narrows nothing.
type CallerLimit struct {
	// Users are the users for whom the caller may send requests, by open_id or by
	// the name that the caller uses. A caller with such a list gets no tenant token
	// either, since that token acts for everybody. nil: all users, and the tenant.
	Users []string
	// Paths are the paths that the caller may use, with a user or without, in the
	// form of [Config.InjectPaths]. The calls by which SDKs fetch a placeholder for
	// the app's token are answered in any case. nil: all paths.
	Paths []string
	// Methods are the methods that the caller may use, with the same exception.
	// nil: all methods.
	Methods []string
	// Requests is how many requests are admitted in each Period on average, and at
	// once after a pause. 0: no limit.
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

// take counts one request, or returns when the next one is admitted.
func (a *allowance) take() error {
	if a == nil || a.rate == nil {
		return nil
	}
	return takeOne(a.rate)
}

// request returns an error if the caller may not use the method on a canonical
// path.
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

// user returns an error if the caller may not send requests for the user whom it
// calls name and who has this open_id, if any.
func (a *allowance) user(openID, name string) error {
	if a == nil || a.users == nil || a.users[openID] || a.users[name] {
		return nil
	}
	return edge.CallerNotAllowed
}

// tenant returns an error if the caller may not use the tenant's token.
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
	r.CancelAt(now) // a refused request must not use up what others may send
	return &edge.Answer{Failure: edge.CallerRateLimited, RetryAfter: wait}
}

// Wrong keys are answered with 401 up to this rate, and with 429 beyond it. The
// rate is that of all peers together, since addresses tell no peers apart behind
// loopback or a mesh. Requests with a right key are not held up.
const (
	wrongKeysPerSecond = 10
	wrongKeysAtOnce    = 10
)

// callers knows who may use the proxy, and for what.
type callers struct {
	keys   func() []Caller       // nil: everybody may
	limits map[string]*allowance // by name; never changed
	wrong  *rate.Limiter
}

func newCallers(keys func() []Caller, limits map[string]CallerLimit) callers {
	s := callers{keys, make(map[string]*allowance), rate.NewLimiter(wrongKeysPerSecond, wrongKeysAtOnce)}
	for name, limit := range limits {
		s.limits[name] = newAllowance(limit)
	}
	return s
}

// number returns how many callers there are. Without keys all are one.
func (s *callers) number() int {
	if s.keys == nil {
		return 1
	}
	names := make(map[string]bool)
	for _, c := range s.keys() {
		names[c.Name] = true // a name may have two keys while one replaces the other
	}
	return len(names)
}

// identify returns the name of the caller whose key is in h, and what that caller
// may do, and counts the request. Where callers need no key the name is "". The
// check compares all keys, so that its time doesn't depend on the one that was
// sent.
func (s *callers) identify(h http.Header) (name string, limit *allowance, err error) {
	if s.keys == nil {
		return "", nil, nil
	}
	value, _, agree := one(h, callerHeader)
	sent := session.NewSecret(value)
	found := false
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
	limit = s.limits[name]
	return name, limit, limit.take()
}
