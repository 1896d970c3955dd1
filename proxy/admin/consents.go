package admin

import (
	"context"
	"net/http"
	"strings"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
)

// Consents reads what users were asked. [store.ConsentHistory] is one.
type Consents interface {
	// List returns up to limit consents that are older than the one with the id
	// before, the newest first. An empty before begins with the newest consent.
	List(ctx context.Context, before string, f store.ConsentFilter, limit int) ([]session.Consent, error)
}

// consentView is a consent as the API shows it. It lacks the link, which is for the
// user only.
type consentView struct {
	ID        string               `json:"id"`
	AppID     string               `json:"app_id"`
	OpenID    string               `json:"open_id"`
	Flow      session.Flow         `json:"flow"`
	State     session.ConsentState `json:"state"`
	Scopes    []string             `json:"scopes"`
	Card      session.CardResult   `json:"card"`
	CreatedAt *string              `json:"created_at"`
	ExpiresAt *string              `json:"expires_at"`
}

func viewConsent(p *session.Consent) consentView {
	return consentView{
		ID: p.ID, AppID: p.AppID, OpenID: p.OpenID, Flow: p.Flow, State: p.State,
		Scopes: append([]string{}, strings.Fields(p.Scopes)...), Card: p.Card,
		CreatedAt: instant(p.CreatedAt), ExpiresAt: instant(p.ExpiresAt),
	}
}

// listConsents answers GET
// /api/v1/consents?app_id=&open_id=&user=&state=&limit=&cursor=.
func (a *admin) listConsents(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, before, err := paging(query, 1)
	if err != nil {
		return err
	}
	state, err := oneOf(query, "state", session.ConsentPending, session.ConsentDone, session.ConsentDeclined,
		session.ConsentExpired, session.ConsentSuperseded, session.ConsentFailed)
	if err != nil {
		return err
	}
	filter := store.ConsentFilter{Key: session.Key{AppID: query.Get("app_id"), OpenID: query.Get("open_id")}, State: state}
	if shown := query.Get("user"); shown != "" {
		return a.searchConsents(w, r, before[0], filter, shown, limit)
	}
	found, err := a.Consents.List(r.Context(), before[0], filter, limit+1)
	if err != nil {
		return err
	}
	position := func(p *session.Consent) []string { return []string{p.ID} }
	return writeJSON(w, http.StatusOK, newPage(found, limit, viewConsent, position))
}

// consentsMost is how many consents one search looks at.
const consentsMost = 20_000

// searchConsents answers with the consents of the user whom the logs show as
// shown. Somebody who was asked and has not answered has no session, by which they
// could be found. A page may have fewer items than limit although there are more.
func (a *admin) searchConsents(w http.ResponseWriter, r *http.Request, before string, f store.ConsentFilter, shown string, limit int) error {
	p := page[consentView]{Items: []consentView{}}
	for range consentsMost / maxLimit {
		found, err := a.Consents.List(r.Context(), before, f, maxLimit)
		if err != nil {
			return err
		}
		for i := range found {
			before = found[i].ID
			if a.UserAttr(found[i].Key) != shown {
				continue
			}
			if p.Items = append(p.Items, viewConsent(&found[i])); len(p.Items) == limit {
				p.Next = encodeCursor([]string{before})
				return writeJSON(w, http.StatusOK, p)
			}
		}
		if len(found) < maxLimit {
			return writeJSON(w, http.StatusOK, p)
		}
	}
	p.Next = encodeCursor([]string{before})
	return writeJSON(w, http.StatusOK, p)
}

// startConsent answers POST /api/v1/consents with
// {"app_id": "", "open_id": "ou_…", "scopes": []}. Only open_id is required. It may be
// a union_id or user_id of a user who has consented before.
func (a *admin) startConsent(w http.ResponseWriter, r *http.Request) error {
	var want struct {
		AppID  string   `json:"app_id"`
		OpenID string   `json:"open_id"`
		Scopes []string `json:"scopes"`
	}
	if err := readJSON(w, r, &want); err != nil {
		return err
	}
	switch {
	case want.OpenID == "":
		return invalid("open_id is required.")
	case !session.IsUserID(want.OpenID):
		return &edge.Answer{Failure: edge.InvalidUserID, Detail: "open_id takes 1 to 128 characters of A-Z a-z 0-9 _ . @ -"}
	case !storable(strings.Join(want.Scopes, " ")):
		return invalid("scopes have to be text without NUL.")
	}
	key, err := a.key(r.Context(), want.AppID, want.OpenID)
	if err != nil {
		return err
	}
	p, err := a.StartConsent(r.Context(), key, want.Scopes, actor(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, viewConsent(p))
}
