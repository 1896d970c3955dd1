package lark_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"

	"larkside/session"
	"larkside/session/lark"
)

// pipedStation is Lark's side of the long connection over pipes, for synctest
// bubbles, and a client that listens to it until the test ends.
type pipedStation struct {
	pipes chan net.Conn
	// conns has the connections to it, one at a time.
	conns chan *websocket.Conn

	mu  sync.Mutex
	log []string
}

func (s *pipedStation) Accept() (net.Conn, error) {
	conn, ok := <-s.pipes
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (s *pipedStation) Close() error   { return nil }
func (s *pipedStation) Addr() net.Addr { return &net.UnixAddr{} }

// Write takes a line of the client's log.
func (s *pipedStation) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, string(line))
	return len(line), nil
}

// logged returns the lines with text in them.
func (s *pipedStation) logged(text string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.log), func(line string) bool { return !strings.Contains(line, text) })
}

func newPipedStation(t *testing.T, handle func(context.Context, *lark.Event) (any, error)) *pipedStation {
	t.Helper()
	s := &pipedStation{pipes: make(chan net.Conn), conns: make(chan *websocket.Conn)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /callback/ws/endpoint", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"code":0,"data":{"URL":"ws://127.0.0.1:9000/ws?service_id=7&ticket=ticket-t","ClientConfig":{"PingInterval":1}}}`)
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		s.conns <- conn
	})
	server := &http.Server{Handler: mux}
	go server.Serve(s)
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		s.pipes <- there
		return here, nil
	}}
	const open = "http://127.0.0.1:9000"
	c, err := lark.New(lark.Config{
		AppID: "cli_listens", OpenURL: open, AccountsURL: open, Transport: transport,
		Secret: func() session.Secret { return session.NewSecret("secret") }, Log: slog.New(slog.NewJSONHandler(s, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Listen(ctx, handle); !errors.Is(err, context.Canceled) {
			t.Errorf("Listen ended with %v", err)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		transport.CloseIdleConnections()
		close(s.pipes)
		server.Close()
		if leaks := s.logged("ticket-"); len(leaks) > 0 {
			t.Errorf("the log has a ticket: %s", leaks)
		}
	})
	return s
}

func nothing(context.Context, *lark.Event) (any, error) { return nil, nil }

// send sends a frame.
func send(t *testing.T, conn *websocket.Conn, f larkws.Frame) {
	t.Helper()
	message, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Write(t.Context(), websocket.MessageBinary, message); err != nil {
		t.Errorf("the connection ended too early: %v", err)
	}
}

// part is one of an event's frames.
func part(id string, sum, seq int, payload string) larkws.Frame {
	return larkws.Frame{
		SeqID: 3, LogID: 4, Service: 7, LogIDNew: "log", Method: int32(larkws.FrameTypeData), Payload: []byte(payload),
		Headers: []larkws.Header{
			{Key: larkws.HeaderType, Value: string(larkws.MessageTypeEvent)}, {Key: larkws.HeaderMessageID, Value: id},
			{Key: larkws.HeaderSum, Value: strconv.Itoa(sum)}, {Key: larkws.HeaderSeq, Value: strconv.Itoa(seq)},
		},
	}
}

// next returns the next frame, of which pings count if they are wanted.
func next(t *testing.T, conn *websocket.Conn, wanted larkws.FrameType) (f larkws.Frame) {
	t.Helper()
	for {
		_, message, err := conn.Read(context.WithoutCancel(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		f = larkws.Frame{}
		if err := f.Unmarshal(message); err != nil {
			t.Fatal(err)
		}
		if larkws.FrameType(f.Method) == wanted {
			return f
		}
	}
}

// read takes what comes, and drops it, until the connection ends.
func read(conn *websocket.Conn) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, _, err := conn.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	return ended
}

// Pings are as often as Lark wants them, within bounds; where they are answered
// no more, the connection is given up.
func TestListenPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipedStation(t, nothing)
		conn := <-s.conns
		began := time.Now()
		for i, want := range []time.Duration{0, 5 * time.Second, 5*time.Second + 5*time.Minute} {
			f := next(t, conn, larkws.FrameTypeControl)
			if kind := larkws.Headers(f.Headers).GetString(larkws.HeaderType); kind != "ping" || f.Service != 7 || time.Since(began) != want {
				t.Errorf("frame %d: %q of service %d after %s, want a ping after %s", i, kind, f.Service, time.Since(began), want)
			}
			if i < 2 {
				send(t, conn, larkws.Frame{Method: int32(larkws.FrameTypeControl), Payload: []byte(`{"PingInterval":1000000000000}`),
					Headers: []larkws.Header{{Key: larkws.HeaderType, Value: "pong"}}})
			}
		}
		<-read(conn)
		// The last message came after 5 s.
		if got, want := time.Since(began), 5*time.Second+2*5*time.Minute+5*time.Second; got != want {
			t.Errorf("given up after %s, want %s", got, want)
		}
		synctest.Wait()
		if lines := s.logged("nothing came for 10m5s"); len(lines) != 1 {
			t.Errorf("the log says %q", s.logged(""))
		}
		(<-s.conns).CloseNow()
	})
}

// An event may come in several parts, in any order. Whatever else they are, the
// connection is ended, or the event waits in vain.
func TestListenParts(t *testing.T) {
	whole := event("card.action.trigger", "cli_listens", `{"operator":{"open_id":"ou_x"},"action":{"value":{"action":"decline"}}}`)
	big := strings.Repeat("x", 300<<10)
	many := func(n int, sum int, payload string) (all []larkws.Frame) {
		for i := range n {
			all = append(all, part(fmt.Sprint("event", i), sum, 0, payload))
		}
		return all
	}
	for _, tc := range []struct {
		name   string
		frames []larkws.Frame
		// says is why the connection ends; empty: it stands.
		says    string
		handled int
	}{
		{"in order", []larkws.Frame{part("m", 2, 0, whole[:50]), part("m", 2, 1, whole[50:])}, "", 1},
		{"out of order, and twice", []larkws.Frame{part("m", 3, 2, whole[60:]), part("m", 3, 2, "other"), part("m", 3, 0, whole[:50]), part("m", 3, 1, whole[50:60])}, "", 1},
		{"two events at a time", []larkws.Frame{part("m", 2, 0, whole[:50]), part("n", 2, 0, whole[:50]), part("n", 2, 1, whole[50:]), part("m", 2, 1, whole[50:])}, "", 2},
		{"a part that is empty", []larkws.Frame{part("m", 2, 0, whole), part("m", 2, 1, "")}, "", 1},
		{"one is missing", []larkws.Frame{part("m", 3, 0, whole[:50]), part("m", 3, 2, whole[50:])}, "", 0},
		{"sum is huge", []larkws.Frame{part("m", 1_000_000_000_000, 0, "")}, "has 1000000000000 parts", 0},
		{"sum is over the bound", []larkws.Frame{part("m", 65, 0, "")}, "has 65 parts", 0},
		{"sum is negative", []larkws.Frame{part("m", -5, 0, whole)}, "", 1},
		{"seq is negative", []larkws.Frame{part("m", 2, -1, "")}, "belong together", 0},
		{"seq is sum", []larkws.Frame{part("m", 2, 2, "")}, "belong together", 0},
		{"sum changes", []larkws.Frame{part("m", 2, 0, ""), part("m", 3, 2, "")}, "belong together", 0},
		{"no id", []larkws.Frame{part("", 2, 0, "")}, "belong together", 0},
		{"a long id", []larkws.Frame{part(strings.Repeat("m", 129), 2, 0, "")}, "belong together", 0},
		{"too many bytes", many(4, 2, big), "over 1048576 bytes", 0},
		{"too many events", many(65, 2, "x"), "more than 64 events", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handled := make(chan *lark.Event, 10)
				s := newPipedStation(t, func(_ context.Context, e *lark.Event) (any, error) {
					handled <- e
					return nil, nil
				})
				conn := <-s.conns
				ended := read(conn)
				for _, f := range tc.frames {
					send(t, conn, f)
				}
				synctest.Wait()
				if len(handled) != tc.handled {
					t.Errorf("%d events were handled, want %d", len(handled), tc.handled)
				}
				if down := s.logged("is down"); tc.says == "" && len(down) > 0 || tc.says != "" && (len(down) != 1 || !strings.Contains(down[0], tc.says)) {
					t.Errorf("the log says %q", down)
				}
				if tc.says != "" {
					<-ended
					conn = <-s.conns
				}
				conn.CloseNow()
			})
		})
	}
}

// Parts whose others are late make room for those of other events.
func TestListenForgetsParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipedStation(t, nothing)
		conn := <-s.conns
		read(conn)
		for round := range 10 {
			for i := range 60 {
				send(t, conn, part(fmt.Sprint(round, "-", i), 2, 0, strings.Repeat("x", 16<<10)))
			}
			time.Sleep(5*time.Second + time.Millisecond)
		}
		synctest.Wait()
		if down := s.logged("is down"); len(down) > 0 {
			t.Error(down)
		}
		conn.CloseNow()
	})
}

// The answer is the frame as it came, with how long it took and the reply.
func TestListenAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipedStation(t, func(_ context.Context, e *lark.Event) (any, error) {
			time.Sleep(1234 * time.Millisecond)
			switch {
			case e.Click.Value["action"] == "panic":
				panic("secret")
			case e.Click.Value["action"] == "unwritable":
				return func() {}, nil
			}
			return map[string]string{"toast": "<Done>"}, nil
		})
		conn := <-s.conns
		click := func(action string) larkws.Frame {
			return part("m", 1, 0, event("card.action.trigger", "cli_listens", fmt.Sprintf(`{"operator":{"open_id":"ou_x"},"action":{"value":{"action":%q}}}`, action)))
		}
		for action, want := range map[string]string{
			"decline":    `{"code":200,"headers":null,"data":"eyJ0b2FzdCI6Ilx1MDAzY0RvbmVcdTAwM2UifQ=="}`,
			"panic":      `{"code":500,"headers":null,"data":null}`,
			"unwritable": `{"code":500,"headers":null,"data":null}`,
		} {
			sent := click(action)
			send(t, conn, sent)
			got := next(t, conn, larkws.FrameTypeData)
			sent.Payload, sent.Headers = []byte(want), append(sent.Headers, larkws.Header{Key: "biz_rt", Value: "1234"})
			if a, b := mustJSON(t, got), mustJSON(t, sent); a != b {
				t.Errorf("%s: got %s (%s)\nwant %s", action, a, got.Payload, b)
			}
		}
		if lines := s.logged("a panic in Larkside's client for Lark"); len(lines) != 1 || strings.Contains(lines[0], `"error":"secret"`) {
			t.Errorf("the log says %q", lines)
		}
		conn.CloseNow()
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Some events are handled at a time, each with 3 s; the others wait. One that
// has begun goes on when the connection breaks.
func TestListenHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		began, ended := make(chan time.Duration, 10), make(chan time.Duration, 10)
		s := newPipedStation(t, func(ctx context.Context, _ *lark.Event) (any, error) {
			began <- time.Since(start)
			<-ctx.Done()
			ended <- time.Since(start)
			return nil, ctx.Err()
		})
		conn := <-s.conns
		read(conn)
		go func() {
			for i := range 9 {
				send(t, conn, part(fmt.Sprint(i), 1, 0, event("auth.user_access_token.revoked_v4", "cli_listens", `{"open_id":"ou_x"}`)))
			}
		}()
		synctest.Wait()
		if len(began) != 8 {
			t.Errorf("%d events are handled at a time", len(began))
		}
		time.Sleep(3500 * time.Millisecond)
		conn.CloseNow()
		again := <-s.conns
		for i := range 9 {
			want := time.Duration(i/8) * 3 * time.Second
			if b, e := <-began, <-ended; b != want || e != want+3*time.Second {
				t.Errorf("event %d was handled from %s to %s", i, b, e)
			}
		}
		again.CloseNow()
	})
}

// Where Listen connects is Lark's to say, among Lark's own hosts.
func TestListenHosts(t *testing.T) {
	for _, tc := range []struct {
		open, named string
		dialled     bool
	}{
		{"https://open.feishu.cn", "wss://msg-frontier.feishu.cn/ws/v2?ticket=ticket-t", true},
		{"https://open.feishu.cn", "wss://MSG-Frontier.Feishu.CN:443/ws/v2?ticket=ticket-t", true},
		{"https://open.larksuite.com", "wss://msg-frontier-sg.larksuite.com/ws/v2?ticket=ticket-t", true},
		{"https://open.feishu.cn", "wss://msg-frontier-sg.larksuite.com/ws/v2", false},
		{"https://open.larksuite.com", "wss://msg-frontier.feishu.cn/ws/v2", false},
		{"https://open.feishu.cn", "ws://msg-frontier.feishu.cn/ws/v2", false},
		{"https://open.feishu.cn", "https://msg-frontier.feishu.cn/ws/v2", false},
		{"https://open.feishu.cn", "wss://msg-frontier.feishu.cn:8443/ws/v2", false},
		{"https://open.feishu.cn", "wss://feishu.cn/ws/v2", false},
		{"https://open.feishu.cn", "wss://evilfeishu.cn/ws/v2", false},
		{"https://open.feishu.cn", "wss://feishu.cn.evil.example/ws/v2", false},
		{"https://open.feishu.cn", "wss://evil.example/x.feishu.cn", false},
		{"https://open.feishu.cn", "wss://evil.example#.feishu.cn", false},
		{"https://open.feishu.cn", `wss://evil.example\.feishu.cn/`, false},
		{"https://open.feishu.cn", "wss://msg-frontier.feishu.cn@evil.example/ws", false},
		{"https://open.feishu.cn", "wss://user:pass@msg-frontier.feishu.cn/ws", false},
		{"https://open.feishu.cn", "wss://msg-frontier.feishu.cn./ws", false},
		{"https://open.feishu.cn", "wss://127.0.0.1/ws", false},
		{"https://open.feishu.cn", "wss:///ws", false},
		{"https://open.feishu.cn", "://", false},
		{"https://lark.corp.example", "wss://lark.corp.example/ws?ticket=ticket-t", true},
		{"https://lark.corp.example:8443", "wss://lark.corp.example:8443/ws?ticket=ticket-t", true},
		{"https://lark.corp.example", "wss://ws.corp.example/ws", false},
		{"https://lark.corp.example", "wss://lark.corp.example:8443/ws", false},
		{"https://lark.corp.example", "ws://lark.corp.example:443/ws", false},
		{"http://lark.corp.example:8080", "ws://lark.corp.example:8080/ws", false},
		{"http://lark.corp.example:8080", "wss://lark.corp.example:8080/ws?ticket=ticket-t", true},
		{"http://127.0.0.1:9000", "ws://127.0.0.1:9000/ws?ticket=ticket-t", true},
		{"http://localhost:9000", "ws://localhost:9000/ws?ticket=ticket-t", true},
		{"http://[::1]:9000", "ws://[::1]:9000/ws?ticket=ticket-t", true},
		{"http://127.0.0.1:9000", "ws://127.0.0.1:9001/ws", false},
		{"http://127.0.0.1:9000", "ws://127.0.0.2:9000/ws", false},
		{"https://127.0.0.1:9000", "ws://127.0.0.1:9000/ws", false},
	} {
		t.Run(tc.open+" "+tc.named, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dialled []string
				s := &pipedStation{}
				transport := roundTripper(func(r *http.Request) (*http.Response, error) {
					body := "{}"
					if r.Method == http.MethodPost {
						body = fmt.Sprintf(`{"code":0,"data":{"URL":%q}}`, tc.named)
					} else {
						dialled = append(dialled, r.URL.String())
					}
					return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
				})
				c, err := lark.New(lark.Config{
					AppID: "cli_listens", OpenURL: tc.open, AccountsURL: tc.open, Transport: transport,
					Secret: func() session.Secret { return session.NewSecret("secret") }, Log: slog.New(slog.NewJSONHandler(s, nil)),
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer stop()
				c.Listen(ctx, nothing)
				if want := strings.Replace(tc.named, "ws", "http", 1); tc.dialled && (len(dialled) != 1 || !strings.EqualFold(dialled[0], want)) || !tc.dialled && len(dialled) > 0 {
					t.Errorf("dialled %q", dialled)
				}
				why := "is down"
				if !tc.dialled {
					why = "the address in Lark's answer"
				}
				if lines := s.logged(why); len(lines) != 1 || strings.Contains(lines[0], "pass") || strings.Contains(lines[0], "ticket-") {
					t.Errorf("the log says %q", s.logged(""))
				}
			})
		})
	}
}
