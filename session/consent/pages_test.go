package consent

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func newTestPages(t *testing.T) *pages {
	t.Helper()
	return pagesOf(t, Config{ChatLink: "https://applink.feishu.cn"})
}

func pagesOf(t *testing.T, c Config) *pages {
	t.Helper()
	p, err := newPages(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func shown(p *pages, g page, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, callbackPath, nil)
	r.Header.Set("Accept-Language", accept)
	w := httptest.NewRecorder()
	p.secure(w.Header())
	p.show(w, r, g)
	return w
}

func TestPageLanguages(t *testing.T) {
	p := newTestPages(t)
	for accept, want := range map[string]string{
		"":                                 "en",
		"de-DE,de;q=0.9":                   "en",
		"en-GB":                            "en",
		"zh":                               "zh",
		"zh-CN,zh;q=0.9,en;q=0.8":          "zh",
		"zh-TW":                            "zh",
		"zh-Hant-HK, en;q=0.5":             "zh",
		"ja-JP,en;q=0.5":                   "ja",
		"fr;q=0.9, ja;q=0.8, en;q=0.7":     "ja",
		"en;q=0.2, ja":                     "ja",
		"<script>alert(1)</script>":        "en",
		strings.Repeat("zh-CN,", 1000):     "en",
		"zh-CN;q=1000000000000000000,;;;,": "en",
	} {
		if w := shown(p, malformedPage, accept); w.Header().Get("Content-Language") != want ||
			!strings.Contains(w.Body.String(), `<html lang="`+want+`">`) {
			t.Errorf("Accept-Language %.40q: %s", accept, w.Header().Get("Content-Language"))
		}
	}
}

// The policy allows the page's own style and nothing else.
func TestPagePolicy(t *testing.T) {
	p := newTestPages(t)
	for _, g := range []page{{status: 200, message: texts.done, tone: good, appID: "cli_a"}, malformedPage, larkFailedPage} {
		w := shown(p, g, "zh")
		_, style, _ := strings.Cut(w.Body.String(), "<style>")
		style, _, _ = strings.Cut(style, "</style>")
		sum := sha256.Sum256([]byte(style))
		want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
		if got := w.Header().Get("Content-Security-Policy"); got != want {
			t.Errorf("policy %q, want %q", got, want)
		}
		for _, forbidden := range []string{"<script", " style=", "http://", "https://", "<img", "<link"} {
			body := strings.ReplaceAll(w.Body.String(), style, "")
			body = strings.ReplaceAll(body, `href="https://applink.feishu.cn/client/bot/open?appId=cli_a"`, "")
			if strings.Contains(strings.ToLower(body), forbidden) {
				t.Errorf("page %d has %q", g.status, forbidden)
			}
		}
	}
}

func TestPageGolden(t *testing.T) {
	p := newTestPages(t)
	golden(t, "page-done-zh.html", shown(p, page{status: 200, message: texts.done, tone: good, appID: "cli_a", app: "订单 <Orders>"}, "zh-CN").Body.Bytes())
	golden(t, "page-wrong-account-en.html", shown(p, page{status: 403, message: texts.wrongAccount, tone: bad}, "en").Body.Bytes())
}

var ended = []message{texts.done, texts.declined, texts.expired, texts.superseded, texts.failed, texts.wrongAccount}
var pageOnly = []message{texts.malformed, texts.otherBrowser, texts.larkFailed, texts.unavailable, texts.notFound, texts.method}

// No page is a dead end: each says what to do now, and leads back to the chat if it
// is known which. How to get another link depends on whether the card has a button
// for that.
func TestPagesLeadOn(t *testing.T) {
	usual, withButtons := newTestPages(t), pagesOf(t, Config{ChatLink: "https://applink.feishu.cn", Buttons: true})
	for _, m := range append(ended[:len(ended):len(ended)], pageOnly...) {
		for _, lang := range []string{"zh", "en", "ja"} {
			body := shown(usual, page{status: 200, message: m, tone: plain, appID: "cli_a"}, lang).Body.String()
			if !strings.Contains(body, `class="next"`) || strings.Contains(body, "&lt;") || !strings.Contains(body, `<a class="back" href="https://applink.feishu.cn/client/bot/open?appId=cli_a">`) || strings.Contains(body, "{link}") {
				t.Errorf("%s: %s in %s", m.title.en, body, lang)
			}
		}
	}
	const press = "press “Send me a new link”"
	for _, m := range []message{texts.expired, texts.declined, texts.failed, texts.wrongAccount} {
		g := page{status: 410, message: m, tone: plain}
		if strings.Contains(shown(usual, g, "en").Body.String(), press) || !strings.Contains(shown(withButtons, g, "en").Body.String(), press) {
			t.Errorf("%s: the button is named where there is none, or not where there is one", m.title.en)
		}
	}
	if body := shown(pagesOf(t, Config{}), page{status: 200, message: texts.done, appID: "cli_a"}, "en").Body.String(); strings.Contains(body, `class="back"`) {
		t.Errorf("a way back to a client that is not known: %s", body)
	}
	one := pagesOf(t, Config{ChatLink: "https://applink.larksuite.com", Apps: map[string]Lark{"cli_one": nil}})
	if body := shown(one, malformedPage, "en").Body.String(); !strings.Contains(body, "https://applink.larksuite.com/client/bot/open?appId=cli_one") {
		t.Errorf("there is one chat only, and no way back to it: %s", body)
	}
}

// Every text is there in every language.
func TestTexts(t *testing.T) {
	check := func(name string, all ...translated) {
		for _, one := range all {
			if one.zh == "" || one.en == "" || one.ja == "" {
				t.Errorf("%s lacks a language: %+v", name, one)
			}
		}
	}
	check("card", texts.thisApp, texts.cardTitle, texts.cardIntro, texts.cardRenew, texts.cardLacking, texts.cardScopes, texts.more,
		texts.cardLife, texts.privacy, texts.authorize, texts.decline, texts.endingTitle, texts.endingIntro, texts.renew,
		texts.resend, texts.minutes, texts.hours, texts.days, texts.toastSent, texts.toastAlready, texts.toastNotYours,
		texts.toastOver, texts.toastRate, texts.toastFailed)
	check("page", texts.asked, texts.back, texts.linkByCard, texts.linkByUse, texts.code, texts.done.note)
	for _, m := range ended {
		check(m.title.en, m.title, m.card, m.page)
		check(m.title.en, m.next...)
	}
	for _, m := range pageOnly {
		check(m.title.en, m.title, m.page)
		check(m.title.en, m.next...)
	}
	for scope, w := range words {
		check(scope, w)
	}
}
