package store

import (
	"context"
	"fmt"

	"larkside/session"
	"larkside/session/seal"
)

// Defaults keeps, for each app, the user who is meant when nobody is named.
type Defaults struct {
	db     *database
	sealer *sealer
}

const querySetDefault = `INSERT INTO default_users (app_id, open_id, proof) VALUES ($1, $2, $3)
	ON CONFLICT (app_id) DO UPDATE SET open_id = excluded.open_id, proof = excluded.proof`

// Set makes key's user the default one of the app.
func (d *Defaults) Set(ctx context.Context, key session.Key) error {
	if err := d.sealer.noteKey(ctx); err != nil {
		return err
	}
	proof := d.sealer.Seal(session.NewSecret("default user"), defaultPlace(key))
	if _, err := d.db.ExecContext(ctx, querySetDefault, key.AppID, key.OpenID, proof); err != nil {
		return unavailable(err, "storing the default user")
	}
	return nil
}

const queryDefault = `SELECT open_id, proof FROM default_users WHERE app_id = $1`

// Get returns the default user of an app. [session.ErrNotFound] if there is none.
//
// The row has a sealed proof that is bound to the user. Without it, whoever can
// write to the database could have one user's requests go out with the token of
// another.
func (d *Defaults) Get(ctx context.Context, appID string) (session.Key, error) {
	var r struct {
		OpenID string `db:"open_id"`
		Proof  []byte `db:"proof"`
	}
	const doing = "reading the default user"
	err := d.db.GetContext(ctx, &r, queryDefault, appID)
	if err := noRows(err, session.ErrNotFound, doing); err != nil {
		return session.Key{}, err
	}
	key := session.Key{AppID: appID, OpenID: r.OpenID}
	proof, err := d.sealer.Open(r.Proof, defaultPlace(key))
	switch {
	case err != nil:
		return session.Key{}, unavailable(err, doing)
	case proof.Empty():
		return session.Key{}, fmt.Errorf("%s: it has no proof: %w", doing, session.ErrUnavailable)
	}
	return key, nil
}

func defaultPlace(k session.Key) seal.Place {
	return seal.Place{Key: k, Column: "default_users.proof"}
}
