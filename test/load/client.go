package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// The load generator's process reads one job from standard input, does it, and
// writes the outcome to standard output.

// loop is how a job decides when to send.
type loop string

const (
	closedLoop loop = "closed" // after the answer
	openLoop   loop = "open"   // by a schedule
	onceEach   loop = "once"   // closed, and once for each user
	download   loop = "down"   // closed, bodies of Size bytes
	upload     loop = "up"
	events     loop = "events" // server-sent events until their end
)

// job is what a load generator does.
type job struct {
	Loop loop
	// Addrs are where connections go, in turn.
	Addrs []string
	// Roots, PEM, make it TLS: only towards the upstream itself.
	Roots string
	// Direct sends the users' tokens, as larkside would.
	Direct bool
	// Conns are opened before anything is sent.
	Conns int
	// Users are asked for at random, from First on.
	First, Users int
	// Warm precedes the Length that is measured.
	Warm, Length time.Duration
	// Rate is an open loop's, in requests per second.
	Rate float64
	// Size is a stream's, in bytes.
	Size int64
	// PIDs are whose CPU time is wanted.
	PIDs []int

	TLS *tls.Config `json:"-"`
}

// outcome is what came of a job. Times are in seconds, latencies in
// microseconds.
type outcome struct {
	// Requests were answered in the time that is measured, Total in all.
	Requests, Total int
	Seconds         float64
	P50, P90, P99   float64
	Max             float64
	Bytes           int64
	// CPU is of the PIDs, Own of the generator.
	CPU, Own float64
}

func (o outcome) perSecond() float64 { return float64(o.Requests) / o.Seconds }

// cpuPer1000 is the proxy's CPU time in seconds for 1,000 requests.
func (o outcome) cpuPer1000() float64 { return o.CPU / float64(o.Requests) * 1000 }

// request is the one of user 0 to addr.
func (j *job) request(addr string) []byte {
	method, path, more := "GET", jsonPath, ""
	switch j.Loop {
	case download:
		path = fmt.Sprintf("%sdown?bytes=%d", streamPath, j.Size)
	case upload:
		method, path, more = "POST", streamPath+"up", fmt.Sprintf("Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", j.Size)
	case events:
		path = streamPath + "events"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: oapi-sdk-go/v3.12.0\r\nAccept: */*\r\n%s", method, path, addr, more)
	if j.Direct {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n\r\n", accessToken(0, 0))
	} else {
		fmt.Fprintf(&b, "X-Lark-User-Id: %s\r\n\r\n", userName(0))
	}
	return b.Bytes()
}

// client is a running job.
type client struct {
	*job
	conns []*conn
	// from and until bound what is measured, by when a request is sent.
	from, until time.Time
	next        atomic.Int64 // of the users of onceEach
	total       atomic.Int64
	bytes       atomic.Int64

	mu   sync.Mutex
	took []int64 // ns
}

func clientMain(ctx context.Context) error {
	// Next to nothing is allocated; what is, may stay.
	debug.SetGCPercent(800)
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	o, err := j.do(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(o)
}

func (j *job) do(ctx context.Context) (*outcome, error) {
	if j.Roots != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(j.Roots))
		j.TLS = &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"http/1.1"}}
	}
	c := &client{job: j}
	defer func() {
		for _, one := range c.conns {
			one.Close()
		}
	}()
	for i := range j.Conns {
		one, err := dial(j, j.Addrs[i%len(j.Addrs)])
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, one)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.from = time.Now().Add(j.Warm)
	c.until = c.from.Add(j.Length)
	var o outcome
	measured := make(chan error, 1)
	stop := make(chan struct{})
	go func() { measured <- c.watchCPU(&o, stop) }()
	err := c.run(ctx)
	o.Seconds = j.Length.Seconds()
	if j.Loop != closedLoop && j.Loop != openLoop {
		// All is counted that was begun, up to the end of the last one.
		o.Seconds = time.Since(c.from).Seconds()
	}
	close(stop)
	if cpuErr := <-measured; err == nil {
		err = cpuErr
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(c.took)
	us := func(p float64) float64 { return percentile(c.took, p) / 1000 }
	o.Requests, o.Total, o.Bytes = len(c.took), int(c.total.Load()), c.bytes.Load()
	if len(c.took) == 0 {
		return nil, fmt.Errorf("%s: no answer in %v", j.Loop, j.Length)
	}
	o.P50, o.P90, o.P99, o.Max = us(0.5), us(0.9), us(0.99), us(1)
	return &o, nil
}

// watchCPU takes the difference over what is measured.
func (c *client) watchCPU(o *outcome, stop <-chan struct{}) error {
	wait := func(t time.Time) {
		select {
		case <-time.After(time.Until(t)):
		case <-stop:
		}
	}
	own := append(slices.Clone(c.PIDs), os.Getpid())
	wait(c.from)
	before, err := cpuTimes(own)
	if err != nil {
		return err
	}
	if c.Loop == closedLoop || c.Loop == openLoop {
		wait(c.until)
	} else {
		<-stop
	}
	after, err := cpuTimes(own)
	if err != nil {
		return err
	}
	for i := range own {
		d := (after[i] - before[i]).Seconds()
		if i < len(c.PIDs) {
			o.CPU += d
		} else {
			o.Own = d
		}
	}
	return nil
}

func (c *client) run(ctx context.Context) error {
	if c.Loop == openLoop {
		return c.open(ctx)
	}
	one := map[loop]func(*conn, int) error{
		closedLoop: c.small, onceEach: c.small, download: c.large, upload: c.large, events: c.listen,
	}[c.Loop]
	g, ctx := errgroup.WithContext(ctx)
	for i, cn := range c.conns {
		g.Go(func() error {
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			took := make([]int64, 0, 1<<14)
			defer func() {
				c.mu.Lock()
				c.took = append(c.took, took...)
				c.mu.Unlock()
			}()
			for ctx.Err() == nil {
				user := c.First + rng.IntN(c.Users)
				begin := time.Now()
				if c.Loop == onceEach {
					if user = int(c.next.Add(1)) - 1; user >= c.Users {
						return nil
					}
					user += c.First
				} else if !begin.Before(c.until) {
					return nil
				}
				if err := one(cn, user); err != nil {
					return fmt.Errorf("%s: %w", userName(user), err)
				}
				c.total.Add(1)
				end := time.Now()
				counts := !begin.Before(c.from) && c.Loop != events // those are counted one by one
				if c.Loop == closedLoop {
					// By the answers: a request that crosses an end belongs to one side.
					counts = !end.Before(c.from) && end.Before(c.until)
				}
				if counts {
					took = append(took, int64(end.Sub(begin)))
				}
				if c.Loop == events && c.Length == 0 {
					return nil
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// small asks for one JSON answer.
func (c *client) small(cn *conn, user int) error {
	cn.setUser(user)
	if _, err := cn.Write(cn.request); err != nil {
		return err
	}
	return cn.check(user)
}

// check reads a JSON answer and whose token came.
func (c *conn) check(user int) error {
	a, err := c.readHeader()
	if err != nil {
		return err
	}
	body, err := c.readBody(a)
	if err != nil {
		return err
	}
	if a.status != 200 || !namesUser(body, user) {
		return fmt.Errorf("status %d, and not this user's answer: %.200q", a.status, body)
	}
	if a.close {
		return fmt.Errorf("the connection is closed after an answer")
	}
	return nil
}

// large sends or gets one body of Size bytes.
func (c *client) large(cn *conn, user int) error {
	cn.setUser(user)
	if _, err := cn.Write(cn.request); err != nil {
		return err
	}
	if c.Loop == upload {
		for left := c.Size; left > 0; left -= int64(len(block)) {
			if _, err := cn.Write(block[:min(left, int64(len(block)))]); err != nil {
				a, _ := cn.readHeader() // who does not want it all may have said why
				return fmt.Errorf("status %d before the body's end: %w", a.status, err)
			}
		}
		if err := cn.check(user); err != nil {
			return err
		}
		c.bytes.Add(c.Size)
		return nil
	}
	a, err := cn.readHeader()
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{}, cn.bodyOf(a), make([]byte, 64<<10))
	if err == nil && (a.status != 200 || a.owner != userName(user) || n != c.Size) {
		err = fmt.Errorf("status %d, %d bytes, and the token of %q", a.status, n, a.owner)
	}
	c.bytes.Add(n)
	return err
}

// onlyWriter discards and hides that io.Discard could read by itself.
type onlyWriter struct{}

func (onlyWriter) Write(b []byte) (int, error) { return len(b), nil }

// block is what bodies are made of.
var block = make([]byte, 64<<10)

// listen takes the events of one stream. Each says when the upstream sent it,
// in nanoseconds since 1970 by the clock that both share; what is kept as
// latency is the time since then.
func (c *client) listen(cn *conn, user int) error {
	cn.setUser(user)
	if _, err := cn.Write(cn.request); err != nil {
		return err
	}
	a, err := cn.readHeader()
	if err != nil {
		return err
	}
	if a.status != 200 || a.owner != userName(user) {
		return fmt.Errorf("status %d, and the token of %q", a.status, a.owner)
	}
	body, buf, rest := cn.bodyOf(a), make([]byte, 4096), ""
	for first := true; ; {
		n, err := body.Read(buf)
		now := time.Now().UnixNano()
		rest += string(buf[:n])
		for {
			event, more, ok := strings.Cut(rest, "\n\n")
			if !ok {
				break
			}
			rest = more
			sent, perr := strconv.ParseInt(strings.TrimPrefix(event, "data: "), 10, 64)
			if perr != nil {
				return fmt.Errorf("an event: %w", perr)
			}
			if first {
				// The first byte is what the target is about.
				c.mu.Lock()
				c.took = append(c.took, now-sent)
				c.mu.Unlock()
				first = false
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// open sends by the schedule. One goroutine writes all requests, each the
// moment that it is due, to a connection that waits for nothing; if there is
// none, all wait, and the waiting counts.
func (c *client) open(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type exchange struct {
		user int
		due  time.Time
	}
	plan := schedule{start: c.from.Add(-c.Warm), rate: c.Rate}
	n := plan.count(c.Warm + c.Length)
	free := make(chan int, len(c.conns))
	sent := make([]chan exchange, len(c.conns))
	took := make([]int64, n)
	var done sync.WaitGroup
	for i, cn := range c.conns {
		sent[i] = make(chan exchange, 1)
		free <- i
		done.Go(func() {
			for {
				// Waiting on the socket, not for the word that something was sent:
				// that would be one more hand-over in what is measured.
				if _, err := cn.r.Peek(1); err != nil {
					cancel(err)
					return
				}
				x := <-sent[i]
				if err := cn.check(x.user); err != nil {
					cancel(fmt.Errorf("%s: %w", userName(x.user), err))
					return
				}
				if k := c.total.Add(1) - 1; !x.due.Before(c.from) {
					took[k] = int64(time.Since(x.due))
				}
				free <- i
			}
		})
	}
	rng := rand.New(rand.NewPCG(3, 7))
	precise()
	for k := range n {
		due := plan.at(k)
		sleepUntil(due)
		select {
		case i := <-free:
			user := c.First + rng.IntN(c.Users)
			c.conns[i].setUser(user)
			sent[i] <- exchange{user, due}
			if _, err := c.conns[i].Write(c.conns[i].request); err != nil {
				cancel(err)
			}
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() == nil {
		for range c.conns { // all are free again: the last answers are in
			select {
			case <-free:
			case <-ctx.Done():
			}
		}
	}
	err := context.Cause(ctx)
	for _, cn := range c.conns {
		cn.Close()
	}
	done.Wait()
	c.took = slices.DeleteFunc(took, func(v int64) bool { return v == 0 })
	return err
}
