// Package proxy forwards an app's requests to Lark with the user's token added.
//
// [New] returns the handler; [Config] names its parts. The app says in
// X-Lark-User-Id whose request it is, [TokenSource] has that user's token, and
// the request goes on as it came, streamed both ways, with exactly one
// Authorization header. Everything that can be refused is refused before
// [httputil.ReverseProxy] runs; what Lark answers is passed on untouched, save
// for a refused token, which is renewed and the request replayed, once.
//
// # The promise
//
// A user's token leaves only with that user's request, only for the configured
// origin, only on an inject path. The check and the one line that sets the
// header are side by side in authorize (upstream.go). When a token can't be
// had, nothing is forwarded.
//
// # When Lark or the database is down
//
// The proxy keeps no state of its own: with Lark unreachable it answers 502 or
// 504, with the database down 503 for users whose token isn't cached, and goes
// on for all others.
//
// # The hot path
//
// A request whose token is cached takes no lock that others share, asks no
// database, writes no log line at info, and makes at most eight allocations
// more than a bare ReverseProxy (TestAllocations). All that belongs to one
// request is in one exchange, which is also the request's context.
package proxy
