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

// Secret is a string that must not be seen: a token, an app secret, a verifier.
// It prints as REDACTED with every verb of fmt, in slog, in JSON and in text
// encodings. [Secret.Expose] is the only way to the string;
// test/secrets_test.go lists the files that may call it.
//
// The string is behind a pointer, because fmt reads the unexported fields of an
// enclosing struct by reflection and calls no method there. It prints the
// pointer's address then, not the string.
//
// The zero Secret is empty. Compare with [Secret.Equal]: == compares addresses.
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

// Empty reports whether the string is empty.
func (s Secret) Empty() bool { return s.value == nil || *s.value == "" }

// Equal reports whether both strings are equal, in a time that depends on their
// lengths only.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Expose()), []byte(other.Expose())) == 1
}

// Derive returns a key for another purpose: 32 bytes that are the same for the
// same secret and purpose and tell nothing about the secret (HKDF-SHA256, RFC
// 5869, with purpose as info).
func (s Secret) Derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, []byte(s.Expose()), nil, purpose, sha256.Size)
	if err != nil {
		panic("session: " + err.Error()) // HKDF fails for more than 255 hashes; this is one
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
