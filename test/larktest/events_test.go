package larktest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// receiver is an app's events URL. It checks signatures and opens bodies by
// the documents, with code of its own.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	events   []map[string]any
	unsigned int
	answer   string
	status   int
}

const encryptKey = "kudryavka"

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	rec := &receiver{answer: "{}", status: 200}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sum := sha256.Sum256(append([]byte(r.Header.Get("X-Lark-Request-Timestamp")+r.Header.Get("X-Lark-Request-Nonce")+encryptKey), body...))
		rec.mu.Lock()
		defer rec.mu.Unlock()
		if r.Header.Get("X-Lark-Signature") != hex.EncodeToString(sum[:]) {
			rec.unsigned++
			w.WriteHeader(http.StatusForbidden)
			return
		}
		event := open(t, body)
		rec.events = append(rec.events, event)
		answer := rec.answer
		if event["type"] == "url_verification" {
			answer = `{"challenge":"` + event["challenge"].(string) + `"}`
		}
		w.WriteHeader(rec.status)
		io.WriteString(w, answer)
	}))
	t.Cleanup(rec.Close)
	return rec
}

func open(t *testing.T, body []byte) map[string]any {
	var sealed struct{ Encrypt string }
	json.Unmarshal(body, &sealed)
	raw, err := base64.StdEncoding.DecodeString(sealed.Encrypt)
	if err != nil || len(raw) < 32 {
		t.Errorf("encrypt: %v, %d bytes", err, len(raw))
		return nil
	}
	key := sha256.Sum256([]byte(encryptKey))
	block, _ := aes.NewCipher(key[:])
	plain := make([]byte, len(raw)-16)
	cipher.NewCBCDecrypter(block, raw[:16]).CryptBlocks(plain, raw[16:])
	plain = plain[:len(plain)-int(plain[len(plain)-1])]
	var event map[string]any
	if err := json.Unmarshal(plain, &event); err != nil {
		t.Errorf("%v: %s", err, plain)
	}
	return event
}

func startWithEvents(t *testing.T) (*Platform, *receiver) {
	t.Helper()
	rec := newReceiver(t)
	p, _ := startAt(t, Config{})
	p.UpdateApp(AppID, func(a *App) { a.EventsURL, a.EncryptKey, a.VerificationToken = rec.URL, encryptKey, "vt" })
	return p, rec
}

func TestEventsSignedAndSealed(t *testing.T) {
	p, rec := startWithEvents(t)
	if err := p.VerifyURL(t.Context(), AppID); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := p.SendEvent(t.Context(), Event{AppID: AppID, Type: "x.y_v1", ID: "e1", Body: map[string]any{"k": "v"}}); err != nil {
			t.Fatal(err)
		}
	}
	header := rec.events[2]["header"].(map[string]any)
	if header["event_id"] != "e1" || header["token"] != "vt" || header["app_id"] != AppID || rec.events[1]["header"].(map[string]any)["event_id"] != "e1" {
		t.Errorf("events: %v", rec.events)
	}
	p.SendEvent(t.Context(), Event{AppID: AppID, Type: "x", BadSignature: true})
	p.SendEvent(t.Context(), Event{AppID: AppID, Type: "x", Unsigned: true})
	if rec.unsigned != 2 {
		t.Errorf("%d events without a good signature", rec.unsigned)
	}
}

func TestRevokedEvent(t *testing.T) {
	p, rec := startWithEvents(t)
	tokens := granted(t, p, Alice)
	if _, err := p.SendRevoked(t.Context(), Alice, "user"); err != nil {
		t.Fatal(err)
	}
	event := rec.events[0]["event"].(map[string]any)
	if event["revoke_token_type"] != "user_access_token refresh_token " || event["open_id"] != Alice || event["revoke_reason"] != "Revoked by user action." {
		t.Errorf("event: %v", event)
	}
	want(t, refreshCall(t, p, tokens.RefreshToken), 400, 20064)
}

func TestClick(t *testing.T) {
	p, rec := startWithEvents(t)
	tat := tenant(t, p)
	id := messageID(t, post(t, p, tat, Alice, authCard, ""))
	if reply, err := p.Click(t.Context(), id, 0); err != nil || reply.Status != 0 || len(rec.events) != 0 {
		t.Errorf("link button: %+v %v", reply, err)
	}
	rec.answer = `{"toast":{"type":"success","content":"See you"},"card":{"type":"raw","data":` + doneCard + `}}`
	status, location, _ := submit(t, browser(t), p.URL+"/chat/click", "user", Alice, "message", id, "button", "1")
	if status != 303 {
		t.Fatalf("click: %d %s", status, location)
	}
	event := rec.events[0]["event"].(map[string]any)
	if rec.events[0]["header"].(map[string]any)["event_type"] != "card.action.trigger" || event["operator"].(map[string]any)["open_id"] != Alice ||
		event["action"].(map[string]any)["value"].(map[string]any)["do"] != "decline" || event["context"].(map[string]any)["open_message_id"] != id {
		t.Errorf("event: %v", rec.events[0])
	}
	if len(p.Messages(Alice)[0].Versions) != 2 {
		t.Error("the card in the reply was not shown")
	}
	if _, _, page := visit(t, browser(t), p.URL+location); !strings.Contains(page, "See you") {
		t.Error("the toast was not shown")
	}
	token := event["token"].(string)
	update := func() reply {
		return call(t, p, "POST", "/open-apis/interactive/v1/card/update", tat, `{"token":"`+token+`","card":`+doneCard+`}`)
	}
	want(t, update(), 200, 0)
	want(t, update(), 200, 0)
	want(t, update(), 400, 300000) // a third use
	if _, err := p.Click(t.Context(), id, 0); !errors.Is(err, ErrRefused) {
		t.Errorf("click on a button that is gone: %v", err)
	}
}

func TestClickReplies(t *testing.T) {
	p, rec := startWithEvents(t)
	id := messageID(t, post(t, p, tenant(t, p), Alice, authCard, ""))
	for answer, text := range map[string]string{"not json": "200672", `{"card":{"type":"raw","data":{"elements":[]}}}`: "200673"} {
		rec.answer = answer
		if _, err := p.ClickAs(t.Context(), id, 1, Bob); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", answer, err)
		}
	}
	rec.status = 302
	if _, err := p.Click(t.Context(), id, 1); err == nil || !strings.Contains(err.Error(), "200671") {
		t.Errorf("HTTP 302: %v", err)
	}
	p.UpdateApp(AppID, func(a *App) { a.EventsURL = "" })
	if _, err := p.Click(t.Context(), id, 1); !errors.Is(err, ErrNoEvents) {
		t.Errorf("no events URL: %v", err)
	}
}
