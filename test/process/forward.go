package process

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"larkside/test/dbtest"
	"larkside/test/port"
)

// Forwarder passes TCP connections on to an address. It is closed at first, and
// can be opened and cut: so a database comes late, or goes away.
type Forwarder struct {
	// Address is where it listens when it is open.
	Address string
	target  string

	mu       sync.Mutex
	listener net.Listener // nil while it is cut
	conns    map[net.Conn]bool
}

// Forward returns a way to the database's server, closed: [Forwarder.Open] it.
func Forward(t testing.TB, db *dbtest.DB) *Forwarder {
	t.Helper()
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	f := &Forwarder{Address: port.Address(t), target: u.Host, conns: make(map[net.Conn]bool)}
	t.Cleanup(f.Cut)
	return f
}

// DB is db by way of f.
func (f *Forwarder) DB(t testing.TB, db *dbtest.DB) *dbtest.DB {
	t.Helper()
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = f.Address
	return &dbtest.DB{URL: u.String(), Postgres: db.Postgres, Keys: db.Keys}
}

// Open lets connections through.
func (f *Forwarder) Open(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", f.Address)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.listener = l
	f.mu.Unlock()
	go f.accept(l)
}

// Cut ends all connections and refuses new ones.
func (f *Forwarder) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener != nil {
		f.listener.Close()
		f.listener = nil
	}
	for c := range f.conns {
		c.Close()
	}
}

func (f *Forwarder) accept(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", f.target)
		if err != nil || !f.keep(l, in, out) {
			in.Close()
			continue
		}
		go f.copy(in, out)
		go f.copy(out, in)
	}
}

// keep notes both ends, unless l has been cut meanwhile.
func (f *Forwarder) keep(l net.Listener, conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener != l {
		conns[1].Close()
		return false
	}
	for _, c := range conns {
		f.conns[c] = true
	}
	return true
}

func (f *Forwarder) copy(to, from net.Conn) {
	io.Copy(to, from)
	to.Close()
	from.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, to)
	delete(f.conns, from)
}
