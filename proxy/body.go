package proxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// body is the body of a request on its way.
type body struct {
	// paced is the body as it comes from the caller; nil without one.
	paced *pacedBody
	// kept is the body as it is sent; nil without one, and before [body.take].
	kept *keptBody
	// total counts what is kept of all bodies.
	total *keptTotal
}

// keptTotal counts the bytes that all bodies keep together, so that many callers
// can't fill the memory. When it is full, bodies pass without being kept.
type keptTotal struct {
	bytes atomic.Int64
	limit int64
}

// maxKeptBodies is how many bodies of the largest size may be kept at once. Most are
// much smaller.
const maxKeptBodies = 512

func (t *keptTotal) full() bool { return t.bytes.Load() >= t.limit }

// pace makes the body of in come at a pace. An empty body stays as it is.
func (b *body) pace(in *http.Request, w http.ResponseWriter, patience time.Duration) {
	if !empty(in) {
		b.paced = newPacedBody(in.Body, w, patience)
		in.Body = b.paced
	}
}

// take arranges for up to limit bytes of the body of in to be kept while they pass,
// and reports whether the request can be sent. A body that fits and came with its
// length is read first, so that it can be sent again whenever Lark answers. It is
// not read first if the caller wants to hear from Lark before it sends (RFC 9110
// section 10.1.1).
func (b *body) take(in *http.Request, limit int) bool {
	if !b.keep(in, limit) {
		return true
	}
	in.GetBody = b.kept.reopen
	if in.ContentLength > 0 && len(in.Header["Expect"]) == 0 {
		b.kept.fill()
	}
	return !b.kept.broken()
}

// hold reads the whole body of in into memory and reports whether it fits within
// limit.
func (b *body) hold(in *http.Request, limit int) bool {
	return !b.keep(in, limit) || b.kept.fill()
}

// keep makes b.kept, if it isn't there yet, and reports whether there is a body.
func (b *body) keep(in *http.Request, limit int) bool {
	if b.kept == nil && !empty(in) {
		b.kept = newKeptBody(in.Body, in.ContentLength, limit, b.total)
	}
	return b.kept != nil
}

// rewind makes in have its body from the beginning.
func (b *body) rewind(in *http.Request) {
	if b.kept != nil {
		in.Body = b.kept.open()
	}
}

// again returns out for another attempt. It is false if the body can't be sent
// again. The header is a copy, since the transport may still read the first one.
func (b *body) again(out *http.Request) (*http.Request, bool) {
	next := *out
	next.Header = out.Header.Clone()
	if b.kept != nil {
		var err error
		if next.Body, err = b.kept.reopen(); err != nil {
			return nil, false
		}
	}
	return &next, true
}

func empty(in *http.Request) bool {
	return in.Body == nil || in.Body == http.NoBody || in.ContentLength == 0
}

// errStale ends a read of the body by a reader whose turn is over: one of an
// attempt that was given up, or of a transport that outlives the handler.
var errStale = errors.New("request body is read elsewhere")

// keptBody is the body of a request. While it passes, it is kept up to a limit, so
// that it can be sent again. Memory is taken for bytes that have come, not for a
// length that was declared. The mutex is needed because a transport may still read
// for one attempt when the next one begins.
type keptBody struct {
	src   io.ReadCloser
	limit int
	total *keptTotal

	mu      sync.Mutex
	kept    []byte // the beginning of what was read of src so far
	full    bool   // no more is kept
	lost    bool   // something was read of src that is not in kept
	end     error  // what src ended with; io.EOF when it is complete
	reading bool   // a Read of src is under way
	reader  int    // the reader whose turn it is; older ones are stale
}

// newKeptBody returns the body that comes from src and has length bytes, or an
// unknown number if length is negative. Nothing is kept of a body that can't fit
// within limit.
func newKeptBody(src io.ReadCloser, length int64, limit int, total *keptTotal) *keptBody {
	return &keptBody{src: src, limit: limit, total: total, full: limit == 0 || length > int64(limit)}
}

// fill reads the body as far as it may be kept, and reports whether that is all of
// it. What it has read is kept and is not lost, unless the body is longer than
// limit. No reader may be in use.
func (b *keptBody) fill() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.full && b.end == nil {
		if b.total.full() {
			b.full = true
			break
		}
		b.kept = slices.Grow(b.kept, 512) // it grows as io.ReadAll's buffer does
		b.pull(b.kept[len(b.kept):cap(b.kept)])
	}
	return b.end == io.EOF && !b.lost
}

// open returns the body from its beginning, for the first time.
func (b *keptBody) open() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next()
}

// reopen returns the body from its beginning once more, or errStale if what was
// read is not kept, or is being read. It is http.Request.GetBody too: the transport
// calls it after it took an idle connection that upstream had already closed.
func (b *keptBody) reopen() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost || b.reading || b.end != nil && b.end != io.EOF {
		return nil, errStale
	}
	return b.next(), nil
}

func (b *keptBody) next() io.ReadCloser {
	b.reader++
	return &keptReader{from: b, id: b.reader}
}

// complete reports whether all of the body is in memory, so that src isn't read any
// more.
func (b *keptBody) complete() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost && b.end == io.EOF
}

// broken reports whether the caller's side of the body failed.
func (b *keptBody) broken() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end != nil && b.end != io.EOF
}

// close makes every reader stale, and forgets what is kept. The server closes the
// body itself.
func (b *keptBody) close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader++
	b.full = true // a Read of src that is under way keeps nothing any more
	b.forget()
}

func (b *keptBody) forget() {
	b.total.bytes.Add(-int64(len(b.kept)))
	b.kept = nil
}

// pull reads from src into p, and keeps what it has read if it may. b.mu is held,
// and given up for the time of the read.
func (b *keptBody) pull(p []byte) (int, error) {
	b.reading = true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	b.reading = false
	b.end = err
	switch {
	case n == 0:
	case b.full || len(b.kept)+n > b.limit:
		b.full, b.lost = true, true
		b.forget()
	default:
		b.kept = append(b.kept, p[:n]...)
		b.total.bytes.Add(int64(n))
	}
	return n, err
}

// keptReader reads a keptBody from its beginning.
type keptReader struct {
	from *keptBody
	id   int
	off  int
}

func (r *keptReader) Read(p []byte) (int, error) {
	b := r.from
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.id != b.reader || b.reading:
		return 0, errStale
	case r.off < len(b.kept):
		n := copy(p, b.kept[r.off:])
		r.off += n
		return n, nil
	case b.end != nil:
		return 0, b.end
	}
	b.full = b.full || b.total.full()
	n, err := b.pull(p)
	r.off += n
	return n, err
}

// Close does nothing. A transport that gives up early closes the body, and that
// must not drain the caller's connection. (httputil's noopCloseReader is the same.)
func (r *keptReader) Close() error { return nil }
