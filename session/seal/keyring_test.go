package seal

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"larkside/session"
)

// Whatever lies in the database: a record opens only as it was sealed, where it
// was sealed.
func FuzzOpenRecord(f *testing.F) {
	const text = "an access token"
	ring, err := ParseKeyring(NewKey("k1"))
	if err != nil {
		f.Fatal(err)
	}
	at := Place{Key: session.Key{AppID: "cli_a", OpenID: "ou_a"}, Column: "sessions.access_token", Vouches: []string{"Bearer", "7"}}
	record := ring.Seal(session.NewSecret(text), at)
	f.Add(record, "cli_a", "ou_a", "sessions.access_token", "Bearer", "7")
	f.Add(record, "cli_a", "ou_b", "sessions.access_token", "Bearer", "7")
	f.Add(record, "cli_", "aou_a", "sessions.access_token", "Bearer", "7")
	f.Add(record, "cli_a", "ou_a", "sessions.refresh_token", "Bearer", "7")
	f.Add(record[:len(record)-1], "cli_a", "ou_a", "sessions.access_token", "Bearer", "7")
	f.Add(append(bytes.Clone(record), 0), "cli_a", "ou_a", "sessions.access_token", "Bearer", "7")
	f.Add(record, "cli_a", "ou_a", "sessions.access_token", "Bearer", "8")
	f.Add(record, "cli_a", "ou_a", "sessions.access_token", "Bearer7", "")
	f.Add([]byte{1}, "cli_a", "ou_a", "sessions.access_token", "Bearer", "7")
	f.Add([]byte{1, 255, 'k', '1'}, "cli_a", "ou_a", "sessions.access_token", "Bearer", "7")
	f.Add([]byte{1, 2, 'k', '1'}, "cli_a", "ou_a", "sessions.access_token", "Bearer", "7")
	f.Add([]byte{}, "cli_a", "ou_a", "sessions.access_token", "Bearer", "7")
	f.Fuzz(func(t *testing.T, stored []byte, appID, openID, column, one, two string) {
		here := Place{Key: session.Key{AppID: appID, OpenID: openID}, Column: column, Vouches: []string{one, two}}
		opened, err := ring.Open(stored, here)
		switch whole := bytes.Equal(stored, record) && reflect.DeepEqual(here, at); {
		case len(stored) == 0:
			if err != nil || !opened.Empty() {
				t.Errorf("nothing stored: %v", err)
			}
		case whole && (err != nil || opened.Expose() != text):
			t.Errorf("the record itself does not open: %v", err)
		case !whole && err == nil:
			t.Errorf("%x opens at %v", stored, here)
		case err != nil && strings.Contains(err.Error(), text):
			t.Errorf("the error shows the token: %v", err)
		}
	})
}

// A key list never shows its keys in the error that refuses it.
func FuzzParseKeyring(f *testing.F) {
	const key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, list := range []string{"", "k:" + key, "k:" + key + ",k:" + key, "k:" + key[1:], ":" + key, key, "k:" + key + "\nold:" + key, "k 1:" + key, strings.Repeat("k", 40) + ":" + key} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		ring, err := ParseKeyring(session.NewSecret(list))
		if err == nil {
			if len(ring.IDs()) == 0 {
				t.Error("a ring without a key")
			}
			return
		}
		for _, field := range strings.FieldsFunc(list, func(c rune) bool { return strings.ContainsRune(", \t\r\n:", c) }) {
			if len(field) > 32 && strings.Contains(err.Error(), field) {
				t.Errorf("the error quotes the list: %v", err)
			}
		}
	})
}
