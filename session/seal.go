package session

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
)

// ErrUnknownKey: a record was sealed under a key that the ring does not hold.
// The record is not lost and not absent; the ring is incomplete.
var ErrUnknownKey = errors.New("sealed under an encryption key that is not configured")

// sealedFormat is the first byte of every sealed record.
const sealedFormat = 1

// Keyring seals and opens records with AES-256-GCM. Its first key seals, all of
// them open, so a key can be replaced while replicas serve. It is safe for
// concurrent use; [Keyring.Set] replaces the keys at run time.
//
// A record is: format (1 byte), length of the key id (1 byte), key id, nonce
// (12 bytes, random), ciphertext with tag. The additional data names the row
// and the column, so a record that is moved to another user does not open.
type Keyring struct{ keys atomic.Pointer[[]ringKey] }

type ringKey struct {
	id   string
	aead cipher.AEAD
}

// ParseKeyring reads "id:base64(32 bytes)", separated by commas or newlines.
// An id has 1 to 32 characters of A-Za-z0-9_.- and no two keys share one.
// Errors name the position and the id, never key material.
func ParseKeyring(list Secret) (*Keyring, error) {
	r := &Keyring{}
	return r, r.Set(list)
}

// Set replaces the keys. On an error the ring stays as it was.
func (r *Keyring) Set(list Secret) error {
	fields := strings.FieldsFunc(list.Expose(), func(c rune) bool { return strings.ContainsRune(", \t\r\n", c) })
	if len(fields) == 0 {
		return errors.New(`no encryption key: want id:base64(32 bytes), as "larkside keys new" prints`)
	}
	keys := make([]ringKey, 0, len(fields))
	for i, field := range fields {
		key, err := parseKey(field)
		if err != nil {
			return fmt.Errorf("encryption key %d: %w", i+1, err)
		}
		for _, other := range keys {
			if other.id == key.id {
				return fmt.Errorf("encryption key %d: id %q is there twice", i+1, key.id)
			}
		}
		keys = append(keys, key)
	}
	r.keys.Store(&keys)
	return nil
}

func parseKey(field string) (ringKey, error) {
	id, encoded, ok := strings.Cut(field, ":")
	if !ok || !validKeyID(id) {
		return ringKey{}, errors.New("want id:base64(32 bytes), the id of 1 to 32 characters A-Za-z0-9_.-")
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 32 {
		// The decoder's own error would quote a byte of the key.
		return ringKey{}, fmt.Errorf("id %q: want 32 bytes in standard base64", id)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return ringKey{}, fmt.Errorf("id %q: %w", id, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return ringKey{}, fmt.Errorf("id %q: %w", id, err)
	}
	return ringKey{id: id, aead: aead}, nil
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

// NewKey returns a fresh key in the form that [ParseKeyring] reads.
func NewKey(id string) Secret {
	raw := make([]byte, 32)
	rand.Read(raw)
	return NewSecret(id + ":" + base64.StdEncoding.EncodeToString(raw))
}

// IDs returns the ids of the keys, the sealing one first.
func (r *Keyring) IDs() []string {
	keys := *r.keys.Load()
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.id
	}
	return ids
}

func (r *Keyring) find(id string) (ringKey, bool) {
	for _, k := range *r.keys.Load() {
		if k.id == id {
			return k, true
		}
	}
	return ringKey{}, false
}

// place is what a record is bound to.
type place struct {
	key    Key
	column string
	row    string // further identity of the row where key is not all of it
}

// additionalData is unambiguous: each part is preceded by its length.
func (p place) additionalData() []byte {
	var data []byte
	for _, part := range []string{p.key.AppID, p.key.OpenID, p.column, p.row} {
		data = binary.AppendUvarint(data, uint64(len(part)))
		data = append(data, part...)
	}
	return data
}

// seal returns nil for an empty secret: that there is none is no secret.
func (r *Keyring) seal(s Secret, at place) []byte {
	if s.Empty() {
		return nil
	}
	return sealWith((*r.keys.Load())[0], []byte(s.Expose()), at)
}

func sealWith(k ringKey, plain []byte, at place) []byte {
	record := make([]byte, 0, 2+len(k.id)+k.aead.NonceSize()+len(plain)+k.aead.Overhead())
	record = append(record, sealedFormat, byte(len(k.id)))
	record = append(record, k.id...)
	nonce := record[len(record) : len(record)+k.aead.NonceSize()]
	rand.Read(nonce)
	return k.aead.Seal(record[:len(record)+len(nonce)], nonce, plain, at.additionalData())
}

// open returns the empty Secret for an empty record and [ErrUnknownKey] when the
// ring lacks the key.
func (r *Keyring) open(record []byte, at place) (Secret, error) {
	if len(record) == 0 {
		return Secret{}, nil
	}
	id, sealed, err := splitRecord(record)
	if err != nil {
		return Secret{}, err
	}
	k, ok := r.find(id)
	if !ok {
		return Secret{}, fmt.Errorf("%w: %q", ErrUnknownKey, id)
	}
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return Secret{}, errors.New("sealed record is too short")
	}
	plain, err := k.aead.Open(nil, sealed[:n], sealed[n:], at.additionalData())
	if err != nil {
		return Secret{}, fmt.Errorf("sealed record does not open with key %q: it was changed, moved or sealed with other key bytes", id)
	}
	return NewSecret(string(plain)), nil
}

// splitRecord returns the key id and the nonce with the ciphertext.
func splitRecord(record []byte) (id string, sealed []byte, err error) {
	if len(record) < 2 || record[0] != sealedFormat || len(record) < 2+int(record[1]) {
		return "", nil, errors.New("not a sealed record")
	}
	end := 2 + int(record[1])
	return string(record[2:end]), record[end:], nil
}
