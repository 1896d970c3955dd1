package proxy

import (
	"errors"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Prefer (RFC 7240) is a list of preferences, some of which are for Lark: its
// record APIs take resolution=merge-duplicates, and with handling=strict they
// refuse a preference that they don't know. Only wait is for Larkside.

// waiting is how a request waits for a consent.
type waiting struct {
	// until is when the wait ends; zero before the first one. A request may wait
	// several times, but not longer in all.
	until time.Time
	// applied says that the request has waited.
	applied bool
}

// note says on an answer that the request has waited (RFC 7240 section 3).
func (w *waiting) note(h http.Header) {
	if w.applied {
		h.Add("Preference-Applied", "wait")
	}
}

// takeWait removes the wait preference from the header of a request for a user,
// whether or not the request waited, and leaves the others as they came.
func takeWait(h http.Header) {
	if len(h["Prefer"]) == 0 {
		return
	}
	if _, rest := splitPrefer(h["Prefer"]); len(rest) > 0 {
		h["Prefer"] = rest
	} else {
		delete(h, "Prefer")
	}
}

// splitPrefer returns the wait preference of the given Prefer lines, and the
// lines without it. Of several wait preferences the first one counts (RFC 7240
// section 2), even if it is malformed; a malformed one is 0, as is none. All of
// them are left out of rest, and so is a line that held nothing else.
func splitPrefer(lines []string) (wait time.Duration, rest []string) {
	found := false
	for _, line := range lines {
		var kept []string
		taken := false
		for item := range preferences(line) {
			value, isWait := waitValue(item)
			switch {
			case !isWait:
				kept = append(kept, item)
				continue
			case !found:
				wait = parseWait(value)
			}
			found, taken = true, true
		}
		if !taken {
			rest = append(rest, line)
		} else if left := strings.Join(kept, ","); strings.Trim(left, ", \t") != "" {
			rest = append(rest, strings.Trim(left, " \t"))
		}
	}
	return wait, rest
}

// preferences yields the items of a list as they are written, blanks included.
// A comma inside a quoted string separates nothing; a quoted string that isn't
// closed reaches to the end of the line.
func preferences(line string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			end := unquotedIndex(line, ',')
			if end < 0 {
				yield(line)
				return
			}
			if !yield(line[:end]) {
				return
			}
			line = line[end+1:]
		}
	}
}

// unquotedIndex returns the index of the first c outside quoted strings (RFC
// 9110 section 5.6.4), or -1.
func unquotedIndex(s string, c byte) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted && s[i] == '\\':
			i++
		case !quoted && s[i] == c:
			return i
		}
	}
	return -1
}

// waitValue returns the value of item, without its parameters, and whether item
// is a wait preference.
func waitValue(item string) (value string, isWait bool) {
	if i := unquotedIndex(item, ';'); i >= 0 {
		item = item[:i]
	}
	name, value, _ := strings.Cut(item, "=")
	return strings.Trim(value, " \t"), strings.EqualFold(strings.Trim(name, " \t"), "wait")
}

// parseWait reads a number of seconds (RFC 7240 section 4.3), which may be
// quoted. It returns 0 for anything else, and the longest time that it can for a
// number that is too large.
func parseWait(value string) time.Duration {
	const longest = 1<<31 - 1
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	seconds, err := strconv.ParseUint(value, 10, 31)
	if errors.Is(err, strconv.ErrRange) {
		seconds = longest
	} else if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
