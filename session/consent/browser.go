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
	"larkside/telemetry"
)

const (
	startPath    = "/consent/start"
	callbackPath = "/consent/callback"
	// secretLength is the length of newSecret's values and of keyed hashes.
	secretLength = 43
	// idLength is the length of a consent's id, with which its states begin.
	idLength = 32
	// cookieLife is longer than a consent's, so that a page that is loaded
	// again still says what became of the consent.
	cookieLife = time.Hour
	// endPoll is how often to look for a lease that was given back: that sends
	// no notification.
	endPoll = 500 * time.Millisecond
)

// cookieKind is the cookie that identifies the browser that opened the link.
// With https it is a __Host- cookie, which no other host, path or plain
// connection can set. With plain http, on loopback only, neither that prefix
// nor Secure works.
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

// Handler serves three paths. /consent/start is the card's link in the redirect
// flow, and /consent/callback is where Lark sends the browser back to.
// /consent/events takes what Lark posts, if there are keys to verify it. Other
// paths are 404. An ingress may leave the path of the public URL in front of them or
// take it away. Put TLS in front of it; it needs no other protection.
func (m *Manager) Handler() http.Handler {
	prefix := ""
	if public, err := url.Parse(m.publicURL); err == nil {
		prefix = public.Path
	}
	return telemetry.WithRequestID(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.pages.secure(w.Header())
		path := strings.TrimPrefix(r.URL.Path, prefix)
		switch {
		case m.eventKeys != nil && strings.TrimSuffix(path, "/") == eventsPath:
			m.serveEvent(w, r)
		case path != startPath && path != callbackPath:
			m.show(w, r, notFoundPage)
		case r.Method == http.MethodHead, isPrefetch(r):
			w.WriteHeader(http.StatusNoContent) // a link preview must change nothing
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", "GET, HEAD")
			m.show(w, r, methodPage)
		case path == startPath:
			m.serveStart(w, r)
		default:
			m.show(w, r, m.callback(r))
		}
	}))
}

// isPrefetch reports whether a browser loads the page before anybody has asked
// for it.
func isPrefetch(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Sec-Purpose"), "prefetch") || r.Header.Get("Purpose") == "prefetch" ||
		r.Header.Get("X-Moz") == "prefetch"
}

// serveStart redirects a browser that has a ticket to Lark. It changes nothing:
// link previews and mail scanners fetch links too, also while the user stands on
// Lark's page. So any number of browsers may be under way for one consent. The
// first callback that comes from one of them ends it.
func (m *Manager) serveStart(w http.ResponseWriter, r *http.Request) {
	p, refused := m.startable(r)
	if p == nil {
		m.show(w, r, refused)
		return
	}
	cookie := m.browserSecret(r)
	http.SetCookie(w, &http.Cookie{
		Name: m.cookie.name, Value: cookie.Expose(), Path: "/", MaxAge: int(cookieLife.Seconds()),
		Secure: m.cookie.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	to := m.apps[p.AppID].AuthorizeURL(m.publicURL+callbackPath, stateOf(cookie, p), challengeOf(verifierOf(cookie, p)), parseScopes(p.Scopes))
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusFound)
}

// startable returns the open consent whose ticket r has, or nil and the page to
// show instead.
func (m *Manager) startable(r *http.Request) (*session.Consent, page) {
	ticket, ok := param(r, "t")
	if !ok || !isSecret(ticket) {
		return nil, malformedPage
	}
	p, err := m.consents.ByTicket(r.Context(), ticket)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return nil, malformedPage
	case err != nil:
		m.logThrottled(r.Context(), "can't look up a consent", session.Key{}, err)
		return nil, unavailablePage
	case p.State != session.ConsentPending:
		return nil, overPage(p)
	case p.Left <= 0:
		m.expireOrLog(r.Context(), p)
		return nil, replayedPage.of(p)
	case m.apps[p.AppID] == nil, p.Secret.Empty():
		return nil, replayedPage.of(p)
	}
	return p, page{}
}

// param returns a query parameter, and false unless it occurs exactly once.
func param(r *http.Request, name string) (string, bool) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(q[name]) != 1 {
		return "", false
	}
	return q[name][0], true
}

func isSecret(s string) bool { return len(s) == secretLength && isOpaque(s) }

// isOpaque reports whether s has base64url characters only.
func isOpaque(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	})
}

// cookieOf returns the secret in the browser's cookie, or an empty one.
func (m *Manager) cookieOf(r *http.Request) session.Secret {
	if c, err := r.Cookie(m.cookie.name); err == nil && isSecret(c.Value) {
		return session.NewSecret(c.Value)
	}
	return session.Secret{}
}

// browserSecret returns the secret in the browser's cookie, or a new one. A
// browser may have several consents under way.
func (m *Manager) browserSecret(r *http.Request) session.Secret {
	if cookie := m.cookieOf(r); !cookie.Empty() {
		return cookie
	}
	return newSecret()
}

// What binds a consent to a browser is derived from the browser's cookie and
// not stored, so that no browser takes anything from another one.

// stateOf returns the OAuth state for p in the browser with this cookie: the id
// of p, and 256 bits that are known only to that browser and Lark. The link's
// ticket is in them, so that nobody can make a state who has no link.
func stateOf(cookie session.Secret, p *session.Consent) string {
	return p.ID + keyedHash(cookie, "state of consent "+p.ID+" with ticket "+p.TicketHash)
}

// verifierOf returns the PKCE code_verifier for p in the browser with this
// cookie. Its key is stored sealed and leaves this process for nobody. So
// neither the browser nor a reader of the database knows the verifier.
func verifierOf(cookie session.Secret, p *session.Consent) session.Secret {
	return session.NewSecret(keyedHash(p.Secret, "verifier for browser "+cookie.Expose()))
}

// keyedHash returns the HMAC-SHA-256 of text as secretLength characters that a
// URL may have.
func keyedHash(key session.Secret, text string) string {
	mac := hmac.New(sha256.New, []byte(key.Expose()))
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// isState reports whether s has the form of a state.
func isState(s string) bool { return len(s) == idLength+secretLength && isOpaque(s) }

// startedHere reports whether state was made for p in the browser that sends r.
func (m *Manager) startedHere(r *http.Request, p *session.Consent, state string) bool {
	cookie := m.cookieOf(r)
	return !cookie.Empty() && subtle.ConstantTimeCompare([]byte(stateOf(cookie, p)), []byte(state)) == 1
}

// challengeOf returns the S256 code challenge (RFC 7636 section 4.2).
func challengeOf(verifier session.Secret) string {
	sum := sha256.Sum256([]byte(verifier.Expose()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// errGivenUp: the owner of the lease gave it back, and the consent is still
// open.
var errGivenUp = errors.New("another request gave the consent up")

// awaitEnd waits until the owner of p's lease has closed p, or has given it up.
func (m *Manager) awaitEnd(ctx context.Context, p *session.Consent) (*session.Consent, error) {
	ctx, cancel := context.WithTimeout(ctx, pageWait)
	defer cancel()
	changed, stop := m.changes.Watch(p.Key)
	defer stop()
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	for {
		now, err := m.consents.Get(ctx, p.ID)
		if err != nil || now.State != session.ConsentPending {
			return now, err
		}
		if _, err := m.consents.Leases.Claim(ctx, p.ID, callbackLease); err == nil {
			m.release(ctx, p)
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

// show writes g with the name of the app that it is about.
func (m *Manager) show(w http.ResponseWriter, r *http.Request, g page) {
	if g.appID != "" {
		g.app = m.apps.name(r.Context(), g.appID)
	}
	m.pages.show(w, r, g)
}
