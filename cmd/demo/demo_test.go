package main

import (
	"bytes"
	"context"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/larktest"
)

// transcript is what the demo has written so far.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (w *transcript) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(b)
	close(w.changed)
	w.changed = make(chan struct{})
	return len(b), nil
}

func (w *transcript) now() (string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String(), w.changed
}

// await returns the text once it holds what is looked for.
func (w *transcript) await(t *testing.T, over <-chan error, want string) string {
	t.Helper()
	for {
		text, changed := w.now()
		if strings.Contains(text, want) {
			return text
		}
		select {
		case <-changed:
		case err := <-over:
			t.Fatalf("the demo ended before %q: %v\n%s", want, err, text)
		case <-t.Context().Done():
			t.Fatalf("no %q\n%s", want, text)
		}
	}
}

// The tour holds in the redirect flow too.
func TestDemoRedirect(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	var w bytes.Buffer
	if err := run(t.Context(), newScreen(&w, false), redirectFlow, false); err != nil {
		t.Errorf("%v\n%s", err, w.String())
	}
}

// The tour holds, and what -keep prints does what it says: the curl line of a
// user without a session, the chat page, the click, the curl line again.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	w := &transcript{changed: make(chan struct{})}
	over := make(chan error, 1)
	go func() { over <- run(ctx, newScreen(w, false), deviceFlow, true) }()

	text := w.await(t, over, "export LARKSIDE_SCOPES=")
	if strings.Contains(text, "\x1b") || strings.Contains(text, "✗") || strings.Count(text, "✓") != len(steps) {
		t.Errorf("transcript:\n%s", text)
	}
	kept := text[strings.Index(text, "Both stay up"):]
	call := regexp.MustCompile(`curl -i -H '(X-Lark-User-Id): (` + larktest.Carol + `)' (\S+)`).FindStringSubmatch(kept)
	chat := regexp.MustCompile(`(http://\S+)/chat\?user=` + larktest.Carol).FindStringSubmatch(kept)
	if call == nil || chat == nil {
		t.Fatalf("no lines to try:\n%s", kept)
	}
	get := func() (status int, body string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, call[3], nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(call[1], call[2])
		return fetch(t, r)
	}
	if status, body := get(); status != 401 {
		t.Fatalf("%d %s", status, body)
	}
	click(t, chat[1], chat[0])
	// The device flow is polled once a second.
	deadline := time.After(20 * time.Second)
	for status, body := get(); status != 200 || !strings.Contains(body, larktest.Carol); status, body = get() {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatalf("still %d %s", status, body)
		}
	}

	doctor(t, kept)

	interrupt()
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	text, _ = w.now()
	if !strings.Contains(text, "Everything was as it should be") || strings.Count(text, "✓") != len(steps)+len(ending) {
		t.Errorf("transcript:\n%s", text)
	}
}

// doctor runs "larkside doctor" with the settings that are printed, as a shell would
// read them.
func doctor(t *testing.T, kept string) {
	t.Helper()
	binary, err := build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "doctor")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, line := range regexp.MustCompile(`(?m)^ *export (\w+=)'?([^'\n]*)'?$`).FindAllStringSubmatch(kept, -1) {
		cmd.Env = append(cmd.Env, line[1]+line[2])
	}
	out, err := cmd.CombinedOutput()
	if err != nil || len(cmd.Env) < 8 || strings.Contains(string(out), "fail") {
		t.Errorf("doctor with %q: %v\n%s", cmd.Env, err, out)
	}
	t.Logf("%s", out)
}

// click does what a person does on the chat page: opens the link of the card
// and approves on the page behind it.
func click(t *testing.T, emulator, chat string) {
	t.Helper()
	request := func(method, to string, form url.Values) string {
		r, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		status, body := fetch(t, r)
		if status != 200 {
			t.Fatalf("%s %s: %d %s", method, to, status, body)
		}
		return body
	}
	link := regexp.MustCompile(`href="([^"]*/oauth/v1/device/verify\?[^"]*user_code=([A-Z0-9-]+))"`).FindStringSubmatch(request("GET", chat, nil))
	if link == nil {
		t.Fatal("the chat page has no link to the device page")
	}
	request("GET", html.UnescapeString(link[1]), nil)
	request("POST", emulator+"/oauth/v1/device/verify", url.Values{"user_code": {link[2]}, "account": {larktest.Carol}, "decision": {"approve"}})
}

func fetch(t *testing.T, r *http.Request) (status int, body string) {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// A step that is not as it should be is named, and ends the tour.
func TestWrongStep(t *testing.T) {
	var b bytes.Buffer
	tr := &tour{out: newScreen(&b, false)}
	good := step{says: "one", act: func(context.Context, *tour) error { return nil }, check: func(*tour) error { return nil }, holds: "fine."}
	bad := good
	bad.check = func(*tour) error { return problemIf(true, "what came was wrong") }
	err := tr.walk(t.Context(), []step{good, bad, good})
	if err == nil || err.Error() != "step 2 was not as it should be: what came was wrong" {
		t.Error(err)
	}
	if strings.Count(b.String(), "✓") != 1 || strings.Count(b.String(), "✗") != 1 {
		t.Error(b.String())
	}
}

// What is cut says how much there was; lines break where a person would.
func TestShorten(t *testing.T) {
	got := shorten(`{"code":1234567,"msg":"a sentence that is long enough"}`, 25, 2)
	want := []string{`{"code":1234567,"msg":"a `, `sente … 55 bytes in all`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", got)
	}
}
