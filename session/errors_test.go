package session_test

import (
	"testing"
	"time"

	"larkside/session"
)

// People read the time in the audit trail. After is jittered to the nanosecond.
func TestRetryErrorIsReadable(t *testing.T) {
	err := &session.RetryError{Err: session.ErrRefreshUnavailable, After: 1237874116}
	if want := session.ErrRefreshUnavailable.Error() + " (retry in 1.2s)"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	err.After = 2 * time.Minute
	if want := session.ErrRefreshUnavailable.Error() + " (retry in 2m0s)"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}
