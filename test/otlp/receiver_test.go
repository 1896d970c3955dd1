package otlp

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"larkside/test/process"
)

// receiver takes traces as a collector does, by gRPC and by HTTP with protobuf,
// and keeps them.
type receiver struct {
	coltracepb.UnimplementedTraceServiceServer

	mu       sync.Mutex
	resource map[string]string
	spans    []*tracepb.Span
}

// Export implements the gRPC service.
func (r *receiver) Export(_ context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	r.take(req)
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func (r *receiver) take(req *coltracepb.ExportTraceServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range req.ResourceSpans {
		r.resource = attributes(of.Resource.Attributes)
		for _, scope := range of.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
}

// overGRPC and overHTTP start r and return the variables that name it.
func (r *receiver) overGRPC(t *testing.T) []string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(s, r)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + l.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}
}

func (r *receiver) overHTTP(t *testing.T) []string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		var req coltracepb.ExportTraceServiceRequest
		body, err := io.ReadAll(in.Body)
		if err != nil || in.URL.Path != "/v1/traces" || proto.Unmarshal(body, &req) != nil {
			t.Errorf("the receiver got %s %s (%v)", in.Method, in.URL.Path, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.take(&req)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	return []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + s.URL + "/v1/traces", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"}
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_DoubleValue:
			m[a.Key] = fmt.Sprint(v.DoubleValue)
		case *commonpb.AnyValue_BoolValue:
			m[a.Key] = fmt.Sprint(v.BoolValue)
		}
	}
	return m
}

// node is a span with those below it, in the order in which they began.
type node struct {
	*tracepb.Span
	attributes map[string]string
	below      []*node
}

// await returns the tree of the trace with this id when its server span has come
// with n spans in all.
func (r *receiver) await(t *testing.T, id string, n int) *node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), process.Patience)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		root := r.tree(id)
		if root != nil && root.count() == n {
			return root
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("trace %s did not become one of %d spans:\n%s", id, n, root.outline())
		}
	}
}

// tree is nil as long as the server span of the trace is missing.
func (r *receiver) tree(id string) (root *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	byID := map[string]*node{}
	for _, s := range r.spans {
		if hex.EncodeToString(s.TraceId) == id {
			byID[string(s.SpanId)] = &node{Span: s, attributes: attributes(s.Attributes)}
		}
	}
	for _, n := range byID {
		if parent := byID[string(n.ParentSpanId)]; parent != nil {
			parent.below = append(parent.below, n)
			slices.SortFunc(parent.below, func(a, b *node) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) })
		} else if n.Kind == tracepb.Span_SPAN_KIND_SERVER {
			root = n
		}
	}
	return root
}

func (n *node) count() int {
	sum := 1
	for _, b := range n.below {
		sum += b.count()
	}
	return sum
}

// outline is the tree's names and kinds, a line each, indented.
func (n *node) outline() string {
	var b strings.Builder
	if n == nil {
		return "no server span"
	}
	n.walk(0, func(depth int, n *node) {
		kind := strings.ToLower(strings.TrimPrefix(n.Kind.String(), "SPAN_KIND_"))
		fmt.Fprintf(&b, "%s%s (%s)\n", strings.Repeat("  ", depth), n.Name, kind)
	})
	return b.String()
}

func (n *node) walk(depth int, visit func(int, *node)) {
	visit(depth, n)
	for _, b := range n.below {
		b.walk(depth+1, visit)
	}
}

// find returns the first span of that name.
func (n *node) find(t *testing.T, name string) (found *node) {
	t.Helper()
	n.walk(0, func(_ int, n *node) {
		if found == nil && n.Name == name {
			found = n
		}
	})
	if found == nil {
		t.Fatalf("no span %q in\n%s", name, n.outline())
	}
	return found
}

// has checks attributes, given as key, value, …; a value "*" is any.
func (n *node) has(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		got, ok := n.attributes[pairs[i]]
		if !ok || pairs[i+1] != "*" && got != pairs[i+1] {
			t.Errorf("span %q: %s is %q, want %q; all: %v", n.Name, pairs[i], got, pairs[i+1], n.attributes)
		}
	}
}

// told are the attributes that a picture shows, in this order.
var told = []string{"larkside.outcome", "result", "larkside.reason", "larkside.refresh.class", "larkside.lease.wait", "flow",
	"larkside.card", "http.response.status_code", "lark.code", "lark.log_id", "http.request.resend_count", "larkside.caller", "larkside.user"}

// picture is the tree as a waterfall of 40 columns, times in milliseconds.
func (n *node) picture() string {
	const columns = 32
	first, last := n.StartTimeUnixNano, n.EndTimeUnixNano
	n.walk(0, func(_ int, n *node) { last = max(last, n.EndTimeUnixNano) })
	column := func(at uint64) int { return int((at - first) * columns / max(1, last-first)) }
	var b strings.Builder
	n.walk(0, func(depth int, n *node) {
		from, to := min(column(n.StartTimeUnixNano), columns-1), column(n.EndTimeUnixNano)
		bar := strings.Repeat(" ", from) + strings.Repeat("█", max(1, to-from))
		var said []string
		for _, key := range told {
			if v, ok := n.attributes[key]; ok {
				said = append(said, key[strings.LastIndexByte(key, '.')+1:]+"="+v)
			}
		}
		name := strings.Repeat("  ", depth) + shorten(n.Name)
		took := time.Duration(n.EndTimeUnixNano - n.StartTimeUnixNano)
		fmt.Fprintf(&b, "%-42s %s%s %6.1f ms  %s\n", name, bar, strings.Repeat(" ", max(0, columns-len([]rune(bar)))),
			float64(took)/float64(time.Millisecond), strings.Join(said, " "))
	})
	return b.String()
}

// shorten leaves of a long path its end.
func shorten(name string) string {
	method, path, ok := strings.Cut(name, " /")
	if !ok || len(name) <= 34 {
		return name
	}
	parts := strings.Split(path, "/")
	return method + " …/" + strings.Join(parts[len(parts)-2:], "/")
}
