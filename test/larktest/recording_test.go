package larktest_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/larktest"
)

var recordingFile = flag.String("recording", "testdata/emulator-recording.json", `what "larkside doctor --live USER --record FILE" wrote, of a real tenant or of this emulator`)

// recording is the file, as far as it matters here. The one in testdata is of the
// emulator itself; go test ./cmd/larkside/doctor -run 'TestLive$' -update makes it.
type recording struct {
	AppID   string   `json:"app_id"`
	User    string   `json:"user"`
	Scopes  []string `json:"scopes"`
	Entries []entry  `json:"entries"`
}

type entry struct {
	Step    string `json:"step"`
	At      int    `json:"at"` // seconds
	Request *struct {
		Method        string         `json:"method"`
		Base          string         `json:"base"`
		Path          string         `json:"path"`
		Query         url.Values     `json:"query"`
		Authorization string         `json:"authorization"`
		Encoding      string         `json:"encoding"`
		Body          map[string]any `json:"body"`
	} `json:"request"`
	Answer *struct {
		Status int            `json:"status"`
		JSON   map[string]any `json:"json"`
		Text   string         `json:"text"`
	} `json:"answer"`
	Approved string `json:"approved"`
	Event    *struct {
		JSON map[string]any `json:"json"`
	} `json:"event"`
}

// Every recorded question is asked of the emulator, which has to answer with the
// same status, the same codes and the same fields. Its events have to have the
// same fields as those that were recorded.
func TestRecording(t *testing.T) {
	r := readRecording(t, *recordingFile)
	differences, asked := replay(t, r)
	if asked == 0 {
		t.Error("no question is recorded")
	}
	for _, d := range differences {
		t.Error(d)
	}
	t.Logf("%d questions, %d differences", asked, len(differences))
}

// What Lark would answer otherwise is found: a status, a code, a field that is
// missing, one too many and one of another type.
func TestRecordingDiffers(t *testing.T) {
	for _, tc := range []struct {
		sentence, want string
		change         func(*entry)
	}{
		{"another status", "status 200, recorded 418", func(e *entry) { e.Answer.Status = 418 }},
		{"another code", "code is 0, recorded 1", func(e *entry) { e.Answer.JSON["code"] = 1.0 }},
		{"another error", `error is missing, recorded "x"`, func(e *entry) { e.Answer.JSON["error"] = "x" }},
		{"a field that the emulator lacks", "bot.new_field is missing, recorded string", func(e *entry) { bot(e)["new_field"] = "x" }},
		{"a field that Lark lacks", "bot.app_name is string, not recorded", func(e *entry) { delete(bot(e), "app_name") }},
		{"a field of another type", "bot.activate_status is number, recorded string", func(e *entry) { bot(e)["activate_status"] = "2" }},
		{"a page", "a JSON object, recorded none", func(e *entry) { e.Answer.JSON = nil }},
	} {
		r := readRecording(t, "testdata/emulator-recording.json")
		i := slices.IndexFunc(r.Entries, func(e entry) bool { return e.Request != nil && strings.HasSuffix(e.Request.Path, "/bot/v3/info") })
		tc.change(&r.Entries[i])
		differences, _ := replay(t, r)
		if !slices.ContainsFunc(differences, func(d string) bool { return strings.Contains(d, tc.want) && strings.HasPrefix(d, "bot: ") }) {
			t.Errorf("%s: %q", tc.sentence, differences)
		}
	}
}

func bot(e *entry) map[string]any { return e.Answer.JSON["bot"].(map[string]any) }

func readRecording(t *testing.T, path string) recording {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r recording
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// player asks an emulator what was once asked of Lark. Where the recording has
// a placeholder in an answer, what the emulator says there stands for it in the
// questions that follow.
type player struct {
	lark  *larktest.Platform
	means map[string]string // by placeholder
	// events has what the emulator sends to the app.
	events chan map[string]any

	mu    sync.Mutex
	clock time.Time
}

func (p *player) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clock
}

// replay returns where the emulator's answers differ, and how many there were.
func replay(t *testing.T, r recording) (differences []string, asked int) {
	t.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &player{clock: start, events: make(chan map[string]any, 1), means: map[string]string{r.AppID: larktest.AppID, "<app_secret 1>": larktest.AppSecret, r.User: larktest.Alice}}
	p.lark = larktest.Start(t, &larktest.Config{Now: p.now, AllowUnknown: true})
	app := httptest.NewServer(http.HandlerFunc(p.takeEvent))
	t.Cleanup(app.Close)
	err := p.lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
		a.Scopes, a.EventsURL, a.VerificationToken = append(a.Scopes, r.Scopes...), app.URL, "verify"
	})
	if err != nil {
		t.Fatal(err)
	}
	note := func(step string, found ...string) {
		for _, d := range found {
			differences = append(differences, step+": "+d)
		}
	}
	var revocations []entry
	for _, e := range r.Entries {
		p.mu.Lock()
		p.clock = start.Add(time.Duration(e.At) * time.Second)
		p.mu.Unlock()
		switch {
		case e.Approved != "":
			if err := p.lark.Approve(p.fill(e.Approved), larktest.Alice); err != nil {
				note(e.Step, "the user can't approve: "+err.Error())
			}
		case e.Event != nil && e.eventType() == larktest.RevokedEvent:
			revocations = append(revocations, e) // when no token is needed any more
		case e.Event != nil:
			note(e.Step, p.click(t, e)...)
		case e.Answer.Status != 0:
			asked++
			note(e.Step, p.ask(t, e)...)
		}
	}
	for _, e := range revocations {
		if _, err := p.lark.SendRevoked(t.Context(), larktest.Alice, "user"); err != nil {
			t.Fatal(err)
		}
		note(e.Step, p.compareEvent(e)...)
	}
	return differences, asked
}

func (e *entry) eventType() string {
	header, _ := e.Event.JSON["header"].(map[string]any)
	kind, _ := header["event_type"].(string)
	return kind
}

// takeEvent is the app's side of an event, which is not encrypted here.
func (p *player) takeEvent(w http.ResponseWriter, r *http.Request) {
	var event map[string]any
	json.NewDecoder(r.Body).Decode(&event)
	p.events <- event
	io.WriteString(w, "{}")
}

// click presses the button whose click was recorded.
func (p *player) click(t *testing.T, e entry) []string {
	t.Helper()
	event, _ := e.Event.JSON["event"].(map[string]any)
	where, _ := event["context"].(map[string]any)
	id, _ := where["open_message_id"].(string)
	for _, m := range p.lark.Messages(larktest.Alice) {
		n := slices.IndexFunc(m.Buttons(), func(b larktest.Button) bool { return b.Callback })
		if m.ID != p.fill(id) || n < 0 {
			continue
		}
		if _, err := p.lark.Click(t.Context(), m.ID, n); err != nil {
			return []string{err.Error()}
		}
		return p.compareEvent(e)
	}
	return []string{"an event that the emulator does not send: " + e.eventType()}
}

func (p *player) compareEvent(e entry) []string {
	return compareFields(shape(e.Event.JSON), shape(<-p.events))
}

var placeholder = regexp.MustCompile(`<[a-z_]+ \d+>`)

// fill puts the emulator's values for placeholders. One that no answer had is
// left: it is a name that the client made up.
func (p *player) fill(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		if value, ok := p.means[name]; ok {
			return value
		}
		return name
	})
}

// ask sends the request of e and compares the answers.
func (p *player) ask(t *testing.T, e entry) []string {
	t.Helper()
	q := e.Request
	target, err := url.Parse(p.lark.URL + p.fill(q.Path))
	if err != nil {
		t.Fatal(err)
	}
	query := url.Values{}
	for name, values := range q.Query {
		for _, v := range values {
			query.Add(name, p.fill(v))
		}
	}
	target.RawQuery = query.Encode()
	body, contentType := p.body(t, e)
	req, err := http.NewRequestWithContext(t.Context(), q.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if pair, ok := strings.CutPrefix(q.Authorization, "Basic "); ok {
		id, secret, _ := strings.Cut(p.fill(pair), ":")
		req.SetBasicAuth(id, secret)
	} else if q.Authorization != "" {
		req.Header.Set("Authorization", p.fill(q.Authorization))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	json.Unmarshal(text, &answer) // nil for anything but an object
	p.learn(e.Answer.JSON, answer)
	return compare(e, resp.StatusCode, answer)
}

func (p *player) body(t *testing.T, e entry) (body []byte, contentType string) {
	t.Helper()
	switch e.Request.Encoding {
	case "form":
		form := url.Values{}
		for name, value := range e.Request.Body {
			form.Set(name, p.fill(fmt.Sprint(value)))
		}
		return []byte(form.Encode()), "application/x-www-form-urlencoded"
	case "json":
		text, err := json.Marshal(p.fillAll(e.Request.Body))
		if err != nil {
			t.Fatal(err)
		}
		return text, "application/json; charset=utf-8"
	}
	return nil, ""
}

func (p *player) fillAll(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name := range v {
			out[name] = p.fillAll(v[name])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = p.fillAll(v[i])
		}
		return out
	case string:
		return p.fill(v)
	}
	return v
}

// learn walks both answers and notes what the placeholders mean here.
func (p *player) learn(recorded, answered any) {
	switch r := recorded.(type) {
	case map[string]any:
		a, _ := answered.(map[string]any)
		for name := range r {
			p.learn(r[name], a[name])
		}
	case []any:
		a, _ := answered.([]any)
		for i := range min(len(r), len(a)) {
			p.learn(r[i], a[i])
		}
	case string:
		if a, ok := answered.(string); ok && placeholder.FindString(r) == r && r != "" && a != "" {
			p.means[r] = a
		}
	}
}

// compare looks at the status, at code and error, and at the fields.
func compare(e entry, status int, answer map[string]any) (differences []string) {
	if status != e.Answer.Status {
		differences = append(differences, fmt.Sprintf("status %d, recorded %d (code %v, recorded %v)", status, e.Answer.Status, answer["code"], e.Answer.JSON["code"]))
	}
	if (answer == nil) != (e.Answer.JSON == nil) {
		what := map[bool]string{true: "no JSON object", false: "a JSON object, recorded none"}
		return append(differences, what[answer == nil])
	}
	for _, name := range []string{"code", "error"} {
		was, is := e.Answer.JSON[name], answer[name]
		if _, nested := was.(map[string]any); nested || was == nil {
			continue
		}
		if is == nil {
			differences = append(differences, fmt.Sprintf("%s is missing, recorded %q", name, fmt.Sprint(was)))
		} else if fmt.Sprint(is) != fmt.Sprint(was) {
			differences = append(differences, fmt.Sprintf("%s is %v, recorded %v", name, is, was))
		}
	}
	return append(differences, compareFields(shape(e.Answer.JSON), shape(answer))...)
}

func compareFields(recorded, answered map[string]string) (differences []string) {
	all := maps.Clone(recorded)
	maps.Copy(all, answered)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		was, isRecorded := recorded[path]
		is, isAnswered := answered[path]
		switch {
		case path == "error" && !isAnswered: // said already
		case !isAnswered:
			differences = append(differences, path+" is missing, recorded "+was)
		case !isRecorded:
			differences = append(differences, path+" is "+is+", not recorded")
		case was != is:
			differences = append(differences, path+" is "+is+", recorded "+was)
		}
	}
	return differences
}

// shape is the type of each field by its path. Of a list the fields of all its
// objects count, as one.
func shape(v map[string]any) map[string]string {
	fields := map[string]string{}
	addShape(fields, "", v)
	return fields
}

func addShape(fields map[string]string, path string, v any) {
	kind := map[bool]string{true: "boolean", false: "null"}
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			addShape(fields, strings.TrimPrefix(path+"."+name, "."), v[name])
		}
		return
	case []any:
		fields[path] = "list"
		for _, item := range v {
			if _, object := item.(map[string]any); object {
				addShape(fields, path+"[]", item)
			}
		}
		return
	case string:
		fields[path] = "string"
	case float64:
		fields[path] = "number"
	default:
		fields[path] = kind[v != nil]
	}
}
