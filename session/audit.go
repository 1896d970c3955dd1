package session

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// AuditEntry is one thing that was done to a session, or to all of them.
type AuditEntry struct {
	// ID orders entries by time; the store makes it.
	ID   string
	Time time.Time
	// Actor is who: "admin", "user", "lark" or "larkside".
	Actor  string
	Action AuditAction
	Key
	// Result is "done" or "failed", or the state that a consent or a session
	// came to.
	Result string
	// Detail is for people: from where, why. It holds no secret.
	Detail string
}

// AuditAction is what was done.
type AuditAction string

const (
	// AuditConsent: a user was asked and has answered, or something came between.
	AuditConsent AuditAction = "consent"
	// AuditAsk: an operator had a user asked.
	AuditAsk AuditAction = "consent_send"
	// AuditRefresh: an operator had a session renewed.
	AuditRefresh AuditAction = "refresh"
	// AuditRevoke: a session was revoked, here or at Lark.
	AuditRevoke AuditAction = "revoke"
	// AuditLost: Lark does not renew a session any more.
	AuditLost AuditAction = "session_lost"
	// AuditSync: an operator had all profiles read.
	AuditSync AuditAction = "users_sync"
	// AuditRotate: an operator had everything sealed under another key.
	AuditRotate AuditAction = "keys_rotate"
)

// The actors that are not a caller's name.
const (
	ByAdmin    = "admin"
	ByUser     = "user"
	ByLark     = "lark"
	ByLarkside = "larkside"
)

const (
	// maxDetail is how many bytes of a detail are kept.
	maxDetail = 500
	// forgetAtOnce is how many entries one statement deletes.
	forgetAtOnce = 1000
)

const queryAuditInsert = `INSERT INTO audit (id, at, actor, action, app_id, open_id, result, detail)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

const queryAuditList = `SELECT id, at, actor, action, app_id, open_id, result, detail FROM audit
	WHERE ($1 = '' OR id < $1) AND ($2 = '' OR app_id = $2) AND ($3 = '' OR open_id = $3) AND ($4 = '' OR action = $4)
	ORDER BY id DESC LIMIT $5`

const queryAuditForget = `DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id < $1 ORDER BY id LIMIT $2)`

// Audit writes an entry; its ID and Time are set here. What it tells of has
// happened, so it is written even when ctx is done, and when it can't be
// written that is logged and nothing else.
func (s *Store) Audit(ctx context.Context, e AuditEntry) {
	now := s.now()
	detail := strings.ToValidUTF8(e.Detail, "?")
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "…"
	}
	_, err := s.db.ExecContext(context.WithoutCancel(ctx), queryAuditInsert, auditID(now)+randomID()[:16], millis(now),
		e.Actor, e.Action, e.AppID, e.OpenID, e.Result, detail)
	if err != nil {
		s.log.ErrorContext(ctx, "can't write an audit entry", "actor", e.Actor, "action", string(e.Action),
			"app_id", e.AppID, "result", e.Result, "error", err)
	}
}

// auditID sorts by time, to the nanosecond.
func auditID(at time.Time) string { return fmt.Sprintf("%016x", at.UnixNano()) }

// auditConsent writes down how a consent was answered. One that expired or was
// superseded was not.
func (s *Store) auditConsent(ctx context.Context, p *Pending) {
	e := AuditEntry{Actor: ByUser, Action: AuditConsent, Key: p.Key, Result: string(p.State)}
	switch p.State {
	case ConsentDone:
		e.Detail = "scopes: " + p.Scopes
	case ConsentDeclined:
	case ConsentFailed:
		e.Actor, e.Detail = ByLarkside, p.Reason
	default:
		return
	}
	s.Audit(ctx, e)
}

// AuditFilter selects entries; empty fields select all.
type AuditFilter struct {
	Key
	Action AuditAction
}

// ListAudit returns up to limit entries, the newest first, older than the one
// with id before (empty: from the newest).
func (s *Store) ListAudit(ctx context.Context, before string, f AuditFilter, limit int) ([]AuditEntry, error) {
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
	if err := s.db.SelectContext(ctx, &rows, queryAuditList, before, f.AppID, f.OpenID, f.Action, limit); err != nil {
		return nil, unavailable(err, "listing the audit trail")
	}
	entries := make([]AuditEntry, len(rows))
	for i, r := range rows {
		entries[i] = AuditEntry{r.ID, fromMillis(r.At), r.Actor, AuditAction(r.Action), Key{r.AppID, r.OpenID}, r.Result, r.Detail}
	}
	return entries, nil
}

// ForgetAudit deletes the entries that are older than period, a thousand at a
// time, so that a long backlog holds nobody up.
func (s *Store) ForgetAudit(ctx context.Context, period time.Duration) error {
	oldest := auditID(s.now().Add(-period))
	for {
		result, err := s.db.ExecContext(ctx, queryAuditForget, oldest, forgetAtOnce)
		if err != nil {
			return unavailable(err, "deleting old audit entries")
		}
		if n, err := result.RowsAffected(); err != nil || n < forgetAtOnce {
			return err
		}
	}
}
