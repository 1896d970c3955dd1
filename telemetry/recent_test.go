package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// secret prints as session.Secret does.
type secret struct{ value *string }

func (s secret) LogValue() slog.Value       { return slog.StringValue("REDACTED") }
func (s secret) Format(f fmt.State, _ rune) { f.Write([]byte("REDACTED")) }
func newRecentLog(level slog.Level) (*Recent, *slog.Logger, *bytes.Buffer) {
	r, out := NewRecent(), &bytes.Buffer{}
	return r, slog.New(r.Handler(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))), out
}

func TestRecent(t *testing.T) {
	r, log, out := newRecentLog(slog.LevelInfo)
	value := "canary"
	log.Info("not worth keeping")
	log.Debug("not even logged")
	log.With("app_id", "cli_a").WithGroup("lark").Warn("refresh failed", "error", errors.New("first"))
	log.Error("boom", "token", secret{&value}, slog.Group("at", "line", 7), "list", []any{secret{&value}})
	log.With("app_id", "cli_b").WithGroup("lark").Warn("refresh failed", "error", errors.New("second"))

	got := r.Records()
	if len(got) != 2 || r.Seen() != 3 {
		t.Fatalf("%d records of %d: %+v", len(got), r.Seen(), got)
	}
	want := []Attr{{"app_id", "cli_b"}, {"lark.error", "second"}}
	if g := got[0]; g.Message != "refresh failed" || g.Count != 2 || g.Level != slog.LevelWarn ||
		!reflect.DeepEqual(g.Attrs, want) || g.Last.Before(g.First) {
		t.Errorf("the latest: %+v", g)
	}
	want = []Attr{{"token", "REDACTED"}, {"at.line", "7"}, {"list", "[REDACTED]"}}
	if g := got[1]; g.Message != "boom" || g.Count != 1 || !reflect.DeepEqual(g.Attrs, want) {
		t.Errorf("the one before: %+v", g)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 4 || strings.Contains(out.String(), "canary") {
		t.Errorf("the log itself:\n%s", out)
	}
}

// A log that is set to errors still tells the console of warnings, and its own
// output has none.
func TestRecentBelowTheLevel(t *testing.T) {
	r, log, out := newRecentLog(slog.LevelError)
	log.Warn("quiet")
	if len(r.Records()) != 1 || out.Len() != 0 {
		t.Errorf("%d records, log %q", len(r.Records()), out)
	}
}

func TestRecentIsBounded(t *testing.T) {
	r, log, _ := newRecentLog(slog.LevelInfo)
	for i := range 3 * recentKept {
		log.Warn(fmt.Sprint("message ", i), "long", strings.Repeat("x", 10*recentText))
		log.Error("again and again")
	}
	got := r.Records()
	if len(got) != recentKept || got[0].Message != "again and again" || got[0].Count != 3*recentKept {
		t.Errorf("%d records, the latest %q, %d times", len(got), got[0].Message, got[0].Count)
	}
	if n := len(got[1].Attrs[0].Value); n > recentText+len("…") {
		t.Errorf("a value of %d bytes is kept", n)
	}
}

// What is not kept costs nothing.
func TestRecentAllocations(t *testing.T) {
	_, log, _ := newRecentLog(slog.LevelWarn)
	if n := testing.AllocsPerRun(100, func() { log.Info("request", "a", "b") }); n != 0 {
		t.Errorf("%v allocations at info", n)
	}
}

// A message keeps the users whom it was logged of, so that somebody who looks at
// this process finds the person. The line itself shows the hash only.
func TestRecentUsers(t *testing.T) {
	users, err := NewUsers(HashUsers, []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	r, log, out := newRecentLog(slog.LevelInfo)
	log = log.With("app_id", "cli_a")
	for i := range recentUsers + 2 {
		log.Warn("refresh failed", users.Log(fmt.Sprint("ou_", i)))
	}
	log.With(users.Log("ou_21")).Warn("refresh failed")
	got := r.Records()[0]
	if len(got.Users) != recentUsers || !got.MoreUsers || got.Count != recentUsers+3 {
		t.Fatalf("%d users of %d times, more %t", len(got.Users), got.Count, got.MoreUsers)
	}
	if u := got.Users[0]; u.OpenID != "ou_21" || u.AppID != "cli_a" || u.Count != 2 || u.Shown != users.Show("ou_21") {
		t.Errorf("the latest: %+v", u)
	}
	for _, form := range []string{out.String(), fmt.Sprintf("%v %+v %#v", users.Log("ou_7"), users.Log("ou_7"), users.Log("ou_7").Value.Any())} {
		if strings.Contains(form, "ou_") {
			t.Errorf("an id is shown: %s", form)
		}
	}
	if hidden, _ := NewUsers(HideUsers, nil); !hidden.Log("ou_1").Equal(slog.Attr{}) {
		t.Error("a hidden user leaves a trace")
	}
}
