package larktest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Event is what Lark pushes to an app's EventsURL in HTTP mode, else to one of
// its long connections.
type Event struct {
	AppID string `json:"app_id,omitempty"`
	// Type is header.event_type; "url_verification" is sent in its own shape.
	Type string `json:"type,omitempty"`
	// ID is header.event_id, made up when empty. Sending one ID twice is how
	// Lark's at-least-once delivery looks.
	ID string `json:"id,omitempty"`
	// Body is the event object.
	Body any `json:"body,omitempty"`
	// At is header.create_time; now when zero. Stamp is the
	// X-Lark-Request-Timestamp; now when zero.
	At    time.Time `json:"at"`
	Stamp time.Time `json:"stamp"`
	// URL replaces the app's EventsURL.
	URL string `json:"url,omitempty"`
	// BadSignature, Unsigned, Plain and WrongToken break one rule each: a
	// wrong signature, no signature headers, no encryption, another
	// verification token.
	BadSignature bool `json:"bad_signature,omitempty"`
	Unsigned     bool `json:"unsigned,omitempty"`
	Plain        bool `json:"plain,omitempty"`
	WrongToken   bool `json:"wrong_token,omitempty"`
}

// EventReply is the app's answer.
type EventReply struct {
	Status int
	Body   []byte
	// Took is how long the app needed; Lark gives up after 3 s (1 s for
	// url_verification), and so does the emulator.
	Took time.Duration
}

// ErrNoEvents means that the app has neither an EventsURL nor a long connection.
var ErrNoEvents = errors.New("app has no events URL and no long connection")

// SendEvent posts one event, encrypted and signed when the app has an encrypt
// key, and returns the answer, whatever its status. An app without an EventsURL
// gets it over one of its long connections, whose answer has a status and a
// body too. The error is a transport's
// or a timeout's.
func (p *Platform) SendEvent(ctx context.Context, e Event) (EventReply, error) {
	p.mu.Lock()
	app := p.apps[e.AppID]
	if app == nil {
		p.mu.Unlock()
		return EventReply{}, fmt.Errorf("send event: app %q: %w", e.AppID, ErrNoApp)
	}
	key, token, url := app.EncryptKey, app.VerificationToken, app.EventsURL
	p.mu.Unlock()
	setString(&e.URL, url)
	if e.WrongToken {
		token = "not-" + token
	}
	e.Plain = e.Plain || e.URL == "" // [D] inside a long connection nothing is encrypted
	body, err := p.eventBody(e, key, token)
	if err != nil {
		return EventReply{}, fmt.Errorf("send event: %w", err)
	}
	if e.URL == "" {
		return p.overLongConnection(ctx, e.AppID, body)
	}
	return p.postEvent(ctx, e, key, body)
}

// eventBody is the JSON that is posted. Source: Lark "callback request
// structure" and "encryption"; create_time is microseconds for card clicks and
// milliseconds for events.
func (p *Platform) eventBody(e Event, key, token string) ([]byte, error) {
	setString(&e.ID, randomHex(16))
	if e.At.IsZero() {
		e.At = p.now()
	}
	created := strconv.FormatInt(e.At.UnixMilli(), 10)
	if e.Type == cardAction {
		created = strconv.FormatInt(e.At.UnixMicro(), 10)
	}
	var message any = object{
		{"schema", "2.0"}, {"event", e.Body},
		{"header", object{{"event_id", e.ID}, {"token", token}, {"create_time", created}, {"event_type", e.Type}, {"tenant_key", tenantKey}, {"app_id", e.AppID}}},
	}
	if e.Type == urlVerification {
		message = object{{"challenge", fmt.Sprint(e.Body)}, {"token", token}, {"type", urlVerification}}
	}
	body, err := json.Marshal(message)
	if err != nil || key == "" || e.Plain {
		return body, err
	}
	sealed, err := encrypt(body, key)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"encrypt": sealed})
}

const (
	urlVerification = "url_verification"
	cardAction      = "card.action.trigger"
)

// encrypt is AES-256-CBC with PKCS#7 under SHA-256 of the key, iv first.
func encrypt(plain []byte, key string) (string, error) {
	sum := sha256.Sum256([]byte(key))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return "", err
	}
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	plain = append(slices.Clone(plain), bytes.Repeat([]byte{byte(pad)}, pad)...)
	sealed := make([]byte, aes.BlockSize+len(plain))
	rand.Read(sealed[:aes.BlockSize])
	cipher.NewCBCEncrypter(block, sealed[:aes.BlockSize]).CryptBlocks(sealed[aes.BlockSize:], plain)
	return base64.StdEncoding.EncodeToString(sealed), nil
}

func (p *Platform) postEvent(ctx context.Context, e Event, key string, body []byte) (EventReply, error) {
	limit := 3 * time.Second
	if e.Type == urlVerification {
		limit = time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader(body))
	if err != nil {
		return EventReply{}, fmt.Errorf("send event: %w", err)
	}
	r.Header.Set("Content-Type", jsonType)
	if key != "" && !e.Unsigned {
		p.sign(r, e, key, body)
	}
	start := time.Now()
	response, err := p.events.Do(r)
	if err != nil {
		return EventReply{}, fmt.Errorf("send event: %w", err)
	}
	defer response.Body.Close()
	answered, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return EventReply{Status: response.StatusCode, Body: answered, Took: time.Since(start)}, err
}

// newEventClient follows no redirects: to Lark any 3xx is a failure.
func newEventClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (p *Platform) sign(r *http.Request, e Event, key string, body []byte) {
	if e.Stamp.IsZero() {
		e.Stamp = p.now()
	}
	stamp, nonce := strconv.FormatInt(e.Stamp.Unix(), 10), randomHex(8)
	sum := sha256.New()
	io.WriteString(sum, stamp+nonce+key)
	sum.Write(body)
	signature := hex.EncodeToString(sum.Sum(nil))
	if e.BadSignature {
		signature = strings.Repeat("0", len(signature))
	}
	r.Header.Set("X-Lark-Request-Timestamp", stamp)
	r.Header.Set("X-Lark-Request-Nonce", nonce)
	r.Header.Set("X-Lark-Signature", signature)
}

// VerifyURL does what the console does when an events URL is saved: the answer
// must be the challenge, within a second.
func (p *Platform) VerifyURL(ctx context.Context, appID string) error {
	challenge := randomHex(16)
	reply, err := p.SendEvent(ctx, Event{AppID: appID, Type: urlVerification, Body: challenge})
	if err != nil {
		return err
	}
	var out struct {
		Challenge string `json:"challenge"`
	}
	if json.Unmarshal(reply.Body, &out) != nil || out.Challenge != challenge || reply.Status != http.StatusOK {
		return fmt.Errorf("verify events URL: HTTP %d without the challenge: %w", reply.Status, ErrRefused)
	}
	return nil
}

// RevokedEvent is auth.user_access_token.revoked_v4.
const RevokedEvent = "auth.user_access_token.revoked_v4"

// SendRevoked revokes the user's tokens as [Platform.Revoke] does and tells
// the app. by is user, administrator, "security and risk control", restriction
// or unknown. Lark's samples carry a trailing blank in the token type, and so
// does this.
func (p *Platform) SendRevoked(ctx context.Context, openID, by string, kinds ...Kind) (EventReply, error) {
	if err := p.Revoke(openID, kinds...); err != nil {
		return EventReply{}, err
	}
	if len(kinds) == 0 {
		kinds = []Kind{AccessToken, RefreshToken}
	}
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	p.mu.Lock()
	who := p.byOpenID[openID]
	p.mu.Unlock()
	return p.SendEvent(ctx, Event{AppID: who.app, Type: RevokedEvent, Body: object{
		{"revoke_token_type", strings.Join(names, " ") + " "}, {"revoke_reason", "Revoked by " + by + " action."},
		{"open_id", openID}, {"union_id", who.user.UnionID},
	}})
}

// clickToken is the token of one click, for the delayed update: 30 minutes,
// two uses, and only after the callback was answered.
type clickToken struct {
	message  *message
	at       time.Time
	uses     int
	answered bool
}

// Click presses button n (from 0) of a message's latest card as the user who
// got it. On an open_url button nothing is sent; the reply is empty and the
// link is in [Message.Links]. On a callback button the app gets
// card.action.trigger, and a card in its reply becomes the message's new
// state.
func (p *Platform) Click(ctx context.Context, messageID string, n int) (EventReply, error) {
	p.mu.Lock()
	m := p.chat.messages[messageID]
	p.mu.Unlock()
	if m == nil {
		return EventReply{}, fmt.Errorf("click %q: %w", messageID, ErrNoMessage)
	}
	return p.ClickAs(ctx, messageID, n, m.OpenID)
}

// ClickAs is Click by somebody else, who saw the card forwarded or in a group.
func (p *Platform) ClickAs(ctx context.Context, messageID string, n int, openID string) (EventReply, error) {
	event, button, err := p.clickEvent(messageID, n, openID)
	if err != nil || !button.Callback {
		return EventReply{}, err
	}
	reply, err := p.SendEvent(ctx, event)
	if err != nil {
		return reply, err
	}
	return reply, p.applyReply(messageID, event.Body.(object).get("token").(string), reply)
}

func (p *Platform) clickEvent(messageID string, n int, openID string) (Event, Button, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.chat.messages[messageID]
	if m == nil {
		return Event{}, Button{}, fmt.Errorf("click %q: %w", messageID, ErrNoMessage)
	}
	user, known := p.whoAnywhere(m.AppID, openID)
	if !known {
		return Event{}, Button{}, fmt.Errorf("click as %q: %w", openID, ErrNoUser)
	}
	buttons := m.Buttons()
	if n < 0 || n >= len(buttons) || buttons[n].Disabled {
		return Event{}, Button{}, fmt.Errorf("click %q: button %d of %d: %w", messageID, n, len(buttons), ErrRefused)
	}
	token := "c-" + randomHex(20)
	p.forgetClicks()
	p.clicks[token] = &clickToken{message: m, at: p.now()}
	return Event{AppID: m.AppID, Type: cardAction, Body: object{
		{"operator", object{{"tenant_key", tenantKey}, {"open_id", p.openID(m.AppID, user)}, {"union_id", user.UnionID}}},
		{"token", token}, {"host", "im_message"},
		{"action", object{{"value", buttons[n].Value}, {"tag", "button"}, {"name", buttons[n].Name}, {"timezone", "Asia/Shanghai"}}},
		{"context", object{{"open_message_id", m.ID}, {"open_chat_id", m.ChatID}}},
	}}, buttons[n], nil
}

func (p *Platform) forgetClicks() {
	for token, c := range p.clicks {
		if p.now().Sub(c.at) > 30*time.Minute {
			delete(p.clicks, token)
		}
	}
}

// applyReply does what the client does with a callback's answer: it must be
// 200 and {} or a toast and a card, else the user sees an error code.
func (p *Platform) applyReply(messageID, token string, reply EventReply) error {
	var out struct {
		Toast json.RawMessage `json:"toast"`
		Card  *struct {
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
		} `json:"card"`
	}
	if reply.Status != http.StatusOK {
		return fmt.Errorf("200671: callback answered HTTP %d: %w", reply.Status, ErrRefused)
	}
	if err := json.Unmarshal(reply.Body, &out); err != nil {
		return fmt.Errorf("200672: callback answered no JSON object: %w", ErrRefused)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clicks[token]; c != nil {
		c.answered = true
	}
	if out.Card == nil {
		return nil
	}
	m := p.chat.messages[messageID]
	if out.Card.Type != "raw" {
		return fmt.Errorf("200673: card of type %q: %w", out.Card.Type, ErrRefused)
	}
	if problem := m.accepts(string(out.Card.Data)); problem != nil {
		return fmt.Errorf("200673: %s: %w", problem.msg(), ErrRefused)
	}
	m.update(p.now(), string(out.Card.Data))
	p.touch()
	return nil
}

// serveDelayedUpdate is interactive/v1/card/update.
func serveDelayedUpdate(p *Platform, x *exchange) answer {
	var in struct {
		Token string          `json:"token"`
		Card  json.RawMessage `json:"card"`
	}
	if x.decode(&in) != nil || in.Token == "" || in.Card == nil {
		return x.fail(400, 230001, "Your request contains an invalid request parameter.")
	}
	c := p.clicks[in.Token]
	switch {
	case c == nil || c.message.AppID != x.call.AppID || c.uses >= 2 || p.now().Sub(c.at) > 30*time.Minute:
		return x.fail(400, 300000, "the token is invalid, expired or used twice")
	case !c.answered:
		return x.fail(400, 300000, "the callback has not been answered yet")
	}
	if problem := c.message.accepts(string(in.Card)); problem != nil {
		return x.fail(400, 230099, problem.msg())
	}
	c.uses++
	c.message.update(p.now(), string(in.Card))
	p.touch()
	return success(object{})
}
