package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A collector that is down for an hour is one line a minute, not thousands.
func TestComplaintsAreSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := &complaints{log: slog.New(slog.NewTextHandler(&out, nil))}
		for range 120 {
			c.Handle(errors.New("connection refused"))
			time.Sleep(time.Second)
		}
		if n := strings.Count(out.String(), "\n"); n != 2 {
			t.Errorf("%d lines in two minutes:\n%s", n, &out)
		}
		if !strings.Contains(out.String(), "repeated=59") {
			t.Errorf("the lines left out are not counted:\n%s", &out)
		}
	})
}
