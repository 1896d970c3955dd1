// Package otlp proves the traces against a receiver of OTLP: the real larkside,
// PostgreSQL, Lark's emulator, and what arrives.
package otlp

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// pictures makes TestTraces print each trace as a waterfall: README's picture.
var pictures = flag.Bool("pictures", false, "print the traces")

const (
	path     = "/open-apis/apaas/v1/workspaces/w/tables"
	template = "/open-apis/apaas/v1/workspaces/:workspace_id/tables"
)

// caller is an app with traces of its own, and the larkside that it calls, which
// exports to a receiver.
type caller struct {
	*testing.T
	*receiver
	*process.Process
	calls int
}

func newCaller(t *testing.T, over func(*receiver, *testing.T) []string) *caller {
	db, lark, r := process.Postgres(t), larktest.Start(t, nil), &receiver{}
	process.Seed(t, db, lark, time.Minute, larktest.Alice)
	process.Seed(t, db, lark, 3*time.Hour, larktest.Carol)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Environ: append(over(r, t), "OTEL_BSP_SCHEDULE_DELAY=50")})
	// Until changes are listened for, nothing that is cached counts as checked.
	process.Eventually(t, "LISTEN", func() bool { return strings.HasSuffix(p.Metric(t, "larkside_database_listening"), " 1\n") })
	return &caller{T: t, receiver: r, Process: p}
}

// traced is the variables of a trace of the app's own.
func (c *caller) traced() (id, header string) {
	c.calls++
	id = fmt.Sprintf("%032x", 0xa11ce000+c.calls)
	return id, "00-" + id + "-00f067aa0ba902b7-01"
}

// call asks for user in a trace of its own and returns that.
func (c *caller) call(user string, status, spans int) *node {
	c.Helper()
	id, parent := c.traced()
	if a := c.Get(c.T, path, user, "Traceparent", parent); a.Status != status {
		c.Fatalf("%d %s, want %d", a.Status, a.Body, status)
	}
	root := c.await(c.T, id, spans)
	if got := fmt.Sprintf("%x", root.ParentSpanId); got != "00f067aa0ba902b7" {
		c.Errorf("the server span's parent is %s, not the app's", got)
	}
	return root
}

func (c *caller) check(root *node, what, outline string) {
	c.Helper()
	if got := root.outline(); got != strings.ReplaceAll(outline, "{}", template) {
		c.Errorf("%s:\n%swant\n%s", what, got, outline)
	}
	if *pictures {
		fmt.Printf("%s\n%s\n", what, root.picture())
	}
}

// Every way in which a request finds its token, or doesn't, is told by its trace
// alone.
func TestTraces(t *testing.T) {
	for name, over := range map[string]func(*receiver, *testing.T) []string{"grpc": (*receiver).overGRPC, "http": (*receiver).overHTTP} {
		t.Run(name, func(t *testing.T) {
			c := newCaller(t, over)
			c.miss()
			c.hit()
			c.refreshed()
			c.refusedAndReplayed()
			c.asked()
			for _, want := range []string{
				`larkside_leases_total{result="taken"} 2`, `larkside_refreshes_total{class="renewed"} 2`,
				`larkside_refresh_duration_seconds_count{class="renewed"} 2`, "larkside_refresh_time_to_expiry_seconds_count 2",
				`larkside_refresh_time_to_expiry_seconds_bucket{le="0"} 1`, `larkside_governor_wait_seconds_count{priority="urgent"} 2`,
				"larkside_encryption_keys 1", fmt.Sprint("larkside_database_connections_max ", min(16, max(6, 2*runtime.GOMAXPROCS(0)))), "larkside_sweep_due 0", "larkside_tokens_unstored 0",
				fmt.Sprintf(`larkside_circuit_open{app_id="%s"} 0`, larktest.AppID), `larkside_cards_total{result="sent"} 1`,
			} {
				if name, _, _ := strings.Cut(want, "{"); !strings.Contains(c.Metric(c.T, strings.Fields(name)[0]), want+"\n") {
					t.Errorf("/metrics has no %s but\n%s", want, c.Metric(c.T, strings.Fields(name)[0]))
				}
			}
			if c.resource["service.name"] != "larkside" {
				t.Errorf("resource %v", c.resource)
			}
			for _, span := range c.spans {
				text := span.String()
				for _, secret := range []string{larktest.Alice, larktest.Bob, larktest.Carol, larktest.AppSecret, "eyJ", "user_code="} {
					if strings.Contains(text, secret) {
						t.Errorf("%q is in span %s", secret, text)
					}
				}
			}
		})
	}
}

func (c *caller) miss() {
	root := c.call(larktest.Alice, 200, 5)
	c.check(root, "token from the database", `GET {} (server)
  identify (internal)
  token.lookup (internal)
    SELECT sessions (client)
  GET {} (client)
`)
	root.has(c.T, "http.request.method", "GET", "http.route", template, "http.response.status_code", "200",
		"larkside.outcome", "proxied", "larkside.token.lookup", "database", "larkside.user", "*", "lark.app_id", larktest.AppID)
	root.find(c.T, "token.lookup").has(c.T, "result", "database")
	root.find(c.T, "SELECT sessions").has(c.T, "db.system.name", "postgresql", "db.query.summary", "SELECT sessions")
	root.below[2].has(c.T, "url.template", template, "server.address", "127.0.0.1", "server.port", "*", "url.scheme", "http",
		"http.response.status_code", "200", "lark.log_id", "*")
}

func (c *caller) hit() {
	root := c.call(larktest.Alice, 200, 4)
	c.check(root, "token from the cache", `GET {} (server)
  identify (internal)
  token.lookup (internal)
  GET {} (client)
`)
	root.find(c.T, "token.lookup").has(c.T, "result", "cache")
}

func (c *caller) refreshed() {
	// Of two calls at once one refreshes, and the other waits for that.
	fault := c.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true})
	var wg sync.WaitGroup
	begin := func() string {
		id, parent := c.traced()
		r := c.Request(c.T, "GET", path, larktest.Carol, "", "Traceparent", parent)
		wg.Go(func() {
			if a, err := process.Try(r); err != nil || a.Status != 200 {
				c.Errorf("%v, %v", a, err)
			}
		})
		return id
	}
	one := begin()
	c.awaitSpan(one, "UPDATE sessions (claim lease)")
	two := begin()
	c.awaitSpan(two, "identify") // it is exported later than the next step is taken
	fault.Release()
	wg.Wait()
	first, second := c.await(c.T, one, 10), c.await(c.T, two, 4)
	c.check(first, "token refreshed", `GET {} (server)
  identify (internal)
  token.lookup (internal)
    SELECT sessions (client)
    token.refresh (internal)
      SELECT sessions (client)
      UPDATE sessions (claim lease) (client)
      POST /open-apis/authen/v2/oauth/token (client)
      UPDATE sessions (store pair) (client)
  GET {} (client)
`)
	first.find(c.T, "token.lookup").has(c.T, "result", "refreshed")
	first.find(c.T, "token.refresh").has(c.T, "larkside.refresh.class", "renewed", "larkside.governor.wait", "*", "larkside.user", "*")
	first.find(c.T, "POST /open-apis/authen/v2/oauth/token").has(c.T, "http.response.status_code", "200", "lark.log_id", "*")
	waited := second.find(c.T, "token.lookup")
	waited.has(c.T, "result", "waited")
	if len(waited.Links) == 0 || fmt.Sprintf("%x", waited.Links[len(waited.Links)-1].TraceId) != fmt.Sprintf("%x", first.TraceId) {
		c.Errorf("what was waited for is not linked: %v", waited.Links)
	}
}

// awaitSpan returns when a span of that name has come, whose trace goes on.
func (c *caller) awaitSpan(trace, name string) {
	c.Helper()
	process.Eventually(c.T, "span "+name, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.ContainsFunc(c.spans, func(one *tracepb.Span) bool {
			return one.Name == name && fmt.Sprintf("%x", one.TraceId) == trace
		})
	})
}

func (c *caller) refusedAndReplayed() {
	c.Lark.Fault(larktest.Fault{Endpoint: larktest.API, Path: path, Code: 99991677, Status: 400, Times: 1})
	root := c.call(larktest.Alice, 200, 10)
	c.check(root, "token refused by Lark, renewed, call replayed", `GET {} (server)
  identify (internal)
  token.lookup (internal)
  GET {} (client)
  token.refresh (internal)
    SELECT sessions (client)
    UPDATE sessions (claim lease) (client)
    POST /open-apis/authen/v2/oauth/token (client)
    UPDATE sessions (store pair) (client)
  GET {} (client)
`)
	root.has(c.T, "larkside.outcome", "refreshed_replayed")
	root.below[2].has(c.T, "http.response.status_code", "400", "lark.code", "99991677", "error.type", "400")
	root.below[4].has(c.T, "http.response.status_code", "200", "http.request.resend_count", "1")
}

// asked is the trace from which people read why a request was a 401.
func (c *caller) asked() {
	id, parent := c.traced()
	a := c.Get(c.T, path, larktest.Bob, "Traceparent", parent)
	if a.Status != 401 || a.Envelope.Error.Card != "sent" {
		c.Fatalf("%d %s", a.Status, a.Body)
	}
	root := c.await(c.T, id, 10)
	c.check(root, "401: the user has to authorize", `GET {} (server)
  identify (internal)
  token.lookup (internal)
    SELECT sessions (client)
  consent.start (internal)
    SELECT sessions (client)
    SELECT sessions (client)
    POST /oauth/v1/device_authorization (client)
    GET /open-apis/bot/v3/info (client)
    POST /open-apis/im/v1/messages (client)
`)
	root.has(c.T, "http.response.status_code", "401", "larkside.outcome", "authorization_required", "larkside.reason", "no_session")
	root.find(c.T, "token.lookup").has(c.T, "result", "missing", "larkside.reason", "no_session", "error.type", "authorization_required")
	root.find(c.T, "consent.start").has(c.T, "flow", "device", "larkside.card", "sent", "larkside.user", "*")
}
