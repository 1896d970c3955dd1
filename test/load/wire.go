package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// conn is one connection of the load generator, which speaks HTTP/1.1 by hand.
//
// net/http's client spends two goroutines, a header map and some forty
// allocations on each request, about what the proxies spend that are to be
// measured. On two cores it would take half of the machine, and the ratio of any
// two proxies would be nearer to 1 than it is.
type conn struct {
	net.Conn
	r *bufio.Reader
	// request is sent as it is, after the user's digits are put in their places.
	request []byte
	digits  []int
	body    []byte
}

// patience bounds each read and write; nothing waits for it but a failure.
const patience = 30 * time.Second

func dial(j *job, addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(j.Length + j.Warm + 5*patience))
	if j.TLS != nil {
		secure := tls.Client(c, j.TLS)
		if err := secure.Handshake(); err != nil {
			return nil, err
		}
		c = secure
	}
	request := j.request(addr)
	out := &conn{Conn: c, r: bufio.NewReaderSize(c, 32<<10), request: request}
	for at, rest := 0, request; ; {
		i := bytes.Index(rest, []byte(userName(0)))
		if i < 0 {
			return out, nil
		}
		at += i + len(userName(0))
		rest = request[at:]
		out.digits = append(out.digits, at)
	}
}

// setUser makes the request one of user's.
func (c *conn) setUser(user int) {
	for _, end := range c.digits {
		putDigits(c.request[:end], user)
	}
}

// reply is what an answer says.
type reply struct {
	status int
	owner  string // X-Owner, "" for none
	length int64  // of the body; -1: chunked
	close  bool
}

func (c *conn) readHeader() (reply, error) {
	a := reply{length: -2}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return a, fmt.Errorf("not an HTTP/1.1 answer: %.40q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("not a status line: %.40q", line)
	}
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return a, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		// The switch is by length first: most headers are none of these.
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("Content-Length")):
			if a.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return a, fmt.Errorf("Content-Length: %w", err)
			}
		case len(name) == 17 && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			a.length = -1
		case len(name) == 7 && bytes.EqualFold(name, []byte("X-Owner")):
			a.owner = string(value)
		case len(name) == 10 && bytes.EqualFold(name, []byte("Connection")):
			a.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	if a.length == -2 {
		return a, errors.New("an answer without a length")
	}
	return a, nil
}

// bodyOf is for bodies that stream.
func (c *conn) bodyOf(a reply) io.Reader {
	if a.length >= 0 {
		return io.LimitReader(c.r, a.length)
	}
	return &chunks{r: c.r}
}

// readBody reads a small body; what it returns is valid until the next.
func (c *conn) readBody(a reply) ([]byte, error) {
	if a.length < 0 {
		b := bytes.NewBuffer(c.body[:0])
		_, err := io.Copy(b, c.bodyOf(a))
		c.body = b.Bytes()
		return c.body, err
	}
	if a.length > int64(cap(c.body)) {
		c.body = make([]byte, a.length)
	}
	c.body = c.body[:a.length]
	_, err := io.ReadFull(c.r, c.body)
	return c.body, err
}

// chunks reads a chunked body up to its end.
type chunks struct {
	r    *bufio.Reader
	left int64
	done bool
}

func (c *chunks) Read(b []byte) (int, error) {
	if c.done {
		return 0, io.EOF
	}
	if c.left == 0 {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
		if c.left, err = strconv.ParseInt(string(size), 16, 64); err != nil {
			return 0, fmt.Errorf("chunk size: %w", err)
		}
		if c.left == 0 {
			c.done = true
			return 0, c.trailer()
		}
	}
	if int64(len(b)) > c.left {
		b = b[:c.left]
	}
	n, err := c.r.Read(b)
	if c.left -= int64(n); c.left == 0 && err == nil {
		_, err = c.r.Discard(2)
	}
	return n, err
}

func (c *chunks) trailer() error {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			return io.EOF
		}
	}
}
