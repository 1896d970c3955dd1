package admin

import (
	"net/http"
	"time"

	"larkside/session"
)

// UserSync is what came of reading profiles.
type UserSync struct {
	// Users is how many are known, Updated how many profiles changed, and
	// Failed how many could not be read.
	Users   int `json:"users"`
	Updated int `json:"updated"`
	Failed  int `json:"failed"`
}

func (a *admin) syncUsers(w http.ResponseWriter, r *http.Request) error {
	result, err := a.SyncUsers(r.Context(), actor(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, result)
}

// AuditEntry is one thing that was done to a session.
type AuditEntry struct {
	// ID orders entries; it is in the cursor only.
	ID   string
	Time time.Time
	// Actor is who: "admin", a caller's name, "user", "larkside".
	Actor  string
	Action string
	session.Key
	Result string
	// Detail is for people and holds no secret.
	Detail string
}

// AuditFilter selects entries; empty fields select all.
type AuditFilter struct {
	session.Key
	Action string
}

type auditView struct {
	Time   *string `json:"time"`
	Actor  string  `json:"actor"`
	Action string  `json:"action"`
	AppID  string  `json:"app_id"`
	OpenID string  `json:"open_id"`
	Result string  `json:"result"`
	Detail string  `json:"detail"`
}

func viewAudit(e *AuditEntry) auditView {
	return auditView{instant(e.Time), e.Actor, e.Action, e.AppID, e.OpenID, e.Result, e.Detail}
}

// listAudit answers GET /api/v1/audit?app_id=&open_id=&action=&limit=&cursor=.
func (a *admin) listAudit(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, before, err := paging(query, 1)
	if err != nil {
		return err
	}
	filter := AuditFilter{session.Key{AppID: query.Get("app_id"), OpenID: query.Get("open_id")}, query.Get("action")}
	found, err := a.Audit(r.Context(), before[0], filter, limit+1)
	if err != nil {
		return err
	}
	position := func(e *AuditEntry) []string { return []string{e.ID} }
	return writeJSON(w, http.StatusOK, newPage(found, limit, viewAudit, position))
}
