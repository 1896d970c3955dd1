package telemetry

import (
	"context"
	"crypto/rand"
	"net/http"
)

// RequestIDKey is the key under which a context holds its request's id, a
// string. The same id is in X-Larkside-Request-Id of Larkside's own answer, and
// in "request_id" of each log line that is written with the context.
type RequestIDKey struct{}

// RequestIDHeader is the header of an answer in which its request's id stands.
const RequestIDHeader = "X-Larkside-Request-Id"

// WithRequestID gives each request an id: in its context, so that its log lines
// have it, and in the header of its answer.
func WithRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := NewRequestID()
		w.Header().Set(RequestIDHeader, id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), RequestIDKey{}, id)))
	})
}

// NewRequestID returns a random id of 16 capital letters and digits.
func NewRequestID() string { return rand.Text()[:16] }

// RequestID returns the id of the request that ctx belongs to, "" for none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(RequestIDKey{}).(string)
	return id
}
