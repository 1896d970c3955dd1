package larktest

import (
	"net/http/httptest"
	"testing"
)

// Start serves an emulator on a loopback port until the test ends. A nil
// config is the zero one. The test fails when a path is asked for that the
// emulator doesn't know, unless Config.AllowUnknown.
func Start(t testing.TB, config *Config) *Platform {
	t.Helper()
	if config == nil {
		config = &Config{}
	}
	p := New(*config)
	p.unknown = func(method, path string) { t.Errorf("larktest: unknown path: %s %s", method, path) }
	// The URL is there before the first request, which may be a stranger's: the
	// port may have been somebody else's a moment ago.
	server := httptest.NewUnstartedServer(p)
	p.URL = "http://" + server.Listener.Addr().String()
	server.Start()
	t.Cleanup(func() {
		p.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return p
}

// NoViolations fails the test for what a client of Lark may never do; without
// kinds for all of it.
func NoViolations(t testing.TB, p *Platform, kinds ...ViolationKind) {
	t.Helper()
	for _, v := range p.Violations(kinds...) {
		t.Errorf("violation: %s %s %s", v.Kind, v.OpenID, v.Detail)
	}
}
