package session

import (
	"context"
	"time"
)

// SetSettle shortens the wait of Reseal for other replicas.
func (s *Store) SetSettle(d time.Duration) { s.settle = d }

// ResealAround reads a batch of sessions to seal anew, calls between, stores
// the batch, and returns how many rows were replaced.
func (s *Store) ResealAround(ctx context.Context, between func()) (int, error) {
	r := &resealing{store: s, key: (*s.ring.keys.Load())[0]}
	rows, err := r.read(ctx, &sealedTables[0], []any{"", ""})
	if err != nil {
		return 0, err
	}
	between()
	_, err = r.replace(ctx, &sealedTables[0], rows)
	return r.done.Sealed, err
}

// SealedColumns are table.column of all that Reseal goes through.
func SealedColumns() []string {
	var all []string
	for _, t := range sealedTables {
		for _, column := range t.columns {
			all = append(all, t.name+"."+column)
		}
	}
	return all
}
