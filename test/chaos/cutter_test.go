package chaos

import (
	"net"
	"sync"
	"testing"
)

// cutter is a TCP proxy whose connections can be cut or held up.
type cutter struct {
	listener net.Listener
	target   string

	mu     sync.Mutex // guards the rest
	refuse bool
	// flowing is closed while bytes pass.
	flowing chan struct{}
	open    map[net.Conn]struct{}
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, target: target, flowing: make(chan struct{}), open: map[net.Conn]struct{}{}}
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
		go c.join(near)
	}
}

func (c *cutter) join(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	defer far.Close()
	if !c.enter(near, far) {
		return
	}
	defer c.leave(near, far)
	// Whichever side ends first ends both, unsaid bytes included.
	done := make(chan struct{}, 2)
	go func() { c.pass(near, far); done <- struct{}{} }()
	go func() { c.pass(far, near); done <- struct{}{} }()
	<-done
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

func (c *cutter) pass(from, to net.Conn) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		c.mu.Lock()
		flowing := c.flowing
		c.mu.Unlock()
		<-flowing
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
