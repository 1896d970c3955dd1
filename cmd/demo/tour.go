package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"larkside/test/larktest"
	"larkside/test/port"
)

const (
	appID  = "cli_demo0123456789ab"
	secret = "the-demo-apps-secret"
	// scopes is what the app wants to do for its users.
	scopes = "app_engine:workspace.table:read app_engine:workspace.table.record:read"

	// accessLife is two hours at Lark. Here it is so short that the tour sees
	// tokens come to their end, and threshold has them renewed after less than
	// a third of it.
	accessLife = 15 * time.Second
	threshold  = "0.7"

	// The ways to consent, as LARKSIDE_CONSENT_FLOW names them.
	deviceFlow   = "device"
	redirectFlow = "redirect"

	// patience bounds each step; on a quiet machine none takes a third of it.
	patience = 45 * time.Second
)

// step is one station of the tour.
type step struct {
	// says is what happens, in a sentence.
	says string
	// act does it and shows it.
	act func(ctx context.Context, t *tour) error
	// check judges what was seen.
	check func(t *tour) error
	// holds is what has been shown then.
	holds string
}

// tour is what the steps share.
type tour struct {
	out    *screen
	lark   *larktest.Platform
	server *http.Server
	child  *child
	http   *http.Client
	// publicURL is where browsers reach larkside's consent pages; empty in the
	// device flow.
	publicURL string
	release   func() // its port
	walked    int
	answers   []answer // of the present step
	link      string   // to the page on which a user consents
	run       calling  // of the present step
	fault     *larktest.Injection
	// The violations from stayed to left were seen while both were left to whoever
	// develops against them. They say nothing about the tour.
	stayed, left int
}

// violations are those that the tour has caused.
func (t *tour) violations() []larktest.Violation {
	all := t.lark.Violations()
	return slices.Concat(all[:t.stayed], all[t.left:])
}

// start brings up the emulator and larkside. What is kept listens where one would
// look for it.
func start(ctx context.Context, out *screen, flow, dir string, keep bool) (_ *tour, err error) {
	t := &tour{out: out, http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	out.title("Larkside, a guided tour. Lark is an emulator here; larkside is the real program.")
	if flow == redirectFlow {
		address, release, err := port.Reserve()
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		t.release = release
		t.publicURL = "http://" + address
	}
	proxyAt, adminAt, larkAt := anyPort, anyPort, anyPort
	if keep {
		proxyAt, adminAt, larkAt = ifFree(ctx, "127.0.0.1:8080"), ifFree(ctx, "127.0.0.1:8081"), ifFree(ctx, "127.0.0.1:9000")
	}
	if err := t.serveLark(ctx, larkAt); err != nil {
		return nil, err
	}
	out.note("building larkside (the first time this takes a minute or two) …")
	began := time.Now()
	binary, err := build(ctx, dir)
	if err != nil {
		return nil, err
	}
	out.note("built in %.1f s", time.Since(began).Seconds())
	out.began = time.Now()

	settings := []string{
		"LARKSIDE_APP_ID=" + appID,
		"LARKSIDE_APP_SECRET=" + secret,
		"LARKSIDE_OPEN_URL=" + t.lark.URL,
		"LARKSIDE_ACCOUNTS_URL=" + t.lark.URL,
		"LARKSIDE_MCP_URL=" + t.lark.URL + "/mcp",
		"LARKSIDE_LISTEN=" + proxyAt,
		"LARKSIDE_ADMIN_LISTEN=" + adminAt,
		"LARKSIDE_DATABASE_URL=sqlite:" + filepath.Join(dir, "larkside.db"),
		"LARKSIDE_SCOPES=" + scopes,
		"LARKSIDE_REFRESH_THRESHOLD=" + threshold,
		"LARKSIDE_LOG_FORMAT=json",
	}
	if t.publicURL != "" {
		settings = append(settings, "LARKSIDE_PUBLIC_URL="+t.publicURL, "LARKSIDE_CONSENT_LISTEN="+strings.TrimPrefix(t.publicURL, "http://"))
	}
	t.child, err = launch(ctx, binary, dir, settings)
	if err != nil {
		return nil, err
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		out.line("%s=%s", name, out.paint(faint, "'"+value+"'"))
	}
	out.line("larkside")
	out.note("ready: proxy %s, admin %s", t.child.URL, t.child.adminURL)
	out.note("Lark emulator %s, on which tokens live for %v\n", t.lark.URL, accessLife)
	return t, nil
}

// anyPort is an address with a port that is free.
const anyPort = "127.0.0.1:0"

// ifFree returns address, or anyPort if somebody listens there.
func ifFree(ctx context.Context, address string) string {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return anyPort
	}
	l.Close()
	return address
}

// serveLark starts the emulator.
func (t *tour) serveLark(ctx context.Context, address string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("starting the emulator: %w", err)
	}
	t.lark = larktest.New(larktest.Config{
		URL:        "http://" + listener.Addr().String(),
		Apps:       []larktest.App{{ID: appID, Secret: secret, Name: "Demo app", RedirectURIs: []string{t.publicURL + "/consent/callback"}}},
		AccessLife: accessLife, DeviceInterval: time.Second, AdHocUsers: true,
	})
	t.server = &http.Server{Handler: t.lark, ReadHeaderTimeout: 10 * time.Second}
	go t.server.Serve(listener)
	return nil
}

// close ends whatever still runs.
func (t *tour) close() {
	if t.child != nil {
		t.child.kill()
	}
	if t.lark != nil {
		t.lark.Close()
	}
	if t.server != nil {
		t.server.Close()
	}
	if t.release != nil {
		t.release()
	}
	t.http.CloseIdleConnections()
}

// walk takes the steps until one is not as it should be.
func (t *tour) walk(ctx context.Context, steps []step) error {
	for _, s := range steps {
		t.walked++
		t.answers, t.run = nil, calling{}
		t.out.step(t.walked, s.says)
		if err := t.take(ctx, s); err != nil {
			t.out.failed(err)
			return fmt.Errorf("step %d was not as it should be: %w", t.walked, err)
		}
		t.out.passed(s.holds)
	}
	return nil
}

func (t *tour) take(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.act(ctx, t); err != nil {
		return err
	}
	return s.check(t)
}

// explain adds what larkside itself had to say.
func (t *tour) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return fmt.Errorf("%w\nthe end of larkside's log:\n%s", err, t.child.log.tail(8))
}

// stay leaves everything running until ctx ends.
func (t *tour) stay(ctx context.Context) {
	curl := func(openID string) string {
		return fmt.Sprintf("curl -i -H 'X-Lark-User-Id: %s' %s%s", openID, t.child.URL, records)
	}
	t.out.title(fmt.Sprintf("Both stay up until Ctrl-C. Tokens live for %v here; Larkside renews them.", accessLife))
	t.out.line("Alice and Bob have consented:")
	t.out.line("  %s", curl(larktest.Alice))
	t.out.line("  %s", curl(larktest.Bob))
	t.out.line("Carol has not. Call, approve what comes into her chat, call again:")
	t.out.line("  %s", curl(larktest.Carol))
	t.out.line("  %s/chat?user=%s", t.lark.URL, larktest.Carol)
	t.out.line("All chats, the ledger, and how to make Lark fail:")
	t.out.line("  %s/chat", t.lark.URL)
	t.out.line("  %s/", t.lark.URL)
	t.out.line("  %s/larktest/", t.lark.URL)
	t.out.line("The console, and the metrics:")
	t.out.line("  %s/", t.child.adminURL)
	t.out.line("  curl %s/metrics", t.child.adminURL)
	t.out.line("Your program, in Go and in Node; each call has the header X-Lark-User-Id:")
	t.out.line("  lark.NewClient(%q, \"larkside\", lark.WithOpenBaseUrl(%q))", appID, t.child.URL)
	t.out.line("  new lark.Client({appId: '%s', appSecret: 'larkside', domain: '%s'})", appID, t.child.URL)
	t.out.line("An agent, by MCP, with the same header:")
	t.out.line("  %s/mcp", t.child.URL)
	t.out.line("A larkside of your own on this emulator; larkside doctor checks it:")
	for _, s := range t.own() {
		t.out.line("  export %s", s)
	}
	t.out.line("")
	t.stayed = len(t.lark.Violations())
	defer func() { t.left = len(t.lark.Violations()) }()
	select {
	case <-ctx.Done():
	case <-t.child.done:
	}
}

// own are the settings of a larkside that somebody starts beside this one.
func (t *tour) own() []string {
	return []string{
		"LARKSIDE_APP_ID=" + appID,
		"LARKSIDE_APP_SECRET=" + secret,
		"LARKSIDE_OPEN_URL=" + t.lark.URL,
		"LARKSIDE_ACCOUNTS_URL=" + t.lark.URL,
		"LARKSIDE_MCP_URL=" + t.lark.URL + "/mcp",
		"LARKSIDE_LISTEN=127.0.0.1:8090",
		"LARKSIDE_ADMIN_LISTEN=127.0.0.1:8091",
		"LARKSIDE_SCOPES='" + scopes + "'",
	}
}

// answer is what the app got.
type answer struct {
	status int
	header http.Header
	body   string
	// The parts of the body that are judged, of Lark's envelope and of what the
	// emulator puts into it.
	parsed struct {
		Code  int
		Error struct {
			Type, Reason, Card string
			AuthorizeURL       string `json:"authorize_url"`
		}
		Data struct {
			Items string
			Owner struct {
				OpenID string `json:"open_id"`
			}
		}
	}
}

const workspace = "/open-apis/apaas/v1/workspaces/workspace_demo"

// records are each user's own at the emulator, and name their owner.
const records = workspace + "/tables/orders/records"

// ask calls through larkside as the app does, and shows call and answer.
func (t *tour) ask(ctx context.Context, path, openID string) error {
	t.out.request(path, openID)
	a, err := t.call(ctx, path, openID)
	if err != nil {
		return err
	}
	t.out.answer(a)
	t.answers = append(t.answers, a)
	return nil
}

func (t *tour) call(ctx context.Context, path, openID string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.child.URL+path, nil)
	if err != nil {
		return answer{}, err
	}
	if openID != "" {
		r.Header.Set("X-Lark-User-Id", openID)
	}
	res, err := t.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, header: res.Header, body: strings.TrimSpace(string(body))}
	json.Unmarshal(body, &a.parsed) // what is missing fails the check
	return a, nil
}

// calling is a series of calls of one user's, made one after the other.
type calling struct {
	calls, failed int
	firstFailure  answer
	took          time.Duration
	// tokens are the emulator's names of the tokens that came, in order.
	tokens []string
}

// pace is how far apart the calls of a series are.
const pace = 200 * time.Millisecond

// callUntil calls as openID until enough, which is asked after each call.
func (t *tour) callUntil(ctx context.Context, openID string, enough func(*calling) bool) error {
	c := &t.run
	before := len(t.callsOf(openID))
	began := time.Now()
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for {
		a, err := t.call(ctx, records, openID)
		if err != nil {
			return err
		}
		c.calls++
		if a.status != http.StatusOK || a.parsed.Data.Owner.OpenID != openID {
			if c.failed++; c.failed == 1 {
				c.firstFailure = a
			}
		}
		c.tokens, c.took = distinct(t.callsOf(openID)[before:]), time.Since(began)
		if enough(c) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%d calls, and still waiting: %w", c.calls, context.Cause(ctx))
		}
	}
}

// callsOf are the API calls that Lark saw with a token of openID's.
func (t *tour) callsOf(openID string) []larktest.Call {
	return t.lark.Calls(func(c larktest.Call) bool { return c.Endpoint == larktest.API && c.Owner == openID })
}

func distinct(calls []larktest.Call) (ids []string) {
	for _, c := range calls {
		if len(ids) == 0 || ids[len(ids)-1] != c.TokenID {
			ids = append(ids, c.TokenID)
		}
	}
	return ids
}

// card shows the latest version of a user's latest card, as the chat has it.
func (t *tour) card(openID string) {
	all := t.lark.Messages(openID)
	if len(all) == 0 {
		return
	}
	m := all[len(all)-1]
	var content struct {
		Header struct {
			Title struct{ Content string }
		}
		Body struct {
			Elements []struct{ Tag, Content string }
		}
	}
	json.Unmarshal([]byte(m.Content()), &content)
	t.out.line("%s card in the chat: %s", t.out.paint(cyan, "✉"), t.out.paint(bold, content.Header.Title.Content))
	for _, e := range content.Body.Elements {
		if e.Tag == "markdown" {
			for _, line := range strings.Split(e.Content, "\n") {
				t.out.note("  %s", line)
			}
		}
	}
	for _, b := range m.Buttons() {
		t.out.line("  [%s] %s", b.Text[""], t.out.paint(faint, b.URL))
	}
}

// approve opens the link as the user does, and says yes. It returns when
// larkside has brought the card up to date, which is the last thing it does.
func (t *tour) approve(ctx context.Context, openID string) error {
	t.out.line("the user opens %s and approves (the demo does it)", t.link)
	if t.publicURL != "" {
		if err := t.browse(ctx, openID); err != nil {
			return err
		}
	} else if err := t.lark.Approve(t.link, openID); err != nil {
		return err
	}
	err := t.lark.Wait(ctx, func() bool {
		all := t.lark.Messages(openID)
		return len(all) > 0 && len(all[len(all)-1].Versions) > 1
	})
	if err != nil {
		return fmt.Errorf("the card was not updated: %w", err)
	}
	t.card(openID)
	return nil
}

// browse is the user's browser in the redirect flow: larkside's link leads to
// Lark's page, and a yes there leads back to larkside.
func (t *tour) browse(ctx context.Context, openID string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	browser := &http.Client{Timeout: 30 * time.Second, Transport: t.http.Transport, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	visit := func(address string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, err
		}
		res, err := browser.Do(r)
		if err != nil {
			return nil, err
		}
		return res, res.Body.Close()
	}
	res, err := visit(t.link)
	if err != nil {
		return err
	}
	page := res.Header.Get("Location")
	if res.StatusCode != http.StatusFound && res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(page, t.lark.URL) {
		return fmt.Errorf("the link leads to %d %q, not to Lark's page", res.StatusCode, page)
	}
	t.out.note("  → Lark's page, %s …", strings.SplitN(page, "&", 2)[0])
	back, err := t.lark.Consent(page, openID)
	if err != nil {
		return err
	}
	if res, err = visit(back); err != nil {
		return err
	}
	t.out.note("  → larkside's page, %d", res.StatusCode)
	return problemIf(res.StatusCode != http.StatusOK, fmt.Sprintf("the page after the consent: %d", res.StatusCode))
}
