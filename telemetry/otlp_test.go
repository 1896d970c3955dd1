package telemetry

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// uploads is a client that keeps what it would have sent, as it is on the wire.
type uploads struct{ wire []byte }

func (*uploads) Start(context.Context) error { return nil }
func (*uploads) Stop(context.Context) error  { return nil }
func (u *uploads) UploadTraces(_ context.Context, all []*tracepb.ResourceSpans) (err error) {
	u.wire, err = proto.Marshal(&tracepb.TracesData{ResourceSpans: all})
	return err
}

func (u *uploads) decode(t *testing.T) *tracepb.TracesData {
	t.Helper()
	var m tracepb.TracesData
	if err := proto.Unmarshal(u.wire, &m); err != nil {
		t.Fatal(err)
	}
	return &m
}

// Whatever spans there are, what a receiver gets is what the SDK's exporter would
// have sent.
func TestExporter(t *testing.T) {
	ctx := t.Context()
	for seed := range uint64(500) {
		r := invent{rand.New(rand.NewPCG(seed, 0))}
		spans := r.spans()
		var want, got uploads
		reference, err := otlptrace.New(ctx, &want)
		if err != nil {
			t.Fatal(err)
		}
		e := &exporter{client: &got}
		for range 2 { // the second one makes room by the first
			if err := e.ExportSpans(ctx, spans); err != nil {
				t.Fatal(err)
			}
		}
		if err := reference.ExportSpans(ctx, spans); err != nil {
			t.Fatal(err)
		}
		if want, got := want.decode(t), got.decode(t); !proto.Equal(want, got) {
			t.Fatalf("seed %d: exported\n%v\nwant\n%v", seed, got, want)
		}
	}
}

// One string that is no text must not cost the batch.
func TestExporterInvalidUTF8(t *testing.T) {
	var got uploads
	e := &exporter{client: &got}
	spans := tracetest.SpanStubs{{
		Name: "a\xffb", Resource: resource.Empty(),
		Attributes: []attribute.KeyValue{attribute.String("k\xff", "v\xff"), attribute.StringSlice("s", []string{"\xff"})},
		Status:     sdktrace.Status{Code: codes.Error, Description: "\xff"},
	}, {Name: "fine", Resource: resource.Empty()}}.Snapshots()
	if err := e.ExportSpans(t.Context(), spans); err != nil {
		t.Fatal(err)
	}
	all := got.decode(t).ResourceSpans[0].ScopeSpans[0].Spans
	if len(all) != 2 || all[0].Name != "a\uFFFDb" || all[1].Name != "fine" {
		t.Errorf("exported %v, want both spans", all)
	}
}

func TestExporterEmptyBatch(t *testing.T) {
	var got uploads
	e := &exporter{client: &got}
	if err := e.ExportSpans(t.Context(), nil); err != nil || got.wire != nil {
		t.Errorf("an empty batch: %v, sent %x, want nothing", err, got.wire)
	}
}

// invent makes spans with all that spans can have.
type invent struct{ *rand.Rand }

func (r invent) spans() []sdktrace.ReadOnlySpan {
	res := resource.NewWithAttributes(r.text(), r.attributes(false)...)
	scopes := make([]instrumentation.Scope, 1+r.IntN(4))
	for i := range scopes[1:] { // the first one is empty
		scopes[i+1] = instrumentation.Scope{Name: r.text(), Version: r.text(), SchemaURL: r.text(), Attributes: attribute.NewSet(r.attributes(false)...)}
	}
	all := make(tracetest.SpanStubs, 1+r.IntN(40))
	for i := range all {
		all[i] = tracetest.SpanStub{
			Name: r.text(), SpanContext: r.context(), Parent: r.context(), SpanKind: trace.SpanKind(r.IntN(7)),
			StartTime: r.time(), EndTime: r.time(), Attributes: r.attributes(true),
			Status:            sdktrace.Status{Code: codes.Code(r.IntN(3)), Description: r.text()},
			DroppedAttributes: r.count(), DroppedEvents: r.count(), DroppedLinks: r.count(),
			Resource: res, InstrumentationScope: scopes[r.IntN(len(scopes))],
		}
		for range r.IntN(3) {
			all[i].Events = append(all[i].Events, sdktrace.Event{Name: r.text(), Time: r.time(), Attributes: r.attributes(true), DroppedAttributeCount: r.count()})
			all[i].Links = append(all[i].Links, sdktrace.Link{SpanContext: r.context(), Attributes: r.attributes(true), DroppedAttributeCount: r.count()})
		}
	}
	return all.Snapshots()
}

func (r invent) context() trace.SpanContext {
	c := trace.SpanContextConfig{TraceFlags: trace.TraceFlags(r.IntN(4)), Remote: r.IntN(2) == 0}
	if r.IntN(4) > 0 {
		binary.LittleEndian.PutUint64(c.TraceID[:], r.Uint64())
		binary.LittleEndian.PutUint64(c.SpanID[:], r.Uint64())
	}
	if r.IntN(4) == 0 {
		c.TraceState, _ = trace.ParseTraceState("vendor=value")
	}
	return trace.NewSpanContext(c)
}

// text is of all lengths that a length's own length can tell apart.
func (r invent) text() string {
	return strings.Repeat("é", []int{0, 1, 9, 63, 64, 200, 9000}[r.IntN(7)])
}

func (r invent) time() time.Time {
	return []time.Time{{}, time.Unix(-1, 0), time.Unix(0, 0), time.Unix(1785542400, r.Int64N(1e9))}[r.IntN(4)]
}

func (r invent) count() int {
	return []int{0, 0, 1, 300, -1, math.MaxUint32 + 1}[r.IntN(6)]
}

// attributes have every type; those of sets only what can be compared.
func (r invent) attributes(any bool) []attribute.KeyValue {
	some := []attribute.Value{
		attribute.StringValue(r.text()), attribute.StringValue(""), attribute.BoolValue(true), attribute.BoolValue(false),
		attribute.IntValue(0), attribute.Int64Value(math.MinInt64), attribute.Int64Value(r.Int64()), attribute.Float64Value(0), attribute.Float64Value(-1.5),
	}
	if any {
		some = append(some, attribute.Value{},
			attribute.StringSliceValue([]string{"", r.text()}), attribute.BoolSliceValue([]bool{true, false}),
			attribute.Int64SliceValue([]int64{0, -1}), attribute.Float64SliceValue([]float64{0, math.Inf(1)}), attribute.Float64SliceValue(nil),
			attribute.ByteSliceValue([]byte(r.text())), attribute.SliceValue(attribute.IntValue(1), attribute.StringValue("")),
			attribute.MapValue(attribute.String("a", r.text()), attribute.Int("b", 0)))
	}
	all := make([]attribute.KeyValue, r.IntN(6))
	for i := range all {
		all[i] = attribute.KeyValue{Key: attribute.Key(fmt.Sprintf("key%d", i)), Value: some[r.IntN(len(some))]}
	}
	return all
}

// BenchmarkExport is a batch of a cached request's spans, as the SDK's exporter
// writes them and as ours does.
func BenchmarkExport(b *testing.B) {
	recorder := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("larkside/proxy")
	const route, requests = "/open-apis/apaas/v1/workspaces/:workspace_id/tables", 128
	for range requests {
		ctx, server := tracer.Start(b.Context(), "GET "+route, trace.WithSpanKind(trace.SpanKindServer))
		for _, one := range [][]attribute.KeyValue{
			{AppID.String("cli_a"), User.String("0123456789abcdef"), IDKind.String("open_id")},
			{Result.String("cache")},
			{HTTPMethod.String("GET"), URLTemplate.String(route), Server.String("open.feishu.cn"), ServerPort.Int(443), URLScheme.String("https"), HTTPStatus.Int(200), LarkLogID.String("20260101000000000000000000000001")},
		} {
			_, span := tracer.Start(ctx, "GET", trace.WithAttributes(one...))
			span.End()
		}
		server.SetAttributes(HTTPMethod.String("GET"), HTTPRoute.String(route), HTTPStatus.Int(200), RequestOutcome.String("ok"),
			AppID.String("cli_a"), TokenLookup.String("cache"), User.String("0123456789abcdef"))
		server.End()
	}
	spans := recorder.Ended()
	reference, err := otlptrace.New(b.Context(), &uploads{})
	if err != nil {
		b.Fatal(err)
	}
	for name, e := range map[string]sdktrace.SpanExporter{"sdk": reference, "larkside": &exporter{client: &uploads{}}} {
		b.Run("exporter="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := e.ExportSpans(b.Context(), spans); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/requests, "ns/request")
		})
	}
}
