package consent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

const (
	// pageWait is how long a browser waits for its page. The work goes on after
	// that.
	pageWait = 25 * time.Second
	// callbackLease is how long a replica has for the exchange of a code.
	callbackLease   = 60 * time.Second
	exchangeTimeout = 10 * time.Second
	exchangeTries   = 3
	// exchangeWait is how long each try waits for the rate of the token
	// endpoint. Exchanges go first, so it is seldom more than a second.
	exchangeWait = 5 * time.Second
	maxCode      = 2048
)

// callback is where Lark sends the browser back to. A request that a guard
// refuses leaves the consent as it is, so that only the browser that opened the
// link can end it. Source: RFC 6749 section 4.1.2; Lark "obtain OAuth code",
// 2026-03-19.
func (m *Manager) callback(r *http.Request) page {
	state, ok := param(r, "state")
	if !ok || !isState(state) {
		return malformedPage
	}
	p, err := m.consents.Get(r.Context(), state[:idLength])
	switch same := err == nil && m.startedHere(r, p, state); {
	case errors.Is(err, session.ErrNotFound):
		return malformedPage
	case err != nil:
		m.logThrottled(r.Context(), "can't look up a consent", session.Key{}, err)
		return unavailablePage
	case p.Flow != session.RedirectFlow:
		return malformedPage
	case p.State != session.ConsentPending && same:
		return resultPage(p) // the browser repeats its request
	case p.State != session.ConsentPending:
		return replayedPage
	case !same:
		return otherBrowserPage
	case p.Left <= 0:
		m.expireOrLog(r.Context(), p)
		return replayedPage
	}
	if denied, ok := param(r, "error"); ok {
		return m.denied(r.Context(), p, denied)
	}
	code, ok := param(r, "code")
	if !ok || code == "" || len(code) > maxCode || !isOpaque(code) {
		return malformedPage
	}
	return m.redeem(r, p, session.NewSecret(code))
}

// denied handles a callback with an error. Lark documents only access_denied.
// invalid_scope is RFC 6749's error for scopes that can't be granted.
func (m *Manager) denied(ctx context.Context, p *session.Consent, what string) page {
	switch what {
	case "access_denied":
		m.closeOrLog(ctx, p, session.ConsentDeclined, "")
	case "invalid_scope":
		m.refuse(ctx, p, invalidScope, errors.New("the authorize page answered invalid_scope"))
	default:
		return larkFailedPage
	}
	return m.resultOf(ctx, p)
}

// resultOf returns the page for p as it is now.
func (m *Manager) resultOf(ctx context.Context, p *session.Consent) page {
	now, err := m.consents.Get(ctx, p.ID)
	if err != nil || now.State == session.ConsentPending {
		return unavailablePage // p could not be closed, which is logged
	}
	return resultPage(now)
}

// redeem exchanges the code once. Of two callbacks at a time, the second waits
// for the outcome of the first. If the browser leaves, the exchange goes on.
func (m *Manager) redeem(r *http.Request, p *session.Consent, code session.Secret) page {
	ctx := r.Context()
	claimed, err := m.consents.Leases.Claim(ctx, p.ID, callbackLease)
	switch {
	case errors.Is(err, session.ErrLeased):
		now, err := m.awaitEnd(ctx, p)
		switch {
		case errors.Is(err, errGivenUp):
			return larkFailedPage
		case err != nil:
			return unavailablePage
		}
		return resultPage(now)
	case err != nil:
		m.logThrottled(ctx, "can't claim a consent", p.Key, err)
		return unavailablePage
	}
	verifier := verifierOf(m.cookieOf(r), claimed)
	result := make(chan page, 1)
	if !m.task(ctx, func(ctx context.Context) { result <- m.exchange(ctx, claimed, code, verifier) }) {
		m.release(ctx, p)
		return unavailablePage
	}
	timer := time.NewTimer(pageWait)
	defer timer.Stop()
	select {
	case g := <-result:
		return g
	case <-timer.C:
	case <-ctx.Done():
	}
	return unavailablePage
}

// exchange exchanges the code for tokens and stores the session. If Lark
// refuses the code, the consent stays open: the code may be somebody else's,
// and the link still works.
func (m *Manager) exchange(ctx context.Context, p *session.Consent, code, verifier session.Secret) page {
	var token lark.Token
	err := retry(ctx, 250*time.Millisecond, exchangeTries, func() (again bool, err error) {
		if err := m.awaitExchangeTurn(ctx, p); err != nil {
			return true, err
		}
		bounded, cancel := context.WithTimeout(ctx, exchangeTimeout)
		defer cancel()
		token, err = m.apps[p.AppID].Exchange(bounded, code, m.publicURL+callbackPath, verifier)
		var e *lark.Error
		return errors.As(err, &e) && e.Class == lark.Retry, err
	})
	if err != nil {
		var e *lark.Error
		errors.As(err, &e)
		if refusal, ok := refusalOf(e); ok {
			m.refuse(ctx, p, refusal, err)
			return m.resultOf(ctx, p)
		}
		m.release(ctx, p)
		if e != nil && e.Class == lark.Reauthorize {
			m.log.InfoContext(ctx, "Lark refused an authorization code", "app_id", p.AppID, m.users.Log(p.OpenID), "error", err)
			return refusedCodePage
		}
		m.logThrottled(ctx, "can't exchange an authorization code", p.Key, err)
		return larkFailedPage
	}
	now, err := m.finish(ctx, p, token)
	if err != nil {
		return unavailablePage
	}
	return resultPage(now)
}

// awaitExchangeTurn waits until the rate of the token endpoint allows an exchange.
// If the database can't count it, it is made all the same: codes live for
// minutes, and somebody has just approved.
func (m *Manager) awaitExchangeTurn(ctx context.Context, p *session.Consent) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeWait)
	defer cancel()
	if err := m.awaitTurn(ctx, p.AppID, session.CodeExchange); err != nil && ctx.Err() != nil {
		return fmt.Errorf("waiting for the rate of the token endpoint: %w", err)
	}
	return nil
}

// release gives the lease on a redirect consent back.
func (m *Manager) release(ctx context.Context, p *session.Consent) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := m.consents.Leases.Return(ctx, p.ID); err != nil {
		m.logThrottled(ctx, "can't release a consent", p.Key, err) // its lease runs out
	}
}
