package lark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"
)

const (
	// maxMessage is the most bytes of a WebSocket message, and of all unfinished
	// events together. A card click has 2 KB.
	maxMessage = 1 << 20
	// maxHandlers is how many events are handled at a time. When all are busy,
	// nothing is read from the connection.
	maxHandlers = 8
	// eventTimeout is how long Lark waits for an answer.
	eventTimeout = 3 * time.Second
	writeTimeout = 10 * time.Second

	// Lark says how often it wants pings. usualPings is for an answer without
	// that; leastPings and mostPings limit what it may say. [S] The SDK's 2 min.
	usualPings = 2 * time.Minute
	leastPings = 5 * time.Second
	mostPings  = 5 * time.Minute
	// pongPatience is how late an answer to a ping may be.
	pongPatience = 5 * time.Second
)

// clampPings returns the pause between pings for the seconds that Lark wants. 0
// means that Lark did not say.
func clampPings(seconds float64) time.Duration {
	if !(seconds > 0) {
		return usualPings
	}
	return time.Duration(min(max(seconds, leastPings.Seconds()), mostPings.Seconds()) * float64(time.Second))
}

// longConnection is an open long connection.
type longConnection struct {
	ws      *websocket.Conn
	events  *eventHandlers
	service int32        // Lark names it in the address and expects it in pings
	pings   atomic.Int64 // the pause between pings, a time.Duration
	parts   eventParts
}

func newLongConnection(ws *websocket.Conn, events *eventHandlers, address *url.URL, pings time.Duration) *longConnection {
	service, err := strconv.ParseInt(address.Query().Get(larkws.ServiceID), 10, 32)
	if err != nil {
		service = 0
	}
	ws.SetReadLimit(maxMessage)
	l := &longConnection{ws: ws, events: events, service: int32(service)}
	l.pings.Store(int64(pings))
	return l
}

var errNoFrame = errors.New("a message from Lark is not a frame")

// serve reads frames until the connection ends. It also returns if Lark sends
// what is not a frame, or breaks a limit: then no later frame can be trusted.
func (l *longConnection) serve(ctx context.Context) error {
	connected, cancel := context.WithCancel(ctx)
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	pinging.Go(func() { l.events.client.guard(ctx, func() error { return l.keepPinging(connected) }) })
	for {
		kind, message, err := l.read(ctx)
		if err != nil {
			return err
		}
		if kind != websocket.MessageBinary {
			continue // as the SDK does
		}
		var f larkws.Frame
		if f.Unmarshal(message) != nil {
			return errNoFrame
		}
		switch larkws.FrameType(f.Method) {
		case larkws.FrameTypeControl:
			l.adoptConfig(f)
		case larkws.FrameTypeData:
			if err := l.take(ctx, f); err != nil {
				return err
			}
		}
	}
}

// read returns the next message. The whole message has to come within the time
// of two pings. A peer that is silent for longer has lost the connection.
func (l *longConnection) read(ctx context.Context) (websocket.MessageType, []byte, error) {
	patience := 2*time.Duration(l.pings.Load()) + pongPatience
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	kind, message, err := l.ws.Read(bounded)
	status := websocket.CloseStatus(err)
	switch {
	case err == nil:
		return kind, message, nil
	case status != -1: // the reason that comes with it may be any text
		err = fmt.Errorf("closed by Lark with status %d", status)
	case errors.Is(err, websocket.ErrMessageTooBig):
		err = fmt.Errorf("a message from Lark is over %d bytes", maxMessage)
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("nothing came for %s", patience)
	default:
		err = opaqueCause(err, nil)
	}
	return 0, nil, err
}

// keepPinging sends pings until ctx or the connection ends.
func (l *longConnection) keepPinging(ctx context.Context) error {
	for {
		pause := time.Duration(l.pings.Load())
		if err := l.write(ctx, larkws.NewPingFrame(l.service)); err != nil {
			return err // the reader gets an error too
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write sends a frame. After an error the connection is closed.
func (l *longConnection) write(ctx context.Context, f *larkws.Frame) error {
	message, err := f.Marshal()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return l.ws.Write(ctx, websocket.MessageBinary, message)
}

// adoptConfig reads a pong. It may say how often Lark wants pings.
func (l *longConnection) adoptConfig(f larkws.Frame) {
	if larkws.MessageType(larkws.Headers(f.Headers).GetString(larkws.HeaderType)) != larkws.MessageTypePong {
		return
	}
	config, err := parseFields(f.Payload)
	if err != nil {
		return // it has no config
	}
	if seconds, ok := config.number("PingInterval"); ok {
		l.pings.Store(int64(clampPings(seconds)))
	}
}

// take starts the handling of an event once all its parts have come.
func (l *longConnection) take(ctx context.Context, f larkws.Frame) error {
	h := larkws.Headers(f.Headers)
	payload, err := l.parts.add(h.GetString(larkws.HeaderMessageID), h.GetInt(larkws.HeaderSum), h.GetInt(larkws.HeaderSeq), f.Payload, time.Now())
	if err != nil || payload == nil {
		return err
	}
	if larkws.MessageType(h.GetString(larkws.HeaderType)) != larkws.MessageTypeEvent {
		return nil // old card callbacks; the SDK does not answer them either
	}
	return l.events.start(ctx, payload, func(r larkws.Response, took time.Duration) error {
		f.Headers = append(f.Headers, larkws.Header{Key: larkws.HeaderBizRt, Value: strconv.FormatInt(took.Milliseconds(), 10)})
		body, err := json.Marshal(r)
		if err != nil {
			return err
		}
		f.Payload = body
		return l.write(ctx, &f) // if it fails, Lark sends the event again
	})
}

// eventHandlers calls the handle of one Listen, maxHandlers times at once at
// most. A handle that runs goes on when the connection breaks, so that a click
// is not left half done.
type eventHandlers struct {
	client  *Client
	handle  func(context.Context, *Event) (any, error)
	slots   chan struct{}
	running sync.WaitGroup
}

func newEventHandlers(c *Client, handle func(context.Context, *Event) (any, error)) *eventHandlers {
	return &eventHandlers{client: c, handle: handle, slots: make(chan struct{}, maxHandlers)}
}

// start waits until fewer than maxHandlers events are handled, then handles this
// one in the background.
func (h *eventHandlers) start(ctx context.Context, payload []byte, answer func(larkws.Response, time.Duration) error) error {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.running.Go(func() {
		defer func() { <-h.slots }()
		began := time.Now()
		r := larkws.Response{StatusCode: http.StatusOK}
		err := h.client.guard(ctx, func() (err error) {
			r.Data, err = h.respond(ctx, payload)
			return err
		})
		if err != nil {
			r = larkws.Response{StatusCode: http.StatusInternalServerError}
		}
		h.client.guard(ctx, func() error { return answer(r, time.Since(began)) })
	})
	return nil
}

// respond handles an event and returns the reply as JSON. Only a click has a
// reply.
func (h *eventHandlers) respond(ctx context.Context, payload []byte) ([]byte, error) {
	e, reply, err := h.dispatch(ctx, payload)
	if err != nil || e.Click == nil || reply == nil {
		return nil, err
	}
	return json.Marshal(reply)
}

var errUnwanted = errors.New("an event of a type that is not handled here")

func (h *eventHandlers) dispatch(ctx context.Context, payload []byte) (e *Event, reply any, err error) {
	m, err := parseEvent(payload)
	if err != nil {
		return nil, nil, err
	}
	if e, err = m.event(); err != nil {
		return nil, nil, err
	}
	switch {
	case e.Click == nil && e.Revocation == nil:
		return nil, nil, errUnwanted
	case e.AppID != h.client.appID:
		return nil, nil, fmt.Errorf("an event of another app: %w", ErrEventForged)
	}
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	reply, err = h.handle(ctx, e)
	return e, reply, err
}
