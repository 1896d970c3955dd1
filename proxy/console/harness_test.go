package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
	"larkside/telemetry"
	"larkside/test/dbtest"
)

const (
	app      = "cli_a1"
	adminKey = "the-admin-key-of-this-test"
	// hostile is what a name must not do: run, break out, or turn text around.
	hostile = "<script>alert(1)</script>\"'`><img src=x onerror=alert(2)> \u202egnp.exe\u2066 {{.}}\x00\x1b[31m"
	// canary stands in everything that no page may show.
	canary = "canary-secret"
)

var alice = session.Key{AppID: app, OpenID: "ou_alice"}

// stage is a console over a real store, behind a real server.
type stage struct {
	t      *testing.T
	store  *store.DB
	recent *telemetry.Recent
	log    *slog.Logger
	url    string
	k      *Console

	mu     sync.Mutex
	key    session.Secret
	failed error
	done   []string
	card   session.CardResult
}

func newStage(t *testing.T, key string) *stage {
	t.Helper()
	s := newQuietStage(t, key)
	server := httptest.NewServer(s.k)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// newQuietStage is a stage without a server, so that it fits into a synctest
// bubble. Its visitors are those of visitorAt.
func newQuietStage(t *testing.T, key string) *stage {
	t.Helper()
	s := &stage{t: t, store: dbtest.SQLite(t).Open(t, nil), recent: telemetry.NewRecent(), key: session.NewSecret(key), card: session.CardSent}
	s.log = slog.New(s.recent.Handler(slog.NewTextHandler(t.Output(), nil)))
	did := func(what string) func(context.Context, session.Key, string) error {
		return func(_ context.Context, key session.Key, from string) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.failed == nil && from != "" {
				s.done = append(s.done, what+" "+key.AppID+" "+key.OpenID)
			}
			return s.failed
		}
	}
	ask := did("ask")
	k := New(Config{
		Version: "v1.2.3", Replica: "replica-1", Database: "SQLite", Started: time.Now().Add(-time.Hour), Apps: []string{app, "cli_b2"},
		Key:   edge.NewAdminKey(func() session.Secret { s.mu.Lock(); defer s.mu.Unlock(); return s.key }, s.log),
		Ready: func(context.Context) []Check { return []Check{{Name: "started", OK: true}} },
		Store: s.stored,
		Budget: func(context.Context, string) ([]session.Limit, []int, error) {
			return []session.Limit{{N: 40, Period: time.Second}, {N: 900, Period: time.Minute}}, []int{3, 899}, nil
		},
		AppRefusal: func(id string) *AppRefusal {
			if id == "cli_b2" {
				return &AppRefusal{Err: errors.New("code 20014 " + hostile), Since: time.Now().Add(-210 * time.Minute), Remedy: "turn the switch on", RemedyChinese: "打开开关"}
			}
			return nil
		},
		Refresh: did("refresh"), Revoke: did("revoke"),
		StartConsent: func(ctx context.Context, key session.Key, from string) (session.CardResult, error) {
			return s.card, ask(ctx, key, from)
		},
		Recent: s.recent, OpenAPI: []byte(`{"openapi":"3.1.0"}`), Log: s.log,
	})
	t.Cleanup(k.Close)
	s.k, s.url = k, "http://127.0.0.1:8081"
	return s
}

// stored is what the pages show of the store.
func (s *stage) stored() *Store {
	return &Store{Sessions: s.store.Sessions, Directory: s.store.Directory, Consents: s.store.Consents.History, Audit: s.store.Audit}
}

func (s *stage) setKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = session.NewSecret(key)
}

// fail makes what is done from now on fail.
func (s *stage) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

func (s *stage) doings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.done...)
}

func (s *stage) put(key session.Key, name string, change func(*session.Session)) {
	s.t.Helper()
	now := time.Now()
	g := session.Session{
		Key: key, UnionID: "on_" + key.OpenID, UserID: "u." + key.OpenID, Profile: session.Profile{Name: name, Email: canary + "@example.com", Mobile: canary},
		AccessToken: session.NewSecret(canary + "-access"), RefreshToken: session.NewSecret(canary + "-refresh"),
		TokenType: "Bearer", TokenURL: "https://accounts.example/token", Scope: "a:b offline_access",
		IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour), RefreshExpiresAt: now.Add(7 * 24 * time.Hour), GrantedAt: now,
	}
	if change != nil {
		change(&g)
	}
	if _, err := s.store.Sessions.Put(s.t.Context(), g); err != nil {
		s.t.Fatal(err)
	}
}

// ask begins a consent whose link and code must not be shown.
func (s *stage) ask(key session.Key) *session.Consent {
	s.t.Helper()
	p, _, err := s.store.Consents.Begin(s.t.Context(), session.Consent{Key: key, Flow: session.DeviceFlow, Scopes: "x:y"}, time.Minute, 10*time.Minute)
	if err == nil {
		err = s.store.Consents.SetLink(s.t.Context(), p, session.NewSecret("https://accounts.example/"+canary), session.NewSecret(canary), "", time.Second, time.Minute)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// fill stores some of everything, as hostile as it gets.
func (s *stage) fill() {
	s.t.Helper()
	s.put(alice, hostile, nil)
	s.put(session.Key{AppID: app, OpenID: "ou_bob"}, "Bob", func(g *session.Session) { g.RefreshToken = session.Secret{}; g.RefreshExpiresAt = time.Time{} })
	s.put(session.Key{AppID: "cli_b2", OpenID: "ou_<b>&"}, "张三", nil)
	if _, err := s.store.Sessions.Revoke(s.t.Context(), session.Key{AppID: "cli_b2", OpenID: "ou_<b>&"}, session.Reason(hostile)); err != nil {
		s.t.Fatal(err)
	}
	s.ask(alice)
	over := s.ask(session.Key{AppID: app, OpenID: "ou_bob"})
	if _, err := s.store.Consents.Close(s.t.Context(), over.ID, session.ConsentFailed, hostile); err != nil {
		s.t.Fatal(err)
	}
	s.store.Audit.Write(s.t.Context(), store.AuditEntry{Actor: hostile, Action: hostile, Key: alice, Result: hostile, Detail: hostile})
	s.log.Warn("warning "+hostile, hostile, hostile, "token", session.NewSecret(canary))
	s.log.Error("boom", "error", errors.New(hostile))
}

// visitor is a browser without JavaScript.
type visitor struct {
	*stage
	client *http.Client
	header http.Header
}

func (s *stage) visitor(header ...string) *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	v := &visitor{s, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, http.Header{}}
	for i := 0; i < len(header); i += 2 {
		v.header.Set(header[i], header[i+1])
	}
	return v
}

// visitorAt is a browser at an address, without a network in between.
func (s *stage) visitorAt(address string, header ...string) *visitor {
	v := s.visitor(header...)
	v.client.Transport = from{address, s.k}
	return v
}

type from struct {
	address string
	handler http.Handler
}

func (f from) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.Host, in.RemoteAddr = r.URL.Host, f.address
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, in)
	response := w.Result()
	response.Request = r
	return response, nil
}

type answer struct {
	status   int
	header   http.Header
	body     string
	location string
}

func (v *visitor) send(method, path string, form url.Values, header ...string) *answer {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	for name, values := range v.header {
		r.Header[name] = values
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := v.client.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return &answer{response.StatusCode, response.Header, string(content), response.Header.Get("Location")}
}

func (v *visitor) get(path string) *answer { v.t.Helper(); return v.send("GET", path, nil) }

var formToken = regexp.MustCompile(`name="form" value="([^"]+)"`)

// post sends the form that the page at from has for path.
func (v *visitor) post(from, path string, fields ...string) *answer {
	v.t.Helper()
	found := formToken.FindStringSubmatch(v.get(from).body)
	if found == nil {
		v.t.Fatalf("%s has no form", from)
	}
	form := url.Values{"form": {found[1]}}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return v.send("POST", path, form)
}

func (v *visitor) signIn() *visitor {
	v.t.Helper()
	if a := v.post("/login", "/login", "key", adminKey); a.status != 303 {
		v.t.Fatalf("signing in: %d", a.status)
	}
	return v
}

// parse returns the document and every element of it.
func (a *answer) parse(t *testing.T) (all []*html.Node) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode {
			all = append(all, n)
		}
	}
	return all
}

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

func text(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return b.String()
}
