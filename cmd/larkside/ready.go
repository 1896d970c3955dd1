package main

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"larkside/proxy/admin"
	"larkside/telemetry"
)

// verdictWait is how long the first "ready" waits for what Lark says about the
// apps. A verdict that comes later still counts, but a Lark that can't be reached
// must not hold up a start: users whose token lives can be served.
const verdictWait = 2 * time.Second

// verdict is whether Lark accepts an app.
type verdict struct {
	appID string
	err   error // nil, or why not or why it is not known
}

// askLark asks Lark about each app, while the database is opened. The channel
// gets one verdict for each app.
func (s *server) askLark(ctx context.Context) <-chan verdict {
	verdicts := make(chan verdict, len(s.clients))
	for id, client := range s.clients {
		go func() {
			_, err := client.TenantAccessToken(ctx)
			verdicts <- verdict{id, err}
		}()
	}
	return verdicts
}

// becomeReady lets /readyz say "ready" for the first time, once Lark accepts one
// of the apps or can't be asked. So a rollout with a wrong secret stops at its
// first replica. What Lark refuses later takes no replica out of service, since
// all replicas share it.
func (s *server) becomeReady(ctx context.Context, p *parts, verdicts <-chan verdict) {
	missing := s.takeVerdicts(ctx, p, verdicts, len(s.clients), time.After(verdictWait))
	if missing == 0 && p.source.AllRefused() {
		s.log.Warn("not ready: Lark refuses every app; it is asked again every 30 s and when a secret file changes",
			"do", `check the app's id and secret; "larkside doctor" says more`)
		if p.source.AwaitAccepted(ctx) != nil {
			return // stopping
		}
	}
	if ctx.Err() != nil {
		return
	}
	s.ready.Store(true)
	s.announceReady()
	s.takeVerdicts(ctx, p, verdicts, missing, nil)
}

// takeVerdicts reports up to n verdicts to the token source, and returns how
// many are missing when time is up.
func (s *server) takeVerdicts(ctx context.Context, p *parts, verdicts <-chan verdict, n int, timeUp <-chan time.Time) (missing int) {
	for ; n > 0; n-- {
		select {
		case v := <-verdicts:
			p.source.Report(v.appID, v.err)
			if v.err != nil && ctx.Err() == nil && p.source.Refusal(v.appID) == nil {
				s.log.Warn("Lark can't be asked now whether it accepts the app", "app_id", v.appID, "error", v.err)
			}
		case <-timeUp:
			return n
		}
	}
	return 0
}

// readiness says whether requests should be sent here. A database that is away
// for a moment does not change it: cached users are still served, and another
// replica would have the same database.
func (s *server) readiness(context.Context) []admin.Check {
	p := s.parts.Load()
	serving := true
	select {
	case <-s.stopping:
		serving = false
	default:
	}
	checks := []admin.Check{
		{Name: "started", OK: p != nil, Detail: ifNot(p != nil, s.whyNotStarted())},
		{Name: "serving", OK: serving, Detail: ifNot(serving, "shutting down")},
	}
	if p == nil {
		return checks
	}
	ready := s.ready.Load()
	checks = append(checks, admin.Check{Name: "lark", OK: ready, Detail: ifNot(ready, whyNotAccepted(p))})
	for _, id := range s.cfg.AppIDs() {
		refusal := p.source.Refusal(id)
		c := admin.Check{Name: "app " + id, OK: refusal == nil, Advisory: true}
		if refusal != nil {
			c.Detail = refusal.Error()
		}
		checks = append(checks, c)
	}
	return checks
}

// observeReadiness shows on /metrics why the instance is not ready. It works from
// the start on, when an instance without a database has no other metric that says
// so.
func (s *server) observeReadiness() error {
	_, err := otel.Meter("larkside/cmd/larkside").Int64ObservableGauge("larkside.readiness",
		metric.WithDescription("1 while the condition of /readyz holds that the label names, else 0."),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			for _, c := range s.readiness(ctx) {
				if !c.Advisory {
					o.Observe(oneIf(c.OK), metric.WithAttributes(telemetry.Check.String(c.Name)))
				}
			}
			return nil
		}))
	return err
}

func oneIf(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

func (s *server) whyNotStarted() string {
	if s.empty.Load() {
		return "the database has no session, and EXPECT_SESSIONS=true says that there are some: is it the right one?"
	}
	return "waiting for the database"
}

func whyNotAccepted(p *parts) string {
	if p.source.AllRefused() {
		return "Lark refuses every app"
	}
	return "asking Lark whether it accepts the app"
}

func ifNot(ok bool, detail string) string {
	if ok {
		return ""
	}
	return detail
}
