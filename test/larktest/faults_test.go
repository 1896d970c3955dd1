package larktest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// try refreshes without failing the test on a transport error.
func try(p *Platform, client *http.Client, rt string) (reply, error) {
	response, err := client.PostForm(originOf(p)+"/oauth/v3/token", url.Values{
		"client_id": {AppID}, "client_secret": {AppSecret}, "grant_type": {"refresh_token"}, "refresh_token": {rt}})
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	out := reply{Status: response.StatusCode, Header: response.Header, Raw: raw}
	if jsonErr := json.Unmarshal(raw, &out.Fields); err == nil {
		err = jsonErr
	}
	return out, err
}

func originOf(p *Platform) string {
	if p.URL == "" {
		return "http://lark.test"
	}
	return p.URL
}

// Each fault on a refresh: what the client sees, and whether the rotation took
// place, which decides what the same token answers next.
func TestTokenFaults(t *testing.T) {
	cases := []struct {
		name    string
		fault   Fault
		err     bool
		status  int
		spent   bool
		outcome Outcome // of the first redemption; empty when it never was one
	}{
		{"dropped before", Fault{Drop: true}, true, 0, false, ""},
		{"dropped after the rotation", Fault{Drop: true, Processed: true}, true, 0, true, Unanswered},
		{"504 before", Fault{Status: 504}, true, 504, false, ""},
		{"504 after the rotation", Fault{Status: 504, Processed: true}, true, 504, true, Unanswered},
		{"non-JSON 502", Fault{Status: 502, Body: "Bad Gateway"}, true, 502, false, ""},
		{"20050", Fault{Code: 20050}, false, 500, false, ""},
		{"20050 after the rotation", Fault{Code: 20050, Processed: true}, false, 500, true, Unanswered},
		{"20072", Fault{Code: 20072}, false, 503, false, ""},
		{"HTTP 200 with a code", Fault{Code: 20072, Status: 200}, false, 200, false, ""},
		{"truncated JSON", Fault{Truncate: true}, true, 200, true, Unanswered},
		{"cut in the body", Fault{Truncate: true, Drop: true}, true, 200, true, Unanswered},
		{"10 MiB", Fault{Pad: 10 << 20}, false, 200, true, Unanswered},
		{"wrong content type", Fault{ContentType: "text/html"}, false, 200, true, Unanswered},
		{"no access token", Fault{Omit: []string{"access_token"}}, false, 200, true, Unanswered},
		{"no expires_in", Fault{Omit: []string{"expires_in"}}, false, 200, true, Answered},
		{"absurd lifetime", Fault{Set: map[string]any{"expires_in": -1, "refresh_token_expires_in": int64(1e12)}}, false, 200, true, Answered},
		{"429", Fault{Code: 99991400}, false, 429, false, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, _ := startAt(t, Config{})
			tokens := granted(t, p, Alice)
			c.fault.Endpoint = TokenEndpoint
			injection := p.Fault(c.fault)
			got, err := try(p, http.DefaultClient, tokens.RefreshToken)
			if (err != nil) != c.err || got.Status != c.status {
				t.Errorf("got HTTP %d, %v: %.100s", got.Status, err, got.Raw)
			}
			if injection.Hits() != 1 {
				t.Errorf("%d hits", injection.Hits())
			}
			redemptions := p.Redemptions(tokens.RefreshToken)
			switch {
			case c.outcome == "" && len(redemptions) != 0, c.outcome != "" && (len(redemptions) != 1 || redemptions[0].Outcome != c.outcome):
				t.Errorf("redemptions: %+v", redemptions)
			}
			status, code := 200, 0
			if c.spent {
				status, code = 400, 20073
			}
			want(t, refreshCall(t, p, tokens.RefreshToken), status, code)
			if n := len(p.Violations(Replayed)); n > 0 != (c.outcome == Answered) {
				t.Errorf("%d replays booked after %q", n, c.outcome)
			}
		})
	}
}

func TestFaultFields(t *testing.T) {
	p, _ := startAt(t, Config{})
	tokens := granted(t, p, Alice)
	p.Fault(Fault{Endpoint: TokenEndpoint, Set: map[string]any{"expires_in": int64(1e12), "token_type": "DPoP"}, Omit: []string{"scope"}, Header: map[string]string{"X-Odd": "yes"}})
	got := refreshCall(t, p, tokens.RefreshToken)
	if got.Fields["expires_in"] != 1e12 || got.text("token_type") != "DPoP" || got.Fields["scope"] != nil || got.Header.Get("X-Odd") != "yes" {
		t.Errorf("got %.200s %v", got.Raw, got.Header)
	}
}

// Injected codes of the API are worded as the gate's own.
func TestAPIFaults(t *testing.T) {
	p, _ := startAt(t, Config{})
	token := granted(t, p, Alice).AccessToken
	cases := []struct {
		fault  Fault
		status int
		text   string
	}{
		{Fault{Code: 99991668}, 400, "Invalid access token for authorization"},
		{Fault{Code: 99991668, Msg: "user access token not support"}, 400, "user access token not support"},
		{Fault{Code: 99991677}, 401, "expired"},
		{Fault{Code: 99991677, Status: 400}, 400, "expired"},
		{Fault{Code: 99991679}, 400, `"subject":"app_engine:workspace.table:read"`},
		{Fault{Code: 99991400}, 429, "frequency limit"},
		{Fault{Code: 2320005}, 403, "insufficient"},
	}
	for _, c := range cases {
		c.fault.Endpoint = API
		p.Fault(c.fault)
		got := call(t, p, "GET", tablesPath, token, "")
		want(t, got, c.status, c.fault.Code)
		if !strings.Contains(string(got.Raw), c.text) {
			t.Errorf("%d: %s", c.fault.Code, got.Raw)
		}
	}
	p.Fault(Fault{Endpoint: UserInfo, Code: 20022})
	want(t, call(t, p, "GET", "/open-apis/authen/v1/user_info", token, ""), 200, 20022)
}

// Which requests a fault strikes.
func TestFaultMatching(t *testing.T) {
	p, _ := startAt(t, Config{})
	alice, bob := granted(t, p, Alice), granted(t, p, Bob)
	p.Fault(Fault{Endpoint: TokenEndpoint, OpenID: Bob, Grant: "refresh_token", Code: 20050, Times: 2, Skip: 1})
	p.Fault(Fault{Endpoint: MessageSend, OpenID: Bob, Code: 230013, Times: -1})
	p.Fault(Fault{Path: tablesPath, OpenID: Bob, Status: 500, Body: "{}", Times: -1})
	want(t, refreshCall(t, p, alice.RefreshToken), 200, 0)
	first := refreshCall(t, p, bob.RefreshToken)
	want(t, first, 200, 0) // skipped
	want(t, refreshCall(t, p, first.text("refresh_token")), 500, 20050)
	want(t, refreshCall(t, p, first.text("refresh_token")), 500, 20050)
	want(t, refreshCall(t, p, first.text("refresh_token")), 200, 0)
	for range 2 {
		want(t, post(t, p, tenant(t, p), Alice, authCard, ""), 200, 0)
		want(t, post(t, p, tenant(t, p), Bob, authCard, ""), 400, 230013)
	}
	want(t, call(t, p, "GET", tablesPath, alice.AccessToken, ""), 200, 0)
	want(t, call(t, p, "GET", tablesPath, bob.AccessToken, ""), 500, 0)
	p.ClearFaults()
	want(t, call(t, p, "GET", tablesPath, bob.AccessToken, ""), 200, 0)
}

// A client that hangs up while its request hangs leaves nothing behind; one
// that hangs up while the answer hangs has spent its token.
func TestHang(t *testing.T) {
	for _, c := range []struct {
		name         string
		fault        Fault
		status, code int
	}{
		{"request", Fault{Endpoint: TokenEndpoint, Hang: true}, 200, 0},
		{"answer", Fault{Endpoint: TokenEndpoint, HangAnswer: true}, 400, 20073},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _ := startAt(t, Config{})
			tokens := granted(t, p, Alice)
			injection := p.Fault(c.fault)
			ctx, cancel := context.WithCancel(t.Context())
			client := &http.Client{Transport: cancelling{ctx}}
			failed := make(chan error)
			go func() { _, err := try(p, client, tokens.RefreshToken); failed <- err }()
			if err := injection.Await(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			if c.code != 0 { // until it has been processed
				p.Wait(t.Context(), func() bool { return len(p.Redemptions(tokens.RefreshToken)) > 0 })
			}
			cancel()
			if err := <-failed; !errors.Is(err, context.Canceled) {
				t.Errorf("hung up: %v", err)
			}
			p.Wait(t.Context(), func() bool { return len(p.Calls(To(TokenEndpoint))) == 1 })
			want(t, refreshCall(t, p, tokens.RefreshToken), c.status, c.code)
		})
	}
}

// cancelling gives every request a context.
type cancelling struct{ ctx context.Context }

func (c cancelling) RoundTrip(r *http.Request) (*http.Response, error) {
	return http.DefaultTransport.RoundTrip(r.WithContext(c.ctx))
}

func TestRelease(t *testing.T) {
	p, _ := startAt(t, Config{})
	tokens := granted(t, p, Alice)
	injection := p.Fault(Fault{Endpoint: TokenEndpoint, Hang: true})
	answered := make(chan reply)
	go func() { got, _ := try(p, http.DefaultClient, tokens.RefreshToken); answered <- got }()
	injection.Await(t.Context(), 1)
	injection.Release()
	if got := <-answered; got.Status != 200 {
		t.Errorf("released: %d %s", got.Status, got.Raw)
	}
}

// In a synctest bubble, through the transport: delays pass in no time, and
// tokens expire by the bubble's clock.
func TestTransportInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{})
		defer p.Close()
		client := &http.Client{Transport: p.Transport()}
		tokens := granted(t, p, Alice)
		p.Fault(Fault{Endpoint: TokenEndpoint, Delay: time.Hour})
		start := time.Now()
		got, err := try(p, client, tokens.RefreshToken)
		if err != nil || got.Status != 200 || time.Since(start) != time.Hour {
			t.Fatalf("after %s: %d %v", time.Since(start), got.Status, err)
		}
		time.Sleep(time.Hour)
		r, _ := http.NewRequest("GET", "http://lark.test"+tablesPath, nil)
		r.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body := readAll(t, response.Body); response.StatusCode != 401 || !strings.Contains(body, "99991677") {
			t.Errorf("expired: %d %s", response.StatusCode, body)
		}
		rt := got.text("refresh_token")
		p.Fault(Fault{Endpoint: TokenEndpoint, Drop: true, Processed: true})
		if _, err := try(p, client, rt); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("dropped: %v", err)
		}
		p.Fault(Fault{Endpoint: TokenEndpoint, Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r, _ = http.NewRequestWithContext(ctx, "POST", "http://lark.test/oauth/v3/token", strings.NewReader(""))
		if _, err := client.Do(r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hung: %v", err)
		}
	})
}
