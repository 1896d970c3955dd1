package browser

import (
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"larkside/test/larktest"
	"larkside/test/process"
)

const records = "/open-apis/apaas/v1/workspaces/workspace_test/tables/orders/records"

// startRedirect starts a larkside in the redirect flow.
func startRedirect(t *testing.T, env map[string]string) *process.Process {
	t.Helper()
	ingress := process.NewBalancer(t)
	lark := larktest.Start(t, &larktest.Config{AdHocUsers: true, AllowUnknown: true})
	err := lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
		a.EventsURL, a.EncryptKey, a.VerificationToken = ingress.URL+"/consent/events", "encrypt-key", "verification-token"
	})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"SCOPES": "app_engine:workspace.table:read app_engine:workspace.table.record:read", "PRIVACY_URL": "https://example.com/privacy",
		"EVENTS": "http", "EVENT_ENCRYPT_KEY": "encrypt-key", "EVENT_TOKEN": "verification-token",
	}
	maps.Copy(all, env)
	return process.Start(t, process.Options{Lark: lark, Ingress: ingress, Env: all})
}

// chat is the page of the emulator on which a user sees cards.
func chat(lark *larktest.Platform, openID, lang, theme string) string {
	return fmt.Sprintf("%s/chat?user=%s&lang=%s&theme=%s", lark.URL, openID, lang, theme)
}

// A person, a chat, a card, a click, Lark's page, ours; and the call goes through.
func TestClickThrough(t *testing.T) {
	p, b := startRedirect(t, nil), start(t)
	p.Link(t, records, larktest.Alice)
	b.open(chat(p.Lark, larktest.Alice, "en_us", "light"))
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
	if l := tab.look(); l.Heading != "Authorized" || !strings.HasPrefix(at, p.Ingress.URL+"/consent/callback?") {
		t.Errorf("the last page is %q at %s", l.Heading, at)
	}
	if a := p.Get(t, records, larktest.Alice); a.Status != 200 || a.Owner() != larktest.Alice {
		t.Errorf("the call: %d %s", a.Status, a.Body)
	}
	// The chat follows by itself.
	b.await(".card .t-green")
	b.shoot("chat-done")
	// Reload and the way back do no harm.
	tab.run(chromedp.Reload())
	tab.await(".mark.good")
	tab.quiet("the way through")
	larktest.NoViolations(t, p.Lark)
}

// The card's own buttons: no, and then the wish for a new link.
func TestClickDeclineAndResend(t *testing.T) {
	p, b := startRedirect(t, nil), start(t)
	first := p.Link(t, records, larktest.Bob)
	b.open(chat(p.Lark, larktest.Bob, "en_us", "light"))
	b.click(".card form button")
	b.await(".card .t-grey")
	b.shoot("chat-declined")
	if at := b.open(first); !strings.HasPrefix(at, p.Ingress.URL) || b.look().Heading != "You declined" {
		t.Errorf("the old link shows %q at %s", b.look().Heading, at)
	}
	b.open(chat(p.Lark, larktest.Bob, "en_us", "light"))
	b.click(".card form button")
	b.await(".card a.button.primary")
	b.shoot("chat-resent")
	if next := p.Link(t, records, larktest.Bob); next == first {
		t.Error("the new link is the old one")
	}
}

// pages brings about each page that a person may see, and returns where it can
// be seen again.
func pages(t *testing.T, p *process.Process, b *browser) map[string]string {
	t.Helper()
	at := map[string]string{
		"malformed": p.Ingress.URL + "/consent/start?t=x",
		"not-found": p.Ingress.URL + "/nothing",
	}
	granted := func(user, as string) string {
		back, err := p.Lark.Consent(b.open(p.Link(t, records, user)), as)
		if err != nil {
			t.Fatal(err)
		}
		return back
	}
	at["done"] = granted("ou_done", "ou_done")
	at["wrong-account"] = granted("ou_wrong", "ou_other")
	refused, err := p.Lark.Refuse(b.open(p.Link(t, records, "ou_declined")), "ou_declined")
	if err != nil {
		t.Fatal(err)
	}
	at["declined"] = refused

	authorize, err := url.Parse(b.open(p.Link(t, records, "ou_failed")))
	if err != nil {
		t.Fatal(err)
	}
	state := url.QueryEscape(authorize.Query().Get("state"))
	at["lark-failed"] = p.Ingress.URL + "/consent/callback?error=server_error&state=" + state

	at["superseded"] = p.Link(t, records, "ou_wider")
	askMore(t, p, "ou_wider")
	return at
}

// askMore has a consent superseded by one for more.
func askMore(t *testing.T, p *process.Process, openID string) {
	t.Helper()
	r := process.NewRequest(t, "POST", p.AdminURL+"/api/v1/consents", "",
		fmt.Sprintf(`{"app_id":%q,"open_id":%q,"scopes":["im:message"]}`, larktest.AppID, openID),
		"Content-Type", "application/json", "Authorization", "Bearer the-admin-key-of-this-test")
	if a := process.Do(t, r); a.Status >= 300 {
		t.Fatalf("asking for more: %d %s", a.Status, a.Body)
	}
}

// Every page in every language, light and dark, on a small phone.
func TestPages(t *testing.T) {
	p := startRedirect(t, map[string]string{"ADMIN_KEY": "the-admin-key-of-this-test"})
	b := start(t)
	all := pages(t, p, b)
	seen := map[string]string{}
	for name, at := range all {
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
	p, b := startRedirect(t, map[string]string{"CONSENT_TTL": "1s"}), start(t)
	link := p.Link(t, records, "ou_late")
	process.AwaitCard(t, p.Lark, "ou_late", "expired")
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
	p, b := startRedirect(t, nil), start(t)
	p.Link(t, records, larktest.Carol)
	for lang, word := range map[string]string{"zh_cn": "授权", "en_us": "Authorize", "ja_jp": "許可する"} {
		for _, theme := range []string{"light", "dark"} {
			b.open(chat(p.Lark, larktest.Carol, lang, theme))
			b.await(".card a.button.primary")
			label := get(b, chromedp.Text(chromedp.CSS(".card a.button.primary")))
			if strings.TrimSpace(label) != word {
				t.Errorf("%s: the button says %q", lang, label)
			}
			b.shoot("card-" + lang + "-" + theme)
		}
	}
}
