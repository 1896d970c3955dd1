package larktest

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// The chain can be followed from the consent to the last token.
func TestLedgerChain(t *testing.T) {
	p, _ := startAt(t, Config{})
	tokens := granted(t, p, Alice)
	second := refreshCall(t, p, tokens.RefreshToken)
	refreshCall(t, p, second.text("refresh_token"))
	granted(t, p, Bob)
	lines := p.Ledger(Alice)
	if len(lines) != 6 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		if line.OpenID != Alice || line.AppID != AppID || line.Grant != 1 || line.GrantedAt.IsZero() {
			t.Errorf("line %d: %+v", i, line)
		}
	}
	if lines[2].Parent != lines[1].ID || lines[5].Parent != lines[3].ID || !lines[3].Spent || lines[5].Spent {
		t.Errorf("chain: %+v", lines)
	}
	s := p.Summary()
	if s.Tokens[AccessToken] != 4 || s.Redemptions[Answered] != 2 || s.MaxAnswered != 1 || s.Lost != 0 || len(s.Violations) != 0 {
		t.Errorf("summary: %+v", s)
	}
}

// Of many that send one refresh token at once, one is answered.
func TestOneOfManyWins(t *testing.T) {
	p := Start(t, nil)
	tokens := granted(t, p, Alice)
	var wait sync.WaitGroup
	statuses := make(chan int, 20)
	for range 20 {
		wait.Go(func() {
			got, err := try(p, http.DefaultClient, tokens.RefreshToken)
			if err != nil {
				t.Error(err)
			}
			statuses <- got.Status
		})
	}
	wait.Wait()
	close(statuses)
	won := 0
	for status := range statuses {
		if status == 200 {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d were answered", won)
	}
}

func TestTokenTexts(t *testing.T) {
	p, _ := startAt(t, Config{})
	tokens := granted(t, p, Alice)
	for _, text := range []string{tokens.AccessToken, tokens.RefreshToken} {
		if len(text) < 1400 || len(text) > 1700 || !strings.HasPrefix(text, "eyJ") || strings.Count(text, ".") != 2 {
			t.Errorf("token of %d bytes: %.40s", len(text), text)
		}
		// One changed character makes another token.
		if p.find(text) == nil || p.find(text[:len(text)-1]+"_") != nil && text[len(text)-1] != '_' || p.find(strings.Replace(text, ".", "..", 1)) != nil {
			t.Error("a changed token was taken")
		}
	}
	big, _ := startAt(t, Config{TokenSize: 4096})
	if n := len(granted(t, big, Alice).AccessToken); n < 3900 || n > 4200 {
		t.Errorf("token of %d bytes, want 4096 or so", n)
	}
}

func TestRandomLives(t *testing.T) {
	p, _ := startAt(t, Config{RandomLives: true, AccessLife: time.Hour})
	lives := map[time.Duration]bool{}
	for range 20 {
		life := granted(t, p, Alice).ExpiresIn
		if life < 30*time.Minute || life > time.Hour {
			t.Errorf("life %s", life)
		}
		lives[life] = true
	}
	if len(lives) < 10 {
		t.Errorf("%d different lives of 20", len(lives))
	}
}

// JSON fields come in more than one order.
func TestFieldOrder(t *testing.T) {
	p, _ := startAt(t, Config{})
	orders := map[string]bool{}
	for range 30 {
		raw := tokenCall(t, p, "grant_type", "client_credentials").Raw
		orders[string(raw[:8])] = true
	}
	if len(orders) < 2 {
		t.Errorf("always starts with %v", orders)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	p, clock := startAt(t, Config{KeepCalls: 10, KeepTokens: 10, TokenPerMinute: -1, AllowUnknown: true})
	for range 50 {
		granted(t, p, Alice)
		call(t, p, "GET", tablesPath, "eyJ.x.y", "")
		messageID(t, post(t, p, tenant(t, p), Alice, authCard, ""))
		clock.forward(10 * 24 * time.Hour)
	}
	if n := len(p.Ledger("")); n > 20 {
		t.Errorf("%d tokens", n)
	}
	if n := len(p.Calls(nil)); n > 20 {
		t.Errorf("%d calls", n)
	}
	if n := len(p.Violations()); n > 20 {
		t.Errorf("%d violations", n)
	}
	if n := len(p.Messages("")); n > 20 || len(p.chat.messages) > 20 {
		t.Errorf("%d messages", n)
	}
	if s := p.Summary(); s.Violations[UnknownToken] != 50 || s.Calls < 150 {
		t.Errorf("totals were lost: %+v", s)
	}
}

// failing records what would fail a test.
type failing struct {
	testing.TB
	failures []string
}

func (f *failing) Errorf(format string, args ...any) { f.failures = append(f.failures, format) }

func TestUnknownPathFailsTheTest(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		fake := &failing{TB: t}
		p := Start(fake, &Config{AllowUnknown: allowed})
		call(t, p, "GET", "/open-apis/nope/v1", "", "")
		call(t, p, "GET", "/chat", "", "")
		if (len(fake.failures) == 1) == allowed {
			t.Errorf("allowed %v: %d failures", allowed, len(fake.failures))
		}
	}
}

func TestAddedRoutes(t *testing.T) {
	p, _ := startAt(t, Config{Routes: []Route{
		{Method: "GET", Pattern: "/open-apis/mine/v1/:id", Takes: TakesUser, Scopes: []string{"task:task:read"}},
		{Method: "POST", Pattern: "/open-apis/mine/v1/own", Takes: TakesUser, Serve: func(w http.ResponseWriter, _ *http.Request, owner string) {
			w.WriteHeader(http.StatusTeapot)
			w.Write([]byte(owner))
		}},
	}})
	token := granted(t, p, Alice, "offline_access").AccessToken
	want(t, call(t, p, "GET", "/open-apis/mine/v1/x", token, ""), 400, 99991679)
	want(t, call(t, p, "GET", "/open-apis/mine/v1/x", granted(t, p, Alice, "task:task:read").AccessToken, ""), 200, 0)
	if r := call(t, p, "POST", "/open-apis/mine/v1/own", token, ""); r.Status != http.StatusTeapot || string(r.Raw) != Alice {
		t.Errorf("own answer: %d %s", r.Status, r.Raw)
	}
	if c := p.Calls(To(API)); c[2].Status != http.StatusTeapot || c[2].Owner != Alice {
		t.Errorf("calls: %+v", c[2])
	}
}

func FuzzCard(f *testing.F) {
	f.Add(authCard)
	f.Add(doneCard)
	f.Add(`{"schema":"2.0","body":{"elements":[{"tag":"column_set","columns":[null,{"tag":"column","elements":[1]}]}]}}`)
	f.Fuzz(func(t *testing.T, content string) {
		c, problem := checkCard(content)
		if problem == nil {
			newCardView(c, "zh_cn")
			c.buttons()
		}
	})
}
