package console

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"larkside/telemetry"
)

const (
	// lookEvery is how often changes are looked for while somebody watches.
	// changeEvery is how often a page is drawn anew even without a change,
	// since "a minute ago" becomes wrong by itself.
	lookEvery   = 2 * time.Second
	changeEvery = 10 * time.Second
	// heartbeat keeps a stream alive through proxies that drop silent ones.
	heartbeat = 15 * time.Second
	// maxStreams bounds how many watch one replica.
	maxStreams = 32
	// sendWithin is how long a browser may take to take an event.
	sendWithin = 10 * time.Second
)

// live tells browsers that something has changed. They load the page again to
// see what. One goroutine looks for changes for all of them, and only while
// somebody watches.
type live struct {
	pulse func(context.Context) string

	mu       sync.Mutex
	watching map[chan struct{}]struct{}
	closed   chan struct{}
	isClosed bool
	stop     context.CancelFunc // of the goroutine; nil when it is not running
}

func newLive(pulse func(context.Context) string) *live {
	return &live{pulse: pulse, watching: make(map[chan struct{}]struct{}), closed: make(chan struct{})}
}

// watch returns a channel that gets a value after each change. leave ends it.
// It fails if too many watch, or if live is closed.
func (l *live) watch() (changed <-chan struct{}, leave func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed || len(l.watching) >= maxStreams {
		return nil, nil, false
	}
	c := make(chan struct{}, 1)
	l.watching[c] = struct{}{}
	if l.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		l.stop = cancel
		go l.run(ctx)
	}
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watching, c)
		if len(l.watching) == 0 {
			l.rest()
		}
	}, true
}

// rest ends the goroutine. l.mu is held.
func (l *live) rest() {
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
}

func (l *live) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isClosed {
		l.isClosed = true
		close(l.closed)
		l.rest()
	}
}

func (l *live) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last, told, again := l.pulse(ctx), time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := l.pulse(ctx)
		// After a change they are told once more, since what belongs to it may
		// be stored a moment later.
		if now != last || again || time.Since(told) >= changeEvery {
			again, last, told = now != last, now, time.Now()
			l.tell()
		}
	}
}

func (l *live) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.watching {
		select {
		case c <- struct{}{}:
		default: // a value is waiting already
		}
	}
}

// pulse returns a text that changes when anything on the pages changes.
func (k *Console) pulse(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	stored := "starting"
	if s := k.Store(); s != nil {
		var err error
		if stored, err = s.Directory.Fingerprint(ctx); err != nil {
			stored = "unavailable"
		}
	}
	counted := int64(0)
	for _, t := range Tracked() {
		for _, s := range k.History.Series(ctx, t, minute) {
			counted += s.Total
		}
	}
	return fmt.Sprint(stored, counted, k.Recent.Seen(), k.Ready(ctx))
}

// minute is one in steps of the history.
const minute = int(time.Minute / telemetry.HistoryStep)

// events is the stream of "change" events, without data.
func (k *Console) events(w http.ResponseWriter, r *http.Request) error {
	changed, leave, ok := k.live.watch()
	if !ok {
		return errFull
	}
	defer leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	out := http.NewResponseController(w)
	defer out.SetWriteDeadline(time.Time{}) // the last event's may be over when the stream ends
	send := func(text string) bool {
		out.SetWriteDeadline(time.Now().Add(sendWithin))
		_, err := w.Write([]byte(text))
		return err == nil && out.Flush() == nil
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	// The first change is what came between the page and its stream.
	for open := send("retry: 3000\n\nevent: change\ndata:\n\n"); open; {
		select {
		case <-r.Context().Done():
			return nil
		case <-k.live.closed:
			return nil
		case <-changed: // a sign-in may have ended meanwhile
			open = k.admitted(r) && send("event: change\ndata:\n\n")
		case <-beat.C:
			open = k.admitted(r) && send(": still here\n\n")
		}
	}
	return nil
}
