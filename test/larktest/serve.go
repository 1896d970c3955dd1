package larktest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxBody bounds what an answering route reads; streaming helpers read all.
const maxBody = 8 << 20

const jsonType = "application/json; charset=utf-8"

// exchange is one request on its way through an API route.
type exchange struct {
	w        http.ResponseWriter
	r        *http.Request
	route    *route
	vars     map[string]string // path variables, unescaped
	logID    string
	body     []byte
	form     url.Values // of OAuth requests, whether they came as a form or JSON
	token    *token     // whose token came; nil for none or an unknown one
	scopes   []string   // alternatives, one of which the route wants
	call     Call
	inLedger bool
}

// field and object are a JSON object whose top-level order is random when it
// is written: Lark promises none.
type field struct {
	name  string
	value any
}

type object []field

// with appends a field.
func (o object) with(name string, value any) object { return append(o, field{name, value}) }

// set replaces or appends a field and drop removes one.
func (o object) set(name string, value any) object { return o.drop(name).with(name, value) }

func (o object) drop(name string) object {
	kept := make(object, 0, len(o))
	for _, f := range o {
		if f.name != name {
			kept = append(kept, f)
		}
	}
	return kept
}

func (o object) get(name string) any {
	for _, f := range o {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// MarshalJSON writes the fields in a random order.
func (o object) MarshalJSON() ([]byte, error) { return o.append(nil) }

// append writes nested objects in place: encoding/json would check and copy
// what a Marshaler returns once more at every level.
func (o object) append(b []byte) (_ []byte, err error) {
	b = append(b, '{')
	for n, i := range mathrand.Perm(len(o)) {
		if n > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendQuote(b, o[i].name), ':') // names are plain ASCII
		if b, err = appendValue(b, o[i].value); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendValue(b []byte, value any) (_ []byte, err error) {
	switch v := value.(type) {
	case object:
		return v.append(b)
	case []object:
		b = append(b, '[')
		for n, o := range v {
			if n > 0 {
				b = append(b, ',')
			}
			if b, err = o.append(b); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	}
	text, err := json.Marshal(value)
	return append(b, text...), err
}

// answer is what a route has to say.
type answer struct {
	status int
	header http.Header
	body   object
	// raw is sent instead of body; contentType replaces JSON's.
	raw         []byte
	contentType string
	empty       bool // no body at all
	// done is called with mu held and says whether the answer goes out whole and
	// unspoiled: before the first byte, so that whoever has read the answer finds
	// it in the ledger, and again if the connection then breaks.
	done func(delivered bool)
}

func ok(body object) answer { return answer{status: http.StatusOK, body: body} }

// success is the envelope of the Open Platform around data.
func success(data any) answer {
	return ok(object{{"code", 0}, {"msg", "success"}, {"data", data}})
}

// fail is the envelope of an error.
func (x *exchange) fail(status, code int, msg string) answer {
	return answer{status: status, body: object{
		{"code", code}, {"msg", msg},
		{"error", map[string]any{"log_id": x.logID, "troubleshooter": "This is the emulator of Larkside, not Lark."}},
	}}
}

func (a answer) code() int {
	code, _ := a.body.get("code").(int)
	return code
}

// serveRoute runs faults, gate and route, and books the call.
func (p *Platform) serveRoute(x *exchange) {
	x.call = Call{
		At: p.now(), Method: x.r.Method, Target: x.r.RequestURI, Path: x.r.URL.EscapedPath(),
		Endpoint: x.route.endpoint, LogID: x.logID, Header: safeHeader(x.r.Header),
	}
	if x.call.Target == "" { // made by a client in this process
		x.call.Target = x.r.URL.RequestURI()
	}
	defer p.book(x)
	if x.route.stream == nil || x.route.endpoint == MCPEndpoint {
		x.read()
	}
	p.identify(x)
	injection := p.strike(x)
	if injection != nil {
		x.call.Fault = injection.id
		injection.before(p, x)
	}
	if x.route.stream != nil {
		p.serveStream(x, injection)
		return
	}
	var a answer
	if injection.replaces() {
		a = injection.answer(x)
	} else {
		a = p.process(x)
		if injection != nil && injection.spoils() {
			p.spoil(x, injection, a)
			return
		}
	}
	p.write(x, a)
}

func (p *Platform) serveStream(x *exchange, injection *Injection) {
	if injection.replaces() {
		p.write(x, injection.answer(x))
		return
	}
	if a, refused := p.gate(x); refused {
		if x.route.endpoint == MCPEndpoint {
			a = p.mcpRefused(x, a)
		}
		p.write(x, a)
		return
	}
	x.call.Status = http.StatusOK
	x.route.stream(p, x)
}

// process does the work of a route under the lock.
func (p *Platform) process(x *exchange) answer {
	if a, refused := p.gate(x); refused {
		return a
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return x.route.serve(p, x)
}

// write books the call and sends the answer.
func (p *Platform) write(x *exchange, a answer) {
	x.call.Status, x.call.Code = a.status, a.code()
	for name, values := range a.header {
		x.w.Header()[name] = values
	}
	body := a.raw
	if !a.empty {
		x.w.Header().Set("Content-Type", cmp.Or(a.contentType, jsonType))
	}
	if !a.empty && body == nil {
		body, _ = a.body.append(nil)
	}
	gone := x.r.Context().Err() != nil
	p.settle(a, !gone)
	p.book(x)
	x.w.WriteHeader(a.status)
	_, err := x.w.Write(body)
	flushErr := http.NewResponseController(x.w).Flush()
	if err != nil || flushErr != nil {
		p.settle(a, false)
	}
}

func (p *Platform) settle(a answer, delivered bool) {
	if a.done == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a.done(delivered)
	p.touch()
}

// book adds the call to the ledger, once: before its answer goes out, or at the
// end when there is none or it streams.
func (p *Platform) book(x *exchange) {
	if x.inLedger {
		return
	}
	x.inLedger = true
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ledger.addCall(x.call)
	p.touch()
}

func (x *exchange) read() {
	body, _ := io.ReadAll(io.LimitReader(x.r.Body, maxBody))
	x.body = body
	x.measure(int64(len(body)), sha256.Sum256(body))
	if x.route.oauth {
		x.form = oauthForm(x.r.Header.Get("Content-Type"), body)
	}
}

func (x *exchange) measure(size int64, sum [sha256.Size]byte) {
	x.call.BodySize, x.call.BodySHA256 = size, hex.EncodeToString(sum[:])
}

func isJSON(contentType string) bool { return strings.Contains(contentType, "json") }

// oauthForm reads the fields of a form or of a flat JSON object.
func oauthForm(contentType string, body []byte) url.Values {
	if !isJSON(contentType) {
		form, _ := url.ParseQuery(string(body))
		return form
	}
	var fields map[string]any
	json.Unmarshal(body, &fields)
	form := url.Values{}
	for name, value := range fields {
		if s, ok := value.(string); ok && s != "" {
			form.Set(name, s)
		}
	}
	return form
}

// decode reads the JSON body.
func (x *exchange) decode(into any) error { return json.Unmarshal(x.body, into) }

// safeHeader is what the ledger keeps: everything but credentials.
func safeHeader(h http.Header) http.Header {
	kept := h.Clone()
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Lark-Helpdesk-Authorization", mcpTokenHeader} {
		if _, ok := kept[name]; ok {
			kept[name] = []string{"REDACTED"}
		}
	}
	return kept
}
