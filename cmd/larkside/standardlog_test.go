package main

import (
	"bytes"
	stdlog "log"
	"log/slog"
	"strings"
	"testing"
)

// What Lark sends unasked is not for the log.
func TestStandardLogQuotesNothing(t *testing.T) {
	writer, flags := stdlog.Writer(), stdlog.Flags()
	t.Cleanup(func() {
		stdlog.SetOutput(writer)
		stdlog.SetFlags(flags)
	})
	var out bytes.Buffer
	takeStandardLog(slog.New(slog.NewTextHandler(&out, nil)))
	stdlog.Printf("Unsolicited response received on idle HTTP channel starting with %q; err=%v", "HTTP/1.1 200 OK\r\n\r\nu-canary", nil)
	if got := out.String(); !strings.Contains(got, `error="Unsolicited response received on idle HTTP channel starting with"`) || strings.Contains(got, "canary") {
		t.Errorf("logged %s", got)
	}
}
