package telemetry_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"larkside/telemetry"
)

func newUsers(t *testing.T, mode telemetry.UserMode, key []byte) telemetry.Users {
	t.Helper()
	u, err := telemetry.NewUsers(mode, key)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUsers(t *testing.T) {
	const id = "ou_7d8a6e6df7621556ce0d21922b676706ccs"
	one := newUsers(t, telemetry.HashUsers, []byte("k1"))
	shown := one.Show(id)
	if len(shown) != 16 || strings.Contains(shown, "ou_") {
		t.Errorf("hash %q: want 16 hex digits", shown)
	}
	if got := newUsers(t, telemetry.HashUsers, []byte("k1")).Show(id); got != shown {
		t.Error("two replicas with one key show a user differently")
	}
	if got := newUsers(t, telemetry.HashUsers, []byte("k2")).Show(id); got == shown {
		t.Error("the hash does not depend on the key, so it can be looked up")
	}
	if a, b := newUsers(t, telemetry.HashUsers, nil), newUsers(t, telemetry.HashUsers, nil); a.Show(id) == b.Show(id) {
		t.Error("the key of a process is not random")
	}
	if got := newUsers(t, telemetry.ShowUsers, nil).Show(id); got != id {
		t.Errorf("mode id shows %q", got)
	}
	if _, err := telemetry.NewUsers("sha1", nil); err == nil {
		t.Error("mode sha1 was taken")
	}
}

// Hidden users leave no trace, not even an empty attribute.
func TestHiddenUsers(t *testing.T) {
	for _, u := range []telemetry.Users{{}, newUsers(t, telemetry.HideUsers, nil)} {
		if u.Attr("ou_1").Valid() {
			t.Error("a span attribute")
		}
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", u.Log("ou_1"))
		if strings.Contains(out.String(), "user") || strings.Contains(out.String(), "=\n") {
			t.Errorf("line %q", &out)
		}
	}
	if got := newUsers(t, telemetry.ShowUsers, nil).Log("ou_1"); got.String() != "user=ou_1" {
		t.Errorf("log attribute %v", got)
	}
}
