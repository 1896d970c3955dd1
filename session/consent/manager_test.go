package consent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

// public is where browsers reach the replica under test.
const public = "https://sidecar.test"

// world has flows of any number of replicas beside what [inprocess.World] has.
// Most tests run it in a synctest bubble, where minutes pass at once.
type world struct{ *inprocess.World }

func newWorld(t testing.TB, change func(*larktest.Config)) *world {
	t.Helper()
	return newWorldOn(t, dbtest.SQLite(t), change)
}

func newWorldOn(t testing.TB, db *dbtest.DB, change func(*larktest.Config)) *world {
	t.Helper()
	return &world{inprocess.New(t, db, func(c *larktest.Config) {
		c.Apps = []larktest.App{{
			ID: larktest.AppID, Secret: larktest.AppSecret, Name: "Tables", Scopes: larktest.DefaultScopes(),
			RedirectURIs: []string{public + callbackPath},
		}}
		if change != nil {
			change(c)
		}
	})}
}

// use takes from db what a Manager needs of it.
func (c *Config) use(db *store.DB) {
	c.Sessions, c.Retention, c.Consents, c.Reminders, c.Events = db.Sessions, db.Retention, db.Consents, db.Reminders, db.Events
	c.Rates, c.Elections, c.Audit, c.Changes, c.Defaults = db.Rates, db.Elections, db.Audit, db.Changes, db.Defaults
}

// replica returns a replica that does not run yet.
func (w *world) replica(change func(*Config)) *Manager {
	w.T.Helper()
	c := Config{
		Apps: map[string]Lark{larktest.AppID: inprocess.Client(w.T, w.Lark, nil)},
		Log:  slog.New(slog.NewTextHandler(w.Log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	c.use(w.Store)
	if change != nil {
		change(&c)
	}
	f, err := New(c)
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { f.Shutdown(w.T.Context()) })
	return f
}

// run runs a replica until the test ends, or stop is called.
func (w *world) run(f *Manager) (stop func()) {
	ctx, cancel := context.WithCancel(w.T.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	w.T.Cleanup(stop)
	return stop
}

func (w *world) device(change func(*Config)) *Manager {
	f := w.replica(change)
	w.run(f)
	return f
}

func redirect(c *Config) { c.PublicURL = public }

func (w *world) ask(f *Manager, key session.Key, scopes ...string) session.Challenge {
	w.T.Helper()
	c, err := f.Ask(w.T.Context(), key, session.ConsentRequest{Reason: session.NoSession, Scopes: scopes})
	if err != nil {
		w.T.Fatal(err)
	}
	return c
}

func (w *world) latest(key session.Key) *session.Consent {
	w.T.Helper()
	p, err := w.Store.Consents.Latest(w.T.Context(), key)
	if err != nil {
		w.T.Fatal(err)
	}
	return p
}

func (w *world) awaitState(key session.Key, want session.ConsentState) *session.Consent {
	w.T.Helper()
	w.Await("consent "+string(want), func() bool { return w.latest(key).State == want })
	return w.latest(key)
}

func (w *world) noSession(key session.Key) {
	w.T.Helper()
	if _, err := w.Store.Sessions.Load(w.T.Context(), key); !errors.Is(err, session.ErrNotFound) {
		w.T.Errorf("a session of %s is stored (%v)", key.OpenID, err)
	}
}

// allRevoked checks that Lark takes none of openID's tokens any more.
func (w *world) allRevoked(openID string) {
	w.T.Helper()
	w.Await("tokens of "+openID+" being revoked", func() bool {
		tokens := w.Lark.Ledger(openID)
		return len(tokens) > 0 && !slices.ContainsFunc(tokens, func(one larktest.Issued) bool { return !one.Revoked })
	})
}

func (w *world) cards(openID string) int { return len(w.Lark.Messages(openID)) }

var alice, bob = dbtest.Key(larktest.Alice), dbtest.Key(larktest.Bob)

func TestDeviceFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		c := w.ask(f, alice)
		if c.Card != session.CardSent || !strings.HasPrefix(c.AuthorizeURL, inprocess.Origin) || c.ExpiresIn != 240*time.Second {
			t.Errorf("first challenge: %+v", c)
		}
		if again := w.ask(f, alice); again.Card != session.CardAlreadySent || again.AuthorizeURL != c.AuthorizeURL {
			t.Errorf("second challenge: %+v", again)
		}
		if links := w.Lark.Messages(larktest.Alice)[0].Links(); len(links) != 1 || links[0] != c.AuthorizeURL {
			t.Errorf("the card links to %q, the challenge to %s", links, c.AuthorizeURL)
		}
		if err := w.Lark.Approve(c.AuthorizeURL, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.awaitState(alice, session.ConsentDone)
		got := w.Row(alice)
		if got.State != session.Active || got.RefreshToken.Empty() || got.TokenURL != inprocess.Origin+"/open-apis/authen/v2/oauth/token" ||
			got.ExpiresAt.Sub(got.IssuedAt) != 2*time.Hour || got.GrantedAt.IsZero() || got.UnionID == "" || got.Profile.Name == "" {
			t.Errorf("stored session: %+v", got)
		}
		w.AwaitCard(alice.OpenID, texts.done.title.en)
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards", n)
		}
	})
}

// browser is a person's browser: it keeps cookies and follows redirects on our
// own host only.
type browser struct {
	w       *world
	handler http.Handler
	cookies map[string]*http.Cookie
	accept  string
	// prefetch marks what it does as not asked for by anyone.
	prefetch bool
	ctx      context.Context
}

// clone is the same browser, for a second request at the same time.
func (b *browser) clone() *browser {
	c := *b
	c.cookies = maps.Clone(b.cookies)
	return &c
}

// leavable lets the browser hang up.
func (b *browser) leavable() (leave func()) {
	ctx, cancel := context.WithCancel(b.ctx)
	b.ctx = ctx
	return cancel
}

func (w *world) browser(f *Manager) *browser {
	return &browser{w: w, handler: f.Handler(), cookies: map[string]*http.Cookie{}, accept: "en", ctx: w.T.Context()}
}

func (b *browser) get(link string) *http.Response { return b.do(http.MethodGet, link) }

func (b *browser) do(method, link string) *http.Response {
	r := httptest.NewRequestWithContext(b.ctx, method, link, nil)
	if b.prefetch {
		r.Header.Set("Sec-Purpose", "prefetch;prerender")
	}
	r.Header.Set("Accept-Language", b.accept)
	for _, c := range b.cookies {
		r.AddCookie(c)
	}
	rec := httptest.NewRecorder()
	b.handler.ServeHTTP(rec, r)
	resp := rec.Result()
	for _, c := range resp.Cookies() {
		b.cookies[c.Name] = c
	}
	checkHeaders(b.w.T, resp)
	return resp
}

func checkHeaders(t testing.TB, resp *http.Response) {
	t.Helper()
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") {
		t.Errorf("Content-Security-Policy: %q", csp)
	}
}

// open follows the link of a card to Lark's page and returns its address.
func (b *browser) open(link string) string {
	b.w.T.Helper()
	resp := b.get(link)
	if resp.StatusCode != http.StatusFound {
		b.w.T.Fatalf("start page: %s", resp.Status)
	}
	return resp.Header.Get("Location")
}

// consent approves Lark's page as openID and returns the callback's address.
func (b *browser) consent(page, openID string) string {
	b.w.T.Helper()
	back, err := b.w.Lark.Consent(page, openID)
	if err != nil {
		b.w.T.Fatal(err)
	}
	return back
}

func wantPage(t testing.TB, resp *http.Response, status int, m message) {
	t.Helper()
	body := new(bytes.Buffer)
	body.ReadFrom(resp.Body)
	if resp.StatusCode != status || !strings.Contains(body.String(), m.title.en) {
		t.Errorf("page: %d %q, want %d %q", resp.StatusCode, titleOf(body.String()), status, m.title.en)
	}
}

func titleOf(html string) string {
	_, after, _ := strings.Cut(html, "<title>")
	title, _, _ := strings.Cut(after, "</title>")
	return title
}

func TestRedirectFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(redirect)
		c := w.ask(f, alice)
		if c.Card != session.CardSent || !strings.HasPrefix(c.AuthorizeURL, public+startPath+"?t=") || c.ExpiresIn != 10*time.Minute {
			t.Errorf("challenge: %+v", c)
		}
		b := w.browser(f)
		page := b.open(c.AuthorizeURL)
		for _, part := range []string{"code_challenge_method=S256", "prompt=consent", "scope=offline_access"} {
			if !strings.Contains(page, part) {
				t.Errorf("authorize page lacks %s: %s", part, page)
			}
		}
		back := b.consent(page, larktest.Alice)
		wantPage(t, b.get(back), http.StatusOK, texts.done)
		if got, err := w.Store.Sessions.Load(t.Context(), alice); err != nil || got.RefreshToken.Empty() {
			t.Errorf("stored session: %+v, %v", got, err)
		}
		w.AwaitCard(alice.OpenID, texts.done.title.en)

		wantPage(t, b.get(back), http.StatusOK, texts.done)                 // the browser repeats itself
		wantPage(t, b.get(c.AuthorizeURL), http.StatusOK, texts.done)       // the link is clicked again
		wantPage(t, w.browser(f).get(back), http.StatusGone, texts.expired) // somebody else replays it
		if n := w.TokenCalls(); n != 1 {
			t.Errorf("the token endpoint was asked %d times", n)
		}
	})
}

// Lark issues no refresh token: the log says once for the app, and not for each
// of its users, what to change.
func TestNoRefreshTokenIsWarnedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(redirect)
		consents := func(first, n int) {
			for i := range n {
				b, who := w.browser(f), w.person(first+i)
				wantPage(t, b.get(b.consent(b.open(w.ask(f, who).AuthorizeURL), who.OpenID)), http.StatusOK, texts.done)
			}
		}
		const warning = "Lark issued no refresh token"
		consents(0, 1)
		if strings.Contains(w.Log.String(), warning) {
			t.Errorf("warned of a grant that has one:\n%s", w.Log)
		}
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
			a.Scopes = slices.DeleteFunc(a.Scopes, func(scope string) bool { return scope == offlineAccess })
		})
		w.Lark.Switch(func(s *larktest.Switches) { s.OfflineAccessDropped = true })
		consents(1, 5)
		text := w.Log.String()
		if strings.Count(text, warning) != 1 || !strings.Contains(text, "enable offline_access as a user token scope") {
			t.Errorf("log:\n%s", text)
		}
	})
}
