package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process that this one has started.
type child struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *tail
	ended  chan struct{}
}

// spawn starts cmd. It dies with this process, whatever becomes of that.
func spawn(cmd *exec.Cmd) (*child, error) {
	dieWithParent(cmd)
	c := &child{cmd: cmd, stderr: &tail{}, ended: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = c.stderr
	}
	cmd.WaitDelay = 2 * time.Second
	if cmd.Stdin == nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		c.stdin = in
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	go func() { cmd.Wait(); close(c.ended) }()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop asks, then kills.
func (c *child) stop() {
	if c.stdin != nil {
		c.stdin.Close()
	}
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(3 * time.Second):
		c.cmd.Process.Kill()
		<-c.ended
	}
}

// tail keeps the last of what a process says, for when it fails.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if len(t.b) > 8192 {
		t.b = t.b[len(t.b)-4096:]
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// role starts this same program as one of its other processes, and returns where
// that is.
func (b *bench) role(name string, env []string, args ...string) (*child, places, error) {
	cmd := exec.Command(b.self, append([]string{"-as", name}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, in, err := os.Pipe()
	if err != nil {
		return nil, places{}, err
	}
	defer out.Close()
	cmd.Stdout = in
	c, err := spawn(cmd)
	in.Close()
	if err != nil {
		return nil, places{}, err
	}
	var p places
	out.SetReadDeadline(time.Now().Add(patience))
	if err := json.NewDecoder(out).Decode(&p); err != nil {
		c.stop()
		return nil, places{}, fmt.Errorf("%s did not start: %w\n%s", name, err, c.stderr)
	}
	return c, p, nil
}

// drive has a load generator do a job.
func (b *bench) drive(ctx context.Context, j job) (*outcome, error) {
	in, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.self, "-as", "client")
	dieWithParent(cmd)
	cmd.Stdin = bytes.NewReader(in)
	var stderr tail
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the load generator (%s, %d connections): %w: %s", j.Loop, j.Conns, err, strings.TrimSpace(stderr.String()))
	}
	var o outcome
	return &o, json.Unmarshal(out, &o)
}

// target is a proxy that runs, or none.
type target struct {
	name  string
	addr  string
	child *child
	// direct: no proxy; the generator speaks to the upstream, over TLS when
	// roots are given.
	direct bool
	roots  string
	// stats is nil for what is not Go.
	stats func() (runtimeStats, error)
}

func (t *target) pids() []int {
	if t.child == nil {
		return nil
	}
	return family(t.child.pid())
}

func (t *target) stop() {
	if t.child != nil {
		t.child.stop()
	}
}

// to makes j a job for t.
func (t *target) to(j job) job {
	j.Addrs, j.Direct, j.Roots, j.PIDs = []string{t.addr}, t.direct, t.roots, t.pids()
	return j
}

func getJSON(url string, v any) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// prometheusStats reads the runtime's figures from a /metrics page.
func prometheusStats(url string) (runtimeStats, error) {
	resp, err := http.Get(url)
	if err != nil {
		return runtimeStats{}, err
	}
	defer resp.Body.Close()
	var s runtimeStats
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		switch name {
		case "go_memstats_mallocs_total":
			s.Mallocs, err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			return s, err
		}
	}
	if s.Mallocs == 0 {
		return s, errors.New("/metrics has no go_memstats_mallocs_total")
	}
	return s, lines.Err()
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// awaitPort returns when something listens at addr, or c has ended.
func awaitPort(c *child, addr string) error {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-c.ended:
			return fmt.Errorf("%s ended: %s", c.cmd.Path, c.stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not listen at %s: %s", c.cmd.Path, addr, c.stderr)
}

// counter is the sum of the series of a /metrics page that begin with prefix.
func counter(url, prefix string) (sum float64, err error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), prefix) {
			continue
		}
		v, err := strconv.ParseFloat(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}
