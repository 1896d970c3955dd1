package lark

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"larkside/session"
)

// Why an event is refused. Neither error has anything of the event.
var (
	// ErrEventForged: nothing proves that Lark has just sent it.
	ErrEventForged = errors.New("not proven to be Lark's")
	// ErrEventMalformed: Lark sent it, but it does not have the documented
	// form.
	ErrEventMalformed = errors.New("malformed event")
)

// EventKeys verify messages to the app's request URL. Both functions are called
// at each use, possibly concurrently, since the keys may change at run time. If
// one returns an empty key, every message is refused.
type EventKeys struct {
	// Token is the Verification Token, EncryptKey the Encrypt Key of the app's
	// event settings.
	Token, EncryptKey func() session.Secret
}

// Event is a message from Lark to the app, posted or over the long connection.
// At most one of Challenge, Click and Revocation is set. None is set for an
// event of another type.
type Event struct {
	// ID is the same for each delivery of an event.
	ID string
	// Type is such as card.action.trigger.
	Type string
	// AppID is the app that it is for.
	AppID string
	// CreatedAt is when it happened, by Lark's clock.
	CreatedAt time.Time
	// Challenge is to be sent back. Lark sends it when the URL is saved in the
	// console.
	Challenge  string
	Click      *CardClick
	Revocation *Revocation
	// Raw is the whole message as Lark sent it, decrypted. It holds the app's
	// Verification Token and who the event is about.
	Raw json.RawMessage
}

// CardClick is card.action.trigger: somebody pressed a button of one of the
// app's cards. Source: Lark "card callback communication", 2026-05-09.
type CardClick struct {
	// OpenID is who clicked, signed by Lark. It may be anyone who saw the card.
	OpenID string
	// Value is the button's, if that is a flat object of strings. It was sent
	// out with the card, so it proves nothing about who clicked.
	Value map[string]string
}

// Revocation is auth.user_access_token.revoked_v4: somebody ended a user's
// tokens. Source: Lark "user_access_token revoked".
type Revocation struct {
	OpenID string
	// AccessToken and RefreshToken say what ended.
	AccessToken, RefreshToken bool
}

const (
	// eventSkew is how far Lark's timestamp may be from our clock.
	eventSkew = 5 * time.Minute
	// maxEventID bounds what is kept of an event's id.
	maxEventID = 128

	typeURLVerification = "url_verification"
	typeCardAction      = "card.action.trigger"
	typeRevoked         = "auth.user_access_token.revoked_v4"
)

// Open verifies a message that was posted to the request URL and returns what
// it says. It requires a signature over the raw body, a timestamp, encryption
// and the verification token. Only the request by which the console checks a
// URL may lack the signature, since Lark does not document one there. The SDK's
// dispatcher is not used: it does not check the token of events, accepts any
// timestamp, and compares in variable time.
//
// Errors wrap [ErrEventForged] or [ErrEventMalformed]. Source: Lark "receive
// events", signature and decryption.
func (k EventKeys) Open(h http.Header, body []byte, now time.Time) (*Event, error) {
	key, token := k.EncryptKey(), k.Token()
	if key.Empty() || token.Empty() {
		return nil, fmt.Errorf("no keys are configured: %w", ErrEventForged)
	}
	signed := h.Get("X-Lark-Signature") != ""
	if signed {
		if err := checkSignature(h, body, key, now); err != nil {
			return nil, err
		}
	}
	m, err := decodeEvent(body, key)
	switch {
	case !signed && (err != nil || m.Type != typeURLVerification):
		// All of these get the same answer, which must not tell how decryption
		// went.
		return nil, fmt.Errorf("signature missing: %w", ErrEventForged)
	case err != nil:
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(m.token()), []byte(token.Expose())) != 1 {
		return nil, fmt.Errorf("verification token differs: %w", ErrEventForged)
	}
	return m.event()
}

func checkSignature(h http.Header, body []byte, key session.Secret, now time.Time) error {
	stamp, nonce := h.Get("X-Lark-Request-Timestamp"), h.Get("X-Lark-Request-Nonce")
	sum := sha256.New()
	sum.Write([]byte(stamp + nonce + key.Expose()))
	sum.Write(body)
	want := hex.EncodeToString(sum.Sum(nil))
	if subtle.ConstantTimeCompare([]byte(h.Get("X-Lark-Signature")), []byte(want)) != 1 {
		return fmt.Errorf("signature differs: %w", ErrEventForged)
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > eventSkew {
		return fmt.Errorf("timestamp is off by more than %s: %w", eventSkew, ErrEventForged)
	}
	return nil
}

// decodeEvent decrypts a posted body: AES-256-CBC with PKCS#7, iv first, under
// the SHA-256 of the key. It refuses a body that is not encrypted.
func decodeEvent(body []byte, key session.Secret) (*eventMessage, error) {
	var envelope struct {
		Encrypt string `json:"encrypt"`
	}
	if json.Unmarshal(body, &envelope) != nil || envelope.Encrypt == "" {
		return nil, fmt.Errorf("not encrypted: %w", ErrEventMalformed)
	}
	sealed, err := base64.StdEncoding.Strict().DecodeString(envelope.Encrypt)
	if err != nil || len(sealed) < 2*aes.BlockSize || len(sealed)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("not whole blocks in base64: %w", ErrEventMalformed)
	}
	sum := sha256.Sum256([]byte(key.Expose()))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return nil, fmt.Errorf("decrypting an event: %w", err)
	}
	iv, plain := sealed[:aes.BlockSize], sealed[aes.BlockSize:]
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, plain)
	n := int(plain[len(plain)-1])
	if n < 1 || n > aes.BlockSize || !bytes.HasSuffix(plain, bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, fmt.Errorf("wrong padding: %w", ErrEventMalformed)
	}
	return parseEvent(plain[:len(plain)-n])
}

// eventMessage is the JSON of an event (schema 2.0) or of a URL verification.
type eventMessage struct {
	Type      string `json:"type"`
	Token     string `json:"token"`
	Challenge string `json:"challenge"`
	Header    struct {
		EventID    string `json:"event_id"`
		Token      string `json:"token"`
		CreateTime string `json:"create_time"`
		EventType  string `json:"event_type"`
		AppID      string `json:"app_id"`
	} `json:"header"`
	Event json.RawMessage `json:"event"`

	raw json.RawMessage // all of it
}

func parseEvent(plain []byte) (*eventMessage, error) {
	m := &eventMessage{raw: plain}
	if json.Unmarshal(plain, m) != nil { // its text would quote the content
		return nil, fmt.Errorf("not the documented JSON: %w", ErrEventMalformed)
	}
	return m, nil
}

func (m *eventMessage) token() string {
	if m.Type == typeURLVerification {
		return m.Token
	}
	return m.Header.Token
}

func (m *eventMessage) event() (*Event, error) {
	if m.Type == typeURLVerification {
		return &Event{Type: m.Type, Challenge: m.Challenge}, nil
	}
	e := &Event{ID: m.Header.EventID, Type: m.Header.EventType, AppID: m.Header.AppID, Raw: m.raw}
	var err error
	if e.CreatedAt, err = eventTime(m.Header.CreateTime); err != nil {
		return nil, err
	}
	if e.ID == "" || len(e.ID) > maxEventID || strings.ContainsRune(e.ID, 0) {
		return nil, fmt.Errorf("no usable event id: %w", ErrEventMalformed)
	}
	switch e.Type {
	case typeCardAction:
		e.Click, err = m.click()
	case typeRevoked:
		e.Revocation, err = m.revocation()
	}
	return e, err
}

// eventTime reads create_time. It is in microseconds for card clicks and in
// milliseconds for other events. Until the year 5138 the number tells which.
func eventTime(s string) (time.Time, error) {
	const microseconds = 100_000_000_000_000
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil || n <= 0:
		return time.Time{}, fmt.Errorf("no usable time: %w", ErrEventMalformed)
	case n >= microseconds:
		return time.UnixMicro(n), nil
	}
	return time.UnixMilli(n), nil
}

func (m *eventMessage) click() (*CardClick, error) {
	var in struct {
		Operator struct {
			OpenID string `json:"open_id"`
		} `json:"operator"`
		Action struct {
			// An object or a string, says Lark; ours are objects.
			Value json.RawMessage `json:"value"`
		} `json:"action"`
	}
	if json.Unmarshal(m.Event, &in) != nil || !session.IsUserID(in.Operator.OpenID) {
		return nil, fmt.Errorf("no operator: %w", ErrEventMalformed)
	}
	c := &CardClick{OpenID: in.Operator.OpenID}
	if json.Unmarshal(in.Action.Value, &c.Value) != nil {
		c.Value = nil // a button of another card
	}
	return c, nil
}

func (m *eventMessage) revocation() (*Revocation, error) {
	var in struct {
		OpenID string `json:"open_id"`
		Kinds  string `json:"revoke_token_type"` // a list with blanks, one of them trailing
	}
	if json.Unmarshal(m.Event, &in) != nil || !session.IsUserID(in.OpenID) {
		return nil, fmt.Errorf("no user: %w", ErrEventMalformed)
	}
	r := &Revocation{OpenID: in.OpenID}
	for _, kind := range strings.Fields(in.Kinds) {
		r.AccessToken = r.AccessToken || kind == "user_access_token"
		r.RefreshToken = r.RefreshToken || kind == "refresh_token"
	}
	return r, nil
}
