package consent

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"larkside/session"
	"larkside/test/larktest"
)

// Whatever a stranger's browser sends to the consent listener, an open consent
// stays as it is: Lark is not asked to redeem anything, nothing is stored, and
// nobody is sent on but with the ticket.
func FuzzConsentRequest(f *testing.F) {
	w := newWorld(f, nil)
	manager := w.replica(redirect)
	link, err := url.Parse(w.ask(manager, alice).AuthorizeURL)
	if err != nil {
		f.Fatal(err)
	}
	ticket := link.Query().Get("t")
	victim := w.browser(manager)
	state := queryOf(f, victim.open(link.String()), "state")
	cookie := victim.cookies[manager.cookie.name].Value

	f.Add("GET", startPath, "t="+ticket[:len(ticket)-1], "", "en")
	f.Add("GET", startPath, "t="+ticket+"&t="+ticket, "", "en")
	f.Add("GET", startPath, "t=%zz", "", "zh-CN")
	f.Add("POST", startPath, "t="+ticket, "", "ja")
	f.Add("GET", callbackPath, "state="+state+"&code=abc", "", "en")
	f.Add("GET", callbackPath, "state="+state+"&error=access_denied", cookie[1:], "en")
	f.Add("GET", callbackPath, "state="+state+"&error=access_denied&error=x", cookie[:10], "fr;q=0.1,*")
	f.Add("GET", callbackPath, "code=abc&state=", "x", "")
	f.Add("GET", "/consent/../consent/callback", "state="+state+"&code=abc", "x", "")
	f.Add("GET", "/", "", "", "")
	f.Fuzz(func(t *testing.T, method, path, query, browser, language string) {
		if browser == cookie {
			return // that is no stranger
		}
		r := httptest.NewRequest(http.MethodGet, public+"/", nil)
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		r.Header.Set("Cookie", manager.cookie.name+"="+browser)
		r.Header.Set("Accept-Language", language)
		rec := httptest.NewRecorder()
		manager.Handler().ServeHTTP(rec, r)
		switch {
		case rec.Code == http.StatusFound && path == startPath && strings.Contains(query, ticket):
		case rec.Code == http.StatusNoContent, rec.Code >= 400:
		default:
			t.Errorf("answered %d", rec.Code)
		}
		if p, err := w.Store.Consents.Latest(t.Context(), alice); err != nil || p.State != session.ConsentPending {
			t.Fatalf("the consent is %+v: %v", p, err)
		}
		if n := w.TokenCalls(); n != 0 {
			t.Fatalf("%d calls to the token endpoint", n)
		}
	})
	if calls := w.Lark.Calls(larktest.To(larktest.UserInfo)); len(calls) != 0 {
		f.Errorf("user_info was asked %d times", len(calls))
	}
}

func queryOf(t testing.TB, link, name string) string {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil || u.Query().Get(name) == "" {
		t.Fatalf("no %s in %q: %v", name, link, err)
	}
	return u.Query().Get(name)
}
