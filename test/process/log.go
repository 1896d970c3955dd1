package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// Line is one line of a log.
type Line struct {
	// Raw is the line as it stands, without its end.
	Raw string
	// Level and Msg are those of a JSON line; Level is DEBUG, INFO, WARN, ERROR.
	Level, Msg string
	// Attrs are the other fields.
	Attrs map[string]any
}

// Text is an attribute as text, empty when there is none.
func (l Line) Text(attr string) string {
	if v, ok := l.Attrs[attr]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

func parseLine(raw string) Line {
	l := Line{Raw: raw}
	if json.Unmarshal([]byte(raw), &l.Attrs) != nil {
		return l
	}
	l.Level, l.Msg = l.Text("level"), l.Text("msg")
	return l
}

// Log is what a process writes to standard error, line by line. It is an
// io.Writer for exec.
type Log struct {
	secrets []string

	mu      sync.Mutex
	partial []byte
	lines   []Line
	closed  bool
	changed chan struct{} // closed and replaced at each change
}

func newLog(secrets ...string) *Log {
	return &Log{secrets: secrets, changed: make(chan struct{})}
}

// Write takes what the process writes to standard error.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, b...)
	for {
		raw, rest, whole := bytes.Cut(l.partial, []byte("\n"))
		if !whole {
			break
		}
		l.lines, l.partial = append(l.lines, parseLine(string(raw))), rest
	}
	l.broadcast()
	return len(b), nil
}

// close is called when nothing more will be written.
func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.lines, l.partial = append(l.lines, parseLine(string(l.partial))), nil
	}
	l.closed = true
	l.broadcast()
}

func (l *Log) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Lines are the lines so far.
func (l *Log) Lines() []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[:len(l.lines):len(l.lines)]
}

// String returns the whole log.
func (l *Log) String() string { return l.Tail(1 << 30) }

// Tail is the last n lines.
func (l *Log) Tail(n int) string {
	lines := l.Lines()
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-n):] {
		b.WriteString(line.Raw + "\n")
	}
	return b.String()
}

// Find returns the lines that match.
func (l *Log) Find(match func(Line) bool) []Line {
	var found []Line
	for _, line := range l.Lines() {
		if match(line) {
			found = append(found, line)
		}
	}
	return found
}

// Await returns the first line that matches, waiting for it. The test fails
// when the process ends without one.
func (l *Log) Await(t testing.TB, what string, match func(Line) bool) Line {
	t.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	for {
		l.mu.Lock()
		closed, changed := l.closed, l.changed
		l.mu.Unlock()
		if found := l.Find(match); len(found) > 0 {
			return found[0]
		}
		if closed {
			t.Fatalf("larkside ended without %s in its log:\n%s", what, l.Tail(40))
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("no %s in larkside's log within %v:\n%s", what, Patience, l.Tail(40))
		}
	}
}

// AwaitText is Await for a line that has text in it.
func (l *Log) AwaitText(t testing.TB, text string) Line {
	t.Helper()
	return l.Await(t, fmt.Sprintf("line with %q", text), func(line Line) bool { return strings.Contains(line.Raw, text) })
}

// jwt is what the emulator's user tokens look like.
var jwt = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{30,}`)

// Problems are lines that no log may have, whatever the level: a user's token,
// a secret that the process was given, a panic, a data race.
func (l *Log) Problems() []string {
	var found []string
	for _, line := range l.Lines() {
		for _, secret := range l.secrets {
			if secret != "" && strings.Contains(line.Raw, secret) {
				found = append(found, "a secret: "+line.Raw)
			}
		}
		switch {
		case jwt.MatchString(line.Raw):
			found = append(found, "a token: "+line.Raw)
		case strings.HasPrefix(line.Raw, "panic: "), strings.HasPrefix(line.Raw, "fatal error: "), strings.Contains(line.Msg, "panic"):
			found = append(found, "a panic: "+line.Raw)
		case strings.HasPrefix(line.Raw, "WARNING: DATA RACE"):
			found = append(found, "a data race: "+l.Tail(80))
		}
	}
	return found
}
