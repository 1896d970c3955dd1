package consent

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// atCallback is a redirect flow as far as Lark's consent: back is the callback
// with a good code and state.
func (w *world) atCallback(openID string) (f *Manager, b *browser, link, back string) {
	w.T.Helper()
	f = w.replica(redirect)
	link = w.ask(f, alice).AuthorizeURL
	b = w.browser(f)
	return f, b, link, b.consent(b.open(link), openID)
}

func with(t *testing.T, link, name, value string) string {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	if value == "" {
		q.Del(name)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func TestRedirectWrongAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, link, back := w.atCallback(larktest.Bob)
		wantPage(t, b.get(back), http.StatusForbidden, texts.wrongAccount)
		synctest.Wait()
		w.noSession(alice)
		w.noSession(bob)
		w.allRevoked(larktest.Bob)
		w.AwaitCard(alice.OpenID, texts.wrongAccount.title.en)
		wantPage(t, b.get(back), http.StatusForbidden, texts.wrongAccount)
		wantPage(t, b.get(link), http.StatusGone, texts.failed)
		if c := w.ask(f, alice); c.Card != session.CardSent || c.AuthorizeURL == link {
			t.Errorf("the next call: %+v", c)
		}
	})
}

func TestRedirectDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(redirect)
		link := w.ask(f, alice).AuthorizeURL
		b := w.browser(f)
		back, err := w.Lark.Refuse(b.open(link), larktest.Alice)
		if err != nil {
			t.Fatal(err)
		}
		wantPage(t, w.browser(f).get(back), http.StatusBadRequest, texts.otherBrowser)
		wantPage(t, b.get(back), http.StatusOK, texts.declined)
		wantPage(t, b.get(back), http.StatusOK, texts.declined)
		w.AwaitCard(alice.OpenID, texts.declined.title.en)
		if p := w.latest(alice); p.State != session.ConsentDeclined {
			t.Errorf("consent is %s", p.State)
		}
		w.noSession(alice)
	})
}

// Each way in which a callback may be wrong: its page, nothing stored, Lark not
// asked, and the consent as good as before.
func TestRedirectGuards(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, back string) string
		status int
		text   message
	}{
		"forged state":     {func(t *testing.T, back string) string { return with(t, back, "state", newSecret().Expose()) }, 400, texts.malformed},
		"truncated state":  {func(t *testing.T, back string) string { return with(t, back, "state", "abc") }, 400, texts.malformed},
		"no state":         {func(t *testing.T, back string) string { return with(t, back, "state", "") }, 400, texts.malformed},
		"state twice":      {func(_ *testing.T, back string) string { return back + "&state=x" }, 400, texts.malformed},
		"no code":          {func(t *testing.T, back string) string { return with(t, back, "code", "") }, 400, texts.malformed},
		"code twice":       {func(_ *testing.T, back string) string { return back + "&code=x" }, 400, texts.malformed},
		"code with markup": {func(t *testing.T, back string) string { return with(t, back, "code", "<b>x</b>") }, 400, texts.malformed},
		"enormous code":    {func(t *testing.T, back string) string { return with(t, back, "code", strings.Repeat("a", 5000)) }, 400, texts.malformed},
		"broken query":     {func(_ *testing.T, back string) string { return back + "&x=%zz" }, 400, texts.malformed},
		"undocumented error": {func(t *testing.T, back string) string {
			return with(t, with(t, back, "code", ""), "error", "server_error")
		}, 502, texts.larkFailed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				_, b, _, back := w.atCallback(larktest.Alice)
				wantPage(t, b.get(c.change(t, back)), c.status, c.text)
				if n := w.TokenCalls(); n != 0 {
					t.Errorf("Lark was asked %d times", n)
				}
				w.noSession(alice)
				wantPage(t, b.get(back), http.StatusOK, texts.done)
			})
		})
	}
}

// The browser that comes back is not the one that started: an attacker's link,
// or a victim's. Nothing happens, and the right browser can go on.
func TestRedirectOtherBrowser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, _, back := w.atCallback(larktest.Alice)
		other := w.browser(f)
		wantPage(t, other.get(back), http.StatusBadRequest, texts.otherBrowser)
		other.cookies["x"] = &http.Cookie{Name: "__Host-larkside", Value: newSecret().Expose()}
		wantPage(t, other.get(back), http.StatusBadRequest, texts.otherBrowser)
		if w.TokenCalls() != 0 {
			t.Error("Lark was asked")
		}
		wantPage(t, b.get(back), http.StatusOK, texts.done)
	})
}

// While the user stands on Lark's page the link is fetched again: by a mail
// scanner, a preview, a second tab, a phone. The approval still counts, whichever
// browser it comes from.
func TestRedirectLinkOpenedAgain(t *testing.T) {
	for _, first := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			f, b, link, back := w.atCallback(larktest.Alice)
			b.open(link)
			for range 20 {
				w.browser(f).open(link)
			}
			phone := w.browser(f)
			phoneBack := phone.consent(phone.open(link), larktest.Alice)
			if !first {
				b, back, phone, phoneBack = phone, phoneBack, b, back
			}
			wantPage(t, b.get(back), http.StatusOK, texts.done)
			wantPage(t, phone.get(phoneBack), http.StatusOK, texts.done)
			if n := w.TokenCalls(); n != 1 {
				t.Errorf("the token endpoint was asked %d times", n)
			}
		})
	}
}

// What one browser got is of no use in another, which opened the link too, and
// a link's ticket is needed to make a state at all.
func TestRedirectBrowsersAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, link, back := w.atCallback(larktest.Alice)
		other := w.browser(f)
		otherPage := other.open(link)
		wantPage(t, other.get(back), http.StatusBadRequest, texts.otherBrowser)

		// The code of one browser's page with the state of the other.
		mixed := with(t, other.consent(otherPage, larktest.Alice), "code", queryOf(t, back, "code"))
		wantPage(t, other.get(mixed), http.StatusGone, texts.malformed)

		p := w.latest(alice)
		cookie := session.NewSecret(other.cookies[f.cookie.name].Value)
		guess := *p
		guess.TicketHash = ""
		wantPage(t, other.get(with(t, back, "state", stateOf(cookie, &guess))), http.StatusBadRequest, texts.otherBrowser)
		w.noSession(alice)
		wantPage(t, b.get(with(t, b.consent(b.open(link), larktest.Alice), "x", "y")), http.StatusOK, texts.done)
	})
}

// Link previews look at links; nobody has clicked then.
func TestRedirectPreviewsAreHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, link, back := w.atCallback(larktest.Alice)
		bot := w.browser(f)
		for _, target := range []string{link, back} {
			if resp := bot.do(http.MethodHead, target); resp.StatusCode != http.StatusNoContent || len(resp.Cookies()) != 0 {
				t.Errorf("HEAD: %s, %v", resp.Status, resp.Cookies())
			}
		}
		if resp := bot.do(http.MethodPost, link); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") == "" {
			t.Errorf("POST: %s", resp.Status)
		}
		bot.prefetch = true
		bot.get(link)
		wantPage(t, b.get(back), http.StatusOK, texts.done)
	})
}

// Two callbacks at the same moment: the code is redeemed once, both see "done".
func TestRedirectDoubleCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, b, _, back := w.atCallback(larktest.Alice)
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true})
		var gone sync.WaitGroup
		for range 2 {
			gone.Go(func() { wantPage(t, b.clone().get(back), http.StatusOK, texts.done) })
		}
		w.AwaitHit(slow)
		synctest.Wait()
		slow.Release()
		gone.Wait()
		if n := w.TokenCalls(); n != 1 {
			t.Errorf("the code was sent %d times", n)
		}
	})
}

// The first of two callbacks fails: the other does not wait for ever.
func TestRedirectDoubleCallbackFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, b, _, back := w.atCallback(larktest.Alice)
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20003, Hang: true})
		var gone sync.WaitGroup
		gone.Go(func() { wantPage(t, b.clone().get(back), http.StatusGone, texts.malformed) })
		w.AwaitHit(held)
		began := time.Now()
		gone.Go(func() {
			wantPage(t, b.clone().get(back), http.StatusBadGateway, texts.larkFailed)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the second waited for %s", took)
			}
		})
		synctest.Wait()
		held.Release()
		gone.Wait()
	})
}

func TestRedirectExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, link, back := w.atCallback(larktest.Alice)
		time.Sleep(10 * time.Minute)
		wantPage(t, b.get(back), http.StatusGone, texts.expired)
		wantPage(t, w.browser(f).get(link), http.StatusGone, texts.expired)
		if w.TokenCalls() != 0 {
			t.Error("Lark was asked")
		}
		w.noSession(alice)
		w.AwaitCard(alice.OpenID, texts.expired.title.en)
	})
}

func TestRedirectSuperseded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, link, back := w.atCallback(larktest.Alice)
		wider := w.ask(f, alice, "im:message").AuthorizeURL
		wantPage(t, b.get(back), http.StatusGone, texts.superseded)
		wantPage(t, b.get(link), http.StatusGone, texts.superseded)
		w.noSession(alice)
		if w.TokenCalls() != 0 {
			t.Error("Lark was asked")
		}
		wantPage(t, b.get(b.consent(b.open(wider), larktest.Alice)), http.StatusOK, texts.done)
	})
}

// Superseded while the code is being redeemed: what comes of it is revoked.
func TestRedirectSupersededMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, _, back := w.atCallback(larktest.Alice)
		held := w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Hang: true})
		page := make(chan struct{})
		go func() {
			wantPage(t, b.get(back), http.StatusGone, texts.superseded)
			close(page)
		}()
		w.AwaitHit(held)
		w.ask(f, alice, "im:message")
		held.Release()
		<-page
		synctest.Wait()
		w.noSession(alice)
		w.allRevoked(larktest.Alice)
	})
}

// A code that Lark does not take, or the like, leaves the link as good as
// before.
func TestRedirectExchangeFails(t *testing.T) {
	for name, c := range map[string]struct {
		fault  larktest.Fault
		status int
		text   message
	}{
		"refused code": {larktest.Fault{Code: 20003}, 410, texts.malformed},
		"PKCE":         {larktest.Fault{Code: 20049}, 410, texts.malformed},
		"app disabled": {larktest.Fault{Code: 20069}, 502, texts.larkFailed},
		"Lark is down": {larktest.Fault{Drop: true, Times: 3}, 502, texts.larkFailed},
		"not JSON":     {larktest.Fault{Status: 502, Body: "<html>bad gateway</html>", Times: 3}, 502, texts.larkFailed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				_, b, link, back := w.atCallback(larktest.Alice)
				c.fault.Endpoint = larktest.TokenEndpoint
				w.Lark.Fault(c.fault)
				wantPage(t, b.get(back), c.status, c.text)
				w.noSession(alice)
				w.Lark.ClearFaults()
				wantPage(t, b.get(b.consent(b.open(link), larktest.Alice)), http.StatusOK, texts.done)
			})
		})
	}
}

// Lark is away for a moment while the browser waits.
func TestRedirectExchangeRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, b, _, back := w.atCallback(larktest.Alice)
		w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20072})
		wantPage(t, b.get(back), http.StatusOK, texts.done)
	})
}

// Somebody else's valid code, slipped into a callback, is refused by PKCE.
func TestRedirectInjectedCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f, b, _, back := w.atCallback(larktest.Alice)
		other := w.browser(f)
		injected, err := url.Parse(other.consent(other.open(w.ask(f, bob).AuthorizeURL), larktest.Alice))
		if err != nil {
			t.Fatal(err)
		}
		wantPage(t, b.get(with(t, back, "code", injected.Query().Get("code"))), http.StatusGone, texts.malformed)
		w.noSession(alice)
		w.noSession(bob)
	})
}

// A browser that leaves does not stop what it began.
func TestRedirectBrowserLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, b, _, back := w.atCallback(larktest.Alice)
		slow := w.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true})
		leave := b.leavable()
		left := make(chan struct{})
		go func() { b.get(back); close(left) }()
		w.AwaitHit(slow)
		leave()
		<-left
		slow.Release()
		w.awaitState(alice, session.ConsentDone)
	})
}

// The consent listener may share a host with others, below a path. An ingress
// passes that on or takes it away.
func TestPublicURLWithPath(t *testing.T) {
	const base = public + "/lark/sidecar"
	for name, received := range map[string]string{"passed on": base, "taken away": public} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(c *larktest.Config) { c.Apps[0].RedirectURIs = []string{base + callbackPath} })
				f := w.replica(func(c *Config) { c.PublicURL = base })
				link := w.ask(f, alice).AuthorizeURL
				b := w.browser(f)
				through := func(url string) string {
					if !strings.HasPrefix(url, base+"/consent/") {
						t.Errorf("%s is not below the public URL", url)
					}
					return received + strings.TrimPrefix(url, base)
				}
				back := b.consent(b.open(through(link)), larktest.Alice)
				wantPage(t, b.get(through(back)), http.StatusOK, texts.done)
				if c := b.cookies["__Host-larkside"]; c == nil || c.Path != "/" {
					t.Errorf("cookie %v", c) // the prefix __Host- wants this path
				}
				w.awaitState(alice, session.ConsentDone)
				for _, path := range []string{"/lark/consent/start", "/lark/sidecar", "/lark/sidecarx/consent/start", "/lark/sidecar/lark/sidecar/consent/start", "/lark/sidecar/"} {
					if got := b.get(public + path); got.StatusCode != http.StatusNotFound {
						t.Errorf("%s: %d", path, got.StatusCode)
					}
				}
			})
		})
	}
}

func TestCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(redirect)
		resp := w.browser(f).get(w.ask(f, alice).AuthorizeURL)
		c := resp.Cookies()[0]
		if c.Name != "__Host-larkside" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || len(c.Value) != 43 {
			t.Errorf("cookie: %s", resp.Header.Get("Set-Cookie"))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(func(c *Config) { c.PublicURL = "http://127.0.0.1:8082" })
		resp := w.browser(f).get(w.ask(f, alice).AuthorizeURL)
		if c := resp.Cookies()[0]; c.Name != "larkside" || c.Secure || !c.HttpOnly {
			t.Errorf("cookie on plain http: %s", resp.Header.Get("Set-Cookie"))
		}
	})
}

// Nothing of a request comes back in a page, and no secret gets into the log.
func TestNothingReflected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, b, link, back := w.atCallback(larktest.Alice)
		const canary = "canary0123"
		for _, target := range []string{
			public + "/" + canary, public + startPath + "?t=" + canary, public + callbackPath + "?state=" + canary,
			with(t, back, "state", newSecret().Expose()[:33]+canary), back + "&error_description=" + canary, link + canary,
			with(t, with(t, back, "code", ""), "error", canary), back + "&error=" + canary + "&error=x",
		} {
			resp := b.get(target)
			body, _ := io.ReadAll(resp.Body)
			if strings.Contains(string(body), canary) {
				t.Errorf("%s comes back in page %d", canary, resp.StatusCode)
			}
		}
		q, _ := url.Parse(back)
		ticket, _ := url.Parse(link)
		for name, secret := range map[string]string{
			"code": q.Query().Get("code"), "state": q.Query().Get("state"), "ticket": ticket.Query().Get("t"),
			"cookie": b.cookies["__Host-larkside"].Value,
		} {
			if secret == "" || strings.Contains(w.Log.String(), secret) {
				t.Errorf("%s %q is in the log", name, secret)
			}
		}
	})
}

func TestStartGuards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.replica(redirect)
		b := w.browser(f)
		link := w.ask(f, alice).AuthorizeURL
		for name, target := range map[string]string{
			"no ticket": public + startPath, "unknown ticket": public + startPath + "?t=" + newSecret().Expose(),
			"truncated": link[:len(link)-1], "twice": link + "&t=x", "empty": public + startPath + "?t=",
		} {
			resp := b.get(target)
			if len(resp.Cookies()) != 0 {
				t.Errorf("%s: a cookie is set", name)
			}
			wantPage(t, resp, http.StatusBadRequest, texts.malformed)
		}
		wantPage(t, b.get(public+"/consent/events"), http.StatusNotFound, texts.notFound)
		wantPage(t, b.get(public+"/"), http.StatusNotFound, texts.notFound)
	})
}

// While the database is away, browsers are told to come back.
func TestRedirectStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, b, link, back := w.atCallback(larktest.Alice)
		w.Store.Close()
		for _, target := range []string{link, back} {
			resp := b.get(target)
			if resp.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			wantPage(t, resp, http.StatusServiceUnavailable, texts.unavailable)
		}
	})
}

// The link is opened at one replica, and two more get the callback at once.
func TestRedirectOverReplicas(t *testing.T) {
	db := dbtest.Postgres(t)
	w := newWorldOn(t, db, nil)
	replica := func() *Manager {
		replica := db.Open(t, nil)
		return w.replica(func(c *Config) { redirect(c); c.use(replica) })
	}
	b := w.browser(replica())
	back := b.consent(b.open(w.ask(replica(), alice).AuthorizeURL), larktest.Alice)
	var gone sync.WaitGroup
	for range 4 {
		one := b.clone()
		one.handler = replica().Handler()
		gone.Go(func() { wantPage(t, one.get(back), http.StatusOK, texts.done) })
	}
	gone.Wait()
	if n := w.TokenCalls(); n != 1 {
		t.Errorf("the code was sent %d times", n)
	}
	if _, err := w.Store.Sessions.Load(t.Context(), alice); err != nil {
		t.Error(err)
	}
}
