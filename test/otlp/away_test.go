package otlp

import (
	"testing"

	"larkside/test/larktest"
	"larkside/test/port"
	"larkside/test/process"
)

// A collector that is away costs a line in the log: calls go on, and the process
// ends in time and well.
func TestCollectorAway(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			p := process.Seeded(t, process.Options{Lark: larktest.Start(t, nil), Environ: []string{
				"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + port.Address(t), // refuses connections
				"OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol, "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_BSP_EXPORT_TIMEOUT=200",
			}}, larktest.Alice)
			for range 3 {
				if a := p.Get(t, path, larktest.Alice); a.Status != 200 {
					t.Errorf("%d %s", a.Status, a.Body)
				}
			}
			p.Log().AwaitText(t, "telemetry could not be exported")
			if a := p.Get(t, path, larktest.Alice); a.Status != 200 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			if a := p.Admin(t, "GET", "/readyz"); a.Status != 200 {
				t.Errorf("readyz: %d", a.Status)
			}
			if status := p.Stop(); status != 0 {
				t.Errorf("exit status %d", status)
			}
		})
	}
}
