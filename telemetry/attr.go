package telemetry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
)

// Attribute keys used by more than one package, in spans and metrics. The ones
// with dots and no "larkside" are OpenTelemetry's HTTP semantic conventions.
// On /metrics a dot becomes an underscore.
const (
	HTTPMethod = attribute.Key("http.request.method")
	HTTPRoute  = attribute.Key("http.route") // a template, never a path with ids
	HTTPStatus = attribute.Key("http.response.status_code")

	Outcome = attribute.Key("outcome") // Larkside's error name, or "forwarded"
	Caller  = attribute.Key("caller")  // the name in CALLER_KEYS
	Result  = attribute.Key("result")  // of a token look-up, of a card
	Class   = attribute.Key("class")   // of a refresh: ok or what Lark's code means
	Flow    = attribute.Key("flow")    // device or redirect
	State   = attribute.Key("state")   // of a consent

	AppID     = attribute.Key("lark.app_id")   // cli_…
	User      = attribute.Key("larkside.user") // made by [Users.Attr] only
	LarkCode  = attribute.Key("lark.code")     // the code in Lark's envelope
	LarkLogID = attribute.Key("lark.log_id")   // X-Tt-Logid
)

// UserMode says how users appear in spans and logs. The strings are the values
// of TRACE_USERS.
type UserMode string

const (
	// HashUsers shows a keyed hash: one user's lines can be brought together,
	// and nobody without the key can tell whose they are.
	HashUsers UserMode = "hash"
	// ShowUsers shows the id itself.
	ShowUsers UserMode = "id"
	// HideUsers shows nothing.
	HideUsers UserMode = "off"
)

// Users writes user ids into spans and logs as the operator wants them. The
// zero Users shows nothing. It is safe for concurrent use.
type Users struct {
	mode UserMode
	key  []byte
}

// NewUsers returns a Users for mode. The key of the hash has any length; with
// the same key all replicas show a user alike. A nil key is replaced by a random
// one, with which a user looks the same for as long as the process lives.
func NewUsers(mode UserMode, key []byte) (Users, error) {
	switch mode {
	case HashUsers, ShowUsers, HideUsers:
	default:
		return Users{}, fmt.Errorf("user mode %q: want hash, id or off", mode)
	}
	if key == nil {
		key = make([]byte, 32)
		rand.Read(key) // never fails
	}
	return Users{mode: mode, key: key}, nil
}

// Show returns what stands for id: the first 16 hex digits of its HMAC-SHA256,
// the id, or "". It costs about a microsecond: ask only when a span records or
// a line is written.
func (u Users) Show(id string) string {
	switch u.mode {
	case HashUsers:
		mac := hmac.New(sha256.New, u.key)
		mac.Write([]byte(id))
		return hex.EncodeToString(mac.Sum(nil)[:8])
	case ShowUsers:
		return id
	}
	return ""
}

// Attr is the span attribute of the user with this id, an invalid one (which
// spans drop) when users are hidden.
func (u Users) Attr(id string) attribute.KeyValue {
	shown := u.Show(id)
	if shown == "" {
		return attribute.KeyValue{}
	}
	return User.String(shown)
}

// Log is the log attribute "user", left out of the line when users are hidden.
func (u Users) Log(id string) slog.Attr {
	shown := u.Show(id)
	if shown == "" {
		return slog.Attr{} // handlers drop the zero Attr
	}
	return slog.String("user", shown)
}
