// Package telemetry sets up what Larkside tells about itself: OpenTelemetry
// traces and metrics, the log handler, and the attribute keys that all packages
// share.
//
// Start with [Start] and [NewHandler]. Packages make their own tracers and
// instruments on the OpenTelemetry API; nothing here is asked on a request's
// way. Traces are off and free until a standard OTEL_* variable names an
// exporter; metrics are always there for Prometheus. A collector that is down
// never slows a request: what can't be exported is dropped, with one log line a
// minute at most.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// DefaultSeriesLimit is how many label sets one instrument may have. What comes
// after is counted together, under otel_metric_overflow="true", so that no
// caller can fill the memory of Larkside or of Prometheus.
const DefaultSeriesLimit = 2000

// Config is what [Start] needs. The zero value works.
type Config struct {
	// Version is service.version and a label of larkside_build_info.
	Version string
	// Revision is the commit that was built; a label of larkside_build_info.
	Revision string
	// GoVersion built it; a label of larkside_build_info.
	GoVersion string
	// SeriesLimit is how many label sets one instrument may have.
	// 0: DefaultSeriesLimit.
	SeriesLimit int
	// History is told what to read. Nil: nothing is remembered.
	History *History
	// Log receives the complaints of OpenTelemetry itself. Nil: nowhere.
	Log *slog.Logger
}

// Start installs the global tracer and meter providers and the W3C
// trace-context propagator (baggage is neither read nor sent), and returns the
// handler for /metrics. It is called once, before the parts that make tracers
// and instruments.
//
// Traces are exported when OTEL_TRACES_EXPORTER names an exporter or an OTLP
// endpoint is set, metrics beside Prometheus in the same way; protocol, headers,
// sampler, batching, service name and resource attributes follow the standard
// OTEL_* variables. OTEL_SDK_DISABLED=true switches export off; /metrics stays.
//
// stop flushes what is left, for as long as its context allows. An error means
// that an OTEL_* variable asks for something that does not exist.
//
// Source: OpenTelemetry specification, "Environment Variable Specification".
func Start(ctx context.Context, cfg Config) (stop func(context.Context) error, metrics http.Handler, err error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	otel.SetErrorHandler(NewComplaints(log))
	otel.SetLogger(logr.FromSlogHandler(log.Handler()))
	otel.SetTextMapPropagator(propagation.TraceContext{})

	res, err := newResource(ctx, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry resource: %w", err)
	}
	stopTraces, err := startTraces(ctx, res)
	if err != nil {
		return nil, nil, fmt.Errorf("trace exporter (%s): %w", asked("TRACES"), err)
	}
	stopMetrics, metrics, err := startMetrics(ctx, cfg, res)
	if err != nil {
		return nil, nil, errors.Join(
			fmt.Errorf("metric exporter (%s): %w", asked("METRICS"), err),
			stopTraces(ctx))
	}
	stop = func(ctx context.Context) error { return errors.Join(stopTraces(ctx), stopMetrics(ctx)) }
	return stop, metrics, nil
}

func newResource(ctx context.Context, cfg Config) (*resource.Resource, error) {
	// The environment comes last, so OTEL_SERVICE_NAME wins over the default.
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(
			attribute.String("service.name", "larkside"),
			attribute.String("service.version", cfg.Version)),
		resource.WithFromEnv())
	if errors.Is(err, resource.ErrPartialResource) {
		otel.Handle(err) // a host without a name is no reason not to start
		err = nil
	}
	return res, err
}

func startTraces(ctx context.Context, res *resource.Resource) (func(context.Context) error, error) {
	if !exporting("TRACES") {
		otel.SetTracerProvider(noop.NewTracerProvider())
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, err
	}
	// The SDK itself reads OTEL_TRACES_SAMPLER and OTEL_BSP_*.
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(exporter))
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}

func startMetrics(ctx context.Context, cfg Config, res *resource.Resource) (func(context.Context) error, http.Handler, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(
		otelprom.WithRegisterer(registry),
		otelprom.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		otelprom.WithoutScopeInfo(),
		otelprom.WithoutTargetInfo())
	if err != nil {
		return nil, nil, err
	}
	if cfg.History != nil {
		cfg.History.read(exporter)
	}
	limit := cfg.SeriesLimit
	if limit == 0 {
		limit = DefaultSeriesLimit
	}
	options := []sdkmetric.Option{
		sdkmetric.WithReader(exporter), sdkmetric.WithResource(res), sdkmetric.WithCardinalityLimit(limit),
	}
	// "prometheus" is what /metrics does already; autoexport would open another
	// listener for it.
	if exporting("METRICS") && os.Getenv("OTEL_METRICS_EXPORTER") != "prometheus" {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, nil, err
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	otel.SetMeterProvider(provider)
	if err := buildInfo(provider.Meter("larkside/telemetry"), cfg); err != nil {
		return nil, nil, errors.Join(err, provider.Shutdown(ctx))
	}
	return provider.Shutdown, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), nil
}

// buildInfo makes larkside_build_info, which is always 1.
func buildInfo(meter metric.Meter, cfg Config) error {
	attributes := metric.WithAttributes(
		Version.String(cfg.Version),
		Revision.String(cfg.Revision),
		GoVersion.String(cfg.GoVersion))
	_, err := meter.Int64ObservableGauge("larkside.build.info",
		metric.WithDescription("What is running; always 1."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(1, attributes)
			return nil
		}))
	return err
}

// exporting reports whether the environment asks for signal, TRACES or METRICS,
// to be sent somewhere. The specification's default is an OTLP exporter to
// localhost; sending there unasked would only fill the log.
func exporting(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch os.Getenv("OTEL_" + signal + "_EXPORTER") {
	case "none":
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
	}
	return true
}

// asked names the variables that chose the exporter of signal, with their values.
func asked(signal string) string {
	var set []string
	for _, name := range []string{"OTEL_" + signal + "_EXPORTER", "OTEL_EXPORTER_OTLP_" + signal + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if value := os.Getenv(name); value != "" {
			set = append(set, fmt.Sprintf("%s=%q", name, value))
		}
	}
	return strings.Join(set, ", ")
}
