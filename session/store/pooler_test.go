package store_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// silentAddress is that of a host that takes connections and says nothing, as
// one that was cut off.
func silentAddress(t *testing.T) string {
	address, _ := countingAddress(t)
	return address
}

// countingAddress is a silent one that counts the connections that it takes.
func countingAddress(t *testing.T) (address string, taken *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	taken = new(atomic.Int64)
	go func() {
		var open []net.Conn // or they would be closed when they are forgotten
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range open {
					c.Close()
				}
				return
			}
			open = append(open, c)
			taken.Add(1)
		}
	}()
	return l.Addr().String(), taken
}

// hostOf is host:port of a URL.
func hostOf(t *testing.T, raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// pooler forwards connections to a PostgreSQL server, and misbehaves as poolers
// and networks between do.
type pooler struct {
	listener net.Listener
	// target is where new connections lead.
	target atomic.Pointer[string]
	// deaf: no notification passes but a connection's own, as with a pooler in
	// transaction mode.
	deaf atomic.Bool
	// refusing: a ping is answered with an error.
	refusing atomic.Bool
	// full: new connections are refused as by a server that has no more.
	full atomic.Bool
	// refusal is what the next statement that it is about is answered with.
	refusal atomic.Pointer[refusal]
	// connections counts those that were forwarded.
	connections atomic.Int64

	mu sync.Mutex // guards the rest
	// silent is closed while bytes pass.
	silent chan struct{}
	open   map[net.Conn]struct{}
}

// refusal is an error for the statement that has part in its text.
type refusal struct{ part, severity, state string }

func startPooler(t *testing.T, target string) *pooler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{listener: l, silent: make(chan struct{}), open: make(map[net.Conn]struct{})}
	close(p.silent)
	p.target.Store(&target)
	done, open := make(chan struct{}), sync.WaitGroup{}
	open.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { p.serve(client, done) })
		}
	})
	t.Cleanup(func() {
		close(done)
		l.Close()
		p.drop()
		open.Wait()
	})
	return p
}

func (p *pooler) address() string { return p.listener.Addr().String() }

// hush makes everything hang, until the function that it returns is called.
func (p *pooler) hush() (speak func()) {
	hushed := make(chan struct{})
	p.mu.Lock()
	p.silent = hushed
	p.mu.Unlock()
	return sync.OnceFunc(func() { close(hushed) })
}

// drop ends the connections that are open.
func (p *pooler) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

func (p *pooler) keep(c net.Conn) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, c)
	}
}

// pass waits while everything hangs. It reports whether to go on.
func (p *pooler) pass(done chan struct{}) bool {
	p.mu.Lock()
	silent := p.silent
	p.mu.Unlock()
	select {
	case <-silent:
		return true
	case <-done:
		return false
	}
}

func (p *pooler) serve(client net.Conn, done chan struct{}) {
	defer client.Close()
	defer p.keep(client)()
	start, err := message(client, 0)
	if err != nil || !p.pass(done) {
		return
	}
	if p.full.Load() {
		client.Write(errorResponse("FATAL", "53300", "sorry, too many clients already"))
		return
	}
	server, err := net.Dial("tcp", *p.target.Load())
	if err != nil {
		return
	}
	defer server.Close()
	p.connections.Add(1)
	go func() { // the server's messages
		defer client.Close()
		defer server.Close()
		var self []byte // the process at the server's end
		p.forward(client, server, done, func(m []byte) []byte {
			switch {
			case m[0] == 'K':
				self = m[5:9]
			case m[0] == 'A' && p.deaf.Load() && !bytes.Equal(m[5:9], self):
				return nil
			}
			return m
		})
	}()
	if _, err := server.Write(start); err != nil {
		return
	}
	refused := false
	p.forward(server, client, done, func(m []byte) []byte {
		if r := p.refusal.Load(); m[0] == 'P' && r != nil && bytes.Contains(m, []byte(r.part)) && p.refusal.CompareAndSwap(r, nil) {
			client.Write(errorResponse(r.severity, r.state, "no"))
			refused = true
			if r.severity == "FATAL" {
				client.Close()
			}
		}
		if refused { // the rest of what belongs to the statement
			if m[0] == 'S' {
				refused = false
				client.Write([]byte{'Z', 0, 0, 0, 5, 'I'})
			}
			return nil
		}
		if m[0] == 'Q' && len(m) == 6 && p.refusing.Load() {
			client.Write(append(errorResponse("ERROR", "08P01", "the pooler does not like this"), 'Z', 0, 0, 0, 5, 'I'))
			return nil
		}
		return m
	})
}

func (p *pooler) forward(to, from net.Conn, done chan struct{}, change func([]byte) []byte) {
	for {
		m, err := message(from, 1)
		if err != nil || !p.pass(done) {
			return
		}
		if m = change(m); m == nil {
			continue
		}
		if _, err := to.Write(m); err != nil {
			return
		}
	}
}

// message reads one message of the protocol, whose length follows skip bytes.
func message(r io.Reader, skip int) ([]byte, error) {
	head := make([]byte, skip+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[skip:])-4)
	_, err := io.ReadFull(r, body)
	return append(head, body...), err
}

func errorResponse(severity, code, text string) []byte {
	fields := "S" + severity + "\x00C" + code + "\x00M" + text + "\x00\x00"
	return append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(4+len(fields))), fields...)
}
