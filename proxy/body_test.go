package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func uploadOf(body string, limit int) *upload {
	return keep(&http.Request{Body: io.NopCloser(strings.NewReader(body)), ContentLength: -1}, limit)
}

// A transport that still reads for an attempt that was given up must not take
// bytes from the next one, nor read after the handler returned.
func TestStaleReaderGetsNothing(t *testing.T) {
	u := uploadOf("hello", 10)
	first := u.open()
	buf := make([]byte, 2)
	first.Read(buf)
	second, err := u.reopen()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := first.Read(buf); n != 0 || !errors.Is(err, errStale) {
		t.Errorf("stale reader: %d, %v", n, err)
	}
	if got, err := io.ReadAll(second); string(got) != "hello" || err != nil {
		t.Errorf("second reader: %q, %v", got, err)
	}
	third, _ := u.reopen()
	u.close()
	if n, err := third.Read(buf); n != 0 || !errors.Is(err, errStale) {
		t.Errorf("after close: %d, %v", n, err)
	}
}

// While a read is under way its bytes belong to whoever reads.
func TestNoReopenDuringRead(t *testing.T) {
	pr, pw := io.Pipe()
	u := keep(&http.Request{Body: pr, ContentLength: -1}, 10)
	entered := make(chan bool)
	u.src = entering{pr, entered}
	done := make(chan bool)
	go func() {
		defer close(done)
		u.open().Read(make([]byte, 5))
	}()
	<-entered
	if _, err := u.reopen(); !errors.Is(err, errStale) {
		t.Errorf("reopened during a read: %v", err)
	}
	io.WriteString(pw, "hello")
	<-done
	if _, err := u.reopen(); err != nil {
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

func TestUploadLimits(t *testing.T) {
	for _, c := range []struct {
		limit int
		fits  bool
	}{{4, false}, {5, true}, {0, false}} {
		u := uploadOf("hello", c.limit)
		if got, _ := io.ReadAll(u.open()); string(got) != "hello" {
			t.Errorf("limit %d: read %q", c.limit, got)
		}
		if _, err := u.reopen(); (err == nil) != c.fits {
			t.Errorf("limit %d: reopen: %v", c.limit, err)
		}
	}
	// Nothing was taken yet: a large body can still be sent.
	u := uploadOf("hello", 0)
	u.open()
	if r, err := u.reopen(); err != nil {
		t.Error(err)
	} else if got, _ := io.ReadAll(r); string(got) != "hello" {
		t.Errorf("read %q", got)
	}
}
