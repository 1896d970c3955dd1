package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// The main job: a call becomes a card, a click, and a call that works; and from
// then on the user is known by the other ids too.
func TestCallCardClickCall(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"SCOPES": scopes + " contact:user.employee_id:readonly"}})
		user, err := lark.User(alice)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{user.UnionID, user.UserID} {
			// Only an open_id can be asked.
			if a := p.Get(t, records, id); a.Status != 401 || a.Envelope.Error.AuthorizeURL != "" {
				t.Errorf("%s before the consent: %d %s", id, a.Status, a.Body)
			}
		}
		a := p.Get(t, records, alice)
		is(t, a, 401, "authorization_required")
		link := a.Envelope.Error.AuthorizeURL
		if m := process.Card(t, lark, alice); len(m.Links()) != 1 || m.Links()[0] != link {
			t.Errorf("links on the card: %q, in the answer: %s", m.Links(), link)
		}
		process.Approve(t, lark, link, alice)
		process.AwaitCard(t, lark, alice, "Authorized")
		for _, id := range []string{alice, user.UnionID, user.UserID} {
			isDataOf(t, p.Get(t, records, id), alice)
		}
		larktest.NoViolations(t, lark)
	})
}

// Many calls at once, over two replicas, send one card, and all have its link.
func TestOneCard(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	db := process.Postgres(t)
	replicas := []*process.Process{
		process.Start(t, process.Options{Lark: lark, DB: db}),
		process.Start(t, process.Options{Lark: lark, DB: db}),
	}
	answers := make(chan *process.Answer)
	for i := range 20 {
		r := replicas[i%2].Request(t, "GET", records, alice, "")
		go func() {
			a, err := process.Try(r)
			if err != nil {
				t.Error(err)
			}
			answers <- a
		}()
	}
	links := map[string]bool{}
	for range 20 {
		if a := <-answers; a != nil {
			links[a.Envelope.Error.AuthorizeURL] = true
		}
	}
	if len(links) != 1 {
		t.Errorf("links: %v", links)
	}
	process.Card(t, lark, alice)
	for _, p := range replicas {
		if a := p.Get(t, records, alice); a.Envelope.Error.Card != "already_sent" || !links[a.Envelope.Error.AuthorizeURL] {
			t.Errorf("asked again: %s", a.Body)
		}
	}
}

// An app that goes on asking while its user consents does not send another card:
// a call that found no session just before it was stored must not begin a second
// consent just after.
func TestOneCardWhileConsenting(t *testing.T) {
	t.Parallel()
	lark := newLark(t, func(c *larktest.Config) { c.AdHocUsers = true })
	p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"SCOPES": scopes}})
	const users, callers = 4, 4
	done := make(chan error)
	for i := range users {
		openID := fmt.Sprintf("ou_%032d", i)
		process.Approve(t, lark, p.Link(t, records, openID), openID)
		for range callers {
			r := p.Request(t, "GET", records, openID, "")
			go func() { done <- untilAnswered(r) }()
		}
	}
	for range users * callers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for i := range users {
		process.AwaitCard(t, lark, fmt.Sprintf("ou_%032d", i), "Authorized")
	}
}

// untilAnswered sends r again and again, without a pause.
func untilAnswered(r *http.Request) error {
	for deadline := time.Now().Add(process.Patience); time.Now().Before(deadline); {
		a, err := process.Try(r)
		switch {
		case err != nil:
			return err
		case a.Status == 200:
			return nil
		case a.Status != 401:
			return fmt.Errorf("%d %s", a.Status, a.Body)
		}
	}
	return errors.New("still 401")
}

// A process that is killed between card and approval takes the consent up again
// when it is back, and so does another replica.
func TestKilledBeforeApproval(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"SCOPES": scopes}})
		link := p.Link(t, records, alice)
		process.Card(t, lark, alice)
		p.Kill()
		process.Approve(t, lark, link, alice)
		p.Restart()
		process.AwaitCard(t, lark, alice, "Authorized")
		isDataOf(t, p.Get(t, records, alice), alice)
		process.Card(t, lark, alice)
		larktest.NoViolations(t, lark)
	})
}

// What one user has granted is nothing to another, also when both call at once.
func TestUsersAreIsolated(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, alice, bob)
	is(t, p.Get(t, records, carol), 401, "authorization_required")
	results := make(chan error)
	const each = 100
	for i := range 2 * each {
		openID := []string{alice, bob}[i%2]
		r := p.Request(t, "GET", records, openID, "", larktest.ExpectUserHeader, openID)
		go func() {
			a, err := process.Try(r)
			if err == nil && (a.Status != 200 || a.Owner() != openID) {
				t.Errorf("%s got %d of %s", openID, a.Status, a.Owner())
			}
			results <- err
		}()
	}
	for range 2 * each {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	larktest.NoViolations(t, lark)
}

// Who approves somebody else's link authorizes nothing: the tokens are revoked.
func TestWrongUserApproves(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark})
	process.Approve(t, lark, p.Link(t, records, alice), bob)
	process.AwaitCard(t, lark, alice, "account")
	process.Await(t, lark, "bob's tokens are revoked", func() bool {
		for _, token := range lark.Ledger(bob) {
			if !token.Revoked {
				return false
			}
		}
		return len(lark.Ledger(bob)) > 0
	})
	for _, id := range []string{alice, bob} {
		is(t, p.Get(t, records, id), 401, "authorization_required")
	}
	nothingSent(t, lark)
}

// A user who says no is told to the app as such.
func TestDeclined(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark})
	if err := lark.Decline(p.Link(t, records, alice), alice); err != nil {
		t.Fatal(err)
	}
	process.AwaitCard(t, lark, alice, "eclined")
	a := p.Get(t, records, alice)
	if is(t, a, 401, "authorization_required"); a.Envelope.Error.Reason != "declined" {
		t.Errorf("reason %q", a.Envelope.Error.Reason)
	}
}

// Prefer: wait holds the request until the user has consented, on whichever
// replica the consent is finished.
func TestPreferWait(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		o := process.Options{Lark: lark, DB: db, Env: map[string]string{"SCOPES": scopes}}
		asked := process.Start(t, o)
		if db.Postgres {
			// The other one has begun the consent, so it may well finish it.
			process.Start(t, o).Get(t, records, alice)
		}
		waiting := make(chan *process.Answer, 1)
		r := asked.Request(t, "GET", records, alice, "", "Prefer", "wait=30")
		go func() {
			a, err := process.Try(r)
			if err != nil {
				t.Error(err)
			}
			waiting <- a
		}()
		process.Await(t, lark, "the card", func() bool { return len(lark.Messages(alice)) > 0 })
		process.Approve(t, lark, process.Card(t, lark, alice).Links()[0], alice)
		a := <-waiting
		if a == nil {
			return
		}
		if isDataOf(t, a, alice); a.Header.Get("Preference-Applied") != "wait" {
			t.Errorf("Preference-Applied: %q", a.Header.Get("Preference-Applied"))
		}
	})
}

// A request that is held for a consent is answered when the process is told to
// stop: it isn't cut at the end of the grace, and doesn't use it up.
func TestPreferWaitAtTheStop(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"SHUTDOWN_GRACE": "50s"}})
	held := make(chan *process.Answer, 1)
	r := p.Request(t, "GET", records, alice, "", "Prefer", "wait=60")
	go func() {
		a, err := process.Try(r)
		if err != nil {
			t.Error(err)
		}
		held <- a
	}()
	process.Eventually(t, "the request is held", func() bool {
		return strings.HasSuffix(strings.TrimSpace(p.Metric(t, "larkside_requests_waiting")), " 1")
	})
	if status := p.Stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if a := <-held; a != nil {
		is(t, a, 401, "authorization_required")
	}
}

// An answer that says that a scope is missing goes through, with the link to a
// consent for that scope.
func TestMissingScope(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"SCOPES": "app_engine:workspace.table:read"}})
	process.Approve(t, lark, p.Link(t, tables, alice), alice)
	process.Eventually(t, "a session", func() bool { return p.Get(t, tables, alice).Status == 200 })
	a := p.Get(t, records, alice)
	link := a.Header.Get("X-Larkside-Authorize-Url")
	if a.Envelope.Code != 99991679 || a.Name() != "" || link == "" {
		t.Fatalf("%d %s, link %q", a.Status, a.Body, link)
	}
	var asked []string
	for _, d := range lark.Devices() {
		if d.State == "pending" {
			asked = d.Scopes
		}
	}
	if s := strings.Join(asked, " "); !strings.Contains(s, "record:read") || strings.Contains(s, "table:read") {
		t.Errorf("asked for %q", s)
	}
	process.Approve(t, lark, link, alice)
	process.Eventually(t, "the scope", func() bool { return p.Get(t, records, alice).Status == 200 })
	isDataOf(t, p.Get(t, tables, alice), alice) // what was granted before stays
}

// The redirect flow, clicked through as a browser does.
func TestRedirectFlow(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark, ingress := newLark(t, nil), process.NewBalancer(t)
		p := process.Start(t, process.Options{Lark: lark, DB: db, Ingress: ingress, Env: map[string]string{"SCOPES": scopes}})

		link := p.Link(t, records, alice)
		if !strings.HasPrefix(link, ingress.URL+"/consent/start?") || process.Card(t, lark, alice).Links()[0] != link {
			t.Fatalf("the link is %s, on the card %q", link, process.Card(t, lark, alice).Links())
		}
		b := newBrowser(t)
		authorize := b.get(link)
		if authorize.StatusCode != 200 || !strings.HasPrefix(authorize.Request.URL.String(), lark.URL+"/open-apis/authen/v1/authorize?") {
			t.Fatalf("%s at %s", authorize.Status, authorize.Request.URL)
		}
		done := b.post(authorize.Request.URL.String(), url.Values{"account": {alice}, "decision": {"approve"}})
		if done.StatusCode != 200 || !strings.HasPrefix(done.Request.URL.String(), ingress.URL+"/consent/callback?") {
			t.Fatalf("%s at %s: %s", done.Status, done.Request.URL, b.body)
		}
		strict(t, done.Header)
		isDataOf(t, p.Get(t, records, alice), alice)
		process.AwaitCard(t, lark, alice, "Authorized")
		// The browser's back button and reload, and the link once more.
		for _, again := range []string{done.Request.URL.String(), link} {
			if r := b.get(again); r.StatusCode != 200 {
				t.Errorf("%s again: %s", again, r.Status)
			}
		}
		// A stranger who got hold of the callback's address.
		if r := newBrowser(t).get(done.Request.URL.String()); r.StatusCode != 410 {
			t.Errorf("in another browser: %s", r.Status)
		}
		for path, want := range map[string]int{"/": 404, "/open-apis/apaas/v1/apps": 404, "/metrics": 404, "/consent/start?t=x": 400, "/consent/callback": 400} {
			if r := b.get(ingress.URL + path); r.StatusCode != want {
				t.Errorf("%s on the consent listener: %s", path, r.Status)
			} else {
				strict(t, r.Header)
			}
		}
		larktest.NoViolations(t, lark)
	})
}

// strict judges the headers of every consent page.
func strict(t *testing.T, h http.Header) {
	t.Helper()
	if h.Get("Referrer-Policy") != "no-referrer" || h.Get("Cache-Control") != "no-store" ||
		!regexp.MustCompile(`^default-src 'none'`).MatchString(h.Get("Content-Security-Policy")) {
		t.Errorf("headers of a page: %v", h)
	}
}

// browser follows redirects and keeps cookies.
type browser struct {
	t      *testing.T
	client *http.Client
	body   string // of the last page
}

func newBrowser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, client: &http.Client{Jar: jar}}
}

func (b *browser) get(to string) *http.Response {
	b.t.Helper()
	return b.read(b.client.Get(to))
}

func (b *browser) post(to string, form url.Values) *http.Response {
	b.t.Helper()
	return b.read(b.client.PostForm(to, form))
}

func (b *browser) read(res *http.Response, err error) *http.Response {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.body = string(body)
	return res
}
