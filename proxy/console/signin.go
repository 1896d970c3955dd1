package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"larkside/proxy/edge"
	"larkside/session"
)

const (
	// signInCookie holds the ticket of a sign-in, formCookie a random value by
	// which forms know the browser that they were sent to.
	signInCookie = "larkside_console"
	formCookie   = "larkside_form"
	// signInLife is how long a sign-in lasts.
	signInLife = 12 * time.Hour
	// maxSignIns is how many there may be; each was made with the key.
	maxSignIns = 1024
)

// signIns are the sign-ins of this process, by the hash of their tickets. A
// ticket is a random number: it says nothing about the admin key, and no other
// replica knows it.
type signIns struct {
	// name is the ticket's cookie. It differs from process to process, since
	// browsers have one jar for all ports of a host.
	name string
	// all are the sign-ins; the one that was used the longest ago makes room.
	all *lru.Cache[string, signIn]
	// formKey signs the tokens of forms.
	formKey []byte
}

type signIn struct {
	key     session.Secret // the admin key that it was made with
	expires time.Time
	// peer is the only one who may use the ticket; "": everybody who has it.
	peer string
}

func newSignIns() *signIns {
	all, _ := lru.New[string, signIn](maxSignIns) // it only fails without a size
	formKey := make([]byte, 32)
	rand.Read(formKey) // never fails
	return &signIns{signInCookie + "_" + random()[:8], all, formKey}
}

// begin remembers a sign-in, and returns its ticket. A cookie that was sent over
// plain http reaches every port of the host, so such a ticket is good for the
// same peer only. Over https it stays with whoever has the host's certificate,
// and the peer is one of several proxies.
func (s *signIns) begin(r *http.Request, key session.Secret, now time.Time) (ticket string) {
	ticket = random()
	made := signIn{key: key, expires: now.Add(signInLife)}
	if !secure(r) {
		made.peer = edge.Peer(r)
	}
	s.all.Add(session.Hash(ticket), made)
	return ticket
}

// good reports whether r has the ticket of a sign-in with key that has not ended.
func (s *signIns) good(r *http.Request, key session.Secret, now time.Time) bool {
	made, ok := s.all.Get(session.Hash(cookie(r, s.name)))
	return ok && now.Before(made.expires) && made.key.Equal(key) && (made.peer == "" || made.peer == edge.Peer(r))
}

// end forgets the sign-in whose ticket r has.
func (s *signIns) end(r *http.Request) { s.all.Remove(session.Hash(cookie(r, s.name))) }

func random() string {
	b := make([]byte, 18)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// secure reports whether the browser came over https. A client that lies about
// X-Forwarded-Proto only loses its own cookies.
func secure(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}

// cookieName is the full name of a cookie. With the prefix a browser takes it
// over https only, and from no other host of the domain (RFC 6265bis section
// 4.1.3.2). Over plain http it takes no cookie that has the prefix.
func cookieName(r *http.Request, name string) string {
	if secure(r) {
		return "__Host-" + name
	}
	return name
}

func cookie(r *http.Request, name string) string {
	c, err := r.Cookie(cookieName(r, name))
	if err != nil {
		return ""
	}
	return c.Value
}

// admitted reports whether r may look.
func (k *Console) admitted(r *http.Request) bool { return k.refusal(r) == nil }

// refusal says why r may not look, nil if it may.
func (k *Console) refusal(r *http.Request) error {
	key := k.Key.Secret()
	if key.Empty() || k.signIns.good(r, key, k.now()) {
		return nil
	}
	if sent, ok := edge.Bearer(r); ok {
		return k.checkKey(r, sent)
	}
	return edge.AdminUnauthenticated
}

// checkKey refuses every key, even the right one, from a peer that has sent
// too many wrong ones: a person can wait.
func (k *Console) checkKey(r *http.Request, sent string) error {
	if wait := k.Key.Wait(r); wait > 0 {
		return &edge.Answer{Failure: edge.AdminRateLimited, RetryAfter: wait}
	}
	return k.Key.Check(r, sent)
}

// signedIn lets do answer who may look, and shows the others the sign-in.
func (k *Console) signedIn(do action) action {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := k.refusal(r)
		if err == nil {
			return do(w, r)
		}
		next := "/"
		if r.Method == http.MethodGet {
			next = r.URL.RequestURI()
		}
		k.refuse(w, r, err, next, "")
		return nil
	}
}

// refuse shows the sign-in with err, the refusal of a key, and with the problem
// unless there were too many of them.
func (k *Console) refuse(w http.ResponseWriter, r *http.Request, err error, next, problem string) {
	a := edge.For(err)
	if a.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(a.RetryAfter/time.Second)+1))
		problem = "login.too_many"
	}
	a.SetHeader(w.Header())
	k.showLogin(w, r, a.Status, next, problem)
}

// setCookie sets one that no script and no other site gets.
func setCookie(w http.ResponseWriter, r *http.Request, name, value string, life time.Duration) {
	c := &http.Cookie{
		Name: cookieName(r, name), Value: value, Path: "/", MaxAge: int(life / time.Second), HttpOnly: true,
		SameSite: http.SameSiteStrictMode, Secure: secure(r),
	}
	if life <= 0 {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// formToken is what every form carries: a signature over the browser's own
// cookies, which no other site can read. It sets the browser's cookie when there
// is none yet.
func (k *Console) formToken(w http.ResponseWriter, r *http.Request) string {
	browser := cookie(r, formCookie)
	if browser == "" {
		browser = random()
		setCookie(w, r, formCookie, browser, 365*24*time.Hour)
	}
	return k.tokenFor(browser, cookie(r, k.signIns.name))
}

func (k *Console) tokenFor(browser, ticket string) string {
	mac := hmac.New(sha256.New, k.signIns.formKey)
	mac.Write([]byte(browser + " " + ticket))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// checkForm refuses a form that does not come from one of our pages. A request
// that carries the key itself was made by no web page.
func (k *Console) checkForm(r *http.Request) error {
	if edge.CrossSite(r) {
		return errForm
	}
	if err := r.ParseForm(); err != nil {
		return errBadInput
	}
	if sent, ok := edge.Bearer(r); ok && !k.Key.Secret().Empty() && k.checkKey(r, sent) == nil {
		return nil
	}
	browser := cookie(r, formCookie)
	want := k.tokenFor(browser, cookie(r, k.signIns.name))
	if browser == "" || !hmac.Equal([]byte(r.PostForm.Get("form")), []byte(want)) {
		return errForm
	}
	return nil
}

type loginBody struct{ Next, Problem string }

func (k *Console) showLogin(w http.ResponseWriter, r *http.Request, status int, next, problem string) {
	k.show(w, r, status, page{Name: "login", Title: "login.title", Plain: true, Body: loginBody{local(next), problem}})
}

func (k *Console) loginForm(w http.ResponseWriter, r *http.Request) error {
	if k.admitted(r) {
		http.Redirect(w, r, local(r.URL.Query().Get("next")), http.StatusSeeOther)
		return nil
	}
	k.showLogin(w, r, http.StatusOK, r.URL.Query().Get("next"), "")
	return nil
}

func (k *Console) login(w http.ResponseWriter, r *http.Request) error {
	key, next := k.Key.Secret(), r.PostForm.Get("next")
	if key.Empty() {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	}
	if err := k.checkKey(r, r.PostForm.Get("key")); err != nil {
		k.refuse(w, r, err, next, "login.wrong")
		return nil
	}
	setCookie(w, r, k.signIns.name, k.signIns.begin(r, key, k.now()), signInLife)
	http.Redirect(w, r, local(next), http.StatusSeeOther)
	return nil
}

func (k *Console) logout(w http.ResponseWriter, r *http.Request) error {
	k.signIns.end(r)
	setCookie(w, r, k.signIns.name, "", 0)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

// local returns the path and query of next if it is one of ours and not the
// sign-in, else "/".
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || strings.ContainsAny(next, "\\\r\n\t") || u.Path == "/login" {
		return "/"
	}
	return here(u)
}

// here returns the path and query of u, or "/" if a browser could take them for
// an address elsewhere.
func here(u *url.URL) string {
	path := (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).String()
	if !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.ContainsAny(path, "\\\r\n\t") {
		return "/"
	}
	return path
}
