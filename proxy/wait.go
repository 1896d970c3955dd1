package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

// maxPause bounds how long a waiting request relies on being woken: a consent
// that came between looking and waiting is seen at the latest then.
const maxPause = 5 * time.Second

// askAndWait turns the error of a missing session into the 401 that asks for
// it. With Prefer: wait the request is held first, and nil means that its user
// has consented: x.access is set and the request goes on. Other errors come
// back as they are.
func (p *proxy) askAndWait(x *exchange, err error) error {
	reason, ok := reasonOf(err)
	if !ok {
		return err
	}
	x.reason = reason
	answer := p.challenge(x, reason)
	if errors.Is(answer, session.ErrConflict) {
		// The user authorized between the look-up and the question.
		return p.findToken(x)
	}
	var f *edge.Answer
	if !errors.As(answer, &f) || !p.mayWait(x) {
		return answer
	}
	defer func() { <-p.waiting }()
	x.waited = true
	refused := x.access // what Lark refused is no reason to go on
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, maxPause) {
		if !p.pause(x, pause) {
			return f
		}
		err := p.findToken(x)
		if err == nil && (refused == nil || x.access.Version != refused.Version) {
			return nil
		}
		if reason, ok := reasonOf(err); ok && reason == session.Declined {
			f.Reason, x.reason = reason, reason
			return f
		} else if err != nil && !ok {
			return err
		}
	}
}

// mayWait reports whether x may be held, and takes a place if so. Its body has
// to be read first: until then the caller's hanging up is not seen, and later
// it may be too late to ask for it.
func (p *proxy) mayWait(x *exchange) bool {
	wait, _ := splitPrefer(x.in.Header["Prefer"])
	wait = min(wait, p.cfg.MaxWait)
	if p.cfg.Waiter == nil || wait <= 0 || x.key.OpenID == "" {
		return false
	}
	if x.until.IsZero() {
		x.until = time.Now().Add(wait)
	}
	if time.Now().After(x.until) || !p.holdBody(x) {
		return false
	}
	select {
	case p.waiting <- struct{}{}:
		return true
	default:
		return false
	}
}

// holdBody reads the whole body into memory and reports whether it fits.
func (p *proxy) holdBody(x *exchange) bool {
	if x.upload == nil {
		if x.upload = keep(x.in, p.cfg.ReplayBuffer); x.upload == nil {
			return true
		}
	}
	return x.upload.fits() && x.upload.fill()
}

// pause waits until the user's session changes or d has passed, and reports
// whether it is worth looking again.
func (p *proxy) pause(x *exchange, d time.Duration) bool {
	d = min(d, time.Until(x.until))
	if d <= 0 || x.Err() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(x, d)
	defer cancel()
	err := p.cfg.Waiter.Wait(ctx, x.key)
	if err != nil && ctx.Err() == nil {
		p.complaints.Log(x, slog.LevelWarn, "waiting for a consent failed", "", "error", err)
		<-ctx.Done()
	}
	return x.Err() == nil
}

// noteWait says on an answer that it was waited for (RFC 7240 section 3).
func (x *exchange) noteWait(h http.Header) {
	if x.waited {
		h.Add("Preference-Applied", "wait")
	}
}
