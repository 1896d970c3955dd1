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
	// listenFirst is the first pause between connections. Pauses double up to
	// listenMost. After a connection that lasted for listenHeld they start
	// over.
	listenFirst = time.Second
	listenMost  = time.Minute
	listenHeld  = time.Minute
	// handshakeTimeout bounds each step of opening a connection.
	handshakeTimeout = 10 * time.Second
)

// Listen keeps a long connection to Lark open, on which the app's events come
// unencrypted inside TLS. It passes each card click and revocation to handle,
// which must return within 3 s, and sends its reply as JSON. If handle returns
// an error, Lark sends the event again. Lark picks one of the app's connections
// for each event, at random. Events of other types are refused, so that Lark
// sends them to the app's own connection, if it has one.
//
// Listen connects again until ctx ends, with growing pauses and the present
// secret. Then it returns ctx's cause when no handle is running any more.
// larkside.events.connected is 1 while the connection is open. Source: Lark
// "receive events through a long connection", 2026-03-12.
func (c *Client) Listen(ctx context.Context, handle func(context.Context, *Event) (any, error)) error {
	connected, err := otel.Meter("larkside/session/lark").Int64Gauge("larkside.events.connected",
		metric.WithDescription("1 while the long connection for events is open."))
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
		// The SDK's errors may quote an address that has a ticket.
		c.log.WarnContext(ctx, "the long connection for events is down; connecting again", "app_id", c.appID,
			"retry_in", wait.Round(time.Millisecond).String(), "error", describe(err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// describe returns what may be logged of an SDK's error: its code.
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

// listenOnce opens one connection and returns when it ends. The SDK does not
// connect again by itself: it would wait for minutes, keep the secret that it
// began with, and give up for good on some codes.
func (c *Client) listenOnce(ctx context.Context, events *dispatcher.EventDispatcher, state func(int64)) error {
	transport, dialer := c.listenTransport()
	client := larkws.NewClient(c.appID, c.secret().Expose(),
		larkws.WithEventHandler(events), larkws.WithDomain(c.openURL), larkws.WithAutoReconnect(false), larkws.WithLogger(silent{}),
		larkws.WithHttpClient(&http.Client{Transport: transport, Timeout: handshakeTimeout, CheckRedirect: c.http.CheckRedirect}),
		larkws.WithWebSocketDialer(dialer),
		larkws.WithOnReady(func() {
			state(1)
			c.log.InfoContext(ctx, "the long connection for events is open", "app_id", c.appID)
		}),
		larkws.WithOnDisconnected(func() { state(0) }),
	)
	defer state(0)
	return client.Start(ctx)
}

// listenTransport returns a transport and a dialer with the client's roots and
// proxy, not the environment's.
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

// newDispatcher returns a dispatcher that passes clicks and revocations to
// handle. The SDK's own types lack a part of a message, so the raw message is
// parsed.
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

// silent is the SDK's logger. The SDK would log payloads and addresses.
type silent struct{}

func (silent) Debug(context.Context, ...any) {}
func (silent) Info(context.Context, ...any)  {}
func (silent) Warn(context.Context, ...any)  {}
func (silent) Error(context.Context, ...any) {}
