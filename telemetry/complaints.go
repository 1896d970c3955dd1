package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// complaintEvery is the time between two lines of one kind.
const complaintEvery = time.Minute

// Complaints writes lines of a log that may come a thousand times a minute, and
// keeps them few: while Lark or the database is down, each request has the same
// to say. The first line of a kind is written at once. Those of the minute after
// it become one line: the latest of them, with "repeated", their number. It is
// safe for concurrent use. Make it with [NewComplaints].
type Complaints struct {
	log *slog.Logger

	mu    sync.Mutex
	kinds map[kind]*complaint
}

// kind is one message about one thing, such as an app: both are out of few.
type kind struct{ msg, about string }

type complaint struct {
	repeated int
	// latest is the last one that was not written.
	latest func(repeated int)
}

// NewComplaints returns a Complaints that writes to log; nil: nowhere.
func NewComplaints(log *slog.Logger) *Complaints {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Complaints{log: log, kinds: make(map[kind]*complaint)}
}

// Log writes a line, or counts it. Kinds are told apart by msg and by about, an
// app's id or another word out of few, which is not written. args are as for
// [slog.Logger.Log].
func (c *Complaints) Log(ctx context.Context, level slog.Level, msg, about string, args ...any) {
	if !c.log.Enabled(ctx, level) {
		return
	}
	k := kind{msg, about}
	c.mu.Lock()
	known, again := c.kinds[k]
	if again {
		// Only the ids of ctx are kept: it may hold a whole request.
		span, request := trace.SpanContextFromContext(ctx), RequestID(ctx)
		known.repeated++
		known.latest = func(repeated int) {
			ctx := trace.ContextWithSpanContext(context.Background(), span)
			ctx = context.WithValue(ctx, RequestIDKey{}, request)
			c.log.Log(ctx, level, msg, append(args[:len(args):len(args)], "repeated", repeated)...)
		}
	} else {
		c.kinds[k] = &complaint{}
		time.AfterFunc(complaintEvery, func() { c.sumUp(k) })
	}
	c.mu.Unlock()
	if !again {
		c.log.Log(ctx, level, msg, args...)
	}
}

// sumUp ends a minute, and begins another one if there was something to say.
func (c *Complaints) sumUp(k kind) {
	c.mu.Lock()
	known := c.kinds[k]
	if known.repeated == 0 {
		delete(c.kinds, k)
		c.mu.Unlock()
		return
	}
	latest, repeated := known.latest, known.repeated
	*known = complaint{}
	time.AfterFunc(complaintEvery, func() { c.sumUp(k) })
	c.mu.Unlock()
	latest(repeated)
}

// Handle makes c the error handler of OpenTelemetry: a collector that is down
// fails every few seconds.
func (c *Complaints) Handle(err error) {
	c.Log(context.Background(), slog.LevelWarn, "telemetry could not be exported", "", "error", err)
}
