package browser

import (
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"larkside/test/larktest"
	"larkside/test/process"
)

const records = "/open-apis/apaas/v1/workspaces/workspace_test/tables/orders/records"

// stage is the emulator and a larkside in the redirect flow behind an ingress
// with a fixed address.
type stage struct {
	t      *testing.T
	lark   *larktest.Platform
	p      *process.Process
	public string
}

func newStage(t *testing.T, env map[string]string) *stage {
	t.Helper()
	var to atomic.Pointer[url.URL]
	ingress := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to.Load()) }})
	t.Cleanup(ingress.Close)
	s := &stage{t: t, public: ingress.URL, lark: larktest.Start(t, &larktest.Config{AdHocUsers: true, AllowUnknown: true})}
	err := s.lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
		a.RedirectURIs = []string{s.public + "/consent/callback"}
		a.EventsURL, a.EncryptKey, a.VerificationToken = s.public+"/consent/events", "encrypt-key", "verification-token"
	})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"SCOPES":         "app_engine:workspace.table:read app_engine:workspace.table.record:read",
		"CONSENT_LISTEN": "127.0.0.1:0", "PUBLIC_URL": s.public, "PRIVACY_URL": "https://example.com/privacy",
		"EVENTS": "http", "EVENT_ENCRYPT_KEY": "encrypt-key", "EVENT_TOKEN": "verification-token",
	}
	for name, value := range env {
		all[name] = value
	}
	s.p = process.Start(t, process.Options{Lark: s.lark, Env: all})
	base, err := url.Parse(s.p.ConsentURL)
	if err != nil {
		t.Fatal(err)
	}
	to.Store(base)
	return s
}

// link is what a call of this user's is answered with.
func (s *stage) link(openID string) string {
	s.t.Helper()
	link := s.p.Get(s.t, records, openID).Envelope.Error.AuthorizeURL
	if link == "" {
		s.t.Fatalf("no link for %s", openID)
	}
	return link
}

func (s *stage) chat(openID, lang, theme string) string {
	return fmt.Sprintf("%s/chat?user=%s&lang=%s&theme=%s", s.lark.URL, openID, lang, theme)
}

// A person, a chat, a card, a click, Lark's page, ours; and the call goes through.
func TestClickThrough(t *testing.T) {
	s, b := newStage(t, nil), start(t)
	s.link(larktest.Alice)
	b.open(s.chat(larktest.Alice, "en_us", "light"))
	b.await(".card a.button.primary")
	b.shoot("chat-waiting")

	opened := chromedp.WaitNewTarget(b.ctx, func(info *target.Info) bool { return info.URL != "" })
	b.click(".card a.button.primary")
	ctx, closeTab := chromedp.NewContext(b.ctx, chromedp.WithTargetID(<-opened))
	defer closeTab()
	tab := &browser{t: t, ctx: ctx}
	tab.listen()
	tab.await(`button[value="approve"]`)
	tab.click(fmt.Sprintf(`input[name="account"][value=%q]`, larktest.Alice))
	tab.click(`button[value="approve"]`)
	tab.await(".mark.good")
	tab.shoot("done")
	at := get(tab, chromedp.Location())
	if l := tab.look(); l.Heading != "Authorized" || !strings.HasPrefix(at, s.public+"/consent/callback?") {
		t.Errorf("the last page is %q at %s", l.Heading, at)
	}
	if a := s.p.Get(t, records, larktest.Alice); a.Status != 200 || a.Owner() != larktest.Alice {
		t.Errorf("the call: %d %s", a.Status, a.Body)
	}
	// The chat follows by itself.
	b.await(".card .t-green")
	b.shoot("chat-done")
	// Reload and the way back do no harm.
	tab.run(chromedp.Reload())
	tab.await(".mark.good")
	tab.quiet("the way through")
	for _, v := range s.lark.Violations() {
		t.Errorf("violation: %+v", v)
	}
}

// The card's own buttons: no, and then the wish for a new link.
func TestClickDeclineAndResend(t *testing.T) {
	s, b := newStage(t, nil), start(t)
	first := s.link(larktest.Bob)
	b.open(s.chat(larktest.Bob, "en_us", "light"))
	b.click(".card form button")
	b.await(".card .t-grey")
	b.shoot("chat-declined")
	if at := b.open(first); !strings.HasPrefix(at, s.public) || b.look().Heading != "You declined" {
		t.Errorf("the old link shows %q at %s", b.look().Heading, at)
	}
	b.open(s.chat(larktest.Bob, "en_us", "light"))
	b.click(".card form button")
	b.await(".card a.button.primary")
	b.shoot("chat-resent")
	if next := s.link(larktest.Bob); next == first {
		t.Error("the new link is the old one")
	}
}

// pages brings about each page that a person may see, and returns where it can
// be seen again.
func (s *stage) pages(b *browser) map[string]string {
	s.t.Helper()
	at := map[string]string{
		"malformed": s.public + "/consent/start?t=x",
		"not-found": s.public + "/nothing",
	}
	granted := func(user, as string) string {
		back, err := s.lark.Consent(b.open(s.link(user)), as)
		if err != nil {
			s.t.Fatal(err)
		}
		return back
	}
	at["done"] = granted("ou_done", "ou_done")
	at["wrong-account"] = granted("ou_wrong", "ou_other")
	refused, err := s.lark.Refuse(b.open(s.link("ou_declined")), "ou_declined")
	if err != nil {
		s.t.Fatal(err)
	}
	at["declined"] = refused

	authorize, err := url.Parse(b.open(s.link("ou_failed")))
	if err != nil {
		s.t.Fatal(err)
	}
	state := url.QueryEscape(authorize.Query().Get("state"))
	at["lark-failed"] = s.public + "/consent/callback?error=server_error&state=" + state

	at["superseded"] = s.link("ou_wider")
	s.askMore("ou_wider")
	return at
}

// askMore has a consent superseded by one for more.
func (s *stage) askMore(openID string) {
	s.t.Helper()
	r := process.NewRequest(s.t, "POST", s.p.AdminURL+"/api/v1/consents", "",
		fmt.Sprintf(`{"app_id":%q,"open_id":%q,"scopes":["im:message"]}`, larktest.AppID, openID),
		"Content-Type", "application/json", "Authorization", "Bearer the-admin-key-of-this-test")
	if a := process.Do(s.t, r); a.Status >= 300 {
		s.t.Fatalf("asking for more: %d %s", a.Status, a.Body)
	}
}

// Every page in every language, light and dark, on a small phone.
func TestPages(t *testing.T) {
	s := newStage(t, map[string]string{"ADMIN_KEY": "the-admin-key-of-this-test"})
	b := start(t)
	pages := s.pages(b)
	seen := map[string]string{}
	for name, at := range pages {
		for accept, lang := range map[string]string{"zh-CN": "zh", "en-US": "en", "ja-JP": "ja"} {
			for _, theme := range []string{"light", "dark"} {
				t.Run(name+"/"+lang+"/"+theme, func(t *testing.T) {
					b := &browser{t: t, ctx: b.ctx}
					b.as(accept, theme, 360, 640)
					b.open(at)
					l := b.look()
					l.decent(t, lang)
					if before, ok := seen[l.Text]; ok && before != name {
						t.Errorf("this page says the same as %s: %q", before, l.Text)
					}
					seen[l.Text] = name
					b.shoot(fmt.Sprintf("page-%s-%s-%s", name, lang, theme))
				})
			}
		}
	}
	b.quiet("the pages")
}

// An expired link, in a larkside of its own with short lives.
func TestExpiredPage(t *testing.T) {
	s, b := newStage(t, map[string]string{"CONSENT_TTL": "1s"}), start(t)
	link := s.link("ou_late")
	process.Eventually(t, "the card to say so", func() bool {
		m := s.lark.Messages("ou_late")
		return len(m) > 0 && strings.Contains(m[0].Content(), "expired")
	})
	for _, theme := range []string{"light", "dark"} {
		b.as("ja-JP", theme, 360, 640)
		b.open(link)
		b.look().decent(t, "ja")
		b.shoot("page-expired-ja-" + theme)
	}
	b.quiet("the page")
}

// The cards, as the emulator draws them: what is looked at here is that each
// language has its text.
func TestCards(t *testing.T) {
	s, b := newStage(t, nil), start(t)
	s.link(larktest.Carol)
	for lang, word := range map[string]string{"zh_cn": "授权", "en_us": "Authorize", "ja_jp": "許可する"} {
		for _, theme := range []string{"light", "dark"} {
			b.open(s.chat(larktest.Carol, lang, theme))
			b.await(".card a.button.primary")
			label := get(b, chromedp.Text(chromedp.CSS(".card a.button.primary")))
			if strings.TrimSpace(label) != word {
				t.Errorf("%s: the button says %q", lang, label)
			}
			b.shoot("card-" + lang + "-" + theme)
		}
	}
}
