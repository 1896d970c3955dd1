package consent

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"larkside/session"
	"larkside/telemetry"
	"larkside/test/larktest"
)

// record makes flows that are built from here on report to the test.
func record(t *testing.T) (*tracetest.SpanRecorder, *metric.ManualReader) {
	spans, reader := tracetest.NewSpanRecorder(), metric.NewManualReader()
	tracer, meter := otel.GetTracerProvider(), otel.GetMeterProvider()
	otel.SetTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(spans)))
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))
	t.Cleanup(func() { otel.SetTracerProvider(tracer); otel.SetMeterProvider(meter) })
	return spans, reader
}

// counted is every series of this package, and how often it was counted.
func counted(t *testing.T, reader *metric.ManualReader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		if scope.Scope.Name != "larkside/session/consent" {
			continue
		}
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					got[series(m.Name, p.Attributes)] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					got[series(m.Name, p.Attributes)] = int64(p.Count)
				}
			}
		}
	}
	return got
}

func series(name string, attributes attribute.Set) string {
	for _, a := range attributes.ToSlice() {
		name += fmt.Sprintf(" %s=%s", a.Key, a.Value.AsString())
	}
	return name
}

// The metrics of the contract, by what happened.
func TestMetrics(t *testing.T) {
	_, reader := record(t)
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	w.ask(f, alice)
	w.ask(f, alice)
	w.click(alice, 1, larktest.Alice)
	w.grant(f, alice)
	w.send(larktest.Event{Type: "im.message.receive_v1", Body: map[string]any{}})
	w.send(larktest.Event{Type: "im.message.receive_v1", Body: map[string]any{}, BadSignature: true})
	want := map[string]int64{
		"larkside.consents flow=redirect state=pending":  2,
		"larkside.consents flow=redirect state=declined": 1,
		"larkside.consents flow=redirect state=done":     1,
		"larkside.cards result=sent":                     2,
		"larkside.cards result=already_sent":             1,
		"larkside.events result=handled":                 1,
		"larkside.events result=ignored":                 1,
		"larkside.events result=refused":                 1,

		"larkside.consent.duration flow=redirect state=declined": 1,
		"larkside.consent.duration flow=redirect state=done":     1,
	}
	got := counted(t, reader)
	maps.DeleteFunc(got, func(_ string, n int64) bool { return n == 0 })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// consent.start says which app, flow and card, never the user in clear or the
// link, and is an error where asking failed.
func TestSpan(t *testing.T) {
	spans, _ := record(t)
	w := newWorld(t, nil)
	users, err := telemetry.NewUsers("hash", nil)
	if err != nil {
		t.Fatal(err)
	}
	f := w.replica(func(c *Config) { redirect(c); c.Users = users })
	link := w.ask(f, alice).AuthorizeURL
	w.Store.Close()
	if _, err := f.Ask(t.Context(), bob, session.ConsentRequest{}); err == nil {
		t.Fatal("no error without a database")
	}
	var seen []string
	for _, span := range spans.Ended() {
		if span.Name() != "consent.start" {
			continue
		}
		text := fmt.Sprint(span.Attributes(), span.Events(), span.Status())
		_, ticket, _ := strings.Cut(link, "?t=")
		for _, secret := range []string{larktest.Alice, larktest.Bob, ticket} {
			if strings.Contains(text, secret) {
				t.Errorf("the span has %q: %s", secret, text)
			}
		}
		attrs := map[string]string{}
		for _, a := range span.Attributes() {
			attrs[string(a.Key)] = a.Value.AsString()
		}
		seen = append(seen, fmt.Sprintf("%s %s %q error=%v", attrs[string(telemetry.AppID)], attrs[string(telemetry.Flow)],
			attrs[string(telemetry.Card)], span.Status().Code == codes.Error))
	}
	want := []string{
		fmt.Sprintf("%s redirect %q error=false", larktest.AppID, session.CardSent),
		fmt.Sprintf("%s redirect \"\" error=true", larktest.AppID),
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}
