package doctor

import (
	"net/http"
	"sync"
	"time"
)

// dateRecorder compares the Date of Lark's answers with the clock here.
type dateRecorder struct {
	base http.RoundTripper

	mu   sync.Mutex
	any  bool          // an answer came
	skew time.Duration // Lark's clock minus ours, at the last answer with a date
	seen bool
}

func (d *dateRecorder) RoundTrip(r *http.Request) (*http.Response, error) {
	asked := time.Now()
	resp, err := d.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	middle := asked.Add(time.Since(asked) / 2)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.any = true
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		d.skew, d.seen = date.Add(500*time.Millisecond).Sub(middle), true // Date has whole seconds
	}
	return resp, nil
}

func (d *dateRecorder) last() (skew time.Duration, seen bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.skew, d.seen
}

func (d *dateRecorder) answered() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.any
}
