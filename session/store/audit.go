package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"larkside/session"
)

// Audit is the trail of what was done to sessions, and by whom.
type Audit struct {
	db  *database
	now func() time.Time
	log *slog.Logger
}

// AuditEntry is one thing that was done to a session, or to all of them.
type AuditEntry struct {
	// ID orders entries by time. [Audit.Write] makes it.
	ID   string
	Time time.Time
	// Actor is who did it: a caller's name, or one of [ByAdmin], [ByUser],
	// [ByLark] and [ByLarkside].
	Actor  string
	Action AuditAction
	session.Key
	// Result is "done" or "failed", or the state of the consent or the session.
	Result string
	// Detail is for people: from where, why. It holds no secret.
	Detail string
}

// AuditAction is what was done.
type AuditAction string

const (
	// AuditConsent: a user answered a consent, or it failed.
	AuditConsent AuditAction = "consent"
	// AuditAsk: an operator had a user asked.
	AuditAsk AuditAction = "consent_send"
	// AuditSignIn: a user signed in by "larkside login".
	AuditSignIn AuditAction = "login"
	// AuditRefresh: an operator had a session refreshed.
	AuditRefresh AuditAction = "refresh"
	// AuditRevoke: a session was revoked, here or at Lark.
	AuditRevoke AuditAction = "revoke"
	// AuditPurge: a session was deleted, by an operator or because it could not be
	// used for long. Its tokens were revoked before.
	AuditPurge AuditAction = "purge"
	// AuditLost: Lark does not refresh a session any more.
	AuditLost AuditAction = "session_lost"
	// AuditSync: an operator had all profiles read.
	AuditSync AuditAction = "users_sync"
	// AuditBackup: an operator took a copy of the database.
	AuditBackup AuditAction = "backup"
	// AuditRotate: an operator had everything sealed under another key.
	AuditRotate AuditAction = "keys_rotate"
)

// Actors that are not a caller's name.
const (
	ByAdmin    = "admin"
	ByUser     = "user"
	ByLark     = "lark"
	ByLarkside = "larkside"
)

// maxDetail is how many bytes of a detail are kept.
const maxDetail = 500

const queryAuditInsert = `INSERT INTO audit (id, at, actor, action, app_id, open_id, result, detail)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// Write stores an entry and sets its ID and Time. The entry's event has
// happened already, so it is stored even if ctx is done. If it can't be stored,
// that is logged, and the caller goes on.
func (a *Audit) Write(ctx context.Context, e AuditEntry) {
	now := a.now()
	detail := strings.ToValidUTF8(e.Detail, "?")
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "…"
	}
	_, err := a.db.ExecContext(context.WithoutCancel(ctx), queryAuditInsert, auditID(now)+randomID()[:16], millis(now),
		e.Actor, e.Action, e.AppID, e.OpenID, e.Result, detail)
	if err != nil {
		a.log.ErrorContext(ctx, "can't write an audit entry", "actor", e.Actor, "action", string(e.Action),
			"app_id", e.AppID, "result", e.Result, "error", err)
	}
}

// auditID returns the beginning of an id, which sorts by time to the
// nanosecond.
func auditID(at time.Time) string { return fmt.Sprintf("%016x", at.UnixNano()) }

// consent stores how a consent ended. One that expired or was superseded was
// not answered, so nothing is stored.
func (a *Audit) consent(ctx context.Context, c *session.Consent) {
	e := AuditEntry{Actor: ByUser, Action: AuditConsent, Key: c.Key, Result: string(c.State)}
	switch c.State {
	case session.ConsentDone:
		e.Detail = "scopes: " + c.Scopes
	case session.ConsentDeclined:
	case session.ConsentFailed:
		e.Actor, e.Detail = ByLarkside, c.Reason
	default:
		return
	}
	a.Write(ctx, e)
}

// AuditFilter selects entries. An empty field selects all.
type AuditFilter struct {
	session.Key
	Action AuditAction
}

const queryAuditList = `SELECT id, at, actor, action, app_id, open_id, result, detail FROM audit
	WHERE ($1 = '' OR id < $1) AND ($2 = '' OR app_id = $2) AND ($3 = '' OR open_id = $3) AND ($4 = '' OR action = $4)
	ORDER BY id DESC LIMIT $5`

// List returns up to limit entries, the newest first, older than the one with
// id before. An empty before means from the newest.
func (a *Audit) List(ctx context.Context, before string, f AuditFilter, limit int) ([]AuditEntry, error) {
	var rows []struct {
		ID     string `db:"id"`
		At     int64  `db:"at"`
		Actor  string `db:"actor"`
		Action string `db:"action"`
		AppID  string `db:"app_id"`
		OpenID string `db:"open_id"`
		Result string `db:"result"`
		Detail string `db:"detail"`
	}
	if err := a.db.SelectContext(ctx, &rows, queryAuditList, before, f.AppID, f.OpenID, f.Action, limit); err != nil {
		return nil, unavailable(err, "listing the audit trail")
	}
	entries := make([]AuditEntry, len(rows))
	for i, r := range rows {
		entries[i] = AuditEntry{r.ID, fromMillis(r.At), r.Actor, AuditAction(r.Action), session.Key{AppID: r.AppID, OpenID: r.OpenID}, r.Result, r.Detail}
	}
	return entries, nil
}

const (
	queryAuditForgetUpTo = `SELECT id FROM audit WHERE id <= $1 ORDER BY id LIMIT 1 OFFSET $2`
	queryAuditForget     = `DELETE FROM audit WHERE id <= $1`
)

// Forget deletes the entries that are older than period.
func (a *Audit) Forget(ctx context.Context, period time.Duration) error {
	return forget(ctx, a.db, "deleting old audit entries", queryAuditForgetUpTo, queryAuditForget, auditID(a.now().Add(-period)))
}
