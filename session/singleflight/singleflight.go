// Package singleflight lets concurrent callers that want the same work share
// one run of it.
//
// It does what golang.org/x/sync/singleflight does, with two differences. Keys
// have any comparable type, since a key that is joined to one string can be
// made to collide (Traefik CVE-2026-71326). And the work runs on a goroutine of
// its own, so that the caller who started it can leave before it ends.
package singleflight

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// Group is a set of work, by key. The zero Group is ready. It is safe for
// concurrent use.
type Group[K comparable, V any] struct {
	mu      sync.Mutex
	flights map[K]*flight[V]
}

// flight is one run.
type flight[V any] struct {
	done chan struct{}
	// starter is the span of the caller who started the run.
	starter trace.SpanContext
	value   V
	err     error
}

// Do returns the outcome of work for key. The first caller starts it. The
// work's context has that caller's values but not its cancellation: a client
// that hangs up must not abort what others wait for. Each caller waits until
// its own ctx ends. joined reports whether another caller had started the work.
func (g *Group[K, V]) Do(ctx context.Context, key K, work func(context.Context) (V, error)) (value V, joined bool, err error) {
	f, joined := g.start(ctx, key, work)
	if joined {
		// The work is in the starter's trace, so this trace links to it.
		if span := trace.SpanFromContext(ctx); span.IsRecording() && f.starter.IsValid() {
			span.AddLink(trace.Link{SpanContext: f.starter})
		}
	}
	select {
	case <-f.done:
		return f.value, joined, f.err
	case <-ctx.Done():
		return value, joined, context.Cause(ctx)
	}
}

// Start starts work for key, unless it is running already, and does not wait.
func (g *Group[K, V]) Start(ctx context.Context, key K, work func(context.Context) (V, error)) {
	g.start(ctx, key, work)
}

// Wait returns when no work is running, also none that was started since, or
// with ctx's error.
func (g *Group[K, V]) Wait(ctx context.Context) error {
	for f := g.any(); f != nil; f = g.any() {
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// any returns a flight, or nil if there is none.
func (g *Group[K, V]) any() *flight[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.flights {
		return f
	}
	return nil
}

func (g *Group[K, V]) start(ctx context.Context, key K, work func(context.Context) (V, error)) (f *flight[V], joined bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, ok := g.flights[key]; ok {
		return f, true
	}
	if g.flights == nil {
		g.flights = make(map[K]*flight[V])
	}
	f = &flight[V]{done: make(chan struct{}), starter: trace.SpanContextFromContext(ctx)}
	g.flights[key] = f
	go func() {
		f.value, f.err = work(context.WithoutCancel(ctx))
		g.mu.Lock()
		delete(g.flights, key)
		g.mu.Unlock()
		close(f.done)
	}()
	return f, false
}
