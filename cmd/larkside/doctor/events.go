package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"larkside/session/lark"
)

// maxEvent bounds the body of a posted event.
const maxEvent = 64 << 10

// noEvent is the answer when none came.
const noEvent = "none came"

// listen begins to take the app's events, where there are any.
func (l *live) listen(ctx context.Context) error {
	switch l.Events {
	case "http":
		listener, err := l.Listen(ctx)
		if err != nil {
			l.say("\nEvents are not seen here: %v", err)
			return nil
		}
		l.events = make(chan *lark.Event, 64)
		server := &http.Server{Handler: http.HandlerFunc(l.serveEvent), ReadHeaderTimeout: 10 * time.Second}
		context.AfterFunc(ctx, func() { server.Close() })
		go server.Serve(listener)
	case "websocket":
		client, err := lark.New(l.App) // the recorder can't carry a WebSocket
		if err != nil {
			return err
		}
		l.events = make(chan *lark.Event, 64)
		go client.Listen(ctx, func(_ context.Context, e *lark.Event) (any, error) {
			l.take(e, nil)
			return struct{}{}, nil
		})
	}
	return nil
}

// serveEvent takes what Lark posts.
func (l *live) serveEvent(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	e, err := l.EventKeys.Open(r.Header, body, l.Now())
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if e.Challenge != "" {
		json.NewEncoder(w).Encode(map[string]string{"challenge": e.Challenge})
		return
	}
	var headers []string
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Lark-") || strings.HasPrefix(name, "X-Request-") || strings.HasPrefix(name, "X-Tt-") {
			headers = append(headers, name)
		}
	}
	slices.Sort(headers)
	l.take(e, headers)
	io.WriteString(w, "{}")
}

// take remembers an event. One too many is recorded all the same.
func (l *live) take(e *lark.Event, headers []string) {
	l.recorder.event(e.Raw, headers)
	select {
	case l.events <- e:
	default:
	}
}

// drain forgets the events that came before now.
func (l *live) drain() {
	for {
		select {
		case <-l.events: // a nil channel never has one
		default:
			return
		}
	}
}

var errNoEvent = errors.New(noEvent)

// awaitEvent returns the next event that is wanted, or [errNoEvent].
func (l *live) awaitEvent(ctx context.Context, patience time.Duration, wanted func(*lark.Event) bool) (*lark.Event, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case e := <-l.events:
			if wanted(e) {
				return e, nil
			}
		case <-timer.C:
			return nil, errNoEvent
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

const eventsOff = "events are off (LARKSIDE_EVENTS), or not seen here"

// awaitRevocation waits for revoked_v4 of the person and passes on what came.
func (l *live) awaitRevocation(ctx context.Context, b belief, observe func(belief, string)) error {
	if l.events == nil {
		l.skip(b, eventsOff)
		return nil
	}
	l.say("(waiting %s for an event)", l.EventWait)
	e, err := l.awaitEvent(ctx, l.EventWait, func(e *lark.Event) bool { return e.Revocation != nil && e.Revocation.OpenID == l.User })
	switch {
	case errors.Is(err, errNoEvent):
		observe(b, noEvent)
	case err != nil:
		return err
	default:
		var kinds []string
		if e.Revocation.AccessToken {
			kinds = append(kinds, "user_access_token")
		}
		if e.Revocation.RefreshToken {
			kinds = append(kinds, "refresh_token")
		}
		observe(b, e.Type+" for "+strings.Join(kinds, " and "))
	}
	return nil
}

// awaitCardClick has the person press the callback button.
func (l *live) awaitCardClick(ctx context.Context) error {
	b := l.step(belief{"a click on a callback button", "card.action.trigger comes, with who clicked and the button's value", "11.2"})
	if l.events == nil {
		l.skip(b, eventsOff)
		return nil
	}
	l.drain()
	l.say("\n→ Click the second button (decline) of the second card. Nothing is declined by it.")
	e, err := l.awaitEvent(ctx, clickWait, func(e *lark.Event) bool { return e.Click != nil })
	switch {
	case errors.Is(err, errNoEvent):
		l.expect(b, noEvent, false)
	case err != nil:
		return err
	default:
		l.expect(b, e.Type, e.Click.OpenID == l.User && e.Click.Value["action"] != "")
	}
	return nil
}
