package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// build compiles the real larkside into dir and returns its path. It goes by
// the package's name, so any directory of this module will do.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "larkside.exe") // the name Windows insists on; the others don't mind
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "larkside/cmd/larkside")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building larkside: %w\n%s", err, out)
	}
	return binary, nil
}

// child is the larkside process.
type child struct {
	cmd *exec.Cmd
	log *logLines
	// URL and adminURL are the listeners' addresses, once it is ready.
	URL, adminURL string
	// done is closed when the process has ended; err is how.
	done chan struct{}
	err  error
}

// launch starts binary with these settings and nothing else of the
// environment, and returns when it is ready.
func launch(ctx context.Context, binary, dir string, settings []string) (*child, error) {
	c := &child{cmd: exec.Command(binary), log: newLogLines(), done: make(chan struct{})}
	c.cmd.Env, c.cmd.Dir, c.cmd.Stderr = settings, dir, c.log
	ownGroup(c.cmd)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting larkside: %w", err)
	}
	go func() {
		c.err = c.cmd.Wait()
		c.log.end()
		close(c.done)
	}()
	if _, err := c.log.await(ctx, func(l logLine) bool { return l.Msg == "ready" }); err != nil {
		c.kill()
		return nil, fmt.Errorf("larkside did not become ready: %w\n%s", err, c.log.tail(10))
	}
	c.URL, c.adminURL = c.log.listener("proxy"), c.log.listener("admin")
	return c, nil
}

// stop asks it to stop and returns how it ended. It is killed when it has not
// within the time.
func (c *child) stop(patience time.Duration) error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.kill() // a system without signals
		return nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.err
	case <-timer.C:
		c.kill()
		return fmt.Errorf("larkside was still running %v after SIGTERM", patience)
	}
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	<-c.done
}

// logLine is what the demo reads of a line of larkside's log.
type logLine struct {
	Level    string `json:"level"`
	Msg      string `json:"msg"`
	Listener string `json:"listener"`
	Address  string `json:"address"`
	text     string
}

// logLines collects a log that is written to it.
type logLines struct {
	mu      sync.Mutex
	partial []byte
	lines   []logLine
	ended   bool
	changed chan struct{} // closed and replaced at each change
}

func newLogLines() *logLines { return &logLines{changed: make(chan struct{})} }

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, b...)
	for {
		text, rest, whole := bytes.Cut(l.partial, []byte("\n"))
		if !whole {
			break
		}
		line := logLine{text: string(text)}
		json.Unmarshal(text, &line) // what is no JSON is still text
		l.lines, l.partial = append(l.lines, line), rest
	}
	l.broadcast()
	return len(b), nil
}

// end is called when nothing more will be written.
func (l *logLines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.broadcast()
}

func (l *logLines) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// find returns the first line that matches, whether there may be more, and a
// channel that is closed when there are.
func (l *logLines) find(match func(logLine) bool) (found *logLine, ended bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if match(line) {
			return &line, l.ended, l.changed
		}
	}
	return nil, l.ended, l.changed
}

// await returns the first line that matches; io.EOF when the process ends
// without one.
func (l *logLines) await(ctx context.Context, match func(logLine) bool) (logLine, error) {
	for {
		found, ended, changed := l.find(match)
		switch {
		case found != nil:
			return *found, nil
		case ended:
			return logLine{}, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return logLine{}, context.Cause(ctx)
		}
	}
}

// listener is the base URL of a listener, as the log has its address.
func (l *logLines) listener(name string) string {
	found, _, _ := l.find(func(line logLine) bool { return line.Msg == "listening" && line.Listener == name })
	if found == nil {
		return ""
	}
	return "http://" + found.Address
}

// tail is the last n lines.
func (l *logLines) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, line := range l.lines[max(0, len(l.lines)-n):] {
		b.WriteString(line.text + "\n")
	}
	return b.String()
}
