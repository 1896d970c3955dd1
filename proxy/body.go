package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// body is the body of a request on its way.
type body struct {
	// paced is the body as it comes from the caller; nil without one.
	paced *pacedBody
	// kept is the body as it is sent; nil without one, and before [body.take].
	kept *keptBody
}

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
	first := in.ContentLength > 0 && b.kept.fits() && len(in.Header["Expect"]) == 0
	return !first || b.kept.fill()
}

// hold reads the whole body of in into memory and reports whether it fits within
// limit.
func (b *body) hold(in *http.Request, limit int) bool {
	return !b.keep(in, limit) || b.kept.fits() && b.kept.fill()
}

// keep makes b.kept, if it isn't there yet, and reports whether there is a body.
func (b *body) keep(in *http.Request, limit int) bool {
	if b.kept == nil && !empty(in) {
		b.kept = newKeptBody(in.Body, in.ContentLength, limit)
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
// that it can be sent again. Its mutex is needed because a transport may still read
// for one attempt when the next one begins.
type keptBody struct {
	src   io.ReadCloser
	limit int

	mu      sync.Mutex
	kept    []byte // what was read of src so far, while it fits
	over    bool   // it doesn't fit
	taken   bool   // something was read of src
	end     error  // what src ended with; io.EOF when it is complete
	reading bool   // a Read of src is under way
	reader  int    // the reader whose turn it is; older ones are stale
}

// newKeptBody returns the body that comes from src and has length bytes, or an
// unknown number if length is negative. Nothing is kept of a body that can't fit
// within limit.
func newKeptBody(src io.ReadCloser, length int64, limit int) *keptBody {
	b := &keptBody{src: src, limit: limit, over: limit == 0 || length > int64(limit)}
	if !b.over && length > 0 {
		b.kept = make([]byte, 0, length)
	}
	return b
}

// fill reads the body as far as it may be kept, and reports whether that is all of
// it. If not, the body can't be forwarded any more. No reader may be in use.
func (b *keptBody) fill() bool {
	buf := make([]byte, 4<<10)
	r := b.open()
	for {
		if _, err := r.Read(buf); err != nil || !b.fits() {
			return err == io.EOF && b.fits()
		}
	}
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
	if b.over && b.taken || b.reading || b.end != nil && b.end != io.EOF {
		return nil, errStale
	}
	return b.next(), nil
}

func (b *keptBody) next() io.ReadCloser {
	b.reader++
	return &keptReader{from: b, id: b.reader}
}

// fits reports whether all that was read so far is kept.
func (b *keptBody) fits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.over
}

// complete reports whether all of the body is in memory, so that src isn't read any
// more.
func (b *keptBody) complete() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.over && b.end == io.EOF
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

// close makes every reader stale. The server closes the body itself.
func (b *keptBody) close() {
	if b != nil {
		b.open()
	}
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
	case !b.over && r.off < len(b.kept):
		n := copy(p, b.kept[r.off:])
		r.off += n
		return n, nil
	case b.end != nil:
		return 0, b.end
	}
	b.reading, b.taken = true, true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	b.reading = false
	b.end = err
	r.off += n
	if b.over = b.over || len(b.kept)+n > b.limit; b.over {
		b.kept = nil
	} else {
		b.kept = append(b.kept, p[:n]...)
	}
	return n, err
}

// Close does nothing. A transport that gives up early closes the body, and that
// must not drain the caller's connection. (httputil's noopCloseReader is the same.)
func (r *keptReader) Close() error { return nil }
