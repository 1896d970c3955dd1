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

	"larkside/test/dbtest"
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

// stage is a larkside that exports to a receiver.
type stage struct {
	*testing.T
	*receiver
	*process.Process
	lark  *larktest.Platform
	calls int
}

func newStage(t *testing.T, db *dbtest.DB, over func(*receiver, *testing.T) []string, env map[string]string, environ ...string) *stage {
	s := &stage{T: t, receiver: &receiver{}, lark: larktest.Start(t, nil)}
	process.Seed(t, db, s.lark, time.Minute, larktest.Alice)
	process.Seed(t, db, s.lark, 3*time.Hour, larktest.Carol)
	s.Process = process.Start(t, process.Options{Lark: s.lark, DB: db, Env: env,
		Environ: append(append(over(s.receiver, t), "OTEL_BSP_SCHEDULE_DELAY=50"), environ...)})
	// Until changes are listened for, nothing that is cached counts as checked.
	process.Eventually(t, "LISTEN", func() bool {
		var n int
		err := db.SQL(t).QueryRow(`SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`).Scan(&n)
		return err == nil && n > 0
	})
	return s
}

// traced is the variables of a trace of the app's own.
func (s *stage) traced() (id, header string) {
	s.calls++
	id = fmt.Sprintf("%032x", 0xa11ce000+s.calls)
	return id, "00-" + id + "-00f067aa0ba902b7-01"
}

// call asks for user in a trace of its own and returns that.
func (s *stage) call(user string, status, spans int) *node {
	s.Helper()
	id, parent := s.traced()
	if a := s.Get(s.T, path, user, "Traceparent", parent); a.Status != status {
		s.Fatalf("%d %s, want %d", a.Status, a.Body, status)
	}
	root := s.await(s.T, id, spans)
	if got := fmt.Sprintf("%x", root.ParentSpanId); got != "00f067aa0ba902b7" {
		s.Errorf("the server span's parent is %s, not the app's", got)
	}
	return root
}

func (s *stage) check(root *node, what, outline string) {
	s.Helper()
	if got := root.outline(); got != strings.ReplaceAll(outline, "{}", template) {
		s.Errorf("%s:\n%swant\n%s", what, got, outline)
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
			s := newStage(t, process.Postgres(t), over, nil)
			s.miss()
			s.hit()
			s.refreshed()
			s.refusedAndReplayed()
			s.asked()
			for _, want := range []string{
				`larkside_leases_total{result="taken"} 2`, `larkside_refreshes_total{class="renewed"} 2`,
				`larkside_refresh_duration_seconds_count{class="renewed"} 2`, "larkside_refresh_time_to_expiry_seconds_count 2",
				`larkside_refresh_time_to_expiry_seconds_bucket{le="0"} 1`, `larkside_governor_wait_seconds_count{priority="urgent"} 2`,
				"larkside_encryption_keys 1", fmt.Sprint("larkside_database_connections_max ", min(16, max(6, 2*runtime.GOMAXPROCS(0)))), "larkside_sweep_due 0", "larkside_tokens_unstored 0",
				fmt.Sprintf(`larkside_circuit_open{app_id="%s"} 0`, larktest.AppID), `larkside_cards_total{result="sent"} 1`,
			} {
				if name, _, _ := strings.Cut(want, "{"); !strings.Contains(s.metric(strings.Fields(name)[0]), want+"\n") {
					t.Errorf("/metrics has no %s but\n%s", want, s.metric(strings.Fields(name)[0]))
				}
			}
			if s.resource["service.name"] != "larkside" {
				t.Errorf("resource %v", s.resource)
			}
			for _, span := range s.spans {
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

func (s *stage) miss() {
	root := s.call(larktest.Alice, 200, 5)
	s.check(root, "token from the database", `GET {} (server)
  identify (internal)
  token.lookup (internal)
    SELECT sessions (client)
  GET {} (client)
`)
	root.has(s.T, "http.request.method", "GET", "http.route", template, "http.response.status_code", "200",
		"larkside.outcome", "proxied", "larkside.token.lookup", "database", "larkside.user", "*", "lark.app_id", larktest.AppID)
	root.find(s.T, "token.lookup").has(s.T, "result", "database")
	root.find(s.T, "SELECT sessions").has(s.T, "db.system.name", "postgresql", "db.query.summary", "SELECT sessions")
	root.below[2].has(s.T, "url.template", template, "server.address", "127.0.0.1", "server.port", "*", "url.scheme", "http",
		"http.response.status_code", "200", "lark.log_id", "*")
}

func (s *stage) hit() {
	root := s.call(larktest.Alice, 200, 4)
	s.check(root, "token from the cache", `GET {} (server)
  identify (internal)
  token.lookup (internal)
  GET {} (client)
`)
	root.find(s.T, "token.lookup").has(s.T, "result", "cache")
}

func (s *stage) refreshed() {
	// Of two calls at once one refreshes, and the other waits for that.
	fault := s.lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Hang: true})
	var wg sync.WaitGroup
	begin := func() string {
		id, parent := s.traced()
		r := s.Request(s.T, "GET", path, larktest.Carol, "", "Traceparent", parent)
		wg.Go(func() {
			if a, err := process.Try(r); err != nil || a.Status != 200 {
				s.Errorf("%v, %v", a, err)
			}
		})
		return id
	}
	one := begin()
	s.awaitSpan(one, "UPDATE sessions (claim lease)")
	two := begin()
	s.awaitSpan(two, "identify") // it is exported later than the next step is taken
	fault.Release()
	wg.Wait()
	first, second := s.await(s.T, one, 10), s.await(s.T, two, 4)
	s.check(first, "token refreshed", `GET {} (server)
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
	first.find(s.T, "token.lookup").has(s.T, "result", "refreshed")
	first.find(s.T, "token.refresh").has(s.T, "larkside.refresh.class", "renewed", "larkside.governor.wait", "*", "larkside.user", "*")
	first.find(s.T, "POST /open-apis/authen/v2/oauth/token").has(s.T, "http.response.status_code", "200", "lark.log_id", "*")
	waited := second.find(s.T, "token.lookup")
	waited.has(s.T, "result", "waited")
	if len(waited.Links) == 0 || fmt.Sprintf("%x", waited.Links[len(waited.Links)-1].TraceId) != fmt.Sprintf("%x", first.TraceId) {
		s.Errorf("what was waited for is not linked: %v", waited.Links)
	}
}

// awaitSpan returns when a span of that name has come, whose trace goes on.
func (s *stage) awaitSpan(trace, name string) {
	s.Helper()
	process.Eventually(s.T, "span "+name, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.spans, func(one *tracepb.Span) bool {
			return one.Name == name && fmt.Sprintf("%x", one.TraceId) == trace
		})
	})
}

// metric is the lines of a metric on /metrics.
func (s *stage) metric(name string) string {
	s.Helper()
	var b strings.Builder
	for line := range strings.Lines(s.Admin(s.T, "GET", "/metrics").Body) {
		if strings.HasPrefix(line, name) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (s *stage) refusedAndReplayed() {
	s.lark.Fault(larktest.Fault{Endpoint: larktest.API, Path: path, Code: 99991677, Status: 400, Times: 1})
	root := s.call(larktest.Alice, 200, 10)
	s.check(root, "token refused by Lark, renewed, call replayed", `GET {} (server)
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
	root.has(s.T, "larkside.outcome", "refreshed_replayed")
	root.below[2].has(s.T, "http.response.status_code", "400", "lark.code", "99991677", "error.type", "400")
	root.below[4].has(s.T, "http.response.status_code", "200", "http.request.resend_count", "1")
}

// asked is the trace from which people read why a request was a 401.
func (s *stage) asked() {
	id, parent := s.traced()
	a := s.Get(s.T, path, larktest.Bob, "Traceparent", parent)
	if a.Status != 401 || a.Envelope.Error.Card != "sent" {
		s.Fatalf("%d %s", a.Status, a.Body)
	}
	root := s.await(s.T, id, 11)
	s.check(root, "401: the user has to authorize", `GET {} (server)
  identify (internal)
  token.lookup (internal)
    SELECT sessions (client)
  consent.start (internal)
    SELECT sessions (client)
    SELECT sessions (client)
    POST /oauth/v1/device_authorization (client)
    POST /open-apis/auth/v3/tenant_access_token/internal (client)
    GET /open-apis/bot/v3/info (client)
    POST /open-apis/im/v1/messages (client)
`)
	root.has(s.T, "http.response.status_code", "401", "larkside.outcome", "authorization_required", "larkside.reason", "no_session")
	root.find(s.T, "token.lookup").has(s.T, "result", "missing", "larkside.reason", "no_session", "error.type", "authorization_required")
	root.find(s.T, "consent.start").has(s.T, "flow", "device", "larkside.card", "sent", "larkside.user", "*")
}
