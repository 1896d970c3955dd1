// Package lark speaks every byte that the sidecar exchanges with Lark by
// itself: the OAuth token endpoint, the device flow, revocation, cards, the
// contact directory and the app's own token. (What an app sends through the
// proxy is not its business.)
//
// Start with [Client]; each of its methods is one operation and returns either
// its result or an error that is an [*Error]. Its [Class] says what to do
// about it, its [Outcome] whether a one-time token may have been spent. Both
// come from tables in error.go, one row a code.
//
// Lark's answers are input like any other. They are read up to a limit, never
// redirected, judged by HTTP status and body together, and nothing of them
// reaches an error text before it has been stripped of what looks like a
// secret. A rotated refresh token is never thrown away because something else
// in its answer was odd: see [Token.Warnings].
//
// OAuth calls are written by hand on net/http, because what matters there (was
// the request sent? which code came with which status?) is what the SDK hides.
// Cards and contacts go through the official SDK, which also keeps the
// tenant_access_token they need.
//
// When Lark is down every method fails within its context's deadline with
// class [Retry]. Nothing that spends a one-time token is ever sent twice. Where
// a repetition is harmless (a card has its uuid) the SDK makes one, after a
// failed dial or a refused tenant token; other repetitions are named at their
// method.
package lark
