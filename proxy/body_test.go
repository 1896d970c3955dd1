package proxy

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func keptBodyOf(body string, limit int) *keptBody {
	return newKeptBody(io.NopCloser(strings.NewReader(body)), -1, limit, &keptTotal{limit: 1 << 20})
}

// A transport that still reads for an attempt that was given up must not take
// bytes from the next one, nor read after the handler returned.
func TestStaleReaderGetsNothing(t *testing.T) {
	b := keptBodyOf("hello", 10)
	first := b.open()
	buf := make([]byte, 2)
	first.Read(buf)
	second, err := b.reopen()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := first.Read(buf); n != 0 || !errors.Is(err, errStale) {
		t.Errorf("stale reader: %d, %v", n, err)
	}
	if got, err := io.ReadAll(second); string(got) != "hello" || err != nil {
		t.Errorf("second reader: %q, %v", got, err)
	}
	third, _ := b.reopen()
	b.close()
	if n, err := third.Read(buf); n != 0 || !errors.Is(err, errStale) {
		t.Errorf("after close: %d, %v", n, err)
	}
}

// While a read is under way its bytes belong to whoever reads.
func TestNoReopenDuringRead(t *testing.T) {
	pr, pw := io.Pipe()
	b := newKeptBody(pr, -1, 10, &keptTotal{limit: 1 << 20})
	entered := make(chan bool)
	b.src = entering{pr, entered}
	done := make(chan bool)
	go func() {
		defer close(done)
		b.open().Read(make([]byte, 5))
	}()
	<-entered
	if _, err := b.reopen(); !errors.Is(err, errStale) {
		t.Errorf("reopened during a read: %v", err)
	}
	io.WriteString(pw, "hello")
	<-done
	if _, err := b.reopen(); err != nil {
		t.Errorf("not reopened after it: %v", err)
	}
}

type entering struct {
	io.ReadCloser
	entered chan bool
}

func (e entering) Read(b []byte) (int, error) {
	e.entered <- true
	return e.ReadCloser.Read(b)
}

func TestKeptBodyLimits(t *testing.T) {
	for _, c := range []struct {
		limit int
		fits  bool
	}{{4, false}, {5, true}, {0, false}} {
		b := keptBodyOf("hello", c.limit)
		if got, _ := io.ReadAll(b.open()); string(got) != "hello" {
			t.Errorf("limit %d: read %q", c.limit, got)
		}
		if _, err := b.reopen(); (err == nil) != c.fits {
			t.Errorf("limit %d: reopen: %v", c.limit, err)
		}
	}
	// Nothing was taken yet: a large body can still be sent.
	b := keptBodyOf("hello", 0)
	b.open()
	if r, err := b.reopen(); err != nil {
		t.Error(err)
	} else if got, _ := io.ReadAll(r); string(got) != "hello" {
		t.Errorf("read %q", got)
	}
}

// Thousands of callers that declare a length and send nothing must not take the
// memory that their bodies would need.
func TestNoMemoryForADeclaredLength(t *testing.T) {
	pr, pw := io.Pipe()
	entered := make(chan bool)
	b := newKeptBody(entering{pr, entered}, 64<<10, 64<<10, &keptTotal{limit: 1 << 20})
	filled := make(chan bool)
	go func() { filled <- b.fill() }()
	<-entered
	b.mu.Lock()
	if c := cap(b.kept); c > 1<<10 {
		t.Errorf("%d bytes are taken for a body of which nothing has come", c)
	}
	b.mu.Unlock()
	go func() {
		for range entered {
		}
	}()
	pw.Write(make([]byte, 64<<10))
	pw.Close()
	if !<-filled {
		t.Error("the body that came then is not kept")
	}
	close(entered)
}

// All bodies together keep no more than a limit. What comes beyond it passes
// unharmed, and can't be sent again.
func TestKeptTotal(t *testing.T) {
	total := &keptTotal{limit: 6}
	kept := func(body string) *keptBody {
		return newKeptBody(io.NopCloser(strings.NewReader(body)), int64(len(body)), 100, total)
	}
	first, second := kept("hello"), kept("world")
	if !first.fill() {
		t.Fatal("not kept while there was room")
	}
	second.fill() // takes the last of the room
	third := kept("streamed")
	if third.fill() {
		t.Error("kept without room")
	}
	fourth := newKeptBody(io.NopCloser(strings.NewReader("chunks")), -1, 100, total)
	for want, b := range map[string]*keptBody{"streamed": third, "chunks": fourth} {
		if got, err := io.ReadAll(b.open()); string(got) != want || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := b.reopen(); !errors.Is(err, errStale) || b.complete() {
			t.Errorf("%s: reopened without having been kept: %v", want, err)
		}
	}
	// What is kept already is not given up, and what was begun goes on.
	if got, _ := io.ReadAll(first.open()); string(got) != "hello" {
		t.Errorf("read %q", got)
	}
	for _, b := range []*keptBody{first, second, third, fourth} {
		b.close()
	}
	if n := total.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are counted when all is over", n)
	}
	if !kept("again").fill() {
		t.Error("not kept although there is room again")
	}
}

// A body of which the beginning is kept when the room ends goes on from there.
func TestKeptTotalEndsInTheMiddle(t *testing.T) {
	total := &keptTotal{limit: 1000}
	body := strings.Repeat("0123456789", 500)
	b := newKeptBody(io.NopCloser(strings.NewReader(body)), int64(len(body)), 1<<20, total)
	if b.fill() {
		t.Error("kept beyond the room")
	}
	if b.broken() {
		t.Error("taken for a caller that is gone")
	}
	if n := total.bytes.Load(); n < 1000 || n > 4000 {
		t.Errorf("%d bytes are kept", n)
	}
	if got, err := io.ReadAll(b.open()); string(got) != body || err != nil {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if n := total.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are counted for a body that is not kept", n)
	}
}
