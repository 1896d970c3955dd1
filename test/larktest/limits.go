package larktest

import (
	"net/http"
	"time"
)

// window remembers when recent calls were admitted; it is a sliding window,
// which is stricter at the edges than Lark's own (unpublished) counters.
type window struct{ admitted []time.Time }

// rate is a limit: at most n in each span. n <= 0 is none.
type rate struct {
	n    int
	span time.Duration
}

func perSecond(n int) rate { return rate{n, time.Second} }
func perMinute(n int) rate { return rate{n, time.Minute} }

// admit counts a call against every rate under one name, or says how long to
// wait. Refused calls do not count. It is called with mu held.
func (p *Platform) admit(name string, rates ...rate) (wait time.Duration) {
	w := p.limits[name]
	if w == nil {
		w = &window{}
		p.limits[name] = w
		p.sweepLimits()
	}
	now, longest := p.now(), time.Duration(0)
	for _, r := range rates {
		longest = max(longest, r.span)
	}
	for len(w.admitted) > 0 && now.Sub(w.admitted[0]) >= longest {
		w.admitted = w.admitted[1:]
	}
	for _, r := range rates {
		if r.n > 0 && len(w.admitted) >= r.n {
			if oldest := w.admitted[len(w.admitted)-r.n]; now.Sub(oldest) < r.span {
				wait = max(wait, oldest.Add(r.span).Sub(now))
			}
		}
	}
	if wait == 0 {
		w.admitted = append(w.admitted, now)
	}
	return wait
}

// sweepLimits forgets idle windows once there are many.
func (p *Platform) sweepLimits() {
	if len(p.limits)%4096 != 0 {
		return
	}
	for name, w := range p.limits {
		if n := len(w.admitted); n == 0 || p.now().Sub(w.admitted[n-1]) > time.Minute {
			delete(p.limits, name)
		}
	}
}

// rateLimited is the documented answer, with the seconds to wait rounded up.
func (x *exchange) rateLimited(wait time.Duration) answer {
	seconds := int((wait + time.Second - 1) / time.Second)
	a := x.fail(http.StatusTooManyRequests, 99991400, "request trigger frequency limit")
	a.header = http.Header{"X-Ogw-Ratelimit-Limit": {"50"}, "X-Ogw-Ratelimit-Reset": {itoa(max(1, seconds))}}
	return a
}
