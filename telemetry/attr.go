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

// The attribute keys of all spans and metrics. The ones with dots and no
// "lark" are OpenTelemetry's semantic conventions (HTTP, database), stable in
// 1.43.0. On /metrics a dot becomes an underscore.
const (
	HTTPMethod  = attribute.Key("http.request.method")
	HTTPRoute   = attribute.Key("http.route") // a template, never a path with ids
	HTTPStatus  = attribute.Key("http.response.status_code")
	HTTPResend  = attribute.Key("http.request.resend_count") // from 1 on
	URLScheme   = attribute.Key("url.scheme")
	URLTemplate = attribute.Key("url.template")
	Server      = attribute.Key("server.address")
	ServerPort  = attribute.Key("server.port")
	ErrorType   = attribute.Key("error.type") // a word out of few
	DBSystem    = attribute.Key("db.system.name")
	DBSummary   = attribute.Key("db.query.summary") // also the span's name

	// On spans.
	AppID          = attribute.Key("lark.app_id")            // cli_…
	User           = attribute.Key("larkside.user")          // made by [Users.Attr] only
	LarkCode       = attribute.Key("lark.code")              // the code in Lark's envelope
	LarkLogID      = attribute.Key("lark.log_id")            // X-Tt-Logid
	RequestOutcome = attribute.Key("larkside.outcome")       // as Outcome
	SpanRequestID  = attribute.Key("larkside.request_id")    // X-Larkside-Request-Id
	RequestCaller  = attribute.Key("larkside.caller")        // as Caller
	TokenLookup    = attribute.Key("larkside.token.lookup")  // as Result of a look-up
	Reason         = attribute.Key("larkside.reason")        // why the user is asked: the 401's error.reason
	Hint           = attribute.Key("larkside.hint")          // X-Larkside-Hint
	Waited         = attribute.Key("larkside.waited")        // Prefer: wait was applied
	RefreshClass   = attribute.Key("larkside.refresh.class") // as Class
	LeaseWait      = attribute.Key("larkside.lease.wait")    // seconds
	GovernorWait   = attribute.Key("larkside.governor.wait") // seconds
	IDKind         = attribute.Key("larkside.user.id_kind")  // open_id or alias
	Card           = attribute.Key("larkside.card")          // what the caller is told about the card

	// On metrics.
	Outcome  = attribute.Key("outcome")  // Larkside's error name, or how it was forwarded
	Caller   = attribute.Key("caller")   // the name in CALLER_KEYS
	Result   = attribute.Key("result")   // of a token look-up, a card, an event, a claim
	Class    = attribute.Key("class")    // of a refresh: what came of it
	Flow     = attribute.Key("flow")     // device or redirect; on spans too
	State    = attribute.Key("state")    // of a consent, of connections
	App      = attribute.Key("app_id")   // cli_…
	Priority = attribute.Key("priority") // urgent: a request waits; idle: the sweep
	Period   = attribute.Key("period")   // of a limit
	Check    = attribute.Key("check")    // a condition of /readyz: started, serving, lark

	Version   = attribute.Key("version")
	Revision  = attribute.Key("revision")
	GoVersion = attribute.Key("goversion")
)

// The keys of access log lines. Each that is the label of a metric has its value.
const (
	LogMethod   = "method"
	LogRoute    = "route"
	LogStatus   = "status"
	LogOutcome  = "outcome"
	LogCaller   = "caller"
	LogDuration = "duration_seconds"
	// LogReason, LogApp and LogUser stand there only if there is one. The user is
	// as [Users] shows them.
	LogReason = "reason"
	LogApp    = "app_id"
	LogUser   = "user"
)

// LogRequestID is the key of a request's id in log lines; see [RequestIDKey].
const LogRequestID = "request_id"

// LogKeys returns every key that a log line may have, in alphabetical order, so
// that whoever searches logs needs one word for one thing. [Users.Log] makes
// "user", the handler trace_id, span_id and request_id.
func LogKeys() []string {
	return []string{
		"absent", "action", "actor", "address", "app_id", "apps", "caller", "class", "column", "consent", "deleted", "disabled", "do", "dropped",
		"duration_seconds", "endpoint", "error", "failure", "failures", "file", "from", "grace", "listener", "method", "msg", "next",
		"outcome", "page", "read", "reason", "repeated", "request_id", "result", "retry_in", "route", "scope", "setting", "span_id", "stack",
		"state", "status", "table", "to", "token", "trace_id", "user", "variable", "version", "warning", "what", "work",
	}
}

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

// IsUserHash reports whether text has the form of what [HashUsers] shows.
func IsUserHash(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 8
}

// Attr returns the span attribute of the user with this id. When users are
// hidden it is invalid, and spans drop it.
func (u Users) Attr(id string) attribute.KeyValue {
	shown := u.Show(id)
	if shown == "" {
		return attribute.KeyValue{}
	}
	return User.String(shown)
}

// Log returns the log attribute "user". When users are hidden it is the zero
// Attr, and handlers leave it out of the line.
func (u Users) Log(id string) slog.Attr {
	shown := u.Show(id)
	if shown == "" {
		return slog.Attr{}
	}
	return slog.Any(logUser, loggedUser{shown, id})
}

// logUser is the log attribute of [Users.Log].
const logUser = "user"

// loggedUser is written as what is shown of a user. [Recent] keeps the id beside
// that, for the console of this process; no line has it.
type loggedUser struct{ shown, id string }

func (u loggedUser) LogValue() slog.Value { return slog.StringValue(u.shown) }
func (u loggedUser) String() string       { return u.shown }
func (u loggedUser) GoString() string     { return u.shown }
