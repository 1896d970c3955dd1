// Package lark speaks every byte that Larkside itself sends to Lark and reads
// from it: the OAuth token endpoint, the device flow, revocation, cards,
// events, the contact directory and the app's own token. What an app sends
// through the proxy does not pass here.
//
// Start with [Client]. Each of its methods is one operation and returns its
// result or an [*Error]. The error's [Class] says what to do about it. Its
// [Outcome] says whether a one-time token may have been spent. Both come from
// the tables in error.go, which have a line for each of Lark's codes.
//
// Lark's answers are input like any other. They are read up to a limit,
// redirects are not followed, and the HTTP status and the body are judged
// together. An error text has nothing of them that looks like a secret. A
// rotated refresh token is never thrown away because something else in its
// answer was odd: see [Token.Warnings].
//
// OAuth calls are written on net/http, because the SDK hides what matters
// there: whether the request was sent, and which code came with which status.
// Cards and contacts go through the official SDK.
//
// When Lark is down, every method fails within its context's deadline with
// class [Retry]. Nothing that spends a one-time token is sent twice. A call
// that can be repeated without harm says so at its method.
package lark
