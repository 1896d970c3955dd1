package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// What people look at: sessions without their tokens, and numbers. A LIMIT
// bounds what comes back, not what the database reads to find it: a rare state
// may be looked for in every row of an app, and counting reads every row. What
// bounds that is queryTimeout, after which the answer is ErrUnavailable.

// Everything but the tokens, which never leave the database for this. A row
// value is compared by the primary key's index; a chain of ORs is not.
const queryBrowse = `SELECT app_id, open_id, union_id, user_id, profile, state, reason,
		NULL AS access_token, NULL AS refresh_token, token_type, token_url, scope, issued_at, expires_at,
		refresh_expires_at, granted_at, refreshed_at, version, attempts, attempt_at,
		failures, retry_at, synced_at
	FROM sessions
	WHERE (app_id, open_id) > ($1, $2) AND ($3 = '' OR app_id = $3) AND ($4 = '' OR state = $4)
	ORDER BY app_id, open_id LIMIT $5`

const queryCounts = `SELECT app_id, state, count(*) AS sessions FROM sessions GROUP BY app_id, state ORDER BY app_id, state`

// The parts are looks into indexes; pending consents are counted, all others are
// one step each.
const queryPulse = `SELECT
	(SELECT coalesce(max(changed_at), 0) FROM sessions) AS sessions,
	(SELECT coalesce(max(id), '') FROM consents) AS consent,
	(SELECT count(*) FROM consents WHERE state = 'pending') AS pending,
	(SELECT coalesce(max(id), '') FROM audit) AS entry`

const (
	// browseChunk is how many rows one statement reads, browseMost how many one
	// call looks through.
	browseChunk = 1000
	browseMost  = 20_000
)

// Page is some of the sessions that were looked for. They are without tokens.
type Page struct {
	Sessions []Session
	// After is the key to go on behind; the zero Key when there is nothing more.
	After Key
	// Examined is how many rows were looked at.
	Examined int
}

// Browse returns up to limit sessions after the key after, in key order, whose
// open_id, union_id, user_id or name contains text, in any case (empty: all).
// Names are sealed, so no index helps: one call looks through 20,000 rows at
// most, and may return fewer than limit with more to come.
func (s *Store) Browse(ctx context.Context, after Key, f Filter, text string, limit int) (*Page, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	page := &Page{}
	for page.Examined < browseMost {
		chunk := browseChunk
		if text == "" {
			chunk = limit - len(page.Sessions) + 1
		}
		var rows []row
		if err := s.db.SelectContext(ctx, &rows, queryBrowse, after.AppID, after.OpenID, f.AppID, f.State, chunk); err != nil {
			return nil, unavailable(err, "looking through sessions")
		}
		for i := range rows {
			if len(page.Sessions) == limit {
				page.After = after
				return page, nil
			}
			one, err := s.unseal(&rows[i])
			if err != nil {
				return nil, err
			}
			after = one.Key
			page.Examined++
			if one.names(text) {
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

// names reports whether one of s's names contains text, which is in lower case.
func (s *Session) names(text string) bool {
	if text == "" {
		return true
	}
	for _, name := range []string{s.OpenID, s.UnionID, s.UserID, s.Profile.Name} {
		if strings.Contains(strings.ToLower(name), text) {
			return true
		}
	}
	return false
}

// Count is how many sessions of an app are in a state.
type Count struct {
	AppID    string `db:"app_id"`
	State    State  `db:"state"`
	Sessions int    `db:"sessions"`
}

// Counts counts all sessions, by app and state. It reads every row: ask it
// every few seconds at most.
func (s *Store) Counts(ctx context.Context) ([]Count, error) {
	var counts []Count
	if err := s.db.SelectContext(ctx, &counts, queryCounts); err != nil {
		return nil, unavailable(err, "counting sessions")
	}
	return counts, nil
}

// Pulse returns a text that is another one after a session has got other tokens
// or another state, a consent has begun or stopped to wait, or the audit trail
// has grown. Of a profile that was read and a refresh that failed and is tried
// again it tells nothing. It is cheap; what is written within the same
// millisecond may be told one change late.
func (s *Store) Pulse(ctx context.Context) (string, error) {
	var p struct {
		Sessions int64  `db:"sessions"`
		Consent  string `db:"consent"`
		Pending  int    `db:"pending"`
		Entry    string `db:"entry"`
	}
	if err := s.db.GetContext(ctx, &p, queryPulse); err != nil {
		return "", unavailable(err, "looking for changes")
	}
	return fmt.Sprintf("%d %s %d %s", p.Sessions, p.Consent, p.Pending, p.Entry), nil
}

// RateUsed returns how much of each limit the calls counted under name use now;
// see [Store.TakeRate]. It changes nothing.
func (s *Store) RateUsed(ctx context.Context, name string, limits []Limit) ([]int, error) {
	used := make([]int, len(limits))
	var r struct {
		Windows string `db:"windows"`
		Version int64  `db:"version"`
		Now     int64  `db:"now"`
	}
	err := s.db.GetContext(ctx, &r, queryRate, name)
	if errors.Is(err, sql.ErrNoRows) {
		return used, nil
	}
	if err != nil {
		return nil, unavailable(err, "reading counted calls")
	}
	var windows []window
	if json.Unmarshal([]byte(r.Windows), &windows) != nil || len(windows) != len(limits) {
		return used, nil
	}
	for i := range windows {
		// Asked for as much as there can be, take answers what is free.
		free, _ := windows[i].take(limits[i], r.Now, limits[i].N)
		used[i] = limits[i].N - max(0, free)
	}
	return used, nil
}
