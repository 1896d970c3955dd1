package admin

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
)

// Directory lists the stored sessions. [store.Directory] is one.
type Directory interface {
	// List returns up to limit sessions after the key after, in key order.
	List(ctx context.Context, after session.Key, f store.SessionFilter, limit int) ([]session.Session, error)
	// Search returns sessions whose user's ids, name or email contain text, or whom
	// the logs show as text. It may return fewer than limit although there are more.
	Search(ctx context.Context, after session.Key, f store.SessionFilter, text string, limit int) (*store.Page, error)
	// Find is Search for a whole id, name, email or what the logs show.
	Find(ctx context.Context, after session.Key, f store.SessionFilter, user string, limit int) (*store.Page, error)
}

// Sessions reads one session. [store.Sessions] is one.
type Sessions interface {
	// Load returns the session of key, or session.ErrNotFound.
	Load(ctx context.Context, key session.Key) (*session.Session, error)
	// Resolve returns the user whom alias, a union_id or user_id, names in the app, or
	// session.ErrNotFound.
	Resolve(ctx context.Context, appID, alias string) (session.Key, error)
}

// sessionView is a session as the API shows it.
type sessionView struct {
	AppID            string         `json:"app_id"`
	OpenID           string         `json:"open_id"`
	UnionID          string         `json:"union_id"`
	UserID           string         `json:"user_id"`
	Name             string         `json:"name"`
	State            session.State  `json:"state"`
	Reason           session.Reason `json:"reason"`
	Scope            string         `json:"scope"`
	GrantedAt        *string        `json:"granted_at"`
	AccessExpiresAt  *string        `json:"access_expires_at"`
	RefreshExpiresAt *string        `json:"refresh_expires_at"`
	RefreshedAt      *string        `json:"refreshed_at"`
}

func viewSession(s *session.Session) sessionView {
	return sessionView{
		AppID: s.AppID, OpenID: s.OpenID, UnionID: s.UnionID, UserID: s.UserID, Name: s.Profile.Name,
		State: s.State, Reason: s.Reason, Scope: s.Scope,
		GrantedAt: instant(s.GrantedAt), AccessExpiresAt: instant(s.ExpiresAt),
		RefreshExpiresAt: instant(s.RefreshExpiresAt), RefreshedAt: instant(s.RefreshedAt),
	}
}

// listSessions answers GET
// /api/v1/sessions?app_id=&state=&search=&user=&limit=&cursor=.
func (a *admin) listSessions(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, after, err := paging(query, 2)
	if err != nil {
		return err
	}
	state, err := oneOf(query, "state", session.Active, session.ConsentRequired, session.Disabled)
	if err != nil {
		return err
	}
	from, filter := session.Key{AppID: after[0], OpenID: after[1]}, store.SessionFilter{AppID: query.Get("app_id"), State: state}
	if query.Get("search") != "" || query.Get("user") != "" {
		return a.searchSessions(w, r, from, filter, limit)
	}
	found, err := a.Directory.List(r.Context(), from, filter, limit+1)
	if err != nil {
		return err
	}
	position := func(s *session.Session) []string { return []string{s.AppID, s.OpenID} }
	return writeJSON(w, http.StatusOK, newPage(found, limit, viewSession, position))
}

// searchSessions answers with the sessions that the parameter search or user
// finds.
func (a *admin) searchSessions(w http.ResponseWriter, r *http.Request, after session.Key, f store.SessionFilter, limit int) error {
	find, text := a.Directory.Search, r.URL.Query().Get("search")
	if user := r.URL.Query().Get("user"); user != "" {
		if text != "" {
			return invalid("search and user exclude each other.")
		}
		find, text = a.Directory.Find, user
	}
	found, err := find(r.Context(), after, f, text, limit)
	if err != nil {
		return err
	}
	p := page[sessionView]{Items: []sessionView{}}
	for i := range found.Sessions {
		p.Items = append(p.Items, viewSession(&found.Sessions[i]))
	}
	if next := found.After; next != (session.Key{}) {
		p.Next = encodeCursor([]string{next.AppID, next.OpenID})
	}
	return writeJSON(w, http.StatusOK, p)
}

func (a *admin) getSession(w http.ResponseWriter, r *http.Request) error {
	key, err := a.pathKey(r)
	if err != nil {
		return err
	}
	return a.answerSession(w, r, key)
}

func (a *admin) answerSession(w http.ResponseWriter, r *http.Request, key session.Key) error {
	s, err := a.Sessions.Load(r.Context(), key)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, viewSession(s))
}

func (a *admin) revokeSession(w http.ResponseWriter, r *http.Request) error {
	key, err := a.pathKey(r)
	if err != nil {
		return err
	}
	if err := a.Revoke(r.Context(), key, actor(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *admin) refreshSession(w http.ResponseWriter, r *http.Request) error {
	key, err := a.pathKey(r)
	if err != nil {
		return err
	}
	if err := a.Refresh(r.Context(), key, actor(r)); err != nil {
		return err
	}
	return a.answerSession(w, r, key)
}

// pathKey returns the user whom the path names. The app "-" is the first one.
func (a *admin) pathKey(r *http.Request) (session.Key, error) {
	app := r.PathValue("app")
	if app == "-" {
		app = ""
	}
	return a.key(r.Context(), app, r.PathValue("user"))
}

// key returns the user of an app by open_id, union_id or user_id. Without an app it is
// the first one.
func (a *admin) key(ctx context.Context, appID, user string) (session.Key, error) {
	if appID == "" && len(a.Apps) > 0 {
		appID = a.Apps[0]
	}
	if !slices.Contains(a.Apps, appID) {
		return session.Key{}, edge.UnknownApp
	}
	if strings.HasPrefix(user, "ou_") {
		return session.Key{AppID: appID, OpenID: user}, nil
	}
	return a.Sessions.Resolve(ctx, appID, user)
}
