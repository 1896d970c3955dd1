package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// signal is a word of the names of OTEL_* variables.
type signal string

const (
	traces  signal = "TRACES"
	metrics signal = "METRICS"
)

// exporting reports whether the environment asks for s to be sent somewhere. The
// specification's default exporter is otlp to localhost; sending there unasked
// would only fill the log.
func exporting(s signal) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch s.exporter() {
	case "none":
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+string(s)+"_ENDPOINT") != ""
	}
	return true
}

func (s signal) exporter() string { return os.Getenv("OTEL_" + string(s) + "_EXPORTER") }

// way is how s is sent: "console", or one of OTLP's protocols. Everything else
// about OTLP the exporters read from the environment themselves.
func (s signal) way() (string, error) {
	switch s.exporter() {
	case "console":
		return "console", nil
	case "", "otlp":
	default:
		return "", fmt.Errorf("there is no such exporter: want otlp, console or none")
	}
	protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_"+string(s)+"_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf")
	switch protocol {
	case "grpc", "http/protobuf":
		return protocol, nil
	}
	return "", fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%q: want grpc or http/protobuf", protocol)
}

func newSpanExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	way, err := traces.way()
	if err != nil {
		return nil, err
	}
	switch way {
	case "console":
		return stdouttrace.New()
	case "grpc":
		return otlptracegrpc.New(ctx)
	}
	return otlptracehttp.New(ctx)
}

func newMetricExporter(ctx context.Context) (sdkmetric.Exporter, error) {
	way, err := metrics.way()
	if err != nil {
		return nil, err
	}
	switch way {
	case "console":
		return stdoutmetric.New()
	case "grpc":
		return otlpmetricgrpc.New(ctx)
	}
	return otlpmetrichttp.New(ctx)
}
