package telemetry

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// A head sampler decides before anyone knows how a request will end. With
// TraceErrors the requests that it leaves out are recorded all the same, here
// only, and thrown away when they end well; when one ends badly all its spans
// are exported. That costs every request what recording costs, and is why it
// has to be asked for.

const (
	// keptTraces is how many undecided traces are held, and keptSpans how many
	// spans of each: beyond them the oldest trace, and the latest spans, are
	// lost. At about 2 KB a span it is 64 MB at most.
	keptTraces = 1024
	keptSpans  = 32
	// decidedSpans is how many exported spans, and how many dropped ones, are
	// remembered for those below them that end after their request did.
	decidedSpans = 8192
)

// errorStatus is the least HTTP status of a server span that counts as an
// error: a 401 is one that people want to see the reason of.
const errorStatus = 400

// recordAll makes a span that base leaves out a recorded one.
type recordAll struct{ base sdktrace.Sampler }

func (s recordAll) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	r := s.base.ShouldSample(p)
	if r.Decision == sdktrace.Drop {
		r.Decision = sdktrace.RecordOnly
	}
	return r
}

func (s recordAll) Description() string { return "RecordAll{" + s.base.Description() + "}" }

// keeper is a span processor that holds back what was not sampled until the
// trace's local root ends.
type keeper struct {
	sdktrace.SpanProcessor // of what is exported

	mu   sync.Mutex
	held *simplelru.LRU[trace.TraceID, []sdktrace.ReadOnlySpan]
	// out and dropped are apart: requests that end well are many, and must not
	// make room of those that do not.
	out, dropped *simplelru.LRU[trace.SpanID, struct{}]
}

func newKeeper(next sdktrace.SpanProcessor) (*keeper, error) {
	held, err1 := simplelru.NewLRU[trace.TraceID, []sdktrace.ReadOnlySpan](keptTraces, nil)
	out, err2 := simplelru.NewLRU[trace.SpanID, struct{}](decidedSpans, nil)
	dropped, err3 := simplelru.NewLRU[trace.SpanID, struct{}](decidedSpans, nil)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("room for traces of errors: %w", err)
	}
	return &keeper{SpanProcessor: next, held: held, out: out, dropped: dropped}, nil
}

func (k *keeper) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		k.SpanProcessor.OnEnd(s)
		return
	}
	for _, one := range k.decide(s) {
		k.SpanProcessor.OnEnd(exported{one})
	}
}

// decide returns what has to be exported now that s has ended. One trace may
// have several requests at a time; each is decided by itself, with what ends
// below it later.
func (k *keeper) decide(s sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	id, parent := s.SpanContext().TraceID(), s.Parent()
	k.mu.Lock()
	defer k.mu.Unlock()
	spans, _ := k.held.Peek(id)
	var export bool
	switch {
	case !parent.IsValid() || parent.IsRemote():
		export = failed(s)
	case k.out.Contains(parent.SpanID()):
		export = true
	case k.dropped.Contains(parent.SpanID()):
	case len(spans) < keptSpans:
		k.held.Add(id, append(spans, s))
		return nil
	default:
		return nil
	}
	below, others := under(s, spans)
	if len(others) == 0 {
		k.held.Remove(id)
	} else {
		k.held.Add(id, others)
	}
	decided, seen := append(below, s), k.dropped
	if export {
		seen = k.out
	}
	for _, one := range decided {
		seen.Add(one.SpanContext().SpanID(), struct{}{})
	}
	if !export {
		return nil
	}
	return decided
}

// under splits spans, which are in the order in which they ended, into those
// below root and the others.
func under(root sdktrace.ReadOnlySpan, spans []sdktrace.ReadOnlySpan) (below, others []sdktrace.ReadOnlySpan) {
	in := map[trace.SpanID]bool{root.SpanContext().SpanID(): true}
	for i := len(spans) - 1; i >= 0; i-- { // who ends later is nearer to the root
		if s := spans[i]; in[s.Parent().SpanID()] {
			in[s.SpanContext().SpanID()] = true
			below = append(below, s)
		} else {
			others = append(others, s)
		}
	}
	slices.Reverse(below)
	slices.Reverse(others)
	return below, others
}

// failed reports whether the work that s stands for ended badly.
func failed(s sdktrace.ReadOnlySpan) bool {
	if s.Status().Code == codes.Error {
		return true
	}
	for _, a := range s.Attributes() {
		if a.Key == HTTPStatus {
			return s.SpanKind() == trace.SpanKindServer && a.Value.AsInt64() >= errorStatus
		}
	}
	return false
}

// exported is a span that was not sampled, as one that was: the exporter leaves
// out the others.
type exported struct{ sdktrace.ReadOnlySpan }

func (e exported) SpanContext() trace.SpanContext {
	c := e.ReadOnlySpan.SpanContext()
	return c.WithTraceFlags(c.TraceFlags().WithSampled(true))
}

func (e exported) Attributes() []attribute.KeyValue {
	// Counts made of traces must not take these for a sample.
	return append(slices.Clip(e.ReadOnlySpan.Attributes()), KeptForError.Bool(true))
}

// samplerFromEnvironment is what OTEL_TRACES_SAMPLER and its _ARG ask for, which
// the SDK reads by itself only as long as no sampler is given.
//
// Source: OpenTelemetry specification, "General SDK Configuration".
func samplerFromEnvironment() (sdktrace.Sampler, error) {
	name, arg := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER"))), os.Getenv("OTEL_TRACES_SAMPLER_ARG")
	ratio := 1.0
	if strings.HasSuffix(name, "traceidratio") && arg != "" {
		var err error
		if ratio, err = strconv.ParseFloat(arg, 64); err != nil || ratio < 0 || ratio > 1 {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG=%q: want a number from 0 to 1", arg)
		}
	}
	switch name {
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(ratio), nil
	case "", "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample()), nil
	case "parentbased_traceidratio":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio)), nil
	}
	return nil, fmt.Errorf("OTEL_TRACES_SAMPLER=%q: want always_on, always_off, traceidratio, or one of them behind parentbased_", name)
}
