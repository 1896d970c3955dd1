package larktest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"time"
)

// The routes below are not Lark's. They sit under an aPaaS path so that a
// proxy injects there, and stream in ways that no documented route does. Each
// takes user and tenant tokens, any method, and passes the gate.
//
//	echo    reads the body to its end; answers method, target, headers, size
//	        and SHA-256 of the body, and the owner
//	stream  sends the body back byte for byte, while it is still coming in
//	sse     ?n= events (10), ?every= apart (0); with ?gate=NAME each one waits
//	        for [Platform.Emit]
//	slow    waits ?delay= before the header and ?body= before the rest
//	bytes   ?n= bytes, of a pattern that [PatternByte] describes
//	status  ?code= as HTTP status, ?location= as a header with it
const helperPath = apaas + "/larktest/"

var helperRoutes = []route{
	{method: "*", pattern: helperPath + "echo", stream: serveEcho},
	{method: "*", pattern: helperPath + "echo/*", stream: serveEcho},
	{method: "*", pattern: helperPath + "stream", stream: serveStreamBack},
	{method: "*", pattern: helperPath + "sse", stream: serveSSE},
	{method: "*", pattern: helperPath + "slow", stream: serveSlow},
	{method: "*", pattern: helperPath + "bytes", stream: serveBytes},
	{method: "*", pattern: helperPath + "status", stream: serveStatus},
}

// counter measures a body as it is read.
type counter struct {
	io.Reader
	sum  hash.Hash
	size int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.sum.Write(b[:n])
	c.size += int64(n)
	return n, err
}

func (x *exchange) counted() *counter { return &counter{Reader: x.r.Body, sum: sha256.New()} }

func (x *exchange) booked(c *counter) { x.measure(c.size, [sha256.Size]byte(c.sum.Sum(nil))) }

// Echo is what the echo helper answers, beside "code" 0.
type Echo struct {
	Code       int               `json:"code"`
	Method     string            `json:"method"`
	Target     string            `json:"target"` // raw, as on the request line
	Host       string            `json:"host"`
	Header     http.Header       `json:"header"`           // Authorization redacted
	Prefer     []string          `json:"prefer,omitempty"` // its lines as they came
	Trailer    http.Header       `json:"trailer,omitempty"`
	BodySize   int64             `json:"body_size"`
	BodySHA256 string            `json:"body_sha256"`
	BodyError  string            `json:"body_error,omitempty"`
	Owner      map[string]string `json:"owner"` // token, app_id, open_id, name
}

func serveEcho(p *Platform, x *exchange) {
	c := x.counted()
	_, err := io.Copy(io.Discard, c)
	x.booked(c)
	p.mu.Lock()
	owner := p.owner(x)
	p.mu.Unlock()
	out := Echo{
		Method: x.r.Method, Target: x.call.Target, Host: x.r.Host, Header: x.call.Header, Prefer: x.r.Header.Values("Prefer"), Trailer: x.r.Trailer,
		BodySize: x.call.BodySize, BodySHA256: x.call.BodySHA256, Owner: owner,
	}
	if err != nil {
		out.BodyError = err.Error()
	}
	x.w.Header().Set("Content-Type", jsonType)
	json.NewEncoder(x.w).Encode(out)
}

// serveStreamBack needs full duplex: it answers before the body has ended.
func serveStreamBack(_ *Platform, x *exchange) {
	control := http.NewResponseController(x.w)
	control.EnableFullDuplex()
	x.w.Header().Set("Content-Type", "application/octet-stream")
	x.w.WriteHeader(http.StatusOK)
	control.Flush()
	c := x.counted()
	buffer := make([]byte, 32<<10)
	for {
		n, err := c.Read(buffer)
		if n > 0 {
			if _, werr := x.w.Write(buffer[:n]); werr != nil {
				break
			}
			control.Flush()
		}
		if err != nil {
			break
		}
	}
	x.booked(c)
}

func serveSSE(p *Platform, x *exchange) {
	query := x.r.URL.Query()
	n := number(query.Get("n"), 10)
	every, _ := time.ParseDuration(query.Get("every"))
	control := http.NewResponseController(x.w)
	x.w.Header().Set("Content-Type", "text/event-stream")
	x.w.WriteHeader(http.StatusOK)
	control.Flush()
	for i := 1; i <= n; i++ {
		if !p.mayEmit(x, query.Get("gate"), every) {
			return
		}
		if _, err := fmt.Fprintf(x.w, "id: %d\ndata: {\"n\":%d,\"owner\":%q}\n\n", i, i, x.call.Owner); err != nil {
			return
		}
		control.Flush()
	}
}

// mayEmit waits for the next event's turn.
func (p *Platform) mayEmit(x *exchange, gate string, every time.Duration) bool {
	if gate != "" {
		select {
		case <-p.streamGate(gate):
			return true
		case <-x.r.Context().Done():
		case <-p.closed:
		}
		return false
	}
	return p.sleep(x, every)
}

func (p *Platform) sleep(x *exchange, d time.Duration) bool {
	if d <= 0 {
		return x.r.Context().Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-x.r.Context().Done():
	case <-p.closed:
	}
	return false
}

func (p *Platform) streamGate(name string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams[name] == nil {
		p.streams[name] = make(chan struct{})
	}
	return p.streams[name]
}

// Emit lets one event out of an sse stream that was opened with ?gate=name. It
// blocks until a stream takes it, the Platform is closed, or stop is (nil:
// never), and reports whether one did.
func (p *Platform) Emit(name string, stop <-chan struct{}) bool {
	select {
	case p.streamGate(name) <- struct{}{}:
		return true
	case <-stop:
	case <-p.closed:
	}
	return false
}

func serveSlow(p *Platform, x *exchange) {
	query := x.r.URL.Query()
	header, _ := time.ParseDuration(query.Get("delay"))
	body, _ := time.ParseDuration(query.Get("body"))
	if !p.sleep(x, header) {
		return
	}
	x.w.Header().Set("Content-Type", jsonType)
	x.w.WriteHeader(http.StatusOK)
	http.NewResponseController(x.w).Flush()
	if p.sleep(x, body) {
		fmt.Fprintf(x.w, `{"code":0,"owner":{"open_id":%q}}`, x.call.Owner)
	}
}

// PatternByte is byte i of what the bytes helper sends.
func PatternByte(i int64) byte { return byte(i % 251) }

func serveBytes(_ *Platform, x *exchange) {
	n, err := strconv.ParseInt(x.r.URL.Query().Get("n"), 10, 64)
	if err != nil || n < 0 {
		n = 0
	}
	x.w.Header().Set("Content-Type", "application/octet-stream")
	x.w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	block := make([]byte, 251*256) // a whole number of periods
	for i := range block {
		block[i] = PatternByte(int64(i))
	}
	for n > 0 {
		chunk := block[:min(n, int64(len(block)))]
		if _, err := x.w.Write(chunk); err != nil {
			return
		}
		n -= int64(len(chunk))
	}
}

func serveStatus(_ *Platform, x *exchange) {
	query := x.r.URL.Query()
	status := number(query.Get("code"), http.StatusOK)
	if status < 200 || status > 599 {
		status = http.StatusBadRequest
	}
	if location := query.Get("location"); location != "" {
		x.w.Header().Set("Location", location)
	}
	x.call.Status = status
	x.w.Header().Set("Content-Type", jsonType)
	x.w.WriteHeader(status)
	if status != http.StatusNoContent && status != http.StatusNotModified {
		fmt.Fprintf(x.w, `{"code":0,"owner":{"open_id":%q}}`, x.call.Owner)
	}
}

func number(s string, otherwise int) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return otherwise
}
