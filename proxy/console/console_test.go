package console

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/telemetry"
)

// everywhere is each page that there is, with what it must say in English.
var everywhere = map[string]string{
	"/":                                  "Overview",
	"/sessions":                          "ou_bob",
	"/sessions?q=bob&state=active":       "Bob",
	"/sessions?q=nobody":                 "No session matches",
	"/sessions/cli_a1/ou_alice":          "Needs consent|Works, and is renewed",
	"/sessions/cli_a1/u.ou_bob":          "Has no refresh token",
	"/sessions/cli_b2/ou_%3Cb%3E&":       "Reason",
	"/sessions/cli_a1/ou_alice/revoke":   "be undone",
	"/sessions/cli_a1/ou_alice/card":     "gets a card",
	"/sessions/cli_a1/ou_alice/refresh":  "exchanged",
	"/ask?app=cli_a1&user=ou_new":        "ou_new",
	"/consents":                          "Waiting for their users",
	"/consents?state=failed":             "ou_bob",
	"/consents?user=ou_alice&app=cli_a1": "ou_alice",
	"/audit":                             "ou_alice",
	"/audit?action=revoke":               "No entries",
	"/errors":                            "boom",
}

// What is shown is text, whatever it is: nothing of it runs, breaks out or turns
// the line around, and no secret is anywhere.
func TestPages(t *testing.T) {
	s := newStage(t, adminKey)
	s.fill()
	for path, word := range everywhere {
		for _, lang := range []string{"en", "zh-CN"} {
			t.Run(lang+path, func(t *testing.T) {
				a := s.visitor("Accept-Language", lang, "Authorization", "Bearer "+adminKey).get(path)
				if a.status != 200 || a.header.Get("Content-Language") != lang {
					t.Fatalf("%d in %s\n%s", a.status, a.header.Get("Content-Language"), a.body)
				}
				if lang == "en" && !regexp.MustCompile(word).MatchString(a.body) {
					t.Errorf("%q is not on the page\n%s", word, a.body)
				}
				decent(t, a, lang)
			})
		}
	}
}

// decent checks what holds for every page.
func decent(t *testing.T, a *answer, lang string) {
	t.Helper()
	for _, never := range []string{canary, adminKey, "<img", "<b>", "\u202e", "\u2066", "\x00", "\x1b", "ZgotmplZ", "REDACTED@"} {
		if strings.Contains(a.body, never) {
			t.Errorf("%q is on the page", never)
		}
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": csp, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "same-origin", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	count, labelled, ids := map[string]int{}, map[string]bool{}, map[string]bool{}
	for _, n := range a.parse(t) {
		count[n.Data]++
		for _, at := range n.Attr {
			if strings.HasPrefix(at.Key, "on") || at.Key == "style" {
				t.Errorf("<%s %s> is inline code", n.Data, at.Key)
			}
			if (at.Key == "href" || at.Key == "src" || at.Key == "action") && !strings.HasPrefix(at.Val, "/") && !strings.HasPrefix(at.Val, "?") && at.Val != "#main" {
				t.Errorf("<%s %s=%q> leads elsewhere", n.Data, at.Key, at.Val)
			}
		}
		if id, ok := attr(n, "id"); ok {
			if ids[id] {
				t.Errorf("the id %q stands twice", id)
			}
			ids[id] = true
		}
		switch n.Data {
		case "html":
			if got, _ := attr(n, "lang"); got != lang {
				t.Errorf("lang=%q", got)
			}
		case "label":
			for c := range n.Descendants() {
				if name, ok := attr(c, "name"); ok {
					labelled[name] = strings.TrimSpace(text(n)) != ""
				}
			}
		case "input", "select":
			kind, _ := attr(n, "type")
			name, _ := attr(n, "name")
			if _, hidden := attr(n, "aria-hidden"); kind != "hidden" && !hidden && !labelled[name] {
				t.Errorf("the field %q has no label", name)
			}
		case "form":
			if method, _ := attr(n, "method"); method == "post" {
				has := false
				for c := range n.Descendants() {
					name, _ := attr(c, "name")
					has = has || name == "form"
				}
				if !has {
					t.Error("a form without a token")
				}
			}
		case "th":
			if scope, _ := attr(n, "scope"); scope == "" {
				t.Error("a table heading without a scope")
			}
		case "svg":
			_, label := attr(n, "aria-label")
			_, hidden := attr(n, "aria-hidden")
			if !label && !hidden {
				t.Error("a drawing without a text")
			}
		case "time":
			if at, _ := attr(n, "datetime"); !strings.HasSuffix(at, "Z") {
				t.Errorf("datetime=%q", at)
			}
		case "script":
			if src, _ := attr(n, "src"); src != "/console.js" || text(n) != "" {
				t.Errorf("a script that is not ours: %q %q", src, text(n))
			}
		}
	}
	if count["h1"] != 1 || count["main"] != 1 || count["header"] != 1 || count["footer"] != 1 || count["title"] != 1 {
		t.Errorf("landmarks: %v", count)
	}
}

// Every text that is asked for is there, in both languages, and none is left over.
func TestTexts(t *testing.T) {
	used := map[string]bool{}
	key := regexp.MustCompile(`\bt "([a-z_.]+)"`)
	inGo := regexp.MustCompile(`"([a-z_]+\.[a-z_.]+)"`)
	all := ""
	for _, dir := range []string{"pages", "."} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() || strings.HasSuffix(e.Name(), "_test.go") || e.Name() == "texts.go" {
				continue
			}
			content, err := os.ReadFile(dir + "/" + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			all += string(content)
			for _, found := range key.FindAllStringSubmatch(string(content), -1) {
				used[found[1]] = true
				if _, ok := texts[found[1]]; !ok {
					t.Errorf("%s asks for %q, which is not there", e.Name(), found[1])
				}
			}
			for _, found := range inGo.FindAllStringSubmatch(string(content), -1) {
				used[found[1]] = true
			}
		}
	}
	for name, text := range texts {
		if text.zh == "" || text.en == "" || strings.Count(text.zh, "%") != strings.Count(text.en, "%") {
			t.Errorf("%s: %+v", name, text)
		}
		prefix := name[:strings.LastIndexByte(name, '.')+1]
		if !used[name] && !strings.Contains(all, `"`+prefix+`%s`) && !strings.Contains(all, `"`+prefix+`"`) && !strings.Contains(all, `"`+strings.TrimSuffix(prefix, ".")+`"`) && !strings.HasPrefix(name, "plot.") && name != "confirm.refresh.text" && name != "confirm.card.text" && name != "confirm.revoke.text" {
			t.Errorf("nothing asks for %q", name)
		}
	}
	for _, kd := range kinds {
		groups := kd.groups
		if kd.apart != nil {
			groups = append(slices.Clone(groups), *kd.apart)
		}
		for _, g := range groups {
			if _, ok := texts["plot."+kd.name+"."+g.name]; !ok {
				t.Errorf("no text for %s.%s", kd.name, g.name)
			}
		}
	}
	for prefix, words := range map[string][]string{
		"state.": strs(states), "consent.": strs(consentStates), "action.": strs(auditActions),
		"card.":  strs([]session.CardResult{session.CardSent, session.CardAlreadySent, session.CardRateLimited, session.CardFailed, session.CardOff}),
		"actor.": {store.ByAdmin, store.ByUser, store.ByLark, store.ByLarkside},
		"why.": strs([]session.Reason{session.NoSession, session.RefreshTokenExpired, session.RefreshTokenUsed, session.RefreshTokenInvalid,
			session.NoRefreshToken, session.Revoked, session.Declined, session.TokenRefused, session.UnsupportedToken, session.UserGone, session.UserNotPermitted}),
	} {
		for _, w := range words {
			if _, ok := texts[prefix+w]; !ok {
				t.Errorf("no text for %s%s", prefix, w)
			}
		}
	}
}

func strs[S ~string](words []S) (out []string) {
	for _, w := range words {
		out = append(out, string(w))
	}
	return out
}

func TestLanguages(t *testing.T) {
	s := newStage(t, "")
	for accept, want := range map[string]string{"": "en", "zh-CN,zh;q=0.9": "zh-CN", "zh-TW": "zh-CN", "fr": "en", "de,zh;q=0.5": "zh-CN", strings.Repeat("zh,", 200): "en"} {
		if got := s.visitor("Accept-Language", accept).get("/").header.Get("Content-Language"); got != want {
			t.Errorf("Accept-Language %q: %s, want %s", accept, got, want)
		}
	}
	v := s.visitor("Accept-Language", "en")
	if a := v.get("/sessions?q=a&lang=zh-CN"); a.status != 303 || a.location != "/sessions?q=a" {
		t.Errorf("the switch: %d to %q", a.status, a.location)
	}
	if got := v.get("/").header.Get("Content-Language"); got != "zh-CN" {
		t.Errorf("after the switch: %s", got)
	}
	if a := v.get("//evil.example/?lang=en"); a.location != "" && !strings.HasPrefix(a.location, "/") || strings.HasPrefix(a.location, "//") {
		t.Errorf("the switch leads to %q", a.location)
	}
}

// The language's link shows the same page again, the sign-in too, and leads
// nowhere else.
func TestSwitchLanguage(t *testing.T) {
	k := newStage(t, adminKey).k
	for target, want := range map[string]string{
		"/login?lang=en&next=%2Faudit":   "/login?next=%2Faudit",
		"/login?lang=en":                 "/login",
		"/sessions/a/b%2Fc?lang=en":      "/sessions/a/b%2Fc",
		"//evil.example/?lang=en":        "/",
		"///evil.example?lang=en":        "/",
		"/%2Fevil.example?lang=en":       "/",
		"/%5Cevil.example?lang=en":       "/%5Cevil.example",
		"/\\evil.example?lang=en":        "/%5Cevil.example",
		"/%09/evil.example?lang=en":      "/%09/evil.example",
		"http://evil.example/a?lang=en":  "/a",
		"http://evil.example//b?lang=en": "/",
	} {
		u, err := url.Parse(target)
		if strings.HasPrefix(target, "//") {
			u, err = url.ParseRequestURI(target) // as a server reads it
		}
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		if !k.switchLanguage(w, &http.Request{Method: "GET", URL: u}) {
			t.Fatalf("%s: no switch", target)
		}
		if got := w.Header().Get("Location"); got != want {
			t.Errorf("%s leads to %q, want %q", target, got, want)
		}
	}
}

func TestSignIn(t *testing.T) {
	s := newStage(t, adminKey)
	s.fill()
	for path := range everywhere {
		a := s.visitor().get(path)
		if a.status != 401 || a.header.Get("X-Larkside-Error") != "admin_unauthenticated" || strings.Contains(a.body, "ou_alice</") {
			t.Errorf("%s without a sign-in: %d", path, a.status)
		}
		decent(t, a, "en")
	}
	for _, path := range []string{"/events", "/openapi.json", "/nothing"} {
		if a := s.visitor().get(path); a.status != 401 {
			t.Errorf("%s without a sign-in: %d", path, a.status)
		}
	}
	v := s.visitor()
	if a := v.post("/login?next=/audit", "/login", "key", adminKey, "next", "/audit?action=revoke"); a.status != 303 || a.location != "/audit?action=revoke" {
		t.Fatalf("signing in: %d to %q", a.status, a.location)
	} else if c := a.header.Get("Set-Cookie"); !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Strict") || !strings.Contains(c, "Path=/;") || strings.Contains(c, "Secure") || strings.Contains(c, adminKey) {
		t.Errorf("the cookie: %s", c)
	}
	if a := v.get("/"); a.status != 200 {
		t.Errorf("signed in: %d", a.status)
	}
	if a := v.get("/login"); a.status != 303 {
		t.Errorf("the sign-in of who is signed in: %d", a.status)
	}
	// Another replica with the same key has sign-ins of its own, and one browser
	// may be signed in to both.
	other := newStage(t, adminKey)
	there := other.visitor()
	there.client.Jar = v.client.Jar // it has one jar for all ports of a host
	if a := there.get("/"); a.status != 401 {
		t.Errorf("on another replica: %d", a.status)
	}
	there.signIn()
	if a, b := there.get("/"), v.get("/"); a.status != 200 || b.status != 200 {
		t.Errorf("signed in to both: %d, %d", a.status, b.status)
	}
	s.setKey("another-key-than-before")
	if a := v.get("/"); a.status != 401 {
		t.Errorf("with the key changed: %d", a.status)
	}
	s.setKey(adminKey)
	at, _ := url.Parse(s.url)
	cookies := v.client.Jar.Cookies(at)
	if a := v.post("/", "/logout"); a.status != 303 {
		t.Errorf("signing out: %d", a.status)
	}
	if a := v.get("/"); a.status != 401 {
		t.Errorf("signed out: %d", a.status)
	}
	v.client.Jar.SetCookies(at, cookies)
	if a := v.get("/"); a.status != 401 {
		t.Errorf("with a copy of the cookie after the sign-out: %d", a.status)
	}
}

// Over https no other host, path or plain connection can set our cookies. Over
// plain http browsers take none that says so, and give it to each port of the
// host, so it is good at one address only.
func TestCookiesBySchemeAndAddress(t *testing.T) {
	s := newQuietStage(t, adminKey)
	for _, tc := range []struct {
		sentence string
		header   []string
		prefix   string
		at, then string
		want     int
	}{
		{"plain, the same address", nil, "larkside_", "192.0.2.1:1000", "192.0.2.1:2000", 200},
		{"plain, another address", nil, "larkside_", "192.0.2.1:1000", "192.0.2.2:1000", 401},
		{"plain, the same network of IPv6", nil, "larkside_", "[2001:db8::1]:1000", "[2001:db8::2]:1000", 200},
		{"plain, another network of IPv6", nil, "larkside_", "[2001:db8::1]:1000", "[2001:db8:0:1::1]:1000", 401},
		{"https, by another proxy", []string{"X-Forwarded-Proto", "https"}, "__Host-larkside_", "192.0.2.1:1000", "192.0.2.2:1000", 200},
	} {
		v := s.visitorAt(tc.at, tc.header...)
		v.client.Jar = jar{} // the standard library's sends no Secure cookie to this test's http
		page := v.get("/login")
		form := formToken.FindStringSubmatch(page.body)[1]
		a := v.send("POST", "/login", url.Values{"form": {form}, "key": {adminKey}})
		cookies := slices.Concat(page.header.Values("Set-Cookie"), a.header.Values("Set-Cookie"))
		if len(cookies) != 2 {
			t.Errorf("%s: cookies %q", tc.sentence, cookies)
		}
		for _, c := range cookies {
			if !strings.HasPrefix(c, tc.prefix) || strings.Contains(c, "; Secure") != (tc.header != nil) || !strings.Contains(c, "; Path=/;") || strings.Contains(c, "Domain") {
				t.Errorf("%s: cookie %s", tc.sentence, c)
			}
		}
		other := s.visitorAt(tc.then, tc.header...)
		other.client.Jar = v.client.Jar
		if got := other.get("/").status; got != tc.want {
			t.Errorf("%s: %d, want %d", tc.sentence, got, tc.want)
		}
		if tc.header != nil {
			plain := s.visitorAt(tc.at)
			plain.client.Jar = v.client.Jar
			if got := plain.get("/").status; got != 401 {
				t.Errorf("%s, then over plain http: %d", tc.sentence, got)
			}
		}
	}
}

// jar is a browser's that keeps cookies by their names.
type jar map[string]*http.Cookie

func (j jar) SetCookies(_ *url.URL, all []*http.Cookie) {
	for _, c := range all {
		j[c.Name] = c
	}
}

func (j jar) Cookies(*url.URL) []*http.Cookie { return slices.Collect(maps.Values(j)) }

// What anybody gets who asks for the sign-in, and what a browser has of one,
// can't be used to try keys: it doesn't depend on the key.
func TestNothingIsDerivedFromTheKey(t *testing.T) {
	s := newQuietStage(t, adminKey)
	v := s.visitorAt("192.0.2.1:1000")
	before := formToken.FindStringSubmatch(v.get("/login").body)[1]
	s.setKey("another-key-than-before")
	if after := formToken.FindStringSubmatch(v.get("/login").body)[1]; after != before {
		t.Error("the token of a form is made with the admin key")
	}
	s.setKey(adminKey)
	v.signIn()
	ticket := ""
	for _, c := range v.client.Jar.Cookies(&url.URL{Scheme: "http", Host: "127.0.0.1:8081", Path: "/"}) {
		if strings.HasPrefix(c.Name, signInCookie) {
			ticket = c.Value
		}
	}
	if len(ticket) != len(random()) {
		t.Errorf("ticket %q is more than a random number", ticket)
	}
}

// Who knows the cookies of a browser can't make the token of its forms: each
// process signs by a random number of its own.
func TestFormTokensAreOfOneProcess(t *testing.T) {
	one, two := &Console{signIns: newSignIns()}, &Console{signIns: newSignIns()}
	const browser, ticket = "browser", "ticket"
	first := one.tokenFor(browser, ticket)
	if again := one.tokenFor(browser, ticket); again != first {
		t.Errorf("a form that is loaded twice has two tokens, %q and %q", first, again)
	}
	if two.tokenFor(browser, ticket) == first {
		t.Error("two processes make the same token of the same cookies")
	}
}

func TestTickets(t *testing.T) {
	key, now := session.NewSecret(adminKey), time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	all := newSignIns()
	with := func(ticket string) *http.Request {
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: all.name, Value: ticket})
		return r
	}
	good, ended := all.begin(with(""), key, now), all.begin(with(""), key, now)
	all.end(with(ended))
	for _, tc := range []struct {
		sentence string
		ticket   string
		key      string
		at       time.Time
		want     bool
	}{
		{"a fresh one", good, adminKey, now, true},
		{"a moment before its end", good, adminKey, now.Add(signInLife - time.Second), true},
		{"at its end", good, adminKey, now.Add(signInLife), false},
		{"with another key", good, "another", now, false},
		{"with a letter cut", good[:len(good)-1], adminKey, now, false},
		{"none", "", adminKey, now, false},
		{"signed out", ended, adminKey, now, false},
		{"of another replica", newSignIns().begin(with(""), key, now), adminKey, now, false},
	} {
		if got := all.good(with(tc.ticket), session.NewSecret(tc.key), tc.at); got != tc.want {
			t.Errorf("%s: %v", tc.sentence, got)
		}
	}
	for range 2 * maxSignIns {
		all.begin(with(""), key, now)
	}
	if n := all.all.Len(); n != maxSignIns {
		t.Errorf("%d sign-ins are remembered", n)
	}
}

// The sign-in leads to a page of ours, whatever it was asked for.
func TestLocal(t *testing.T) {
	for next, want := range map[string]string{
		"/audit?action=revoke": "/audit?action=revoke", "/sessions/a/b%2Fc": "/sessions/a/b%2Fc", "": "/", "/login": "/", "/login?next=/": "/",
		"//evil.example": "/", "https://evil.example/": "/", "/\\evil.example": "/", "\\\\evil.example": "/", "javascript:alert(1)": "/",
		"evil.example": "/", "/\t/evil.example": "/", "/%2F/evil.example": "/", "http:/evil": "/", "%zz": "/", "/a#b": "/a",
	} {
		if got := local(next); got != want {
			t.Errorf("local(%q) = %q, want %q", next, got, want)
		}
	}
}

func TestWrongKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newQuietStage(t, adminKey)
		v := s.visitorAt("192.0.2.1:1000")
		for i := range 10 {
			if a := v.post("/login", "/login", "key", fmt.Sprint("guess ", i)); a.status != 401 || !strings.Contains(a.body, "not the key") {
				t.Fatalf("guess %d: %d", i, a.status)
			}
		}
		// Now not even the right one is looked at.
		a := v.post("/login", "/login", "key", adminKey)
		if a.status != 429 || a.header.Get("X-Larkside-Error") != "admin_rate_limited" || !strings.Contains(a.body, "Too many wrong keys") {
			t.Errorf("after too many: %d", a.status)
		}
		if a := s.visitorAt("192.0.2.2:1000").post("/login", "/login", "key", adminKey); a.status != 303 {
			t.Errorf("from another address: %d", a.status)
		}
		wait, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(wait) * time.Second)
		if a := v.post("/login", "/login", "key", adminKey); a.status != 303 {
			t.Errorf("after the wait of %d s: %d", wait, a.status)
		}
		if n := len(s.recent.Records()); n != 1 {
			t.Errorf("%d lines about it in the log", n)
		}
	})
}

// A key in a header is a guess like one in the form.
func TestWrongBearers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newQuietStage(t, adminKey)
		const address = "192.0.2.1:1000"
		inside := s.visitorAt(address).signIn()
		v := s.visitorAt(address)
		for i := range 10 {
			if a := v.send("GET", "/audit", nil, "Authorization", fmt.Sprint("Bearer guess-", i)); a.status != 401 {
				t.Fatalf("guess %d: %d", i, a.status)
			}
		}
		right := []string{"Authorization", "Bearer " + adminKey}
		if a := v.send("GET", "/audit", nil, right...); a.status != 429 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "Too many wrong keys") {
			t.Errorf("after too many: %d", a.status)
		}
		if a := v.send("POST", "/sessions/cli_a1/ou_alice/refresh", url.Values{}, right...); a.status != 403 || len(s.doings()) > 0 {
			t.Errorf("a doing after too many: %d, %v", a.status, s.doings())
		}
		if a := v.post("/login", "/login", "key", adminKey); a.status != 429 {
			t.Errorf("the form after too many: %d", a.status)
		}
		if a := inside.get("/audit"); a.status != 200 {
			t.Errorf("who is signed in: %d", a.status)
		}
		if a := v.get("/audit"); a.status != 401 {
			t.Errorf("without a key: %d", a.status)
		}
		time.Sleep(7 * time.Second)
		if a := v.send("GET", "/audit", nil, right...); a.status != 200 {
			t.Errorf("after the wait: %d", a.status)
		}
		if n := len(s.recent.Records()); n != 1 {
			t.Errorf("%d lines about it in the log", n)
		}
	})
}

// Each form has to come from a page of ours, sent to this very browser.
func TestForgery(t *testing.T) {
	for _, key := range []string{adminKey, ""} {
		s := newStage(t, key)
		s.put(alice, "Alice", nil)
		start := func() *visitor {
			v := s.visitor()
			if key != "" {
				v.signIn()
			}
			v.get("/sessions/cli_a1/ou_alice")
			return v
		}
		paths := []string{"/sessions/cli_a1/ou_alice/refresh", "/sessions/cli_a1/ou_alice/card", "/sessions/cli_a1/ou_alice/revoke", "/logout", "/login"}
		other := formToken.FindStringSubmatch(start().get("/sessions/cli_a1/ou_alice").body)[1]
		for _, path := range paths {
			v := start()
			own := url.Values{"form": formToken.FindStringSubmatch(v.get("/sessions/cli_a1/ou_alice").body)[1:]}
			for sentence, a := range map[string]*answer{
				"no token":              v.send("POST", path, url.Values{}),
				"another browser's":     v.send("POST", path, url.Values{"form": {other}}),
				"in the query":          v.send("POST", path+"?form="+url.QueryEscape(own.Get("form")), url.Values{}),
				"another site's page":   v.send("POST", path, own, "Sec-Fetch-Site", "cross-site"),
				"another port's page":   v.send("POST", path, own, "Sec-Fetch-Site", "same-site"),
				"another origin":        v.send("POST", path, own, "Origin", "http://evil.example"),
				"a sandbox":             v.send("POST", path, own, "Origin", "null"),
				"a body without an end": v.send("POST", path, url.Values{"form": own["form"], "x": {strings.Repeat("x", 2*maxForm)}}),
			} {
				if a.status != 403 && a.status != 400 {
					t.Errorf("%s, key %q, %s: %d", path, key, sentence, a.status)
				}
			}
			if len(s.doings()) > 0 {
				t.Errorf("%s: a forged form did %v", path, s.doings())
			}
		}
		v := start()
		if a := v.post("/sessions/cli_a1/ou_alice", paths[0]); a.status != 303 || !slices.Equal(s.doings(), []string{"refresh cli_a1 ou_alice"}) {
			t.Errorf("its own form: %d, %v", a.status, s.doings())
		}
	}
}

func TestDoings(t *testing.T) {
	s := newStage(t, "")
	s.put(alice, "Alice", nil)
	v := s.visitor()
	for _, what := range []string{"refresh", "card", "revoke"} {
		a := v.post("/sessions/cli_a1/ou_alice", "/sessions/cli_a1/u.ou_alice/"+what)
		notice := strings.Replace(what, "card", "sent", 1)
		if a.status != 303 || a.location != "/sessions/cli_a1/ou_alice?did="+notice {
			t.Errorf("%s: %d to %q", what, a.status, a.location)
		}
		if page := v.get(a.location); !strings.Contains(html.UnescapeString(page.body), `role="status">`+english.text("did."+notice)) {
			t.Errorf("%s: the page does not say so", what)
		}
	}
	// A card that did not reach the user is not called one that did.
	for _, card := range didNot {
		if page := v.get("/sessions/cli_a1/ou_alice?did=" + card); !strings.Contains(html.UnescapeString(page.body), `role="alert">`+english.text("did."+card)) {
			t.Errorf("%s: the page does not say so", card)
		}
	}
	if got := s.doings(); !slices.Equal(got, []string{"refresh cli_a1 ou_alice", "ask cli_a1 ou_alice", "revoke cli_a1 ou_alice"}) {
		t.Errorf("done: %v", got)
	}
	// A link or a search engine does nothing.
	for _, what := range []string{"refresh", "card", "revoke"} {
		v.get("/sessions/cli_a1/ou_alice/" + what)
	}
	if len(s.doings()) != 3 {
		t.Errorf("a GET did something: %v", s.doings())
	}
	for err, want := range map[error]int{
		&session.ConsentRequiredError{Reason: session.Revoked}: 409, session.ErrConflict: 409, session.ErrUserDisabled: 409,
		&session.RetryError{Err: session.ErrRefreshUnavailable}: 503, session.ErrAppMisconfigured: 503, session.ErrUnavailable: 503,
		errors.New("unforeseen"): 500, session.ErrNotFound: 404,
	} {
		s.fail(err)
		a := v.post("/sessions/cli_a1/ou_alice", "/sessions/cli_a1/ou_alice/refresh")
		if a.status != want || want != 404 && !strings.Contains(a.body, `role="alert"`) {
			t.Errorf("%v: %d\n%s", err, a.status, a.body)
		}
	}
}

func TestUnknown(t *testing.T) {
	s := newStage(t, "")
	v := s.visitor()
	for path, want := range map[string]int{
		"/nothing": 404, "/sessions/cli_a1/ou_nobody": 404, "/sessions/cli_a1/on_nobody": 404, "/sessions/cli_zz/ou_1": 400,
		"/sessions/cli_a1/ou_1/explode": 404, "/sessions/cli_a1/ou_1/revoke": 404, "/sessions?state=dead": 400, "/audit?action=x": 400,
		"/consents?state=x": 400, "/ask?app=cli_zz&user=ou_1": 400, "/ask?app=cli_a1&user=": 400, "/logout": 405, "/sessions?q=%00": 400, "/audit?user=%ff": 400, "/consents?before=%00": 400, "/sessions/cli_a1/ou_%00": 400,
		"/sessions?q=" + strings.Repeat("x", 300): 400, "/sessions/cli_a1/" + strings.Repeat("x", 300): 400, "/style.css": 200, "/favicon.ico": 200, "/openapi.json": 200,
	} {
		if a := v.get(path); a.status != want {
			t.Errorf("%s: %d, want %d", path, a.status, want)
		}
	}
	if a := v.send("DELETE", "/sessions", nil); a.status != 405 || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("DELETE: %d, Allow %q", a.status, a.header.Get("Allow"))
	}
}

// A store that is late or away is said so; the replica's own state is shown.
func TestWithoutStore(t *testing.T) {
	s := newStage(t, "")
	s.k.Store = func() *Store { return nil }
	v := s.visitor()
	if a := v.get("/"); a.status != 200 || !strings.Contains(a.body, "waiting for the database") {
		t.Errorf("the overview while starting: %d\n%s", a.status, a.body)
	}
	for _, path := range []string{"/sessions", "/sessions/cli_a1/ou_1", "/consents", "/audit"} {
		if a := v.get(path); a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("%s while starting: %d", path, a.status)
		}
	}
	s.k.Store = s.stored
	s.store.Close()
	if a := v.get("/"); a.status != 200 || !strings.Contains(a.body, "be reached") {
		t.Errorf("the overview without a database: %d", a.status)
	}
	if a := v.get("/sessions"); a.status != 503 {
		t.Errorf("the sessions without a database: %d", a.status)
	}
}

// troubled fails, or hangs, where it is told to.
type troubled struct {
	Consents
	pending, count func(context.Context) error
	counts         atomic.Int64
}

func (s *troubled) Pending(ctx context.Context) (int, error) { return 7, s.pending(ctx) }

// troubledDirectory counts as troubled does.
type troubledDirectory struct {
	Directory
	*troubled
}

func (d troubledDirectory) Counts(ctx context.Context) ([]store.Count, error) {
	d.counts.Add(1)
	return []store.Count{{AppID: app, State: session.Active, Sessions: 4711}}, d.count(ctx)
}

// While the database hangs or fails, the overview asks it once, waits shortly,
// and shows the rest.
func TestOverviewWithATroubledStore(t *testing.T) {
	t.Parallel()
	s := newStage(t, "")
	down := fmt.Errorf("asking: %w", session.ErrUnavailable)
	hangs := func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("%w: %w", down, ctx.Err()) }
	fine := func(context.Context) error { return nil }
	budgets := 0
	budget := s.k.Budget
	s.k.Budget = func(ctx context.Context, id string) ([]session.Limit, []int, error) {
		budgets++
		return budget(ctx, id)
	}
	stored := s.stored()
	database := &troubled{Consents: stored.Consents, pending: hangs, count: fine}
	stored.Consents, stored.Directory = database, troubledDirectory{stored.Directory, database}
	s.k.Store = func() *Store { return stored }
	v := s.visitor()
	overview := func(word string) {
		t.Helper()
		if a := v.get("/"); a.status != 200 || !strings.Contains(a.body, "Ready") || !strings.Contains(html.UnescapeString(a.body), word) {
			t.Errorf("%d, want %q\n%s", a.status, word, a.body)
		}
	}
	overview("be reached")
	if n := database.counts.Load(); n != 0 || budgets != 0 {
		t.Errorf("asked on behind a failure: %d counts, %d budgets", n, budgets)
	}

	// A count that fails is not tried again by the next page.
	database.pending, database.count = fine, func(context.Context) error { return down }
	overview("be reached")
	overview("be reached")
	if n := database.counts.Load(); n != 1 || budgets != 0 {
		t.Errorf("%d counts, %d budgets", n, budgets)
	}

	// A count that takes long holds up nobody, and is shown when it is there.
	s.k.counts = counts{}
	release := make(chan struct{})
	database.count = func(context.Context) error { <-release; return nil }
	overview("still being counted")
	overview("still being counted")
	if n := database.counts.Load(); n != 2 {
		t.Errorf("%d counts at a time", n-1)
	}
	if budgets != 4 {
		t.Errorf("%d budgets: a slow count is no failure", budgets)
	}
	close(release)
	for end := time.Now().Add(10 * time.Second); !strings.Contains(v.get("/").body, "4711"); {
		if time.Now().After(end) {
			t.Fatal("the count is never shown")
		}
	}

	// An app's budget that can't be read is the last one that is tried.
	budgets = 0
	s.k.Budget = func(context.Context, string) ([]session.Limit, []int, error) { budgets++; return nil, nil, down }
	overview("4711")
	if budgets != 1 {
		t.Errorf("%d budgets", budgets)
	}
}

// Who waits beyond the first page of those who wait is behind a link.
func TestManyPending(t *testing.T) {
	s := newStage(t, "")
	v := s.visitor()
	link := `<a href="?app=cli_a1&amp;state=pending">There are more`
	for i := range perPage + 1 {
		if i == perPage && strings.Contains(v.get("/consents?app=cli_a1").body, link) {
			t.Error("there are no more")
		}
		s.ask(session.Key{AppID: app, OpenID: fmt.Sprintf("ou_%03d", i)})
	}
	a := v.get("/consents?app=cli_a1")
	// Which one is left out is open: some began in the same millisecond.
	if n := strings.Count(a.body, "<bdi>ou_"); !strings.Contains(a.body, link) || n != perPage {
		t.Errorf("%d rows, or no link to the others\n%s", n, a.body)
	}
}

// One more page and then the end, each session once.
func TestPaging(t *testing.T) {
	s := newStage(t, "")
	for i := range perPage + 3 {
		s.put(session.Key{AppID: app, OpenID: fmt.Sprintf("ou_%03d", i)}, "N", nil)
	}
	v := s.visitor()
	first := v.get("/sessions?app=cli_a1")
	next := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(first.body)
	if next == nil || strings.Count(first.body, "<tr role") != perPage+1 {
		t.Fatalf("%d rows, next %v", strings.Count(first.body, "<tr role"), next)
	}
	last := v.get("/sessions" + strings.ReplaceAll(next[1], "&amp;", "&"))
	if strings.Count(last.body, "<tr role") != 4 || strings.Contains(last.body, `rel="next"`) || !strings.Contains(last.body, fmt.Sprintf("ou_%03d", perPage+2)) ||
		!strings.Contains(last.body, fmt.Sprintf("Rows %d–%d", perPage+1, perPage+3)) || !strings.Contains(last.body, `<a class="button" href="?app=cli_a1">First page</a>`) {
		t.Errorf("the last page has %d rows", strings.Count(last.body, "<tr role"))
	}
}

// What needs somebody comes first, filters and order are kept from page to page, and
// an address that is no place of a list is refused.
func TestSessionsInOrder(t *testing.T) {
	s := newStage(t, "")
	for i := range 3 {
		s.put(session.Key{AppID: app, OpenID: fmt.Sprint("ou_works", i)}, "", nil)
	}
	s.put(session.Key{AppID: app, OpenID: "ou_zz_over"}, "", nil)
	lease, err := s.store.Leases.Claim(t.Context(), session.Key{AppID: app, OpenID: "ou_zz_over"}, 1, time.Minute)
	if err == nil {
		_, err = s.store.Leases.End(t.Context(), lease, store.Ending{State: session.ConsentRequired, Reason: session.RefreshTokenExpired})
	}
	if err != nil {
		t.Fatal(err)
	}
	v := s.visitor()
	rows := regexp.MustCompile(`href="/sessions/cli_a1/(ou_\w+)"`)
	for path, first := range map[string]string{
		"/sessions": "ou_zz_over", "/sessions?sort=need": "ou_zz_over", "/sessions?sort=user": "ou_works0", "/sessions?sort=changed": "ou_zz_over", "/sessions?sort=ends": "ou_works0",
		"/sessions?state=active": "ou_works0",
	} {
		if found := rows.FindStringSubmatch(v.get(path).body); found == nil || found[1] != first {
			t.Errorf("%s begins with %v, want %s", path, found, first)
		}
	}
	body := html.UnescapeString(v.get("/sessions?sort=user&state=active&app=cli_a1").body)
	for _, want := range []string{
		`aria-sort="ascending"`, `href="?app=cli_a1&sort=need&state=active"`, `<a aria-current="true" href="?app=cli_a1&sort=user&state=active">Active</a>`,
		`href="?app=cli_a1&sort=user"`, `name="sort" value="user"`, `name="state" value="active"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is not on the page\n%s", want, body)
		}
	}
	if body := v.get("/sessions?sort=ends").body; !strings.Contains(body, `class="k-ends" aria-sort="ascending"`) {
		t.Errorf("the heading does not say that the list is sorted by the end\n%s", body)
	}
	for _, path := range []string{"/sessions?sort=name", "/sessions?after=x", "/sessions?after=1/2", "/sessions?after=9999999999999999999999.1/a/b"} {
		if a := v.get(path); a.status != 400 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	for _, path := range []string{"/sessions?after=7.1/a/b", "/sessions?after=-1.-1/a/b&n=-5", "/sessions?n=99999999999999999999"} {
		if a := v.get(path); a.status != 200 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

// Details of the audit trail and reasons are in the reader's language; what a program
// says is not translated.
func TestDetails(t *testing.T) {
	for in, want := range map[string][2]string{
		"from 10.0.0.1:5": {"from 10.0.0.1:5", "来自 10.0.0.1:5"}, "from the Unix socket: lark: code 5": {"from the Unix socket: lark: code 5", "来自 Unix socket：lark: code 5"},
		"from [::1]:80: x": {"from [::1]:80: x", "来自 [::1]:80：x"}, "scopes: a b": {"scopes: a b", "权限：a b"}, "wrong_account": {"Answered by another account; that is revoked", "用其他账号授权，已撤销"},
		"refresh_token_used": {"The refresh token had been used already and what came of it was not stored (a crash, or a leak).", "刷新令牌已被使用过，且新令牌没有保存下来（崩溃，或令牌泄露）。"},
		"something else":     {"something else", "something else"}, "": {"", ""},
	} {
		if en, zh := english.detail(in), chinese.detail(in); en != want[0] || zh != want[1] {
			t.Errorf("%q: %q, %q", in, en, zh)
		}
	}
}

// Every message that is translated is one that operators know from operating.md, and
// so one that there is.
func TestMessages(t *testing.T) {
	known, err := os.ReadFile("../../deploy/docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	for message, zh := range messages {
		if zh == "" || !strings.Contains(string(known), "`"+message+"`") {
			t.Errorf("%q: %q, or not in operating.md", message, zh)
		}
	}
	if english.message("can't send a card") != "" || chinese.message("no such message") != "" {
		t.Error("a message that needs no translation has one")
	}
	s := newStage(t, "")
	s.log.Warn("can't send a card")
	if body := html.UnescapeString(s.visitor("Accept-Language", "zh-CN").get("/errors").body); !strings.Contains(body, "无法发送卡片") || !strings.Contains(body, "can't send a card") {
		t.Errorf("the page of errors: %s", body)
	}
}

func TestShort(t *testing.T) {
	for in, want := range map[string]string{"ou_5f3b8a0c9e7d6b2a1f4e8d7c6b5a4938": "ou_…5a4938", "ou_alice": "ou_alice", "用户用户用户用户用户用户用户用户": "用户用…用户用户用户"} {
		if got := short(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestWhy(t *testing.T) {
	now := time.Now()
	in, ago := now.Add(time.Hour), now.Add(-time.Hour)
	for _, tc := range []struct {
		want string
		s    session.Session
	}{
		{"Works", session.Session{ExpiresAt: in, RefreshExpiresAt: in}},
		{"Idle", session.Session{ExpiresAt: ago, RefreshExpiresAt: in}},
		{"3 in a row); the next try is in 60 minutes", session.Session{ExpiresAt: ago, RefreshExpiresAt: in, Failures: 3, RetryAt: in}},
		{"the next call tries again", session.Session{ExpiresAt: ago, RefreshExpiresAt: in, Failures: 3, RetryAt: ago}},
		{"offline_access is missing", session.Session{ExpiresAt: in}},
		{"the access token has ended", session.Session{ExpiresAt: ago}},
		{"The refresh token has ended", session.Session{ExpiresAt: ago, RefreshExpiresAt: ago}},
		{"revoked", session.Session{State: session.ConsentRequired, Reason: session.Revoked}},
		{"left or is frozen", session.Session{State: session.Disabled, Reason: session.UserGone}},
		{"Reason: new_one", session.Session{State: session.Disabled, Reason: "new_one"}},
	} {
		if tc.s.State == "" {
			tc.s.State = session.Active
		}
		if got := english.why(&tc.s, now, false); !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q, want %q", tc.s, got, tc.want)
		}
	}
}

// From a log line to a person: by the hash in it, on every page that lists people,
// whether or not they have a session.
func TestPeople(t *testing.T) {
	s := newStage(t, "")
	hash := func(id string) string { return session.Hash(id)[:16] }
	s.k.UserShown = hash
	long := session.Key{AppID: app, OpenID: "ou_5f3b8a0c9e7d6b2a1f4e8d7c6b5a4938"}
	s.put(long, "Ann Long", nil)
	s.put(session.Key{AppID: app, OpenID: "ou_twin1"}, "Twin", nil)
	s.put(session.Key{AppID: app, OpenID: "ou_twin2"}, "Twin", nil)
	if _, err := s.store.Sessions.Revoke(t.Context(), long, session.Revoked); err != nil {
		t.Fatal(err)
	}
	asked := session.Key{AppID: app, OpenID: "ou_only_asked"}
	s.ask(long)
	s.ask(asked)
	for _, key := range []session.Key{long, asked} {
		s.store.Audit.Write(t.Context(), store.AuditEntry{Actor: store.ByAdmin, Action: store.AuditAsk, Key: key, Result: "done"})
	}
	v := s.visitor()
	for path, want := range map[string][]string{
		"/consents":                              {">Ann Long<", ">ou_…5a4938<", "ou_only_asked"},
		"/consents?user=Ann+Long":                {">Ann Long<"},
		"/consents?user=" + hash(asked.OpenID):   {">ou_only_asked<"},
		"/consents?user=Twin":                    {"Several users are called that"},
		"/consents?user=nobody":                  {"Nobody is found by that", "No consents"},
		"/audit":                                 {">Ann Long<", "ou_only_asked"},
		"/audit?user=u." + long.OpenID:           {">Ann Long<"},
		"/audit?user=" + hash(asked.OpenID):      {"ou_only_asked"},
		"/sessions?q=ou_only_asked":              {"Asked, without a session yet", `href="/sessions/cli_a1/ou_only_asked"`},
		"/sessions?q=" + hash(asked.OpenID):      {"Asked, without a session yet", `href="/sessions/cli_a1/ou_only_asked"`},
		"/sessions?q=" + hash("ou_nobody"):       {"No session matches"},
		"/sessions?q=ou_nobody":                  {"No session matches"},
		"/sessions/cli_a1/" + long.OpenID:        {"Ann Long", "revoked"},
		"/sessions?app=cli_b2&q=" + asked.OpenID: {"No session matches"},
	} {
		a := v.get(path)
		for _, word := range want {
			if a.status != 200 || !strings.Contains(html.UnescapeString(a.body), word) {
				t.Errorf("%s: %d without %q\n%s", path, a.status, word, a.body)
			}
		}
	}

	// A message lists the users whom it was about, and its lines have no id.
	users, err := telemetry.NewUsers(telemetry.HashUsers, []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{long.OpenID, asked.OpenID, long.OpenID} {
		s.log.Warn("a card was not sent", "app_id", app, users.Log(id))
	}
	for _, path := range []string{"/errors", "/"} {
		body := v.get(path).body
		for _, word := range []string{">Ann Long<", ">ou_only_asked<", users.Show(long.OpenID), users.Show(asked.OpenID), "×2"} {
			if !strings.Contains(body, word) {
				t.Errorf("%s lacks %q\n%s", path, word, body)
			}
		}
	}
}

// A session that is over has no end before it, and nothing is tried again.
func TestOverIsOver(t *testing.T) {
	s := newStage(t, "")
	now := time.Now()
	in := func(d time.Duration) time.Time { return now.Add(d) }
	for name, tc := range map[string]struct {
		s                      session.Session
		access, refresh, retry bool
	}{
		"works":           {session.Session{State: session.Active, ExpiresAt: in(time.Hour), RefreshExpiresAt: in(9 * time.Hour)}, true, true, false},
		"fails":           {session.Session{State: session.Active, RefreshExpiresAt: in(time.Hour), Failures: 1, RetryAt: in(time.Minute)}, false, true, true},
		"failed":          {session.Session{State: session.Active, RefreshExpiresAt: in(time.Hour), Failures: 1, RetryAt: in(-time.Minute)}, false, true, false},
		"lost, served on": {session.Session{State: session.ConsentRequired, ExpiresAt: in(time.Hour), RefreshExpiresAt: in(9 * time.Hour), Failures: 1, RetryAt: in(time.Minute)}, true, false, false},
		"disabled":        {session.Session{State: session.Disabled, ExpiresAt: in(time.Hour), RefreshExpiresAt: in(9 * time.Hour), Failures: 1, RetryAt: in(time.Minute)}, false, false, false},
	} {
		v := s.k.viewSession(english, now, &tc.s)
		if (v.Access.ISO != "") != tc.access || (v.Refresh.ISO != "") != tc.refresh || (v.Retry.ISO != "") != tc.retry {
			t.Errorf("%s: %+v", name, v)
		}
	}

	// A session that lost its access token does not say when that ends.
	s.put(alice, "Alice", nil)
	lease, err := s.store.Leases.Claim(t.Context(), alice, 1, time.Minute)
	if err == nil {
		_, err = s.store.Leases.End(t.Context(), lease, store.Ending{State: session.ConsentRequired, Reason: session.RefreshTokenUsed, DropAccess: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	over := s.ask(alice)
	if _, err := s.store.Consents.Close(t.Context(), over.ID, session.ConsentDone, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/sessions", "/sessions/cli_a1/ou_alice", "/consents"} {
		if a := s.visitor().get(path); a.status != 200 || regexp.MustCompile(`>in \d+ \w+</time>`).MatchString(a.body) {
			t.Errorf("%s tells of a time to come: %d\n%s", path, a.status, a.body)
		}
	}
}

// The overview says once what Lark refuses, since when, and what to do; a session
// that is kept waiting says so instead of naming its next try.
func TestRefusedApp(t *testing.T) {
	s := newStage(t, "")
	for lang, words := range map[string][]string{"en": {"Lark refuses the app", "3 hours ago", "turn the switch on", "code 20014"}, "zh-CN": {"飞书拒绝此应用", "3 小时前", "打开开关", "code 20014"}} {
		body := s.visitor("Accept-Language", lang).get("/").body
		for _, word := range words {
			if strings.Count(body, word) != 1 {
				t.Errorf("%s: %q stands %d times on the overview", lang, word, strings.Count(body, word))
			}
		}
	}
	now := time.Now()
	waits := session.Session{State: session.Active, ExpiresAt: now.Add(-time.Hour), RefreshExpiresAt: now.Add(time.Hour), Failures: 2, RetryAt: now.Add(time.Minute)}
	if got := english.why(&waits, now, true); !strings.Contains(got, "Lark refuses the app") {
		t.Errorf("a session of the app: %q", got)
	}
	works := session.Session{State: session.Active, ExpiresAt: now.Add(time.Hour), RefreshExpiresAt: now.Add(2 * time.Hour)}
	if got := english.why(&works, now, true); !strings.Contains(got, "Works") {
		t.Errorf("one whose access token lives: %q", got)
	}
}

// What starts is not added to what ends, and only lost sessions count as lost.
func TestPlotsAddUp(t *testing.T) {
	one := func(values ...string) (series []telemetry.Series) {
		for _, v := range values {
			steps := make([]int64, bars)
			steps[3] = 1
			series = append(series, telemetry.Series{Value: v, Steps: steps, Total: 1})
		}
		return series
	}
	consents := draw(kinds[2], one("pending", "done", "expired"))
	if consents.Total != 2 || consents.Busiest != 2 || consents.Apart.Name != "started" || consents.Apart.Total != 1 || len(consents.Bars) != 2 {
		t.Errorf("consents: %+v", consents)
	}
	for value, group := range map[string]string{"misconfigured": "later", "stopped": "later", "dead": "lost", "reused": "lost", "rotation_lost": "lost", "not_renewable": "ended", "user_disabled": "ended"} {
		if got := kinds[1].groups[kinds[1].groupOf(value)].name; got != group {
			t.Errorf("%s is counted as %s, want %s", value, got, group)
		}
	}
}

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"张三": "张三", "a\u202eb": "a⟨U+202E⟩b", "\u2066x\u2069": "⟨U+2066⟩x⟨U+2069⟩", "a\nb\x00": "a⟨U+000A⟩b⟨U+0000⟩", "\ufeff": "⟨U+FEFF⟩",
		"👩\u200d🚀": "👩\u200d🚀", "bad\xff": "bad\uFFFD", "\U000e0041": "⟨U+E0041⟩", "<b>": "<b>",
	} {
		if got := visible(in); got != want {
			t.Errorf("visible(%q) = %q, want %q", in, got, want)
		}
	}
	if got := []rune(visible(strings.Repeat("名", 1000))); len(got) != maxVisible+1 {
		t.Errorf("%d characters are shown", len(got))
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "just now", -4 * time.Second: "just now", time.Second: "in a moment", -90 * time.Second: "90 seconds ago", time.Hour + time.Minute: "in 61 minutes", -3 * time.Hour: "3 hours ago",
		50 * time.Hour: "in 2 days", 2 * time.Minute: "in 2 minutes",
	} {
		if got := english.relative(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := chinese.relative(-2 * time.Minute); got != "2 分钟前" {
		t.Errorf("in Chinese: %q", got)
	}
}

func TestDraw(t *testing.T) {
	steps := func(at int, n int64) []int64 {
		s := make([]int64, bars)
		s[at] = n
		return s
	}
	p := draw(kinds[0], []telemetry.Series{
		{Value: "proxied", Steps: steps(59, 30), Total: 30}, {Value: "authorization_required", Steps: steps(59, 10), Total: 10},
		{Value: "path_not_allowed", Steps: steps(0, 1), Total: 1}, {Value: "upstream_timeout", Steps: steps(30, 0), Total: 0},
	})
	if p.Total != 41 || p.Busiest != 40 || p.Top != 40 || len(p.Rows) != 3 || p.Rows[0].Value != "proxied" || p.Rows[0].Five != 30 || p.Rows[2].Five != 0 {
		t.Errorf("%+v", p)
	}
	want := []bar{{0, 98, 8, 2, "dim"}, {590, 25, 8, 75, "ok"}, {590, 0, 8, 25, "ask"}}
	if !slices.Equal(p.Bars, want) {
		t.Errorf("bars %v, want %v", p.Bars, want)
	}
	for n, want := range map[int64]int64{0: 4, 4: 4, 5: 10, 11: 20, 21: 40, 1001: 2000} {
		if n == 1001 {
			want = 2000
		}
		if got := roundUp(n); got != want {
			t.Errorf("roundUp(%d) = %d", n, got)
		}
	}
}

// One goroutine looks for all, only while somebody watches, and tells of each
// change once more than it saw.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state atomic.Value
		var looks atomic.Int64
		state.Store("a")
		l := newLive(func(context.Context) string { looks.Add(1); return state.Load().(string) })
		time.Sleep(time.Hour)
		if looks.Load() != 0 {
			t.Errorf("%d looks with nobody there", looks.Load())
		}
		changed, leave, ok := l.watch()
		if !ok {
			t.Fatal("can't watch")
		}
		told := func(within time.Duration) int {
			n := 0
			end := time.After(within)
			for {
				select {
				case <-changed:
					n++
				case <-end:
					return n
				}
			}
		}
		if n := told(9 * time.Second); n != 0 {
			t.Errorf("told %d times of nothing", n)
		}
		state.Store("b")
		if n := told(5 * time.Second); n != 2 {
			t.Errorf("told %d times of a change", n)
		}
		if n := told(20 * time.Second); n != 2 {
			t.Errorf("told %d times in twenty quiet seconds", n)
		}
		leave()
		synctest.Wait()
		looks.Store(0)
		time.Sleep(time.Hour)
		if looks.Load() != 0 {
			t.Errorf("%d looks after everybody left", looks.Load())
		}
		for range maxStreams {
			if _, _, ok := l.watch(); !ok {
				t.Fatal("too few may watch")
			}
		}
		if _, _, ok := l.watch(); ok {
			t.Error("too many may watch")
		}
		l.close()
		l.close()
		if _, _, ok := l.watch(); ok {
			t.Error("one may watch after the end")
		}
	})
}

// A stream begins with a change, tells of the next, and ends with the console.
func TestEvents(t *testing.T) {
	t.Parallel()
	s := newStage(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(response.Body)
	next := func() bool {
		for lines.Scan() {
			if lines.Text() == "event: change" {
				return true
			}
		}
		return false
	}
	if !next() {
		t.Fatal("no first event")
	}
	s.put(alice, "Alice", nil)
	if !next() {
		t.Fatal("no event after a change")
	}
	s.k.Close()
	for next() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream did not end by itself: %v", err)
	}
	if a := s.visitor().get("/events"); a.status != 503 {
		t.Errorf("a stream after the end: %d", a.status)
	}
}

// A stream ends with the sign-in that it was begun with, and tells of nothing
// that comes after.
func TestEventsEndWithTheSignIn(t *testing.T) {
	t.Parallel()
	s := newStage(t, adminKey)
	v := s.visitor().signIn()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := v.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	s.put(alice, "Alice", nil)
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() && lines.Text() != "event: change" {
	}
	if a := v.post("/", "/logout"); a.status != 303 {
		t.Fatalf("signing out: %d", a.status)
	}
	s.put(alice, "Alice Liddell", nil)
	for lines.Scan() {
		if lines.Text() == "event: change" {
			t.Error("an event after the sign-out")
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream did not end by itself: %v", err)
	}
}

// What bounds one event does not bound the end of the stream, which may come
// much later.
func TestEventsLeaveNoDeadline(t *testing.T) {
	k := newStage(t, "").k
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.events(w, httptest.NewRequestWithContext(ctx, "GET", "/events", nil)); err != nil {
		t.Fatal(err)
	}
	if n := len(w.set); n < 2 || w.set[0].IsZero() || !w.set[n-1].IsZero() {
		t.Errorf("write deadlines %v", w.set)
	}
}

type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error { d.set = append(d.set, t); return nil }

// The colours of the style sheet can be read, light and dark (WCAG 2.2, 1.4.3
// and 1.4.11).
func TestPalette(t *testing.T) {
	css, err := os.ReadFile("assets/style.css")
	if err != nil {
		t.Fatal(err)
	}
	light, dark, _ := strings.Cut(string(css), "prefers-color-scheme: dark")
	for theme, block := range map[string]string{"light": light, "dark": dark[:strings.Index(dark, "}")]} {
		colours := map[string]string{}
		for _, found := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+)`).FindAllStringSubmatch(block, -1) {
			colours[found[1]] = found[2]
		}
		for _, pair := range [][2]string{{"text", "back"}, {"text", "card"}, {"text", "hover"}, {"text", "dim-back"}, {"soft", "back"}, {"soft", "card"}, {"soft", "hover"}, {"soft", "dim-back"},
			{"accent", "back"}, {"accent", "card"}, {"accent", "hover"}, {"on-accent", "accent"}, {"good", "good-back"}, {"warn", "warn-back"}, {"bad", "bad-back"}, {"bad", "card"}, {"bad", "hover"}, {"card", "bad"}, {"good", "card"}, {"warn", "card"}} {
			if c := contrast(colours[pair[0]], colours[pair[1]]); c < 4.5 {
				t.Errorf("%s: %s on %s has %.2f", theme, pair[0], pair[1], c)
			}
		}
		for _, g := range []string{"g-ok", "g-ask", "g-bad", "g-dim"} {
			if c := contrast(colours[g], colours["card"]); c < 3 {
				t.Errorf("%s: %s has %.2f", theme, g, c)
			}
		}
	}
}
