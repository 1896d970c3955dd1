package proxy

import (
	"net"
	"testing"
	"time"
)

// A caller that can't be written to has hung up, whatever its patience.
func TestFailedWriteEndsRequests(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	conn := &serverConn{Conn: here, life: newCallerLife(t.Context(), here)}
	ctx := conn.life.begin(time.Hour)
	conn.answering.Store(true)
	there.Close()
	if _, err := conn.Write([]byte("x")); err == nil || ctx.Err() == nil {
		t.Errorf("writing: %v, the requests' context: %v", err, ctx.Err())
	}
}
