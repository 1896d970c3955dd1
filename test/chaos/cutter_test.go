package chaos

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cutter is a TCP proxy whose connections can be cut, held up or silenced.
type cutter struct {
	listener net.Listener

	mu     sync.Mutex // guards the rest
	target string
	refuse bool
	// silent is true once the connections of now are silent. Each connection
	// keeps the one that it began with.
	silent *atomic.Bool
	// flowing is closed while bytes pass.
	flowing chan struct{}
	open    map[net.Conn]struct{}
	// began is when each connection was accepted, by its address at the target.
	began map[string]time.Time
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, target: target, silent: new(atomic.Bool), flowing: make(chan struct{}), open: map[net.Conn]struct{}{}, began: map[string]time.Time{}}
	close(c.flowing)
	go c.accept()
	t.Cleanup(func() {
		l.Close()
		c.flow(true)
		c.cut(true)
	})
	return c
}

func (c *cutter) address() string { return c.listener.Addr().String() }

func (c *cutter) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		go c.join(near, time.Now())
	}
}

func (c *cutter) join(near net.Conn, began time.Time) {
	defer near.Close()
	c.mu.Lock()
	target, silent := c.target, c.silent
	c.mu.Unlock()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	c.mu.Lock()
	c.began[far.LocalAddr().String()] = began
	c.mu.Unlock()
	if !c.enter(near, far) {
		return
	}
	defer c.leave(near, far)
	// Whichever side ends first ends both, unsaid bytes included. Of a silent
	// connection the near side does not learn that the far one has ended.
	done := make(chan struct{}, 2)
	go func() { c.pass(near, far, silent); done <- struct{}{} }()
	go func() {
		if c.pass(far, near, silent); !silent.Load() {
			done <- struct{}{}
		}
	}()
	<-done
}

// beganAt returns when the connection was accepted that has an address at the
// target.
func (c *cutter) beganAt(address string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.began[address]
}

func (c *cutter) enter(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		c.open[conn] = struct{}{}
	}
	return !c.refuse
}

func (c *cutter) leave(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		delete(c.open, conn)
	}
}

func (c *cutter) pass(from, to net.Conn, silent *atomic.Bool) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		c.mu.Lock()
		flowing := c.flowing
		c.mu.Unlock()
		<-flowing
		if silent.Load() {
			if err != nil {
				return
			}
			continue
		}
		if _, failed := to.Write(buffer[:n]); failed != nil || err != nil {
			return
		}
	}
}

// cut ends every connection, and all to come if refuse.
func (c *cutter) cut(refuse bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = refuse
	for conn := range c.open {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, as of a host that is gone
		}
		conn.Close()
	}
}

// silence swallows whatever is sent, either way, as a network does that has
// forgotten the connections. Those of now stay silent until they end; off is for
// those that are made after it.
func (c *cutter) silence(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on {
		c.silent.Store(true)
	} else {
		c.silent = new(atomic.Bool)
	}
}

// lead makes new connections go to another server.
func (c *cutter) lead(target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = target
}

// flow lets bytes pass or holds them up, connections staying open.
func (c *cutter) flow(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	flowing := true
	select {
	case <-c.flowing:
	default:
		flowing = false
	}
	switch {
	case on && !flowing:
		close(c.flowing)
	case !on && flowing:
		c.flowing = make(chan struct{})
	}
}
