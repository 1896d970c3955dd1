package lark

import (
	"encoding/json"
	"errors"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"larkside/session"
)

// fields are the members of an answer. They are decoded one by one, so that a
// member of a wrong type does not make the others unreadable. Names are matched
// exactly. Of repeated names the last counts.
type fields map[string]json.RawMessage

const redacted = "REDACTED"

var errNotJSON = errors.New("answer is not a JSON object")

func parseFields(body []byte) (fields, error) {
	var f fields
	if err := json.Unmarshal(body, &f); err != nil || f == nil {
		// The decoder's own error would quote the body.
		return nil, errNotJSON
	}
	return f, nil
}

// text returns a string member, or "" if there is none. A string with a NUL
// counts as none: PostgreSQL does not take it, and what came with it, such as a
// pair of tokens, could not be stored.
func (f fields) text(name string) string {
	s := f.anyText(name)
	if strings.ContainsRune(s, 0) {
		return ""
	}
	return s
}

// anyText is text for what is sealed before it is stored, and for what is logged.
func (f fields) anyText(name string) string {
	var s string
	if json.Unmarshal(f[name], &s) != nil {
		return ""
	}
	return s
}

// userID returns a member that is the id of a user, or "" if there is none. What
// no app can name counts as none: an index of the database takes no text of any
// length.
func (f fields) userID(name string) string {
	if id := f.text(name); session.IsUserID(id) {
		return id
	}
	return ""
}

// object returns an object member, or nil if there is none.
func (f fields) object(name string) fields {
	inner, _ := parseFields(f[name])
	return inner
}

// number returns a number. It also reads one that is written as a string, as on
// Lark's other platforms. ok is false if there is none that can be read.
func (f fields) number(name string) (n float64, ok bool) {
	raw := strings.TrimSpace(strings.Trim(string(f[name]), `"`))
	n, err := strconv.ParseFloat(raw, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // n is ±Inf or 0; the caller limits it
	}
	return n, err == nil && !math.IsNaN(n)
}

// code returns the answer's code. It is 0 if there is none or it can't be read.
func (f fields) code() int {
	n, ok := f.number("code")
	if !ok || n != math.Trunc(n) || math.Abs(n) > math.MaxInt32*4 {
		return 0
	}
	return int(n)
}

var (
	// urlTail matches the part of an address that may hold a state, a ticket or
	// a user code.
	urlTail = regexp.MustCompile(`(https?://[^\s?#"'<>]+)[?#][^\s"'<>]*`)
	// opaque matches what may be a token, an id or a piece of one. Letters
	// alone or digits alone are not.
	opaque = regexp.MustCompile(`[A-Za-z0-9_\-+=~]{16,}`)
)

// scrub makes text from the network safe for a log: one line, at most 200
// runes, without the secrets that were sent and without anything that looks
// like a token.
func scrub(text string, secrets []session.Secret) string {
	for _, s := range secrets {
		if !s.Empty() {
			text = strings.ReplaceAll(text, s.Expose(), redacted)
			text = strings.ReplaceAll(text, url.QueryEscape(s.Expose()), redacted)
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = urlTail.ReplaceAllString(text, "$1?REDACTED")
	text = opaque.ReplaceAllStringFunc(text, func(run string) string {
		if strings.ContainsAny(run, "0123456789") && strings.ContainsFunc(run, unicode.IsLetter) {
			return redacted
		}
		return run
	})
	return cut(strings.TrimSpace(text), 200)
}

func cut(s string, runes int) string {
	for i := range s {
		if runes--; runes < 0 {
			return s[:i] + "…"
		}
	}
	return s
}

// plainID returns s if it looks like a request id, else "".
func plainID(s string) string {
	bad := func(r rune) bool {
		return r != '-' && r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
	}
	if len(s) > 64 || strings.ContainsFunc(s, bad) {
		return ""
	}
	return s
}
