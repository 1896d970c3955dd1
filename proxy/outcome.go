package proxy

import (
	"context"
	"errors"

	"larkside/proxy/edge"
	"larkside/session"
)

// Outcome says what became of a request. An Outcome is one of these, or the name of
// one of [Failures].
type Outcome string

const (
	// Proxied: forwarded with the user's token and answered by Lark.
	Proxied Outcome = "proxied"
	// RefreshedReplayed: Lark refused the user's or the tenant's token, and accepted
	// the next one.
	RefreshedReplayed Outcome = "refreshed_replayed"
	// RefreshedNotReplayed: Lark refused the token. Another one is there, but the
	// body was too large to be sent again.
	RefreshedNotReplayed Outcome = "refreshed_not_replayed"
	// WrongTokenKind: the API takes only tenant tokens.
	WrongTokenKind Outcome = "wrong_token_kind"
	// ScopeMissing: the user has to grant another scope, and was asked to.
	ScopeMissing Outcome = "scope_missing"
	// AppScopeMissing: the app lacks the scope.
	AppScopeMissing Outcome = "app_scope_missing"
	// PassedThrough: forwarded with the app's own Authorization, or with none.
	PassedThrough Outcome = "passed_through"
	// WithTenantToken: forwarded with the tenant's token.
	WithTenantToken Outcome = "tenant_token"
	// AnsweredHere: an SDK's call for its app's token, answered by Larkside.
	AnsweredHere Outcome = "answered_here"
	// Authorized: a mesh was told to forward the request.
	Authorized Outcome = "authorized"
	// ClientGone: the caller hung up before the end of the answer.
	ClientGone Outcome = "client_gone"
	// Aborted: the answer broke off.
	Aborted Outcome = "aborted"
)

// The values of X-Larkside-Hint, on answers of Lark's that are passed on.
const (
	// hintNotReplayed: there is another token now, but the body was too large to be
	// kept. The app can send the request again.
	hintNotReplayed = "not-replayed"
	// hintTenantOnly: the API takes no user's token. The app can leave out
	// X-Lark-User-Id.
	hintTenantOnly = "tenant-token-only"
	// hintAppScope: the app lacks a scope. It has to be enabled in the developer
	// console and published.
	hintAppScope = "app-scope-missing"
)

// result is what became of a request.
type result struct {
	outcome Outcome
	hint    string         // X-Larkside-Hint of the answer
	link    string         // X-Larkside-Authorize-Url of Lark's answer
	reason  session.Reason // why the user was asked
	lookup  session.Lookup // where the token was found
	// returned says that the handler returned. Otherwise it panicked, which is how
	// net/http breaks off an answer.
	returned bool
}

// reasonOf returns why the user has to be asked, and false if err doesn't say that.
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

// lookupError returns why there is no token, by the name of the failure that is
// answered.
func lookupError(err error) string {
	if _, asked := reasonOf(err); asked {
		return edge.AuthorizationRequired.Name
	}
	return errorType(err)
}

// errorType is the name of err in spans, out of a small set.
func errorType(err error) string {
	if a := edge.For(err); a != nil {
		return a.Name
	}
	if errors.Is(err, context.Canceled) {
		return string(ClientGone)
	}
	return "_OTHER"
}
