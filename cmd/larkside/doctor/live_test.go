package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/larktest"
)

// alice is Alice at a terminal: she reads what Live says and does it in the
// emulator.
type alice struct {
	t    *testing.T
	lark *larktest.Platform
	// as is who clicks; late lets that many polls pass first.
	as   string
	late int
	// revokes makes the emulator send revoked_v4 after a revocation.
	revokes bool
	// connected makes her wait for Live's long connection before the emulator
	// sends an event.
	connected bool

	mu      sync.Mutex
	text    strings.Builder
	clock   time.Time
	polls   int  // since she was told to click
	clicked bool // what she was last told to click
	waits   int  // for events
	work    sync.WaitGroup
}

func (a *alice) now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.clock
}

// Write is what she reads.
func (a *alice) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text.Write(b)
	switch text := string(b); {
	case strings.Contains(text, "→ Click the first button"), strings.Contains(text, "→ The card did not go out"):
		a.polls, a.clicked = 0, false
	case strings.Contains(text, "→ Click the second button"):
		a.work.Go(a.pressDecline)
	case strings.Contains(text, "(waiting "):
		if a.waits++; a.waits == 2 && a.revokes {
			a.work.Go(a.sendRevoked)
		}
	}
	return len(b), nil
}

func (a *alice) pressDecline() {
	a.awaitConnection()
	messages := a.lark.Messages(larktest.Alice)
	if _, err := a.lark.Click(a.t.Context(), messages[len(messages)-1].ID, 1); err != nil {
		a.t.Error(err)
	}
}

func (a *alice) awaitConnection() {
	err := a.lark.Wait(a.t.Context(), func() bool { return !a.connected || len(a.lark.LongConnections(larktest.AppID)) == 1 })
	if err != nil {
		a.t.Error(err)
	}
}

// sendRevoked sends the event alone. The emulator's own revocation would end the
// access token too.
func (a *alice) sendRevoked() {
	a.awaitConnection()
	user, err := a.lark.User(larktest.Alice)
	if err != nil {
		a.t.Error(err)
	}
	_, err = a.lark.SendEvent(a.t.Context(), larktest.Event{AppID: larktest.AppID, Type: larktest.RevokedEvent, Body: map[string]string{
		"open_id": larktest.Alice, "union_id": user.UnionID, "revoke_token_type": "refresh_token ", "revoke_reason": "Revoked by unknown action.",
	}})
	if err != nil {
		a.t.Error(err)
	}
}

// wait is the time between two polls, in which she may click.
func (a *alice) wait(ctx context.Context, d time.Duration) error {
	a.mu.Lock()
	a.clock = a.clock.Add(d)
	a.polls++
	click := a.polls > a.late && !a.clicked
	a.clicked = a.clicked || click
	a.mu.Unlock()
	if click && a.as != "" {
		if err := a.lark.Approve(a.link(), a.as); err != nil {
			a.t.Error(err)
		}
	}
	return ctx.Err()
}

// link is that of the latest card which has one, or the latest on the terminal.
func (a *alice) link() string {
	for _, m := range slices.Backward(a.lark.Messages(larktest.Alice)) {
		if links := m.Links(); len(links) > 0 {
			return links[0]
		}
	}
	all := regexp.MustCompile(`http://\S+user_code=\S+`).FindAllString(a.said(), -1)
	return all[len(all)-1]
}

func (a *alice) said() string {
	a.work.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.String()
}

// accompanied is a way with Alice, who says yes to everything.
func accompanied(t *testing.T) (*alice, LiveConfig) {
	t.Helper()
	a := &alice{t: t, as: larktest.Alice, late: 1, clock: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)}
	a.lark = larktest.Start(t, &larktest.Config{Now: a.now})
	app := toLark(a.lark.URL)
	return a, LiveConfig{
		App: app, Brand: "feishu", Version: "test", User: larktest.Alice, Scopes: []string{"offline_access", "task:task:read"},
		HasSession: func(context.Context) (bool, error) { return false, nil },
		Events:     "off", EventWait: time.Millisecond,
		In: strings.NewReader(strings.Repeat("y\n", 30)), Out: a, Now: a.now, Wait: a.wait,
	}
}

// withEvents lets the emulator post events to where Live listens.
func withEvents(t *testing.T, a *alice, c *LiveConfig) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	change(t, a.lark, func(app *larktest.App) {
		app.EventsURL, app.EncryptKey, app.VerificationToken = "http://"+listener.Addr().String()+"/consent/events", "encrypt-"+canary, "verify-"+canary
	})
	secret := func(s string) func() session.Secret { return func() session.Secret { return session.NewSecret(s) } }
	c.Events, c.EventWait = "http", 300*time.Millisecond
	c.EventKeys = &lark.EventKeys{Token: secret("verify-" + canary), EncryptKey: secret("encrypt-" + canary)}
	c.Listen = func(context.Context) (net.Listener, error) { return listener, nil }
}

// verdicts are those of one way, by step; of a step that comes twice the last.
func verdicts(t *testing.T, r Recording) map[string]Verdict {
	t.Helper()
	by := map[string]Verdict{}
	for _, o := range r.Observations {
		if o.Believed == "" || o.Facts == "" || o.Answered == "" {
			t.Errorf("an observation says too little: %+v", o)
		}
		by[o.Step] = o.Verdict
	}
	return by
}

func readRecording(t *testing.T, path string) (Recording, string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r Recording
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r, string(text)
}

// The emulator answers everything as believed, and nothing of anybody's is in
// the recording or left at Lark.
func TestLive(t *testing.T) {
	a, c := accompanied(t)
	withEvents(t, a, &c)
	a.revokes = true
	c.Spend, c.Recording = true, filepath.Join(t.TempDir(), "recording.json")
	if err := Live(t.Context(), c); err != nil {
		t.Fatalf("%v\n%s", err, a.said())
	}
	r, text := readRecording(t, c.Recording)
	by := verdicts(t, r)
	for step, want := range map[string]Verdict{
		"credentials": AsBelieved, "bot": AsBelieved, "scopes": AsBelieved, "a malformed scope": Settled, "a scope that no app has": AsBelieved,
		"poll at v2 with a form": AsBelieved, "poll at v2 with JSON": AsBelieved, "poll at v3": Settled,
		"first consent: send the card": AsBelieved, "the same message uuid again": Settled, "the card's look": AsBelieved,
		"the card's look with a callback button": AsBelieved, "a click on a callback button": AsBelieved, "update a card": AsBelieved,
		"first consent: poll": AsBelieved, "user_info": AsBelieved, "a call through Larkside's proxy": AsBelieved,
		"refresh": AsBelieved, "the old access token after a refresh": AsBelieved, "event after a refresh": Settled,
		"second consent: poll": AsBelieved, "the first access token after a second consent": Settled, "the first refresh token after a second consent": Settled,
		"a spent refresh token": AsBelieved, "the access token of that grant": Settled, "the refresh token of that grant": Settled,
		"revoke the refresh token": AsBelieved, "event after a revocation": AsBelieved, "the access token after its refresh token was revoked": AsBelieved,
		"the revoked refresh token": AsBelieved, "revoke the access token": AsBelieved, "the revoked access token": AsBelieved,
	} {
		if by[step] != want {
			t.Errorf("%s: %q, want %q", step, by[step], want)
		}
	}
	for step, v := range by {
		if v == Differs {
			t.Errorf("%s differs", step)
		}
	}
	for _, secret := range []string{larktest.AppSecret, larktest.AppID, larktest.Alice, "Alice", "Larktest Demo", canary, "eyJ", "Bearer t-", "127.0.0.1"} {
		if strings.Contains(text, secret) {
			t.Errorf("the recording has %q", secret)
		}
	}
	if info, err := os.Stat(c.Recording); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	nothingLeft(t, a.lark)

	if *update {
		if err := os.WriteFile("../../../test/larktest/testdata/emulator-recording.json", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Over the long connection the same events come as over HTTP, and nothing of the
// connection is left.
func TestLiveOverLongConnection(t *testing.T) {
	a, c := accompanied(t)
	a.revokes, a.connected = true, true
	c.Events, c.EventWait = "websocket", 300*time.Millisecond
	c.Recording = filepath.Join(t.TempDir(), "recording.json")
	if err := Live(t.Context(), c); err != nil {
		t.Fatalf("%v\n%s", err, a.said())
	}
	r, text := readRecording(t, c.Recording)
	by := verdicts(t, r)
	for _, step := range []string{"a click on a callback button", "event after a revocation"} {
		if by[step] != AsBelieved {
			t.Errorf("%s: %q", step, by[step])
		}
	}
	for _, secret := range []string{larktest.AppSecret, larktest.AppID, larktest.Alice, "ticket-"} {
		if strings.Contains(text, secret) {
			t.Errorf("the recording has %q", secret)
		}
	}
	if err := a.lark.Wait(t.Context(), func() bool { return len(a.lark.LongConnections("")) == 0 }); err != nil {
		t.Error("the long connection is left")
	}
	nothingLeft(t, a.lark)
}

// update is for go test ./cmd/larkside/doctor -run 'TestLive$' -update.
var update = flag.Bool("update", false, "write the recording against which the emulator's tests hold the emulator")

// nothingLeft fails if a token of Alice's that was not spent is still good.
func nothingLeft(t *testing.T, p *larktest.Platform) {
	t.Helper()
	for _, issued := range p.Ledger(larktest.Alice) {
		if !issued.Revoked && !issued.Spent {
			t.Errorf("%s %s is left", issued.Kind, issued.ID)
		}
	}
}

// An answer that is not as believed is told, and is no failure.
func TestLiveDiffers(t *testing.T) {
	a, c := accompanied(t)
	a.lark.Switch(func(s *larktest.Switches) {
		s.ConsentEndsEarlier, s.DuplicateUUID, s.V2RefusesDevicePolls, s.V3TakesDevicePolls = true, 230049, true, true
	})
	c.Recording = filepath.Join(t.TempDir(), "recording.json")
	if err := Live(t.Context(), c); err != nil {
		t.Fatalf("%v\n%s", err, a.said())
	}
	r, _ := readRecording(t, c.Recording)
	by := verdicts(t, r)
	if by["poll at v2 with a form"] != Differs || by["a spent refresh token"] != NotSeen || by["event after a revocation"] != NotSeen {
		t.Errorf("%v", by)
	}
	said := a.said()
	for _, want := range []string{"DIFFERS", "230049: it is being sent", "code 20064", "Differs: 3."} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not said", want)
		}
	}
	nothingLeft(t, a.lark)
}

// Whatever stops the way, what was obtained is revoked.
func TestLiveStops(t *testing.T) {
	for _, tc := range []struct {
		sentence, says string
		change         func(*alice, *LiveConfig)
		granted        bool
	}{
		{"a session in the database, and the person stops", "chose not to go on", func(a *alice, c *LiveConfig) {
			c.HasSession = func(context.Context) (bool, error) { return true, nil }
			c.In = strings.NewReader("n\n")
		}, false},
		{"a database that can't be asked, and the person stops", "chose not to go on", func(a *alice, c *LiveConfig) {
			c.HasSession = func(context.Context) (bool, error) { return false, errors.New("down") }
			c.In = strings.NewReader("maybe\nno\n")
		}, false},
		{"nobody at the terminal", "nobody answers", func(a *alice, c *LiveConfig) { c.In = strings.NewReader("") }, false},
		{"a wrong secret", "10014", func(a *alice, c *LiveConfig) {
			c.App.Secret = func() session.Secret { return session.NewSecret(canary) }
		}, false},
		{"another user clicks", "another user", func(a *alice, c *LiveConfig) { a.as = larktest.Bob }, true},
		{"nobody clicks", "expired", func(a *alice, c *LiveConfig) { a.as = "" }, false},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			a, c := accompanied(t)
			tc.change(a, &c)
			err := Live(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error()+a.said(), canary) {
				t.Errorf("%v\n%s", err, a.said())
			}
			if issued := a.lark.Ledger(larktest.Bob); tc.granted && (len(issued) == 0 || !issued[0].Revoked) {
				t.Errorf("%+v", issued)
			}
			nothingLeft(t, a.lark)
		})
	}
}

// Ctrl-C in the middle revokes too.
func TestLiveInterrupted(t *testing.T) {
	a, c := accompanied(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	polls := 0
	c.Wait = func(ctx context.Context, d time.Duration) error {
		if polls++; polls == 4 { // in the second consent
			cancel()
		}
		return a.wait(ctx, d)
	}
	if err := Live(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("%v\n%s", err, a.said())
	}
	if len(a.lark.Ledger(larktest.Alice)) == 0 {
		t.Error("it was stopped too early to show anything")
	}
	nothingLeft(t, a.lark)
}

func TestLiveRefusals(t *testing.T) {
	_, c := accompanied(t)
	c.User = "on_union"
	if err := Live(t.Context(), c); !errors.Is(err, errNotOpenID) {
		t.Error(err)
	}
	c.User, c.Recording = larktest.Alice, filepath.Join(t.TempDir(), "there.json")
	if err := os.WriteFile(c.Recording, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Live(t.Context(), c); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if text, _ := os.ReadFile(c.Recording); string(text) != "mine" {
		t.Errorf("a file that was there is now %q", text)
	}
}

// A card that can't be sent is no obstacle: the link is on the terminal.
func TestLiveWithoutCard(t *testing.T) {
	a, c := accompanied(t)
	change(t, a.lark, func(app *larktest.App) { app.BotOff = true })
	if err := Live(t.Context(), c); err != nil {
		t.Fatalf("%v\n%s", err, a.said())
	}
	if said := a.said(); !strings.Contains(said, "Open this link as the user") || !strings.Contains(said, a.lark.URL+"/oauth/v1/device/verify?") {
		t.Error(said)
	}
	nothingLeft(t, a.lark)
}
