package main

import (
	"context"
	stdlog "log"
	"log/slog"
	"strings"

	"larkside/telemetry"
)

// standardLog is what the standard library logs to when it has nobody to return
// an error to. net/http does so when Lark sends something on a connection on
// which nothing was asked, and quotes it: that may be a user's data.
type standardLog struct{ complaints *telemetry.Complaints }

// takeStandardLog sends the standard log's lines to log, without their quotes.
func takeStandardLog(log *slog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetOutput(standardLog{telemetry.NewComplaints(log)})
}

func (l standardLog) Write(line []byte) (int, error) {
	text, _, _ := strings.Cut(string(line), `"`)
	l.complaints.Log(context.Background(), slog.LevelWarn, "the standard library reports a problem", "", "error", strings.TrimSpace(text))
	return len(line), nil
}
