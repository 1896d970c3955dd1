package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/telemetry"
)

// syncBuffer may be written from timers.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.Buffer.String()), "\n")
}

// What goes wrong for an hour is a line a minute, not thousands, and every time
// is counted: also those after which it was well again.
func TestComplaintsAreSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out syncBuffer
		c := telemetry.NewComplaints(slog.New(slog.NewTextHandler(&out, nil)))
		for range 90 {
			c.Handle(errors.New("connection refused"))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		got := out.lines()
		if len(got) != 3 {
			t.Fatalf("%d lines:\n%s", len(got), strings.Join(got, "\n"))
		}
		for i, want := range []string{"connection refused", "repeated=", "repeated="} {
			if !strings.Contains(got[i], want) {
				t.Errorf("line %d has no %q: %s", i+1, want, got[i])
			}
		}
		if a, b := repeated(got[1]), repeated(got[2]); a+b != 89 {
			t.Errorf("%d and %d are counted, of 89", a, b)
		}
		c.Handle(errors.New("again"))
		if got := out.lines(); len(got) != 4 {
			t.Errorf("the next trouble is not told at once: %q", got)
		}
		time.Sleep(time.Hour)
	})
}

func repeated(line string) (n int) {
	_, after, _ := strings.Cut(line, "repeated=")
	for _, c := range after {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// The line that sums a minute up has the ids of the latest request.
func TestComplaintsKeepRequestIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out syncBuffer
		handler, err := telemetry.NewHandler(&out, telemetry.FormatText, slog.LevelInfo)
		if err != nil {
			t.Fatal(err)
		}
		c := telemetry.NewComplaints(slog.New(handler))
		for _, id := range []string{"FIRST", "SECOND", "THIRD"} {
			c.Log(context.WithValue(inSpan(t), telemetry.RequestIDKey{}, id), slog.LevelWarn, "upstream did not answer", "")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		got := out.lines()
		if len(got) != 2 || !strings.Contains(got[0], "request_id=FIRST") || !strings.Contains(got[1], "request_id=THIRD") || !strings.Contains(got[1], "trace_id=") {
			t.Errorf("lines %q", got)
		}
	})
}

// One app's trouble does not hide another's, and a line names what it is about
// in its attributes.
func TestComplaintsAreToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out syncBuffer
		c := telemetry.NewComplaints(slog.New(slog.NewTextHandler(&out, nil)))
		for range 2 {
			c.Log(inSpan(t), slog.LevelError, "can't send a card", "cli_a", "app_id", "cli_a")
			c.Log(inSpan(t), slog.LevelError, "can't send a card", "cli_b", "app_id", "cli_b")
			c.Log(inSpan(t), slog.LevelDebug, "unseen", "")
		}
		if got := out.lines(); len(got) != 2 {
			t.Errorf("lines %q", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := out.lines(); len(got) != 4 || strings.Count(strings.Join(got, " "), "repeated=1") != 2 {
			t.Errorf("lines %q", got)
		}
	})
}
