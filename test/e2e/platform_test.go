package e2e

import (
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// What Lark does, as far as public evidence has it, and its opposite where no
// evidence settles it: the real binary has to survive both.

// withRedirect is a larkside with a consent listener, whose callback the
// emulator knows.
func withRedirect(t *testing.T, lark *larktest.Platform, env map[string]string) *process.Process {
	t.Helper()
	all := map[string]string{"SCOPES": scopes}
	maps.Copy(all, env)
	return process.Start(t, process.Options{Lark: lark, Ingress: process.NewBalancer(t), Env: all})
}

// browse opens a consent link as openID's browser does, agrees on Lark's page,
// and returns the status of the page at the end.
func browse(t *testing.T, lark *larktest.Platform, link, openID string) int {
	t.Helper()
	b := newBrowser(t)
	back, err := lark.Consent(b.get(link).Request.URL.String(), openID)
	if err != nil {
		t.Fatal(err)
	}
	return b.get(back).StatusCode
}

// By default a consent comes through in either flow, for either brand.
func TestConsentByDefault(t *testing.T) {
	t.Parallel()
	for _, brand := range []string{"feishu", "lark"} {
		t.Run(brand, func(t *testing.T) {
			t.Parallel()
			lark := newLark(t, nil)
			p := withRedirect(t, lark, map[string]string{"BRAND": brand})
			if status := browse(t, lark, p.Link(t, records, alice), alice); status != 200 {
				t.Errorf("the page at the end: %d", status)
			}
			isDataOf(t, p.Get(t, records, alice), alice)
			device := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"BRAND": brand, "SCOPES": scopes}})
			device.Consent(t, records, bob)
			larktest.NoViolations(t, lark)
		})
	}
}

// An endpoint that can't make a grant is left for the other version, with one
// warning: the user's next try works.
func TestTokenEndpointThatRefuses(t *testing.T) {
	t.Parallel()
	t.Run("v3 refuses PKCE", func(t *testing.T) {
		t.Parallel()
		lark := newLark(t, nil)
		p := withRedirect(t, lark, map[string]string{"TOKEN_URL": lark.URL + "/oauth/v3/token"})
		link := p.Link(t, records, alice)
		if status := browse(t, lark, link, alice); status == 200 {
			t.Error("v3 took a challenge")
		}
		if status := browse(t, lark, link, alice); status != 200 {
			t.Errorf("the second try: %d", status)
		}
		isDataOf(t, p.Get(t, records, alice), alice)
		if status := browse(t, lark, p.Link(t, records, bob), bob); status != 200 {
			t.Errorf("the next user: %d", status)
		}
		if n := len(warnings(p, "token endpoint")); n != 1 {
			t.Errorf("%d warnings", n)
		}
	})
	t.Run("v2 refuses device polls, v3 takes them", func(t *testing.T) {
		t.Parallel()
		lark := newLark(t, nil)
		lark.Switch(func(s *larktest.Switches) { s.V2RefusesDevicePolls, s.V3TakesDevicePolls = true, true })
		p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"SCOPES": scopes}})
		p.Consent(t, records, alice)
		p.Consent(t, records, bob)
		if n := len(warnings(p, "token endpoint")); n != 1 {
			t.Errorf("%d warnings", n)
		}
	})
	t.Run("v2 takes JSON only", func(t *testing.T) {
		t.Parallel()
		lark := newLark(t, nil)
		lark.Switch(func(s *larktest.Switches) { s.V2JSONOnly = true })
		p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"SCOPES": scopes}})
		p.Consent(t, records, alice)
	})
}

// warnings are the log lines at WARN that hold text.
func warnings(p *process.Process, text string) []process.Line {
	return p.Log().Find(func(l process.Line) bool { return l.Level == "WARN" && strings.Contains(l.Msg, text) })
}

// A scope that Lark names and the user's consent does not bring is asked for
// once: Lark's answer goes to the app as it is, and no card follows another.
func TestMissingScopeIsAskedForOnce(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	lark.Switch(func(s *larktest.Switches) {
		s.RouteScopes = map[string][]string{"GET " + tables: {"nobody:enabled:this", "app_engine:workspace.table:write"}}
	})
	lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
		a.Scopes = strings.Fields(scopes + " offline_access im:message:send_as_bot application:application:self_manage")
		a.UserScopes = []string{"app_engine:workspace.table:write"}
	})
	p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"SCOPES": "offline_access"}})
	process.Approve(t, lark, p.Link(t, records, alice), alice)
	var a *process.Answer
	process.Eventually(t, "Lark's word about scopes", func() bool {
		a = p.Get(t, tables, alice)
		return a.Envelope.Code == 99991679
	})
	link := a.Header.Get("X-Larkside-Authorize-Url")
	if link == "" || a.Name() != "" {
		t.Fatalf("%d %v %s", a.Status, a.Header, a.Body)
	}
	// The user goes through it, and the scope is taken off the app meanwhile.
	lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.UserScopes = nil })
	lark.Switch(func(s *larktest.Switches) {
		s.RouteScopes = map[string][]string{"GET " + tables: {"app_engine:workspace.table:write", "app_engine:workspace.table.record:write"}}
	})
	lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.UserScopes = []string{"app_engine:workspace.table.record:write"} })
	process.Approve(t, lark, link, alice)
	process.Eventually(t, "the end of the consent", func() bool {
		m := lark.Messages(alice)
		return len(m) == 2 && strings.Contains(m[1].Content(), "Authorized")
	})
	process.Eventually(t, "the alternative being asked for", func() bool {
		a = p.Get(t, tables, alice)
		return a.Header.Get("X-Larkside-Authorize-Url") != ""
	})
	lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.UserScopes = nil })
	process.Approve(t, lark, a.Header.Get("X-Larkside-Authorize-Url"), alice)
	process.Eventually(t, "the end of the asking", func() bool {
		a = p.Get(t, tables, alice)
		return a.Header.Get("X-Larkside-Authorize-Url") == ""
	})
	cards := len(lark.Messages(alice))
	for range 20 {
		if a = p.Get(t, tables, alice); a.Status < 400 || a.Name() != "" || a.Header.Get("X-Larkside-Authorize-Url") != "" {
			t.Fatalf("%d %v %s", a.Status, a.Header, a.Body)
		}
	}
	if n := len(lark.Messages(alice)); n != cards {
		t.Errorf("%d cards, and then %d", cards, n)
	}
}

// What is wrong with one consent's scopes leaves the app alone: other users are
// asked and served.
func TestRefusedScopesAreOneConsents(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark}, bob)
	lark.Fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Code: 20027})
	a := p.Get(t, records, alice)
	if is(t, a, 401, "authorization_required"); a.Envelope.Error.AuthorizeURL != "" || a.Envelope.Error.Card != "failed" {
		t.Errorf("%s", a.Body)
	}
	isDataOf(t, p.Get(t, records, bob), bob)
	if link := p.Link(t, records, carol); link == "" {
		t.Error("nobody is asked any more")
	}
	line := p.Log().Await(t, "what to do", func(l process.Line) bool { return l.Text("reason") == "scope_not_enabled" })
	if !strings.Contains(line.Text("do"), "developer console") {
		t.Errorf("the log says %s", line.Raw)
	}
	if got := p.Admin(t, "GET", "/metrics").Body; strings.Contains(got, "larkside_app_refused{app_id=\""+larktest.AppID+"\"} 1") {
		t.Error("the app counts as refused")
	}
}

// "User does not exist", once, among answers that say otherwise.
func TestDoubtedUser(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	db := process.SQLite(t)
	process.Seed(t, db, lark, 3*time.Hour, alice)
	p := process.Start(t, process.Options{Lark: lark, DB: db})
	lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20008})
	is(t, p.Get(t, records, alice), 503, "refresh_unavailable")
	process.Eventually(t, "the session goes on", func() bool { return p.Get(t, records, alice).Status == 200 })
	if n := len(lark.Messages(alice)); n != 0 {
		t.Errorf("%d cards", n)
	}
}

// The card names the app, and its button opens inside Feishu's client, where the
// right account is signed in.
func TestCardNamesTheApp(t *testing.T) {
	t.Parallel()
	for brand, want := range map[string]string{"feishu": "https://applink.feishu.cn/client/web_url/open?", "lark": ""} {
		lark := newLark(t, nil)
		lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Name = "Orders" })
		p := process.Start(t, process.Options{Lark: lark, Env: map[string]string{"BRAND": brand}})
		link := p.Link(t, records, alice)
		m := process.Card(t, lark, alice)
		if !strings.Contains(m.Content(), "Orders") || strings.Contains(m.Content(), "This app") {
			t.Errorf("%s: %s", brand, m.Content())
		}
		button := m.Buttons()[0].URL
		if u, err := url.Parse(button); err != nil || want != "" && (!strings.HasPrefix(button, want) || u.Query().Get("url") != link) || want == "" && button != link {
			t.Errorf("%s: the button opens %s, the answer has %s", brand, button, link)
		}
	}
}
