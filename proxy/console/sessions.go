package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"larkside/session"
	"larkside/session/store"
)

const (
	// perPage is how many rows a list shows.
	perPage = 40
	// A page is drawn again by itself only if that reads at most liveRows rows and
	// takes at most liveCost.
	liveRows = 2000
	liveCost = 250 * time.Millisecond
	// maxText bounds what is searched for.
	maxText = 200
	// ownEntries is how many consents and audit entries a session's page shows.
	ownEntries = 20
)

// sessionView is a session as pages show it. It never holds a token.
type sessionView struct {
	person
	UnionID, UserID string
	State           session.State
	// Why says in a sentence why State is what it is. Brief is the same for
	// lists.
	Why, Brief string
	// Ends is when the session ends unless something is done before, or when it
	// ended. Lists only.
	Ends, Changed moment
	Status        string
	// Access and Refresh are when the tokens end, and Retry is when the next
	// refresh may be tried. Each is zero where there is nothing to end or to try.
	Access, Refresh, Granted moment
	Refreshed, Synced, Retry moment
	Scopes                   []string
	Failures                 int
	// Failing reports whether it is active and its refreshes fail.
	Failing  bool
	Endpoint string
	Version  int64
}

func (k *Console) viewSession(l lang, now time.Time, s *session.Session) sessionView {
	v := sessionView{
		person: k.person(s.Key, s.Profile.Name), UnionID: visible(s.UnionID), UserID: visible(s.UserID),
		State: s.State, Why: l.why(s, now, k.refusalOf(s.AppID) != nil), Status: l.word("account", s.Profile.Status),
		Granted: l.moment(s.GrantedAt, now), Refreshed: l.moment(s.RefreshedAt, now), Synced: l.moment(s.SyncedAt, now),
		Failures: s.Failures, Endpoint: visible(s.TokenURL), Version: s.Version, Changed: l.moment(s.ChangedAt, now), Ends: l.moment(s.UsableUntil, now),
	}
	v.Brief = brief(v.Why)
	if s.State != session.Disabled { // nothing of a disabled session is used
		v.Access = l.moment(s.ExpiresAt, now)
	}
	if s.State == session.Active {
		v.Failing = s.Failures > 0
		v.Refresh = l.moment(s.RefreshExpiresAt, now)
		if s.Failures > 0 && now.Before(s.RetryAt) {
			v.Retry = l.moment(s.RetryAt, now)
		}
	}
	for _, scope := range strings.Fields(s.Scope) {
		v.Scopes = append(v.Scopes, visible(scope))
	}
	return v
}

type sessionsBody struct {
	Filter   filter
	Filtered bool
	Sessions []sessionView
	// Asked are users who were asked and have no session.
	Asked  []person
	Paging paging
	// Orders are the headings by which the list can be sorted; nil: it is what a
	// search found.
	Orders map[string]order
	// Examined is how many rows a search has looked through, when that was not
	// all of them.
	Examined int
}

// order is a heading by which a list can be sorted.
type order struct {
	URL string
	On  bool
	// Sort is the aria-sort attribute.
	Sort string
}

var (
	states = []session.State{session.ConsentRequired, session.Disabled, session.Active}
	orders = []store.Order{store.OrderNeed, store.OrderUser, store.OrderChange, store.OrderEnd}
)

func (k *Console) sessions(w http.ResponseWriter, r *http.Request) error {
	q, l, now := r.URL.Query(), k.lang(r), k.now()
	text, f := q.Get("q"), store.SessionFilter{AppID: q.Get("app"), State: session.State(q.Get("state"))}
	by := cmp.Or(store.Order(q.Get("sort")), store.OrderNeed)
	if len(text) > maxText || f.State != "" && !slices.Contains(states, f.State) || !slices.Contains(orders, by) {
		return errBadInput
	}
	stored, err := k.store()
	if err != nil {
		return err
	}
	b := sessionsBody{
		Filter: k.filter(l, q, "/sessions", "q", kept(q, "state", "app", "sort"),
			chipRow{l.text("filter.state"), chips(l, q, "state", l.stateLabel, states)}),
		Filtered: text != "" || f != store.SessionFilter{},
	}
	began := time.Now()
	var found []session.Session
	next, examined := "", 0
	if strings.TrimSpace(text) == "" {
		b.Orders = ordersOf(q, by)
		from, err := parseCursor(q.Get("after"))
		if err != nil {
			return err
		}
		p, err := stored.Directory.Browse(r.Context(), by, from, f, perPage)
		if err != nil {
			return err
		}
		if found = p.Sessions; p.Next != nil {
			next = formatCursor(*p.Next)
		}
	} else {
		var after session.Key
		after.AppID, after.OpenID, _ = strings.Cut(q.Get("after"), "/")
		p, err := stored.Directory.Search(r.Context(), after, f, text, perPage)
		if err != nil {
			return err
		}
		if found, examined = p.Sessions, p.Examined; p.After != (session.Key{}) {
			next = p.After.AppID + "/" + p.After.OpenID
			if len(found) < perPage {
				b.Examined = p.Examined
			}
		}
		if f.State == "" && q.Get("after") == "" {
			asked, err := k.askedOnly(r.Context(), stored, f.AppID, text, found)
			if err != nil {
				return err
			}
			for _, key := range asked {
				b.Asked = append(b.Asked, k.person(key, ""))
			}
		}
	}
	live := examined <= liveRows && time.Since(began) < liveCost
	for i := range found {
		b.Sessions = append(b.Sessions, k.viewSession(l, now, &found[i]))
	}
	b.Paging = pageOf(q, "after", next, len(found))
	k.show(w, r, http.StatusOK, page{Name: "sessions", Title: "sessions.title", Nav: "sessions", Live: live, Body: b})
	return nil
}

func ordersOf(q url.Values, by store.Order) map[string]order {
	all := make(map[string]order)
	for _, o := range orders {
		all[string(o)] = order{URL: with(q, "sort", string(o)), On: o == by,
			Sort: map[bool]string{true: "descending", false: "none"}[o == by]}
	}
	if by == store.OrderUser || by == store.OrderEnd {
		all[string(by)] = order{URL: all[string(by)].URL, On: true, Sort: "ascending"}
	}
	return all
}

// formatCursor writes a cursor into an address, and parseCursor reads it.
func formatCursor(p store.Cursor) string {
	return fmt.Sprintf("%d.%d/%s/%s", p.Tier, p.At, p.Key.AppID, p.Key.OpenID)
}

func parseCursor(s string) (p store.Cursor, err error) {
	if s == "" {
		return p, nil
	}
	numbers, key, ok := strings.Cut(s, "/")
	tier, at, ok2 := strings.Cut(numbers, ".")
	p.Tier, err = strconv.Atoi(tier)
	if err == nil {
		p.At, err = strconv.ParseInt(at, 10, 64)
	}
	p.Key.AppID, p.Key.OpenID, _ = strings.Cut(key, "/")
	if err != nil || !ok || !ok2 {
		return p, errBadInput
	}
	return p, nil
}

type sessionBody struct {
	// Session is nil for a user who is known by consents and audit only.
	Session  *sessionView
	Key      session.Key
	OpenID   string
	Consents []consentView
	Entries  []entryView
	// Did and Trouble are keys of texts about what has just been done.
	Did, Trouble string
	CanRefresh   bool
	// CanRevoke is whether anything is left to revoke.
	CanRevoke bool
}

// doings are the actions on a session. did are the notices of success that a
// link may show after one, and didNot are those of failure.
var (
	doings = []string{"refresh", "card", "revoke"}
	did    = []string{"refresh", "revoke", string(session.CardSent), string(session.CardAlreadySent)}
	didNot = []string{string(session.CardRateLimited), string(session.CardFailed), string(session.CardOff)}
)

func (k *Console) session(w http.ResponseWriter, r *http.Request) error {
	key, err := k.pathKey(r)
	if err != nil {
		return err
	}
	done, not := "", ""
	switch d := r.URL.Query().Get("did"); {
	case slices.Contains(did, d):
		done = "did." + d
	case slices.Contains(didNot, d):
		not = "did." + d
	}
	return k.showSession(w, r, http.StatusOK, key, done, not)
}

// pathKey finds the user whom the path names, by any of their ids.
func (k *Console) pathKey(r *http.Request) (session.Key, error) {
	return k.key(r.Context(), r.PathValue("app"), r.PathValue("user"))
}

func (k *Console) key(ctx context.Context, app, user string) (session.Key, error) {
	if !slices.Contains(k.Apps, app) {
		return session.Key{}, errUnknownApp
	}
	if user == "" || len(user) > 128 {
		return session.Key{}, errBadInput
	}
	if strings.HasPrefix(user, "ou_") {
		return session.Key{AppID: app, OpenID: user}, nil
	}
	stored, err := k.store()
	if err != nil {
		return session.Key{}, err
	}
	return stored.Sessions.Resolve(ctx, app, user)
}

func (k *Console) showSession(w http.ResponseWriter, r *http.Request, status int, key session.Key, done, trouble string) error {
	stored, err := k.store()
	if err != nil {
		return err
	}
	l, now := k.lang(r), k.now()
	b := sessionBody{Key: key, OpenID: visible(key.OpenID), Did: done, Trouble: trouble}
	heading, args := "session.title", []any{b.OpenID}
	s, err := stored.Sessions.Load(r.Context(), key)
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		return err
	}
	if err == nil {
		if s.AccessToken.Empty() {
			s.ExpiresAt = time.Time{} // nothing is left to end
		}
		v := k.viewSession(l, now, s)
		b.Session, b.CanRefresh = &v, s.State != session.ConsentRequired
		b.CanRevoke = s.State != session.ConsentRequired || s.Reason != session.Revoked
		if v.Name != "" {
			args = []any{v.Name}
		}
	}
	consents, err := stored.Consents.Of(r.Context(), key, ownEntries)
	if err != nil {
		return err
	}
	entries, err := stored.Audit.List(r.Context(), "", store.AuditFilter{Key: key}, ownEntries)
	if err != nil {
		return err
	}
	if b.Session == nil && len(consents) == 0 && len(entries) == 0 {
		return errNoSession
	}
	b.Consents, b.Entries = k.viewConsents(r.Context(), l, now, consents), k.viewEntries(r.Context(), l, now, entries)
	k.show(w, r, status, page{Name: "session", Title: heading, TitleArgs: args, Nav: "sessions", Live: true, Body: b})
	return nil
}

// do carries out the action that the last part of the path names, and returns
// the notice to show.
func (k *Console) do(ctx context.Context, name string, key session.Key, from string) (notice string, err error) {
	switch {
	case name == "refresh" && k.Refresh != nil:
		return name, k.Refresh(ctx, key, from)
	case name == "revoke" && k.Revoke != nil:
		return name, k.Revoke(ctx, key, from)
	case name == "card" && k.StartConsent != nil:
		card, err := k.StartConsent(ctx, key, from)
		return string(card), err
	}
	return "", errNothing
}

type confirmBody struct {
	Action string
	Key    session.Key
	OpenID string
	Name   string
}

// confirm asks once more before something is done.
func (k *Console) confirm(w http.ResponseWriter, r *http.Request) error {
	action := r.PathValue("action")
	if !slices.Contains(doings, action) {
		return errNothing
	}
	key, err := k.pathKey(r)
	if err != nil {
		return err
	}
	return k.showConfirm(w, r, action, key)
}

func (k *Console) showConfirm(w http.ResponseWriter, r *http.Request, action string, key session.Key) error {
	stored, err := k.store()
	if err != nil {
		return err
	}
	b := confirmBody{Action: action, Key: key, OpenID: visible(key.OpenID)}
	s, err := stored.Sessions.Load(r.Context(), key)
	switch {
	case err == nil:
		b.Name = visible(s.Profile.Name)
	case !errors.Is(err, session.ErrNotFound) || action != "card":
		return err // a user who was never asked can only be asked
	}
	k.show(w, r, http.StatusOK, page{Name: "confirm", Title: "confirm." + action, Nav: "sessions", Body: b})
	return nil
}

// askWhom takes the form on which an app and a user are named.
func (k *Console) askWhom(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	key, err := k.key(r.Context(), q.Get("app"), strings.TrimSpace(q.Get("user")))
	if err != nil {
		return err
	}
	return k.showConfirm(w, r, "card", key)
}

// act carries out an action, and shows the session's page with the result.
func (k *Console) act(w http.ResponseWriter, r *http.Request) error {
	key, err := k.pathKey(r)
	if err != nil {
		return err
	}
	notice, err := k.do(r.Context(), r.PathValue("action"), key, r.RemoteAddr)
	if err == nil {
		http.Redirect(w, r, sessionPath(key)+"?did="+url.QueryEscape(notice), http.StatusSeeOther)
		return nil
	}
	t := k.troubleOf(r, err)
	if t == errNothing || t == errNoSession {
		return t
	}
	if k.showSession(w, r, t.status, key, "", t.text) != nil {
		return t
	}
	return nil
}
