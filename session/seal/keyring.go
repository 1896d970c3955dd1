// Package seal encrypts what is secret before it is stored, and decrypts it.
//
// A [Keyring] has the keys: the first one seals, and every one of them opens
// what it sealed, so that a key can be replaced while replicas serve. Each
// record is bound to a [Place]: its row, its column, and the values of the
// columns that it vouches for. A record that is moved to another user does not
// open there, and one beside which a value was changed does not open any more.
//
// This package knows nothing of SQL. session/store says which columns are
// sealed, remembers which keys are in use ([EncryptionKey.Check]) and seals
// everything again when the first key is a new one ([Keyring.Reseal]).
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"larkside/session"
)

// ErrUnknownKey means that a record was sealed under a key that the ring does
// not have. The record is neither lost nor absent; the ring is incomplete.
var ErrUnknownKey = errors.New("sealed under an encryption key that is not configured")

// ErrChanged means that a record, or what it vouches for, was changed by
// somebody without the key, or that the record was moved from another place.
var ErrChanged = errors.New("changed without the encryption key")

// sealedFormat is the first byte of every sealed record.
const sealedFormat = 1

// Keyring seals and opens records with AES-256-GCM. It is safe for concurrent
// use. [Keyring.Set] replaces its keys at run time.
//
// A record is: format (1 byte), length of the key's id (1 byte), the id, nonce
// (12 random bytes), ciphertext with tag. The additional data is the [Place].
type Keyring struct {
	keys atomic.Pointer[[]EncryptionKey]
}

// EncryptionKey is one key of a ring.
type EncryptionKey struct {
	id   string
	aead cipher.AEAD
}

// NewKey returns a new random key in the form that [ParseKeyring] reads.
func NewKey(id string) session.Secret {
	raw := make([]byte, 32)
	rand.Read(raw)
	return session.NewSecret(id + ":" + base64.StdEncoding.EncodeToString(raw))
}

// ParseKeyring reads "id:base64(32 bytes)", separated by commas or newlines. An
// id has 1 to 32 characters of A-Za-z0-9_.- and is unique in the ring. Errors
// name the position and the id, and never show key material.
func ParseKeyring(list session.Secret) (*Keyring, error) {
	r := &Keyring{}
	return r, r.Set(list)
}

// Set replaces the keys. If it fails, the ring stays as it was.
func (r *Keyring) Set(list session.Secret) error {
	fields := strings.FieldsFunc(list.Expose(), func(c rune) bool { return strings.ContainsRune(", \t\r\n", c) })
	if len(fields) == 0 {
		return errors.New(`no encryption key: want id:base64(32 bytes), as "larkside keys new" prints`)
	}
	keys := make([]EncryptionKey, 0, len(fields))
	for i, field := range fields {
		key, err := parseKey(field)
		if err != nil {
			return fmt.Errorf("encryption key %d: %w", i+1, err)
		}
		for _, other := range keys {
			if other.id == key.id {
				return fmt.Errorf("encryption key %d: the id %q occurs twice", i+1, key.id)
			}
		}
		keys = append(keys, key)
	}
	r.keys.Store(&keys)
	return nil
}

func parseKey(field string) (EncryptionKey, error) {
	id, encoded, ok := strings.Cut(field, ":")
	if !ok || !validKeyID(id) {
		return EncryptionKey{}, errors.New("want id:base64(32 bytes), the id of 1 to 32 characters A-Za-z0-9_.-")
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 32 {
		// The decoder's own error would quote a byte of the key.
		return EncryptionKey{}, fmt.Errorf("id %q: want 32 bytes in standard base64", id)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return EncryptionKey{}, fmt.Errorf("id %q: %w", id, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return EncryptionKey{}, fmt.Errorf("id %q: %w", id, err)
	}
	return EncryptionKey{id: id, aead: aead}, nil
}

func validKeyID(id string) bool {
	if len(id) == 0 || len(id) > 32 {
		return false
	}
	for _, c := range []byte(id) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_.-", c) >= 0) {
			return false
		}
	}
	return true
}

// IDs returns the ids of the keys, with that of the first key first.
func (r *Keyring) IDs() []string {
	keys := *r.keys.Load()
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.id
	}
	return ids
}

// First returns the key that seals.
func (r *Keyring) First() EncryptionKey { return (*r.keys.Load())[0] }

// Key returns the key with an id.
func (r *Keyring) Key(id string) (key EncryptionKey, ok bool) {
	for _, k := range *r.keys.Load() {
		if k.id == id {
			return k, true
		}
	}
	return EncryptionKey{}, false
}

// ID returns the key's id.
func (k EncryptionKey) ID() string { return k.id }

// Place is what a record is bound to: it opens nowhere else.
type Place struct {
	Key session.Key
	// Column is table.column.
	Column string
	// Row identifies the row where Key alone does not.
	Row string
	// Vouches are the values of other columns of the row, in a fixed order. The
	// record opens only beside these values, so nobody without the key can
	// change them.
	Vouches []string
}

// additionalData is unambiguous: the length of each part precedes it.
func (p Place) additionalData() []byte {
	data := make([]byte, 0, 256)
	add := func(part string) {
		data = binary.AppendUvarint(data, uint64(len(part)))
		data = append(data, part...)
	}
	for _, part := range [...]string{p.Key.AppID, p.Key.OpenID, p.Column, p.Row} {
		add(part)
	}
	for _, value := range p.Vouches {
		add(value)
	}
	return data
}

// Seal returns the record of s under the first key. It returns nil for an empty
// secret, since the absence of a secret may be seen.
func (r *Keyring) Seal(s session.Secret, at Place) []byte { return r.First().Seal(s, at) }

// Seal returns the record of s under k, and nil for an empty secret.
func (k EncryptionKey) Seal(s session.Secret, at Place) []byte {
	if s.Empty() {
		return nil
	}
	plain := []byte(s.Expose())
	record := make([]byte, 0, 2+len(k.id)+k.aead.NonceSize()+len(plain)+k.aead.Overhead())
	record = append(record, Prefix(k.id)...)
	nonce := record[len(record) : len(record)+k.aead.NonceSize()]
	rand.Read(nonce)
	return k.aead.Seal(record[:len(record)+len(nonce)], nonce, plain, at.additionalData())
}

// Open returns the secret of a record. It returns the empty Secret for an empty
// record. Errors are [ErrUnknownKey] and [ErrChanged].
func (r *Keyring) Open(record []byte, at Place) (session.Secret, error) {
	if len(record) == 0 {
		return session.Secret{}, nil
	}
	id, sealed, err := splitRecord(record)
	if err != nil {
		return session.Secret{}, err
	}
	k, ok := r.Key(id)
	if !ok {
		return session.Secret{}, fmt.Errorf("%w: %q", ErrUnknownKey, id)
	}
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return session.Secret{}, fmt.Errorf("%w: sealed record is too short", ErrChanged)
	}
	plain, err := k.aead.Open(nil, sealed[:n], sealed[n:], at.additionalData())
	if err != nil {
		return session.Secret{}, fmt.Errorf("%w: sealed record does not open with key %q, unless that has other bytes than when it sealed", ErrChanged, id)
	}
	return session.NewSecret(string(plain)), nil
}

// Reseal returns record sealed under the key under instead. An empty record
// stays empty. Errors are those of Open.
func (r *Keyring) Reseal(record []byte, under EncryptionKey, at Place) ([]byte, error) {
	plain, err := r.Open(record, at)
	if err != nil {
		return nil, err
	}
	return under.Seal(plain, at), nil
}

// Prefix returns the bytes that every record under the key with this id begins
// with, and no record under another key.
func Prefix(id string) []byte { return append([]byte{sealedFormat, byte(len(id))}, id...) }

// splitRecord returns the key's id, and the nonce with the ciphertext.
func splitRecord(record []byte) (id string, sealed []byte, err error) {
	if len(record) < 2 || record[0] != sealedFormat || len(record) < 2+int(record[1]) {
		return "", nil, fmt.Errorf("%w: not a sealed record", ErrChanged)
	}
	end := 2 + int(record[1])
	return string(record[2:end]), record[end:], nil
}

// Check returns a record to keep with the key's id: [Keyring.Verify] tells by
// it whether a ring has this key.
func (k EncryptionKey) Check() []byte { return k.Seal(session.NewSecret("larkside"), checkPlace(k.id)) }

// Verify returns an error unless the ring has the key that made check, with the
// same bytes.
func (r *Keyring) Verify(id string, check []byte) error {
	_, err := r.Open(check, checkPlace(id))
	return err
}

func checkPlace(id string) Place { return Place{Column: "encryption_keys.check_value", Row: id} }
