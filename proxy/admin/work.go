package admin

import (
	"encoding/json"
	"mime"
	"net/http"
	"strings"

	"larkside/session/store"
	"larkside/telemetry"
)

// UserSync counts the profiles that were read from Lark.
type UserSync struct {
	// Users is how many users Lark was asked about, Updated how many profiles were
	// read, and Failed how many could not be read.
	Users   int `json:"users"`
	Updated int `json:"updated"`
	Failed  int `json:"failed"`
}

// syncUsers answers POST /api/v1/users/sync; see [run].
func (a *admin) syncUsers(w http.ResponseWriter, r *http.Request) error {
	return run(a, w, r, func(progress func(UserSync)) (UserSync, error) {
		return a.SyncUsers(r.Context(), progress, actor(r))
	})
}

// rotateKeys answers POST /api/v1/keys/rotate; see [run].
func (a *admin) rotateKeys(w http.ResponseWriter, r *http.Request) error {
	return run(a, w, r, func(progress func(store.Resealed)) (store.Resealed, error) {
		return a.RotateKeys(r.Context(), progress, actor(r))
	})
}

// run does work that may take long, and answers with its result. With Accept:
// application/x-ndjson each report of progress is a line, and the result is the last
// line, with "done": true. If the work fails after the first line, the last line is
// the envelope of an error. The work ends early if the client hangs up.
func run[T any](a *admin, w http.ResponseWriter, r *http.Request, work func(func(T)) (T, error)) error {
	if !wantsLines(r) {
		result, err := work(func(T) {})
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, result)
	}
	out := newLines(w)
	result, err := work(func(so T) {
		out.write(reported(so, false))
		out.flush()
	})
	if err != nil {
		return a.breakOff(out, r, err)
	}
	out.write(reported(result, true))
	return nil
}

// reported returns the fields of v, and "done".
func reported(v any, done bool) map[string]any {
	var fields map[string]any
	if content, err := json.Marshal(v); err == nil {
		json.Unmarshal(content, &fields) // of an object: can't fail
	}
	fields["done"] = done
	return fields
}

const ndjson = "application/x-ndjson"

// wantsLines reports whether r asks for JSON lines.
func wantsLines(r *http.Request) bool {
	for _, accepted := range strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",") {
		if kind, _, err := mime.ParseMediaType(accepted); err == nil && kind == ndjson {
			return true
		}
	}
	return false
}

// lines writes JSON lines. The answer begins with the first line.
type lines struct {
	w     http.ResponseWriter
	enc   *json.Encoder
	begun bool
}

func newLines(w http.ResponseWriter) *lines {
	return &lines{w: w, enc: json.NewEncoder(w)}
}

func (l *lines) begin() {
	if l.begun {
		return
	}
	l.begun = true
	h := l.w.Header()
	h.Set("Content-Type", ndjson)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

func (l *lines) write(v any) {
	l.begin()
	l.enc.Encode(v) // if the peer is gone, nobody can be told
}

func (l *lines) flush() {
	l.begin()
	http.NewResponseController(l.w).Flush()
}

// breakOff ends the lines with the envelope of err, or returns err if no line has
// been written.
func (a *admin) breakOff(out *lines, r *http.Request, err error) error {
	if !out.begun {
		return err
	}
	out.write(json.RawMessage(a.answerTo(r, err).Envelope(telemetry.RequestID(r.Context()))))
	return nil
}
