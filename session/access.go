package session

import (
	"context"
	"errors"
)

// Only what an Access is made of is read and opened: this is the statement that
// requests wait for.
const queryAccess = `SELECT state, reason, access_token, token_type, issued_at, expires_at,
		CASE WHEN refresh_token IS NULL THEN 0 ELSE 1 END AS renewable, version, retry_at
	FROM sessions WHERE app_id = $1 AND open_id = $2`

type accessRow struct {
	State       string `db:"state"`
	Reason      string `db:"reason"`
	AccessToken []byte `db:"access_token"`
	TokenType   string `db:"token_type"`
	IssuedAt    int64  `db:"issued_at"`
	ExpiresAt   int64  `db:"expires_at"`
	Renewable   int64  `db:"renewable"`
	Version     int64  `db:"version"`
	RetryAt     int64  `db:"retry_at"`
}

// load reads key's access token from its row into the cache.
func (s *Store) load(ctx context.Context, key Key) (*Access, error) {
	t := s.cache.ticket(key)
	var r accessRow
	err := s.db.get(ctx, &r, key.AppID, key.OpenID)
	if err := noRows(err, ErrNotFound, "loading a session"); err != nil {
		if errors.Is(err, ErrNotFound) {
			s.cache.remove(key)
		}
		return nil, err
	}
	token, err := s.ring.open(r.AccessToken, accessPlace(key))
	if err != nil {
		return nil, unavailable(err, "opening a stored session")
	}
	a := &Access{
		Key: key, State: State(shared(r.State)), Reason: Reason(shared(r.Reason)), Version: r.Version,
		issuedAt: r.IssuedAt, expiresAt: r.ExpiresAt, retryAt: r.RetryAt,
		Renewable: r.Renewable != 0 && State(r.State) != ConsentRequired,
	}
	a.setToken(token, r.TokenType)
	s.remember(a, t)
	return a, nil
}
