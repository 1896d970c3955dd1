package proxy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"larkside/session"
)

// Lark refuses a token in the JSON body of an answer, under any HTTP status (400,
// 401, and 200 on user_info). So the beginning of an answer is read before it is
// passed on: of every answer with a status from 400 up, and of JSON of at most 4 KiB
// below. Reading ahead ends as soon as the envelope's code is known. Lark puts it
// first, so an answer that streams isn't held back.

const (
	// peekSuccess is how large a 2xx answer may be to be read ahead, in bytes.
	peekSuccess = 4 << 10
	// peekFailure bounds what is read ahead of an answer from 400 up.
	peekFailure = 64 << 10
)

// larkAnswer is Lark's answer to a request.
type larkAnswer struct {
	// err is why there is none to pass on.
	err error
	// passed is the one that is passed on; its trailers come after its body.
	passed *http.Response
	// ahead is what was read ahead of the body, and buffer its memory.
	ahead  peekedBody
	buffer *[]byte // lent; nil until something is read ahead
}

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
	// byStatus says that only the HTTP status refuses the token.
	byStatus bool
}

// scopes returns the scopes of which one would do.
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

// scopeName reports whether s looks like a scope (im:message:send_as_bot). It comes
// from outside and goes into a link.
func scopeName(s string) bool { return scopePattern.MatchString(s) }

var scopePattern = regexp.MustCompile(`^[A-Za-z0-9_.@:-]{1,128}$`)

// peekedBody is the body of an answer whose beginning was read ahead.
type peekedBody struct {
	head []byte
	rest io.ReadCloser
}

func (b *peekedBody) Read(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	return b.rest.Read(p)
}

func (b *peekedBody) Close() error { return b.rest.Close() }

// peekLimit returns how many bytes of res may be read ahead.
func peekLimit(res *http.Response) int {
	switch {
	case res.Request.Method == http.MethodHead, res.Body == http.NoBody, res.ContentLength == 0:
		return 0
	case res.StatusCode >= 400:
		return peekFailure
	case res.StatusCode/100 != 2, res.ContentLength > peekSuccess, !isJSON(res.Header.Get("Content-Type")):
		return 0
	}
	return peekSuccess + 1 // the last byte shows that the answer is larger
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

// inspect returns what res says about the token that was sent, which refusal tells,
// and leaves res to be read as it came. The bytes that it read ahead stay in
// a.buffer until [larkAnswer.release].
func (a *larkAnswer) inspect(res *http.Response, lent *peekBuffers, refusal func(code int, msg string) session.Refusal) larkError {
	limit := peekLimit(res)
	if limit == 0 {
		return larkError{}
	}
	if a.buffer == nil {
		a.buffer = lent.get()
	}
	data, said := readEnvelope(res, *a.buffer, limit, refusal)
	said.refusal = refusal(said.Code, said.Msg)
	*a.buffer = data[:0]
	a.ahead = peekedBody{data, res.Body}
	res.Body = &a.ahead
	return said
}

// release gives the buffer back. The answer's body must not be read any more.
func (a *larkAnswer) release(lent *peekBuffers) {
	if a.buffer != nil {
		lent.put(a.buffer)
	}
}

// readEnvelope reads res.Body into buf until the envelope's code is known. If the
// code is about the token, it reads all of the body, up to limit. It stops at an
// error, which whoever reads on meets again.
func readEnvelope(res *http.Response, buf []byte, limit int, refusal func(int, string) session.Refusal) (data []byte, said larkError) {
	var err error
	encoded := res.Header.Get("Content-Encoding") != "" && !strings.EqualFold(res.Header.Get("Content-Encoding"), "identity")
	scan := 0 // how long data has to be before it is scanned again
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
		// A body that comes byte by byte must not be scanned at each of them.
		scan = len(data) + len(data)/8
	}
	if res.StatusCode < 400 && len(data) > peekSuccess {
		return data, larkError{}
	}
	if encoded {
		return data, parseEnvelope(gunzip(res.Header.Get("Content-Encoding"), data))
	}
	return data, parseEnvelope(data)
}

func parseEnvelope(text []byte) larkError {
	var said larkError
	if json.Unmarshal(text, &said) != nil {
		// The text was cut off, or isn't quite JSON. What can be recognised counts.
		said.Code, _ = envelopeCode(text)
		said.Msg = string(text)
	}
	return said
}

// gunzip decodes at most peekFailure bytes. It returns nil for another encoding,
// which Larkside doesn't ask for.
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

// envelopeCode scans the beginning of a JSON object for its own member "code".
// known is false as long as more bytes may bring one. The code of a text that isn't
// an object, or has no such member, is 0.
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

// stringEnd returns the index after the string that begins at i, or -1.
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

// number reads the integer at i. It is known once something follows it. Anything
// else than an integer is 0.
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

// peekBuffers lends the buffers that answers are read ahead into.
type peekBuffers struct{ pool sync.Pool }

func (p *peekBuffers) get() *[]byte {
	if buf, ok := p.pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, 0, peekSuccess+1)
	return &buf
}

// put takes buf back, unless a large failure has made it large.
func (p *peekBuffers) put(buf *[]byte) {
	if cap(*buf) <= 2*peekSuccess {
		p.pool.Put(buf)
	}
}
