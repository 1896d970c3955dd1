// Package admin serves the admin listener: health for the kubelet, metrics for
// Prometheus, and the API by which operators see and change sessions.
//
// [New] makes the handler from a [Config]. Parts of the Config may be missing; their
// paths answer 404, or 503 while the database is awaited. No answer holds a token, or
// a link that is meant for a user other than the one at the terminal ("larkside
// login").
// /healthz, /readyz and /metrics are open to everybody. All other paths refuse web
// pages and unknown Host values, and take the key if there is one. If the database is
// down, the API answers 503 and the health endpoints go on.
package admin

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
)

// Config is what the handler is made of. The zero value serves /healthz and
// /readyz.
type Config struct {
	// Ready returns the conditions of readiness, in the order in which they are
	// shown. It is called for each /readyz, concurrently, and must not block for long.
	// nil: always ready.
	Ready func(ctx context.Context) []Check
	// Metrics serves /metrics.
	Metrics http.Handler
	// Quit begins the same shutdown as SIGTERM. It is called for each POST
	// /quitquitquit, and must not wait for the shutdown.
	Quit func()

	// Key is the lock of the API, which the console shares. nil: no key is
	// needed.
	Key *edge.AdminKey
	// AllowHosts are the Host values that are accepted beside the loopback names: a
	// name, which admits any port, or name:port, or "*". A request over a Unix socket
	// may have any Host.
	AllowHosts []string

	// Waiting: the database is awaited, and with it the parts below. The API answers
	// 503 with what Ready says, instead of 404, which would mean that there is no
	// such session.
	Waiting bool
	// Apps are the ids of the configured apps. The first is the default.
	Apps []string
	// Sessions reads one session, and Directory lists them.
	Sessions  Sessions
	Directory Directory
	// Refresh renews a session's tokens now. Errors: those of package session, such
	// as [session.ErrNotFound].
	Refresh func(ctx context.Context, key session.Key, by Actor) error
	// Revoke ends a session here and at Lark.
	Revoke func(ctx context.Context, key session.Key, by Actor) error

	// Purge deletes the sessions that w names, and calls progress after each. It
	// changes nothing if w.DryRun is set. Errors: [session.ErrNotFound] and
	// [session.ErrAmbiguous], if w names a user.
	Purge func(ctx context.Context, w PurgeWish, progress func(Purge), by Actor) (Purge, error)

	// Consents reads what users were asked.
	Consents Consents
	// UserAttr is how logs show a user. nil: they show nothing.
	UserAttr func(session.Key) string
	// StartConsent starts a consent, or finds the one that is open. scopes nil: the
	// configured ones.
	StartConsent func(ctx context.Context, key session.Key, scopes []string, by Actor) (*session.Consent, error)

	// Login has whoever opens a link become the default user of the app. It calls
	// progress with the link, from the goroutine that called it.
	Login func(ctx context.Context, appID string, progress func(Login), by Actor) (Login, error)

	// SyncUsers reads the profiles of all known users from Lark now, and returns how
	// many it read. It calls progress with the counts so far, from the goroutine that
	// called it. progress is never nil.
	SyncUsers func(ctx context.Context, progress func(UserSync), by Actor) (UserSync, error)
	// RotateKeys seals everything under the first key. progress is as for SyncUsers.
	RotateKeys func(ctx context.Context, progress func(store.Resealed), by Actor) (store.Resealed, error)
	// Backup returns a copy of the database and its size, or [store.ErrNoBackup].
	Backup func(ctx context.Context, by Actor) (io.ReadCloser, int64, error)
	// Audit returns up to limit entries that are older than the one with the id
	// before, the newest first. An empty before begins with the newest entry.
	Audit func(ctx context.Context, before string, f store.AuditFilter, limit int) ([]store.AuditEntry, error)

	// Console serves / and every path that is not the API's. It decides itself who
	// may see it.
	Console http.Handler

	// Log gets what an operator can act on. nil: nothing is logged.
	Log *slog.Logger
}

// Actor is who wants a change. It is written to the audit trail.
type Actor struct {
	// Name is "admin".
	Name string
	// Address is the peer's IP address and port; "@" or empty over a Unix socket.
	Address string
}

// New returns the handler. It is safe for concurrent use.
func New(c Config) http.Handler {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.UserAttr == nil {
		c.UserAttr = func(session.Key) string { return "" }
	}
	a := &admin{Config: c}
	mux := http.NewServeMux()
	for path, methods := range a.routes() {
		h := a.dispatch(methods)
		if !slices.Contains(openToAll, path) {
			h = a.locked(h)
		}
		mux.Handle(path, h)
	}
	nothing := a.locked(a.dispatch(methods{http.MethodGet: func(http.ResponseWriter, *http.Request) error { return edge.NotFound }}))
	if a.Waiting {
		mux.Handle("/api/", a.locked(http.HandlerFunc(a.wait)))
	} else {
		mux.Handle("/api/", nothing)
	}
	if a.Console != nil {
		mux.Handle("/", a.Console)
	} else {
		mux.Handle("/", nothing)
	}
	return a.guard(mux)
}

type admin struct{ Config }

// handler answers a request. If it returns an error, it has written nothing, and
// [admin.fail] answers.
type handler func(w http.ResponseWriter, r *http.Request) error

type methods map[string]handler

// routes returns the paths that are served, with their methods. A part that is
// missing in Config has none.
func (a *admin) routes() map[string]methods {
	routes := map[string]methods{
		"/healthz": {http.MethodGet: a.healthz},
		"/readyz":  {http.MethodGet: a.readyz},
	}
	add := func(there bool, path, method string, h handler) {
		if !there {
			return
		}
		if routes[path] == nil {
			routes[path] = methods{}
		}
		routes[path][method] = h
	}
	const one = "/api/v1/sessions/{app}/{user}"
	stored := a.Sessions != nil
	add(a.Metrics != nil, "/metrics", http.MethodGet, a.metrics)
	add(a.Quit != nil, "/quitquitquit", http.MethodPost, a.quit)
	add(a.Directory != nil, "/api/v1/sessions", http.MethodGet, a.listSessions)
	add(stored, one, http.MethodGet, a.getSession)
	add(stored && a.Revoke != nil, one, http.MethodDelete, a.revokeSession)
	add(stored && a.Refresh != nil, one+"/refresh", http.MethodPost, a.refreshSession)
	add(a.Purge != nil, "/api/v1/sessions/purge", http.MethodPost, a.purge)
	add(a.Consents != nil, "/api/v1/consents", http.MethodGet, a.listConsents)
	add(stored && a.StartConsent != nil, "/api/v1/consents", http.MethodPost, a.startConsent)
	add(a.Login != nil, "/api/v1/login", http.MethodPost, a.login)
	add(a.SyncUsers != nil, "/api/v1/users/sync", http.MethodPost, a.syncUsers)
	add(a.RotateKeys != nil, "/api/v1/keys/rotate", http.MethodPost, a.rotateKeys)
	add(a.Backup != nil, "/api/v1/backup", http.MethodPost, a.backup)
	add(a.Audit != nil, "/api/v1/audit", http.MethodGet, a.listAudit)
	add(true, "/api/v1/openapi.json", http.MethodGet, a.describe)
	return routes
}

// dispatch returns a handler that picks one of m by the method. ServeMux could do
// that, but it would answer other methods in plain text.
func (a *admin) dispatch(m methods) http.Handler {
	var allow []string
	for method := range m {
		allow = append(allow, method)
		if method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	slices.Sort(allow)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		h, ok := m[method]
		if !ok {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			a.fail(w, r, edge.MethodNotAllowed)
			return
		}
		err := readable(r)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			a.fail(w, r, err)
		}
	})
}

// readable returns an error for text that a database can't hold. The database would
// fail on it as if it were down.
func readable(r *http.Request) error {
	ok := storable(r.URL.Path)
	for _, values := range r.URL.Query() {
		for _, v := range values {
			ok = ok && storable(v)
		}
	}
	if !ok {
		return invalid("Path and query have to be UTF-8 without NUL.")
	}
	return nil
}

func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
