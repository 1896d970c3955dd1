package store

import (
	"database/sql"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxLifetime is how long a connection is used. After it a new one is made,
	// to where the host's name leads by then.
	maxLifetime = 15 * time.Minute
	// maxIdleTime is how long one is kept that is not used.
	maxIdleTime = 30 * time.Second
	// growAfter is how long after a refusal the pool asks for more connections.
	growAfter = 10 * time.Second
)

// pool sizes the pool of connections to PostgreSQL. The server may have fewer
// for us than the pool would take: then statements wait for those that there
// are, as they do when the pool is used up.
type pool struct {
	db *sql.DB
	// max is how many connections there may be, and open is how many there are.
	max  int
	open atomic.Int64
	// refused is called when the server has no more connections. Nil: no
	// callback.
	refused func(error)

	mu   sync.Mutex // guards grow
	grow *time.Timer
}

func (p *pool) start(db *sql.DB, maxConns int) {
	if maxConns == 0 {
		// More connections than the processors can serve only make all
		// statements slower, and requests that are served from the cache, too.
		maxConns = min(16, max(6, 2*runtime.GOMAXPROCS(0)))
	}
	p.db, p.max = db, maxConns
	db.SetConnMaxIdleTime(maxIdleTime)
	db.SetConnMaxLifetime(maxLifetime)
	p.restore()
}

// shrink makes statements wait for the connections that are open, for a while.
func (p *pool) shrink(err error) {
	if p.refused != nil {
		p.refused(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.db.SetMaxOpenConns(max(1, int(p.open.Load())))
	if p.grow != nil {
		p.grow.Stop()
	}
	p.grow = time.AfterFunc(growAfter, p.restore)
}

func (p *pool) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.db.SetMaxOpenConns(p.max)
	p.db.SetMaxIdleConns(p.max) // SetMaxOpenConns has lowered it, too
}
