package refresh

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/telemetry"
)

// Class is the result of one run of the protocol. The strings are the label of
// larkside_refreshes_total.
type Class string

const (
	// Renewed: a new pair is stored.
	Renewed Class = "renewed"
	// WonByOther: another replica has renewed the session already.
	WonByOther Class = "won_by_other"
	// Superseded: the user consented anew meanwhile.
	Superseded Class = "superseded"
	// Transient: Lark failed. The session is kept.
	Transient Class = "transient"
	// Rested: the circuit is open, or Lark refuses the app. Lark was not asked.
	Rested Class = "rested"
	// Stopped: the process ends. Lark was not asked.
	Stopped Class = "stopped"
	// Contended: other owners held the lease all the time.
	Contended Class = "contended"
	// StoreFailed: the database failed. The session is kept.
	StoreFailed Class = "store_failed"
	// Misconfigured: Lark refuses the app. The session is kept.
	Misconfigured Class = "misconfigured"
	// SuccessorRefused: Lark refused a token that replaced a refused one.
	SuccessorRefused Class = "refused"
	// RotationLost: an earlier attempt spent the refresh token, and its answer
	// was never stored. The session is lost.
	RotationLost Class = "rotation_lost"
	// Reused: someone else spent or revoked the refresh token. The session is
	// lost.
	Reused Class = "reused"
	// Dead: the refresh token is too old or malformed. The session is over.
	Dead Class = "dead"
	// UserDisabled: the user is gone or may not use the app.
	UserDisabled Class = "user_disabled"
	// NotRenewable: the session had ended before.
	NotRenewable Class = "not_renewable"
	// Unconfigured: the session belongs to an app that is not configured.
	Unconfigured Class = "unconfigured"
)

// lost are the classes whose first run an alert has to see. Prometheus takes no
// increase from a series that begins above zero, so these begin at zero.
var lost = []Class{RotationLost, Reused}

// The result of one reading of an app's profiles. The strings are the label of
// larkside_profile_syncs_total.
const (
	syncDone   = "done"
	syncFailed = "failed"
)

type metrics struct {
	refreshes, syncs                   metric.Int64Counter
	took, left, leaseWait, governorFor metric.Float64Histogram
}

const (
	// budgetAge is how old the database's answer about the used part of the
	// token endpoint's rate may get before it is asked again. budgetTimeout
	// bounds that question, for all apps together.
	budgetAge     = 10 * time.Second
	budgetTimeout = 500 * time.Millisecond
)

// budgets caches how much of each app's limits is used, since instruments are
// read every few seconds by more than one reader. It is safe for concurrent
// use.
type budgets struct {
	source *Source

	mu   sync.Mutex
	at   time.Time
	last map[string][]budget
}

// budget is the used part of one limit, from 0 to 1.
type budget struct {
	period time.Duration
	used   float64
}

// read returns the budgets by app. An app for which the database failed is
// absent until all are read again.
func (b *budgets) read(ctx context.Context) map[string][]budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.at) < budgetAge {
		return b.last
	}
	ctx, cancel := context.WithTimeout(ctx, budgetTimeout)
	defer cancel()
	b.at, b.last = time.Now(), make(map[string][]budget)
	for id := range b.source.apps {
		limits, used, err := b.source.Budget(ctx, id)
		if err != nil {
			continue
		}
		for i, l := range limits {
			b.last[id] = append(b.last[id], budget{l.Period, float64(used[i]) / float64(l.N)})
		}
	}
	return b.last
}

func newMetrics(s *Source) (m metrics, err error) {
	meter := otel.Meter("larkside/refresh")
	var errs [11]error
	m.refreshes, errs[0] = meter.Int64Counter("larkside.refreshes",
		metric.WithUnit("{refresh}"), metric.WithDescription("Runs of the refresh protocol by what came of them."))
	m.syncs, errs[10] = meter.Int64Counter("larkside.profile.syncs",
		metric.WithUnit("{sync}"), metric.WithDescription("Readings of an app's due profiles, by the replica that leads: done, failed."))
	m.took, errs[1] = meter.Float64Histogram("larkside.refresh.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of runs of the refresh protocol."),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	m.left, errs[2] = meter.Float64Histogram("larkside.refresh.time_to_expiry",
		metric.WithUnit("s"), metric.WithDescription("Life that was left of an access token when Lark was asked for the next one; 0: it had expired."),
		metric.WithExplicitBucketBoundaries(0, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200))
	m.leaseWait, errs[3] = meter.Float64Histogram("larkside.lease.wait",
		metric.WithUnit("s"), metric.WithDescription("Time that runs waited for another owner of their session's lease."),
		metric.WithExplicitBucketBoundaries(.05, .1, .25, .5, 1, 2.5, 5, 10, 20))
	m.governorFor, errs[4] = meter.Float64Histogram("larkside.governor.wait",
		metric.WithUnit("s"), metric.WithDescription("Time that calls waited for the rate of the token endpoint."),
		metric.WithExplicitBucketBoundaries(.005, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	refused, err := meter.Int64ObservableGauge("larkside.app.refused",
		metric.WithDescription("1 while Lark refuses the app itself."))
	errs[5] = err
	open, err := meter.Int64ObservableGauge("larkside.circuit.open",
		metric.WithDescription("1 while this replica leaves the token endpoint alone because it keeps failing."))
	errs[6] = err
	used, err := meter.Float64ObservableGauge("larkside.token_endpoint.budget.used",
		metric.WithUnit("1"), metric.WithDescription("Part of the rate of the token endpoint that is used, over all replicas."))
	errs[7] = err
	unstored, err := meter.Int64ObservableGauge("larkside.tokens.unstored",
		metric.WithUnit("{session}"), metric.WithDescription("Sessions whose renewed tokens the database has not taken yet: they are lost if the process ends."))
	errs[8] = err
	budgets := &budgets{source: s}
	_, errs[9] = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		spent := budgets.read(ctx)
		for id, a := range s.apps {
			app := telemetry.App.String(id)
			o.ObserveInt64(refused, oneIf(a.lastRefusal() != nil), metric.WithAttributes(app))
			o.ObserveInt64(open, oneIf(a.breaker.State() != gobreaker.StateClosed), metric.WithAttributes(app))
			for _, b := range spent[id] {
				o.ObserveFloat64(used, b.used, metric.WithAttributes(app, telemetry.Period.String(short(b.period))))
			}
		}
		n := int64(0)
		s.unstored.Range(func(any, any) bool { n++; return true })
		o.ObserveInt64(unstored, n)
		return nil
	}, refused, open, used, unstored)
	if err := errors.Join(errs[:]...); err != nil {
		return m, err
	}
	for _, c := range lost {
		m.refreshes.Add(context.Background(), 0, classLabel(c))
	}
	if s.syncEvery > 0 {
		for id := range s.apps {
			m.synced(context.Background(), id, syncDone, 0)
			m.synced(context.Background(), id, syncFailed, 0)
		}
	}
	return m, nil
}

func classLabel(c Class) metric.MeasurementOption {
	return metric.WithAttributes(telemetry.Class.String(string(c)))
}

// synced counts n readings of app's profiles.
func (m metrics) synced(ctx context.Context, appID, result string, n int64) {
	m.syncs.Add(ctx, n, metric.WithAttributes(telemetry.App.String(appID), telemetry.Result.String(result)))
}

func oneIf(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// short returns d as it is written in REFRESH_RATE: 1m, not 1m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// ran records the end of a run.
func (m metrics) ran(ctx context.Context, c Class, took time.Duration) {
	class := classLabel(c)
	m.refreshes.Add(ctx, 1, class)
	m.took.Record(ctx, took.Seconds(), class)
}

// asks records how much life the replaced access token had left.
func (m metrics) asks(ctx context.Context, left time.Duration) {
	m.left.Record(ctx, max(0, left).Seconds())
}

// waitedForLease and waitedForRate record a wait and note it on the run's span.
func (m metrics) waitedForLease(ctx context.Context, d time.Duration) {
	m.leaseWait.Record(ctx, d.Seconds())
	trace.SpanFromContext(ctx).SetAttributes(telemetry.LeaseWait.Float64(d.Seconds()))
}

func (m metrics) waitedForRate(ctx context.Context, call session.TokenCall, d time.Duration) {
	m.governorFor.Record(ctx, d.Seconds(), metric.WithAttributes(telemetry.Priority.String(call.String())))
	trace.SpanFromContext(ctx).SetAttributes(telemetry.GovernorWait.Float64(d.Seconds()))
}
