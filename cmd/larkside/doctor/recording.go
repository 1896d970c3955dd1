package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"larkside/session"
)

// Recording is what [Live] writes: everything that was said to Lark and that
// Lark answered, in order, without any token, code, secret, name or id. In their
// place are placeholders, the same one for the same value. The emulator's tests
// ask it the same questions and compare (go test ./test/larktest -recording).
type Recording struct {
	// Version is of the program, Brand and Date are where and when.
	Version string `json:"version"`
	Brand   string `json:"brand"`
	Date    string `json:"date"`
	// AppID and User are the placeholders of the app and of the person.
	AppID string `json:"app_id"`
	User  string `json:"user"`
	// Scopes are those that were asked for.
	Scopes []string `json:"scopes"`
	// Observations are what was believed and what came.
	Observations []Observation `json:"observations"`
	Entries      []Entry       `json:"entries"`
}

// Entry is a request and its answer, or something that happened in between.
type Entry struct {
	// Step is what it was for; At is in whole seconds since the start.
	Step string `json:"step"`
	At   int    `json:"at"`
	// Times says how often the same was asked and answered in a row, if more
	// than once.
	Times int `json:"times,omitempty"`

	Request *Request `json:"request,omitempty"`
	Answer  *Answer  `json:"answer,omitempty"`
	// Approved is the device code that the person approved.
	Approved string `json:"approved,omitempty"`
	// Event is one that Lark sent.
	Event *EventMessage `json:"event,omitempty"`
}

// Request is what was sent.
type Request struct {
	Method string `json:"method"`
	// Base is open, accounts or other: which of Lark's hosts it went to.
	Base  string              `json:"base"`
	Path  string              `json:"path"`
	Query map[string][]string `json:"query,omitempty"`
	// Authorization is such as "Bearer <access_token 1>".
	Authorization string `json:"authorization,omitempty"`
	// Encoding is form or json.
	Encoding string         `json:"encoding,omitempty"`
	Body     map[string]any `json:"body,omitempty"`
}

// Answer is what came back.
type Answer struct {
	// Status is 0 when nothing came.
	Status      int    `json:"status"`
	ContentType string `json:"content_type,omitempty"`
	// LogID is X-Tt-Logid; Header has what concerns limits and retries.
	LogID  string            `json:"log_id,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	// JSON is the body, if it is an object; else Text is how it begins.
	JSON map[string]any `json:"json,omitempty"`
	Text string         `json:"text,omitempty"`
}

// EventMessage is an event as Lark sent it, decrypted.
type EventMessage struct {
	// Headers are the names of Lark's own headers. An event over the long
	// connection has none.
	Headers []string       `json:"headers,omitempty"`
	JSON    map[string]any `json:"json"`
}

// maxRecorded bounds one body.
const maxRecorded = 2 << 20

// recorder is a RoundTripper that remembers what passes through it.
type recorder struct {
	base           http.RoundTripper
	open, accounts string
	now            func() time.Time

	mu    sync.Mutex
	began time.Time
	step  string
	raw   []rawEntry
}

// rawEntry is an entry before it is scrubbed, which waits until all is known
// that must be replaced.
type rawEntry struct {
	step     string
	at       time.Duration
	approved string

	request     *http.Request
	requestBody []byte
	response    *http.Response
	body        []byte
	failure     string

	event   json.RawMessage
	headers []string
}

func (r *recorder) setStep(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step = step
}

func (r *recorder) add(e rawEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.step, e.at = r.step, r.now().Sub(r.began)
	r.raw = append(r.raw, e)
}

// RoundTrip reads the answer whole before it returns.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	e := rawEntry{request: req.Clone(req.Context())}
	if req.Body != nil {
		var err error
		e.requestBody, err = io.ReadAll(io.LimitReader(req.Body, maxRecorded))
		req.Body.Close()
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(e.requestBody))
	}
	resp, err := r.base.RoundTrip(req)
	if err == nil {
		e.response = resp
		e.body, err = io.ReadAll(io.LimitReader(resp.Body, maxRecorded))
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(e.body))
	}
	if err != nil {
		e.failure = err.Error()
	}
	if code := e.deviceCode(); code != "" && strings.Contains(string(e.body), `"access_token"`) {
		// Only the person can have made that possible, just before.
		r.add(rawEntry{approved: code})
	}
	r.add(e)
	return resp, err
}

// deviceCode is what a poll asks about, else empty.
func (e *rawEntry) deviceCode() string {
	if e.request.Method != http.MethodPost {
		return ""
	}
	_, body := decodeBody(e.request.Header.Get("Content-Type"), e.requestBody)
	code, _ := body["device_code"].(string)
	return code
}

// event remembers an event that Lark sent.
func (r *recorder) event(raw json.RawMessage, headers []string) {
	r.add(rawEntry{event: raw, headers: headers})
}

// entries scrubs what was recorded. The second time it is called it knows all
// values from the start.
func (r *recorder) entries(s *scrubber) (entries []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, raw := range r.raw {
		e := Entry{Step: raw.step, At: int(raw.at / time.Second)}
		switch {
		case raw.approved != "":
			e.Approved = s.replace("device_code", raw.approved)
		case raw.event != nil:
			_, body := decodeBody("json", raw.event)
			clean, _ := s.value("event", body).(map[string]any)
			e.Event = &EventMessage{Headers: raw.headers, JSON: clean}
		default:
			e.Request, e.Answer = r.scrubRequest(s, raw), scrubAnswer(s, raw)
		}
		if n := len(entries); n > 0 && repeats(entries[n-1], e) {
			entries[n-1].Times = max(entries[n-1].Times, 1) + 1
			continue
		}
		entries = append(entries, e)
	}
	return entries
}

// repeats reports whether b is a with another log id: such as a poll that is
// still pending.
func repeats(a, b Entry) bool {
	if a.Request == nil || b.Request == nil {
		return false
	}
	text := func(e Entry) string {
		answer := *e.Answer
		answer.LogID = ""
		body, _ := json.Marshal([]any{e.Step, e.Request, answer})
		return string(body)
	}
	return text(a) == text(b)
}

func (r *recorder) scrubRequest(s *scrubber, raw rawEntry) *Request {
	u := plainURL(raw.request.URL)
	out := &Request{Method: raw.request.Method, Base: "other", Path: u.EscapedPath()}
	for _, base := range []struct{ name, url string }{{"open", r.open}, {"accounts", r.accounts}} {
		if b, err := url.Parse(base.url); err == nil && b.Host == u.Host && b.Scheme == u.Scheme {
			out.Base = base.name
			out.Path = strings.TrimPrefix(out.Path, b.EscapedPath())
			break
		}
	}
	out.Path = s.path(out.Path)
	for name, values := range u.Query() {
		if out.Query == nil {
			out.Query = map[string][]string{}
		}
		for _, v := range values {
			out.Query[name] = append(out.Query[name], s.value(name, v).(string))
		}
	}
	if a := raw.request.Header.Get("Authorization"); a != "" {
		out.Authorization = s.authorization(a)
	}
	var body map[string]any
	out.Encoding, body = decodeBody(raw.request.Header.Get("Content-Type"), raw.requestBody)
	if body != nil {
		content, isMessage := body["content"].(string)
		delete(body, "content")
		out.Body, _ = s.value("", body).(map[string]any)
		if isMessage {
			out.Body["content"] = s.card(content)
		}
	}
	return out
}

// plainURL is u with a path, which a proxy keeps as it came in u.Opaque.
func plainURL(u *url.URL) *url.URL {
	if u.Opaque == "" {
		return u
	}
	plain, err := url.Parse(u.Scheme + ":" + u.Opaque)
	if err != nil {
		return u
	}
	if plain.Host == "" {
		plain.Host = u.Host
	}
	plain.RawQuery = u.RawQuery
	return plain
}

// answerHeaders concern limits and retries.
var answerHeaders = []string{"Retry-After", "X-Ogw-Ratelimit-Limit", "X-Ogw-Ratelimit-Reset", "Www-Authenticate"}

func scrubAnswer(s *scrubber, raw rawEntry) *Answer {
	if raw.response == nil {
		return &Answer{Text: s.text(raw.failure)}
	}
	h := raw.response.Header
	out := &Answer{Status: raw.response.StatusCode, ContentType: h.Get("Content-Type"), LogID: s.replace("log_id", h.Get("X-Tt-Logid"))}
	for _, name := range answerHeaders {
		if v := h.Get(name); v != "" {
			if out.Header == nil {
				out.Header = map[string]string{}
			}
			out.Header[name] = s.text(v)
		}
	}
	if _, body := decodeBody("json", raw.body); body != nil {
		out.JSON, _ = s.value("", body).(map[string]any)
		return out
	}
	out.Text = s.text(string(raw.body[:min(len(raw.body), 500)]))
	return out
}

// decodeBody reads a form or a JSON object; nil for anything else.
func decodeBody(contentType string, body []byte) (encoding string, fields map[string]any) {
	switch {
	case len(body) == 0:
		return "", nil
	case strings.Contains(contentType, "form-urlencoded"):
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return "form", nil
		}
		fields = make(map[string]any, len(form))
		for name := range form {
			fields[name] = form.Get(name)
		}
		return "form", fields
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil {
		return "json", nil
	}
	return "json", fields
}

// recordingFile is where a recording is written: made before the first question,
// so that nobody's time is spent on what can't be kept.
type recordingFile struct{ file *os.File }

// createRecording makes the file, which must not be there yet. Only its owner
// may read it.
func createRecording(path string) (*recordingFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the recording: %w", err)
	}
	return &recordingFile{f}, nil
}

// write keeps r. If anything of what s knows as secret is in it, it is not
// written, and the file is removed.
func (f *recordingFile) write(r Recording, s *scrubber) error {
	defer f.file.Close()
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	err := enc.Encode(r)
	if err == nil {
		err = s.check(out.Bytes())
	}
	if err == nil {
		_, err = f.file.Write(out.Bytes())
	}
	if err != nil {
		os.Remove(f.file.Name())
		return err
	}
	return nil
}

// record makes the recording of what r has seen.
func (r *recorder) record(s *scrubber, about Recording, observations []Observation, appID, user string) Recording {
	about.AppID, about.User = s.replace("app_id", appID), s.replace("open_id", user)
	r.entries(s)
	about.Entries = r.entries(s)
	for _, o := range observations {
		o.Answered = s.text(o.Answered)
		about.Observations = append(about.Observations, o)
	}
	return about
}

// known teaches s what must not be in a recording, beside what it finds.
func (s *scrubber) known(appSecret session.Secret, texts map[string]string, secrets []session.Secret) {
	s.know("app_secret", appSecret)
	for kind, text := range texts {
		s.replace(kind, text)
	}
	for _, secret := range secrets {
		s.know("secret", secret)
	}
}
