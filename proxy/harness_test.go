package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/session"
	larkapi "larkside/session/lark"
)

const (
	app    = "cli_a"
	table  = "/open-apis/apaas/v1/workspaces/w/tables"
	mail   = "/open-apis/mail/v1/x"
	pathIM = "/open-apis/im/v1/chats"
)

// tokens is a TokenSource and Waiter that behaves like the real one: one token
// per user, versions that only grow, a refresh only for the version that is
// current, an error where there is none.
type tokens struct {
	mu        sync.Mutex
	users     map[session.Key]*grant
	changed   map[session.Key]chan struct{}
	refreshes int
	failing   error // of Token and ReplaceRefused, for everybody
}

type grant struct {
	version int64
	expires time.Time
	err     error // of Token
	refresh error // of ReplaceRefused
}

func newTokens() *tokens {
	return &tokens{users: map[session.Key]*grant{}, changed: map[session.Key]chan struct{}{}}
}

func key(openID string) session.Key { return session.Key{AppID: app, OpenID: openID} }

// token is what the upstream gets to see of a user's token.
func token(openID string, version int64) string { return fmt.Sprintf("u-%s-v%d", openID, version) }

func (t *tokens) grant(openID string) *grant { return t.change(openID, nil) }

// change gives a user a new session, whose token can't be had if err says so,
// and wakes who waits for it.
func (t *tokens) change(openID string, err error) *grant {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := &grant{version: 1, expires: time.Now().Add(time.Hour), err: err}
	if old := t.users[key(openID)]; old != nil {
		g.version = old.version + 1
	}
	t.users[key(openID)] = g
	if c := t.changed[key(openID)]; c != nil {
		close(c)
		delete(t.changed, key(openID))
	}
	return g
}

func (t *tokens) set(openID string, change func(*grant)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(t.users[key(openID)])
}

func (t *tokens) access(k session.Key, g *grant) *session.Access {
	return session.NewAccess(&session.Session{
		Key: k, State: session.Active, TokenType: "Bearer", Version: g.version,
		AccessToken: session.NewSecret(token(k.OpenID, g.version)),
		IssuedAt:    g.expires.Add(-2 * time.Hour), ExpiresAt: g.expires,
	})
}

func (t *tokens) Token(_ context.Context, k session.Key) (*session.Access, session.Lookup, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.users[k]
	switch {
	case t.failing != nil:
		return nil, "", t.failing
	case g == nil:
		return nil, "", &session.ConsentRequiredError{Reason: session.NoSession}
	case g.err != nil:
		return nil, "", g.err
	}
	return t.access(k, g), session.FromCache, nil
}

func (t *tokens) ReplaceRefused(_ context.Context, k session.Key, version int64) (*session.Access, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.users[k]
	switch {
	case t.failing != nil:
		return nil, t.failing
	case g.refresh != nil:
		return nil, g.refresh
	case g.version == version:
		g.version++
		t.refreshes++
	}
	return t.access(k, g), nil
}

// fail makes everything fail from now on.
func (t *tokens) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failing = err
}

func (t *tokens) refreshed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refreshes
}

func (t *tokens) Wait(ctx context.Context, k session.Key) error {
	t.mu.Lock()
	c := t.changed[k]
	if c == nil {
		c = make(chan struct{})
		t.changed[k] = c
	}
	t.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asker is an Asker that keeps one open consent per user.
type asker struct {
	mu    sync.Mutex
	asked []ask
	err   error
	began chan struct{} // gets one for each Ask, if not nil
}

type ask struct {
	key session.Key
	session.ConsentRequest
}

func (a *asker) Ask(_ context.Context, k session.Key, want session.ConsentRequest) (session.Challenge, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return session.Challenge{}, a.err
	}
	c := session.Challenge{
		AuthorizeURL: "https://accounts.feishu.cn/device?code=" + k.OpenID + "&x=1",
		ExpiresIn:    10 * time.Minute, Card: session.CardSent, RetryAfter: 1500 * time.Millisecond,
	}
	for _, old := range a.asked {
		if old.key == k {
			c.Card = session.CardAlreadySent
		}
	}
	a.asked = append(a.asked, ask{k, want})
	if a.began != nil {
		a.began <- struct{}{}
	}
	return c, nil
}

func (a *asker) all() []ask {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]ask(nil), a.asked...)
}

// aliases is a Resolver out of a map.
type aliases map[string]string

func (a aliases) Resolve(_ context.Context, appID, id string) (session.Key, error) {
	if open, ok := a[id]; ok {
		return session.Key{AppID: appID, OpenID: open}, nil
	}
	return session.Key{}, session.ErrNotFound
}

// tenant is a Tenant with one token per app.
type tenant struct{}

func (tenant) TenantAccessToken(_ context.Context, appID string) (session.Secret, error) {
	return session.NewSecret("t-" + appID), nil
}

func (t tenant) ReplaceTenantAccessToken(ctx context.Context, appID string, _ session.Secret) (session.Secret, error) {
	return t.TenantAccessToken(ctx, appID)
}

// lark is an upstream that records what it gets and answers as it is told.
type lark struct {
	*httptest.Server
	mu      sync.Mutex
	seen    []received
	handler http.HandlerFunc // nil: the echo
}

type received struct {
	method, uri, host string
	header            http.Header
	body              string
	trailer           http.Header
	broken            bool // the body broke off
}

func (r received) auth() []string { return r.header["Authorization"] }

func (l *lark) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	handler := l.handler
	l.mu.Unlock()
	if handler != nil {
		handler(w, r)
		return
	}
	l.record(r)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Tt-Logid", "log-1")
	io.WriteString(w, `{"code":0,"msg":"success"}`)
}

// record reads the request and returns it as it was noted.
func (l *lark) record(r *http.Request) received {
	body, err := io.ReadAll(r.Body)
	got := received{r.Method, r.RequestURI, r.Host, r.Header.Clone(), string(body), r.Trailer.Clone(), err != nil}
	l.mu.Lock()
	l.seen = append(l.seen, got)
	l.mu.Unlock()
	return got
}

func (l *lark) answer(h http.HandlerFunc) {
	l.mu.Lock()
	l.handler = h
	l.mu.Unlock()
}

func (l *lark) requests() []received {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]received(nil), l.seen...)
}

// last is the only request that is expected to have come since the last reset.
func (l *lark) one(t *testing.T) received {
	t.Helper()
	all := l.requests()
	if len(all) != 1 {
		t.Fatalf("upstream got %d requests, want 1", len(all))
	}
	return all[0]
}

// none fails if anything was forwarded.
func (l *lark) none(t *testing.T) {
	t.Helper()
	if all := l.requests(); len(all) != 0 {
		t.Fatalf("upstream got %d requests, want none; the first: %+v", len(all), all[0])
	}
}

func (l *lark) reset() {
	l.mu.Lock()
	l.seen = nil
	l.mu.Unlock()
}

// bed is a proxy on a real socket with everything around it.
type bed struct {
	t testing.TB
	// addr is where requests are sent to; authzAddr is the authz listener.
	addr, authzAddr string
	lark            *lark
	tokens          *tokens
	asker           *asker
}

// start runs a proxy in front of a lark; change, if any, alters its settings.
// User ou_1 has a token.
func start(t testing.TB, change func(*proxy.Config)) *bed {
	t.Helper()
	b := &bed{t: t, lark: &lark{}, tokens: newTokens(), asker: &asker{}}
	b.lark.Server = httptest.NewUnstartedServer(b.lark)
	b.lark.Config.DisableGeneralOptionsHandler = true
	b.lark.Start()
	t.Cleanup(func() {
		// Else Close waits 5 s for connections on which no request came.
		b.lark.CloseClientConnections()
		b.lark.Close()
	})
	b.tokens.grant("ou_1")
	upstream, _ := url.Parse(b.lark.URL)
	c := proxy.Config{
		UserTokenRefusal: larkapi.UserTokenRefusal, TenantTokenRefusal: larkapi.TenantTokenRefusal,
		Upstream: upstream, Apps: []string{app, "cli_b"},
		InjectPaths: []string{"/open-apis/apaas/", "/open-apis/spark/", "/open-apis/sheets/v2/", "/open-apis/authen/v1/user_info"},
		TenantPaths: []string{"/open-apis/im/"},
		Tokens:      b.tokens, Asker: b.asker, Resolver: aliases{"on_1": "ou_1", "jane": "ou_1"},
		Tenant: tenant{}, Waiter: b.tokens, ReplayBuffer: 64 << 10,
	}
	if change != nil {
		change(&c)
	}
	h, err := proxy.New(c)
	if err != nil {
		t.Fatal(err)
	}
	authz := proxy.NewServer(h.Authz())
	authz.Protocols = new(http.Protocols)
	authz.Protocols.SetHTTP1(true)
	authz.Protocols.SetUnencryptedHTTP2(true)
	b.addr, b.authzAddr = listen(t, proxy.NewServer(h)), listen(t, authz)
	return b
}

// listen runs server on a real socket until the test ends.
func listen(t testing.TB, server *http.Server) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(proxy.NewListener(ln))
	t.Cleanup(func() { server.Close() })
	return ln.Addr().String()
}

// authz is b with requests that go to the authz listener.
func (b *bed) authz() *bed {
	other := *b
	other.addr = b.authzAddr
	return &other
}

// trusting is a transport to upstream, whose certificate it trusts.
func trusting(upstream *httptest.Server) *proxy.Transport {
	return proxy.NewTransport(proxy.TransportConfig{
		RootCAs: upstream.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
	})
}

// reply is an answer, read to its end.
type reply struct {
	*http.Response
	body string
}

// larkside decodes the error of an answer of Larkside's own.
func (r reply) larkside(t testing.TB) (code int, name string, fields map[string]any) {
	t.Helper()
	var e struct {
		Code  int
		Msg   string
		Error map[string]any
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("not an envelope: %v: %q", err, r.body)
	}
	name, _ = e.Error["type"].(string)
	if e.Msg == "" || name == "" || name != r.Header.Get("X-Larkside-Error") {
		t.Errorf("envelope %s with X-Larkside-Error %q", r.body, r.Header.Get("X-Larkside-Error"))
	}
	if got := r.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	if id := r.Header.Get("X-Larkside-Request-Id"); len(id) != 16 || e.Error["request_id"] != id {
		t.Errorf("X-Larkside-Request-Id %q, error.request_id %v", id, e.Error["request_id"])
	}
	if got := r.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	return e.Code, name, e.Error
}

// isError fails unless r is the named answer.
func (r reply) isError(t testing.TB, status int, name string) map[string]any {
	t.Helper()
	if r.StatusCode != status {
		t.Errorf("status %d, want %d %s; body %q", r.StatusCode, status, name, r.body)
		return nil
	}
	_, got, fields := r.larkside(t)
	if got != name {
		t.Errorf("answer %s, want %s", got, name)
	}
	return fields
}

// dial opens a connection to the proxy that ends with the test.
func (b *bed) dial() net.Conn {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

// raw sends lines, joined by CRLF, byte by byte as they are, and reads one
// answer. A Host line is added after the first unless there is one.
func (b *bed) raw(lines ...string) reply {
	b.t.Helper()
	text := strings.Join(lines, "\r\n")
	if !strings.Contains(strings.ToLower(text), "\r\nhost:") {
		first, rest, _ := strings.Cut(text, "\r\n")
		text = first + "\r\nHost: " + b.addr + "\r\n" + rest
	}
	if !strings.Contains(text, "\r\n\r\n") {
		text += "\r\n\r\n"
	}
	conn := b.dial()
	defer conn.Close()
	io.WriteString(conn, text)
	method, _, _ := strings.Cut(text, " ")
	return b.read(bufio.NewReader(conn), method)
}

func (b *bed) read(r *bufio.Reader, method string) reply {
	b.t.Helper()
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			b.t.Fatalf("reading the answer: %v", err)
		}
		if res.StatusCode < 200 && res.StatusCode != 101 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			b.t.Fatalf("reading the body: %v", err)
		}
		return reply{res, string(body)}
	}
}

// get sends a GET for user ou_1 with further header lines.
func (b *bed) get(path string, header ...string) reply {
	b.t.Helper()
	return b.raw(append([]string{"GET " + path + " HTTP/1.1", "X-Lark-User-Id: ou_1"}, header...)...)
}

// post sends a body for user ou_1 with a Content-Length.
func (b *bed) post(path, body string, header ...string) reply {
	b.t.Helper()
	lines := append([]string{"POST " + path + " HTTP/1.1", "X-Lark-User-Id: ou_1", fmt.Sprintf("Content-Length: %d", len(body))}, header...)
	return b.raw(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// eventually polls for what happens just after an answer was sent; on giving
// up it runs otherwise, or fails.
func eventually(t testing.TB, done func() bool, otherwise ...func()) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			for _, f := range otherwise {
				f()
			}
			t.Fatal("it did not happen")
		}
	}
}
