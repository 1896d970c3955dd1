package session_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"larkside/session"
	"larkside/session/store"
)

// However a secret is printed, alone or inside what holds it, its text is not
// there.
func TestSecretIsNotPrinted(t *testing.T) {
	const text = "canary-of-a-secret"
	secret := session.NewSecret(text)
	holder := struct {
		Exported   session.Secret
		unexported session.Secret
		Pointer    *session.Secret
		Map        map[string]session.Secret
	}{secret, secret, &secret, map[string]session.Secret{"token": secret}}
	tokens := store.Tokens{AccessToken: secret, RefreshToken: secret}
	row := &session.Session{AccessToken: secret, RefreshToken: secret}
	consent := &session.Consent{Link: secret, Secret: secret}
	var printed []string
	for _, v := range []any{secret, &secret, holder, &holder, tokens, row, consent, session.NewAccess(row), []any{secret}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p", "% x"} {
			printed = append(printed, fmt.Sprintf(verb, v))
		}
		asJSON, _ := json.Marshal(v)
		var line bytes.Buffer
		for _, h := range []slog.Handler{slog.NewJSONHandler(&line, nil), slog.NewTextHandler(&line, nil)} {
			slog.New(h).Info("message", "value", v, slog.Group("group", "value", v))
		}
		printed = append(printed, string(asJSON), line.String(), errors.Join(fmt.Errorf("wrapped: %v", v)).Error())
	}
	for _, p := range printed {
		if strings.Contains(p, text) || strings.Contains(strings.ToLower(p), fmt.Sprintf("%x", text)) {
			t.Errorf("printed: %s", p)
		}
	}
}

func TestSecretDerive(t *testing.T) {
	a, b := session.NewSecret("one secret"), session.NewSecret("another")
	keys := map[string]bool{}
	for _, s := range []session.Secret{a, b} {
		for _, purpose := range []string{"", "one", "two"} {
			key := s.Derive(purpose)
			if len(key) != 32 || !bytes.Equal(key, s.Derive(purpose)) {
				t.Errorf("%d bytes, or not the same twice", len(key))
			}
			keys[string(key)] = true
		}
	}
	if len(keys) != 6 {
		t.Errorf("%d different keys of 6", len(keys))
	}
}
