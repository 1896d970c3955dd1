// Package model checks the refresh protocol of refresh/doc.go exhaustively:
// every interleaving of a few replicas, one session and every fault at every
// step. Start with [Explore].
//
// # Why Go and not Spin
//
// The state space is small enough for a map. A search in Go runs in "go test"
// with no further tool, a mutation of the protocol is a field, and whoever
// maintains refresh/rotate.go reads this without learning Promela. What Spin
// would add, partial-order reduction and temporal formulas, is not needed: the
// replicas are alike, so states that differ in their order only are one state,
// and the one property of progress is a question about the graph's cycles and
// ends.
//
// # What is modelled
//
// Lark: for each authorization (grant) a chain of refresh tokens of which one is
// current; spending it makes the next current. The row: version, pair, state,
// reason, lease, attempts, and whether the access token is fresh. Replicas: a
// program counter and what the run keeps in local variables. The names are those
// of refresh/rotate.go.
//
// Not modelled, because they only delay a step or keep one from being tried:
// retry_at, the governor, the circuit breaker, an app that is refused, a user
// who is gone. Calls that share one run (singleflight) are one run.
//
// # Faults, without a bound on their number
//
//   - a process is killed, at any step
//   - a lease runs out while its owner is still at work (stopped for long, a
//     database that is away for long), at any step
//   - the request to Lark is not sent, gets lost, arrives after its sender gave
//     up on it, or is refused for the moment; the answer gets lost
//   - a statement fails, or takes effect and its answer gets lost
//
// And at any time the user may consent anew or revoke.
//
// # What holds
//
//   - [ErrResent]: a refresh token that Lark answered with a pair is sent again only
//     if that pair is lost (its receiver was killed, or the answer never came),
//     or if the lease of the sender, or of whoever holds the pair, has run out
//     under it. So among processes that keep to their leases, never.
//   - [ErrDropped]: the newest pair of a grant that was neither superseded by a
//     consent nor revoked is in the row, or in the hands of a living replica whose
//     store is going to succeed, or was lost as above. Nothing else loses a grant.
//   - [ErrWentBack]: the pair in the row is only ever followed by a newer one.
//   - [ErrCameBack]: after a revocation no token of that grant is in the row again.
//   - [ErrWronglyEnded]: a session ends with refresh_token_used only if its refresh
//     token is spent, and its pair lost or with an owner whose lease ran out (who
//     brings the session back to life when it stores); and the journal tells it
//     from a stolen token (class rotation_lost).
//   - [ErrStuck]: when the faults stop, the system comes to rest, from every state:
//     no live-lock, and at rest the row holds the current pair with a fresh access
//     token, or says refresh_token_used of a pair that was lost, or revoked; and of
//     a grant that was revoked nothing works at Lark any more, unless its newest
//     pair was lost or the user has consented anew before its holder looked.
//
// Each of the rules in the protocol that these rest on can be broken by a
// [Mutation]; the tests expect a counter-example for each.
package model
