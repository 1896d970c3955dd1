package lark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	larkevent "github.com/larksuite/oapi-sdk-go/v3/event"
	"github.com/larksuite/oapi-sdk-go/v3/event/dispatcher"
	"github.com/larksuite/oapi-sdk-go/v3/event/dispatcher/callback"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"larkside/telemetry"
)

const (
	// listenFirst and listenMost bound the pauses between connections, which
	// double; one that held for listenHeld starts them over.
	listenFirst = time.Second
	listenMost  = time.Minute
	listenHeld  = time.Minute
	// handshakeTimeout bounds the way to an open connection, each step of it.
	handshakeTimeout = 10 * time.Second
)

// Listen keeps a long connection to Lark open, on which the app's events come
// in clear inside TLS, and hands each card click and revocation to handle, whose
// reply is sent as JSON and who must be done within 3 s. An error of handle's is
// told to Lark, which sends the event again, perhaps to another of the app's
// connections: it picks one for each event, at random. So are events of other
// types refused, which leaves them to the app's own connection, if it has one.
//
// Listen connects again, with growing pauses and the secret of the moment,
// until ctx ends; then it returns ctx's cause when no handle is running any more.
// larkside.events.connected is 1 while the connection stands.
// Source: Lark "receive events through a long connection", 2026-03-12.
func (c *Client) Listen(ctx context.Context, handle func(context.Context, *Event) (any, error)) error {
	connected, err := otel.Meter("larkside/session/lark").Int64Gauge("larkside.events.connected",
		metric.WithDescription("1 while the long connection for events stands."))
	if err != nil {
		return fmt.Errorf("listening for events: %w", err)
	}
	state := func(up int64) {
		connected.Record(context.WithoutCancel(ctx), up, metric.WithAttributes(telemetry.App.String(c.appID)))
	}
	state(0)
	events := c.newDispatcher(handle)
	for pause := listenFirst; ; pause = min(2*pause, listenMost) {
		began := time.Now()
		err := c.listenOnce(ctx, events, state)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Since(began) >= listenHeld {
			pause = listenFirst
		}
		wait := pause + rand.N(pause/2)
		// The SDK's errors may quote an address with a ticket in it.
		c.log.WarnContext(ctx, "the long connection for events is down; connecting again", "app_id", c.appID,
			"retry_in", wait.Round(time.Millisecond).String(), "error", describe(err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// describe keeps of an SDK's error what Lark documents: its code.
func describe(err error) string {
	var refused *larkws.ClientError
	var failed *larkws.ServerError
	switch {
	case errors.As(err, &refused):
		return fmt.Sprintf("Lark refuses it with code %d", refused.Code)
	case errors.As(err, &failed):
		return fmt.Sprintf("Lark failed with code %d", failed.Code)
	}
	return fmt.Sprintf("%T", err)
}

// listenOnce is one connection from dial to end. The SDK's own reconnecting is
// off: it waits for minutes, keeps the secret that it began with, and gives up
// for good on some codes.
func (c *Client) listenOnce(ctx context.Context, events *dispatcher.EventDispatcher, state func(int64)) error {
	transport, dialer := c.listenTransport()
	client := larkws.NewClient(c.appID, c.secret().Expose(),
		larkws.WithEventHandler(events), larkws.WithDomain(c.openURL), larkws.WithAutoReconnect(false), larkws.WithLogger(silent{}),
		larkws.WithHttpClient(&http.Client{Transport: transport, Timeout: handshakeTimeout, CheckRedirect: c.http.CheckRedirect}),
		larkws.WithWebSocketDialer(dialer),
		larkws.WithOnReady(func() {
			state(1)
			c.log.InfoContext(ctx, "the long connection for events stands", "app_id", c.appID)
		}),
		larkws.WithOnDisconnected(func() { state(0) }),
	)
	defer state(0)
	return client.Start(ctx)
}

// listenTransport is the client's own way to Lark: its roots and its proxy, not
// the environment's.
func (c *Client) listenTransport() (http.RoundTripper, *websocket.Dialer) {
	dialer := &websocket.Dialer{HandshakeTimeout: handshakeTimeout}
	base := c.http.Transport.(*recorder).base
	t, ok := base.(*http.Transport)
	if !ok {
		t = newTransport()
	}
	dialer.Proxy, dialer.NetDialContext = t.Proxy, t.DialContext
	if t.TLSClientConfig != nil {
		dialer.TLSClientConfig = t.TLSClientConfig.Clone()
		dialer.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	return base, dialer
}

// newDispatcher hands on what is of concern. The SDK decodes into types of its
// own, which lose a part; what counts is the message as it came.
func (c *Client) newDispatcher(handle func(context.Context, *Event) (any, error)) *dispatcher.EventDispatcher {
	d := dispatcher.NewEventDispatcher("", "")
	d.Config.Logger = silent{}
	take := func(ctx context.Context, r *larkevent.EventReq) (any, error) {
		m, err := parseEvent(r.Body)
		if err != nil {
			return nil, err
		}
		e, err := m.event()
		if err != nil {
			return nil, err
		}
		if e.AppID != c.appID {
			return nil, fmt.Errorf("an event of another app: %w", ErrEventForged)
		}
		return handle(ctx, e)
	}
	return d.OnCustomizedEvent(typeRevoked, func(ctx context.Context, r *larkevent.EventReq) error {
		_, err := take(ctx, r)
		return err
	}).OnP2CardActionTrigger(func(ctx context.Context, e *callback.CardActionTriggerEvent) (*callback.CardActionTriggerResponse, error) {
		reply, err := take(ctx, e.EventReq)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(reply)
		if err != nil {
			return nil, fmt.Errorf("encoding the reply to a click: %w", err)
		}
		out := &callback.CardActionTriggerResponse{}
		return out, json.Unmarshal(body, out)
	})
}

// silent is the SDK's logger: it would write payloads and addresses.
type silent struct{}

func (silent) Debug(context.Context, ...any) {}
func (silent) Info(context.Context, ...any)  {}
func (silent) Warn(context.Context, ...any)  {}
func (silent) Error(context.Context, ...any) {}
