// Package socket reads and writes sockets without telling the scheduler.
//
// Go's sockets never block: reading and writing returns at once, and waiting is
// the poller's. Package net makes such a call as one that may block, all the
// same: the scheduler notes that the processor may be left alone, and where the
// call takes more than 20 µs, which sending to a local process does (it carries
// what it sends up to the receiver), another thread is woken to take the
// processor over, and the goroutine queues for one when it is back. For a proxy
// that is a good part of what a request costs.
package socket

import (
	"io"
	"net"
	"os"
	"syscall"
)

// Conn is a connection over a socket, or any other, which it uses as it is. One
// goroutine at a time may read, and one write; every other method may be called
// at any time. Its errors are package net's.
type Conn struct {
	net.Conn
	raw syscall.RawConn // nil: of no socket

	// Await makes Write return when something has come since, or nothing will:
	// the next Read says what, or why. A question's answer is never there at the
	// moment that the question is out, and a Read begins with looking for it.
	// The wait ends at the deadline of reading, and not with what came before
	// Write. Await is the writer's, who has to be the reader.
	Await bool

	// What a call and the function that it hands to raw share; those are made
	// once, so that reading and writing allocates nothing.
	in, out          []byte
	n                int // bytes read
	inErr, outErr    error
	asked            bool // all of out is written, and an answer awaited
	seen             [1]byte
	read, write, ask func(fd uintptr) (done bool)
	look             func(fd uintptr) (done bool)
}

// New returns a connection that reads and writes c. c is not to be used but
// through it.
func New(c net.Conn) *Conn {
	s := &Conn{Conn: c}
	if socket, ok := c.(syscall.Conn); ok {
		s.raw, _ = socket.SyscallConn() // it is closed, which every call will say
	}
	s.read, s.write, s.ask, s.look = s.readNow, s.writeNow, s.askNow, s.lookNow
	return s
}

func (c *Conn) Read(b []byte) (int, error) {
	if c.raw == nil || len(b) == 0 {
		return c.Conn.Read(b)
	}
	c.in = b
	err := c.raw.Read(c.read)
	c.in = nil
	switch {
	case err != nil:
		return 0, c.failed("read", err)
	case c.inErr != nil:
		return 0, c.failed("read", c.inErr)
	case c.n == 0:
		return 0, io.EOF
	}
	return c.n, nil
}

func (c *Conn) readNow(fd uintptr) bool {
	c.n, c.inErr = read(fd, c.in)
	return c.inErr != syscall.EAGAIN
}

func (c *Conn) Write(b []byte) (int, error) {
	if c.raw == nil || len(b) == 0 {
		return c.Conn.Write(b)
	}
	c.out, c.outErr, c.asked = b, nil, false
	var err error
	if c.Await {
		err = c.raw.Read(c.ask)
	}
	if c.asked {
		err = nil // of the wait, and the next Read's
	} else if err == nil && c.outErr == nil {
		err = c.raw.Write(c.write)
	}
	n := len(b) - len(c.out)
	c.out = nil
	switch {
	case err != nil:
		return n, c.failed("write", err)
	case c.outErr != nil:
		return n, c.failed("write", c.outErr)
	}
	return n, nil
}

// writeNow writes what there is room for, and is done with the last byte.
func (c *Conn) writeNow(fd uintptr) bool {
	for len(c.out) > 0 {
		n, err := write(fd, c.out)
		if err == syscall.EAGAIN {
			return false
		}
		if c.outErr = err; err != nil {
			return true
		}
		c.out = c.out[n:]
	}
	return true
}

// askNow writes when it is called first, and is called again when there is
// something to read. It is the poller that calls: an answer that comes before
// the wait has begun ends it. Without room for all of it the rest is Write's.
func (c *Conn) askNow(fd uintptr) bool {
	if c.asked {
		return true
	}
	c.asked = c.writeNow(fd) && c.outErr == nil
	return !c.asked
}

// Silent reports that neither a byte nor the connection's end has come, without
// waiting. It takes a byte that has. Of what is no socket, or whose deadline for
// reading is over, it is never said.
func (c *Conn) Silent() bool {
	return c.raw != nil && c.raw.Read(c.look) == nil && c.inErr == syscall.EAGAIN
}

func (c *Conn) lookNow(fd uintptr) bool {
	_, c.inErr = read(fd, c.seen[:])
	return true
}

// CloseWrite ends what is sent, where c has two directions.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// failed is err, of raw or of a call, as package net would have it.
func (c *Conn) failed(op string, err error) error {
	if e, ok := err.(*net.OpError); ok { // made by raw, for this call
		e.Op = op
		return e
	}
	err = os.NewSyscallError(op, err)
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
