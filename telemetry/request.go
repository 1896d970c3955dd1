package telemetry

import (
	"context"
	"crypto/rand"
)

// RequestIDKey is the context key of a request's id, a string: what
// X-Larkside-Request-Id says on an answer of Larkside's, and "request_id" on
// each log line that is written with the context.
type RequestIDKey struct{}

// NewRequestID returns a random id of 16 capital letters and digits.
func NewRequestID() string { return rand.Text()[:16] }

// RequestID returns the id of the request that ctx belongs to, "" for none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(RequestIDKey{}).(string)
	return id
}
