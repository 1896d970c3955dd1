// Package console serves / of the admin listener: pages on which an operator
// sees the state of a replica and of all sessions, and changes them.
//
// [New] makes the handler from a [Config]. Pages are rendered here and work
// without JavaScript. One small script follows server-sent events and replaces
// what has changed. No page holds a token, a secret or a link that is meant
// for a user, and what the database says is shown as text, whatever it is.
// With the database down the pages say so and the state of the replica is
// shown all the same.
//
// Who may look is decided here: a bearer key, or the ticket of a sign-in.
// Sign-ins are in memory, so each replica has its own. A ticket for all replicas
// would have to be signed with something that all of them know, which is the
// admin key. Then the key could be guessed from a ticket, and no sign-out could
// end one. Host and Origin are checked by who mounts the handler; forms are
// checked here once more.
package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
	"larkside/telemetry"
)

// Config is what the console shows and does. Functions are called concurrently.
type Config struct {
	// Version and Replica say what runs and where, Database is "PostgreSQL" or
	// "SQLite".
	Version, Replica, Database string
	// Started is when the process was.
	Started time.Time
	// Apps are the ids of the configured apps, the main one first.
	Apps []string
	// Key is the lock that the API has too. nil: no sign-in.
	Key *edge.AdminKey
	// Ready returns every condition of readiness.
	Ready func(ctx context.Context) []Check

	// Store returns what is stored, nil while the database is not there yet.
	Store func() *Store
	// Budget returns the limits on an app's calls to the token endpoint and how
	// much of each is used over all replicas.
	Budget func(ctx context.Context, appID string) ([]session.Limit, []int, error)
	// Resting says why an app's token endpoint is left alone; nil: it is not.
	Resting func(appID string) error
	// AppRefusal says why Lark refuses an app; nil: Lark accepts it.
	AppRefusal func(appID string) *AppRefusal

	// Refresh renews a session now, Revoke ends one, and StartConsent has its user
	// asked and says what became of the card. from is the operator's address, for the
	// audit trail. Errors are those of package session.
	Refresh      func(ctx context.Context, key session.Key, from string) error
	Revoke       func(ctx context.Context, key session.Key, from string) error
	StartConsent func(ctx context.Context, key session.Key, from string) (session.CardResult, error)

	// UserShown returns what log lines show of a user. nil: nobody is found by that.
	UserShown func(openID string) string
	// History remembers what [Tracked] names.
	History *telemetry.History
	// Recent keeps the last warnings and errors.
	Recent *telemetry.Recent
	// OpenAPI is the description of the API, as JSON.
	OpenAPI []byte
	// Log gets what an operator acts on. nil: nothing is logged.
	Log *slog.Logger
}

// AppRefusal is Lark's refusal of an app.
type AppRefusal struct {
	Err   error
	Since time.Time
	// Remedy is what mends it, as a sentence in English and in Chinese.
	Remedy, RemedyChinese string
}

// refusalOf returns why Lark refuses an app, nil if Lark accepts it.
func (k *Console) refusalOf(appID string) *AppRefusal {
	if k.AppRefusal == nil {
		return nil
	}
	return k.AppRefusal(appID)
}

// Check is one condition of readiness.
type Check struct {
	Name, Detail string
	OK           bool
}

// Store is the part of the database that the pages show.
type Store struct {
	Sessions  Sessions
	Directory Directory
	Consents  Consents
	Audit     Audit
}

// Sessions reads one session. [store.Sessions] is one.
type Sessions interface {
	Load(ctx context.Context, key session.Key) (*session.Session, error)
	Resolve(ctx context.Context, appID, alias string) (session.Key, error)
}

// Directory searches and counts sessions. [store.Directory] is one.
type Directory interface {
	Search(ctx context.Context, after session.Key, f store.SessionFilter, text string, limit int) (*store.Page, error)
	Browse(ctx context.Context, o store.Order, from store.Cursor, f store.SessionFilter, limit int) (*store.Listing, error)
	Find(ctx context.Context, after session.Key, f store.SessionFilter, user string, limit int) (*store.Page, error)
	Names(ctx context.Context, keys []session.Key) (map[session.Key]string, error)
	Counts(ctx context.Context) ([]store.Count, error)
	Fingerprint(ctx context.Context) (string, error)
}

// Consents lists and counts consents. [store.ConsentHistory] is one.
type Consents interface {
	List(ctx context.Context, before string, f store.ConsentFilter, limit int) ([]session.Consent, error)
	Of(ctx context.Context, key session.Key, limit int) ([]session.Consent, error)
	Pending(ctx context.Context) (int, error)
}

// Audit lists the audit trail. [store.Audit] is one.
type Audit interface {
	List(ctx context.Context, before string, f store.AuditFilter, limit int) ([]store.AuditEntry, error)
}

// Console is the [http.Handler] of the pages. It is safe for concurrent use.
// Make it with [New].
type Console struct {
	Config
	pages   *pages
	mux     *http.ServeMux
	live    *live
	signIns *signIns
	counts  counts
	now     func() time.Time
}

// New returns the console that c describes.
func New(c Config) *Console {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Ready == nil {
		c.Ready = func(context.Context) []Check { return nil }
	}
	if c.Store == nil {
		c.Store = func() *Store { return nil }
	}
	if c.History == nil {
		c.History = telemetry.NewHistory()
	}
	if c.Recent == nil {
		c.Recent = telemetry.NewRecent()
	}
	k := &Console{Config: c, pages: newPages(), signIns: newSignIns(), now: time.Now}
	k.live = newLive(k.pulse)
	k.mux = k.routes()
	return k
}

// Close ends the streams of events, so that a shutdown need not wait for them.
// It may be called more than once.
func (k *Console) Close() { k.live.close() }

// action answers, or returns an error that [Console.fail] turns into a page;
// then it has written nothing.
type action func(w http.ResponseWriter, r *http.Request) error

func (k *Console) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, do := range map[string]action{
		"GET /{$}":                             k.overview,
		"GET /sessions":                        k.sessions,
		"GET /sessions/{app}/{user}":           k.session,
		"GET /sessions/{app}/{user}/{action}":  k.confirm,
		"POST /sessions/{app}/{user}/{action}": k.act,
		"GET /ask":                             k.askWhom,
		"GET /consents":                        k.consents,
		"GET /audit":                           k.audit,
		"GET /errors":                          k.errors,
		"GET /events":                          k.events,
		"GET /openapi.json":                    k.openapi,
		"POST /logout":                         k.logout,
		"/":                                    k.nothing,
	} {
		mux.Handle(pattern, k.handle(k.signedIn(do)))
	}
	// What the sign-in itself needs.
	mux.Handle("GET /login", k.handle(k.loginForm))
	mux.Handle("POST /login", k.handle(k.login))
	mux.Handle("GET /style.css", asset("style.css", "text/css; charset=utf-8"))
	mux.Handle("GET /console.js", asset("console.js", "text/javascript; charset=utf-8"))
	mux.Handle("GET /icon.svg", asset("icon.svg", "image/svg+xml"))
	mux.Handle("GET /favicon.ico", asset("icon.svg", "image/svg+xml"))
	return mux
}

// csp lets a page load what comes from here, and run nothing else.
const csp = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// ServeHTTP answers with a page, an asset or a stream of events.
func (k *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", csp)
	// With no-referrer, browsers would send Origin: null with our own forms, as
	// with those of other sites. With same-origin, other sites are told nothing
	// either.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Robots-Tag", "noindex")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	k.mux.ServeHTTP(w, r)
}

// maxForm is more than any form here has.
const maxForm = 64 << 10

// handle runs do, after the form of a POST has been found to come from one of
// our pages.
func (k *Console) handle(do action) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if k.switchLanguage(w, r) {
			return
		}
		err := readable(r)
		if err == nil && r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			err = k.checkForm(r)
		}
		if err == nil {
			err = do(w, r)
		}
		if err != nil {
			k.fail(w, r, err)
		}
	})
}

// readable refuses text that a database can't hold, which would look like a
// failure of the database.
func readable(r *http.Request) error {
	if strings.ContainsRune(r.URL.Path, 0) || !utf8.ValidString(r.URL.Path) {
		return errBadInput
	}
	for _, values := range r.URL.Query() {
		for _, v := range values {
			if strings.ContainsRune(v, 0) || !utf8.ValidString(v) {
				return errBadInput
			}
		}
	}
	return nil
}

// trouble is an error page: its status, and the key of its text.
type trouble struct {
	status int
	text   string
}

func (t *trouble) Error() string { return t.text }

var (
	errNothing    = &trouble{http.StatusNotFound, "trouble.nothing"}
	errNoSession  = &trouble{http.StatusNotFound, "trouble.no_session"}
	errMethod     = &trouble{http.StatusMethodNotAllowed, "trouble.method"}
	errForm       = &trouble{http.StatusForbidden, "trouble.form"}
	errUnknownApp = &trouble{http.StatusBadRequest, "trouble.app"}
	errBadInput   = &trouble{http.StatusBadRequest, "trouble.input"}
	errStarting   = &trouble{http.StatusServiceUnavailable, "trouble.starting"}
	errSlow       = &trouble{http.StatusServiceUnavailable, "trouble.slow"}
	errFull       = &trouble{http.StatusServiceUnavailable, "trouble.full"}
)

// troubleOf finds the page for an error of this package or of package session.
func (k *Console) troubleOf(r *http.Request, err error) *trouble {
	var t *trouble
	switch {
	case errors.As(err, &t):
		return t
	case errors.Is(err, session.ErrNotFound):
		return errNoSession
	case errors.Is(err, session.ErrAmbiguous):
		return &trouble{http.StatusBadRequest, "trouble.ambiguous"}
	case errors.Is(err, session.ErrConsentRequired):
		return &trouble{http.StatusConflict, "trouble.consent_required"}
	case errors.Is(err, session.ErrConflict), errors.Is(err, session.ErrLeased):
		return &trouble{http.StatusConflict, "trouble.conflict"}
	case errors.Is(err, session.ErrUserDisabled):
		return &trouble{http.StatusConflict, "trouble.user_disabled"}
	case errors.Is(err, session.ErrAppMisconfigured):
		return &trouble{http.StatusServiceUnavailable, "trouble.app_misconfigured"}
	case errors.Is(err, session.ErrRefreshUnavailable):
		return &trouble{http.StatusServiceUnavailable, "trouble.refresh_unavailable"}
	case errors.Is(err, session.ErrUnavailable):
		return &trouble{http.StatusServiceUnavailable, "trouble.store_unavailable"}
	}
	if r.Context().Err() == nil {
		k.Log.ErrorContext(r.Context(), "a console page failed in an unforeseen way", "method", r.Method, "error", err)
	}
	return &trouble{http.StatusInternalServerError, "trouble.internal"}
}

func (k *Console) fail(w http.ResponseWriter, r *http.Request, err error) {
	t := k.troubleOf(r, err)
	if t.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	k.show(w, r, t.status, page{Name: "trouble", Title: "trouble.title", Body: t.text})
}

// nothing answers requests that no pattern matches: an unknown path, or a
// known one with another method.
func (k *Console) nothing(w http.ResponseWriter, r *http.Request) error {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := k.mux.Handler(probe); strings.HasPrefix(pattern, method) {
			allow = append(allow, method)
			if method == http.MethodGet {
				allow = append(allow, http.MethodHead)
			}
		}
	}
	if len(allow) == 0 {
		return errNothing
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	return errMethod
}

func (k *Console) openapi(w http.ResponseWriter, _ *http.Request) error {
	if len(k.OpenAPI) == 0 {
		return errNothing
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Write(k.OpenAPI)
	return nil
}

// store is what is stored, or why it can't be asked.
func (k *Console) store() (*Store, error) {
	if s := k.Store(); s != nil {
		return s, nil
	}
	return nil, errStarting
}
