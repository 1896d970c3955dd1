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
)

// Place is where in an order a page begins. The zero Place is the beginning.
type Place struct {
	// Tier is a part of [OrderNeed].
	Tier int
	// Changed is milliseconds since 1970 UTC. It is zero where an order, or a part
	// of one, goes by the key.
	Changed int64
	Key     session.Key
}

// Listing is a page of [Directory.Browse].
type Listing struct {
	Sessions []session.Session
	// Next is where the following page begins; nil: this is the last one.
	Next *Place
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
)

// Browse returns up to limit sessions from a place in an order, without their tokens.
func (d *Directory) Browse(ctx context.Context, o Order, from Place, f SessionFilter, limit int) (*Listing, error) {
	p := &Listing{}
	last := tiers
	if o != OrderNeed {
		from.Tier, last = 0, 1
	}
	for tier := max(0, from.Tier); tier < last; tier++ {
		if tier > from.Tier {
			from = Place{Tier: tier}
		}
		var rows []sessionRow
		query, args := tierQuery(tier, from, f)
		switch o {
		case OrderUser:
			query, args = querySearch, []any{from.Key.AppID, from.Key.OpenID, f.AppID, f.State}
		case OrderChange:
			query, args = queryLatest, append(before(from), f.AppID, f.State)
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
			from = Place{Tier: tier, Changed: rows[i].ChangedAt, Key: session.Key{AppID: rows[i].AppID, OpenID: rows[i].OpenID}}
		}
	}
	return p, nil
}

// tierQuery returns what reads a tier from a place on, without the limit; "" where f
// leaves the tier out.
func tierQuery(tier int, from Place, f SessionFilter) (query string, args []any) {
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

// before returns the arguments of a comparison with a place in the order of changes,
// the latest first.
func before(from Place) []any {
	changed := from.Changed
	if changed == 0 {
		changed = math.MaxInt64
	}
	return []any{changed, from.Key.AppID, from.Key.OpenID}
}
