package console

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/telemetry"
)

// Counting all sessions reads every row. So a count is shown for countsFor,
// and for at least countsRest times as long as it took: however many watch,
// counting takes a twentieth of a large database's time at most.
const (
	countsFor  = 5 * time.Second
	countsRest = 20
	// failedFor bounds how long a failure is shown: a count that timed out
	// says little about the database a minute later.
	failedFor = 30 * time.Second
)

// overviewPatience is how long the overview waits for a count, and for
// everything else that the database is asked: the state of the replica does not
// depend on it.
const overviewPatience = time.Second

// counts remembers the last count, a failed one too. One runs at a time, and
// goes on when whoever wanted it has gone.
type counts struct {
	mu    sync.Mutex
	until time.Time
	all   []store.Count
	err   error
	// counted is closed when the running count has ended; nil: none runs.
	counted chan struct{}
}

// get waits for a running count until ctx ends, then returns the one before;
// errSlow if there is none.
func (c *counts) get(ctx context.Context, d Directory) ([]store.Count, error) {
	c.mu.Lock()
	if c.counted == nil && !time.Now().Before(c.until) {
		c.counted = make(chan struct{})
		go c.count(context.WithoutCancel(ctx), d)
	}
	counted := c.counted
	c.mu.Unlock()
	if counted != nil {
		select {
		case <-counted:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() {
		return nil, errSlow
	}
	return c.all, c.err
}

// count counts, for as long as the store lets it.
func (c *counts) count(ctx context.Context, d Directory) {
	began := time.Now()
	all, err := d.Counts(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := max(countsFor, countsRest*time.Since(began))
	if err != nil {
		rest = min(rest, failedFor)
	}
	c.all, c.err, c.until = all, err, time.Now().Add(rest)
	close(c.counted)
	c.counted = nil
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
	// Unconfigured: it has sessions and is not in the settings any more.
	Unconfigured bool
	// Refused is why Lark refuses the app itself, since when, and what mends it.
	// Otherwise Resting is why its endpoint is left alone.
	Refused, Remedy string
	Since           moment
	Resting         string
	Windows         []windowView
	Trouble         string
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
		b.Apps = append(b.Apps, k.app(l, now, id, perApp[id]))
		delete(perApp, id)
	}
	if err == nil || errors.Is(err, errSlow) {
		k.budgetsInto(r, l, b.Apps)
	}
	for _, id := range slices.Sorted(maps.Keys(perApp)) {
		b.Apps = append(b.Apps, appView{ID: visible(id), Sessions: perApp[id], Unconfigured: true})
	}
	b.Plots = k.plots(r.Context())
	records := k.Recent.Records()
	b.Errors = k.viewRecords(r.Context(), l, now, records[:min(len(records), overviewErrors)])
	b.MoreErrors = len(records) - len(b.Errors)
	k.show(w, r, http.StatusOK, page{Name: "overview", Title: "overview.title", Nav: "overview", Live: true, Body: b})
	return nil
}

// countInto fills in what is stored, and returns the sessions of each app. It
// asks nothing more once the database has failed.
func (k *Console) countInto(ctx context.Context, b *overviewBody) (map[string]int, error) {
	stored, err := k.store()
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, overviewPatience)
	defer cancel()
	if b.Pending, err = stored.Consents.Pending(asking); err != nil {
		return nil, err
	}
	counting, cancel := context.WithTimeout(ctx, overviewPatience)
	defer cancel()
	all, err := k.counts.get(counting, stored.Directory)
	perApp := make(map[string]int)
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
	return perApp, err
}

func (k *Console) app(l lang, now time.Time, id string, sessions int) appView {
	v := appView{ID: id, Sessions: sessions}
	if refusal := k.refusalOf(id); refusal != nil {
		v.Refused, v.Since, v.Remedy = visible(refusal.Err.Error()), l.moment(refusal.Since, now), refusal.Remedy
		if l == chinese && refusal.RemedyChinese != "" {
			v.Remedy = refusal.RemedyChinese
		}
		return v
	}
	if k.Resting != nil {
		if err := k.Resting(id); err != nil {
			v.Resting = visible(err.Error())
		}
	}
	return v
}

// budgetsInto fills in how much of its limits each app has used. Where one
// can't be read, those behind it are not asked for.
func (k *Console) budgetsInto(r *http.Request, l lang, apps []appView) {
	if k.Budget == nil {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), overviewPatience)
	defer cancel()
	trouble := ""
	for i := range apps {
		v := &apps[i]
		if trouble == "" {
			limits, used, err := k.Budget(ctx, v.ID)
			if err != nil {
				trouble = k.troubleOf(r, err).text
			} else {
				for i, limit := range limits {
					v.Windows = append(v.Windows, viewWindow(l, limit, used[i]))
				}
			}
		}
		v.Trouble = trouble
	}
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
	Error   bool
	Message string
	// Says is the message in the reader's language, empty where it is that already.
	Says        string
	Attrs       []telemetry.Attr
	Count       int
	First, Last moment
	// Users are whom it was about, the latest first.
	Users     []recordUser
	MoreUsers bool
}

// recordUser is a user whom a message was about. Shown is what the log line has.
type recordUser struct {
	person
	Shown string
	Count int
}

func (k *Console) viewRecords(ctx context.Context, l lang, now time.Time, records []telemetry.Record) []recordView {
	var keys []session.Key
	for _, r := range records {
		for _, u := range r.Users {
			keys = append(keys, session.Key{AppID: u.AppID, OpenID: u.OpenID})
		}
	}
	names := k.names(ctx, keys)
	var views []recordView
	for _, r := range records {
		v := recordView{MoreUsers: r.MoreUsers, Error: r.Level >= slog.LevelError, Message: visible(r.Message), Says: l.message(r.Message), Count: r.Count,
			First: l.moment(r.First, now), Last: l.moment(r.Last, now)}
		for _, a := range r.Attrs {
			v.Attrs = append(v.Attrs, telemetry.Attr{Name: visible(a.Name), Value: visible(a.Value)})
		}
		for _, u := range r.Users {
			key := session.Key{AppID: u.AppID, OpenID: u.OpenID}
			v.Users = append(v.Users, recordUser{k.person(key, names[key]), visible(u.Shown), u.Count})
		}
		views = append(views, v)
	}
	return views
}

type errorsBody struct{ Records []recordView }

func (k *Console) errors(w http.ResponseWriter, r *http.Request) error {
	b := errorsBody{k.viewRecords(r.Context(), k.lang(r), k.now(), k.Recent.Records())}
	k.show(w, r, http.StatusOK, page{Name: "errors", Title: "errors.title", Nav: "errors", Live: true, Body: b})
	return nil
}
