package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"larkside/session"
	"larkside/telemetry"
)

// scope is the instrumentation scope of spans and metrics.
const scope = "larkside/proxy"

// maxSeries bounds the cache of attribute sets. The SDK keeps fewer series than
// that (see package telemetry), and puts what is beyond them into one.
const maxSeries = 4096

// metrics records requests and look-ups of tokens.
type metrics struct {
	latency metric.Float64Histogram
	// lookups are read when metrics are collected. Adding to the SDK's counter in
	// each request costs as much as all checks of a path. The map never changes.
	lookups map[session.Lookup]*atomic.Int64

	// series is replaced, and never changed, so that reading it takes no lock.
	series atomic.Pointer[map[labels][]metric.RecordOption]
	mu     sync.Mutex // held to replace series
}

// labels are one series of the latency histogram.
type labels struct {
	method, route string
	status        int
	outcome       Outcome
	caller        string
}

// newMetrics returns metrics that report how many places are taken, too.
func newMetrics(places *places) (*metrics, error) {
	meter := otel.Meter(scope)
	latency, err1 := meter.Float64Histogram("http.server.request.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of HTTP server requests."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10))
	lookups := make(map[session.Lookup]*atomic.Int64)
	byLookup := make(map[session.Lookup]metric.ObserveOption)
	for _, l := range []session.Lookup{session.FromCache, session.FromDatabase, session.Refreshed, session.Waited, session.Missing} {
		lookups[l] = new(atomic.Int64)
		byLookup[l] = metric.WithAttributeSet(attribute.NewSet(telemetry.Result.String(string(l))))
	}
	_, err2 := meter.Int64ObservableCounter("larkside.token.lookups",
		metric.WithUnit("{lookup}"), metric.WithDescription("Where the tokens of requests were found."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for l, count := range lookups {
				if n := count.Load(); n > 0 {
					o.Observe(n, byLookup[l])
				}
			}
			return nil
		}))
	_, err3 := meter.Int64ObservableGauge("larkside.requests.waiting",
		metric.WithUnit("{request}"), metric.WithDescription("Requests that are held until their user decides (Prefer: wait)."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(places.taken()))
			return nil
		}))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("creating instruments: %w", err)
	}
	m := &metrics{latency: latency, lookups: lookups}
	m.series.Store(new(map[labels][]metric.RecordOption))
	return m, nil
}

func (m *metrics) countLookup(l session.Lookup) {
	if n := m.lookups[l]; n != nil {
		n.Add(1)
	}
}

func (m *metrics) recordRequest(ctx context.Context, seconds float64, l labels) {
	m.latency.Record(ctx, seconds, m.options(l)...)
}

// options returns the attribute set of l, which is made once.
func (m *metrics) options(l labels) []metric.RecordOption {
	if o, ok := (*m.series.Load())[l]; ok {
		return o
	}
	set := attribute.NewSet(
		telemetry.HTTPMethod.String(l.method), telemetry.HTTPRoute.String(l.route), telemetry.HTTPStatus.Int(l.status),
		telemetry.Outcome.String(string(l.outcome)), telemetry.Caller.String(l.caller))
	o := []metric.RecordOption{metric.WithAttributeSet(set)}
	if len(*m.series.Load()) >= maxSeries {
		return o // without taking the lock, which all requests share
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := *m.series.Load(); len(old) < maxSeries {
		next := maps.Clone(old)
		if next == nil {
			next = make(map[labels][]metric.RecordOption)
		}
		next[l] = o
		m.series.Store(&next)
	}
	return o
}
