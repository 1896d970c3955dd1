package proxy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"larkside/session"
)

// Lark says that a token is no good in the JSON body, under any HTTP status
// (400, 401, and 200 on user_info). So an answer's beginning is looked at
// before it is passed on: every answer from 400 up, and JSON of at most 4 KiB
// below. The look ends as soon as the envelope's code is known, which Lark
// puts first: what streams isn't held back.

const (
	// peekSuccess is how large a 2xx answer may be to be looked at.
	peekSuccess = 4 << 10
	// peekFailure bounds the look at an answer from 400 up.
	peekFailure = 64 << 10
)

// larkError is the part of Lark's envelope that matters here.
type larkError struct {
	Code  int    `json:"code"`
	Msg   string `json:"msg"`
	Error struct {
		Violations []struct {
			Subject string `json:"subject"`
		} `json:"permission_violations"`
	} `json:"error"`

	// refusal is what Code and Msg say about the token that was sent.
	refusal session.Refusal
}

// refusals returns the function that reads answers to a token of kind c.
func (p *proxy) refusals(c credential) func(code int, msg string) session.Refusal {
	if c == tenantToken {
		return p.cfg.TenantTokenRefusal
	}
	return p.cfg.UserTokenRefusal
}

// scopes returns the alternatives of which one would do.
func (e *larkError) scopes() []string {
	var scopes []string
	for _, v := range e.Error.Violations {
		if scopeName(v.Subject) && len(scopes) < maxAlternatives {
			scopes = append(scopes, v.Subject)
		}
	}
	return scopes
}

// maxAlternatives bounds what is taken out of one answer.
const maxAlternatives = 20

// scopeName reports whether s looks like a scope (im:message:send_as_bot). It
// comes from outside and goes into a link.
func scopeName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !idByte(c) && c != ':' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// peeked is an answer's body with its beginning read ahead.
type peeked struct {
	head []byte
	rest io.ReadCloser
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.rest.Read(b)
}

func (p *peeked) Close() error { return p.rest.Close() }

// peekLimit returns how many bytes of res may be read ahead, 0 for none.
func peekLimit(res *http.Response) int {
	switch {
	case res.Request.Method == http.MethodHead, res.Body == http.NoBody, res.ContentLength == 0:
		return 0
	case res.StatusCode >= 400:
		return peekFailure
	case res.StatusCode/100 != 2, res.ContentLength > peekSuccess, !isJSON(res.Header.Get("Content-Type")):
		return 0
	}
	return peekSuccess + 1 // one more tells the larger ones
}

func isJSON(contentType string) bool {
	const plain = "application/json"
	if len(contentType) >= len(plain) && strings.EqualFold(contentType[:len(plain)], plain) &&
		(len(contentType) == len(plain) || contentType[len(plain)] == ';' || contentType[len(plain)] == ' ') {
		return true // without allocating
	}
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && strings.HasSuffix(t, "+json")
}

// inspect reads what Lark's answer says about the token, and leaves res as it
// came. The bytes read ahead stay in x.peek until the exchange ends.
func (p *proxy) inspect(x *exchange, res *http.Response) larkError {
	limit := peekLimit(res)
	if limit == 0 {
		return larkError{}
	}
	x.borrow(&p.peeks)
	data, found := readEnvelope(res, *x.peek, limit, p.refusals(x.credential))
	found.refusal = p.refusals(x.credential)(found.Code, found.Msg)
	*x.peek = data[:0]
	x.answerBody = peeked{data, res.Body}
	res.Body = &x.answerBody
	return found
}

// readEnvelope reads res.Body into buf until the envelope's code is known, and
// all of it, up to limit, when the code is about the token. An error ends the
// look; whoever reads on meets it again.
func readEnvelope(res *http.Response, buf []byte, limit int, refusal func(int, string) session.Refusal) (data []byte, found larkError) {
	var err error
	encoded := res.Header.Get("Content-Encoding") != "" && !strings.EqualFold(res.Header.Get("Content-Encoding"), "identity")
	scan := 0 // when data is this long it is worth looking again
	for data = buf[:0]; len(data) < limit && err == nil; {
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
		var n int
		n, err = res.Body.Read(data[len(data):min(cap(data), limit)])
		data = data[:len(data)+n]
		if encoded || len(data) < scan {
			continue
		}
		if code, known := envelopeCode(data); known && refusal(code, "") == session.NotRefused {
			return data, larkError{Code: code}
		}
		scan = len(data) + len(data)/8 // byte by byte must not cost the square
	}
	if res.StatusCode < 400 && len(data) > peekSuccess {
		return data, found
	}
	if encoded {
		return data, parseEnvelope(gunzip(res.Header.Get("Content-Encoding"), data))
	}
	return data, parseEnvelope(data)
}

func parseEnvelope(text []byte) larkError {
	var found larkError
	if json.Unmarshal(text, &found) != nil {
		// Cut, or not quite JSON: what can be recognised counts.
		found.Code, _ = envelopeCode(text)
		found.Msg = string(text)
	}
	return found
}

// gunzip decodes at most peekFailure bytes; nil for other encodings, which are
// not asked for.
func gunzip(encoding string, data []byte) []byte {
	if !strings.EqualFold(encoding, "gzip") && !strings.EqualFold(encoding, "x-gzip") {
		return nil
	}
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(r, peekFailure))
	return text
}

// envelopeCode scans the beginning of a JSON object for its own "code". known
// is false as long as more bytes may bring it; a text that isn't an object, or
// ends without one, has the code 0.
func envelopeCode(data []byte) (code int, known bool) {
	i := skipSpace(data, 0)
	if i == len(data) {
		return 0, false
	}
	if data[i] != '{' {
		return 0, true
	}
	depth := 0
	for ; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return 0, true
			}
		case '"':
			end := stringEnd(data, i)
			if end < 0 {
				return 0, false
			}
			if depth == 1 && string(data[i:end]) == `"code"` {
				if value := skipSpace(data, end); value < len(data) && data[value] == ':' {
					return number(data, skipSpace(data, value+1))
				} else if value == len(data) {
					return 0, false
				}
			}
			i = end - 1
		}
	}
	return 0, false
}

// stringEnd returns the index behind the string that begins at i, or -1.
func stringEnd(data []byte, i int) int {
	for i++; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\t' || data[i] == '\n' || data[i] == '\r') {
		i++
	}
	return i
}

// number reads the integer at i. It is known once something follows it; what
// isn't an integer is 0.
func number(data []byte, i int) (int, bool) {
	end := i
	for end < len(data) && (data[end] == '-' || '0' <= data[end] && data[end] <= '9') {
		end++
	}
	if end == len(data) {
		return 0, false
	}
	n, err := strconv.Atoi(string(data[i:end]))
	if err != nil || strings.IndexByte(".eE", data[end]) >= 0 {
		return 0, true
	}
	return n, true
}

// peeks lends the buffers that answers are read ahead into.
type peeks struct{ pool sync.Pool }

func (p *peeks) get() *[]byte {
	if buf, ok := p.pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, 0, peekSuccess+1)
	return &buf
}

// put takes back buf, unless it has grown: one large failure must not make
// every buffer large.
func (p *peeks) put(buf *[]byte) {
	if cap(*buf) <= 2*peekSuccess {
		p.pool.Put(buf)
	}
}
