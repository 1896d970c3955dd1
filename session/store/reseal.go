package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"larkside/session"
	"larkside/session/seal"
)

// sealedTable is a table with sealed columns. Its rows have app_id and open_id,
// and the records in a row are bound to these.
type sealedTable struct {
	name    string
	columns []string
	// order is the primary key.
	order []string
	// row is a further column that the records are bound to, if any.
	row string
	// vouches has, by sealed column, the columns whose values its records vouch
	// for.
	vouches map[string][]string
}

// sealedTables are all tables with sealed columns. A test compares the list
// with the schema.
var sealedTables = []sealedTable{
	{name: "sessions", columns: []string{"union_id_seal", "user_id_seal", "profile", "access_token", "refresh_token"}, order: []string{"app_id", "open_id"},
		vouches: map[string][]string{"access_token": strings.Split(termsColumns, ", "), "refresh_token": strings.Split(termsColumns, ", ")}},
	{name: "consents", columns: []string{"seal", "link", "secret"}, order: []string{"id"}, row: "id",
		vouches: map[string][]string{"seal": {"flow", "scopes"}}},
	{name: "default_users", columns: []string{"proof"}, order: []string{"app_id"}},
}

const (
	// resealBatch is how many rows are sealed anew in one transaction. They are
	// few, so that other writers need not wait.
	resealBatch = 50
	// resealPasses bounds how often the tables are gone through. A second pass
	// finds what changed during the first.
	resealPasses = 10
	// resealScan bounds a statement that reads a whole table.
	resealScan = 2 * time.Minute
	// notedFor is how long a process assumes that the key that it seals with is
	// in encryption_keys.
	notedFor = 2 * time.Second
	// resealSettle is the time in which a write of another replica has ended:
	// one that was under way, or that relied on notedFor.
	resealSettle = notedFor + 2*queryTimeout
)

// Resealed is what [DB.Reseal] has done so far.
type Resealed struct {
	// Key is the id of the key under which everything is sealed in the end.
	Key string `json:"key"`
	// Sealed counts the rows that were sealed anew.
	Sealed int `json:"sealed"`
	// Unreadable counts the rows that do not open with any key of the ring.
	// They stay as they are, and their keys stay in use.
	Unreadable int `json:"unreadable"`
	// Retired are the ids of the keys that seal nothing any more and may leave
	// the ring.
	Retired []string `json:"retired"`
	// Settling reports whether Reseal only waits, to see whether another
	// replica still seals under another key.
	Settling bool `json:"settling"`
}

// ErrReseal means that not everything could be sealed under the first key. The
// rest was.
var ErrReseal = errors.New("not everything is sealed under the first key")

// Reseal seals everything under the ring's first key, while this and other
// replicas serve. Then it removes the keys that seal nothing any more from the
// list of those that a start needs. progress is called after each batch, on
// this goroutine. It may be nil.
//
// A record is replaced only if it is still the one that was read, so what a
// refresh stores meanwhile is not overwritten. The row's version stays, so a
// refresh under way is not disturbed. Every replica must have the new key
// before. Reseal notices a replica that still seals under another key, and
// keeps that key on the list. It may be interrupted anywhere, called again, and
// run twice at once.
//
// Errors wrap [ErrReseal] or [session.ErrUnavailable]. The result says what was
// done before.
func (d *DB) Reseal(ctx context.Context, progress func(Resealed)) (Resealed, error) {
	r := newResealing(d, progress)
	err := r.run(ctx)
	return r.done, err
}

// resealing is one run of [DB.Reseal].
type resealing struct {
	d        *DB
	key      seal.EncryptionKey
	done     Resealed
	progress func(Resealed)
}

func newResealing(d *DB, progress func(Resealed)) *resealing {
	r := &resealing{d: d, key: d.sealer.First(), progress: progress}
	r.done = Resealed{Key: r.key.ID(), Retired: []string{}}
	return r
}

func (r *resealing) run(ctx context.Context) error {
	if err := r.d.sealer.note(ctx, r.key); err != nil {
		return err
	}
	if err := r.sealAll(ctx); err != nil {
		return err
	}
	removed, err := r.retire(ctx)
	if err != nil || len(removed) == 0 {
		return errors.Join(err, r.unreadable())
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	// Another replica that sealed under a removed key has done so by now, or
	// puts the key on the list again before it does.
	for _, id := range removed {
		if err := r.reinstate(ctx, id); err != nil {
			return err
		}
	}
	return r.unreadable()
}

// unreadable returns the error for the rows that did not open, if there are any.
func (r *resealing) unreadable() error {
	if r.done.Unreadable > 0 {
		return fmt.Errorf("%w: %d rows do not open with the keys that are configured", ErrReseal, r.done.Unreadable)
	}
	return nil
}

func (r *resealing) report() {
	if r.progress != nil {
		r.progress(r.done)
	}
}

// sealAll goes through all tables until a pass finds nothing to do.
func (r *resealing) sealAll(ctx context.Context) error {
	for range resealPasses {
		r.done.Unreadable = 0
		open := 0
		for i := range sealedTables {
			n, err := r.pass(ctx, &sealedTables[i])
			if err != nil {
				return err
			}
			open += n
		}
		if open == 0 {
			return nil
		}
	}
	return errStillInUse
}

// pass goes through one table once. It returns how many rows it found that could
// be sealed anew.
func (r *resealing) pass(ctx context.Context, t *sealedTable) (found int, err error) {
	after := make([]any, len(t.order))
	for i := range after {
		after[i] = ""
	}
	for {
		rows, err := r.read(ctx, t, after)
		if err != nil || len(rows) == 0 {
			return found, err
		}
		last := rows[len(rows)-1]
		after = last.position(t)
		n, err := r.replace(ctx, t, rows)
		found += n
		if err != nil {
			return found, err
		}
		r.report()
	}
}

// sealedRow is one row of a sealed table.
type sealedRow map[string]any

func (row sealedRow) text(column string) string {
	switch v := row[column].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case int64:
		return number(v)
	}
	return ""
}

func (row sealedRow) record(column string) []byte {
	record, _ := row[column].([]byte)
	return record
}

func (row sealedRow) position(t *sealedTable) []any {
	at := make([]any, len(t.order))
	for i, column := range t.order {
		at[i] = row.text(column)
	}
	return at
}

func (row sealedRow) place(t *sealedTable, column string) seal.Place {
	p := seal.Place{Key: session.Key{AppID: row.text("app_id"), OpenID: row.text("open_id")}, Column: t.name + "." + column}
	if t.row != "" {
		p.Row = row.text(t.row)
	}
	for _, other := range t.vouches[column] {
		p.Vouches = append(p.Vouches, row.text(other))
	}
	return p
}

// read returns the next rows that have a record under another key.
func (r *resealing) read(ctx context.Context, t *sealedTable, after []any) ([]sealedRow, error) {
	ctx, cancel := context.WithTimeout(ctx, resealScan)
	defer cancel()
	begins := seal.Prefix(r.key.ID())
	cursor, err := r.d.db.QueryxContext(ctx, t.queryBehind(), append([]any{begins, len(begins), resealBatch}, after...)...)
	if err != nil {
		return nil, unavailable(err, "looking for records under other keys")
	}
	defer cursor.Close()
	var rows []sealedRow
	for cursor.Next() {
		row := sealedRow{}
		if err := cursor.MapScan(row); err != nil {
			return nil, unavailable(err, "looking for records under other keys")
		}
		rows = append(rows, row)
	}
	if err := cursor.Err(); err != nil {
		return nil, unavailable(err, "looking for records under other keys")
	}
	return rows, nil
}

// replace seals rows anew and stores them in one transaction. The next pass
// handles a row that has changed since it was read.
func (r *resealing) replace(ctx context.Context, t *sealedTable, rows []sealedRow) (found int, err error) {
	var updates [][]any
	for _, row := range rows {
		args, err := r.reseal(t, row)
		if err != nil {
			r.d.log.ErrorContext(ctx, "a stored record does not open", "table", t.name, "app_id", row.text("app_id"), "error", err)
			r.done.Unreadable++
			continue
		}
		updates = append(updates, args)
	}
	var sealed int
	err = r.d.db.transact(ctx, "sealing records anew", 2*queryTimeout, func(ctx context.Context, tx *sqlx.Tx) (err error) {
		sealed, err = r.update(ctx, tx, t, updates)
		return err
	})
	if err != nil {
		return 0, err
	}
	r.done.Sealed += sealed
	return len(updates), nil
}

func (r *resealing) update(ctx context.Context, tx *sqlx.Tx, t *sealedTable, updates [][]any) (sealed int, err error) {
	query := t.queryReseal()
	for _, args := range updates {
		result, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return 0, unavailable(err, "sealing records anew")
		}
		n, err := result.RowsAffected()
		if err != nil {
			return 0, unavailable(err, "sealing records anew")
		}
		sealed += int(n)
	}
	return sealed, nil
}

// reseal returns the arguments of queryReseal: the primary key, and for each
// column the new record and the one that it replaces.
func (r *resealing) reseal(t *sealedTable, row sealedRow) ([]any, error) {
	args := row.position(t)
	for _, column := range t.columns {
		old := row.record(column)
		record, err := r.d.sealer.Reseal(old, r.key, row.place(t, column))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", column, err)
		}
		args = append(args, record, old)
	}
	return args, nil
}

// retire removes every key that seals nothing from the list, and returns their
// ids.
func (r *resealing) retire(ctx context.Context) (removed []string, err error) {
	var ids []string
	if err := r.d.db.SelectContext(ctx, &ids, `SELECT id FROM encryption_keys WHERE id <> $1 ORDER BY id`, r.key.ID()); err != nil {
		return nil, unavailable(err, "reading the encryption keys in use")
	}
	ctx, cancel := context.WithTimeout(ctx, resealScan)
	defer cancel()
	for _, id := range ids {
		begins := seal.Prefix(id)
		result, err := r.d.db.DB.ExecContext(ctx, `DELETE FROM encryption_keys WHERE id = $3 AND NOT (`+conditionUsed()+`)`, begins, len(begins), id)
		if err = changedOne(result, err, "removing an encryption key"); err == nil {
			removed = append(removed, id)
		} else if !errors.Is(err, session.ErrConflict) {
			return removed, err
		}
	}
	r.done.Retired = append(r.done.Retired, removed...)
	if len(removed) < len(ids) && r.done.Unreadable == 0 {
		return removed, errStillInUse
	}
	return removed, nil
}

var errStillInUse = fmt.Errorf("%w: another replica seals under another key; give every replica the new key first, then run this again", ErrReseal)

// settle waits, if other replicas may write.
func (r *resealing) settle(ctx context.Context) error {
	if r.d.conn.dialect == dialectSQLite {
		return nil // this process is the only one, and seals under the first key
	}
	r.done.Settling = true
	r.report()
	defer func() { r.done.Settling = false }()
	timer := time.NewTimer(r.d.settle)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: cut off while waiting for other replicas: %w", ErrReseal, context.Cause(ctx))
	}
}

// reinstate puts a removed key on the list again if something is sealed under
// it.
func (r *resealing) reinstate(ctx context.Context, id string) error {
	scan, cancel := context.WithTimeout(ctx, resealScan)
	defer cancel()
	begins := seal.Prefix(id)
	var used int
	err := r.d.db.DB.GetContext(scan, &used, `SELECT CASE WHEN `+conditionUsed()+` THEN 1 ELSE 0 END`, begins, len(begins))
	if err != nil {
		return unavailable(err, "looking for records under other keys")
	}
	if used == 0 {
		return nil
	}
	r.done.Retired = slices.DeleteFunc(r.done.Retired, func(one string) bool { return one == id })
	if k, ok := r.d.sealer.Key(id); ok {
		err = r.d.sealer.note(ctx, k)
	}
	return errors.Join(errStillInUse, err)
}

// conditionUsed returns the condition that some record begins with $1, whose
// length is $2.
func conditionUsed() string {
	var any []string
	for _, t := range sealedTables {
		var in []string
		for _, column := range t.columns {
			in = append(in, fmt.Sprintf("substr(%s, 1, $2) = $1", column))
		}
		any = append(any, fmt.Sprintf("EXISTS (SELECT 1 FROM %s WHERE %s)", t.name, strings.Join(in, " OR ")))
	}
	return strings.Join(any, " OR ")
}

// queryBehind returns the query for up to $3 rows after the primary key $4…, in
// its order, with a record that does not begin with $1, whose length is $2.
func (t *sealedTable) queryBehind() string {
	var any, after []string
	for _, column := range t.columns {
		any = append(any, fmt.Sprintf("substr(%s, 1, $2) <> $1", column)) // NULL, no record, is not true
	}
	for i := range t.order {
		after = append(after, fmt.Sprintf("$%d", 4+i))
	}
	order := strings.Join(t.order, ", ")
	columns := append([]string{"app_id", "open_id"}, t.columns...)
	if t.row != "" {
		columns = append(columns, t.row)
	}
	for _, others := range t.vouches {
		columns = append(columns, others...)
	}
	slices.Sort(columns)
	return fmt.Sprintf("SELECT %s FROM %s WHERE (%s) > (%s) AND (%s) ORDER BY %s LIMIT $3",
		strings.Join(slices.Compact(columns), ", "), t.name, order, strings.Join(after, ", "), strings.Join(any, " OR "), order)
}

// queryReseal returns the statement that replaces the records of one row if none
// has changed.
func (t *sealedTable) queryReseal() string {
	var set, where []string
	for i, column := range t.order {
		where = append(where, fmt.Sprintf("%s = $%d", column, i+1))
	}
	next := len(t.order) + 1
	for _, column := range t.columns {
		set = append(set, fmt.Sprintf("%s = $%d", column, next))
		where = append(where, fmt.Sprintf("%s IS NOT DISTINCT FROM $%d", column, next+1))
		next += 2
	}
	return fmt.Sprintf("UPDATE %s SET %s WHERE %s", t.name, strings.Join(set, ", "), strings.Join(where, " AND "))
}
