package store

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Elections gives each named job to one replica at a time.
type Elections struct {
	db    *database
	owner string // this process, random
}

// The leader is read first: many replicas ask all the time, and for each of them
// the statement that takes the lead would lock the row and write. A lease that
// ends after longestLead counts as free: its database's clock was wrong, and the
// job would be done by nobody.
const queryLeader = `SELECT owner FROM leases
	WHERE name = $1 AND until > (SELECT larkside_now()) AND until <= (SELECT larkside_now()) + $2`

// The lease of a job can be taken if it is free, and kept by its owner.
const queryLead = `INSERT INTO leases (name, owner, until) VALUES ($1, $2, larkside_now() + $3)
	ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
	WHERE leases.until NOT BETWEEN larkside_now() + 1 AND larkside_now() + $4 OR leases.owner = excluded.owner
	RETURNING owner`

// longestLead is more than any ttl.
const longestLead = time.Hour

// Lead reports whether this process does the named job for all replicas, for
// the next ttl, an hour at most. Calling it again within ttl keeps the job.
func (e *Elections) Lead(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	var owner string
	err := e.db.GetContext(ctx, &owner, queryLeader, name, longestLead.Milliseconds())
	if err == nil && owner != e.owner {
		return false, nil
	}
	if err == nil || errors.Is(err, sql.ErrNoRows) {
		err = e.db.GetContext(ctx, &owner, queryLead, name, e.owner, ttl.Milliseconds(), longestLead.Milliseconds())
	}
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(err, "taking the lead")
	}
	return owner == e.owner, nil
}
