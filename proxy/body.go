package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// errStale ends the reading of a body by someone who has lost it: an attempt
// that was given up, or a transport that outlives the handler.
var errStale = errors.New("request body is read elsewhere")

// upload is a request's body, kept while it passes, up to a limit, so that it
// can be sent again. Its mutex is this request's alone: a transport may still
// read for one attempt when the next begins.
type upload struct {
	src   io.ReadCloser
	limit int

	mu      sync.Mutex
	kept    []byte // what was read of src so far, while it fits
	over    bool   // it doesn't fit
	taken   bool   // something was read of src
	end     error  // what src ended with; io.EOF when whole
	reading bool   // a Read of src is under way
	reader  int    // the reader whose turn it is; older ones are stale
}

// keep returns the upload of r, or nil if r has no body. What is known not to
// fit within limit isn't kept at all.
func keep(r *http.Request, limit int) *upload {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	u := &upload{src: r.Body, limit: limit, over: limit == 0 || r.ContentLength > int64(limit)}
	if !u.over && r.ContentLength > 0 {
		u.kept = make([]byte, 0, r.ContentLength)
	}
	return u
}

// fill reads the body as far as it may be kept and reports whether that is all
// of it; if not, the body is spoilt and nothing can be forwarded. It must not
// run while a reader is in use.
func (u *upload) fill() bool {
	buf := make([]byte, 4<<10)
	r := u.open()
	for {
		if _, err := r.Read(buf); err != nil || !u.fits() {
			return err == io.EOF && u.fits()
		}
	}
}

// open returns the body from its beginning, for the first time.
func (u *upload) open() io.ReadCloser {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.next()
}

// reopen returns the body from its beginning once more, or errStale when what
// was read is not kept, or is being read. It is also http.Request.GetBody: the
// transport asks for it when it took an idle connection that upstream had
// already closed.
func (u *upload) reopen() (io.ReadCloser, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over && u.taken || u.reading || u.end != nil && u.end != io.EOF {
		return nil, errStale
	}
	return u.next(), nil
}

func (u *upload) next() io.ReadCloser {
	u.reader++
	return &uploadReader{u: u, id: u.reader}
}

// fits reports whether all that was read so far is kept.
func (u *upload) fits() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.over
}

// held reports whether all of the body is in memory, and src done with.
func (u *upload) held() bool {
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.over && u.end == io.EOF
}

// broken reports whether the caller's side of the body failed.
func (u *upload) broken() bool {
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.end != nil && u.end != io.EOF
}

// close makes every reader stale. The body itself is the server's to close.
func (u *upload) close() {
	if u != nil {
		u.open()
	}
}

type uploadReader struct {
	u   *upload
	id  int
	off int
}

func (r *uploadReader) Read(b []byte) (int, error) {
	u := r.u
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case r.id != u.reader || u.reading:
		return 0, errStale
	case !u.over && r.off < len(u.kept):
		n := copy(b, u.kept[r.off:])
		r.off += n
		return n, nil
	case u.end != nil:
		return 0, u.end
	}
	u.reading, u.taken = true, true
	u.mu.Unlock()
	n, err := u.src.Read(b)
	u.mu.Lock()
	u.reading = false
	u.end = err
	r.off += n
	if u.over = u.over || len(u.kept)+n > u.limit; u.over {
		u.kept = nil
	} else {
		u.kept = append(u.kept, b[:n]...)
	}
	return n, err
}

// Close does nothing: a transport that gives up early must not drain the
// caller's connection, see httputil's noopCloseReader.
func (r *uploadReader) Close() error { return nil }
