package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"larkside/session"
	"larkside/telemetry"
)

// A count of all sessions reads every row: it is shown again for countsFor, and
// for countsRest times what it took, so that a large database has at most a
// twentieth of its time taken, however many watch.
const (
	countsFor  = 5 * time.Second
	countsRest = 20
)

// counts remembers the last count.
type counts struct {
	mu    sync.Mutex
	until time.Time
	all   []session.Count
}

func (c *counts) get(ctx context.Context, store Store) ([]session.Count, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	began := time.Now()
	if began.Before(c.until) {
		return c.all, nil
	}
	all, err := store.Counts(ctx)
	if err == nil {
		c.all, c.until = all, time.Now().Add(max(countsFor, countsRest*time.Since(began)))
	}
	return all, err
}

type overviewBody struct {
	Ready             bool
	Checks            []Check
	Replica, Database string
	Started           moment
	// Trouble is the key of a text; the numbers of the store are not known then.
	Trouble                         string
	Active, Asking, Disabled, Total int
	Pending                         int
	Apps                            []appView
	Plots                           []plot
	Errors                          []recordView
	MoreErrors                      int
}

// appView is an app and its share of Lark's token endpoint.
type appView struct {
	ID       string
	Sessions int
	// Resting is why its endpoint is left alone, Refused whether Lark refuses the
	// app itself.
	Resting string
	Refused bool
	Windows []windowView
	Trouble string
}

// windowView is one limit. Level is "", "high" or "full".
type windowView struct {
	Used, Limit int
	Period      string
	Level       string
}

// overviewErrors is how many messages the overview shows.
const overviewErrors = 5

func (k *Console) overview(w http.ResponseWriter, r *http.Request) error {
	l, now := k.lang(r), k.now()
	b := overviewBody{Ready: true, Replica: k.Replica, Database: k.Database, Started: l.moment(k.Started, now)}
	for _, c := range k.Ready(r.Context()) {
		b.Checks = append(b.Checks, c)
		b.Ready = b.Ready && c.OK
	}
	perApp, err := k.countInto(r.Context(), &b)
	if err != nil {
		b.Trouble = k.troubleOf(r, err).text
	}
	for _, id := range k.Apps {
		b.Apps = append(b.Apps, k.app(r, l, id, perApp[id]))
	}
	b.Plots = k.plots(r.Context(), l)
	records := k.Recent.Records()
	b.Errors = viewRecords(l, now, records[:min(len(records), overviewErrors)])
	b.MoreErrors = len(records) - len(b.Errors)
	k.show(w, r, http.StatusOK, page{Name: "overview", Title: "overview.title", Nav: "overview", Live: true, Body: b})
	return nil
}

// countInto fills in what is stored, and returns the sessions of each app.
func (k *Console) countInto(ctx context.Context, b *overviewBody) (map[string]int, error) {
	store, err := k.store()
	if err != nil {
		return nil, err
	}
	perApp := make(map[string]int)
	all, err1 := k.counts.get(ctx, store)
	for _, c := range all {
		perApp[c.AppID] += c.Sessions
		b.Total += c.Sessions
		switch c.State {
		case session.Active:
			b.Active += c.Sessions
		case session.ConsentRequired:
			b.Asking += c.Sessions
		case session.Disabled:
			b.Disabled += c.Sessions
		}
	}
	pending, err2 := store.PendingConsents(ctx)
	b.Pending = pending
	return perApp, errors.Join(err1, err2)
}

func (k *Console) app(r *http.Request, l lang, id string, sessions int) appView {
	v := appView{ID: id, Sessions: sessions}
	if k.Resting != nil {
		if err := k.Resting(id); err != nil {
			v.Refused = errors.Is(err, session.ErrAppMisconfigured)
			v.Resting = visible(err.Error())
		}
	}
	if k.Budget == nil {
		return v
	}
	limits, used, err := k.Budget(r.Context(), id)
	if err != nil {
		v.Trouble = k.troubleOf(r, err).text
		return v
	}
	for i, limit := range limits {
		v.Windows = append(v.Windows, viewWindow(l, limit, used[i]))
	}
	return v
}

func viewWindow(l lang, limit session.Limit, used int) windowView {
	v := windowView{Used: used, Limit: limit.N, Period: l.period(limit.Period)}
	switch {
	case used >= limit.N:
		v.Level = "full"
	case used*10 >= limit.N*8:
		v.Level = "high"
	}
	return v
}

// recordView is a message of the log.
type recordView struct {
	Error       bool
	Message     string
	Attrs       []telemetry.Attr
	Count       int
	First, Last moment
}

func viewRecords(l lang, now time.Time, records []telemetry.Record) []recordView {
	var views []recordView
	for _, r := range records {
		v := recordView{Error: r.Level >= slog.LevelError, Message: visible(r.Message), Count: r.Count,
			First: l.moment(r.First, now), Last: l.moment(r.Last, now)}
		for _, a := range r.Attrs {
			v.Attrs = append(v.Attrs, telemetry.Attr{Name: visible(a.Name), Value: visible(a.Value)})
		}
		views = append(views, v)
	}
	return views
}

type errorsBody struct{ Records []recordView }

func (k *Console) errors(w http.ResponseWriter, r *http.Request) error {
	b := errorsBody{viewRecords(k.lang(r), k.now(), k.Recent.Records())}
	k.show(w, r, http.StatusOK, page{Name: "errors", Title: "errors.title", Nav: "errors", Live: true, Body: b})
	return nil
}
