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

// fields are the members of an answer, looked at one by one: one member of a
// wrong type must not cost the others. Names are matched exactly; of
// repeated ones the last counts.
type fields map[string]json.RawMessage

const redacted = "REDACTED"

var errNotJSON = errors.New("answer is not a JSON object")

func parseFields(body []byte) (fields, error) {
	var f fields
	if err := json.Unmarshal(body, &f); err != nil || f == nil {
		// The decoder's own error quotes the body.
		return nil, errNotJSON
	}
	return f, nil
}

// text returns a string member, empty if there is none.
func (f fields) text(name string) string {
	var s string
	if json.Unmarshal(f[name], &s) != nil {
		return ""
	}
	return s
}

// object returns an object member, nil if there is none.
func (f fields) object(name string) fields {
	inner, _ := parseFields(f[name])
	return inner
}

// number reads a number, also one written as a string, as Lark's other
// platforms do. ok is false when there is nothing readable.
func (f fields) number(name string) (n float64, ok bool) {
	raw := strings.TrimSpace(strings.Trim(string(f[name]), `"`))
	n, err := strconv.ParseFloat(raw, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // ±Inf or 0, which the caller clamps
	}
	return n, err == nil && !math.IsNaN(n)
}

// code is the answer's code. Zero, "0", none and unreadable are 0: no code.
func (f fields) code() int {
	n, ok := f.number("code")
	if !ok || n != math.Trunc(n) || math.Abs(n) > math.MaxInt32*4 {
		return 0
	}
	return int(n)
}

var (
	// urlTail is what may hold a state, a ticket or a user code.
	urlTail = regexp.MustCompile(`(https?://[^\s?#"'<>]+)[?#][^\s"'<>]*`)
	// opaque runs are tokens, ids or pieces of them, unless they are only
	// letters or only digits.
	opaque = regexp.MustCompile(`[A-Za-z0-9_\-+=~]{16,}`)
)

// scrub makes text that came over the network fit for a log line: one line, at
// most 200 runes, without the secrets that were sent and without anything that
// looks like a token.
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

// plainID returns s if it looks like a request id, else nothing.
func plainID(s string) string {
	bad := func(r rune) bool {
		return r != '-' && r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
	}
	if len(s) > 64 || strings.ContainsFunc(s, bad) {
		return ""
	}
	return s
}
