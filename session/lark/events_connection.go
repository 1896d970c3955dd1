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
	// maxMessage bounds a WebSocket message, and an event that comes in parts. A
	// card click has 2 KB.
	maxMessage = 1 << 20
	// maxHandlers is how many events are handled at a time. Lark waits meanwhile.
	maxHandlers = 8
	// eventTimeout is how long Lark waits for an answer.
	eventTimeout = 3 * time.Second
	writeTimeout = 10 * time.Second

	// Lark says how often it wants pings; 2 minutes, as far as anybody has seen.
	// leastPings and mostPings bound what it may say.
	usualPings = 2 * time.Minute
	leastPings = 5 * time.Second
	mostPings  = 5 * time.Minute
	// pongPatience is how late an answer to a ping may be.
	pongPatience = 5 * time.Second
)

// clampPings turns Lark's seconds between pings into a pause; 0 is none said.
func clampPings(seconds float64) time.Duration {
	if !(seconds > 0) {
		return usualPings
	}
	return time.Duration(min(max(seconds, leastPings.Seconds()), mostPings.Seconds()) * float64(time.Second))
}

// longConnection is one that is open.
type longConnection struct {
	ws      *websocket.Conn
	events  *eventHandlers
	service int32        // for pings; Lark's to choose
	pings   atomic.Int64 // the pause between pings
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

// serve reads until the connection ends or something breaks a bound, which ends
// it: behind that no frame can be trusted.
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
			continue // the SDK passes over it too
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

// read returns the next message. The whole of it has to come within the time in
// which two pings are answered: a peer that is silent is not there any more.
func (l *longConnection) read(ctx context.Context) (websocket.MessageType, []byte, error) {
	patience := 2*time.Duration(l.pings.Load()) + pongPatience
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	kind, message, err := l.ws.Read(bounded)
	status := websocket.CloseStatus(err)
	switch {
	case err == nil:
		return kind, message, nil
	case status != -1: // the reason beside it is somebody's text
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

// keepPinging ends with ctx, or with the connection.
func (l *longConnection) keepPinging(ctx context.Context) error {
	for {
		pause := time.Duration(l.pings.Load())
		if err := l.write(ctx, larkws.NewPingFrame(l.service)); err != nil {
			return err // the reader sees it too
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write sends a frame. An error has ended the connection.
func (l *longConnection) write(ctx context.Context, f *larkws.Frame) error {
	message, err := f.Marshal()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return l.ws.Write(ctx, websocket.MessageBinary, message)
}

// adoptConfig reads a pong, which may say how often pings are wanted.
func (l *longConnection) adoptConfig(f larkws.Frame) {
	if larkws.MessageType(larkws.Headers(f.Headers).GetString(larkws.HeaderType)) != larkws.MessageTypePong {
		return
	}
	config, err := parseFields(f.Payload)
	if err != nil {
		return // most have none
	}
	if seconds, ok := config.number("PingInterval"); ok {
		l.pings.Store(int64(clampPings(seconds)))
	}
}

// take has an event handled and answered, when all of it is there.
func (l *longConnection) take(ctx context.Context, f larkws.Frame) error {
	h := larkws.Headers(f.Headers)
	payload, err := l.parts.add(h.GetString(larkws.HeaderMessageID), h.GetInt(larkws.HeaderSum), h.GetInt(larkws.HeaderSeq), f.Payload, time.Now())
	if err != nil || payload == nil {
		return err
	}
	if larkws.MessageType(h.GetString(larkws.HeaderType)) != larkws.MessageTypeEvent {
		return nil // cards of the old kind, to which the SDK says nothing either
	}
	return l.events.start(ctx, payload, func(r larkws.Response, took time.Duration) error {
		f.Headers = append(f.Headers, larkws.Header{Key: larkws.HeaderBizRt, Value: strconv.FormatInt(took.Milliseconds(), 10)})
		body, err := json.Marshal(r)
		if err != nil {
			return err
		}
		f.Payload = body
		return l.write(ctx, &f) // without an answer Lark sends it again
	})
}

// eventHandlers run a Listen's handle, some at a time. They outlive a connection
// that breaks: a click that has begun is not done by halves.
type eventHandlers struct {
	client  *Client
	handle  func(context.Context, *Event) (any, error)
	slots   chan struct{}
	running sync.WaitGroup
}

func newEventHandlers(c *Client, handle func(context.Context, *Event) (any, error)) *eventHandlers {
	return &eventHandlers{client: c, handle: handle, slots: make(chan struct{}, maxHandlers)}
}

// start handles an event beside the caller, once there is room.
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

// respond has an event handled and returns the reply to a click as JSON. Its
// error is for what is not ours, and for what handle could not do.
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
