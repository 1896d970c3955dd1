package telemetry

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

var byClass = Tracked{"larkside.refreshes", Class}

// counted is a History over a counter of its own.
func counted(t *testing.T) (h *History, count func(class string, n int64)) {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	counter, err := meter.Int64Counter(byClass.Instrument)
	if err != nil {
		t.Fatal(err)
	}
	h = NewHistory(byClass, Tracked{"http.server.request.duration", Outcome})
	h.read(reader)
	return h, func(class string, n int64) {
		counter.Add(t.Context(), n, metric.WithAttributes(Class.String(class), attribute.String("app", fmt.Sprint(n))))
	}
}

// find is the series of a value.
func find(t *testing.T, h *History, value string) Series {
	t.Helper()
	for _, s := range h.Series(t.Context(), byClass, 6) {
		if s.Value == value {
			return s
		}
	}
	t.Fatalf("no series %q", value)
	return Series{}
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour) // to a full minute; the bubble's clock starts at one
		h, count := counted(t)
		count("renewed", 2)
		count("renewed", 3) // another attribute set of the same value
		count("dead", 1)
		if s := find(t, h, "renewed"); s.Total != 5 || len(s.Steps) != 60 || s.Steps[59] != 5 {
			t.Errorf("at once: %+v", s)
		}
		go h.Run(t.Context())
		time.Sleep(10 * time.Minute)
		count("renewed", 7)
		time.Sleep(20 * time.Second)
		if s := find(t, h, "renewed"); s.Total != 12 || s.Steps[59]+s.Steps[58] != 7 || s.Steps[49]+s.Steps[48] != 5 {
			t.Errorf("ten minutes later: %+v", s)
		}
		time.Sleep(52 * time.Minute)
		if s := find(t, h, "renewed"); s.Total != 7 {
			t.Errorf("an hour later: %+v", s)
		}
		// A process that slept: nothing of before may come back.
		time.Sleep(9 * time.Hour)
		if s := find(t, h, "renewed"); s.Total != 0 {
			t.Errorf("the next day: %+v", s)
		}
	})
}

func TestHistoryOfAHistogram(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	latency, err := meter.Float64Histogram("http.server.request.duration")
	if err != nil {
		t.Fatal(err)
	}
	tracked := Tracked{"http.server.request.duration", Outcome}
	h := NewHistory(tracked)
	h.read(reader)
	for range 3 {
		latency.Record(t.Context(), 0.25, metric.WithAttributes(Outcome.String("proxied")))
	}
	got := h.Series(t.Context(), tracked, 1)
	if len(got) != 1 || got[0].Value != "proxied" || got[0].Total != 3 || len(got[0].Steps) != 360 {
		t.Errorf("%+v", got)
	}
}

// However many values there are, the memory is bounded and nothing is left out.
func TestHistoryIsBounded(t *testing.T) {
	h, count := counted(t)
	for i := range 100 {
		count(fmt.Sprintf("class-%02d", i), 1)
		h.look(t.Context(), time.Now())
	}
	total := int64(0)
	all := h.Series(t.Context(), byClass, 6)
	for _, s := range all {
		total += s.Total
	}
	if len(all) > historySeries || total != 100 {
		t.Errorf("%d series with %d in all", len(all), total)
	}
	if !slices.ContainsFunc(all, func(s Series) bool { return s.Value == "other" }) {
		t.Error("what is left over is nowhere")
	}
}

// A look runs every instrument's callbacks, and some ask the database: one look
// serves all who ask within a second.
func TestHistoryLooksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, count := counted(t)
		reader := &countingReader{collector: h.reader}
		h.read(reader)
		count("renewed", 1)
		for range 3 {
			find(t, h, "renewed")
		}
		if reader.n != 1 {
			t.Errorf("%d looks for three series", reader.n)
		}
		count("renewed", 1)
		time.Sleep(historyFresh)
		if s := find(t, h, "renewed"); s.Total != 2 || reader.n != 2 {
			t.Errorf("a second later: %+v after %d looks", s, reader.n)
		}
	})
}

type countingReader struct {
	collector
	n int
}

func (c *countingReader) Collect(ctx context.Context, into *metricdata.ResourceMetrics) error {
	c.n++
	return c.collector.Collect(ctx, into)
}

// Without Start there is nothing to read, and no panic.
func TestHistoryOfNothing(t *testing.T) {
	h := NewHistory(byClass)
	if got := h.Series(t.Context(), byClass, 6); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
