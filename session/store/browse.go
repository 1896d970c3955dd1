package store

import (
	"context"
	"math"
	"slices"

	"larkside/session"
)

// Order is how [Directory.Browse] sorts sessions. Each order follows indexes: a page
// costs as much with a million sessions as with a hundred.
type Order string

const (
	// OrderNeed begins with what needs somebody: refreshes that fail, then users who
	// have to consent, then users who are gone or not permitted. What works and what
	// was revoked follows.
	OrderNeed Order = "need"
	// OrderUser is the order of app_id and open_id.
	OrderUser Order = "user"
	// OrderChange begins with the latest change of tokens or state.
	OrderChange Order = "changed"
	// OrderEnd begins with the session that ends next if nothing is renewed. After
	// those that will end come those that have ended, the latest first.
	OrderEnd Order = "ends"
)

// Cursor is where in an order a page begins. The zero Cursor is the beginning.
type Cursor struct {
	// Tier is a part of [OrderNeed] or [OrderEnd].
	Tier int
	// At is milliseconds since 1970 UTC: of the latest change, or of the end. It is
	// zero where an order, or a part of one, goes by the key.
	At  int64
	Key session.Key
}

// Listing is a page of [Directory.Browse].
type Listing struct {
	Sessions []session.Session
	// Next is where the following page begins; nil: this is the last one.
	Next *Cursor
}

// The tiers of [OrderNeed], in their order.
const (
	tierFailing = iota
	tierAsking
	tierDisabled
	tierWorking
	tierRevoked
	tiers
)

// The tiers of [OrderEnd], in their order.
const (
	tierToCome = iota
	tierOver
	endTiers
)

const (
	queryFailing = `SELECT ` + searchColumns + ` FROM sessions
	WHERE state = 'active' AND failures > 0 AND (app_id, open_id) > ($1, $2) AND ($3 = '' OR app_id = $3)
	ORDER BY app_id, open_id LIMIT $4`
	queryEnded = `SELECT ` + searchColumns + ` FROM sessions
	WHERE state <> 'active' AND reason <> 'revoked' AND state = $1
		AND (changed_at, app_id, open_id) < ($2, $3, $4) AND ($5 = '' OR app_id = $5)
	ORDER BY changed_at DESC, app_id DESC, open_id DESC LIMIT $6`
	queryWorking = `SELECT ` + searchColumns + ` FROM sessions
	WHERE state = 'active' AND failures = 0 AND (app_id, open_id) > ($1, $2) AND ($3 = '' OR app_id = $3)
	ORDER BY app_id, open_id LIMIT $4`
	queryRevoked = `SELECT ` + searchColumns + ` FROM sessions
	WHERE reason = 'revoked' AND (changed_at, app_id, open_id) < ($1, $2, $3) AND ($4 = '' OR app_id = $4)
	ORDER BY changed_at DESC, app_id DESC, open_id DESC LIMIT $5`
	queryLatest = `SELECT ` + searchColumns + ` FROM sessions
	WHERE (changed_at, app_id, open_id) < ($1, $2, $3) AND ($4 = '' OR app_id = $4) AND ($5 = '' OR state = $5)
	ORDER BY changed_at DESC, app_id DESC, open_id DESC LIMIT $6`

	queryEndsNext = `SELECT ` + searchColumns + ` FROM sessions
	WHERE (usable_until, app_id, open_id) > ($1, $2, $3) AND ($4 = '' OR app_id = $4) AND ($5 = '' OR state = $5)
	ORDER BY usable_until, app_id, open_id LIMIT $6`
	queryEndedLast = `SELECT ` + searchColumns + ` FROM sessions
	WHERE (usable_until, app_id, open_id) < ($1, $2, $3) AND ($4 = '' OR app_id = $4) AND ($5 = '' OR state = $5)
	ORDER BY usable_until DESC, app_id DESC, open_id DESC LIMIT $6`
)

// Browse returns up to limit sessions from a cursor on, without their tokens.
func (d *Directory) Browse(ctx context.Context, o Order, from Cursor, f SessionFilter, limit int) (*Listing, error) {
	p := &Listing{}
	last, now := 1, int64(0)
	switch o {
	case OrderNeed:
		last = tiers
	case OrderEnd:
		last = endTiers
		var err error
		if now, err = d.db.now(ctx); err != nil {
			return nil, unavailable(err, "listing sessions")
		}
	default:
		from.Tier = 0
	}
	for tier := max(0, from.Tier); tier < last; tier++ {
		if tier > from.Tier {
			from = Cursor{Tier: tier}
		}
		var rows []sessionRow
		var query string
		var args []any
		switch o {
		case OrderUser:
			query, args = querySearch, []any{from.Key.AppID, from.Key.OpenID, f.AppID, f.State}
		case OrderChange:
			query, args = queryLatest, append(before(from), f.AppID, f.State)
		case OrderEnd:
			query, args = endQuery(tier, from, f, now)
		default:
			query, args = needQuery(tier, from, f)
		}
		if query == "" {
			continue
		}
		if err := d.db.SelectContext(ctx, &rows, query, append(args, limit-len(p.Sessions)+1)...); err != nil {
			return nil, unavailable(err, "listing sessions")
		}
		for i := range rows {
			if len(p.Sessions) == limit {
				p.Next = &from
				return p, nil
			}
			p.Sessions = append(p.Sessions, *d.see(&rows[i]))
			from = Cursor{Tier: tier, At: rows[i].ChangedAt, Key: session.Key{AppID: rows[i].AppID, OpenID: rows[i].OpenID}}
			if o == OrderEnd {
				from.At = rows[i].UsableUntil
			}
		}
	}
	return p, nil
}

// needQuery returns the query that reads a tier of [OrderNeed] from a cursor on,
// and its arguments without the limit. The query is "" if f leaves the tier out.
func needQuery(tier int, from Cursor, f SessionFilter) (query string, args []any) {
	states := []session.State{tierFailing: session.Active, tierAsking: session.ConsentRequired, tierDisabled: session.Disabled,
		tierWorking: session.Active, tierRevoked: session.ConsentRequired}
	if tier >= len(states) || f.State != "" && f.State != states[tier] {
		return "", nil
	}
	switch tier {
	case tierFailing:
		return queryFailing, []any{from.Key.AppID, from.Key.OpenID, f.AppID}
	case tierWorking:
		return queryWorking, []any{from.Key.AppID, from.Key.OpenID, f.AppID}
	case tierRevoked:
		return queryRevoked, append(before(from), f.AppID)
	}
	return queryEnded, slices.Concat([]any{states[tier]}, before(from), []any{f.AppID})
}

// endQuery is needQuery for [OrderEnd]. What will end is active.
func endQuery(tier int, from Cursor, f SessionFilter, now int64) (query string, args []any) {
	if tier == tierToCome && f.State != "" && f.State != session.Active {
		return "", nil
	}
	if from.At == 0 && from.Key == (session.Key{}) {
		from.At = now + 1 // what ends in this very millisecond has ended
	}
	query = queryEndsNext
	if tier == tierOver {
		query = queryEndedLast
	}
	return query, []any{from.At, from.Key.AppID, from.Key.OpenID, f.AppID, f.State}
}

// before returns the arguments of a comparison with a cursor in the order of changes,
// the latest first.
func before(from Cursor) []any {
	at := from.At
	if at == 0 {
		at = math.MaxInt64
	}
	return []any{at, from.Key.AppID, from.Key.OpenID}
}
