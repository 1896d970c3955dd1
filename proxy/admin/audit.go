package admin

import (
	"net/http"

	"larkside/session"
	"larkside/session/store"
)

type auditView struct {
	Time   *string           `json:"time"`
	Actor  string            `json:"actor"`
	Action store.AuditAction `json:"action"`
	AppID  string            `json:"app_id"`
	OpenID string            `json:"open_id"`
	Result string            `json:"result"`
	Detail string            `json:"detail"`
}

func viewAudit(e *store.AuditEntry) auditView {
	return auditView{instant(e.Time), e.Actor, e.Action, e.AppID, e.OpenID, e.Result, e.Detail}
}

// listAudit answers GET /api/v1/audit?app_id=&open_id=&action=&limit=&cursor=.
// With Accept: application/x-ndjson it is an export: all entries from the cursor
// on, one a line, in pages of limit at the database.
func (a *admin) listAudit(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, before, err := paging(query, 1)
	if err != nil {
		return err
	}
	filter := store.AuditFilter{
		Key:    session.Key{AppID: query.Get("app_id"), OpenID: query.Get("open_id")},
		Action: store.AuditAction(query.Get("action")),
	}
	if wantsLines(r) {
		return a.exportAudit(w, r, before[0], filter)
	}
	found, err := a.Audit(r.Context(), before[0], filter, limit+1)
	if err != nil {
		return err
	}
	position := func(e *store.AuditEntry) []string { return []string{e.ID} }
	return writeJSON(w, http.StatusOK, newPage(found, limit, viewAudit, position))
}

func (a *admin) exportAudit(w http.ResponseWriter, r *http.Request, before string, filter store.AuditFilter) error {
	out := newLines(w)
	for {
		found, err := a.Audit(r.Context(), before, filter, maxLimit)
		if err != nil {
			return a.breakOff(out, r, err)
		}
		for i := range found {
			out.write(viewAudit(&found[i]))
		}
		out.flush()
		if len(found) < maxLimit {
			return nil
		}
		before = found[len(found)-1].ID
	}
}
