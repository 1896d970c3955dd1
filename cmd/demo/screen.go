package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// screen writes the tour for people.
type screen struct {
	w      io.Writer
	colour bool
	began  time.Time
}

func newScreen(w io.Writer, colour bool) *screen { return &screen{w, colour, time.Now()} }

// The colours, as parameters of ANSI's "select graphic rendition".
const (
	bold   = "1"
	faint  = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (s *screen) paint(colour, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// width is what fits on every terminal.
const width = 100

func (s *screen) title(text string) { fmt.Fprintf(s.w, "%s\n\n", s.paint(bold, text)) }

// line is plain text, indented as what belongs to a step.
func (s *screen) line(format string, args ...any) {
	fmt.Fprintf(s.w, "    "+format+"\n", args...)
}

// note is a line of lesser weight.
func (s *screen) note(format string, args ...any) {
	s.line("%s", s.paint(faint, fmt.Sprintf(format, args...)))
}

func (s *screen) step(n int, says string) {
	for i, line := range fold(says, width-4) {
		number := "   "
		if i == 0 {
			number = fmt.Sprintf("%2d ", n)
		}
		fmt.Fprintf(s.w, "%s %s\n", s.paint(cyan, number), s.paint(bold, line))
	}
}

func (s *screen) passed(holds string) { s.line("%s %s\n", s.paint(green, "✓"), holds) }

func (s *screen) failed(problem error) { s.line("%s %v\n", s.paint(red, "✗"), problem) }

func (s *screen) problem(err error) { fmt.Fprintf(s.w, "%s %v\n", s.paint(red, "demo:"), err) }

func (s *screen) end() {
	fmt.Fprintf(s.w, "%s\n", s.paint(green, fmt.Sprintf("Everything was as it should be. %.1f s.", time.Since(s.began).Seconds())))
}

// request shows what the app sends; openID is empty when it names no user.
func (s *screen) request(path, openID string) {
	s.line("%s GET %s", s.paint(cyan, "→"), path)
	if openID != "" {
		s.line("  X-Lark-User-Id: %s", openID)
	}
}

// answer shows what it got.
func (s *screen) answer(a answer) {
	colour := green
	if a.status >= 400 {
		colour = yellow
	}
	text := fmt.Sprintf("%d", a.status)
	for _, name := range []string{"X-Larkside-Error", "Retry-After"} {
		if v := a.header.Get(name); v != "" {
			text += "  " + name + ": " + v
		}
	}
	s.line("%s %s", s.paint(cyan, "←"), s.paint(colour, text))
	for _, line := range shorten(a.body, width-6, 4) {
		s.line("  %s", line)
	}
}

// shorten cuts a text into lines of at most n characters, at most lines of
// them, and says how much is missing.
func shorten(text string, n, lines int) []string {
	var out []string
	for rest := []rune(strings.Join(strings.Fields(text), " ")); len(rest) > 0; {
		if len(out) == lines-1 && len(rest) > n {
			missing := fmt.Sprintf(" … %d bytes in all", len(text))
			return append(out, string(rest[:n-len(missing)])+missing)
		}
		cut := breakAt(rest, n)
		out = append(out, string(rest[:cut]))
		rest = rest[cut:]
	}
	return out
}

// breakAt is how much of text to put on a line of n: up to behind the last blank
// or comma, unless that would leave a third of the line empty.
func breakAt(text []rune, n int) int {
	if len(text) <= n {
		return len(text)
	}
	for i := n; i > n*2/3; i-- {
		if text[i-1] == ' ' || text[i-1] == ',' {
			return i
		}
	}
	return n
}

// fold breaks text at spaces into lines of at most n bytes.
func fold(text string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > n:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
