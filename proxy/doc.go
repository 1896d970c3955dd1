// Package proxy forwards an app's requests to Lark with the user's token added.
//
// [New] makes the handler from a [Config], and [NewServer] the server for it. The
// app says in X-Lark-User-Id whose request it is, and [TokenSource] has the token of
// that user. The request goes on as it came, streamed both ways, with one
// credential at most. Lark's answer is passed on untouched. If Lark refuses the
// token, it is replaced and the request sent once more.
//
// # The promise
//
// A user's token leaves only with a request of that user, only for the configured
// upstream, and only on an inject path. The check and the line that sets the header
// stand side by side in authorize.go ([session.Access.Authorize] writes the header). If
// no token can be had, nothing is forwarded.
//
// # The way of a request
//
// serve (handler.go) is the policy, from top to bottom:
//
//	who may speak          edge.Hosts, callers.go
//	what for               path.go: is the path unambiguous, may a token go there
//	for whom               credential.go, identity.go, prove.go: the user, the app
//	with which token       credential.go, token.go
//	no token               challenge.go, places.go: ask the user, wait, answer 401
//	forward                forward.go, authorize.go, body.go, header.go
//	what Lark answers      inspect.go: is the token refused, is a scope missing
//	what became of it      outcome.go, trace.go, metrics.go
//
// What differs for /mcp is in mcp.go, and authz.go answers those who forward by
// themselves.
//
// All that belongs to one request is in its request struct (request.go). The files
// above use it. The others, such as path.go, callers.go and transport.go, don't know
// it: each has one thing, and is given what it needs.
//
// # When Lark or the database is down
//
// The proxy keeps no state of its own. If Lark can't be reached, it answers 502 or
// 504. If the database is down, it goes on for requests that name by open_id a user
// whose token is cached, and answers 503 for all others. A union_id, a user_id and
// the default user of "larkside login" are looked up in the database each time.
//
// # The hot path
//
// The hot path is that of a request that names its user by open_id and whose token is
// cached. It must not
//
//   - take a lock that the requests of other users take. What they share is read
//     through an atomic pointer and replaced as a whole (series, secrets);
//   - ask the database, or anything but Lark over the network;
//   - write a log line at info or above (the access log is off by default);
//   - allocate for each header or each byte. Headers are changed in place, with
//     values that all requests share, and a body passes through lent buffers;
//   - make the attributes of a metric: each series has its own, made once.
//
// A request struct is the context of its request, too, so that the hooks of
// ReverseProxy find it without an allocation. TestAllocations holds that the proxy
// makes at most six allocations more than a bare ReverseProxy, with metrics and
// without. The connection to Lark is net/http's (see [Transport]).
package proxy
