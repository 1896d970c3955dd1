package store

import (
	"context"
	"fmt"
	"strings"

	"larkside/session"
	"larkside/session/seal"
	"larkside/telemetry"
)

// Directory is what people look at: lists of sessions, searches and counts.
//
// A LIMIT bounds what comes back, not what the database reads to find it: it
// may look for a rare state in every row of an app, and counting reads every
// row. What bounds that is queryTimeout, after which the answer is
// [session.ErrUnavailable].
type Directory struct {
	db    *database
	ring  *seal.Keyring
	users telemetry.Users
}

// SessionFilter selects sessions. An empty field selects all.
type SessionFilter struct {
	AppID string
	State session.State
}

// List returns up to limit sessions after the key after, in key order, without
// their tokens.
func (d *Directory) List(ctx context.Context, after session.Key, f SessionFilter, limit int) ([]session.Session, error) {
	var rows []sessionRow
	if err := d.db.SelectContext(ctx, &rows, querySearch, after.AppID, after.OpenID, f.AppID, f.State, limit); err != nil {
		return nil, unavailable(err, "listing sessions")
	}
	sessions := make([]session.Session, len(rows))
	for i := range rows {
		sessions[i] = *d.see(&rows[i])
	}
	return sessions, nil
}

// see returns what people may see of a row. A profile that does not open is left
// out: one changed row must not hide the others.
func (d *Directory) see(r *sessionRow) *session.Session {
	s := r.view()
	s.Profile, _ = r.profile(d.ring)
	return s
}

// Page is a part of the sessions that [Directory.Search] found, without their
// tokens.
type Page struct {
	Sessions []session.Session
	// After is the key to continue after. It is zero if there are no more.
	After session.Key
	// Examined is how many rows were looked at.
	Examined int
}

const (
	// searchChunk is how many rows one statement of a search reads.
	searchChunk = 1000
	// searchMost is how many rows one call looks at.
	searchMost = 20_000
)

// The tokens are not read. The row value comparison uses the index of the
// primary key, which a chain of ORs does not.
const querySearch = `SELECT app_id, open_id, union_id, user_id, profile, state, reason,
		NULL AS access_token, NULL AS refresh_token, ` + termsColumns + `, refreshed_at, version, attempts, attempt_at,
		failures, retry_at, synced_at
	FROM sessions
	WHERE (app_id, open_id) > ($1, $2) AND ($3 = '' OR app_id = $3) AND ($4 = '' OR state = $4)
	ORDER BY app_id, open_id LIMIT $5`

// Search returns up to limit sessions after the key after, in key order, whose
// open_id, union_id, user_id, name or email contains text, in any case, or whose
// user has text in the logs. An empty text finds all. Names are sealed, so no
// index helps: one call looks at 20,000 rows at most, and may return fewer than
// limit although there are more.
func (d *Directory) Search(ctx context.Context, after session.Key, f SessionFilter, text string, limit int) (*Page, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	chunk := searchChunk
	if text == "" {
		chunk = min(limit+1, searchChunk)
	}
	return d.search(ctx, after, f, limit, chunk, func(s *session.Session) bool {
		return d.isCalled(s, text, strings.Contains)
	})
}

// Find is Search for a whole id, name, email or what the logs show.
func (d *Directory) Find(ctx context.Context, after session.Key, f SessionFilter, user string, limit int) (*Page, error) {
	user = strings.ToLower(strings.TrimSpace(user))
	if user == "" {
		return &Page{}, nil
	}
	return d.search(ctx, after, f, limit, searchChunk, func(s *session.Session) bool {
		return d.isCalled(s, user, func(name, user string) bool { return name == user })
	})
}

// search reads chunk rows at a time.
func (d *Directory) search(ctx context.Context, after session.Key, f SessionFilter, limit, chunk int, wanted func(*session.Session) bool) (*Page, error) {
	page := &Page{}
	for page.Examined < searchMost {
		var rows []sessionRow
		if err := d.db.SelectContext(ctx, &rows, querySearch, after.AppID, after.OpenID, f.AppID, f.State, chunk); err != nil {
			return nil, unavailable(err, "searching sessions")
		}
		for i := range rows {
			if len(page.Sessions) == limit {
				page.After = after
				return page, nil
			}
			one := d.see(&rows[i])
			after = one.Key
			page.Examined++
			if wanted(one) {
				page.Sessions = append(page.Sessions, *one)
			}
		}
		if len(rows) < chunk {
			return page, nil
		}
	}
	page.After = after
	return page, nil
}

// isCalled reports whether text, which is in lower case, fits one of the names of
// s's user, or is what the logs show of them.
func (d *Directory) isCalled(s *session.Session, text string, fits func(name, text string) bool) bool {
	for _, name := range []string{s.OpenID, s.UnionID, s.UserID, s.Profile.Name, s.Profile.Email} {
		if fits(strings.ToLower(name), text) {
			return true
		}
	}
	return telemetry.IsUserHash(text) && d.users.Show(s.OpenID) == text
}

// Count is how many sessions of an app are in a state.
type Count struct {
	AppID    string        `db:"app_id"`
	State    session.State `db:"state"`
	Sessions int           `db:"sessions"`
}

const queryCounts = `SELECT app_id, state, count(*) AS sessions FROM sessions GROUP BY app_id, state ORDER BY app_id, state`

// Counts counts all sessions, by app and state. It reads every row, so call it
// every few seconds at most.
func (d *Directory) Counts(ctx context.Context) ([]Count, error) {
	var counts []Count
	if err := d.db.SelectContext(ctx, &counts, queryCounts); err != nil {
		return nil, unavailable(err, "counting sessions")
	}
	return counts, nil
}

// Pending consents are counted by an index. The other parts are one step in an
// index each.
const queryFingerprint = `SELECT
	(SELECT coalesce(max(changed_at), 0) FROM sessions) AS sessions,
	(SELECT coalesce(max(id), '') FROM consents) AS consent,
	(SELECT count(*) FROM consents WHERE state = 'pending') AS pending,
	(SELECT coalesce(max(id), '') FROM audit) AS entry`

// Fingerprint returns a text that changes when a session gets other tokens or
// another state, when a consent begins or ends, and when the audit trail grows.
// It does not change when a profile is read, or when a refresh fails and will
// be tried again. It is cheap. A change within a millisecond of another may
// show only with the next change.
func (d *Directory) Fingerprint(ctx context.Context) (string, error) {
	var f struct {
		Sessions int64  `db:"sessions"`
		Consent  string `db:"consent"`
		Pending  int    `db:"pending"`
		Entry    string `db:"entry"`
	}
	if err := d.db.GetContext(ctx, &f, queryFingerprint); err != nil {
		return "", unavailable(err, "looking for changes")
	}
	return fmt.Sprintf("%d %s %d %s", f.Sessions, f.Consent, f.Pending, f.Entry), nil
}
