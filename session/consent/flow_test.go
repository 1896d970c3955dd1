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
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// origin is where the emulator is, for links; it is reached in process.
const origin = "https://lark.test"

// public is where browsers reach the flow under test.
const public = "https://sidecar.test"

// stage is one emulator, one database, and any number of flows on it. Tests
// run it in a synctest bubble, where minutes pass at once.
type stage struct {
	t     testing.TB
	lark  *larktest.Platform
	store *store.DB
	log   *bytes.Buffer
	logMu sync.Mutex
}

func newStage(t testing.TB, change func(*larktest.Config)) *stage {
	t.Helper()
	return newStageOn(t, dbtest.SQLite(t), change)
}

func newStageOn(t testing.TB, db *dbtest.DB, change func(*larktest.Config)) *stage {
	t.Helper()
	c := larktest.Config{
		URL: origin, TokenPerSecond: -1,
		Apps: []larktest.App{{
			ID: larktest.AppID, Secret: larktest.AppSecret, Name: "Tables", Scopes: larktest.DefaultScopes(),
			RedirectURIs: []string{public + callbackPath},
		}},
	}
	if change != nil {
		change(&c)
	}
	s := &stage{t: t, lark: larktest.New(c), store: db.Open(t, nil), log: &bytes.Buffer{}}
	t.Cleanup(s.lark.Close)
	return s
}

func (s *stage) Write(b []byte) (int, error) {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.Write(b)
}

func (s *stage) logged() string {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.String()
}

// client is a Lark client of the default app.
func (s *stage) client() *lark.Client {
	s.t.Helper()
	c, err := lark.New(lark.Config{
		AppID: larktest.AppID, Secret: func() session.Secret { return session.NewSecret(larktest.AppSecret) },
		OpenURL: origin, AccountsURL: origin, TokenURL: origin + "/open-apis/authen/v2/oauth/token", Transport: s.lark.Transport(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// use takes from db what a Flow needs of it.
func (c *Config) use(db *store.DB) {
	c.Sessions, c.Consents, c.Reminders, c.Events = db.Sessions, db.Consents, db.Reminders, db.Events
	c.Rates, c.Audit, c.Changes = db.Rates, db.Audit, db.Changes
}

// flow is a replica that does not run yet.
func (s *stage) flow(change func(*Config)) *Flow {
	s.t.Helper()
	c := Config{
		Apps: map[string]Lark{larktest.AppID: s.client()},
		Log:  slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	c.use(s.store)
	if change != nil {
		change(&c)
	}
	f, err := New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Shutdown(s.t.Context()) })
	return f
}

// run runs a replica until the test ends, or stop is called.
func (s *stage) run(f *Flow) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	s.t.Cleanup(stop)
	return stop
}

func (s *stage) device(change func(*Config)) *Flow {
	f := s.flow(change)
	s.run(f)
	return f
}

func redirect(c *Config) { c.PublicURL = public }

func (s *stage) ask(f *Flow, key session.Key, scopes ...string) session.Challenge {
	s.t.Helper()
	c, err := f.Ask(s.t.Context(), key, Ask{Reason: session.NoSession, Scopes: scopes})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// await waits for what is not known to the emulator, by the bubble's clock.
func (s *stage) await(what string, done func() bool) {
	s.t.Helper()
	for range 3000 {
		if done() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Fatalf("not seen: %s\n%s", what, s.logged())
}

// awaitHit waits until a fault has struck. Without a deadline the bubble's
// clock would run on for ever.
func (s *stage) awaitHit(fault *larktest.Injection) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute)
	defer cancel()
	if err := fault.Await(ctx, 1); err != nil {
		s.t.Fatalf("the fault never struck: %v\n%s", err, s.logged())
	}
}

func (s *stage) latest(key session.Key) *session.Consent {
	s.t.Helper()
	p, err := s.store.Consents.Latest(s.t.Context(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *stage) awaitState(key session.Key, want session.ConsentState) *session.Consent {
	s.t.Helper()
	s.await("consent "+string(want), func() bool { return s.latest(key).State == want })
	return s.latest(key)
}

// awaitCard waits until the latest message to key shows the title.
func (s *stage) awaitCard(key session.Key, title string) {
	s.t.Helper()
	s.await("card "+title, func() bool {
		m := s.lark.Messages(key.OpenID)
		return len(m) > 0 && strings.Contains(m[len(m)-1].Content(), title)
	})
}

func (s *stage) noSession(key session.Key) {
	s.t.Helper()
	if _, err := s.store.Sessions.Load(s.t.Context(), key); !errors.Is(err, session.ErrNotFound) {
		s.t.Errorf("a session of %s is stored (%v)", key.OpenID, err)
	}
}

// allRevoked checks that Lark takes none of openID's tokens any more.
func (s *stage) allRevoked(openID string) {
	s.t.Helper()
	s.await("tokens of "+openID+" being revoked", func() bool {
		tokens := s.lark.Ledger(openID)
		return len(tokens) > 0 && !slices.ContainsFunc(tokens, func(one larktest.Issued) bool { return !one.Revoked })
	})
}

func (s *stage) cards(openID string) int { return len(s.lark.Messages(openID)) }

func keyOf(openID string) session.Key { return session.Key{AppID: larktest.AppID, OpenID: openID} }

var alice, bob = keyOf(larktest.Alice), keyOf(larktest.Bob)

// bubble runs a test in a synctest bubble.
func bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

func TestDeviceFlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newStage(t, nil)
		f := s.device(nil)
		c := s.ask(f, alice)
		if c.Card != session.CardSent || !strings.HasPrefix(c.AuthorizeURL, origin) || c.ExpiresIn != 240*time.Second {
			t.Errorf("first challenge: %+v", c)
		}
		if again := s.ask(f, alice); again.Card != session.CardAlreadySent || again.AuthorizeURL != c.AuthorizeURL {
			t.Errorf("second challenge: %+v", again)
		}
		if links := s.lark.Messages(larktest.Alice)[0].Links(); len(links) != 1 || links[0] != c.AuthorizeURL {
			t.Errorf("the card links to %q, the challenge to %s", links, c.AuthorizeURL)
		}
		if err := s.lark.Approve(c.AuthorizeURL, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		s.awaitState(alice, session.ConsentDone)
		got, err := s.store.Sessions.Load(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		if got.State != session.Active || got.RefreshToken.Empty() || got.TokenURL != origin+"/open-apis/authen/v2/oauth/token" ||
			got.ExpiresAt.Sub(got.IssuedAt) != 2*time.Hour || got.GrantedAt.IsZero() || got.UnionID == "" || got.Profile.Name == "" {
			t.Errorf("stored session: %+v", got)
		}
		s.awaitCard(alice, texts.done.title.en)
		if n := s.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards", n)
		}
	})
}

// browser is a person's browser: it keeps cookies and follows redirects on our
// own host only.
type browser struct {
	s       *stage
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

func (s *stage) browser(f *Flow) *browser {
	return &browser{s: s, handler: f.Handler(), cookies: map[string]*http.Cookie{}, accept: "en", ctx: s.t.Context()}
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
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	resp := w.Result()
	for _, c := range resp.Cookies() {
		b.cookies[c.Name] = c
	}
	checkHeaders(b.s.t, resp)
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
	b.s.t.Helper()
	resp := b.get(link)
	if resp.StatusCode != http.StatusFound {
		b.s.t.Fatalf("start page: %s", resp.Status)
	}
	return resp.Header.Get("Location")
}

// consent approves Lark's page as openID and returns the callback's address.
func (b *browser) consent(page, openID string) string {
	b.s.t.Helper()
	back, err := b.s.lark.Consent(page, openID)
	if err != nil {
		b.s.t.Fatal(err)
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
	bubble(t, func(t *testing.T) {
		s := newStage(t, nil)
		f := s.flow(redirect)
		c := s.ask(f, alice)
		if c.Card != session.CardSent || !strings.HasPrefix(c.AuthorizeURL, public+startPath+"?t=") || c.ExpiresIn != 10*time.Minute {
			t.Errorf("challenge: %+v", c)
		}
		b := s.browser(f)
		page := b.open(c.AuthorizeURL)
		for _, part := range []string{"code_challenge_method=S256", "prompt=consent", "scope=offline_access"} {
			if !strings.Contains(page, part) {
				t.Errorf("authorize page lacks %s: %s", part, page)
			}
		}
		back := b.consent(page, larktest.Alice)
		wantPage(t, b.get(back), http.StatusOK, texts.done)
		if got, err := s.store.Sessions.Load(t.Context(), alice); err != nil || got.RefreshToken.Empty() {
			t.Errorf("stored session: %+v, %v", got, err)
		}
		s.awaitCard(alice, texts.done.title.en)

		wantPage(t, b.get(back), http.StatusOK, texts.done)                 // the browser repeats itself
		wantPage(t, b.get(c.AuthorizeURL), http.StatusOK, texts.done)       // the link is clicked again
		wantPage(t, s.browser(f).get(back), http.StatusGone, texts.expired) // somebody else replays it
		if n := len(s.lark.Calls(larktest.To(larktest.TokenEndpoint))); n != 1 {
			t.Errorf("the token endpoint was asked %d times", n)
		}
	})
}
