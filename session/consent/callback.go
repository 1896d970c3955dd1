package consent

import (
	"context"
	"errors"
	"net/http"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

const (
	// pageWait is how long a browser waits for its page; the work goes on.
	pageWait = 25 * time.Second
	// callbackLease is how long one replica has for an exchange.
	callbackLease   = 40 * time.Second
	exchangeTimeout = 10 * time.Second
	exchangeTries   = 3
	maxCode         = 2048
)

// callback is where Lark sends the browser back to. Each guard that does not
// let it through leaves the consent as it is, so that nobody but the browser
// that started can end it.
// Source: RFC 6749 section 4.1.2; Lark "obtain OAuth code", 2026-03-19.
func (f *Flow) callback(r *http.Request) page {
	state, ok := param(r, "state")
	if !ok || !isSecret(state) {
		return malformedPage
	}
	p, err := f.consents.ByState(r.Context(), state)
	switch same := err == nil && f.sameBrowser(r, p); {
	case errors.Is(err, session.ErrNotFound):
		return malformedPage
	case err != nil:
		f.grumble(r.Context(), "can't look up a consent", session.Key{}, err)
		return unavailablePage
	case p.State != session.ConsentPending && same:
		return resultPage(p) // the browser repeats itself
	case p.State != session.ConsentPending:
		return replayedPage
	case !same:
		return otherBrowserPage
	case p.Left <= 0:
		f.expireLogged(r.Context(), p)
		return replayedPage
	}
	if denied, ok := param(r, "error"); ok {
		return f.denied(r.Context(), p, denied)
	}
	code, ok := param(r, "code")
	if !ok || code == "" || len(code) > maxCode || !isOpaque(code) {
		return malformedPage
	}
	return f.redeem(r, p, session.NewSecret(code))
}

// denied handles a callback without a code. access_denied is the one value that
// Lark documents; invalid_scope is RFC 6749's for scopes that it can't grant.
func (f *Flow) denied(ctx context.Context, p *session.Consent, what string) page {
	switch what {
	case "access_denied":
		f.end(ctx, p, session.ConsentDeclined, "")
	case "invalid_scope":
		f.refuse(ctx, p, invalidScope, errors.New("the authorize page answered invalid_scope"))
	default:
		return larkFailedPage
	}
	return f.resultOf(ctx, p)
}

// resultOf is the page of p as it is now.
func (f *Flow) resultOf(ctx context.Context, p *session.Consent) page {
	now, err := f.consents.Get(ctx, p.ID)
	if err != nil || now.State == session.ConsentPending {
		return unavailablePage // it could not be closed, which is logged
	}
	return resultPage(now)
}

// redeem exchanges the code, once: of two callbacks at a time the other waits
// for what becomes of this one. A browser that leaves does not stop it.
func (f *Flow) redeem(r *http.Request, p *session.Consent, code session.Secret) page {
	ctx := r.Context()
	claimed, err := f.consents.Leases.Claim(ctx, p.ID, callbackLease)
	switch {
	case errors.Is(err, session.ErrLeased):
		now, err := f.awaitEnd(ctx, p)
		switch {
		case errors.Is(err, errGivenUp):
			return larkFailedPage
		case err != nil:
			return unavailablePage
		}
		return resultPage(now)
	case err != nil:
		f.grumble(ctx, "can't claim a consent", p.Key, err)
		return unavailablePage
	case !f.sameBrowser(r, claimed): // another took over between the two reads
		f.release(ctx, p)
		return replayedPage
	}
	result := make(chan page, 1)
	if !f.task(ctx, func(ctx context.Context) { result <- f.exchange(ctx, claimed, code) }) {
		f.release(ctx, p)
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

// exchange turns the code into a stored session. Where Lark refuses the code
// the consent stays open: its user may have been handed someone else's code,
// and the link is still good.
func (f *Flow) exchange(ctx context.Context, p *session.Consent, code session.Secret) page {
	var token lark.Token
	err := retry(ctx, 250*time.Millisecond, exchangeTries, func() (again bool, err error) {
		bounded, cancel := context.WithTimeout(ctx, exchangeTimeout)
		defer cancel()
		token, err = f.apps[p.AppID].Exchange(bounded, code, f.publicURL+callbackPath, p.Secret)
		var e *lark.Error
		return errors.As(err, &e) && e.Class == lark.Retry, err
	})
	if err != nil {
		var e *lark.Error
		errors.As(err, &e)
		if refusal, ok := refusalOf(e); ok {
			f.refuse(ctx, p, refusal, err)
			return f.resultOf(ctx, p)
		}
		f.release(ctx, p)
		if e != nil && e.Class == lark.Reauthorize {
			f.log.InfoContext(ctx, "Lark refused an authorization code", "app_id", p.AppID, f.users.Log(p.OpenID), "error", err)
			return refusedCodePage
		}
		f.grumble(ctx, "can't exchange an authorization code", p.Key, err)
		return larkFailedPage
	}
	now, err := f.finish(ctx, p, token)
	if err != nil {
		return unavailablePage
	}
	return resultPage(now)
}

// release gives a claimed redirect consent back.
func (f *Flow) release(ctx context.Context, p *session.Consent) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := f.consents.Leases.Release(ctx, p.ID, 0); err != nil {
		f.grumble(ctx, "can't release a consent", p.Key, err) // its lease runs out
	}
}
