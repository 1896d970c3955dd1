package operate

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"rsc.io/qr"

	"larkside/proxy/admin"
	"larkside/proxy/edge"
	"larkside/session"
)

// What is drawn is the code, module by module, in colours of its own, so that it can
// be read on a light and on a dark terminal.
func TestHalfBlocks(t *testing.T) {
	code, err := qr.Encode("https://accounts.feishu.cn/oauth/v1/device/verify?flow_id=abc&user_code=ABCD-EFGH", qr.L)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(halfBlocks(code), "\n"), "\n")
	if want := (code.Size + 2*quietZone + 1) / 2; len(lines) != want {
		t.Fatalf("%d lines, want %d", len(lines), want)
	}
	for i, line := range lines {
		text, begins := strings.CutPrefix(line, "  \x1b[38;5;16;48;5;231m")
		text, ends := strings.CutSuffix(text, "\x1b[0m")
		modules := []rune(text)
		if !begins || !ends || len(modules) != code.Size+2*quietZone {
			t.Fatalf("line %d: %q", i, line)
		}
		for j, r := range modules {
			x, y := j-quietZone, 2*i-quietZone
			upper, lower := r == '█' || r == '▀', r == '█' || r == '▄'
			if upper != code.Black(x, y) || lower != code.Black(x, y+1) {
				t.Fatalf("module %d,%d is %q", x, y, r)
			}
		}
	}
	if code.Size+2*quietZone+2 > 80 {
		t.Errorf("%d modules do not fit on a terminal", code.Size)
	}
}

func TestLogin(t *testing.T) {
	const link = "https://accounts.feishu.cn/device?user_code=ABCD-EFGH&x=1"
	var failing error
	instance := httptest.NewServer(admin.New(admin.Config{Apps: []string{"cli_a1", "cli_b2"},
		Login: func(_ context.Context, appID string, progress func(admin.Login), _ admin.Actor) (admin.Login, error) {
			progress(admin.Login{AppID: appID, AuthorizeURL: link, ExpiresIn: 240})
			return admin.Login{AppID: appID, OpenID: "ou_1", Name: "Alice \x1b[31m"}, failing
		}}))
	defer instance.Close()
	got := larkside(t, nil, "login", "--admin", instance.URL)
	if got.status != ExitDone || got.out != "Signed in as Alice [31m (ou_1). Requests that name no user are yours now.\n" {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(got.err, "\n  "+link+"\n") || !strings.Contains(got.err, "4 minutes") || strings.Contains(got.err, "█") {
		t.Errorf("a link on its own line, and no code where there is no terminal: %q", got.err)
	}
	got = larkside(t, nil, "login", "--admin", instance.URL, "--app", "cli_b2", "-o", "json")
	if got.status != ExitDone || !strings.Contains(got.out, `"app_id": "cli_b2"`) || strings.Contains(got.out, "http") {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, nil, "login", "--admin", instance.URL, "--app", "cli_c3"); got.status != ExitFailed || !strings.Contains(got.err, "unknown_app") {
		t.Errorf("%+v", got)
	}
	for reason, want := range map[session.Reason]string{
		session.Declined: "was declined", "expired": "nobody approved in time", "stopping": "run this again when it is up", session.ScopeNotEnabled: "scope_not_enabled",
	} {
		failing = &edge.Answer{Failure: edge.NotSignedIn, Reason: reason}
		if got := larkside(t, nil, "login", "--admin", instance.URL); got.status != ExitFailed || !strings.Contains(got.err, want) || got.out != "" {
			t.Errorf("%s: %+v", reason, got)
		}
	}
}

// An instance that has no default user, or none that is signed in, says how to start
// it; so does one that isn't there.
func TestLoginNotTaken(t *testing.T) {
	instance := httptest.NewServer(admin.New(admin.Config{Apps: []string{"cli_a1"}}))
	if got := larkside(t, nil, "login", "--admin", instance.URL); got.status != ExitFailed || !strings.Contains(got.err, "the instance at "+instance.URL+" takes no login: start it with LARKSIDE_DEFAULT_USER=login") {
		t.Errorf("%+v", got)
	}
	instance.Close()
	if got := larkside(t, nil, "login", "--admin", instance.URL); got.status != ExitFailed || !strings.Contains(got.err, "start larkside first") {
		t.Errorf("%+v", got)
	}
}
