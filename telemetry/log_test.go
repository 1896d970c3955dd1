package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/telemetry"
)

func newLog(t *testing.T, format string) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	h, err := telemetry.NewHandler(&out, format, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	return slog.New(h), &out
}

func inSpan(t *testing.T) context.Context {
	return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
}

// A log line and its trace must find each other, also through With.
func TestTraceIDs(t *testing.T) {
	log, out := newLog(t, telemetry.FormatJSON)
	log.With("part", "refresh").InfoContext(inSpan(t), "hello")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line["trace_id"] != "01000000000000000000000000000000" || line["span_id"] != "0200000000000000" || line["part"] != "refresh" {
		t.Errorf("line %s", out)
	}

	out.Reset()
	log.InfoContext(t.Context(), "hello")
	if strings.Contains(out.String(), "trace_id") {
		t.Errorf("without a span there is a trace id: %s", out)
	}
}

// The line that an operator looks for has the id that the app was told.
func TestRequestIDs(t *testing.T) {
	log, out := newLog(t, telemetry.FormatText)
	id := telemetry.NewRequestID()
	log.InfoContext(context.WithValue(inSpan(t), telemetry.RequestIDKey{}, id), "hello")
	if !strings.Contains(out.String(), "request_id="+id) || !strings.Contains(out.String(), "trace_id=") {
		t.Errorf("line %s", out)
	}
	out.Reset()
	log.InfoContext(inSpan(t), "hello")
	if strings.Contains(out.String(), "request_id") {
		t.Errorf("without a request there is an id: %s", out)
	}
	if other := telemetry.NewRequestID(); other == id || len(other) != 16 {
		t.Errorf("ids %q and %q", id, other)
	}
}

func TestFormats(t *testing.T) {
	log, out := newLog(t, telemetry.FormatText)
	log.Debug("unseen")
	log.Info("hello", "n", 1)
	if got := out.String(); !strings.Contains(got, "level=INFO msg=hello n=1") || strings.Contains(got, "unseen") {
		t.Errorf("text line %q", got)
	}
	if _, err := telemetry.NewHandler(out, "xml", slog.LevelInfo); err == nil {
		t.Error("format xml was taken")
	}
}

func TestSecretsStayHidden(t *testing.T) {
	for _, format := range []string{telemetry.FormatJSON, telemetry.FormatText} {
		log, out := newLog(t, format)
		secret := session.NewSecret("canary-7c1")
		log.Info("x", "token", secret, "in", struct{ Token session.Secret }{secret})
		if strings.Contains(out.String(), "canary") {
			t.Errorf("%s: %s", format, out)
		}
	}
}
