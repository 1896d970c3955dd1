package hostile

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// eventsDown is the one line that says why there is no long connection.
const eventsDown = "the long connection for events is down; connecting again"

// S41: whatever comes over the long connection, or instead of it, the process
// goes on, memory stays bounded, the log says why, not more often than Larkside
// connects, and events come again when Lark is well.
func TestLongConnectionAttacks(t *testing.T) {
	t.Parallel()
	elsewhere := newTrap(t)
	switched := func(c larktest.Conduct) func(*larktest.Platform) {
		return func(p *larktest.Platform) { p.Switch(func(s *larktest.Switches) { s.LongConnection = c }) }
	}
	faulty := func(f larktest.Fault) func(*larktest.Platform) {
		return func(p *larktest.Platform) {
			f.Endpoint, f.Times = larktest.EventsEndpoint, -1
			p.Fault(f)
		}
	}
	redirect := map[string]string{"Location": "http://" + elsewhere.address + "/"}
	named := func(url string) func(*larktest.Platform) {
		return faulty(larktest.Fault{Path: "/callback/", Set: map[string]any{"data": map[string]any{"URL": url}}})
	}
	for _, tc := range []struct {
		name string
		// says is in the line of the log; empty: the connection stands.
		says   string
		attack func(*larktest.Platform)
	}{
		{"an event in a million million parts", "parts", switched(larktest.HugeSum)},
		{"a message without end", "over 1048576 bytes", switched(larktest.EndlessMessage)},
		{"a bootstrap answer without end", "too large", switched(larktest.EndlessBootstrap)},
		{"no answer to pings", "nothing came", switched(larktest.Deaf)},
		{"garbage", "not a frame", switched(larktest.Garbage)},
		{"a flood of events", "", switched(larktest.Flood)},
		{"closing at once", "status 1000", switched(larktest.Hasty)},
		{"a redirect of the bootstrap", "HTTP 307", faulty(larktest.Fault{Path: "/callback/", Status: 307, Header: redirect})},
		{"a redirect of the connection", "HTTP 302", faulty(larktest.Fault{Path: "/ws/", Status: 302, Header: redirect})},
		{"another host", "refused", named("ws://" + elsewhere.address + "/ws/v2?ticket=ticket-elsewhere")},
		{"another host by its user part", "refused", named("ws://127.0.0.1@" + elsewhere.address + "/ws/v2?ticket=ticket-elsewhere")},
		{"another scheme", "refused", named("unix:///run/x.sock?ticket=ticket-elsewhere")},
		{"no URL", "no usable", faulty(larktest.Fault{Path: "/callback/", Set: map[string]any{"data": nil}})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if testing.Short() && tc.name == "no answer to pings" {
				t.Skip("waits for the real limit, a quarter of a minute")
			}
			t.Parallel()
			lark := larktest.Start(t, &larktest.Config{AllowUnknown: true})
			lark.Switch(func(s *larktest.Switches) { s.PingInterval = 1 })
			tc.attack(lark)
			db := process.SQLite(t)
			process.Seed(t, db, lark, time.Minute, alice)
			p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"EVENTS": "websocket"}})
			if a := p.Get(t, echo, alice); a.Status != 200 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			began, begun := time.Now(), peak(t, p.PID())
			if tc.says == "" {
				p.Log().AwaitText(t, "the long connection for events is open")
				process.Eventually(t, "2 MB of events", func() bool {
					c := lark.LongConnections("")
					return len(c) == 1 && c[0].Answered > 2048
				})
			} else {
				line := p.Log().AwaitText(t, eventsDown)
				if !strings.Contains(line.Text("error"), tc.says) || len(line.Raw) > 1000 {
					t.Errorf("the log says %s", line.Raw)
				}
			}
			if a := p.Get(t, echo, alice); a.Status != 200 {
				t.Errorf("during the attack: %d %s", a.Status, a.Body)
			}
			if now := peak(t, p.PID()); now > begun+headroom()/2 {
				t.Errorf("memory went from %d MiB to %d MiB", begun, now)
			}
			lark.ClearFaults()
			switched(larktest.Proper)(lark)
			process.Eventually(t, "the revocation", func() bool {
				reply, err := lark.SendRevoked(t.Context(), alice, "user")
				return err == nil && reply.Status == 200
			})
			process.Eventually(t, "alice is refused", func() bool { return p.Get(t, echo, alice).Status == 401 })
			// The pauses double from a second on.
			lines := p.Log().Find(func(l process.Line) bool { return l.Msg == eventsDown })
			if most := 2 + int(time.Since(began)/time.Second); len(lines) > most {
				t.Errorf("%d lines in %s", len(lines), time.Since(began))
			}
			if strings.Contains(p.Log().String(), "ticket-") {
				t.Error("the log has a ticket")
			}
			if n := elsewhere.visits.Load(); n > 0 {
				t.Errorf("%d connections went elsewhere", n)
			}
		})
	}
}

// trap counts the connections that it gets.
type trap struct {
	address string
	visits  atomic.Int64
}

func newTrap(t *testing.T) *trap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	trap := &trap{address: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			trap.visits.Add(1)
			conn.Close()
		}
	}()
	return trap
}
