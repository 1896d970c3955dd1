package telemetry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// kept is a tracer whose head sampler says no, and the names of what is
// exported.
func kept(t testing.TB, base sdktrace.Sampler) (trace.Tracer, func() []string, *keeper) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	k, err := newKeeper(sdktrace.NewSimpleSpanProcessor(exporter))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(recordAll{base}), sdktrace.WithSpanProcessor(k))
	return provider.Tracer("test"), func() (names []string) {
		for _, s := range exporter.GetSpans() {
			names = append(names, s.Name)
			if !s.SpanContext.IsSampled() {
				t.Errorf("span %s is exported as not sampled", s.Name)
			}
		}
		exporter.Reset()
		return names
	}, k
}

// request is a server span with one child, answered with status.
func request(ctx context.Context, tracer trace.Tracer, name string, status int) {
	ctx, server := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	_, lookup := tracer.Start(ctx, name+" lookup")
	lookup.End()
	server.SetAttributes(HTTPStatus.Int(status))
	server.End()
}

func TestTracesOfErrors(t *testing.T) {
	tracer, exported, k := kept(t, sdktrace.NeverSample())
	for status, want := range map[int]string{200: "", 302: "", 401: "r lookup r", 503: "r lookup r"} {
		request(t.Context(), tracer, "r", status)
		if got := strings.Join(exported(), " "); got != want {
			t.Errorf("status %d: exported %q, want %q", status, got, want)
		}
	}
	if n := k.held.Len(); n != 0 {
		t.Errorf("%d decided traces are still held", n)
	}
}

// An app may make several calls in one trace of its own: each is judged alone.
func TestRequestsOfOneTrace(t *testing.T) {
	tracer, exported, _ := kept(t, sdktrace.NeverSample())
	remote := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, Remote: true}))
	ctx, slow := tracer.Start(remote, "slow", trace.WithSpanKind(trace.SpanKindServer))
	_, child := tracer.Start(ctx, "slow lookup")
	child.End()
	request(remote, tracer, "good", 200)
	request(remote, tracer, "bad", 500)
	if got := exported(); !slices.Equal(got, []string{"bad lookup", "bad"}) {
		t.Errorf("exported %q", got)
	}
	slow.SetAttributes(HTTPStatus.Int(404))
	slow.End()
	if got := exported(); !slices.Equal(got, []string{"slow lookup", "slow"}) {
		t.Errorf("exported %q", got)
	}
	_, late := tracer.Start(ctx, "slow revoke") // goes on behind its request
	late.End()
	if got := exported(); !slices.Equal(got, []string{"slow revoke"}) {
		t.Errorf("what ended later is lost: %q", got)
	}
}

// What ends below a request that is decided goes the way that the request went,
// with all that had ended below it, and takes no room of others.
func TestLateSpans(t *testing.T) {
	tracer, exported, k := kept(t, sdktrace.NeverSample())
	remote := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, Remote: true}))
	for _, status := range []int{200, 500} {
		ctx, server := tracer.Start(remote, "r", trace.WithSpanKind(trace.SpanKindServer))
		inner, child := tracer.Start(ctx, "child")
		child.End()
		server.SetAttributes(HTTPStatus.Int(status))
		server.End()
		for range 2 * keptSpans {
			late, parent := tracer.Start(ctx, "late")
			_, below := tracer.Start(late, "below")
			below.End()
			parent.End()
			_, below = tracer.Start(inner, "below child")
			below.End()
		}
		if n := k.held.Len(); n != 0 {
			t.Errorf("status %d: what came late is held", status)
		}
		want := 0
		if status == 500 {
			want = 2 + 3*2*keptSpans
		}
		if got := exported(); len(got) != want {
			t.Errorf("status %d: exported %d, want %d", status, len(got), want)
		}
	}
	if n := k.dropped.Len(); n == 0 || n > decidedSpans {
		t.Errorf("%d spans are remembered", n)
	}
}

// What the head sampler takes is exported at once and once, whatever becomes of
// it.
func TestSampledTracesPass(t *testing.T) {
	tracer, exported, _ := kept(t, sdktrace.AlwaysSample())
	request(t.Context(), tracer, "r", 500)
	if got := exported(); len(got) != 2 {
		t.Errorf("exported %q", got)
	}
}

// Requests that never end, or make spans without end, must not fill the memory.
func TestHeldTracesAreBounded(t *testing.T) {
	tracer, _, k := kept(t, sdktrace.NeverSample())
	for i := range 3 * keptTraces {
		ctx, _ := tracer.Start(t.Context(), fmt.Sprint("open ", i))
		for range 3 * keptSpans {
			_, s := tracer.Start(ctx, "child")
			s.End()
		}
	}
	n := 0
	for _, spans := range k.held.Values() {
		n += len(spans)
	}
	if n != keptTraces*keptSpans {
		t.Errorf("%d spans are held, want %d", n, keptTraces*keptSpans)
	}
}

// With a sampler given, the SDK does not read the variables by itself.
func TestSamplerFromEnvironment(t *testing.T) {
	for _, tc := range []struct{ name, arg, want string }{
		{"", "", "ParentBased{root:AlwaysOnSampler"},
		{"always_off", "", "AlwaysOffSampler"},
		{"Parentbased_TraceIDRatio", "0.25", "ParentBased{root:TraceIDRatioBased{0.25}"},
		{"traceidratio", "", "TraceIDRatioBased{1}"},
		{"traceidratio", "2", ""}, {"traceidratio", "x", ""}, {"jaeger_remote", "", ""},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", tc.name)
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", tc.arg)
		s, err := samplerFromEnvironment()
		if (err != nil) != (tc.want == "") {
			t.Errorf("%q %q: %v", tc.name, tc.arg, err)
		} else if err == nil && !strings.HasPrefix(s.Description(), tc.want) {
			t.Errorf("%q %q: %s, want %s", tc.name, tc.arg, s.Description(), tc.want)
		}
	}
}

func BenchmarkRequestSpans(b *testing.B) {
	for name, base := range map[string]sdktrace.Sampler{"kept": sdktrace.NeverSample()} {
		b.Run(name, func(b *testing.B) {
			tracer, _, _ := kept(b, base)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					request(b.Context(), tracer, "r", 200)
				}
			})
		})
	}
	b.Run("left out", func(b *testing.B) {
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("test")
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				request(b.Context(), tracer, "r", 200)
			}
		})
	})
}
