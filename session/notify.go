package session

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/lib/pq"
)

// notifyChannel is what the triggers in migrations/postgres notify.
const notifyChannel = "larkside"

// pollEvery is how often changes are asked for where LISTEN is off.
const pollEvery = 500 * time.Millisecond

// pollOverlap is how far each question reaches back behind the last answer: a
// transaction may commit later than the time that it wrote.
const pollOverlap = 2 * time.Second

// follow keeps the cache in step with other replicas until Close.
func (s *Store) follow() {
	s.closed, s.stop = context.WithCancel(context.Background())
	if s.conn.dialect == dialectSQLite {
		return // one process: stored() does it
	}
	s.stopped.Go(func() {
		for s.closed.Err() == nil {
			round, over := context.WithCancel(s.closed)
			s.stopped.Go(func() {
				select {
				case <-s.relisten:
					over()
				case <-round.Done():
				}
			})
			if url := s.listen.Load(); url.Expose() == "off" {
				s.poll(round)
			} else {
				s.hear(round, url.Expose())
			}
			over()
		}
	})
}

// hear listens until ctx ends.
func (s *Store) hear(ctx context.Context, url string) {
	listener := pq.NewListener(url, 100*time.Millisecond, 5*time.Second, func(event pq.ListenerEventType, err error) {
		switch event {
		case pq.ListenerEventDisconnected:
			s.log.Warn("lost the connection for change notifications; cached tokens are checked against the database until it is back", "error", err)
			s.cache.distrust()
		case pq.ListenerEventReconnected:
			s.log.Info("change notifications are back")
		}
	})
	// Listen blocks until there is a connection; closing is what ends it.
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	if err := listener.Listen(notifyChannel); err != nil && ctx.Err() == nil {
		s.log.Error("can't listen for change notifications; other replicas' changes are seen after CACHE_TTL", "error", err)
	}
	s.heard(nil) // what was said before anyone listened is lost
	ping := time.NewTicker(30 * time.Second)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ping.C:
			// Finds a connection that died without a word; off this loop, since
			// it may take long to fail.
			go listener.Ping()
		case n := <-listener.Notify:
			s.heard(n)
		}
	}
}

// heard handles one notification. Nil stands for a gap in them: what was said
// meanwhile is lost, so nothing cached counts as checked.
func (s *Store) heard(n *pq.Notification) {
	if n == nil {
		s.cache.distrust()
		s.watch.wakeAll()
		return
	}
	var change struct {
		Key
		Table   string `json:"table"`
		State   State  `json:"state"`
		Version int64  `json:"version"`
	}
	if json.Unmarshal([]byte(n.Extra), &change) != nil {
		s.cache.distrust()
		return
	}
	if e, ok := s.cache.get(change.Key); ok && change.Table == "sessions" &&
		(e.access.Version != change.Version || e.access.State != change.State) {
		s.cache.remove(change.Key)
	}
	s.watch.wake(change.Key)
}

// poll asks for changes since a watermark.
func (s *Store) poll(ctx context.Context) {
	var since int64
	if err := s.db.GetContext(ctx, &since, queryNow); err != nil {
		since = s.now().UnixMilli()
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			since = s.pollOnce(ctx, since)
		}
	}
}

func (s *Store) pollOnce(ctx context.Context, since int64) int64 {
	const limit = 5000
	var rows []struct {
		AppID     string `db:"app_id"`
		OpenID    string `db:"open_id"`
		ChangedAt int64  `db:"changed_at"`
	}
	if err := s.db.SelectContext(ctx, &rows, queryChangedSince, since-pollOverlap.Milliseconds(), limit); err != nil {
		s.cache.distrust()
		return since
	}
	for _, r := range rows {
		key := Key{r.AppID, r.OpenID}
		s.cache.remove(key)
		s.watch.wake(key)
		since = max(since, r.ChangedAt)
	}
	if len(rows) == limit {
		s.cache.distrust()
	}
	return since
}

// watchers are callers that wait for a user's session or consent to change.
type watchers struct {
	mu      sync.Mutex
	waiting map[Key]map[chan struct{}]struct{}
}

// Watch returns a channel that gets a value whenever key's session or consent
// changes, on whichever replica, and a function that ends the watch. Values do
// not queue: one that is not taken stands for all that follow.
func (s *Store) Watch(key Key) (changed <-chan struct{}, stop func()) {
	return s.watch.add(key)
}

func (w *watchers) add(key Key) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = make(map[Key]map[chan struct{}]struct{})
	}
	if w.waiting[key] == nil {
		w.waiting[key] = make(map[chan struct{}]struct{})
	}
	w.waiting[key][c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting[key], c)
		if len(w.waiting[key]) == 0 {
			delete(w.waiting, key)
		}
	}
}

func (w *watchers) wake(key Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wakeEach(w.waiting[key])
}

func (w *watchers) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, set := range w.waiting {
		wakeEach(set)
	}
}

func wakeEach(set map[chan struct{}]struct{}) {
	for c := range set {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
