package store

import (
	"context"
	"strings"
	"time"

	"larkside/session"
)

// ConsentHistory is what was asked of users before.
type ConsentHistory struct {
	db     *database
	sealer *sealer
}

// ConsentFilter selects consents. An empty field selects all.
type ConsentFilter struct {
	session.Key
	State session.ConsentState
}

const queryConsentList = `SELECT ` + consentColumns + ` FROM consents
	WHERE ($1 = '' OR id < $1) AND ($2 = '' OR app_id = $2) AND ($3 = '' OR open_id = $3) AND ($4 = '' OR state = $4)
	ORDER BY id DESC LIMIT $5`

// List returns up to limit consents without their secrets, the newest first, older
// than the one with id before. An empty before means from the newest.
func (h *ConsentHistory) List(ctx context.Context, before string, f ConsentFilter, limit int) ([]session.Consent, error) {
	return h.sealer.consents(ctx, "listing consents", queryConsentList, before, f.AppID, f.OpenID, f.State, limit)
}

const queryConsentOf = `SELECT ` + consentColumns + ` FROM consents
	WHERE app_id = $1 AND open_id = $2 ORDER BY created_at DESC, id DESC LIMIT $3`

// Of returns up to limit consents of key's user without their secrets, the newest
// first.
func (h *ConsentHistory) Of(ctx context.Context, key session.Key, limit int) ([]session.Consent, error) {
	return h.sealer.consents(ctx, "listing a user's consents", queryConsentOf, key.AppID, key.OpenID, limit)
}

const queryConsentCount = `SELECT count(*) FROM consents WHERE app_id = $1 AND open_id = $2 AND created_at > larkside_now() - $3`

// Started counts the consents that were started for key in the last period.
func (h *ConsentHistory) Started(ctx context.Context, key session.Key, period time.Duration) (int, error) {
	return h.count(ctx, queryConsentCount, key.AppID, key.OpenID, period.Milliseconds())
}

const queryConsentOpenCount = `SELECT count(*) FROM consents WHERE state = 'pending'`

// Pending counts the open consents of all users.
func (h *ConsentHistory) Pending(ctx context.Context) (int, error) {
	return h.count(ctx, queryConsentOpenCount)
}

const queryConsentOpenBy = `SELECT count(*) AS all_open,
		count(CASE WHEN caller = $1 THEN 1 END) AS theirs,
		count(CASE WHEN caller = $1 AND card IN ('off', 'rate_limited') THEN 1 END) AS without_card
	FROM consents WHERE state = 'pending'`

// Pending counts open consents.
type Pending struct {
	// All are those of all users and callers. Theirs are those of one caller,
	// and WithoutCard those of them whose card was not sent.
	All         int `db:"all_open"`
	Theirs      int `db:"theirs"`
	WithoutCard int `db:"without_card"`
}

// PendingBy counts the open consents of all users, and those that were started
// for caller.
func (h *ConsentHistory) PendingBy(ctx context.Context, caller string) (n Pending, err error) {
	if err := h.db.GetContext(ctx, &n, queryConsentOpenBy, caller); err != nil {
		return Pending{}, unavailable(err, "counting consents")
	}
	return n, nil
}

func (h *ConsentHistory) count(ctx context.Context, query string, args ...any) (int, error) {
	var n int
	if err := h.db.GetContext(ctx, &n, query, args...); err != nil {
		return 0, unavailable(err, "counting consents")
	}
	return n, nil
}

const queryScopesAnswered = `SELECT scopes FROM consents
	WHERE app_id = $1 AND open_id = $2 AND changed_at > larkside_now() - $3
		AND (state = 'done' OR state = 'failed' AND reason IN ($4, $5, $6))`

// ScopesAnswered returns the scopes of the consents that key's user granted, or
// that Lark refused for their scopes, in the last period. If the session lacks
// one of them, asking for it again would bring nothing.
func (h *ConsentHistory) ScopesAnswered(ctx context.Context, key session.Key, period time.Duration) ([]string, error) {
	var lists []string
	err := h.db.SelectContext(ctx, &lists, queryScopesAnswered, key.AppID, key.OpenID, period.Milliseconds(),
		session.ScopeNotEnabled, session.ScopeMalformed, session.InvalidScope)
	if err != nil {
		return nil, unavailable(err, "looking for scopes that were asked for")
	}
	return strings.Fields(strings.Join(lists, " ")), nil
}

const (
	queryConsentForgetUpTo = `SELECT created_at FROM consents WHERE state <> 'pending' AND created_at <= $1 ORDER BY created_at LIMIT 1 OFFSET $2`
	queryConsentForget     = `DELETE FROM consents WHERE state <> 'pending' AND created_at <= $1`
)

// Forget deletes the closed consents that are older than period.
func (h *ConsentHistory) Forget(ctx context.Context, period time.Duration) error {
	now, err := h.db.now(ctx)
	if err != nil {
		return unavailable(err, "deleting old consents")
	}
	return forget(ctx, h.db, "deleting old consents", queryConsentForgetUpTo, queryConsentForget, now-period.Milliseconds())
}
