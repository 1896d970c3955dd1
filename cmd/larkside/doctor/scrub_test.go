package doctor

import (
	"bufio"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"larkside/session"
)

// answering is a Lark that answers everything with body.
type answering struct{ header, body string }

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return http.ReadResponse(bufio.NewReader(strings.NewReader("HTTP/1.0 200 OK\r\n"+a.header+"\r\n"+a.body)), r)
}

// recorded is the one exchange of a request as the recording has it.
func recorded(t *testing.T, a answering, req *http.Request) (Entry, string) {
	t.Helper()
	r := &recorder{base: a, open: "https://open.feishu.cn", accounts: "https://accounts.feishu.cn", now: time.Now, began: time.Now()}
	resp, err := r.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s := newScrubber()
	s.known(session.NewSecret("the-app-secret"), map[string]string{"app_name": "Orders & Co"}, nil)
	got := r.record(s, Recording{}, nil, "cli_a1b2c3d4e5f6", "ou_0123456789abcdef")
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.check(text); err != nil {
		t.Errorf("%v: %s", err, text)
	}
	return got.Entries[0], string(text)
}

func post(t *testing.T, to, contentType, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	return req
}

// A value has one placeholder wherever it stands, and what is in no list of
// plain fields is replaced, also what nobody has ever seen.
func TestScrub(t *testing.T) {
	req := post(t, "https://open.feishu.cn/open-apis/im/v1/messages/om_0123456789?receive_id_type=open_id&who=somebody", "application/x-www-form-urlencoded",
		"grant_type=refresh_token&refresh_token=r-tokenvalue&client_id=cli_a1b2c3d4e5f6&client_secret=the-app-secret&invented=x%2By")
	req.Header.Set("Authorization", "Bearer eyJhY2Nlc3M.x.y")
	e, text := recorded(t, answering{"Content-Type: application/json\r\nX-Tt-Logid: 20261128AAAA\r\nX-Secret: s\r\n",
		`{"code":20001,"msg":"user ou_0123456789abcdef said r-tokenvalue to Orders & Co, log 20261128AAAA, om_99999999","expires_in":7200,"phone":13800000000,"ok":true,"none":null,
		"data":{"open_id":"ou_0123456789abcdef","name":"张三","en_name":"张三","access_token":"eyJhY2Nlc3M.x.y","list":["a b","张三"]}}`}, req)
	for _, secret := range []string{"r-tokenvalue", "the-app-secret", "cli_a1b2", "ou_0123", "om_", "张三", "13800000000", "20261128AAAA", "Orders", "eyJ", "somebody", "x+y", "x%2By", "X-Secret"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is left in %s", secret, text)
		}
	}
	if got := e.Request; got.Base != "open" || got.Path != "/open-apis/im/v1/messages/<message_id 1>" || got.Query["receive_id_type"][0] != "open_id" || got.Body["grant_type"] != "refresh_token" {
		t.Errorf("%+v", got)
	}
	data := e.Answer.JSON["data"].(map[string]any)
	for name, want := range map[string]any{"open_id": "<open_id 1>", "name": data["en_name"], "access_token": strings.TrimPrefix(e.Request.Authorization, "Bearer ")} {
		if data[name] != want {
			t.Errorf("%s: %v, want %v", name, data[name], want)
		}
	}
	if e.Request.Body["client_id"] != "<app_id 1>" || e.Request.Body["client_secret"] != "<app_secret 1>" {
		t.Errorf("%+v", e.Request.Body)
	}
	if e.Answer.JSON["expires_in"] != json.Number("7200") || e.Answer.JSON["ok"] != true || e.Answer.JSON["phone"] != json.Number("0") {
		t.Errorf("%+v", e.Answer.JSON)
	}
	if msg := e.Answer.JSON["msg"]; !strings.Contains(msg.(string), "user <open_id 1> said <refresh_token 1> to <app_name 1>, log <log_id 1>") {
		t.Errorf("%v", msg)
	}
}

// What Larkside itself sends in a card stays, but for names and links.
func TestScrubCard(t *testing.T) {
	content, err := json.Marshal(`{"schema":"2.0","body":{"elements":[{"tag":"markdown","content":"**Orders & Co** would like to act"},{"tag":"button","behaviors":[{"type":"open_url","default_url":"https://accounts.feishu.cn/x?user_code=ABCD"}]}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	e, text := recorded(t, answering{"", `{"data":{"body":{"content":"anything at all"}}}`}, post(t, "https://open.feishu.cn/open-apis/im/v1/messages", "application/json", `{"msg_type":"interactive","content":`+string(content)+`}`))
	card, _ := e.Request.Body["content"].(string)
	if !strings.Contains(card, "<app_name 1>** would like to act") || !strings.Contains(card, `"default_url":"<link 1>"`) {
		t.Errorf("%s", card)
	}
	if strings.Contains(text, "ABCD") || strings.Contains(text, "anything") {
		t.Errorf("%s", text)
	}
}

func TestScrubOddAnswers(t *testing.T) {
	for body, want := range map[string]string{
		"":                                 "",
		"<html>hello om_0123456789</html>": "<html>hello <message_id 1></html>",
		"[1,2]":                            "[1,2]",
	} {
		e, _ := recorded(t, answering{"", body}, post(t, "https://elsewhere.example/x", "text/plain", "?"))
		if e.Answer.Text != want || e.Request.Base != "other" || e.Request.Body != nil {
			t.Errorf("%q: %+v", body, e.Answer)
		}
	}
}

// A recording with a secret in it is not written, whatever scrubbing did.
func TestRecordingRefused(t *testing.T) {
	for _, left := range []string{"top-secret/1", `top-secret\/1`, "top-secret%2F1"} {
		s := newScrubber()
		s.know("secret", session.NewSecret("top-secret/1"))
		path := filepath.Join(t.TempDir(), "r.json")
		file, err := createRecording(path)
		if err != nil {
			t.Fatal(err)
		}
		err = file.write(Recording{Brand: left}, s)
		refused := errors.Is(err, errSecretLeft) && !strings.Contains(err.Error(), "top-secret")
		if _, there := os.Stat(path); strings.Contains(left, `\`) == refused || refused != errors.Is(there, os.ErrNotExist) {
			t.Errorf("%s: %v", left, err)
		}
	}
}

// Values that are only known later are replaced in what came before.
func TestScrubLearns(t *testing.T) {
	r := &recorder{base: answering{"", `{"msg":"hello Alice Zhang"}`}, now: time.Now, began: time.Now()}
	for _, body := range []string{`{"msg":"hello Alice Zhang"}`, `{"data":{"name":"Alice Zhang"}}`} {
		r.base = answering{"", body}
		if _, err := r.RoundTrip(post(t, "https://x.example/", "", "")); err != nil {
			t.Fatal(err)
		}
	}
	got := r.record(newScrubber(), Recording{}, []Observation{{Answered: "Alice Zhang"}}, "cli_1", "ou_1")
	if msg := got.Entries[0].Answer.JSON["msg"]; msg != "hello <name 1>" || got.Observations[0].Answered != "<name 1>" {
		t.Errorf("%v, %+v", msg, got.Observations)
	}
}
