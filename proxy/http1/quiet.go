package http1

import (
	"errors"
	"net"
	"time"
)

// quiet reports whether an idle connection still stands and not a byte has come
// on it: not on the socket, not in a buffer, not in a part of a TLS record. It
// sets the next exchange's limit, zero for none yet.
func (c *conn) quiet(now, limit time.Time) bool {
	if !c.limit.IsZero() && c.limit.Sub(now) < time.Second {
		c.setLimit(time.Time{}) // past it, nothing can be looked at
	}
	if c.r.Buffered() > 0 || !c.socket.Silent() {
		return false
	}
	if c.records == nil {
		if !limit.IsZero() || !c.limit.IsZero() {
			c.setLimit(limit)
		}
		return true
	}
	// What was decrypted or read ahead with the last answer is crypto/tls's.
	// Reading without time finds it and leaves the connection as it is.
	c.socket.SetReadDeadline(past)
	n, err := c.net.Read(make([]byte, 1))
	c.setLimit(limit)
	var timeout net.Error
	return n == 0 && errors.As(err, &timeout) && timeout.Timeout() && c.records.whole()
}

// records follows the TLS records that come (RFC 8446 section 5.1), to know
// whether one is cut: its first bytes are in crypto/tls, and nothing shows them.
type records struct {
	net.Conn
	header [5]byte
	have   int // of header
	left   int // bytes of the record's content still to come
}

func (r *records) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	for b = b[:n]; len(b) > 0; {
		if r.left > 0 {
			k := min(r.left, len(b))
			r.left, b = r.left-k, b[k:]
			continue
		}
		k := copy(r.header[r.have:], b)
		if r.have, b = r.have+k, b[k:]; r.have == len(r.header) {
			r.have, r.left = 0, int(r.header[3])<<8|int(r.header[4])
		}
	}
	return n, err
}

// whole reports whether the last record came to its end.
func (r *records) whole() bool { return r.have == 0 && r.left == 0 }
