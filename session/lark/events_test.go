package lark_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"

	"larkside/session"
	"larkside/session/lark"
)

// station stands in for Lark's long connection: it hands out the address, takes
// connections and gives each to the test.
type station struct {
	*httptest.Server
	conns   chan *websocket.Conn
	secrets chan string
	h2      atomic.Bool // the bootstrap request came over HTTP/2
}

func newStation(t *testing.T) *station {
	t.Helper()
	s := newUnstartedStation(t)
	s.Start()
	return s
}

func newUnstartedStation(t *testing.T) *station {
	t.Helper()
	s := &station{conns: make(chan *websocket.Conn, 10), secrets: make(chan string, 10)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /callback/ws/endpoint", func(w http.ResponseWriter, r *http.Request) {
		var in larkws.BootstrapRequest
		json.NewDecoder(r.Body).Decode(&in)
		s.secrets <- in.AppSecret
		s.h2.Store(r.ProtoMajor == 2)
		fmt.Fprintf(w, `{"code":0,"data":{"URL":"%s/connect?device_id=1&service_id=1","ClientConfig":{"PingInterval":120}}}`,
			strings.Replace(s.URL, "http", "ws", 1))
	})
	mux.HandleFunc("/connect", func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		s.conns <- conn
	})
	s.Server = httptest.NewUnstartedServer(mux)
	t.Cleanup(s.Close)
	return s
}

// push sends an event and returns the status and body of the answer.
func push(t *testing.T, conn *websocket.Conn, event string) (int, string) {
	t.Helper()
	f := larkws.Frame{Method: int32(larkws.FrameTypeData), Headers: []larkws.Header{
		{Key: larkws.HeaderType, Value: string(larkws.MessageTypeEvent)}, {Key: larkws.HeaderMessageID, Value: "m"}, {Key: larkws.HeaderSum, Value: "1"},
	}, Payload: []byte(event)}
	message, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Write(t.Context(), websocket.MessageBinary, message); err != nil {
		t.Fatal(err)
	}
	for { // what comes first may be a ping
		_, message, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var f larkws.Frame
		if err := f.Unmarshal(message); err != nil {
			t.Fatal(err)
		}
		var r larkws.Response
		if larkws.FrameType(f.Method) == larkws.FrameTypeData && json.Unmarshal(f.Payload, &r) == nil {
			return r.StatusCode, string(r.Data)
		}
	}
}

func event(kind, app, body string) string {
	return fmt.Sprintf(`{"schema":"2.0","header":{"event_id":"e","create_time":"1700000000000","event_type":%q,"app_id":%q},"event":%s}`, kind, app, body)
}

func within[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("not seen: " + what)
		panic("unreachable")
	}
}

// The long connection: clicks and revocations are handled, answers go back,
// what is of no concern is left to others, a lost connection comes again with
// the secret of the moment, and all ends with the context.
func TestListen(t *testing.T) {
	s := newStation(t)
	secrets := []string{"first", "second"}
	c, err := lark.New(lark.Config{
		AppID: "cli_listens", OpenURL: s.URL, AccountsURL: s.URL, TokenURL: s.URL + "/t",
		Secret: func() session.Secret {
			one := secrets[0]
			secrets = slices.Concat(secrets[1:], secrets[:1])
			return session.NewSecret(one)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	type reply struct {
		Toast map[string]any `json:"toast"`
	}
	seen := make(chan *lark.Event, 10)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Listen(ctx, func(ctx context.Context, e *lark.Event) (any, error) {
			seen <- e
			if e.Click != nil && e.Click.Value["action"] == "fail" {
				return nil, errors.New("not now")
			}
			return reply{map[string]any{"type": "info", "content": "Done", "i18n": map[string]string{"ja_jp": "完了"}}}, nil
		})
	}()
	conn := within(t, "a connection", s.conns)
	if got := within(t, "the secret", s.secrets); got != "first" {
		t.Errorf("connected with %q", got)
	}
	click := func(action string) string {
		return event("card.action.trigger", "cli_listens", fmt.Sprintf(`{"operator":{"open_id":"ou_x"},"action":{"value":{"action":%q}}}`, action))
	}
	status, body := push(t, conn, click("decline"))
	if e := within(t, "the click", seen); e.Click == nil || e.Click.OpenID != "ou_x" || e.Click.Value["action"] != "decline" || e.ID != "e" {
		t.Errorf("event %+v", e)
	}
	if status != 200 || body != `{"toast":{"content":"Done","i18n":{"ja_jp":"完了"},"type":"info"}}` {
		t.Errorf("answer %d %s", status, body)
	}
	if status, _ := push(t, conn, click("fail")); status != 500 {
		t.Errorf("what could not be handled is answered with %d", status)
	}
	within(t, "the click", seen)
	status, _ = push(t, conn, event("auth.user_access_token.revoked_v4", "cli_listens", `{"open_id":"ou_x","revoke_token_type":"refresh_token "}`))
	if e := within(t, "the revocation", seen); status != 200 || e.Revocation == nil || !e.Revocation.RefreshToken || e.Revocation.AccessToken {
		t.Errorf("answer %d, event %+v", status, e)
	}
	for what, other := range map[string]string{
		"another type": event("im.message.receive_v1", "cli_listens", `{}`),
		"another app":  event("auth.user_access_token.revoked_v4", "cli_other", `{"open_id":"ou_x","revoke_token_type":"refresh_token"}`),
		"not JSON":     `{`,
	} {
		if status, _ := push(t, conn, other); status != 500 || len(seen) != 0 {
			t.Errorf("%s: answer %d, %d events handled", what, status, len(seen))
		}
	}
	conn.CloseNow()
	again := within(t, "another connection", s.conns)
	if got := within(t, "the secret", s.secrets); got != "second" {
		t.Errorf("connected again with %q", got)
	}
	if status, _ := push(t, again, click("decline")); status != 200 {
		t.Errorf("over the second connection: %d", status)
	}
	stop()
	if err := within(t, "the end", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Listen ended with %v", err)
	}
}

// A transport that speaks HTTP/2 to the Open Platform connects with HTTP/1.1,
// inside TLS.
func TestListenTLS(t *testing.T) {
	s := newUnstartedStation(t)
	s.EnableHTTP2 = true
	s.StartTLS()
	transport := s.Client().Transport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = true
	c, err := lark.New(lark.Config{AppID: "cli_listens", OpenURL: s.URL, AccountsURL: s.URL, Transport: transport,
		Secret: func() session.Secret { return session.NewSecret("secret") }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Listen(ctx, nothing) }()
	conn := within(t, "a connection", s.conns)
	if status, _ := push(t, conn, event("auth.user_access_token.revoked_v4", "cli_listens", `{"open_id":"ou_x"}`)); status != 200 {
		t.Errorf("answer %d", status)
	}
	stop()
	within(t, "the end", ended)
	if !s.h2.Load() {
		t.Error("the bootstrap request did not come over HTTP/2: does this test still understand the transport?")
	}
}

// A handle that is still running when the context ends is told so and waited for.
func TestListenWaitsForHandlers(t *testing.T) {
	s := newStation(t)
	c, err := lark.New(lark.Config{AppID: "cli_listens", OpenURL: s.URL, AccountsURL: s.URL, TokenURL: s.URL + "/t",
		Secret: func() session.Secret { return session.NewSecret("secret") }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	began, done, ended := make(chan bool), make(chan bool, 1), make(chan error, 1)
	go func() {
		ended <- c.Listen(ctx, func(ctx context.Context, _ *lark.Event) (any, error) {
			close(began)
			<-ctx.Done()
			done <- true
			return nil, ctx.Err()
		})
	}()
	conn := within(t, "a connection", s.conns)
	f := larkws.Frame{Method: int32(larkws.FrameTypeData), Headers: []larkws.Header{{Key: larkws.HeaderType, Value: "event"}},
		Payload: []byte(event("auth.user_access_token.revoked_v4", "cli_listens", `{"open_id":"ou_x"}`))}
	message, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Write(t.Context(), websocket.MessageBinary, message); err != nil {
		t.Fatal(err)
	}
	within(t, "the handler", began)
	stop()
	within(t, "the end", ended)
	if len(done) != 1 {
		t.Error("Listen returned before its handler")
	}
}

// Whatever is posted, Open neither panics nor takes what is not signed.
func FuzzOpenEvent(f *testing.F) {
	keys := lark.EventKeys{
		Token:      func() session.Secret { return session.NewSecret("token") },
		EncryptKey: func() session.Secret { return session.NewSecret("key") },
	}
	f.Add([]byte(`{"encrypt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="}`), "", "")
	f.Add([]byte(`{"challenge":"c","token":"token","type":"url_verification"}`), "0000", "1700000000")
	f.Fuzz(func(t *testing.T, body []byte, signature, stamp string) {
		h := http.Header{"X-Lark-Signature": {signature}, "X-Lark-Request-Timestamp": {stamp}}
		e, err := keys.Open(h, body, time.Unix(1700000000, 0))
		if err == nil || e != nil || !errors.Is(err, lark.ErrEventForged) && !errors.Is(err, lark.ErrEventMalformed) {
			t.Errorf("%+v, %v", e, err)
		}
	})
}
