package telemetry

import (
	"context"
	"crypto/rand"
)

// RequestIDKey is the key under which a context holds its request's id, a
// string. The same id is in X-Larkside-Request-Id of Larkside's own answer, and
// in "request_id" of each log line that is written with the context.
type RequestIDKey struct{}

// NewRequestID returns a random id of 16 capital letters and digits.
func NewRequestID() string { return rand.Text()[:16] }

// RequestID returns the id of the request that ctx belongs to, "" for none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(RequestIDKey{}).(string)
	return id
}
