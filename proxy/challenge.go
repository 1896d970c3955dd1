package proxy

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

const (
	// defaultRetry is the Retry-After of a challenge that names none: about as
	// long as a person needs for a click.
	defaultRetry = 10 * time.Second
	// firstLook and longestPause bound the time between two looks for the token of
	// a user who is being asked. A consent that comes just before the wait begins
	// wakes nobody, and is seen by the next look.
	firstLook    = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// askAndWait asks the user for consent when err says that the session is missing,
// and returns the 401 for the caller. With Prefer: wait the request is held
// first; nil means that the user has consented and that the request can go on
// with x.credential. Any other err is returned as it is.
func (p *proxy) askAndWait(x *request, err error) error {
	reason, ok := reasonOf(err)
	if !ok {
		return err
	}
	x.result.reason = reason
	challenge, err := p.challenge(x, reason)
	if errors.Is(err, session.ErrConflict) {
		// The user has authorized since the token was looked for.
		return p.findToken(x)
	}
	if err != nil {
		return err
	}
	if !p.mayWait(x) {
		return challenge
	}
	defer p.places.giveBack(x.who.caller)
	x.wait.applied = true
	refused := x.credential.access // nil, or the token that Lark refused
	for pause := firstLook; p.pause(x, pause); pause = min(2*pause, longestPause) {
		err := p.findToken(x)
		reason, ok := reasonOf(err)
		switch {
		case err == nil && (refused == nil || x.credential.access.Version != refused.Version):
			return nil
		case ok && reason == session.Declined:
			challenge.Reason, x.result.reason = reason, reason
			return challenge
		case err != nil && !ok:
			return err
		}
	}
	return challenge
}

// challenge asks the user for consent and returns the 401 that tells the caller,
// or the error that prevents asking.
func (p *proxy) challenge(x *request, reason session.Reason) (*edge.Answer, error) {
	a := &edge.Answer{Failure: edge.AuthorizationRequired, Reason: reason, Challenge: session.Challenge{Card: session.CardFailed}}
	switch {
	case x.who.user.OpenID == "":
		// The name is a union_id or user_id that nobody has who consented. A user can
		// be asked only by open_id.
		a.Detail = "This user is not known by that id yet: name the user by open_id (ou_…) until the app is authorized."
	case p.cfg.Asker == nil:
		a.Challenge.Card = session.CardOff
	default:
		c, err := p.cfg.Asker.Ask(x, x.who.user, session.ConsentRequest{Reason: reason, Caller: x.who.caller, Wait: p.wanted(x)})
		switch {
		case err == nil:
			a.Challenge = c
		case x.Err() != nil, errors.Is(err, session.ErrUnavailable), errors.Is(err, session.ErrConflict),
			errors.Is(err, session.ErrAppMisconfigured), errors.Is(err, session.ErrUserDisabled):
			return nil, err
		default:
			p.complaints.Log(x, slog.LevelWarn, "asking for consent failed", "", "error", err)
		}
	}
	if a.Challenge.AuthorizeURL == "" && a.Detail == "" {
		a.Detail = "The user has to authorize the app, and there is no link for that now: send the request again after Retry-After."
	}
	a.RetryAfter = a.Challenge.RetryAfter
	if a.RetryAfter <= 0 {
		a.RetryAfter = defaultRetry
	}
	return a, nil
}

// askForScope starts a consent for one of the alternatives and returns its link.
// The link is "" if there is none: what a consent did not bring is not asked for
// again for a while.
func (p *proxy) askForScope(x *request, alternatives []string) string {
	if len(alternatives) == 0 || p.cfg.Asker == nil {
		return ""
	}
	c, err := p.cfg.Asker.Ask(x, x.who.user, session.ConsentRequest{AnyOf: alternatives, Caller: x.who.caller})
	if err != nil {
		// Lark's answer, which says what is missing, is passed on all the same.
		p.complaints.Log(x, slog.LevelWarn, "asking for a missing scope failed", "", "scope", strings.Join(alternatives, " "), "error", err)
		return ""
	}
	return c.AuthorizeURL
}

// wanted returns for how long the caller wants the request to be held, and may.
func (p *proxy) wanted(x *request) time.Duration {
	if p.cfg.Waiter == nil || x.who.user.OpenID == "" {
		return 0
	}
	wait, _ := splitPrefer(x.in.Header["Prefer"])
	wait = min(wait, p.cfg.MaxWait)
	if !x.wait.until.IsZero() { // it has waited before
		wait = max(0, min(wait, time.Until(x.wait.until)))
	}
	return wait
}

// mayWait reports whether the request may be held, and takes a place for it if
// so. The body has to be read before: net/http sees that a caller hangs up only
// after the body, and a caller may not send it any more after the wait.
func (p *proxy) mayWait(x *request) bool {
	wait := p.wanted(x)
	if wait <= 0 {
		return false
	}
	if x.wait.until.IsZero() {
		x.wait.until = time.Now().Add(wait)
	}
	return x.body.hold(x.in, p.cfg.ReplayBuffer) && p.places.take(x.who.caller, p.callers.number())
}

// pause waits until the user's session changes or d has passed. It reports false
// when the request's wait is over, and when the process is about to stop.
func (p *proxy) pause(x *request, d time.Duration) bool {
	d = min(d, time.Until(x.wait.until))
	if d <= 0 || x.Err() != nil || p.stopping() {
		return false
	}
	ctx, cancel := context.WithTimeout(x, d)
	defer cancel()
	go func() {
		select {
		case <-p.cfg.Stopping: // the request must be answered within the grace
			cancel()
		case <-ctx.Done():
		}
	}()
	err := p.cfg.Waiter.Wait(ctx, x.who.user)
	if err != nil && ctx.Err() == nil {
		p.complaints.Log(x, slog.LevelWarn, "waiting for a consent failed", "", "error", err)
		<-ctx.Done()
	}
	return x.Err() == nil && !p.stopping()
}
