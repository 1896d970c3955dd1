package saves

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/refresh"
	"larkside/session"
	"larkside/session/consent"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

// larkside is a replica beside each instance of the app, with the settings'
// defaults and the redirect flow.
type larkside struct {
	world    *world
	replicas []*replica
	log      inprocess.Buffer
}

// replica is wired as cmd/larkside does it.
type replica struct {
	db       *store.DB
	source   *refresh.Source
	consents *consent.Manager
	proxy    http.Handler
}

// throughLarkside lives the day with Larkside.
func throughLarkside(t testing.TB, w *world, people []*person) {
	l := &larkside{world: w}
	for range instances {
		l.replicas = append(l.replicas, l.newReplica(t))
	}
	yesterday(people, func(openID string, at time.Time) {
		dbtest.Seed(t, l.replicas[0].db, w.lark, at, openID)
	})

	background, stop := context.WithCancel(context.WithValue(t.Context(), byItself{}, true))
	var running sync.WaitGroup
	for _, r := range l.replicas {
		running.Go(func() { r.source.Run(background) })
		running.Go(func() { r.consents.Run(background) })
	}
	w.live(t, people, l)
	stop()
	running.Wait()
	for _, r := range l.replicas {
		if err := errors.Join(r.source.Shutdown(t.Context()), r.consents.Shutdown(t.Context())); err != nil {
			t.Error(err)
		}
	}
	larktest.NoViolations(t, w.lark)
	if t.Failed() {
		t.Log(l.log.String())
	}
}

func (l *larkside) newReplica(t testing.TB) *replica {
	w := l.world
	log := slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r := &replica{db: w.db.Open(t, func(c *store.Config) { c.TestingOnlyDriver, c.Log = w.driverName, log })}
	db, client := r.db, inprocess.Client(t, w.lark, w)
	var asking atomic.Pointer[consent.Manager]
	var err1, err2, err3 error
	r.source, err1 = refresh.New(refresh.Config{
		Sessions: db.Sessions, Leases: db.Leases, Profiles: db.Profiles, Rates: db.Rates, Elections: db.Elections, Changes: db.Changes,
		Apps: map[string]refresh.Lark{larktest.AppID: client}, Sweep: time.Minute, Sync: 24 * time.Hour, Log: log,
		Ended: func(ctx context.Context, over *session.Session) {
			db.Audit.Write(ctx, store.AuditEntry{Actor: store.ByLark, Action: store.AuditLost, Key: over.Key, Result: string(over.State), Detail: string(over.Reason)})
			asking.Load().Ended(ctx, over)
		},
		Discard: func(ctx context.Context, key session.Key, access, refresh session.Secret) {
			asking.Load().Discard(ctx, key, access, refresh)
		},
	})
	r.consents, err2 = consent.New(consent.Config{
		Sessions: db.Sessions, Retention: db.Retention, Keep: 90 * 24 * time.Hour, Consents: db.Consents, Reminders: db.Reminders, Events: db.Events,
		Rates: db.Rates, Elections: db.Elections, Audit: db.Audit, Changes: db.Changes, Defaults: db.Defaults,
		Apps: map[string]consent.Lark{larktest.AppID: client}, Scopes: scopes, PublicURL: public, AwaitTurn: r.source.AwaitTurn, Log: log,
		TokenRefused: func(ctx context.Context, key session.Key, version int64) { r.source.ReplaceRefused(ctx, key, version) },
	})
	asking.Store(r.consents)
	upstream, _ := url.Parse(w.lark.URL)
	r.proxy, err3 = proxy.New(proxy.Config{
		UserTokenRefusal: lark.UserTokenRefusal, TenantTokenRefusal: lark.TenantTokenRefusal,
		Upstream: upstream, Transport: w, Apps: []string{larktest.AppID}, InjectPaths: []string{"/open-apis/apaas/"},
		Tokens: tokens{r}, Asker: asker{r}, ReplayBuffer: 64 << 10, Log: log,
	})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return r
}

// tokens is a [proxy.TokenSource].
type tokens struct{ *replica }

func (r tokens) Token(ctx context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	a, lookup, err := r.source.Token(ctx, key)
	if why, ok := errors.AsType[*session.ConsentRequiredError](err); ok {
		err = &session.ConsentRequiredError{Reason: r.consents.Reason(ctx, key, why.Reason)}
	}
	return a, lookup, err
}

func (r tokens) ReplaceRefused(ctx context.Context, key session.Key, version int64) (*session.Access, error) {
	return r.source.ReplaceRefused(ctx, key, version)
}

// asker is a [proxy.Asker].
type asker struct{ *replica }

func (r asker) Ask(ctx context.Context, key session.Key, want session.ConsentRequest) (session.Challenge, error) {
	if err := r.source.CheckApp(key.AppID); err != nil {
		return session.Challenge{}, err
	}
	return r.consents.Ask(ctx, key, want)
}

func (l *larkside) call(instance int, openID string) (link string, ok bool) {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil)
	r.Header.Set("X-Lark-User-Id", openID)
	r.Header.Set(larktest.ExpectUserHeader, openID)
	answer := httptest.NewRecorder()
	l.replicas[instance].proxy.ServeHTTP(answer, r)
	return answer.Header().Get("X-Larkside-Authorize-Url"), answer.Code == http.StatusOK
}

// consent is what the user's browser does.
func (l *larkside) consent(t testing.TB, openID, link string) {
	pages := l.replicas[rand.IntN(instances)].consents.Handler()
	get := func(link string, cookies []*http.Cookie) *http.Response {
		r := httptest.NewRequest(http.MethodGet, link, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		page := httptest.NewRecorder()
		pages.ServeHTTP(page, r)
		return page.Result()
	}
	start := get(link, nil)
	back, err := l.world.lark.Consent(start.Header.Get("Location"), openID)
	if err != nil {
		t.Errorf("%s: %v", openID, err)
		return
	}
	if done := get(back, start.Cookies()); done.StatusCode != http.StatusOK {
		t.Errorf("%s's consent ended with status %d", openID, done.StatusCode)
	}
}
