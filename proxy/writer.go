package proxy

import "net/http"

// smallAnswer is how large an answer may be, in bytes, to be written together with
// its header. A larger one is sent as it comes.
const smallAnswer = 4 << 10

// writer is the caller's ResponseWriter. It notes the status, and decides when an
// answer of known length is flushed. ReverseProxy would flush it either never, or
// after every write, including the last one.
type writer struct {
	http.ResponseWriter
	status int
	// left is how much of a body of known length is still to come.
	left int64
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader passes on 1xx without Larkside's own headers, which upstream must not
// send. It keeps net/http from guessing a Content-Type where Lark sent none.
func (w *writer) WriteHeader(status int) {
	h := w.Header()
	if status < 200 {
		stripAnswer(h)
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.status = status
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil
	}
	w.ResponseWriter.WriteHeader(status)
	if w.left > smallAnswer {
		w.flush()
	}
}

func (w *writer) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	if w.left -= int64(n); w.left > 0 && err == nil {
		w.flush()
	}
	return n, err
}

func (w *writer) flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}
