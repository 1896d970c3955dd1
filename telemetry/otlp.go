package telemetry

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// exporter writes spans in OTLP's wire format and has the OpenTelemetry client
// send them. [otlptrace.Exporter] builds a tree of messages first and walks it
// twice; with every request sampled that was a fifth of all of Larkside's work.
// TestExporter holds the two to the same messages.
//
// Source: opentelemetry-proto 1.x, trace.proto and common.proto.
type exporter struct {
	client otlptrace.Client
	// size is of the last batch.
	size int
}

// ExportSpans sends one batch. Like all exporters it is never called
// concurrently.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	b := appendResourceSpans(make([]byte, 0, e.size+e.size/8), spans)
	e.size = len(b)
	// What a message does not know is sent as it stands, and here that is all.
	var m tracepb.ResourceSpans
	m.ProtoReflect().SetUnknown(b)
	if err := e.client.UploadTraces(ctx, []*tracepb.ResourceSpans{&m}); err != nil {
		return fmt.Errorf("traces export: %w", err)
	}
	return nil
}

func (e *exporter) Shutdown(ctx context.Context) error { return e.client.Stop(ctx) }

// appendResourceSpans appends the fields of a ResourceSpans. A provider gives
// all its spans one resource.
func appendResourceSpans(b []byte, spans []sdktrace.ReadOnlySpan) []byte {
	resource := spans[0].Resource()
	b = appendMessage(b, 1, func(b []byte) []byte {
		for i := resource.Iter(); i.Next(); {
			b = appendKeyValue(b, 1, i.Attribute())
		}
		return b
	})
	// There are as many scopes as packages that make spans.
	var scopes []instrumentation.Scope
	for i, s := range spans {
		scope := s.InstrumentationScope()
		if known(scopes, scope) {
			continue
		}
		scopes = append(scopes, scope)
		b = appendMessage(b, 2, func(b []byte) []byte {
			b = appendScope(b, scope)
			for _, s := range spans[i:] {
				if s.InstrumentationScope() == scope {
					b = appendSpan(b, s)
				}
			}
			return appendString(b, 3, scope.SchemaURL)
		})
	}
	return appendString(b, 3, resource.SchemaURL())
}

func known(scopes []instrumentation.Scope, scope instrumentation.Scope) bool {
	for _, s := range scopes {
		if s == scope {
			return true
		}
	}
	return false
}

func appendScope(b []byte, s instrumentation.Scope) []byte {
	if s == (instrumentation.Scope{}) {
		return b
	}
	return appendMessage(b, 1, func(b []byte) []byte {
		b = appendString(b, 1, s.Name)
		b = appendString(b, 2, s.Version)
		for i := s.Attributes.Iter(); i.Next(); {
			b = appendKeyValue(b, 3, i.Attribute())
		}
		return b
	})
}

func appendSpan(b []byte, s sdktrace.ReadOnlySpan) []byte {
	return appendMessage(b, 2, func(b []byte) []byte {
		c, parent := s.SpanContext(), s.Parent()
		traceID, spanID := c.TraceID(), c.SpanID()
		b = appendBytes(b, 1, traceID[:])
		b = appendBytes(b, 2, spanID[:])
		b = appendString(b, 3, c.TraceState().String())
		if id := parent.SpanID(); id.IsValid() {
			b = appendBytes(b, 4, id[:])
		}
		b = appendString(b, 5, s.Name())
		b = appendUint(b, 6, kindOf(s.SpanKind()))
		b = appendTime(b, 7, s.StartTime())
		b = appendTime(b, 8, s.EndTime())
		b = appendKeyValues(b, 9, s.Attributes())
		b = appendCount(b, 10, s.DroppedAttributes())
		for _, e := range s.Events() {
			b = appendMessage(b, 11, func(b []byte) []byte {
				b = appendTime(b, 1, e.Time)
				b = appendString(b, 2, e.Name)
				b = appendKeyValues(b, 3, e.Attributes)
				return appendCount(b, 4, e.DroppedAttributeCount)
			})
		}
		b = appendCount(b, 12, s.DroppedEvents())
		for _, l := range s.Links() {
			b = appendMessage(b, 13, func(b []byte) []byte {
				traceID, spanID := l.SpanContext.TraceID(), l.SpanContext.SpanID()
				b = appendBytes(b, 1, traceID[:])
				b = appendBytes(b, 2, spanID[:])
				b = appendKeyValues(b, 4, l.Attributes)
				b = appendCount(b, 5, l.DroppedAttributeCount)
				return appendFlags(b, 6, l.SpanContext.TraceFlags(), l.SpanContext)
			})
		}
		b = appendCount(b, 14, s.DroppedLinks())
		b = appendMessage(b, 15, func(b []byte) []byte {
			b = appendString(b, 2, s.Status().Description)
			return appendUint(b, 3, statusOf(s.Status().Code))
		})
		return appendFlags(b, 16, c.TraceFlags(), parent)
	})
}

// kindOf numbers kinds as OTLP does.
func kindOf(k trace.SpanKind) uint64 {
	switch k {
	case trace.SpanKindInternal:
		return uint64(tracepb.Span_SPAN_KIND_INTERNAL)
	case trace.SpanKindServer:
		return uint64(tracepb.Span_SPAN_KIND_SERVER)
	case trace.SpanKindClient:
		return uint64(tracepb.Span_SPAN_KIND_CLIENT)
	case trace.SpanKindProducer:
		return uint64(tracepb.Span_SPAN_KIND_PRODUCER)
	case trace.SpanKindConsumer:
		return uint64(tracepb.Span_SPAN_KIND_CONSUMER)
	}
	return uint64(tracepb.Span_SPAN_KIND_UNSPECIFIED)
}

// statusOf numbers codes as OTLP does, which is not how the API does.
func statusOf(c codes.Code) uint64 {
	switch c {
	case codes.Ok:
		return uint64(tracepb.Status_STATUS_CODE_OK)
	case codes.Error:
		return uint64(tracepb.Status_STATUS_CODE_ERROR)
	}
	return uint64(tracepb.Status_STATUS_CODE_UNSET)
}

// appendFlags appends the W3C flags, and whether of came from another process.
func appendFlags(b []byte, field protowire.Number, flags trace.TraceFlags, of trace.SpanContext) []byte {
	all := uint32(flags) | uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if of.IsRemote() {
		all |= uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return protowire.AppendFixed32(protowire.AppendTag(b, field, protowire.Fixed32Type), all)
}

func appendKeyValues(b []byte, field protowire.Number, all []attribute.KeyValue) []byte {
	for _, a := range all {
		b = appendKeyValue(b, field, a)
	}
	return b
}

func appendKeyValue(b []byte, field protowire.Number, a attribute.KeyValue) []byte {
	return appendMessage(b, field, func(b []byte) []byte {
		b = appendString(b, 1, string(a.Key))
		return appendAnyValue(b, 2, a.Value)
	})
}

// appendAnyValue appends one value. That of a "oneof" is there also when it is
// empty or 0.
func appendAnyValue(b []byte, field protowire.Number, v attribute.Value) []byte {
	return appendMessage(b, field, func(b []byte) []byte {
		switch v.Type() {
		case attribute.STRING:
			return appendText(b, 1, v.AsString())
		case attribute.BOOL:
			return protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), protowire.EncodeBool(v.AsBool()))
		case attribute.INT64:
			return protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), uint64(v.AsInt64()))
		case attribute.FLOAT64:
			return protowire.AppendFixed64(protowire.AppendTag(b, 4, protowire.Fixed64Type), math.Float64bits(v.AsFloat64()))
		case attribute.STRINGSLICE:
			return appendArray(b, v.AsStringSlice(), attribute.StringValue)
		case attribute.BOOLSLICE:
			return appendArray(b, v.AsBoolSlice(), attribute.BoolValue)
		case attribute.INT64SLICE:
			return appendArray(b, v.AsInt64Slice(), attribute.Int64Value)
		case attribute.FLOAT64SLICE:
			return appendArray(b, v.AsFloat64Slice(), attribute.Float64Value)
		case attribute.SLICE:
			return appendArray(b, v.AsSlice(), func(v attribute.Value) attribute.Value { return v })
		case attribute.MAP:
			return appendMessage(b, 6, func(b []byte) []byte { return appendKeyValues(b, 1, v.AsMap()) })
		case attribute.BYTESLICE:
			return protowire.AppendBytes(protowire.AppendTag(b, 7, protowire.BytesType), v.AsByteSlice())
		case attribute.EMPTY:
			return b
		}
		return appendString(b, 1, "INVALID")
	})
}

func appendArray[T any](b []byte, all []T, value func(T) attribute.Value) []byte {
	return appendMessage(b, 5, func(b []byte) []byte {
		for _, one := range all {
			b = appendAnyValue(b, 1, value(one))
		}
		return b
	})
}

// appendMessage appends what body appends as a message of its own. Its length
// comes first and is known last: most are short, so room for one byte is left,
// and a long one is moved.
func appendMessage(b []byte, field protowire.Number, body func([]byte) []byte) []byte {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0)
	start := len(b)
	b = body(b)
	length := len(b) - start
	if more := protowire.SizeVarint(uint64(length)) - 1; more > 0 {
		b = append(b, make([]byte, more)...)
		copy(b[start+more:], b[start:start+length])
	}
	protowire.AppendVarint(b[:start-1], uint64(length))
	return b
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(b, field, s)
}

// appendText appends s also when it is empty. Protocol Buffers' strings are
// UTF-8, and one that isn't would cost the whole batch.
func appendText(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), strings.ToValidUTF8(s, "\uFFFD"))
}

func appendUint(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

func appendCount(b []byte, field protowire.Number, n int) []byte {
	return appendUint(b, field, uint64(min(max(n, 0), math.MaxUint32)))
}

func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	n := t.UnixNano()
	if n <= 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), uint64(n))
}
