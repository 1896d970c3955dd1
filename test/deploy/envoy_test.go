package deploy

import (
	"os"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

// envoy.yaml is what Envoy's own types take, as it is shipped (gRPC) and with the
// variant over HTTP in the place of the other.
func TestEnvoyConfiguration(t *testing.T) {
	content, err := os.ReadFile("../../deploy/forward-auth/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"gRPC": string(content), "HTTP": overHTTP(t, string(content))} {
		json, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var b bootstrapv3.Bootstrap
		if err := protojson.Unmarshal(json, &b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := b.ValidateAll(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// overHTTP does by hand what the file says: it takes the lines of gRPC out and the
// commented ones in.
func overHTTP(t *testing.T, text string) string {
	t.Helper()
	const indent = "                      "
	before, rest, ok1 := strings.Cut(text, indent+"encode_raw_headers")
	_, rest, ok2 := strings.Cut(rest, "of the cluster below):\n")
	variant, after, ok3 := strings.Cut(rest, "                  - name: envoy.filters.http.router")
	if !ok1 || !ok2 || !ok3 || !strings.Contains(variant, "# http_service:") {
		t.Fatal("the file has no variant over HTTP, or not where it was")
	}
	variant = strings.ReplaceAll(variant, indent+"# ", indent)
	after = strings.Replace(after, "          explicit_http_config: {http2_protocol_options: {}}", "          explicit_http_config: {http_protocol_options: {}}", 1)
	return before + variant + "                  - name: envoy.filters.http.router" + after
}
