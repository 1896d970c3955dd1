package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// The log formats of [NewHandler].
const (
	FormatJSON = "json"
	FormatText = "text"
)

// NewHandler returns a handler that writes each record to w as one line, in
// format "json" or "text". It adds trace_id and span_id (hex) when the record's
// context carries a span, so that a line and its trace find each other, and
// request_id when the context has one ([RequestIDKey]), so that a line and an
// answer do. Inside [slog.Handler.WithGroup] they stand in the group.
//
// Nothing is redacted here by name: what must not be seen has a type that
// prints as REDACTED.
func NewHandler(w io.Writer, format string, level slog.Leveler) (slog.Handler, error) {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case FormatJSON:
		return handler{slog.NewJSONHandler(w, options)}, nil
	case FormatText:
		return handler{slog.NewTextHandler(w, options)}, nil
	}
	return nil, fmt.Errorf("log format %q: want json or text", format)
}

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone() // the backing array is shared with other handlers
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	if id := RequestID(ctx); id != "" {
		r.AddAttrs(slog.String(LogRequestID, id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
