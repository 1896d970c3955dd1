package consent

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"larkside/session"
)

const (
	startPath    = "/consent/start"
	callbackPath = "/consent/callback"
	// secretLength is that of newSecret's values and of states.
	secretLength = 43
	// cookieLife outlives a consent, so that a page that is loaded again says
	// again what became of it.
	cookieLife = time.Hour
	// endPoll is for the end that wakes no watcher: giving up.
	endPoll = 500 * time.Millisecond
)

// cookieKind is how the browser that started is recognised. With https it is a
// __Host- cookie, which no other host, path or plain connection can set; plain
// http, on loopback only, can have neither that prefix nor Secure.
type cookieKind struct {
	name   string
	secure bool
}

func cookieFor(publicURL string) cookieKind {
	if strings.HasPrefix(publicURL, "http://") {
		return cookieKind{"larkside", false}
	}
	return cookieKind{"__Host-larkside", true}
}

// Handler serves what users' browsers reach of the redirect flow:
// /consent/start, the link of the card, and /consent/callback, to which Lark
// sends them back; and /consent/events, if there are keys to verify what Lark
// posts to it. All else is 404. It needs no other protection than TLS in
// front of it.
func (f *Flow) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.pages.secure(w.Header())
		switch {
		case f.isEvents(r):
			f.serveEvent(w, r)
		case r.URL.Path != startPath && r.URL.Path != callbackPath:
			f.pages.show(w, r, notFoundPage)
		case r.Method == http.MethodHead, isPrefetch(r):
			w.WriteHeader(http.StatusNoContent) // a link preview: nothing happens
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", "GET, HEAD")
			f.pages.show(w, r, methodPage)
		case r.URL.Path == startPath:
			f.serveStart(w, r)
		default:
			f.pages.show(w, r, f.callback(r))
		}
	})
}

// isPrefetch recognises a browser that loads a page nobody has asked for yet.
func isPrefetch(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Sec-Purpose"), "prefetch") || r.Header.Get("Purpose") == "prefetch" ||
		r.Header.Get("X-Moz") == "prefetch"
}

// serveStart sends a browser that comes with a ticket on to Lark. The ticket is
// not used up by that: link previews fetch links too. What counts once is the
// callback.
func (f *Flow) serveStart(w http.ResponseWriter, r *http.Request) {
	p, refused := f.startable(r)
	if p == nil {
		f.pages.show(w, r, refused)
		return
	}
	cookie := f.browserSecret(r)
	state := stateOf(cookie, p)
	browser, verifier := session.Hash(cookie.Expose()), p.Secret
	if p.BrowserHash != browser || verifier.Empty() {
		verifier = newSecret()
	}
	// One browser that opens the link twice gets the same state and verifier, so
	// that both tabs work; another takes over.
	err := f.consents.SetBrowser(r.Context(), p, session.Hash(state), browser, verifier)
	switch {
	case errors.Is(err, session.ErrConflict):
		f.pages.show(w, r, replayedPage)
		return
	case err != nil:
		f.grumble(r.Context(), "can't bind a consent to a browser", p.Key, err)
		f.pages.show(w, r, unavailablePage)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: f.cookie.name, Value: cookie.Expose(), Path: "/", MaxAge: int(cookieLife.Seconds()),
		Secure: f.cookie.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	to := f.apps[p.AppID].AuthorizeURL(f.publicURL+callbackPath, state, challengeOf(verifier), parseScopes(p.Scopes))
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusFound)
}

// startable returns the open consent whose ticket r has, or nil and what to
// show instead.
func (f *Flow) startable(r *http.Request) (*session.Consent, page) {
	ticket, ok := param(r, "t")
	if !ok || !isSecret(ticket) {
		return nil, malformedPage
	}
	p, err := f.consents.ByTicket(r.Context(), ticket)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return nil, malformedPage
	case err != nil:
		f.grumble(r.Context(), "can't look up a consent", session.Key{}, err)
		return nil, unavailablePage
	case p.State != session.ConsentPending:
		return nil, overPage(p)
	case p.Left <= 0:
		f.expireLogged(r.Context(), p)
		return nil, replayedPage
	case f.apps[p.AppID] == nil:
		return nil, replayedPage
	}
	return p, page{}
}

// param returns a query parameter that is there exactly once.
func param(r *http.Request, name string) (string, bool) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(q[name]) != 1 {
		return "", false
	}
	return q[name][0], true
}

func isSecret(s string) bool { return len(s) == secretLength && isOpaque(s) }

// isOpaque: base64url letters only.
func isOpaque(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	})
}

// browserSecret is the secret of the browser behind r, a new one if it has
// none. One browser may have several consents under way.
func (f *Flow) browserSecret(r *http.Request) session.Secret {
	if c, err := r.Cookie(f.cookie.name); err == nil && isSecret(c.Value) {
		return session.NewSecret(c.Value)
	}
	return newSecret()
}

// sameBrowser reports whether r comes from the browser that started p.
func (f *Flow) sameBrowser(r *http.Request, p *session.Consent) bool {
	c, err := r.Cookie(f.cookie.name)
	return err == nil && isSecret(c.Value) && p.BrowserHash != "" &&
		subtle.ConstantTimeCompare([]byte(session.Hash(c.Value)), []byte(p.BrowserHash)) == 1
}

// stateOf is the OAuth state for p in the browser with this cookie: 256 bits
// that only that browser, and Lark, can know.
func stateOf(cookie session.Secret, p *session.Consent) string {
	mac := hmac.New(sha256.New, []byte(cookie.Expose()))
	mac.Write([]byte("state of consent " + p.ID))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// challengeOf is the S256 code challenge (RFC 7636 section 4.2).
func challengeOf(verifier session.Secret) string {
	sum := sha256.Sum256([]byte(verifier.Expose()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// errGivenUp: whoever had the consent in hand let go of it, and it is open still.
var errGivenUp = errors.New("another gave the consent up")

// awaitEnd waits for another that has p in hand.
func (f *Flow) awaitEnd(ctx context.Context, p *session.Consent) (*session.Consent, error) {
	ctx, cancel := context.WithTimeout(ctx, pageWait)
	defer cancel()
	changed, stop := f.changes.Watch(p.Key)
	defer stop()
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	for {
		now, err := f.consents.Get(ctx, p.ID)
		if err != nil || now.State != session.ConsentPending {
			return now, err
		}
		if _, err := f.consents.Leases.Claim(ctx, p.ID, callbackLease); err == nil {
			f.release(ctx, p)
			return nil, errGivenUp
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
