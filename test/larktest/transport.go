package larktest

import (
	"io"
	"net/http"
	"net/url"
	"sync"
)

// Transport returns a RoundTripper that reaches p without a socket, so that
// code under testing/synctest can talk to it. Answers stream; a dropped
// connection is io.ErrUnexpectedEOF, from RoundTrip before the header and from
// the body after it.
func (p *Platform) Transport() http.RoundTripper { return inProcess{p} }

type inProcess struct{ handler http.Handler }

// RoundTrip serves one request in a goroutine of its own.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), "127.0.0.1:0"
	// A client may have put the path into URL.Opaque. A server parses what comes.
	var err error
	if in.URL, err = url.ParseRequestURI(in.RequestURI); err != nil {
		return nil, err
	}
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, ready: make(chan struct{}), status: http.StatusOK}
	go w.run(t.handler, in)
	select {
	case <-w.ready:
	case <-r.Context().Done():
		pr.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
	if w.dropped {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: pr, ContentLength: -1, Request: r,
	}, nil
}

// pipeWriter is the ResponseWriter of such a request. Everything but the pipe
// belongs to the handler's goroutine until ready is closed.
type pipeWriter struct {
	header, sent http.Header
	status       int
	dropped      bool
	body         *io.PipeWriter
	ready        chan struct{}
	once         sync.Once
}

func (w *pipeWriter) run(handler http.Handler, r *http.Request) {
	defer func() {
		r.Body.Close()
		if reason := recover(); reason != nil {
			w.once.Do(func() { w.dropped = true; close(w.ready) })
			w.body.CloseWithError(io.ErrUnexpectedEOF)
			if reason != http.ErrAbortHandler {
				panic(reason)
			}
			return
		}
		w.WriteHeader(http.StatusOK)
		w.body.Close()
	}()
	handler.ServeHTTP(w, r)
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	})
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if len(b) == 0 { // a pipe would wait for a reader
		return 0, nil
	}
	return w.body.Write(b)
}

// Flush does nothing: a pipe keeps nothing back.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }
