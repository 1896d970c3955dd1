package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// halfClosePatience is how long a request goes on after its caller has closed
// the sending side, while nothing of the answer comes.
const halfClosePatience = 5 * time.Second

// callerLife decides when the requests of a caller's connection end early.
//
// A caller that closes its sending side may have hung up, or may wait for its
// answer (RFC 9112 section 9.6); TCP shows no difference until something is sent
// to it. net/http takes it for a hang-up at once and ends the request's context.
// Here the request goes on as long as the answer moves: if the caller has hung
// up, writing to it fails soon.
type callerLife struct {
	// ctx is the context of all requests of the connection, where net/http makes one
	// for each. It doesn't end with a request.
	ctx context.Context
	end context.CancelFunc

	mu         sync.Mutex
	patience   time.Duration // 0 before the first request
	halfClosed bool
	timer      *time.Timer // nil while the caller may send more
}

func newCallerLife(ctx context.Context, conn net.Conn) *callerLife {
	l := new(callerLife)
	// Requests get this context instead of net/http's, so it needs the address.
	l.ctx, l.end = context.WithCancel(context.WithValue(context.WithoutCancel(ctx), http.LocalAddrContextKey, conn.LocalAddr()))
	return l
}

// begin returns the context of a request that has come.
func (l *callerLife) begin(patience time.Duration) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.patience = patience
	l.restart()
	return l.ctx
}

// wrote is told how a write to the caller ended.
func (l *callerLife) wrote(err error) {
	if err != nil {
		l.end()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restart()
}

// readFailed is told what ended a read from the caller.
func (l *callerLife) readFailed(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded): // of net/http's or of a [pacedBody]'s
	case err == io.EOF:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.halfClosed = true
		l.restart()
	default:
		l.end()
	}
}

// restart gives the answer another patience to move. l.mu is held.
func (l *callerLife) restart() {
	switch {
	case !l.halfClosed || l.patience == 0:
	case l.timer == nil:
		l.timer = time.AfterFunc(l.patience, l.end)
	default:
		l.timer.Reset(l.patience)
	}
}

// close ends the requests when the connection has ended.
func (l *callerLife) close() {
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}
