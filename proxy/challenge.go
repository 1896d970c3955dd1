package proxy

import (
	"errors"
	"log/slog"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

// defaultRetry is Retry-After of a challenge that doesn't say: about as long
// as a person needs for a click.
const defaultRetry = 10 * time.Second

// challenge asks the user of x for consent and returns the 401 that tells the
// caller, or the error that stands in the way of asking.
func (p *proxy) challenge(x *exchange, reason session.Reason) error {
	f := &edge.Answer{Failure: edge.AuthorizationRequired, Reason: reason, Challenge: session.Challenge{Card: session.CardFailed}}
	switch {
	case x.key.OpenID == "":
		// A union_id or user_id of someone who never consented. Only an
		// open_id can be asked.
		f.Detail = "This user is not known by that id yet: name the user by open_id (ou_…) until the app is authorized."
	case p.cfg.Asker == nil:
		f.Challenge.Card = session.CardOff
	default:
		c, err := p.cfg.Asker.Ask(x, x.key, reason, nil)
		switch {
		case err == nil:
			f.Challenge = c
		case x.Err() != nil, errors.Is(err, session.ErrUnavailable), errors.Is(err, session.ErrConflict),
			errors.Is(err, session.ErrAppMisconfigured), errors.Is(err, session.ErrUserDisabled):
			return err
		default:
			p.complaints.Log(x, slog.LevelWarn, "asking for consent failed", "", "error", err)
		}
	}
	if f.Challenge.AuthorizeURL == "" && f.Detail == "" {
		f.Detail = "The user has to authorize the app, and there is no link for that now: send the request again after Retry-After."
	}
	f.RetryAfter = f.Challenge.RetryAfter
	if f.RetryAfter <= 0 {
		f.RetryAfter = defaultRetry
	}
	return f
}

// reasonOf returns why the user must be asked, and false if err says no such
// thing.
func reasonOf(err error) (session.Reason, bool) {
	var required *session.ConsentRequiredError
	switch {
	case errors.As(err, &required):
		return required.Reason, true
	case errors.Is(err, session.ErrConsentRequired), errors.Is(err, session.ErrNotFound):
		return session.NoSession, true
	}
	return "", false
}
