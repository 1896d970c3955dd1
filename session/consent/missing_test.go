package consent

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

// askAnyOf is a call that needs one of the alternatives.
func (w *world) askAnyOf(f *Manager, alternatives ...string) session.Challenge {
	w.T.Helper()
	c, err := f.Ask(w.T.Context(), alice, session.ConsentRequest{AnyOf: alternatives})
	if err != nil {
		w.T.Fatal(err)
	}
	return c
}

// consented stores alice's consent to scopes.
func (w *world) consented(f *Manager, scopes ...string) {
	w.T.Helper()
	link := w.ask(f, alice, scopes...).AuthorizeURL
	if err := w.Lark.Approve(link, larktest.Alice); err != nil {
		w.T.Fatal(err)
	}
	w.awaitState(alice, session.ConsentDone)
}

// Lark names scopes of which one is enough, and not all of them are enabled.
func TestMissingScopeChoice(t *testing.T) {
	const enabled, tenantOnly, neither = "task:task:read", "im:message", "drive:drive"
	app := func(a *larktest.App) {
		a.Scopes = []string{"offline_access", enabled, "application:application:self_manage"}
		a.TenantScopes = []string{tenantOnly, "application:application:self_manage"}
	}
	for name, c := range map[string]struct {
		configured []string
		names      []string
		blind      bool // the app may not read its own configuration
		want       string
	}{
		"the configured one":          {[]string{tenantOnly}, []string{neither, enabled, tenantOnly}, false, tenantOnly},
		"one that users can grant":    {nil, []string{neither, tenantOnly, enabled}, false, enabled},
		"the first, when none is":     {nil, []string{neither, tenantOnly}, false, neither},
		"the first, when not known":   {nil, []string{neither, tenantOnly, enabled}, true, neither},
		"what is no scope is skipped": {nil, []string{"two words", "", enabled}, true, enabled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
					app(a)
					if c.blind {
						a.Scopes, a.TenantScopes = []string{"offline_access", enabled}, nil
					}
				})
				f := w.device(func(config *Config) { config.Scopes = c.configured })
				if got := w.askAnyOf(f, c.names...); got.AuthorizeURL == "" {
					t.Fatalf("no link: %+v\n%s", got, w.Log.String())
				}
				if got := w.latest(alice).Scopes; got != c.want+" offline_access" {
					t.Errorf("asked for %q", got)
				}
				if !c.blind { // then no card can be sent
					w.AwaitCard(alice.OpenID, "needs one more permission") // nothing has ended, and it is not the first consent
				}
			})
		})
	}
}

// A consent that brought nothing is not repeated: no loop of cards. After an
// hour the console may have been mended.
func TestMissingScopeAskedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Scopes = []string{"offline_access", "task:task:read"} })
		f := w.device(nil)
		w.consented(f)
		for _, scope := range []string{"drive:drive", "im:message"} { // one after the other, as they are named
			if err := w.Lark.Approve(w.askAnyOf(f, "drive:drive", "im:message").AuthorizeURL, larktest.Alice); err != nil {
				t.Fatal(err)
			}
			w.awaitState(alice, session.ConsentDone)
			if got := w.latest(alice).Scopes; !strings.HasPrefix(got, scope) {
				t.Errorf("asked for %q", got)
			}
		}
		cards := w.cards(larktest.Alice)
		for range 50 {
			if c := w.askAnyOf(f, "drive:drive", "im:message"); c != (session.Challenge{}) {
				t.Fatalf("asked again: %+v", c)
			}
			time.Sleep(time.Minute)
		}
		if n := w.cards(larktest.Alice); n != cards {
			t.Errorf("%d cards more", n-cards)
		}
		time.Sleep(11 * time.Minute)
		if c := w.askAnyOf(f, "drive:drive"); c.AuthorizeURL == "" {
			t.Errorf("after an hour: %+v", c)
		}
	})
}

// What the session has already is not missing: the API wants another one.
func TestMissingScopeNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.consented(f, "task:task:read")
		w.askAnyOf(f, "task:task:read", "task:task:write")
		if got := w.latest(alice).Scopes; got != "task:task:write offline_access" {
			t.Errorf("asked for %q", got)
		}
	})
}

// A list of scopes that Lark refuses says nothing about the app. The consent is
// tried once more with the configured ones.
func TestScopesRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.Lark.Switch(func(w *larktest.Switches) { w.DeviceRefusesUnknown = true })
		f := w.device(func(c *Config) { c.Scopes = []string{"task:task:read"} })
		c := w.ask(f, alice, "nobody:knows:this")
		if c.AuthorizeURL == "" || w.latest(alice).Scopes != "task:task:read offline_access" {
			t.Errorf("%+v, asked for %q", c, w.latest(alice).Scopes)
		}
		if !strings.Contains(w.Log.String(), "LARKSIDE_SCOPES") || !strings.Contains(w.Log.String(), session.InvalidScope) {
			t.Errorf("the log says %s", w.Log.String())
		}

		w.Lark.Fault(larktest.Fault{Endpoint: larktest.DeviceEndpoint, Code: 20027, Times: -1})
		got, err := f.Ask(t.Context(), bob, session.ConsentRequest{Reason: session.NoSession})
		if err != nil || got.AuthorizeURL != "" || got.Card != session.CardFailed {
			t.Errorf("with nothing else to try: %+v, %v", got, err)
		}
		if p := w.latest(bob); p.State != session.ConsentFailed || p.Reason != session.ScopeNotEnabled {
			t.Errorf("%s %s", p.State, p.Reason)
		}
	})
}

// A code that belongs elsewhere ends the one consent, and says what to look at.
func TestRedirectCodeRefused(t *testing.T) {
	for code, reason := range map[int]string{20024: "code_of_another_app", 20071: "redirect_uri_mismatch", 20027: session.ScopeNotEnabled} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			f, b, _, back := w.atCallback(larktest.Alice)
			w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: code})
			wantPage(t, b.get(back), 502, texts.failed)
			if p := w.latest(alice); p.State != session.ConsentFailed || p.Reason != reason {
				t.Errorf("%d: %s %s", code, p.State, p.Reason)
			}
			if !strings.Contains(w.Log.String(), reason) {
				t.Errorf("the log says %s", w.Log.String())
			}
			if c := w.ask(f, alice); c.AuthorizeURL == "" {
				t.Errorf("%d: the next consent: %+v", code, c)
			}
		})
	}
}

// 20008 comes now and then for users who exist: it ends no consent.
func TestConsentDoubtedUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		link := w.ask(f, alice).AuthorizeURL
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20008})
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Code: 20008, Times: 3})
		time.Sleep(10 * time.Second)
		if err := w.Lark.Approve(link, larktest.Alice); err != nil {
			t.Fatal(err)
		}
		w.awaitState(alice, session.ConsentDone)
	})
}

const botInfo = "/open-apis/bot/v3/info"

// The card names the app as Lark does, and asks for the name once.
func TestAppName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(nil)
		w.Lark.Fault(larktest.Fault{Path: botInfo, Drop: true})
		w.ask(f, alice)
		w.AwaitCard(alice.OpenID, "This app")
		w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Name = "T*bles" })
		time.Sleep(2 * failedFor)
		w.ask(f, bob)
		w.AwaitCard(bob.OpenID, "#42;bles")
		if err := f.decline(t.Context(), w.latest(bob).ID, bob.OpenID); err != nil {
			t.Fatal(err)
		}
		w.AwaitCard(bob.OpenID, "#42;bles")
		if n := len(w.Lark.Calls(func(c larktest.Call) bool { return c.Path == botInfo })); n != 2 {
			t.Errorf("the name was asked for %d times", n)
		}
	})
}

// Through an AppLink the button opens the link beside the chat.
func TestAppLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.device(func(c *Config) { c.AppLink = "https://applink.feishu.cn" })
		link := w.ask(f, alice).AuthorizeURL
		if !strings.HasPrefix(link, inprocess.Origin) {
			t.Errorf("the caller gets %s", link)
		}
		button := w.Lark.Messages(larktest.Alice)[0].Buttons()[0].URL
		if !strings.HasPrefix(button, "https://applink.feishu.cn/client/web_url/open?") {
			t.Errorf("the button opens %s", button)
		}
		if got := larktest.InClient(button); got != link {
			t.Errorf("in the client: %s, want %s", got, link)
		}
	})
}

var _ Lark = (*lark.Client)(nil)

// Pages about a consent name the app; what nobody knows is not said.
func TestPageNamesTheApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, b, _, back := w.atCallback(larktest.Alice)
		if got := text(t, b.get(back)); !strings.Contains(got, `<p class="app">Authorization request from <strong><bdi>Tables</bdi></strong></p>`) {
			t.Errorf("the page says %s", got)
		}
		if got := text(t, b.get(public+startPath+"?t=nothing")); strings.Contains(got, "Tables") {
			t.Errorf("the page of no consent says %s", got)
		}
	})
}

func text(t *testing.T, res *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
