package proxy

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// Uploads stream for as long as they take, so the server doesn't limit the time of
// a request. What is limited is the time that a caller makes the proxy wait for its
// body. Otherwise a few thousand connections that send nothing, or a byte now and
// then, could use up all connections.
const (
	// bodyPatience is how long the reads of each bodyStep of a body may wait in all.
	// Only waiting for the caller counts, not the time in which Lark takes the body.
	bodyPatience = 30 * time.Second
	// bodyStep is in bytes.
	bodyStep = 1 << 10
	// unwantedPatience is how long a body that nobody reads is waited for. net/http
	// reads the rest of a short one before it sends a failure.
	unwantedPatience = 5 * time.Second
)

// pacedBody is a request's body that has to come at a pace. A body that doesn't
// fails, and its connection is closed. One goroutine may read it at a time.
type pacedBody struct {
	io.ReadCloser
	conn     *http.ResponseController
	patience time.Duration
	left     time.Duration // of patience
	got      int           // bytes since left was whole

	mu   sync.Mutex
	over bool // the deadline is the server's again
}

func newPacedBody(body io.ReadCloser, w http.ResponseWriter, patience time.Duration) *pacedBody {
	b := &pacedBody{ReadCloser: body, conn: http.NewResponseController(w), patience: patience, left: patience}
	b.deadline(time.Now().Add(patience)) // also for a body that is never read
	return b
}

func (b *pacedBody) Read(p []byte) (int, error) {
	began := time.Now()
	b.deadline(began.Add(b.left))
	n, err := b.ReadCloser.Read(p)
	b.left -= time.Since(began)
	if b.got += n; b.got >= bodyStep {
		b.got, b.left = 0, b.patience
	}
	if err == io.EOF {
		// From here on net/http reads the connection to see whether the caller hangs
		// up. It would take the deadline for that.
		b.deadline(time.Time{})
		b.release()
	}
	return n, err
}

// unwanted shortens the wait for the rest of the body.
func (b *pacedBody) unwanted() {
	if b != nil {
		b.deadline(time.Now().Add(min(b.patience, unwantedPatience)))
	}
}

// release leaves the deadline of the connection to the server, which sets its own
// when the handler has returned. A transport may still read then.
func (b *pacedBody) release() {
	if b != nil {
		b.mu.Lock()
		b.over = true
		b.mu.Unlock()
	}
}

func (b *pacedBody) deadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.conn.SetReadDeadline(t) // a test's recorder can't, and needn't
	}
}
