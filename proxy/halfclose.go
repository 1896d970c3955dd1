package proxy

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// halfClosePatience is how long a request goes on after its caller has closed
// the sending side, while nothing of the answer comes.
const halfClosePatience = 5 * time.Second

// callerConn is a connection from a caller. It decides when its requests end early.
//
// A caller that closes its sending side may have hung up, or may wait for its
// answer (RFC 9112 section 9.6); TCP shows no difference until something is sent
// to it. net/http takes it for a hang-up at once and ends the request's context.
// Here the request goes on as long as the answer moves: if the caller has hung
// up, writing to it fails soon.
type callerConn struct {
	// life is the context of all requests of this connection. Unlike those of
	// net/http it doesn't end with each of them, which saves making one for each.
	life context.Context
	end  context.CancelFunc
	// server is the connection itself; nil if its listener is none of [NewListener].
	server *serverConn
}

type callerConnKey struct{}

// withCaller is for [http.Server.ConnContext].
func withCaller(ctx context.Context, conn net.Conn) context.Context {
	// net/http adds the address to a request's context later.
	life := context.WithValue(context.WithoutCancel(ctx), http.LocalAddrContextKey, conn.LocalAddr())
	c := new(callerConn)
	c.server, _ = conn.(*serverConn)
	c.life, c.end = context.WithCancel(life)
	return context.WithValue(ctx, callerConnKey{}, c)
}

// halfClose follows one request of a caller whose sending side may close.
type halfClose struct {
	patience time.Duration
	end      context.CancelFunc // of the caller's life
	stop     func() bool
	// timer runs from the moment that the sending side is closed; nil before
	// that, and noTimer from the end of the request.
	timer atomic.Pointer[time.Timer]
}

// noTimer stands for a timer that nobody starts any more.
var noTimer = new(time.Timer)

// outlive starts to follow the request that has ctx, and returns the context to
// serve it with. That is ctx if the server is none of [NewServer].
func (h *halfClose) outlive(ctx context.Context, patience time.Duration) context.Context {
	c, ok := ctx.Value(callerConnKey{}).(*callerConn)
	if !ok {
		return ctx
	}
	h.patience, h.end = patience, c.end
	h.stop = context.AfterFunc(ctx, h.closed)
	return c.life
}

func (h *halfClose) closed() {
	if t := time.AfterFunc(h.patience, h.end); !h.timer.CompareAndSwap(nil, t) {
		t.Stop()
	}
}

// moved notes that something of the answer was written.
func (h *halfClose) moved() {
	if t := h.timer.Load(); t != nil {
		t.Reset(h.patience)
	}
}

// done ends the following. The caller may still have a request to come on this
// connection.
func (h *halfClose) done() {
	if h.stop == nil || h.stop() {
		return
	}
	if t := h.timer.Swap(noTimer); t != nil {
		t.Stop()
	}
}
