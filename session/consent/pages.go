package consent

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"

	"golang.org/x/text/language"

	"larkside/session"
)

// page is an answer to a browser. It has nothing of the request.
type page struct {
	status  int
	message message
	tone    tone
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
		return page{http.StatusOK, texts.done, good}
	case session.ConsentDeclined:
		return page{http.StatusOK, texts.declined, plain}
	case session.ConsentSuperseded:
		return page{http.StatusGone, texts.superseded, plain}
	case session.ConsentFailed:
		return page{http.StatusGone, texts.failed, plain}
	}
	return page{http.StatusGone, texts.expired, plain}
}

// resultPage returns the page for the browser whose callback ended the consent.
func resultPage(p *session.Consent) page {
	switch {
	case p.State == session.ConsentFailed && p.Reason == reasonWrongAccount:
		return page{http.StatusForbidden, texts.wrongAccount, bad}
	case p.State == session.ConsentFailed:
		return page{http.StatusBadGateway, texts.failed, bad}
	}
	return overPage(p)
}

var (
	malformedPage    = page{http.StatusBadRequest, texts.malformed, bad}
	otherBrowserPage = page{http.StatusBadRequest, texts.otherBrowser, plain}
	replayedPage     = page{http.StatusGone, texts.expired, plain}
	refusedCodePage  = page{http.StatusGone, texts.malformed, plain}
	larkFailedPage   = page{http.StatusBadGateway, texts.larkFailed, bad}
	unavailablePage  = page{http.StatusServiceUnavailable, texts.unavailable, plain}
	notFoundPage     = page{http.StatusNotFound, texts.notFound, plain}
	methodPage       = page{http.StatusMethodNotAllowed, texts.method, plain}
)

//go:embed page.html
var pageHTML string

// pages writes pages and the headers of every answer.
type pages struct {
	template *template.Template
	// csp allows the style sheet, by its hash, and nothing else.
	csp     string
	matcher language.Matcher
}

// understood are matched against the languages that a browser accepts, and
// languages has the page's language for each. The first is the default. Readers
// of traditional characters get simplified ones, which the matcher alone would
// not choose.
var (
	understood = []language.Tag{language.English, language.Chinese, language.TraditionalChinese, language.Japanese}
	languages  = []language.Tag{language.English, language.Chinese, language.Chinese, language.Japanese}
)

func newPages() (*pages, error) {
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("parsing the page: %w", err)
	}
	p := &pages{template: t, matcher: language.NewMatcher(understood)}
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
	var b bytes.Buffer
	err := p.template.Execute(&b, struct{ Lang, Title, Text, Tone, Mark string }{
		lang.String(), g.message.title.in(lang), g.message.page.in(lang), g.tone.class, g.tone.mark,
	})
	return b.Bytes(), err
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
