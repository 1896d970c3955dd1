// Package inprocess has what tests of Larkside's parts share when they run them
// in their own process: Lark's emulator without a socket, a database, and ways to
// wait. It works in a synctest bubble, whose clock runs only while everyone
// waits. Package process is the same for the real binary.
package inprocess

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// Origin is where the emulator of [NewLark] is, as far as URLs say.
const Origin = "https://lark.test"

// World is one Lark and one database, and what replicas on them have logged.
type World struct {
	T    testing.TB
	Lark *larktest.Platform
	DB   *dbtest.DB
	// Store is the first replica's way to DB.
	Store *store.DB
	Log   *Buffer
}

// New returns a world on db. change may be nil.
func New(t testing.TB, db *dbtest.DB, change func(*larktest.Config)) *World {
	t.Helper()
	return &World{T: t, Lark: NewLark(t, change), DB: db, Store: db.Open(t, nil), Log: &Buffer{}}
}

// NewLark returns an emulator that lives until the test ends and takes any
// number of refreshes. change may be nil.
func NewLark(t testing.TB, change func(*larktest.Config)) *larktest.Platform {
	c := larktest.Config{URL: Origin, TokenPerSecond: -1, TokenPerMinute: -1}
	if change != nil {
		change(&c)
	}
	p := larktest.New(c)
	t.Cleanup(p.Close)
	return p
}

// Client is the default app's client of p. A nil transport is p's own.
func Client(t testing.TB, p *larktest.Platform, transport http.RoundTripper) *lark.Client {
	t.Helper()
	if transport == nil {
		transport = p.Transport()
	}
	c, err := lark.New(lark.Config{
		AppID: larktest.AppID, Secret: func() session.Secret { return session.NewSecret(larktest.AppSecret) },
		OpenURL: p.URL, AccountsURL: p.URL, TokenURL: p.URL + dbtest.TokenPath, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Row is a session as it is stored.
func (w *World) Row(key session.Key) *session.Session {
	w.T.Helper()
	row, err := w.Store.Sessions.Load(w.T.Context(), key)
	if err != nil {
		w.T.Fatal(err)
	}
	return row
}

// TokenCalls is how often the token endpoint was asked.
func (w *World) TokenCalls() int { return len(w.Lark.Calls(larktest.To(larktest.TokenEndpoint))) }

// Await looks ten times a second, for five minutes, whether something is done.
// The test fails with what when it isn't.
func (w *World) Await(what string, done func() bool) {
	w.T.Helper()
	for range 3000 {
		if done() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.T.Fatalf("not seen: %s\n%s", what, w.Log)
}

// AwaitHit waits until a fault has struck. Without a deadline the clock of a
// bubble would run on for ever.
func (w *World) AwaitHit(fault *larktest.Injection) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(w.T.Context(), 10*time.Minute)
	defer cancel()
	if err := fault.Await(ctx, 1); err != nil {
		w.T.Fatalf("the fault never struck: %v\n%s", err, w.Log)
	}
}

// AwaitCard waits until the latest message to a user says something.
func (w *World) AwaitCard(openID, text string) {
	w.T.Helper()
	w.Await("card "+text, func() bool {
		m := w.Lark.Messages(openID)
		return len(m) > 0 && strings.Contains(m[len(m)-1].Content(), text)
	})
}

// Buffer is a bytes.Buffer that many may write and read at once.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
