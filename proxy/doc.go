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
// The hot path is a request whose token is cached, from ServeHTTP to the end of
// its answer (handler.go: begin, serve, forward, end). It may not
//
//   - take a lock that requests of other users take; what is shared is read by
//     an atomic pointer and replaced as a whole (callers, series, secrets);
//   - ask the database, or anything over the network but Lark;
//   - write a log line at info or above (the access log is off by default);
//   - allocate for each header or each byte: a header is changed in place, with
//     values that all requests share (gzipOnly, asIs), and a body passes through
//     buffers that are lent;
//   - build attributes of a metric: each series has its own, made once.
//
// All that belongs to one request is in one exchange, which is also the
// request's context, so that ReverseProxy's hooks find it. That, the request
// that carries it, and what a span needs are the at most six allocations more
// than a bare ReverseProxy makes; TestAllocations counts them, with metrics and
// without. The connection to Lark is net/http's ([Transport]).
package proxy
