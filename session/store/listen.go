package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"larkside/session"
)

const (
	// pingEvery is how often the listening connection is tried: a network may
	// drop it without a word.
	pingEvery = 15 * time.Second
	// answerWithin is how long it may take to answer.
	answerWithin = 5 * time.Second
	// relistenAfter and relistenAtMost are the shortest and the longest pause
	// before it is made again.
	relistenAfter  = 100 * time.Millisecond
	relistenAtMost = 30 * time.Second
)

// errUnheard: the connection works, and a notification to ourselves did not come
// through it.
var errUnheard = errors.New("a notification to ourselves did not come: a pooler in transaction mode stands in between, or LISTEN and NOTIFY lead to different databases")

// checkListenURL judges [Config].ListenURL. SQLite does not use it.
func checkListenURL(dialect string, url session.Secret) error {
	if dialect != dialectPostgres || isOff(url) {
		return nil
	}
	if err := CheckURL(url); err != nil {
		return fmt.Errorf("%w: the URL for LISTEN: %w", ErrSetup, err)
	}
	return nil
}

// isOff reports whether changes are polled for on purpose.
func isOff(url session.Secret) bool { return url.Equal(session.NewSecret("off")) }

func (c *Changes) off() bool { return isOff(*c.listen.Load()) }

// listenAt makes follow use another URL.
func (c *Changes) listenAt(url session.Secret) {
	if old := c.listen.Swap(&url); !old.Equal(url) {
		select {
		case c.relisten <- struct{}{}:
		default:
		}
	}
}

// follow learns of other replicas' changes until close. It starts over when the
// URL changes.
func (c *Changes) follow() {
	c.followers.Go(func() {
		for c.closed.Err() == nil {
			round, over := context.WithCancel(c.closed)
			c.followers.Go(func() {
				select {
				case <-c.relisten:
					over()
				case <-round.Done():
				}
			})
			if url := *c.listen.Load(); isOff(url) {
				c.poll(round)
			} else {
				c.hear(round, url)
			}
			over()
		}
	})
}

// hear listens for notifications until ctx ends. While none come it polls for
// changes.
func (c *Changes) hear(ctx context.Context, url session.Secret) {
	defer c.listening.Store(false)
	stopPolling := func() {}
	defer func() { stopPolling() }()
	for pause, polling := relistenAfter, false; ; pause = min(2*pause, relistenAtMost) {
		err := c.listenOnce(ctx, url, func() {
			c.heard(nil) // what was notified before LISTEN is lost
			c.listening.Store(true)
			stopPolling()
			pause = relistenAfter
			if polling {
				polling = false
				c.log.Info("change notifications are back")
			}
		})
		if ctx.Err() != nil {
			return
		}
		c.listening.Store(false)
		if !polling {
			polling = true
			c.log.Warn("change notifications do not come; changes are polled for until they do", "error", err)
			stopPolling = c.pollMeanwhile(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (c *Changes) pollMeanwhile(ctx context.Context) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	c.followers.Go(func() { c.poll(ctx) })
	return stop
}

// listenOnce makes a connection and handles what is notified on it, until ctx
// ends or the connection is of no use. It calls proven once a notification to
// ourselves has come.
func (c *Changes) listenOnce(ctx context.Context, url session.Secret, proven func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := startListening(ctx, url, c.answerWithin)
	if err != nil {
		return err
	}
	defer l.close()

	// A try is on its way, then waits for its notification, then waits for the
	// next try.
	var (
		nonce   string
		sent    = make(chan error, 1)
		overdue <-chan time.Time
		again   <-chan time.Time
		works   bool
	)
	try := func() {
		nonce = randomID()
		c.followers.Go(func() { sent <- c.tryListening(ctx, l, nonce) })
	}
	try()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case n, ok := <-l.notifications:
			switch {
			case !ok:
				return l.ended()
			case n.Channel != l.own:
				c.heard(n)
			case n.Extra == nonce:
				nonce, overdue, again = "", nil, time.After(c.pingEvery)
				if !works {
					works = true
					proven()
				}
			}
		case err := <-sent:
			switch {
			case err == nil && nonce != "":
				overdue = time.After(c.answerWithin)
			case err != nil && works && errors.Is(err, session.ErrUnavailable):
				// Without NOTIFY nothing can be said of the listening connection.
				again = time.After(c.pingEvery)
			case err != nil:
				return err
			}
		case <-overdue:
			return errUnheard
		case <-again:
			try()
		}
	}
}

// tryListening pings the listening connection, and notifies it by way of the
// pool as other replicas do. A notification that is sent on the connection
// itself comes back even through a pooler in transaction mode.
func (c *Changes) tryListening(ctx context.Context, l *listening, nonce string) error {
	if err := l.exec(""); err != nil {
		return fmt.Errorf("pinging the listening connection: %w", err)
	}
	if _, err := c.db.ExecContext(ctx, `SELECT pg_notify($1, $2)`, l.own, nonce); err != nil {
		return unavailable(err, "notifying ourselves")
	}
	return nil
}

// listening is a connection that notifications come on. [pq.Listener] would make
// one by itself, but it waits for the answer to a ping for ever, and panics if
// that is an error.
type listening struct {
	conn          *pq.ListenerConn
	notifications chan *pq.Notification
	// own is a channel that nobody else listens on.
	own string
	// answerWithin is how long each answer may take.
	answerWithin time.Duration
	// late is whether an answer took too long.
	late atomic.Bool
}

// startListening connects and listens.
func startListening(ctx context.Context, raw session.Secret, answerWithin time.Duration) (*listening, error) {
	url, err := driverURL(raw)
	if err != nil {
		return nil, err
	}
	l := &listening{answerWithin: answerWithin, notifications: make(chan *pq.Notification, 64), own: notifyChannel + "_" + randomID()}
	connected := make(chan error)
	go func() { // ends after connect_timeout at the latest
		conn, err := pq.NewListenerConn(url, l.notifications)
		l.conn = conn
		select {
		case connected <- err:
		case <-ctx.Done():
			if err == nil {
				l.close()
			}
		}
	}()
	select {
	case err := <-connected:
		if err != nil {
			return nil, fmt.Errorf("connecting to listen: %w", err)
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for _, channel := range []string{l.own, notifyChannel} {
		if err := l.exec("LISTEN " + channel); err != nil {
			l.close()
			return nil, fmt.Errorf("listening for notifications: %w", err)
		}
	}
	return l, nil
}

// exec executes a statement. The connection ends if it takes too long.
func (l *listening) exec(query string) error {
	late := time.AfterFunc(l.answerWithin, func() {
		l.late.Store(true)
		l.conn.Close()
	})
	defer late.Stop()
	_, err := l.conn.ExecSimpleQuery(query)
	if l.late.Load() {
		return l.errLate()
	}
	return err
}

func (l *listening) errLate() error { return fmt.Errorf("no answer within %s", l.answerWithin) }

// ended says why there are no more notifications.
func (l *listening) ended() error {
	err := l.conn.Err()
	if l.late.Load() {
		err = l.errLate()
	}
	return fmt.Errorf("the listening connection has ended: %w", err)
}

func (l *listening) close() {
	l.conn.Close()
	go func() {
		for range l.notifications { // until the driver has ended
		}
	}()
}
