package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

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
	db       *database
	ring     *seal.Keyring
	users    telemetry.Users
	patience time.Duration // of a search
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
	// searchFor is how long one call looks through names.
	searchFor = 700 * time.Millisecond
)

// searchColumns are those of a [Page]. The tokens are not read. Where there is
// none, there is no time at which it ends.
const searchColumns = `app_id, open_id, union_id, user_id, profile, state, reason,
		NULL AS access_token, NULL AS refresh_token, token_type, token_url, scope, issued_at,
		CASE WHEN access_token IS NULL THEN 0 ELSE expires_at END AS expires_at,
		CASE WHEN refresh_token IS NULL THEN 0 ELSE refresh_expires_at END AS refresh_expires_at, granted_at, refreshed_at, changed_at, usable_until, version, attempts,
		failures, retry_at, synced_at`

// The row value comparison uses the index of the primary key, which a chain of
// ORs does not.
const querySearch = `SELECT ` + searchColumns + ` FROM sessions
	WHERE (app_id, open_id) > ($1, $2) AND ($3 = '' OR app_id = $3) AND ($4 = '' OR state = $4)
	ORDER BY app_id, open_id LIMIT $5`

// Every index begins with the app, so the apps are gone through, each by one step
// in the index of the primary key. CROSS JOIN makes SQLite begin with what is
// found.
const querySearchExact = `WITH RECURSIVE apps(id) AS (
		SELECT min(app_id) FROM sessions
		UNION ALL SELECT (SELECT min(app_id) FROM sessions WHERE app_id > apps.id) FROM apps WHERE apps.id IS NOT NULL),
	found(app, open) AS (
		SELECT app_id, open_id FROM apps JOIN sessions ON app_id = apps.id AND open_id = $1
		UNION SELECT app_id, open_id FROM apps JOIN sessions ON app_id = apps.id AND union_id = $1 AND union_id <> ''
		UNION SELECT app_id, open_id FROM apps JOIN sessions ON app_id = apps.id AND user_id = $1 AND user_id <> '')
	SELECT ` + searchColumns + ` FROM found CROSS JOIN sessions
	WHERE app_id = found.app AND open_id = found.open AND ($2 = '' OR app_id = $2) AND ($3 = '' OR state = $3)
	ORDER BY app_id, open_id LIMIT $4`

// Search returns up to limit sessions after the key after, whose open_id,
// union_id, user_id, name or email contains text, in any case, or whose user has
// text in the logs. An empty text finds all.
//
// Those that have text as an id come first, however many sessions there are, and
// are the whole result if text is somebody's open_id or union_id. The rest comes
// in key order. Names are sealed, so no index helps: one call looks for most of
// a second, and may return fewer than limit although there are more.
func (d *Directory) Search(ctx context.Context, after session.Key, f SessionFilter, text string, limit int) (*Page, error) {
	return d.search(ctx, after, f, text, limit, strings.Contains)
}

// Find is Search for a whole id, name, email or what the logs show.
func (d *Directory) Find(ctx context.Context, after session.Key, f SessionFilter, user string, limit int) (*Page, error) {
	if strings.TrimSpace(user) == "" {
		return &Page{}, nil
	}
	return d.search(ctx, after, f, user, limit, func(name, user string) bool { return name == user })
}

// search takes those for whom fits reports true of a name and text, both in lower
// case.
func (d *Directory) search(ctx context.Context, after session.Key, f SessionFilter, text string, limit int, fits func(name, text string) bool) (*Page, error) {
	id := strings.TrimSpace(text)
	text = strings.ToLower(id)
	page := &Page{}
	if id != "" && after == (session.Key{}) {
		var rows []sessionRow
		if err := d.db.SelectContext(ctx, &rows, querySearchExact, id, f.AppID, f.State, limit); err != nil {
			return nil, unavailable(err, "searching sessions")
		}
		for i := range rows {
			page.Sessions = append(page.Sessions, *d.see(&rows[i]))
		}
		if len(rows) > 0 && (strings.HasPrefix(id, "ou_") || strings.HasPrefix(id, "on_")) {
			return page, nil
		}
	}
	// What has text as an id was on the first page.
	wanted := func(s *session.Session) bool {
		return text == "" || !hasID(s, id) && d.isCalled(s, text, fits)
	}
	for began := time.Now(); page.Examined == 0 || time.Since(began) < d.patience; {
		chunk := searchChunk
		if text == "" {
			chunk = min(limit-len(page.Sessions)+1, searchChunk)
		}
		var rows []sessionRow
		if err := d.db.SelectContext(ctx, &rows, querySearch, after.AppID, after.OpenID, f.AppID, f.State, chunk); err != nil {
			return nil, unavailable(err, "searching sessions")
		}
		for i := range rows {
			if len(page.Sessions) >= limit {
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

// namesChunk is how many users one statement names.
const namesChunk = 50

// Postgres and SQLite have no common way to pass a list, so there is a place for
// each user of a chunk.
const queryNames = `SELECT app_id, open_id, profile FROM sessions
	WHERE app_id = $1 AND profile IS NOT NULL AND open_id IN (
		$2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24,
		$25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43, $44, $45, $46,
		$47, $48, $49, $50, $51)`

// Names returns the names of those of keys who have one. A session that is over has
// one too, until it is deleted.
func (d *Directory) Names(ctx context.Context, keys []session.Key) (map[session.Key]string, error) {
	users := make(map[string][]string) // by app
	for _, key := range keys {
		if key.OpenID != "" && !slices.Contains(users[key.AppID], key.OpenID) {
			users[key.AppID] = append(users[key.AppID], key.OpenID)
		}
	}
	names := make(map[session.Key]string)
	for app, openIDs := range users {
		for chunk := range slices.Chunk(openIDs, namesChunk) {
			args := make([]any, 1+namesChunk)
			args[0] = app
			for i := range namesChunk {
				args[1+i] = ""
				if i < len(chunk) {
					args[1+i] = chunk[i]
				}
			}
			var rows []sessionRow
			if err := d.db.SelectContext(ctx, &rows, queryNames, args...); err != nil {
				return nil, unavailable(err, "looking up names")
			}
			for i := range rows {
				if s := d.see(&rows[i]); s.Profile.Name != "" {
					names[s.Key] = s.Profile.Name
				}
			}
		}
	}
	return names, nil
}

// hasID reports whether id is one of s's.
func hasID(s *session.Session, id string) bool {
	return id == s.OpenID || id == s.UnionID || id == s.UserID
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

// The index sessions_state is read from end to end, which is a fiftieth of the
// table.
const queryCounts = `SELECT app_id, state, count(*) AS sessions FROM sessions GROUP BY app_id, state ORDER BY app_id, state`

// Counts counts all sessions, by app and state. It reads a whole
// index, so call it every few seconds at most.
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
