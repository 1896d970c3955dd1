package consent

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/text/language"

	"larkside/session"
)

// page is an answer to a browser. It has nothing of the request.
type page struct {
	status  int
	message message
	tone    tone
	// appID is the app that asked, empty on a page that is about no consent. app is
	// its name, empty when it can't be had.
	appID, app string
}

// of returns g as a page about p.
func (g page) of(p *session.Consent) page {
	g.appID = p.AppID
	return g
}

type tone struct{ class, mark string }

var (
	good  = tone{"good", "✓"}
	bad   = tone{"bad", "!"}
	plain = tone{"plain", "i"}
)

// overPage returns the page for a browser that opens the link of a consent that
// is over.
func overPage(p *session.Consent) page {
	switch p.State {
	case session.ConsentDone:
		return page{status: http.StatusOK, message: texts.done, tone: good}.of(p)
	case session.ConsentDeclined:
		return page{status: http.StatusOK, message: texts.declined, tone: plain}.of(p)
	case session.ConsentSuperseded:
		return page{status: http.StatusGone, message: texts.superseded, tone: plain}.of(p)
	case session.ConsentFailed:
		return page{status: http.StatusGone, message: texts.failed, tone: plain}.of(p)
	}
	return page{status: http.StatusGone, message: texts.expired, tone: plain}.of(p)
}

// resultPage returns the page for the browser whose callback ended the consent.
func resultPage(p *session.Consent) page {
	switch {
	case p.State == session.ConsentFailed && p.Reason == reasonWrongAccount:
		return page{status: http.StatusForbidden, message: texts.wrongAccount, tone: bad}.of(p)
	case p.State == session.ConsentFailed:
		return page{status: http.StatusBadGateway, message: texts.failed, tone: bad}.of(p)
	}
	return overPage(p)
}

var (
	malformedPage    = page{status: http.StatusBadRequest, message: texts.malformed, tone: bad}
	otherBrowserPage = page{status: http.StatusBadRequest, message: texts.otherBrowser, tone: plain}
	replayedPage     = page{status: http.StatusGone, message: texts.expired, tone: plain}
	refusedCodePage  = page{status: http.StatusGone, message: texts.malformed, tone: plain}
	larkFailedPage   = page{status: http.StatusBadGateway, message: texts.larkFailed, tone: bad}
	unavailablePage  = page{status: http.StatusServiceUnavailable, message: texts.unavailable, tone: plain}
	notFoundPage     = page{status: http.StatusNotFound, message: texts.notFound, tone: plain}
	methodPage       = page{status: http.StatusMethodNotAllowed, message: texts.method, tone: plain}
)

//go:embed page.html
var pageHTML string

// pages writes pages and the headers of every answer.
type pages struct {
	template *template.Template
	// csp allows the style sheet, by its hash, and nothing else.
	csp     string
	matcher language.Matcher
	// appLink is [Config.ChatLink], and onlyApp the app whose chat a page leads to
	// that is about no consent.
	appLink, onlyApp string
	// buttons is [Config.Buttons].
	buttons bool
}

// understood are matched against the languages that a browser accepts, and
// languages has the page's language for each. The first is the default. Readers
// of traditional characters get simplified ones, which the matcher alone would
// not choose.
var (
	understood = []language.Tag{language.English, language.Chinese, language.TraditionalChinese, language.Japanese}
	languages  = []language.Tag{language.English, language.Chinese, language.Chinese, language.Japanese}
)

// newPages returns the pages of c.
func newPages(c Config) (*pages, error) {
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("parsing the page: %w", err)
	}
	p := &pages{template: t, matcher: language.NewMatcher(understood), appLink: c.ChatLink, buttons: c.Buttons}
	if len(c.Apps) == 1 {
		for id := range c.Apps {
			p.onlyApp = id
		}
	}
	// The hash is of the template's output, since the template may change the
	// text.
	html, err := p.render(page{message: texts.done, tone: good}, language.English)
	if err != nil {
		return nil, err
	}
	_, style, _ := bytes.Cut(html, []byte("<style>"))
	style, _, ok := bytes.Cut(style, []byte("</style>"))
	if !ok {
		return nil, errors.New("the page has no style sheet")
	}
	sum := sha256.Sum256(style)
	p.csp = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
	return p, nil
}

func (p *pages) render(g page, lang language.Tag) ([]byte, error) {
	v := pageView{
		Lang: lang.String(), Title: g.message.title.in(lang), Text: g.message.page.in(lang), Tone: g.tone.class, Mark: g.tone.mark,
		Back: p.chat(g.appID), BackText: texts.back.in(lang),
	}
	if g.app != "" {
		before, after, _ := strings.Cut(texts.asked.in(lang), "{app}")
		v.From = &from{before, g.app, after}
	}
	link := texts.linkByUse
	if p.buttons {
		link = texts.linkByCard
	}
	for _, next := range g.message.next {
		v.Next = append(v.Next, next.fill("{link}", "", link).in(lang))
	}
	v.Note = g.message.note.fill("{link}", "", link).in(lang)
	var b bytes.Buffer
	err := p.template.Execute(&b, v)
	return b.Bytes(), err
}

// pageView is what the template sees.
type pageView struct {
	Lang, Title, Text, Tone, Mark string
	// From is who asked; nil: nobody knows.
	From *from
	// Next is what to do now, one thing after the other, and Note what else the
	// reader may want. Either may be empty.
	Next []string
	Note string
	// Back opens the chat; empty: it is not known which.
	Back, BackText string
}

// from is a sentence around the name of the app that asked.
type from struct{ Before, App, After string }

// chat returns the AppLink that opens the chat with an app's bot, in which its
// card is; empty if there is none. Source: Lark "AppLink protocol: open a bot",
// of Feishu and of Lark.
func (p *pages) chat(appID string) string {
	appID = cmp.Or(appID, p.onlyApp)
	if p.appLink == "" || appID == "" {
		return ""
	}
	return p.appLink + "/client/bot/open?appId=" + url.QueryEscape(appID)
}

func (t translated) in(lang language.Tag) string {
	switch lang {
	case language.Chinese:
		return t.zh
	case language.Japanese:
		return t.ja
	}
	return t.en
}

// lang returns the language for a request. A long header is not parsed, since
// parsing takes time.
func (p *pages) lang(r *http.Request) language.Tag {
	accept := r.Header.Get("Accept-Language")
	if len(accept) > 256 {
		return languages[0]
	}
	_, i := language.MatchStrings(p.matcher, accept)
	return languages[i]
}

// secure sets the headers of every answer, including redirects.
func (p *pages) secure(h http.Header) {
	h.Set("Content-Security-Policy", p.csp)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Robots-Tag", "noindex")
}

func (p *pages) show(w http.ResponseWriter, r *http.Request, g page) {
	lang := p.lang(r)
	html, err := p.render(g, lang)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", lang.String())
	h.Set("Vary", "Accept-Language")
	h.Set("Content-Length", strconv.Itoa(len(html)))
	if g.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "5")
	}
	w.WriteHeader(g.status)
	w.Write(html)
}
