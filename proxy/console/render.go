package console

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/text/language"

	"larkside/session"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// asset serves an embedded file, which is the same for everyone.
func asset(name, kind string) http.Handler {
	content, err := assetFiles.ReadFile("assets/" + name)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err != nil {
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content)
	})
}

// page is one answer.
type page struct {
	// Name is the template's file, Title the key of its text, with what fills it.
	Name, Title string
	TitleArgs   []any
	// Nav is the entry of the navigation that is the present one.
	Nav string
	// Live: the page follows events.
	Live bool
	// Plain: without navigation.
	Plain bool
	Body  any
}

// view is what a template sees.
type view struct {
	page
	Lang lang
	// Heading is Title in the reader's language.
	Heading, Version string
	// Form is the token that every form carries.
	Form string
	// SignedIn: there is a sign-in to end.
	SignedIn bool
	// Others are the same page in the other languages.
	Others []langLink
	Apps   []string
}

type langLink struct {
	Lang lang
	Name string
	URL  string
}

// names are the pages, one file each.
var names = []string{"overview", "sessions", "session", "confirm", "consents", "audit", "errors", "login", "trouble"}

// pages holds every page in every language. One is parsed when it is asked for
// first: most consoles are never looked at, and all of them take 1.7 MiB.
type pages struct {
	in      map[lang]func() (map[string]*template.Template, error)
	matcher language.Matcher
}

func newPages() *pages {
	p := &pages{in: make(map[lang]func() (map[string]*template.Template, error)), matcher: language.NewMatcher(understood)}
	for _, l := range languages {
		p.in[l] = sync.OnceValues(func() (map[string]*template.Template, error) { return parsePages(l) })
	}
	return p
}

func parsePages(l lang) (map[string]*template.Template, error) {
	layout, err := template.New("layout.html").Funcs(template.FuncMap{
		"t": l.text, "path": sessionPath, "visible": visible, "breaks": breaks,
	}).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html")
	if err != nil {
		return nil, fmt.Errorf("parsing the console's pages: %w", err)
	}
	all := make(map[string]*template.Template)
	for _, name := range names {
		one, err := layout.Clone()
		if err == nil {
			one, err = one.ParseFS(pageFiles, "pages/"+name+".html")
		}
		if err != nil {
			return nil, fmt.Errorf("parsing the console's page %s: %w", name, err)
		}
		all[name] = one
	}
	return all, nil
}

// show answers with a page.
func (k *Console) show(w http.ResponseWriter, r *http.Request, status int, p page) {
	l := k.lang(r)
	v := view{page: p, Lang: l, Heading: l.text(p.Title, p.TitleArgs...), Version: k.Version,
		SignedIn: !k.Key.Secret().Empty() && !p.Plain, Form: k.formToken(w, r), Apps: k.Apps}
	for _, other := range languages {
		q := r.URL.Query()
		q.Set("lang", string(other))
		v.Others = append(v.Others, langLink{other, other.text("lang.name"), "?" + q.Encode()})
	}
	var b bytes.Buffer
	all, err := k.pages.in[l]()
	if err == nil {
		err = all[p.Name].ExecuteTemplate(&b, "layout.html", v)
	}
	if err != nil {
		k.Log.ErrorContext(r.Context(), "a console page could not be rendered", "page", p.Name, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", string(l))
	h.Set("Vary", "Accept-Language, Cookie")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// langCookie holds the language that was chosen.
const langCookie = "larkside_lang"

// switchLanguage keeps the choice that ?lang= makes, and shows the page again
// without it.
func (k *Console) switchLanguage(w http.ResponseWriter, r *http.Request) bool {
	q := r.URL.Query()
	if r.Method != http.MethodGet || !q.Has("lang") {
		return false
	}
	for _, l := range languages {
		if string(l) == q.Get("lang") {
			setCookie(w, r, langCookie, string(l), 365*24*time.Hour)
		}
	}
	q.Del("lang")
	http.Redirect(w, r, here(&url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: q.Encode()}), http.StatusSeeOther)
	return true
}

// lang is the reader's language: the chosen one, or what the browser prefers.
func (k *Console) lang(r *http.Request) lang {
	for _, l := range languages {
		if cookie(r, langCookie) == string(l) {
			return l
		}
	}
	accept := r.Header.Get("Accept-Language")
	if len(accept) > 256 { // bounds what a header may make the parser do
		return english
	}
	_, i := language.MatchStrings(k.pages.matcher, accept)
	return matched[i]
}

// sessionPath is where a session's page is.
func sessionPath(key session.Key) string {
	return "/sessions/" + url.PathEscape(key.AppID) + "/" + url.PathEscape(key.OpenID)
}
