package session_test

import (
	"testing"
	"unsafe"

	"larkside/session"
)

// There is one for each user in the cache. With its header it takes 144 bytes; the
// next size of an allocation is 160.
func TestAccessIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(session.Access{}); size > 128 {
		t.Errorf("an Access takes %d bytes, want at most 128", size)
	}
}
