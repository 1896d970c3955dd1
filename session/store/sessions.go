package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"go.opentelemetry.io/otel/metric"

	"larkside/session"
	"larkside/session/seal"
	"larkside/session/singleflight"
)

// Sessions reads and writes sessions. A cache of access tokens is in front.
type Sessions struct {
	db      *database
	sealer  *sealer
	cache   *cache
	changes *Changes
	now     func() time.Time
	ttl     time.Duration

	loads singleflight.Group[session.Key, *session.Access]
	// restUntil is until when entries are served from the cache without asking
	// the database, in Unix nanoseconds of the local clock.
	restUntil atomic.Int64
	evictions metric.Int64Counter

	// testingOnlyLoaded runs between the answer of a look-up and the cache,
	// testingOnlyStored between the answer of a write and the cache.
	testingOnlyLoaded func()
	testingOnlyStored func(*session.Session)
}

const (
	// restAfterFailure is how long cached entries are served without asking the
	// database again after it did not answer.
	restAfterFailure = time.Second
	// checkTimeout bounds the question whether a cached entry still holds. The
	// entry can be served without an answer, so a database that hangs must not
	// hold requests up.
	checkTimeout = 500 * time.Millisecond
)

// Cached returns the access token of key from this process's cache, or nil.
// checked reports whether it may be served without asking the database: it was
// read within the cache's TTL. It does not allocate, and the lock that it takes
// is shared by a part of the users only.
func (s *Sessions) Cached(key session.Key) (a *session.Access, checked bool) {
	e, ok := s.cache.get(key)
	if !ok {
		return nil, false
	}
	return e.access, e.epoch == s.cache.epoch.Load() && s.now().Sub(s.cache.began)-e.checked < s.ttl
}

// Access reads key's access token from its row and caches it. Concurrent calls
// for one key share one query. While the database is down, it returns the
// cached one, if that is usable, with a nil error. [session.ErrNotFound] if
// there is no row. A row that somebody without a key has changed is an error,
// whatever is cached.
func (s *Sessions) Access(ctx context.Context, key session.Key) (*session.Access, error) {
	cached, _ := s.Cached(key)
	// An entry that has expired is no help while the database is down.
	good := cached != nil && cached.Usable(s.now())
	if good && s.now().UnixNano() < s.restUntil.Load() {
		return cached, nil
	}
	patience := queryTimeout
	if good {
		patience = checkTimeout
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a, _, err := s.loads.Do(waiting, key, func(ctx context.Context) (*session.Access, error) { return s.loadAccess(ctx, key) })
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		err = unavailable(context.DeadlineExceeded, "loading a session")
	}
	if errors.Is(err, session.ErrUnavailable) && good && !errors.Is(err, seal.ErrChanged) {
		// A record under a key that is not here yet is an answer of the database,
		// so it says nothing about other users.
		if !errors.Is(err, seal.ErrUnknownKey) {
			s.restUntil.Store(s.now().Add(restAfterFailure).UnixNano())
		}
		return cached, nil
	}
	return a, err
}

// Requests wait for this statement, so it reads only what an Access has.
const queryAccess = `SELECT state, reason, access_token, ` + termsColumns + `,
		CASE WHEN refresh_token IS NULL THEN 0 ELSE 1 END AS renewable, version, retry_at
	FROM sessions WHERE app_id = $1 AND open_id = $2`

func (s *Sessions) loadAccess(ctx context.Context, key session.Key) (*session.Access, error) {
	t := s.cache.ticket(key)
	var r struct {
		State       string `db:"state"`
		Reason      string `db:"reason"`
		AccessToken []byte `db:"access_token"`
		terms
		Renewable int64 `db:"renewable"`
		Version   int64 `db:"version"`
		RetryAt   int64 `db:"retry_at"`
	}
	err := s.db.getAccess(ctx, &r, key.AppID, key.OpenID)
	if s.testingOnlyLoaded != nil {
		s.testingOnlyLoaded()
	}
	if err := noRows(err, session.ErrNotFound, "loading a session"); err != nil {
		if errors.Is(err, session.ErrNotFound) {
			s.cache.absent(key, t)
		}
		return nil, err
	}
	token, err := s.sealer.Open(r.AccessToken, accessPlace(key, &r.terms))
	if err != nil {
		return nil, unavailable(err, "opening a stored session")
	}
	a := session.NewAccess(&session.Session{
		Key: key, State: stateOf(r.State), Reason: reasonOf(r.Reason), Version: r.Version,
		AccessToken: token, TokenType: r.TokenType,
		IssuedAt: fromMillis(r.IssuedAt), ExpiresAt: fromMillis(r.ExpiresAt), RetryAt: fromMillis(r.RetryAt),
	})
	a.Renewable = r.Renewable != 0 && a.State != session.ConsentRequired
	s.remember(a, t, false)
	return a, nil
}

func (s *Sessions) remember(a *session.Access, t ticket, wrote bool) {
	if s.cache.replace(a, t, wrote, s.now()) {
		s.evictions.Add(context.Background(), 1)
	}
}

const queryLoad = `SELECT ` + sessionColumns + ` FROM sessions WHERE app_id = $1 AND open_id = $2`

// Load returns the session of key. [session.ErrNotFound] if there is none.
func (s *Sessions) Load(ctx context.Context, key session.Key) (*session.Session, error) {
	var r sessionRow
	err := s.db.GetContext(ctx, &r, queryLoad, key.AppID, key.OpenID)
	if err := noRows(err, session.ErrNotFound, "loading a session"); err != nil {
		return nil, err
	}
	return r.open(s.sealer.Keyring)
}

// aliasKind is a column by whose value an app may name a user.
type aliasKind struct {
	// column holds the alias in clear, so that it can be searched for. The
	// column with _seal behind its name holds it sealed.
	column string
	// find looks for an alias, and take removes it from everybody but its owner.
	find, take string
}

// The comparisons with the empty string are the conditions of the indexes. A
// look-up reads more than one row, since two with one alias mean that somebody has
// written to the database who has no key.
const (
	queryByUnionID = `SELECT open_id, union_id_seal AS record FROM sessions
	WHERE app_id = $1 AND union_id = $2 AND union_id <> '' LIMIT 20`
	queryByUserID = `SELECT open_id, user_id_seal AS record FROM sessions
	WHERE app_id = $1 AND user_id = $2 AND user_id <> '' LIMIT 20`

	queryTakeUnionID = `UPDATE sessions SET union_id = '', union_id_seal = NULL
	WHERE app_id = $1 AND union_id = $2 AND union_id <> '' AND open_id <> $3`
	queryTakeUserID = `UPDATE sessions SET user_id = '', user_id_seal = NULL
	WHERE app_id = $1 AND user_id = $2 AND user_id <> '' AND open_id <> $3`
)

var (
	byUnionID = aliasKind{"union_id", queryByUnionID, queryTakeUnionID}
	byUserID  = aliasKind{"user_id", queryByUserID, queryTakeUserID}
)

func (k *aliasKind) place(key session.Key) seal.Place {
	return seal.Place{Key: key, Column: "sessions." + k.column + "_seal"}
}

// sealAliases returns the records of union_id and user_id.
func (s *sealer) sealAliases(key session.Key, unionID, userID string) (union, user []byte) {
	return s.Seal(session.NewSecret(unionID), byUnionID.place(key)), s.Seal(session.NewSecret(userID), byUserID.place(key))
}

// takeAliases removes the aliases that Lark says are key's from every other
// user. Lark gives an id to one user at a time, and an administrator may give a
// user_id to another person.
func takeAliases(ctx context.Context, db sqlx.ExecerContext, key session.Key, unionID, userID string) error {
	for _, a := range []struct {
		kind  *aliasKind
		alias string
	}{{&byUnionID, unionID}, {&byUserID, userID}} {
		if a.alias == "" {
			continue
		}
		if _, err := db.ExecContext(ctx, a.kind.take, key.AppID, a.alias, key.OpenID); err != nil {
			return unavailable(err, "storing a user's ids")
		}
	}
	return nil
}

// Resolve returns the key of the user whom an alias names: a union_id if it
// begins with on_, else a user_id. An administrator chooses user_ids, so one
// that is spelled like another user's union_id or open_id must not lead to that
// user's token. A row whose alias was set by somebody without a key does not
// count. [session.ErrNotFound] if no user of the app who ever consented has the
// alias, and [session.ErrAmbiguous] if two have.
func (s *Sessions) Resolve(ctx context.Context, appID, alias string) (session.Key, error) {
	kind := &byUserID
	switch {
	case strings.HasPrefix(alias, "on_"):
		kind = &byUnionID
	case strings.HasPrefix(alias, "ou_"):
		return session.Key{}, fmt.Errorf("resolving a user id: an open_id is no alias: %w", session.ErrNotFound)
	}
	var rows []struct {
		OpenID string `db:"open_id"`
		Record []byte `db:"record"`
	}
	if err := s.db.SelectContext(ctx, &rows, kind.find, appID, alias); err != nil {
		return session.Key{}, unavailable(err, "resolving a user id")
	}
	var found []session.Key
	var unreadable error
	for _, r := range rows {
		key := session.Key{AppID: appID, OpenID: r.OpenID}
		sealed, err := s.sealer.Open(r.Record, kind.place(key))
		switch {
		case errors.Is(err, seal.ErrUnknownKey):
			unreadable = err
		case err != nil || sealed.Expose() != alias:
			s.sealer.complaints.Log(ctx, slog.LevelError, "a stored user id is not the one that Lark gave; it is not used", kind.column, "app_id", appID, "column", kind.column)
		default:
			found = append(found, key)
		}
	}
	switch {
	case unreadable != nil: // it may be the alias of another user
		return session.Key{}, unavailable(unreadable, "resolving a user id")
	case len(found) == 0:
		return session.Key{}, fmt.Errorf("resolving a user id: %w", session.ErrNotFound)
	case len(found) > 1:
		return session.Key{}, fmt.Errorf("resolving a user id: %w", session.ErrAmbiguous)
	}
	return found[0], nil
}

// A new consent replaces whatever was there, even while it is being refreshed.
// It moves the version, so queryReplace does not store that refresh's result.
const queryPut = `INSERT INTO sessions (app_id, open_id, union_id, user_id, profile, state,
		access_token, refresh_token, token_type, token_url, scope, issued_at, expires_at,
		refresh_expires_at, refresh_due_at, granted_at, synced_at, refresh_life, union_id_seal, user_id_seal, usable_until, version, changed_at)
	VALUES ($1, $2, $3, $4, $5, 'active', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, 1, larkside_now())
	ON CONFLICT (app_id, open_id) DO UPDATE SET
		union_id = excluded.union_id, user_id = excluded.user_id,
		union_id_seal = excluded.union_id_seal, user_id_seal = excluded.user_id_seal, profile = excluded.profile,
		state = 'active', reason = '',
		access_token = excluded.access_token, refresh_token = excluded.refresh_token,
		token_type = excluded.token_type, token_url = excluded.token_url, scope = excluded.scope,
		issued_at = excluded.issued_at, expires_at = excluded.expires_at,
		refresh_expires_at = excluded.refresh_expires_at, refresh_due_at = excluded.refresh_due_at,
		granted_at = excluded.granted_at, refreshed_at = 0, after_refusal = 0, synced_at = excluded.synced_at,
		refresh_life = excluded.refresh_life, usable_until = excluded.usable_until,
		version = CASE WHEN sessions.version BETWEEN 0 AND 1000000000000 THEN sessions.version + 1 ELSE 1 END,
		lease_owner = '', lease_until = 0, attempts = 0, attempt_at = 0, failures = 0, retry_at = 0, doubted_at = 0,
		changed_at = larkside_now()
	RETURNING ` + sessionColumns

// Put stores what a consent brought over whatever was there. Only the fields
// that a grant has are taken from g: aliases, profile, tokens and times.
func (s *Sessions) Put(ctx context.Context, g session.Session) (*session.Session, error) {
	args, err := s.putArgs(ctx, g)
	if err != nil {
		return nil, err
	}
	stored, err := s.write(ctx, g.Key, "storing a session", queryPut, args...)
	if err != nil {
		return nil, err
	}
	return stored, takeAliases(ctx, s.db, g.Key, g.UnionID, g.UserID)
}

// putArgs returns the arguments of queryPut.
func (s *Sessions) putArgs(ctx context.Context, g session.Session) ([]any, error) {
	if err := s.sealer.noteKey(ctx); err != nil {
		return nil, err
	}
	profile, err := s.sealer.sealProfile(g.Key, g.Profile)
	if err != nil {
		return nil, err
	}
	refreshLife := int64(0)
	if !g.RefreshExpiresAt.IsZero() {
		refreshLife = g.RefreshExpiresAt.Sub(g.IssuedAt).Milliseconds()
	}
	t := terms{
		TokenType: g.TokenType, TokenURL: g.TokenURL, Scope: g.Scope, IssuedAt: millis(g.IssuedAt), ExpiresAt: millis(g.ExpiresAt),
		RefreshExpiresAt: millis(g.RefreshExpiresAt), GrantedAt: millis(g.GrantedAt),
	}
	unionSeal, userSeal := s.sealer.sealAliases(g.Key, g.UnionID, g.UserID)
	return []any{g.AppID, g.OpenID, g.UnionID, g.UserID, profile,
		s.sealer.Seal(g.AccessToken, accessPlace(g.Key, &t)), s.sealer.Seal(g.RefreshToken, refreshPlace(g.Key, &t)),
		t.TokenType, t.TokenURL, t.Scope, t.IssuedAt, t.ExpiresAt,
		t.RefreshExpiresAt, refreshDue(g.IssuedAt, g.RefreshExpiresAt), t.GrantedAt, millis(g.SyncedAt), refreshLife, unionSeal, userSeal, t.lastEnd()}, nil
}

// refreshDue returns when the sweep refreshes a session that nobody uses: at a
// random point between 60 and 80 % of its refresh token's life, so that
// sessions that were granted together are not refreshed together.
func refreshDue(issued, expires time.Time) int64 {
	if expires.IsZero() {
		return 0
	}
	life := expires.Sub(issued)
	return millis(issued.Add(time.Duration((0.6 + 0.2*rand.Float64()) * float64(life))))
}

// write runs a statement that changes key's row and returns it, and caches the
// result. [session.ErrConflict] if there is no such row to change.
func (s *Sessions) write(ctx context.Context, key session.Key, doing, query string, args ...any) (*session.Session, error) {
	t := s.cache.ticket(key)
	var r sessionRow
	err := s.db.GetContext(ctx, &r, query, args...)
	if err := noRows(err, session.ErrConflict, doing); err != nil {
		return nil, err
	}
	return s.stored(&r, t)
}

// stored caches what a statement wrote, for which t was taken, and wakes the
// requests that wait for it.
func (s *Sessions) stored(r *sessionRow, t ticket) (*session.Session, error) {
	written, err := r.open(s.sealer.Keyring)
	if err != nil {
		return nil, err
	}
	if s.testingOnlyStored != nil {
		s.testingOnlyStored(written)
	}
	s.remember(session.NewAccess(written), t, true)
	s.changes.wake(written.Key)
	return written, nil
}

// Revoking deletes the tokens, and of the personal data all but the name ($5, sealed
// anew). By the name an operator knows whose session it was, until the row is
// deleted. It moves the version, so that a refresh under way does not bring the
// tokens back.
const queryRevoke = `UPDATE sessions SET
		state = 'consent_required', reason = $3, access_token = NULL, refresh_token = NULL,
		profile = $5, refresh_due_at = 0, refresh_expires_at = 0, expires_at = 0,
		version = version + 1, lease_owner = '', lease_until = 0, attempts = 0, attempt_at = 0,
		failures = 0, retry_at = 0, ` + setEnded + `, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $4
	RETURNING ` + sessionColumns

// setEnded writes down when a session ended. What happens to it after that does
// not count: an app may have it tried again every hour.
const setEnded = `usable_until = CASE WHEN state = 'active' THEN larkside_now() ELSE usable_until END`

// Revoke deletes the tokens of key for reason, and the personal data except the
// name. It returns the session as it was before, so that its tokens can be
// revoked at Lark too.
// [session.ErrNotFound] if there is none, [session.ErrConflict] if it changed
// meanwhile.
func (s *Sessions) Revoke(ctx context.Context, key session.Key, reason session.Reason) (*session.Session, error) {
	before, err := s.loadToEnd(ctx, key)
	if err != nil {
		return nil, err
	}
	return before, s.RevokeLoaded(ctx, before, reason)
}

// RevokeLoaded is [Sessions.Revoke] for a session that the caller has loaded.
// [session.ErrConflict] if it changed since.
func (s *Sessions) RevokeLoaded(ctx context.Context, before *session.Session, reason session.Reason) error {
	if err := s.sealer.noteKey(ctx); err != nil {
		return err
	}
	name, err := s.sealer.sealProfile(before.Key, session.Profile{Name: before.Profile.Name})
	if err != nil {
		return err
	}
	_, err = s.write(ctx, before.Key, "revoking a session", queryRevoke, before.AppID, before.OpenID, reason, before.Version, name)
	return err
}

const queryDisable = `UPDATE sessions SET state = 'disabled', reason = $3, retry_at = 0, ` + setEnded + `, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND state <> 'disabled'
	RETURNING ` + sessionColumns

// Disable marks the session of a user who is gone or may not use the app.
func (s *Sessions) Disable(ctx context.Context, key session.Key, reason session.Reason) error {
	return s.changeState(ctx, "disabling a session", queryDisable, key, reason)
}

// A session that was disabled for another reason stays disabled. One whose tokens
// were dropped needs its user.
const queryEnable = `UPDATE sessions SET
		state = CASE WHEN access_token IS NULL AND refresh_token IS NULL THEN 'consent_required' ELSE 'active' END,
		reason = CASE WHEN access_token IS NULL AND refresh_token IS NULL THEN 'revoked' ELSE '' END,
		usable_until = CASE WHEN access_token IS NULL AND refresh_token IS NULL THEN usable_until
			WHEN refresh_expires_at > expires_at THEN refresh_expires_at ELSE expires_at END,
		retry_at = 0, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND state = 'disabled' AND reason = $3
	RETURNING ` + sessionColumns

// Enable makes a session that was disabled for reason active again. If its tokens
// were dropped meanwhile ([Retention.DropTokens]) its user has to consent.
func (s *Sessions) Enable(ctx context.Context, key session.Key, reason session.Reason) error {
	return s.changeState(ctx, "enabling a session", queryEnable, key, reason)
}

// changeState runs a change of state. It is no error if there is nothing to
// change.
func (s *Sessions) changeState(ctx context.Context, doing, query string, key session.Key, reason session.Reason) error {
	_, err := s.write(ctx, key, doing, query, key.AppID, key.OpenID, reason)
	if errors.Is(err, session.ErrConflict) {
		return nil
	}
	return err
}

// terms are what a grant's tokens came with. Both tokens vouch for them: a row
// in which one of these columns was changed has no token. They are changed
// only by what stores tokens (Put, Replace) or deletes both (Revoke,
// DropTokens).
//
// The other columns of sessions can be changed by whoever can write to the
// database. deploy/docs/security.md says what that brings.
type terms struct {
	TokenType        string `db:"token_type"`
	TokenURL         string `db:"token_url"`
	Scope            string `db:"scope"`
	IssuedAt         int64  `db:"issued_at"`
	ExpiresAt        int64  `db:"expires_at"`
	RefreshExpiresAt int64  `db:"refresh_expires_at"`
	GrantedAt        int64  `db:"granted_at"`
}

// termsColumns are the columns of terms, in the order of values.
const termsColumns = `token_type, token_url, scope, issued_at, expires_at, refresh_expires_at, granted_at`

func (t *terms) values() []string {
	return []string{t.TokenType, t.TokenURL, t.Scope, number(t.IssuedAt), number(t.ExpiresAt), number(t.RefreshExpiresAt), number(t.GrantedAt)}
}

// lastEnd returns when the last of both tokens ends.
func (t *terms) lastEnd() int64 { return max(t.ExpiresAt, t.RefreshExpiresAt) }

// number is the form in which a record vouches for a number.
func number(n int64) string { return strconv.FormatInt(n, 10) }

func accessPlace(k session.Key, t *terms) seal.Place {
	return seal.Place{Key: k, Column: "sessions.access_token", Vouches: t.values()}
}

func refreshPlace(k session.Key, t *terms) seal.Place {
	return seal.Place{Key: k, Column: "sessions.refresh_token", Vouches: t.values()}
}

func profilePlace(k session.Key) seal.Place {
	return seal.Place{Key: k, Column: "sessions.profile"}
}

func (s *sealer) sealProfile(key session.Key, p session.Profile) ([]byte, error) {
	if p == (session.Profile{}) {
		return nil, nil
	}
	plain, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding a profile: %w", err)
	}
	return s.Seal(session.NewSecret(string(plain)), profilePlace(key)), nil
}

const sessionColumns = `app_id, open_id, union_id, user_id, profile, state, reason,
	access_token, refresh_token, ` + termsColumns + `, refreshed_at, version, attempts,
	failures, retry_at, doubted_at, synced_at, after_refusal`

// sessionRow is a row of sessions.
type sessionRow struct {
	AppID        string `db:"app_id"`
	OpenID       string `db:"open_id"`
	UnionID      string `db:"union_id"`
	UserID       string `db:"user_id"`
	Profile      []byte `db:"profile"`
	State        string `db:"state"`
	Reason       string `db:"reason"`
	AccessToken  []byte `db:"access_token"`
	RefreshToken []byte `db:"refresh_token"`
	terms
	RefreshedAt  int64 `db:"refreshed_at"`
	Version      int64 `db:"version"`
	Attempts     int64 `db:"attempts"`
	Failures     int   `db:"failures"`
	RetryAt      int64 `db:"retry_at"`
	DoubtedAt    int64 `db:"doubted_at"`
	SyncedAt     int64 `db:"synced_at"`
	AfterRefusal int64 `db:"after_refusal"`
	// ChangedAt and UsableUntil are read for lists only.
	ChangedAt   int64 `db:"changed_at"`
	UsableUntil int64 `db:"usable_until"`
}

// stateOf returns the state of a row. The user has to be asked about a session
// in an unknown one.
func stateOf(stored string) session.State {
	return oneOf(session.State(stored), session.ConsentRequired, session.Active, session.ConsentRequired, session.Disabled)
}

// reasonOf returns the reason of a row, if it is a word.
func reasonOf(stored string) session.Reason {
	if len(stored) > 64 || strings.Trim(stored, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return session.Reason(stored)
}

// view returns the session of a row without its secrets.
func (r *sessionRow) view() *session.Session {
	return &session.Session{
		Key:     session.Key{AppID: r.AppID, OpenID: r.OpenID},
		UnionID: r.UnionID, UserID: r.UserID,
		State: stateOf(r.State), Reason: reasonOf(r.Reason),
		TokenType: r.TokenType, TokenURL: r.TokenURL, Scope: r.Scope,
		IssuedAt: fromMillis(r.IssuedAt), ExpiresAt: fromMillis(r.ExpiresAt),
		RefreshExpiresAt: fromMillis(r.RefreshExpiresAt),
		GrantedAt:        fromMillis(r.GrantedAt), RefreshedAt: fromMillis(r.RefreshedAt),
		AfterRefusal: r.AfterRefusal != 0, ChangedAt: fromMillis(r.ChangedAt), UsableUntil: fromMillis(r.UsableUntil),
		Version: r.Version, Attempts: int(r.Attempts),
		Failures: r.Failures, RetryAt: fromMillis(r.RetryAt), DoubtedAt: fromMillis(r.DoubtedAt), SyncedAt: fromMillis(r.SyncedAt),
	}
}

// open returns the session of a row. A record that does not open is an error of
// the store. The session never counts as absent then.
func (r *sessionRow) open(ring *seal.Keyring) (*session.Session, error) {
	s := r.view()
	var err1, err2, err3 error
	s.AccessToken, err1 = ring.Open(r.AccessToken, accessPlace(s.Key, &r.terms))
	s.RefreshToken, err2 = ring.Open(r.RefreshToken, refreshPlace(s.Key, &r.terms))
	s.Profile, err3 = r.profile(ring)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, unavailable(err, "opening a stored session")
	}
	return s, nil
}

func (r *sessionRow) profile(ring *seal.Keyring) (p session.Profile, err error) {
	record, err := ring.Open(r.Profile, profilePlace(session.Key{AppID: r.AppID, OpenID: r.OpenID}))
	if err != nil || record.Empty() {
		return p, err
	}
	if json.Unmarshal([]byte(record.Expose()), &p) != nil {
		return session.Profile{}, errors.New("the stored profile is not JSON")
	}
	return p, nil
}

// keys runs a query for the keys of sessions.
func (d *database) keys(ctx context.Context, doing, query string, args ...any) ([]session.Key, error) {
	var rows []struct {
		AppID  string `db:"app_id"`
		OpenID string `db:"open_id"`
	}
	if err := d.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, unavailable(err, doing)
	}
	keys := make([]session.Key, len(rows))
	for i, r := range rows {
		keys[i] = session.Key{AppID: r.AppID, OpenID: r.OpenID}
	}
	return keys, nil
}
