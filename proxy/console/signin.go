package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

const (
	// signInCookie holds the expiry of a sign-in and its signature, formCookie a
	// random value by which forms know the browser that they were sent to.
	signInCookie = "larkside_console"
	formCookie   = "larkside_form"
	// signInLife is how long a sign-in lasts.
	signInLife = 12 * time.Hour
)

// derive makes a key for one purpose out of the admin key.
func derive(key session.Secret, purpose string) []byte {
	return key.Derive("larkside console " + purpose)
}

func sign(key []byte, text string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// newTicket is the value of a sign-in's cookie: expiry, a random number,
// signature.
func newTicket(key session.Secret, expires time.Time) string {
	text := strconv.FormatInt(expires.Unix(), 10) + "." + random()
	return text + "." + sign(derive(key, "sign-in"), text)
}

func random() string {
	b := make([]byte, 18)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// goodTicket reports whether ticket was made with key and has not expired.
func goodTicket(key session.Secret, ticket string, now time.Time) bool {
	i := strings.LastIndexByte(ticket, '.')
	if i < 0 || !hmac.Equal([]byte(ticket[i+1:]), []byte(sign(derive(key, "sign-in"), ticket[:i]))) {
		return false
	}
	expires, _, _ := strings.Cut(ticket, ".")
	unix, err := strconv.ParseInt(expires, 10, 64)
	return err == nil && now.Before(time.Unix(unix, 0))
}

func cookie(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// bearer returns the key that r carries itself.
func bearer(r *http.Request) (sent string, ok bool) {
	scheme, sent, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return sent, strings.EqualFold(scheme, "Bearer")
}

// admitted reports whether r may look.
func (k *Console) admitted(r *http.Request) bool {
	key := k.Key()
	return key.Empty() || goodTicket(key, cookie(r, signInCookie), k.now()) || k.bearsKey(r, key)
}

func (k *Console) bearsKey(r *http.Request, key session.Secret) bool {
	sent, ok := bearer(r)
	return ok && k.wait(r) == 0 && k.right(r, key, sent)
}

// right compares what r sent with the key, in constant time, and counts what is
// wrong. [Console.wait] has to be asked first.
func (k *Console) right(r *http.Request, key session.Secret, sent string) bool {
	if key.Equal(session.NewSecret(strings.TrimSpace(sent))) {
		return true
	}
	if k.guesses.wrong(r.RemoteAddr, k.now()) {
		k.Log.WarnContext(r.Context(), "wrong admin keys on the console's sign-in; the address has to wait between further tries", "address", r.RemoteAddr)
	}
	return false
}

// wait is how long r's address has to wait before a key from it is looked at.
func (k *Console) wait(r *http.Request) time.Duration { return k.guesses.wait(r.RemoteAddr, k.now()) }

// signedIn lets do answer who may look, and shows the others the sign-in.
func (k *Console) signedIn(do action) action {
	return func(w http.ResponseWriter, r *http.Request) error {
		_, bears := bearer(r)
		unseen := bears && k.wait(r) > 0
		if k.admitted(r) {
			return do(w, r)
		}
		next := "/"
		if r.Method == http.MethodGet {
			next = r.URL.RequestURI()
		}
		if unseen {
			k.tooMany(w, r, next)
			return nil
		}
		edge.AdminUnauthenticated.SetHeader(w.Header())
		k.showLogin(w, r, http.StatusUnauthorized, next, "")
		return nil
	}
}

// setCookie sets one that no script and no other site gets.
func setCookie(w http.ResponseWriter, r *http.Request, name, value string, life time.Duration) {
	c := &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second), HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// Who lies about X-Forwarded-Proto only loses the cookie.
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
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
	return k.tokenFor(browser, cookie(r, signInCookie))
}

func (k *Console) tokenFor(browser, ticket string) string {
	return sign(derive(k.Key(), "form"), browser+" "+ticket)
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
	if key := k.Key(); !key.Empty() && k.bearsKey(r, key) {
		return nil
	}
	browser := cookie(r, formCookie)
	want := k.tokenFor(browser, cookie(r, signInCookie))
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

// tooMany refuses a key unseen, because too many wrong ones came from r's
// address.
func (k *Console) tooMany(w http.ResponseWriter, r *http.Request, next string) {
	w.Header().Set("Retry-After", strconv.Itoa(int(k.wait(r)/time.Second)+1))
	k.showLogin(w, r, http.StatusTooManyRequests, next, "login.too_many")
}

func (k *Console) login(w http.ResponseWriter, r *http.Request) error {
	key, next := k.Key(), r.PostForm.Get("next")
	if key.Empty() {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	}
	if k.wait(r) > 0 {
		k.tooMany(w, r, next)
		return nil
	}
	if !k.right(r, key, r.PostForm.Get("key")) {
		k.showLogin(w, r, http.StatusUnauthorized, next, "login.wrong")
		return nil
	}
	setCookie(w, r, signInCookie, newTicket(key, k.now().Add(signInLife)), signInLife)
	http.Redirect(w, r, local(next), http.StatusSeeOther)
	return nil
}

func (k *Console) logout(w http.ResponseWriter, r *http.Request) error {
	setCookie(w, r, signInCookie, "", 0)
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

const (
	// freeGuesses wrong keys may come from one address before it has to wait
	// guessEvery for each further one.
	freeGuesses = 5
	guessEvery  = 10 * time.Second
	// guessers bounds how many addresses are remembered.
	guessers = 4096
)

// guesses counts wrong keys by address: a bucket that leaks. Who shares an
// address, such as all behind one port-forward, shares the bucket, and while it
// is full the right key is refused too: to look at it would be to answer a
// guess.
type guesses struct {
	mu sync.Mutex
	// until is, by address, when its last wrong key is forgotten: each adds
	// guessEvery.
	until map[string]time.Time
}

// from is the address without the port; of IPv6 the network that one customer
// has.
func from(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// wait is how long remote has to, before it may try again.
func (g *guesses) wait(remote string, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, g.until[from(remote)].Add(-(freeGuesses-1)*guessEvery).Sub(now))
}

// wrong notes a wrong key and reports whether remote has to wait from now on.
func (g *guesses) wrong(remote string, now time.Time) (waits bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.until == nil {
		g.until = make(map[string]time.Time)
	}
	address := from(remote)
	at, known := g.until[address]
	if !known && len(g.until) >= guessers {
		g.makeRoom(now)
	}
	if at.Before(now) {
		at = now
	}
	g.until[address] = at.Add(guessEvery)
	return at.Sub(now) >= (freeGuesses-1)*guessEvery
}

// makeRoom forgets every address whose time is over, or else the one whose time
// is over first. g.mu is held.
func (g *guesses) makeRoom(now time.Time) {
	first := ""
	for address, until := range g.until {
		if !until.After(now) {
			delete(g.until, address)
		}
		if first == "" || until.Before(g.until[first]) {
			first = address
		}
	}
	if len(g.until) >= guessers {
		delete(g.until, first)
	}
}
