package lark

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"

	"larkside/session"
)

// A panic in the SDK is an error of the call, and a line in the log.
func TestSDKPanics(t *testing.T) {
	var log bytes.Buffer
	secret := session.NewSecret("app-secret")
	c, err := New(Config{
		AppID: "cli_x", Secret: func() session.Secret { return secret }, OpenURL: "https://lark.example", AccountsURL: "https://lark.example",
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.send(t.Context(), "send a card", session.NewSecret("t-token"), func(context.Context, *sdk, ...larkcore.RequestOptionFunc) error {
		panic("nil map, with app-secret")
	})
	var e *Error
	if !errors.As(err, &e) || e.Outcome != NotSent || strings.Contains(err.Error(), "app-secret") {
		t.Errorf("%v", err)
	}
	if text := log.String(); !strings.Contains(text, "a panic in Larkside's client for Lark") || !strings.Contains(text, "TestSDKPanics") || strings.Contains(text, "app-secret") {
		t.Errorf("the log says %s", text)
	}
}
