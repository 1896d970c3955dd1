package session

// Refusal says why an API of Lark's refused a request because of its token, and
// so what helps.
type Refusal int

const (
	// NotRefused: the token was accepted, or the answer says nothing about it.
	NotRefused Refusal = iota
	// TokenInvalid: the token has expired, was revoked, or is malformed. Another
	// token helps. A tenant token is refused so, too, by an API that takes only
	// user tokens.
	TokenInvalid
	// WrongTokenKind: the API takes only tenant tokens. To refresh the user's
	// token would not help, and it would spend the refresh token.
	WrongTokenKind
	// ScopeMissing: the token is good, and the user has to grant more.
	ScopeMissing
	// AppScopeMissing: the app itself lacks the scope. No user can help.
	AppScopeMissing
)
