package store

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"larkside/session"
)

// Changes tells what changed, here and on other replicas. It keeps the cache in
// step and wakes the requests that wait for a change.
type Changes struct {
	db    *database
	cache *cache
	log   *slog.Logger

	// listen is the URL for LISTEN, or "off". relisten gets a value when it
	// changes.
	listen   atomic.Pointer[session.Secret]
	relisten chan struct{}
	// pingEvery is how often the listening connection is tried, and answerWithin
	// is how long an answer may take.
	pingEvery, answerWithin time.Duration
	// listening is whether notifications come.
	listening atomic.Bool

	// closed ends with close. followers counts the goroutines of follow.
	closed    context.Context
	stop      context.CancelFunc
	followers sync.WaitGroup

	// mu guards watchers: the channels of [Changes.Watch], by what they watch.
	mu       sync.Mutex
	watchers map[session.Key]map[chan struct{}]struct{}
}

// notifyChannel is what the triggers in migrations/postgres notify.
const notifyChannel = "larkside"

const (
	// pollEvery is how often the database is asked for changes if LISTEN is
	// off.
	pollEvery = 500 * time.Millisecond
	// pollOverlap is how far each question reaches back behind the last answer:
	// a transaction may commit later than the time that it wrote.
	pollOverlap = 2 * time.Second
)

func newChanges(db *database, cache *cache, listen session.Secret, log *slog.Logger) *Changes {
	c := &Changes{db: db, cache: cache, log: log, relisten: make(chan struct{}, 1), pingEvery: pingEvery, answerWithin: answerWithin, watchers: make(map[session.Key]map[chan struct{}]struct{})}
	c.closed, c.stop = context.WithCancel(context.Background())
	c.listen.Store(&listen)
	return c
}

func (c *Changes) close() {
	c.stop()
	c.followers.Wait()
}

// Watch returns a channel that gets a value when key's session or consent
// changes, on whichever replica, and a function that ends the watch. Values do
// not queue: the channel holds one at most.
func (c *Changes) Watch(key session.Key) (changed <-chan struct{}, stop func()) {
	w := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers[key] == nil {
		c.watchers[key] = make(map[chan struct{}]struct{})
	}
	c.watchers[key][w] = struct{}{}
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers[key], w)
		if len(c.watchers[key]) == 0 {
			delete(c.watchers, key)
		}
	}
}

// wake sends a value to those who watch key.
func (c *Changes) wake(key session.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wakeEach(c.watchers[key])
}

func (c *Changes) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, set := range c.watchers {
		wakeEach(set)
	}
}

func wakeEach(set map[chan struct{}]struct{}) {
	for w := range set {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// heard handles a notification. nil stands for a gap in which notifications were
// lost: no cached entry counts as checked then.
func (c *Changes) heard(n *pq.Notification) {
	if n == nil {
		c.cache.distrust()
		c.wakeAll()
		return
	}
	var change struct {
		session.Key
		Table   string        `json:"table"`
		State   session.State `json:"state"`
		Version int64         `json:"version"`
	}
	if json.Unmarshal([]byte(n.Extra), &change) != nil {
		c.cache.distrust()
		return
	}
	c.changed(change.Table, change.Key, change.Version, change.State)
}

// changed handles one change of a row in a table.
func (c *Changes) changed(table string, key session.Key, version int64, state session.State) {
	if table == "sessions" {
		c.cache.heard(key, version, state)
	}
	c.wake(key)
}

// poll asks for changes until ctx ends.
func (c *Changes) poll(ctx context.Context) {
	since, err := c.db.now(ctx)
	if err != nil {
		since = time.Now().UnixMilli()
	}
	c.heard(nil) // changes before this moment are not asked for
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			since = c.pollOnce(ctx, since)
		}
	}
}

const queryChangedSince = `SELECT 'sessions' AS tbl, app_id, open_id, state, version FROM sessions WHERE changed_at >= $1
	UNION ALL SELECT 'consents', app_id, open_id, state, 0 FROM consents WHERE changed_at >= $1
	LIMIT $2`

// pollOnce handles the changes since a time of the database's clock, and
// returns since when to ask next. It handles each change for as long as
// pollOverlap. After the first time that changes nothing in the cache.
func (c *Changes) pollOnce(ctx context.Context, since int64) int64 {
	const limit = 5000
	now, err := c.db.now(ctx)
	var rows []struct {
		Table   string        `db:"tbl"`
		AppID   string        `db:"app_id"`
		OpenID  string        `db:"open_id"`
		State   session.State `db:"state"`
		Version int64         `db:"version"`
	}
	if err == nil {
		err = c.db.SelectContext(ctx, &rows, queryChangedSince, since-pollOverlap.Milliseconds(), limit)
	}
	if err != nil {
		c.cache.distrust()
		return since
	}
	for _, r := range rows {
		c.changed(r.Table, session.Key{AppID: r.AppID, OpenID: r.OpenID}, r.Version, r.State)
	}
	if len(rows) == limit { // there may be more
		c.heard(nil)
	}
	return now
}
