package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Store keeps sessions and pending consents. It is safe for concurrent use.
//
// Any number of Stores may share one PostgreSQL database; a change made through
// one reaches the others' caches within a second.
type Store struct {
	conn *connection
	db   database
	ring *Keyring
	now  func() time.Time
	log  *slog.Logger

	cache     *cache
	cacheSize int
	ttl       time.Duration
	loads     Group[*Access]
	// restUntil is when the database may be asked again about entries that are
	// cached anyway, in Unix nanoseconds of the local clock.
	restUntil atomic.Int64
	// sealedBy holds, by the id of a key, when it was last noted in
	// encryption_keys.
	sealedBy sync.Map
	// settle is how long Reseal waits for other replicas.
	settle time.Duration

	watch watchers
	// Owner names this store in leases: random, new in each process.
	owner string

	// listen is the URL for LISTEN, or "off"; relisten gets a value when it
	// changes.
	listen   atomic.Pointer[Secret]
	relisten chan struct{}
	closed   context.Context
	stop     context.CancelFunc
	stopped  sync.WaitGroup

	evictions metric.Int64Counter
	leases    metric.Int64Counter
	unobserve func() // ends the callbacks of instruments
}

// restAfterFailure is how long cached entries are served without a new try
// after the database did not answer.
const restAfterFailure = time.Second

// checkTimeout bounds the question whether a cached entry still holds. The
// entry is good without it, so a database that hangs must not hold requests.
const checkTimeout = 500 * time.Millisecond

// Open connects, raises the schema, checks the keys and starts to follow other
// replicas' changes. Errors that no retry can mend wrap [ErrSetup],
// [ErrSchemaNewer] or [ErrInUse].
func Open(ctx context.Context, cfg Config) (*Store, error) {
	conn, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, conn, cfg)
	if err != nil {
		return nil, errors.Join(err, conn.close())
	}
	return s, nil
}

func open(ctx context.Context, conn *connection, cfg Config) (*Store, error) {
	if err := conn.migrate(ctx); err != nil {
		return nil, err
	}
	ring, err := conn.keyring(ctx, cfg.Keys)
	if err != nil {
		return nil, err
	}
	s := &Store{
		conn: conn, db: conn.db, ring: ring, now: cfg.Now, log: cfg.Log,
		ttl: cfg.CacheTTL, owner: randomID(), settle: resealSettle,
		relisten: make(chan struct{}, 1),
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.ttl == 0 {
		s.ttl = time.Minute
	}
	size := cfg.CacheSize
	if size == 0 {
		size = 100_000
	}
	s.cacheSize = size
	if s.cache, err = newCache(size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if err := s.instruments(); err != nil {
		return nil, err
	}
	if conn.dialect == dialectSQLite {
		if s.db.access, err = conn.db.PreparexContext(ctx, queryAccess); err != nil {
			return nil, unavailable(err, "preparing the look-up")
		}
	}
	if cfg.ListenURL.Empty() {
		cfg.ListenURL = cfg.URL
	}
	s.listen.Store(&cfg.ListenURL)
	s.follow()
	return s, nil
}

// Close stops following changes and closes the database.
func (s *Store) Close() error {
	s.unobserve()
	s.stop()
	s.stopped.Wait()
	return s.conn.close()
}

// Closed returns a channel that is closed when the store is: what insists on
// storing something may give up then.
func (s *Store) Closed() <-chan struct{} { return s.closed.Done() }

// Owner names this store in leases.
func (s *Store) Owner() string { return s.owner }

// Ping asks the database for a sign of life.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.db.PingContext(ctx); err != nil {
		return unavailable(err, "asking the database")
	}
	return nil
}

// Cached returns the access token of key if this process holds one, without
// looking further. checked is whether it is young enough to be served without
// asking the database. It takes no lock that all users share and does not
// allocate.
func (s *Store) Cached(key Key) (a *Access, checked bool) {
	e, ok := s.cache.get(key)
	if !ok {
		return nil, false
	}
	return e.access, e.epoch == s.cache.epoch.Load() && s.now().Sub(s.cache.began)-e.checked < s.ttl
}

// Access returns key's access token from the row and caches it. Concurrent
// calls for one key share one query. While the database is away, an entry that
// is cached already is returned with a nil error. [ErrNotFound] when there is no row.
func (s *Store) Access(ctx context.Context, key Key) (*Access, error) {
	cached, _ := s.Cached(key)
	// An entry that has expired is no help while the database is away.
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
	a, _, err := s.loads.Do(waiting, key, func(ctx context.Context) (*Access, error) { return s.load(ctx, key) })
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		err = unavailable(context.DeadlineExceeded, "loading a session")
	}
	if errors.Is(err, ErrUnavailable) && good {
		s.restUntil.Store(s.now().Add(restAfterFailure).UnixNano())
		return cached, nil
	}
	return a, err
}

func (s *Store) remember(a *Access, t ticket) {
	if s.cache.put(a, s.now(), t) {
		s.evictions.Add(context.Background(), 1)
	}
}

// Load returns the row of key. [ErrNotFound] when there is none.
func (s *Store) Load(ctx context.Context, key Key) (*Session, error) {
	var r row
	err := s.db.GetContext(ctx, &r, queryLoad, key.AppID, key.OpenID)
	if err := noRows(err, ErrNotFound, "loading a session"); err != nil {
		return nil, err
	}
	return s.unseal(&r)
}

// Resolve returns the key of the user whom an alias (union_id or user_id)
// names, [ErrNotFound] if no user of the app who ever consented has it.
func (s *Store) Resolve(ctx context.Context, appID, alias string) (Key, error) {
	var openID string
	err := s.db.GetContext(ctx, &openID, queryResolve, appID, alias)
	if err := noRows(err, ErrNotFound, "resolving a user id"); err != nil {
		return Key{}, err
	}
	return Key{appID, openID}, nil
}

// Put stores a consent's outcome over whatever was there. Only the fields that
// a grant brings are taken from g: aliases, profile, tokens and times.
func (s *Store) Put(ctx context.Context, g Session) (*Session, error) {
	if err := s.noteKey(ctx); err != nil {
		return nil, err
	}
	profile, err := s.sealProfile(g.Key, g.Profile)
	if err != nil {
		return nil, err
	}
	var r row
	err = s.db.GetContext(ctx, &r, queryPut, g.AppID, g.OpenID, g.UnionID, g.UserID, profile,
		s.ring.seal(g.AccessToken, accessPlace(g.Key)), s.ring.seal(g.RefreshToken, refreshPlace(g.Key)),
		g.TokenType, g.TokenURL, g.Scope, millis(g.IssuedAt), millis(g.ExpiresAt),
		millis(g.RefreshExpiresAt), refreshDue(g.IssuedAt, g.RefreshExpiresAt), millis(g.GrantedAt), millis(g.SyncedAt), refreshLife(g))
	if err != nil {
		return nil, unavailable(err, "storing a session")
	}
	return s.stored(&r)
}

// stored caches what was just written and wakes who waits for it.
func (s *Store) stored(r *row) (*Session, error) {
	written, err := s.unseal(r)
	if err != nil {
		return nil, err
	}
	s.cache.remove(written.Key)
	s.remember(NewAccess(written), s.cache.ticket(written.Key))
	s.watch.wake(written.Key)
	return written, nil
}

// Revoke forgets the tokens and personal data of key for reason, and returns
// the session as it was so that its tokens can be revoked at Lark too.
// [ErrNotFound] when there is none, [ErrConflict] when it changed meanwhile.
func (s *Store) Revoke(ctx context.Context, key Key, reason Reason) (*Session, error) {
	before, err := s.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	return before, s.RevokeLoaded(ctx, before, reason)
}

// RevokeLoaded is [Store.Revoke] for a session that its caller has looked at:
// [ErrConflict] when it is not as it was then.
func (s *Store) RevokeLoaded(ctx context.Context, before *Session, reason Reason) error {
	var r row
	err := s.db.GetContext(ctx, &r, queryRevoke, before.AppID, before.OpenID, reason, before.Version)
	if err := noRows(err, ErrConflict, "revoking a session"); err != nil {
		return err
	}
	_, err = s.stored(&r)
	return err
}

// SetProfile records what Lark says about a person now.
func (s *Store) SetProfile(ctx context.Context, key Key, p Profile, unionID, userID string) error {
	sealed, err := s.sealProfile(key, p)
	if err == nil {
		err = s.noteKey(ctx)
	}
	if err != nil {
		return err
	}
	if _, err = s.db.ExecContext(ctx, querySetProfile, key.AppID, key.OpenID, sealed, unionID, userID, millis(s.now())); err != nil {
		return unavailable(err, "storing a profile")
	}
	return nil
}

// MarkSynced records that Lark was asked about a person and said nothing.
func (s *Store) MarkSynced(ctx context.Context, key Key) error {
	if _, err := s.db.ExecContext(ctx, queryMarkSynced, key.AppID, key.OpenID, millis(s.now())); err != nil {
		return unavailable(err, "storing a profile")
	}
	return nil
}

// Disable marks the session of a user who is gone or may not use the app.
func (s *Store) Disable(ctx context.Context, key Key, reason Reason) error {
	return s.move(ctx, "disabling a session", queryDisable, key, reason)
}

// Enable brings back a session that was disabled for reason.
func (s *Store) Enable(ctx context.Context, key Key, reason Reason) error {
	return s.move(ctx, "enabling a session", queryEnable, key, reason)
}

// move runs a change of state that may find nothing to change.
func (s *Store) move(ctx context.Context, doing, query string, key Key, reason Reason) error {
	var r row
	err := s.db.GetContext(ctx, &r, query, key.AppID, key.OpenID, reason)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return unavailable(err, doing)
	}
	_, err = s.stored(&r)
	return err
}

// Filter selects sessions; empty fields select all.
type Filter struct {
	AppID string
	State State
}

// List returns up to limit sessions after the key after, in key order.
func (s *Store) List(ctx context.Context, after Key, f Filter, limit int) ([]Session, error) {
	var rows []row
	if err := s.db.SelectContext(ctx, &rows, queryList, after.AppID, after.OpenID, f.AppID, f.State, limit); err != nil {
		return nil, unavailable(err, "listing sessions")
	}
	sessions := make([]Session, 0, len(rows))
	for i := range rows {
		one, err := s.unseal(&rows[i])
		if err != nil {
			return nil, err
		}
		sessions = append(sessions, *one)
	}
	return sessions, nil
}

// DueForRefresh returns up to limit sessions that nobody has renewed for most
// of their refresh token's life and that nobody is renewing, the most urgent first.
func (s *Store) DueForRefresh(ctx context.Context, limit int) ([]Key, error) {
	return s.keys(ctx, "finding idle sessions", queryDueForRefresh, millis(s.now()), limit)
}

// DueForSync returns up to limit users of an app whose profile was last read
// before.
func (s *Store) DueForSync(ctx context.Context, appID string, before time.Time, limit int) ([]Key, error) {
	return s.keys(ctx, "finding profiles to read", queryDueForSync, appID, millis(before), limit)
}

func (s *Store) keys(ctx context.Context, doing, query string, args ...any) ([]Key, error) {
	var rows []struct {
		AppID  string `db:"app_id"`
		OpenID string `db:"open_id"`
	}
	if err := s.db.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, unavailable(err, doing)
	}
	keys := make([]Key, len(rows))
	for i, r := range rows {
		keys[i] = Key{r.AppID, r.OpenID}
	}
	return keys, nil
}

// Lead reports whether this store is the one that does the named work for all
// replicas, for the next ttl. Calling it again in time keeps the lead.
func (s *Store) Lead(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	var owner string
	err := s.db.GetContext(ctx, &owner, queryLead, name, s.owner, ttl.Milliseconds())
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(err, "taking the lead")
	}
	return owner == s.owner, nil
}

// noteKey records that the sealing key seals something here. It looks again
// after notedFor, since Reseal may have struck the key off meanwhile.
func (s *Store) noteKey(ctx context.Context) error {
	k := (*s.ring.keys.Load())[0]
	if at, ok := s.sealedBy.Load(k.id); ok && time.Since(at.(time.Time)) < notedFor {
		return nil
	}
	return s.note(ctx, k)
}

func (s *Store) note(ctx context.Context, k ringKey) error {
	at := time.Now()
	if _, err := s.db.ExecContext(ctx, queryKeyInUse, k.id, sealWith(k, []byte("larkside"), checkPlace(k.id))); err != nil {
		return unavailable(err, "noting the encryption key in use")
	}
	s.sealedBy.Store(k.id, at)
	return nil
}

// refreshDue is when an idle session is renewed: at a random point between 60
// and 80 % of its refresh token's life, so that many which were granted
// together are not renewed together.
func refreshDue(issued, expires time.Time) int64 {
	if expires.IsZero() {
		return 0
	}
	life := expires.Sub(issued)
	return millis(issued.Add(time.Duration((0.6 + 0.2*rand.Float64()) * float64(life))))
}

// refreshLife is how long a grant's first refresh token lives, in milliseconds.
func refreshLife(g Session) int64 {
	if g.RefreshExpiresAt.IsZero() {
		return 0
	}
	return g.RefreshExpiresAt.Sub(g.IssuedAt).Milliseconds()
}

func accessPlace(k Key) place  { return place{key: k, column: "sessions.access_token"} }
func refreshPlace(k Key) place { return place{key: k, column: "sessions.refresh_token"} }
func profilePlace(k Key) place { return place{key: k, column: "sessions.profile"} }

func (s *Store) sealProfile(key Key, p Profile) ([]byte, error) {
	if p == (Profile{}) {
		return nil, nil
	}
	plain, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding a profile: %w", err)
	}
	return s.ring.seal(NewSecret(string(plain)), profilePlace(key)), nil
}

// row is a sessions row as it lies in the database.
type row struct {
	AppID            string `db:"app_id"`
	OpenID           string `db:"open_id"`
	UnionID          string `db:"union_id"`
	UserID           string `db:"user_id"`
	Profile          []byte `db:"profile"`
	State            string `db:"state"`
	Reason           string `db:"reason"`
	AccessToken      []byte `db:"access_token"`
	RefreshToken     []byte `db:"refresh_token"`
	TokenType        string `db:"token_type"`
	TokenURL         string `db:"token_url"`
	Scope            string `db:"scope"`
	IssuedAt         int64  `db:"issued_at"`
	ExpiresAt        int64  `db:"expires_at"`
	RefreshExpiresAt int64  `db:"refresh_expires_at"`
	GrantedAt        int64  `db:"granted_at"`
	RefreshedAt      int64  `db:"refreshed_at"`
	Version          int64  `db:"version"`
	Attempts         int64  `db:"attempts"`
	AttemptAt        int64  `db:"attempt_at"`
	Failures         int    `db:"failures"`
	RetryAt          int64  `db:"retry_at"`
	DoubtedAt        int64  `db:"doubted_at"`
	SyncedAt         int64  `db:"synced_at"`
	AfterRefusal     int64  `db:"after_refusal"`
}

// unseal opens a row. A record that does not open is an error of the store,
// never an absent session.
func (s *Store) unseal(r *row) (*Session, error) {
	out := &Session{
		Key:     Key{r.AppID, r.OpenID},
		UnionID: r.UnionID, UserID: r.UserID,
		State: State(r.State), Reason: Reason(r.Reason),
		TokenType: r.TokenType, TokenURL: r.TokenURL, Scope: r.Scope,
		IssuedAt: fromMillis(r.IssuedAt), ExpiresAt: fromMillis(r.ExpiresAt),
		RefreshExpiresAt: fromMillis(r.RefreshExpiresAt),
		GrantedAt:        fromMillis(r.GrantedAt), RefreshedAt: fromMillis(r.RefreshedAt),
		Version: r.Version, Attempts: int(r.Attempts), AttemptAt: fromMillis(r.AttemptAt),
		Failures: r.Failures, RetryAt: fromMillis(r.RetryAt), DoubtedAt: fromMillis(r.DoubtedAt), SyncedAt: fromMillis(r.SyncedAt), AfterRefusal: r.AfterRefusal != 0,
	}
	var err1, err2, err3 error
	out.AccessToken, err1 = s.ring.open(r.AccessToken, accessPlace(out.Key))
	out.RefreshToken, err2 = s.ring.open(r.RefreshToken, refreshPlace(out.Key))
	profile, err3 := s.ring.open(r.Profile, profilePlace(out.Key))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, unavailable(err, "opening a stored session")
	}
	if !profile.Empty() {
		if err := json.Unmarshal([]byte(profile.Expose()), &out.Profile); err != nil {
			return nil, unavailable(errors.New("the stored profile is not JSON"), "opening a stored session")
		}
	}
	return out, nil
}

// millis is the database's form of a time: milliseconds since 1970, 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
