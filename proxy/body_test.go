package proxy

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func keptBodyOf(body string, limit int) *keptBody {
	return newKeptBody(io.NopCloser(strings.NewReader(body)), -1, limit)
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
	b := newKeptBody(pr, -1, 10)
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
