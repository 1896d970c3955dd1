package session

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// Group lets concurrent callers that want the same thing for one [Key] share
// one run of the work. The zero Group is ready.
//
// golang.org/x/sync/singleflight would do but for two points: its keys are
// strings, and a joined string can be made to collide (Traefik CVE-2026-71326),
// and it runs the work on the first caller's goroutine, so that caller can't
// leave before the work ends.
type Group[V any] struct {
	mu      sync.Mutex
	running map[Key]*flight[V]
}

type flight[V any] struct {
	done chan struct{}
	// by is the span of who started it.
	by    trace.SpanContext
	value V
	err   error
}

// Do returns the outcome of work for key. The first caller starts it, on a
// goroutine of its own whose context keeps the caller's values but not its
// cancellation: a client that hangs up must not abort what others wait for.
// Each caller waits for as long as its own ctx lives. joined reports whether
// the work had been started by another caller.
func (g *Group[V]) Do(ctx context.Context, key Key, work func(context.Context) (V, error)) (value V, joined bool, err error) {
	f, joined := g.start(ctx, key, work)
	if joined {
		// The work is in another request's trace: this one leads there.
		if span := trace.SpanFromContext(ctx); span.IsRecording() && f.by.IsValid() {
			span.AddLink(trace.Link{SpanContext: f.by})
		}
	}
	select {
	case <-f.done:
		return f.value, joined, f.err
	case <-ctx.Done():
		return value, joined, context.Cause(ctx)
	}
}

// Start runs work behind the caller unless it is running already.
func (g *Group[V]) Start(ctx context.Context, key Key, work func(context.Context) (V, error)) {
	g.start(ctx, key, work)
}

// Wait returns when no work runs, or with ctx's error. Work that is started
// meanwhile is waited for too.
func (g *Group[V]) Wait(ctx context.Context) error {
	for f := g.any(); f != nil; f = g.any() {
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// any returns some work that runs, nil when there is none.
func (g *Group[V]) any() *flight[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.running {
		return f
	}
	return nil
}

func (g *Group[V]) start(ctx context.Context, key Key, work func(context.Context) (V, error)) (f *flight[V], joined bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, ok := g.running[key]; ok {
		return f, true
	}
	if g.running == nil {
		g.running = make(map[Key]*flight[V])
	}
	f = &flight[V]{done: make(chan struct{}), by: trace.SpanContextFromContext(ctx)}
	g.running[key] = f
	go func() {
		f.value, f.err = work(context.WithoutCancel(ctx))
		g.mu.Lock()
		delete(g.running, key)
		g.mu.Unlock()
		close(f.done)
	}()
	return f, false
}
