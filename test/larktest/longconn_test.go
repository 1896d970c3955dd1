package larktest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
	larkevent "github.com/larksuite/oapi-sdk-go/v3/event"
	"github.com/larksuite/oapi-sdk-go/v3/event/dispatcher"
	"github.com/larksuite/oapi-sdk-go/v3/event/dispatcher/callback"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"
)

// official connects Lark's own client until the test ends, and returns the
// bodies of the events that it gets.
func official(t *testing.T, p *Platform, secret string) (events chan string, ended chan error) {
	t.Helper()
	events, ended = make(chan string, 10), make(chan error, 1)
	take := func(r *larkevent.EventReq) { events <- string(r.Body) }
	handler := dispatcher.NewEventDispatcher("", "").
		OnCustomizedEvent(RevokedEvent, func(_ context.Context, r *larkevent.EventReq) error { take(r); return nil }).
		OnP2CardActionTrigger(func(_ context.Context, e *callback.CardActionTriggerEvent) (*callback.CardActionTriggerResponse, error) {
			take(e.EventReq)
			return &callback.CardActionTriggerResponse{Toast: &callback.Toast{Type: "info", Content: "seen"}}, nil
		})
	client := larkws.NewClient(AppID, secret, larkws.WithEventHandler(handler), larkws.WithDomain(p.URL),
		larkws.WithAutoReconnect(false), larkws.WithLogLevel(larkcore.LogLevelError))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- client.Start(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return events, ended
}

func connected(t *testing.T, p *Platform, n int) {
	t.Helper()
	err := p.Wait(t.Context(), func() bool { return len(p.LongConnections(AppID)) == n })
	if err != nil {
		t.Fatal(err)
	}
}

// Lark's own client understands the emulator: events, answers, pings.
func TestLongConnection(t *testing.T) {
	p := Start(t, nil)
	if _, err := p.SendRevoked(t.Context(), Alice, "user"); !errors.Is(err, ErrNoEvents) {
		t.Errorf("nobody is connected: %v", err)
	}
	events, _ := official(t, p, AppSecret)
	connected(t, p, 1)
	// In one frame: this client combines frames in goroutines that race with each
	// other (v3.12.0). Larkside's own gets events in parts in test/e2e.
	reply, err := p.SendRevoked(t.Context(), Alice, "user")
	if err != nil || reply.Status != 200 {
		t.Fatalf("%+v, %v", reply, err)
	}
	var event struct{ Event map[string]string }
	if body := <-events; json.Unmarshal([]byte(body), &event) != nil || event.Event["open_id"] != Alice {
		t.Errorf("%s", body)
	}
	id := messageID(t, post(t, p, tenant(t, p), Alice, authCard, ""))
	reply, err = p.Click(t.Context(), id, 1)
	if err != nil || reply.Status != 200 || !strings.Contains(string(reply.Body), `"seen"`) {
		t.Errorf("a click: %d %s, %v", reply.Status, reply.Body, err)
	}
	if reply, err := p.SendEvent(t.Context(), Event{AppID: AppID, Type: "x.y_v1", Body: object{}}); err != nil || reply.Status != 500 {
		t.Errorf("an event that the client does not know: %+v, %v", reply, err)
	}
	open := itemsOf(t, control(t, p, "GET", "long_connections?app_id="+AppID, ""))
	if c := open[0].(map[string]any); c["sent"] != 3.0 || c["answered"] != 3.0 || c["pings"] != 1.0 {
		t.Errorf("%v", c)
	}
	wantStatus(t, control(t, p, "DELETE", "long_connections?app_id="+AppID, ""), 200)
	connected(t, p, 0)
}

// Whom Lark doesn't let in.
func TestLongConnectionRefusals(t *testing.T) {
	p := Start(t, nil)
	_, ended := official(t, p, "another secret")
	var refused *larkws.ClientError
	if err := <-ended; !errors.As(err, &refused) || refused.Code != larkws.AuthFailed {
		t.Errorf("another secret: %v", err)
	}
	for range maxLongConnections {
		official(t, p, AppSecret)
	}
	connected(t, p, maxLongConnections)
	_, ended = official(t, p, AppSecret)
	if err := <-ended; !errors.As(err, &refused) || refused.Code != larkws.AuthFailed {
		t.Errorf("one too many: %v", err)
	}
	r, err := http.Get(p.URL + streamPath + "?ticket=made-up")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode == http.StatusOK || r.Header.Get(larkws.HeaderHandshakeStatus) != "403" {
		t.Errorf("a made up ticket: %d %v", r.StatusCode, r.Header)
	}
}
