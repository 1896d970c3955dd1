package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"larkside/proxy/edge"
)

// NewServer returns a server with the limits that the proxy's listener needs. A
// header has to come in 10 s and within 64 KiB, and a connection may be idle for two
// minutes. What streams is not limited: the handler of [New] sees to it that a body
// moves. OPTIONS * reaches h. On a listener of [NewListener] a caller of that handler
// gets its answer although it has closed its sending side.
//
// A connection ends with the answer to a request whose body came in chunks. Such a
// request may have declared a length, too, and what stands in front of this server
// may have gone by that: the next request would be one that it never saw (RFC 9112
// section 6.1). net/http goes by the chunks and doesn't tell. A connection
// ends with the answer to a request of HTTP/1.0, too. HTTP/1.0 has no chunks, so
// net/http goes by the length, and what stands in front may not.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      serverHandler{h},
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               64 << 10,
		DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			c, ok := conn.(*serverConn)
			if !ok {
				return ctx
			}
			c.life = newCallerLife(ctx, conn)
			return context.WithValue(ctx, serverConnKey{}, c)
		},
		ConnState: func(conn net.Conn, state http.ConnState) {
			c, ok := conn.(*serverConn)
			switch {
			case !ok:
			case state == http.StateIdle:
				c.answering.Store(false)
			case state == http.StateClosed:
				c.life.close()
			}
		},
	}
}

type serverConnKey struct{}

// serverConnOf returns the connection that a request came on, or nil if its
// listener is none of [NewListener].
func serverConnOf(r *http.Request) *serverConn {
	c, _ := r.Context().Value(serverConnKey{}).(*serverConn)
	return c
}

// serverHandler is around the handler of each server.
type serverHandler struct{ next http.Handler }

func (h serverHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c := serverConnOf(r); c != nil {
		c.answering.Store(true)
	}
	if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) {
		w.Header().Set("Connection", "close")
		w = closingWriter{w}
	}
	h.next.ServeHTTP(w, r)
}

// closingWriter ends the connection with the answer, whatever the handler has done
// with the header.
type closingWriter struct{ http.ResponseWriter }

func (w closingWriter) WriteHeader(status int) {
	if status >= 200 {
		w.Header().Set("Connection", "close")
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w closingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w closingWriter) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// NewListener returns l for a server of [NewServer] that is to answer in Lark's
// envelope, also when net/http answers by itself: no handler sees a request that
// net/http can't read, and its own answer is a line of text.
func NewListener(l net.Listener) net.Listener { return serverListener{l} }

type serverListener struct{ net.Listener }

func (l serverListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &serverConn{Conn: conn}, nil
}

// serverConn is a connection on which net/http's own answers get Lark's envelope.
type serverConn struct {
	net.Conn
	life *callerLife
	// answering is true from the call of the handler until net/http waits for the
	// next request. What is written then comes from the handler.
	answering atomic.Bool
}

func (c *serverConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.life.readFailed(err)
	}
	return n, err
}

func (c *serverConn) Write(b []byte) (int, error) {
	if !c.answering.Load() {
		if failure := refusedByServer(b); failure != nil {
			w := rawAnswer{header: http.Header{"Connection": {"close"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}}
			(&edge.Answer{Failure: failure}).Write(&w, &http.Request{Method: http.MethodGet})
			if _, err := c.Conn.Write(w.Bytes()); err != nil {
				return 0, err
			}
			return len(b), nil
		}
	}
	n, err := c.Conn.Write(b)
	c.life.wrote(err)
	return n, err
}

// CloseWrite is how net/http lets a client read an answer behind which the
// connection ends.
func (c *serverConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// refusedByServer returns the failure that stands for an answer which net/http has
// made by itself, or nil for anything else. net/http writes such an answer at once
// and with these headers, or it is a 417. An answer of a handler has a Date.
func refusedByServer(answer []byte) *edge.Failure {
	line, _, found := bytes.Cut(answer, []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"))
	status, isAnswer := strings.CutPrefix(string(line), "HTTP/1.1 ")
	switch {
	case bytes.HasPrefix(answer, []byte("HTTP/1.1 417 ")): // Expect is something else than 100-continue
	case !found || !isAnswer || strings.Contains(status, "\n"):
		return nil
	case strings.HasPrefix(status, "431 "):
		return edge.HeaderTooLarge
	}
	return edge.MalformedRequest
}

// rawAnswer is a ResponseWriter for an answer that is written as one piece.
type rawAnswer struct {
	bytes.Buffer
	header http.Header
}

func (w *rawAnswer) Header() http.Header { return w.header }

func (w *rawAnswer) WriteHeader(status int) {
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	w.header.Write(w)
	w.WriteString("\r\n")
}
