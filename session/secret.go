package session

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "REDACTED"

// Secret is a string that must not be seen: a token, an app secret, a
// verifier. It prints as REDACTED through fmt (every verb), slog, JSON and
// text encoding. [Secret.Expose] is the one way out; the places that may call
// it are listed in test/secrets_test.go.
//
// The value sits behind a pointer because fmt reads unexported fields of an
// enclosing struct by reflection, where no method of ours is asked: there the
// pointer's address is printed, not the string.
//
// The zero Secret is empty. Compare with [Secret.Equal]: == compares
// addresses.
type Secret struct{ value *string }

// NewSecret wraps s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

// Expose returns the string itself.
func (s Secret) Expose() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Empty reports whether there is nothing to hide.
func (s Secret) Empty() bool { return s.value == nil || *s.value == "" }

// Equal compares in a time that depends on the lengths only.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Expose()), []byte(other.Expose())) == 1
}

// Derive returns 32 bytes that tell nothing about the secret and are the same
// for the same secret and purpose: a key for something else (HKDF-SHA256,
// RFC 5869; purpose is its info).
func (s Secret) Derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, []byte(s.Expose()), nil, purpose, sha256.Size)
	if err != nil {
		panic("session: " + err.Error()) // more than 255 hashes were asked for: not here
	}
	return key
}

// Format writes REDACTED for every verb and flag.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String returns REDACTED.
func (s Secret) String() string { return redacted }

// MarshalText returns REDACTED; encoding/json uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns REDACTED.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
