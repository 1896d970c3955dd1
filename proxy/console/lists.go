package console

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"larkside/session"
	"larkside/session/store"
)

// consentView is a consent as pages show it. The link is for the user only.
type consentView struct {
	person
	State            session.ConsentState
	Reason           string
	Flow             session.Flow
	Card             session.CardResult
	Scopes           []string
	Created, Expires moment
}

func (k *Console) viewConsents(ctx context.Context, l lang, now time.Time, consents []session.Consent) []consentView {
	keys := make([]session.Key, len(consents))
	for i := range consents {
		keys[i] = consents[i].Key
	}
	names := k.names(ctx, keys)
	var views []consentView
	for i := range consents {
		p := &consents[i]
		v := consentView{person: k.person(p.Key, names[p.Key]), State: p.State, Reason: l.reason(p.Reason), Flow: p.Flow, Card: p.Card,
			Created: l.moment(p.CreatedAt, now)}
		if p.State == session.ConsentPending { // a closed consent does not expire
			v.Expires = l.moment(p.ExpiresAt, now)
		}
		for _, scope := range strings.Fields(p.Scopes) {
			v.Scopes = append(v.Scopes, visible(scope))
		}
		views = append(views, v)
	}
	return views
}

type consentsBody struct {
	Filter filter
	State  string
	// Whom is the key of the text that says why no user was found.
	Whom, User string
	// Pending are shown first, on the first page of all states.
	Pending, Consents []consentView
	// MorePending leads to all that are pending, if there are more of them.
	MorePending string
	Paging      paging
}

var consentStates = []session.ConsentState{session.ConsentPending, session.ConsentDone, session.ConsentDeclined,
	session.ConsentExpired, session.ConsentSuperseded, session.ConsentFailed}

func (k *Console) consents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	l, now := k.lang(r), k.now()
	b := consentsBody{State: q.Get("state"), User: strings.TrimSpace(q.Get("user")),
		Filter: k.filter(l, q, "/consents", "user", kept(q, "state", "app"), chipRow{l.text("filter.state"),
			chips(l, q, "state", func(s session.ConsentState) string { return l.text("consent." + string(s)) }, consentStates)})}
	state, first := session.ConsentState(b.State), q.Get("before") == ""
	if state != "" && !slices.Contains(consentStates, state) {
		return errBadInput
	}
	stored, err := k.store()
	if err != nil {
		return err
	}
	key, problem, err := k.whom(r.Context(), stored, q.Get("app"), b.User)
	if err != nil {
		return err
	}
	b.Whom = problem
	filter := store.ConsentFilter{Key: key, State: state}
	if state == "" && first {
		waiting := filter
		waiting.State = session.ConsentPending
		pending, err := stored.Consents.List(r.Context(), "", waiting, perPage+1)
		if err != nil {
			return err
		}
		pending, more := onePage(pending, func(p session.Consent) string { return p.ID })
		if more != "" {
			b.MorePending = with(q, "state", string(session.ConsentPending))
		}
		b.Pending = k.viewConsents(r.Context(), l, now, pending)
	}
	found, err := stored.Consents.List(r.Context(), q.Get("before"), filter, perPage+1)
	if err != nil {
		return err
	}
	found, next := onePage(found, func(p session.Consent) string { return p.ID })
	b.Paging = pageOf(q, "before", next, len(found))
	b.Consents = k.viewConsents(r.Context(), l, now, found)
	if state == "" {
		b.Consents = slices.DeleteFunc(b.Consents, func(v consentView) bool { return v.State == session.ConsentPending })
	}
	k.show(w, r, http.StatusOK, page{Name: "consents", Title: "consents.title", Nav: "consents", Live: true, Body: b})
	return nil
}

// entryView is an audit entry.
type entryView struct {
	person
	Time                          moment
	Actor, Action, Result, Detail string
	Failed                        bool
}

func (k *Console) viewEntries(ctx context.Context, l lang, now time.Time, entries []store.AuditEntry) []entryView {
	keys := make([]session.Key, len(entries))
	for i := range entries {
		keys[i] = entries[i].Key
	}
	names := k.names(ctx, keys)
	var views []entryView
	for _, e := range entries {
		views = append(views, entryView{
			person: k.person(e.Key, names[e.Key]), Time: l.moment(e.Time, now),
			Actor: l.word("actor", e.Actor), Action: l.word("action", string(e.Action)), Result: l.word("result", e.Result),
			Detail: l.detail(e.Detail), Failed: e.Result == "failed",
		})
	}
	return views
}

type auditBody struct {
	Filter filter
	// Whom is the key of the text that says why no user was found.
	Whom, User string
	Entries    []entryView
	Paging     paging
}

var auditActions = []store.AuditAction{store.AuditConsent, store.AuditAsk, store.AuditRefresh, store.AuditRevoke, store.AuditPurge,
	store.AuditLost, store.AuditSync, store.AuditRotate, store.AuditBackup, store.AuditSignIn}

func (k *Console) audit(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	l, action := k.lang(r), store.AuditAction(q.Get("action"))
	b := auditBody{User: strings.TrimSpace(q.Get("user")),
		Filter: k.filter(l, q, "/audit", "user", kept(q, "action", "app"), chipRow{l.text("col.action"),
			chips(l, q, "action", func(a store.AuditAction) string { return l.text("action." + string(a)) }, auditActions)})}
	if action != "" && !slices.Contains(auditActions, action) {
		return errBadInput
	}
	stored, err := k.store()
	if err != nil {
		return err
	}
	key, problem, err := k.whom(r.Context(), stored, q.Get("app"), b.User)
	if err != nil {
		return err
	}
	b.Whom = problem
	found, err := stored.Audit.List(r.Context(), q.Get("before"), store.AuditFilter{Key: key, Action: action}, perPage+1)
	if err != nil {
		return err
	}
	found, next := onePage(found, func(e store.AuditEntry) string { return e.ID })
	b.Paging = pageOf(q, "before", next, len(found))
	b.Entries = k.viewEntries(r.Context(), l, k.now(), found)
	k.show(w, r, http.StatusOK, page{Name: "audit", Title: "audit.title", Nav: "audit", Live: true, Body: b})
	return nil
}
