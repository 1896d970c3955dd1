package proxy

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// Uploads stream for as long as they take, so the server has no limit on the
// time of a request. What is limited is how long a caller may let us wait for
// its body, lest a few thousand connections that send nothing, or a byte now
// and then, hold everything that there is to hold.
const (
	// bodyPatience is how long reads may wait for each bodyStep of a body, in
	// sum. The time in which nobody reads, since Lark is slow to take what came,
	// is not the caller's.
	bodyPatience = 30 * time.Second
	// bodyStep is in bytes.
	bodyStep = 1 << 10
	// unwantedPatience bounds the wait for a body that nobody reads: net/http
	// reads the rest of a short one before it writes a refusal.
	unwantedPatience = 5 * time.Second
)

// pacedBody is a request's body that must come at a pace. One goroutine reads
// at a time. A body that does not come in time fails, and ends the connection.
type pacedBody struct {
	io.ReadCloser
	conn     *http.ResponseController
	patience time.Duration
	left     time.Duration // of patience
	got      int           // bytes since left was whole

	mu   sync.Mutex
	over bool // the deadline is the server's again
}

// pace makes x's body come at a pace; one that is empty stays as it is.
func (x *exchange) pace(patience time.Duration) {
	if x.in.Body == nil || x.in.Body == http.NoBody || x.in.ContentLength == 0 {
		return
	}
	x.body = &pacedBody{
		ReadCloser: x.in.Body, conn: http.NewResponseController(x.w.ResponseWriter), patience: patience, left: patience,
	}
	x.body.deadline(time.Now().Add(patience)) // also for a body that is never read
	x.in.Body = x.body
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
		// From here on net/http watches the connection for a caller that hangs
		// up, and would take the deadline for that.
		b.deadline(time.Time{})
		b.release()
	}
	return n, err
}

// unwanted shortens the wait for what is left of the body.
func (b *pacedBody) unwanted() {
	if b != nil {
		b.deadline(time.Now().Add(min(b.patience, unwantedPatience)))
	}
}

// release ends the use of the connection's deadline. A transport may still read
// when the handler has returned, and the server has set its own.
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
		b.conn.SetReadDeadline(t) // what can't (a test's recorder) needn't
	}
}
