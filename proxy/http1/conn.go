package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"

	"larkside/proxy/socket"
)

// bufferSize is of each of a connection's two buffers, as in net/http.
const bufferSize = 4 << 10

var (
	errHeaderTooLarge = errors.New("upstream's answer has too large a header")
	errSwitched       = errors.New("upstream switched protocols unasked")
	errNotHTTP        = errors.New("upstream's answer is not HTTP/1.1")
)

// past is a deadline that is over: setting it wakes whoever reads or writes.
var past = time.Unix(1, 0)

// conn is one connection. One exchange at a time owns it.
type conn struct {
	t      *Transport
	net    net.Conn // what is read and written: TLS, or socket itself
	socket *socket.Conn
	epoch  int64 // the transport's, when the connection was made
	// Of TLS; nil without.
	records *records
	state   *tls.ConnectionState

	r *bufio.Reader
	w *bufio.Writer

	reused   bool
	aborting func() // abort, made once

	// left is how many bytes of the present answer's header may still come; it
	// counts while counting. got: something of the answer came.
	left     int64
	counting bool
	got      bool

	// wrote: something of the request went out. lost: writing it failed, which
	// is another thing than a failure of its body. Both belong to the goroutine
	// that writes, until outgoing is done.
	wrote, lost bool

	mu sync.Mutex
	// aborted: the exchange's context is done, deadlines are not to be moved.
	aborted bool
	// headerCame: the header is there, and no time limit on it is to be set.
	headerCame bool
	// limit is the socket's deadline for reading; zero for none. One that has done
	// its work stays until the next exchange sets its own: setting it costs
	// more than most of what is done for a request.
	limit time.Time
}

func newConn(t *Transport, raw net.Conn) *conn {
	s := socket.New(raw)
	c := &conn{t: t, net: s, socket: s, epoch: t.epoch.Load()}
	c.r, c.w = bufio.NewReaderSize(c, bufferSize), bufio.NewWriterSize(c, bufferSize)
	c.aborting = c.abort
	return c
}

// encrypt does the TLS handshake.
func (c *conn) encrypt(ctx context.Context, config *tls.Config) error {
	c.records = &records{Conn: c.socket}
	secure := tls.Client(c.records, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	state := secure.ConnectionState()
	c.net, c.state = secure, &state
	return nil
}

// Read reads for c.r. It counts what belongs to a header.
func (c *conn) Read(b []byte) (int, error) {
	if c.counting {
		if c.left <= 0 {
			return 0, errHeaderTooLarge
		}
		b = b[:min(int64(len(b)), c.left)]
	}
	n, err := c.net.Read(b)
	c.got = c.got || n > 0
	c.left -= int64(n)
	return n, err
}

// Write writes for c.w.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.net.Write(b)
	c.wrote, c.lost = c.wrote || n > 0, c.lost || err != nil
	return n, err
}

// copySize is of the pieces in which a large body goes out.
const copySize = 32 << 10

// ReadFrom writes a body of known length for c.w, in larger pieces than its
// buffer would.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	b, ok := c.t.pieces.Get().(*[copySize]byte)
	if !ok {
		b = new([copySize]byte)
	}
	defer c.t.pieces.Put(b)
	var sum int64
	for {
		n, err := r.Read(b[:])
		if n > 0 {
			w, err := c.Write(b[:n])
			if sum += int64(w); err != nil {
				return sum, err
			}
		}
		switch {
		case err == io.EOF:
			return sum, nil
		case err != nil:
			return sum, err
		}
	}
}

func (c *conn) close() { c.net.Close() }

// exchange sends r and reads the answer's header. With an error the connection
// is closed; again is whether r may be sent once more on another one.
func (c *conn) exchange(r *http.Request) (res *http.Response, again bool, err error) {
	c.left, c.counting, c.got, c.wrote, c.lost = c.t.c.MaxHeaderBytes, true, false, false, false
	c.aborted, c.headerCame = false, false
	b := &body{c: c, stop: context.AfterFunc(r.Context(), c.aborting)}
	c.send(r, b)
	res, err = c.receive(r)
	if err != nil {
		b.stop()
		c.close()
		return nil, c.again(r, b.out, err), c.problem(b.out, err)
	}
	c.counting = false
	c.passHeader(res)
	b.res, b.inner = res, res.Body
	if r.Method == http.MethodHead || res.ContentLength == 0 || res.Body == http.NoBody {
		b.end(io.EOF)
		res.Body = http.NoBody
		return res, false, nil
	}
	res.Body = b
	return res, false, nil
}

// again reports whether r, which got no answer because of err, may be sent once
// more. As net/http has it, the connection had been idle, so that upstream may
// have closed it at that moment, and nothing came back; and either nothing went
// out, or doing it twice does no harm (RFC 9110 section 9.2.2). Silence is an
// answer not given in time, and not to be asked for twice.
func (c *conn) again(r *http.Request, out *outgoing, err error) bool {
	var timeout net.Error
	if !c.reused || c.got || r.Context().Err() != nil || errors.As(err, &timeout) && timeout.Timeout() {
		return false
	}
	if out.ended() && out.err != nil {
		if !c.lost {
			return false // the body's own failure
		}
		if !c.wrote {
			return true
		}
	}
	return idempotent(r)
}

func idempotent(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil
}

// problem is what was wrong with the request's own body, or else err.
func (c *conn) problem(out *outgoing, err error) error {
	if out.ended() && out.err != nil && !c.lost {
		return out.err
	}
	return err
}

// outgoing is a request on its way.
type outgoing struct {
	done chan struct{} // closed when err is valid; nil when it is already
	err  error
}

// upload is an outgoing request with a body, which is written behind the
// caller. It is the request's body, since net/http tells its failures to nobody
// but itself.
type upload struct {
	outgoing
	req    http.Request
	body   io.ReadCloser
	broken error // of body, when done
}

func (u *upload) Read(b []byte) (int, error) {
	n, err := u.body.Read(b)
	if err != nil && err != io.EOF {
		u.broken = err
	}
	return n, err
}

func (u *upload) Close() error { return u.body.Close() }

func (u *upload) send(c *conn) {
	u.err = c.write(&u.req)
	spoilt := u.err != nil && !c.lost
	switch {
	case u.err == nil:
		c.limitHeader()
	case u.broken != nil:
		u.err = u.broken
	}
	close(u.done) // from here on c may be the next exchange's, unless it is spoilt
	if spoilt {
		c.abort() // half a body is nobody's request
	}
}

// Held is a body that may be in memory as a whole, so that reading it never
// waits. A short one goes out with its header, in one piece.
type Held interface{ Held() bool }

// atOnce reports whether all of r goes out with its header.
func atOnce(r *http.Request) bool { return r.Body == nil || r.Body == http.NoBody || held(r) }

func held(r *http.Request) bool {
	h, ok := r.Body.(Held)
	return ok && r.ContentLength > 0 && r.ContentLength <= bufferSize && h.Held()
}

// settling is how long an answer that came whole waits for its request's body
// to be done with. Mostly that is only a goroutine's end away. The time is
// net/http's.
const settling = 50 * time.Millisecond

// whole reports whether all of the request is out.
func (o *outgoing) whole() bool {
	if !o.ended() {
		timer := time.NewTimer(settling)
		defer timer.Stop()
		select {
		case <-o.done:
		case <-timer.C:
			return false
		}
	}
	return o.err == nil
}

func (o *outgoing) ended() bool {
	if o.done == nil {
		return true
	}
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// send writes r, whose answer b is to be. A body is written behind the caller,
// since the answer may come before its end. Where upstream stopped reading, its
// answer is on the way or the connection's end is: either shows when reading.
func (c *conn) send(r *http.Request, b *body) {
	if atOnce(r) {
		b.out = &b.sent
		c.limitHeader()
		if b.sent.err = c.ask(r); b.sent.err != nil && !c.lost {
			c.abort() // nothing of it is out that upstream would answer
		}
		return
	}
	u := &upload{req: *r, body: r.Body}
	u.req.Body, u.done = u, make(chan struct{})
	b.out = &u.outgoing
	go u.send(c)
}

// whole hides from net/http that it could flush between header and body.
type whole struct{ *bufio.Writer }

func (c *conn) write(r *http.Request) error {
	if err := r.Write(c.w); err != nil {
		return err
	}
	return c.w.Flush()
}

// ask writes all of r and waits for the answer's first bytes. It is not a method
// of the socket's, since TLS may stand between.
func (c *conn) ask(r *http.Request) error {
	if err := r.Write(whole{c.w}); err != nil {
		return err
	}
	c.socket.Await = true
	err := c.w.Flush()
	c.socket.Await = false
	return err
}

// receive reads the header of the answer. Interim answers before it are handed
// to the context's httptrace and count into its size, which bounds their number.
func (c *conn) receive(r *http.Request) (*http.Response, error) {
	for {
		res, err := http.ReadResponse(c.r, r)
		switch {
		case err != nil && c.left <= 0: // net/http may say something else of a line that is cut
			return nil, errHeaderTooLarge
		case err != nil:
			return nil, named(err)
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errSwitched
		case res.StatusCode >= 200 || res.StatusCode < 100:
			res.TLS = c.state
			res.Close = res.Close || res.StatusCode < 100 // whatever that is
			return res, nil
		}
		trace := httptrace.ContextClientTrace(r.Context())
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// named keeps what upstream sent out of the error: net/http quotes lines that
// are malformed, and they may hold anything.
func named(err error) error {
	var network net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.As(err, &network):
		return network
	}
	return errNotHTTP
}

// limitHeader starts the time that the answer's header may take, unless it has
// been started with the connection's last look.
func (c *conn) limitHeader() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t.c.HeaderTimeout > 0 && !c.aborted && !c.headerCame && c.limit.IsZero() {
		c.setLimit(time.Now().Add(c.t.c.HeaderTimeout))
	}
}

// passHeader lifts it: what streams has no limit. An answer that is here as a
// whole is not read from the socket any more.
func (c *conn) passHeader(res *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headerCame = true
	whole := res.Body == http.NoBody || res.ContentLength >= 0 && res.ContentLength <= int64(c.r.Buffered())
	if !c.limit.IsZero() && !c.aborted && !whole {
		c.setLimit(time.Time{})
	}
}

func (c *conn) setLimit(at time.Time) {
	c.limit = at
	c.socket.SetReadDeadline(at)
}

// abort ends the exchange: its context is done, or its body failed. It is never
// used again.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted = true
	c.socket.SetDeadline(past)
}

// body is an answer's body. At its end the connection is free for the next
// request; closed before that, it is closed with it. Close may be called while
// Read waits.
type body struct {
	c     *conn
	res   *http.Response
	inner io.ReadCloser
	out   *outgoing
	sent  outgoing    // what out is without a body
	stop  func() bool // ends the watch on the context

	mu  sync.Mutex
	err error // how it ended
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := b.inner.Read(p)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		err = orCause(b.res.Request.Context(), named(err))
	}
	return n, b.end(err)
}

func (b *body) Close() error {
	b.end(http.ErrBodyReadAfterClose)
	return nil
}

// end gives the connection back, if all of the answer was read and nothing of
// this exchange is left on it, and closes it otherwise. It returns how the body
// ended, which is what ended it first.
func (b *body) end(err error) error {
	b.mu.Lock()
	if b.err != nil {
		defer b.mu.Unlock()
		return b.err
	}
	b.err = err
	b.mu.Unlock()
	// A watch that can't be stopped any more has set a deadline, or is about to.
	undisturbed := b.stop()
	if err == io.EOF && undisturbed && b.out.whole() && !b.res.Close && b.c.r.Buffered() == 0 {
		b.c.t.keep(b.c)
	} else {
		b.c.close()
	}
	return err
}
