package consent

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

// Why a consent ended, beside its state. Operators see these reasons, and cards
// and pages have a text for some.
const (
	reasonScopes       = "more_scopes"
	reasonStartFailed  = "start_failed"
	reasonWrongAccount = "wrong_account"
	reasonRefused      = "refused_by_lark"
	reasonUserInfo     = "user_info_failed"
)

// consentRefusal is Lark's refusal of one consent, for its scopes or its code.
// It says nothing about the app.
type consentRefusal struct {
	// reason is stored with the consent. remedy tells the operator what to do.
	reason, remedy string
}

// refusals has the refusals by Lark's code. invalidScope is for an answer
// without a code.
var (
	refusals = map[int]consentRefusal{
		20024: {"code_of_another_app", "the authorization code was issued to another app: the user followed a foreign link, or two apps share a redirect URL"},
		20027: {session.ScopeNotEnabled, "enable the scope for users of the app (user token) in the developer console, and publish a version; or take it out of LARKSIDE_SCOPES"},
		20043: {session.ScopeMalformed, "a scope is not written as Lark writes it: look for commas and misspellings in LARKSIDE_SCOPES"},
		20071: {"redirect_uri_mismatch", "add LARKSIDE_PUBLIC_URL with /consent/callback to the redirect URLs in the developer console (security settings), spelled the same"},
	}
	invalidScope = consentRefusal{session.InvalidScope, "Lark refuses the list of scopes: look for misspellings in LARKSIDE_SCOPES, and for scopes that this app can't have"}
)

// refusalOf returns the refusal in e, and false if e is not about one consent.
func refusalOf(e *lark.Error) (consentRefusal, bool) {
	if e == nil || e.Class != lark.ScopeRefused && e.Class != lark.CodeRefused {
		return consentRefusal{}, false
	}
	if r, ok := refusals[e.Code]; ok {
		return r, true
	}
	return invalidScope, true
}

// refuse ends p because Lark refused it, and tells the operator what to do.
func (m *Manager) refuse(ctx context.Context, p *session.Consent, r consentRefusal, cause error) {
	m.complaints.Log(ctx, slog.LevelError, "Lark refused a consent", r.reason, "reason", r.reason, "do", r.remedy,
		"app_id", p.AppID, m.users.Log(p.OpenID), "scope", p.Scopes, "error", cause)
	m.closeOrLog(ctx, p, session.ConsentFailed, r.reason)
}

// start gives p its link, and sends the card if that need not wait. The caller
// has the lease on p.
func (m *Manager) start(ctx context.Context, p *session.Consent, reason session.Reason, sendNow bool) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := m.giveLink(ctx, p)
	switch {
	case errors.Is(err, session.ErrConflict):
		return outcome{}, errAgain
	case errors.Is(err, session.ErrUnavailable):
		return outcome{}, err
	case err != nil:
		return m.startFailed(ctx, p, err)
	}
	if !sendNow && !m.cardOff {
		m.recordCard(ctx, p, session.CardRateLimited, "")
		return withLink(p, session.CardRateLimited), nil
	}
	card, nobody := m.sendCard(ctx, p, reason)
	if nobody {
		return withoutLink(session.CardFailed, retryNobody), nil
	}
	if p.Flow == session.DeviceFlow {
		m.wakeAfter(p.PollInterval)
	}
	o := withLink(p, card)
	o.began = true
	return o, nil
}

// giveLink starts the flow of p, stores the link and sets it in p.
func (m *Manager) giveLink(ctx context.Context, p *session.Consent) error {
	if p.Flow == session.RedirectFlow {
		if m.publicURL == "" { // taken over from a replica that had one
			return errors.New("starting a redirect flow: no public URL is configured")
		}
		ticket := newSecret()
		p.Link = session.NewSecret(m.publicURL + startPath + "?t=" + ticket.Expose())
		return m.consents.SetLink(ctx, p, p.Link, newSecret(), session.Hash(ticket.Expose()), 0, p.Left)
	}
	d, err := m.apps[p.AppID].StartDevice(ctx, parseScopes(p.Scopes))
	if err != nil {
		return fmt.Errorf("starting a device flow: %w", err)
	}
	p.Link = session.NewSecret(d.VerificationURIComplete)
	if d.ExpiresIn < p.Left {
		p.ExpiresAt, p.Left = p.ExpiresAt.Add(d.ExpiresIn-p.Left), d.ExpiresIn
	}
	p.PollInterval = d.Interval
	return m.consents.SetLink(ctx, p, p.Link, d.DeviceCode, "", d.Interval, p.Left)
}

// newSecret returns 256 random bits as 43 characters that a URL may have.
func newSecret() session.Secret {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return session.NewSecret(base64.RawURLEncoding.EncodeToString(b))
}

// startFailed closes a consent that got no link, so that the next call can try
// again. It distinguishes whether Lark refuses the app, refuses these scopes or
// is down.
func (m *Manager) startFailed(ctx context.Context, p *session.Consent, cause error) (outcome, error) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	var e *lark.Error
	errors.As(cause, &e)
	if refusal, ok := refusalOf(e); ok {
		m.refuse(closing, p, refusal, cause)
		if e.Class == lark.ScopeRefused {
			return outcome{}, errScopes
		}
		return withoutLink(session.CardFailed, retryFailed), nil
	}
	m.logThrottled(ctx, "can't start a consent", p.Key, cause)
	if _, err := m.close(closing, p, session.ConsentFailed, reasonStartFailed); err != nil && !errors.Is(err, session.ErrConflict) {
		m.logThrottled(ctx, "can't close a consent", p.Key, err)
	}
	if e != nil && e.Class == lark.AppRefused {
		return outcome{}, &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrAppMisconfigured, cause), After: retryFailed}
	}
	return withoutLink(session.CardFailed, retryFailed), nil
}

// sendCard sends the card of p and records what became of it. nobody reports
// whether Lark knows no such user. Then the consent is deleted, or invented ids
// would fill the database.
func (m *Manager) sendCard(ctx context.Context, p *session.Consent, reason session.Reason) (result session.CardResult, nobody bool) {
	if m.cardOff {
		m.recordCard(ctx, p, session.CardOff, "")
		return session.CardOff, false
	}
	if _, muted := m.refusedCard(p.Key); muted {
		m.recordCard(ctx, p, session.CardFailed, "")
		return session.CardFailed, false
	}
	messageID, err := m.deliver(ctx, p, m.cards.waiting(m.apps.name(ctx, p.AppID), p, reason))
	if err == nil {
		m.recordCard(ctx, p, session.CardSent, messageID)
		return session.CardSent, false
	}
	var e *lark.Error
	errors.As(err, &e)
	switch {
	case e != nil && e.Class == lark.InvalidID:
		m.cardRefusals.Add(p.Key, cardRefusal{until: m.now().Add(muteForNobody), unknown: true})
		m.chargeUnknown(ctx, p)
		if err := m.consents.Drop(ctx, p); err != nil {
			m.logThrottled(ctx, "can't drop a consent", p.Key, err) // it expires, and is counted then
		} else {
			m.count(p, session.ConsentFailed)
		}
		return session.CardFailed, true
	case e != nil && (e.Class == lark.Undeliverable || e.Class == lark.UserDisabled):
		m.cardRefusals.Add(p.Key, cardRefusal{until: m.now().Add(muteForCard)})
		m.log.InfoContext(ctx, "the card can't be delivered to this user", "app_id", p.AppID, m.users.Log(p.OpenID), "error", err)
	default:
		m.logThrottled(ctx, "can't send a card", p.Key, err)
	}
	m.recordCard(ctx, p, session.CardFailed, "")
	return session.CardFailed, false
}

// deliver sends the card, and again if Lark fails for the moment. Lark delivers
// one message per uuid.
func (m *Manager) deliver(ctx context.Context, p *session.Consent, card []byte) (messageID string, err error) {
	err = retry(ctx, 300*time.Millisecond, 3, func() (again bool, err error) {
		messageID, err = m.apps[p.AppID].SendCard(ctx, p.OpenID, "larkside-"+p.ID, card)
		var e *lark.Error
		return errors.As(err, &e) && e.Class == lark.Retry, err
	})
	return messageID, err
}

// recordCard stores what became of the card, even if a slow Lark has used up
// the caller's time: without its message id a card can't be updated.
func (m *Manager) recordCard(ctx context.Context, p *session.Consent, result session.CardResult, messageID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	err := retry(ctx, 100*time.Millisecond, 4, func() (bool, error) {
		err := m.consents.Cards.Set(ctx, p.ID, result, messageID, session.ConsentPending)
		return errors.Is(err, session.ErrUnavailable), err
	})
	if err != nil {
		m.logThrottled(ctx, "can't record a card", p.Key, err)
	}
}

// retry calls try until it succeeds, returns again as false, has been called a
// number of times (0: no limit), or ctx is done. Pauses double from first to
// eight seconds.
func retry(ctx context.Context, first time.Duration, times int, try func() (again bool, err error)) error {
	for n, pause := 1, first; ; n, pause = n+1, min(2*pause, 8*time.Second) {
		again, err := try()
		if err == nil || !again || n == times {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
