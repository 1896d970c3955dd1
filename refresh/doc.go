// Package refresh finds users' access tokens, and renews each before it expires.
// What renews it is a refresh token that works exactly once.
//
// Start with [Source.Token]. It promises four things:
//
//   - One refresh of a session is under way at a time, over all replicas.
//   - A refresh token is not sent again once Lark has answered it. There are two
//     exceptions: the process that got the answer dies before it has stored it, or
//     has not stored it yet when its lease ends.
//   - Only an answer of Lark's ends a session. No other failure does.
//   - A valid access token is served, whatever else fails.
//
// # The protocol
//
// A row has a version, which each stored pair, consent or revocation moves; a
// lease (owner and deadline); and a count of attempts whose outcome is not
// stored. The database's clock judges leases, the local clock judges expiry.
//
//  1. Calls for one session in one process share one run.
//  2. The row is read. If its access token is fresh, another replica has renewed
//     it, and that is the result. If the session may not be tried yet (retry_at),
//     or the app's circuit is open, the run ends here.
//  3. The run waits for a call under the app's rate, which all replicas and all
//     kinds of calls to the token endpoint share ([Source.AwaitTurn]). Code
//     exchanges go first, then refreshes that a request waits for, then device
//     polls, then the sweep. An admission that can't be used, since another
//     owner was faster, goes to the next in line.
//  4. The lease is taken, by one run of a process at a time: UPDATE … WHERE version
//     = (the one read) AND the lease is free. The same statement counts the
//     attempt, so that the next owner sees it after a crash. It returns the row,
//     which is thereby read again under the lease.
//  5. Lark is asked, on a context that no caller can cancel and that ends well
//     before the lease does. No connection or transaction is held meanwhile.
//  6. Both tokens are stored WHERE version = (the one read). Only then does anyone
//     see the new access token. If the database fails it is tried again for as long
//     as the process runs: until it succeeds, this process has the only good copy.
//     If the access token can't be used, such as one that has expired on arrival,
//     the session backs off as after a failure.
//  7. An error of Lark's is handled by its class. If nothing was spent, the attempt
//     is taken back and the session backs off. If the outcome is unknown, the
//     attempt stays counted and the session backs off. If the refresh token is dead,
//     the row is read again: if its version has moved, another replica was faster
//     and its token is the result, otherwise the session ends with a reason. If
//     Lark refuses the app, the app rests until a probe finds it accepted again; its
//     sessions don't back off. If the user is gone, the session is disabled.
//
// # Why each crash point is safe
//
//   - Before 4: nothing has happened.
//   - Between 4 and 5, or in 5 before Lark saw the request: the refresh token is
//     unspent. When the lease runs out, another replica takes it, sends the same
//     token and gets a pair. It has counted a second attempt, but nobody looks at
//     the count unless Lark says that the token was used.
//   - In 5 after Lark rotated, or between 5 and 6: the new pair is lost with the
//     process. The next owner sends the spent token, gets 20064 or 20073 ("used"),
//     and finds more than one attempt. So it knows that the answer was lost, and not
//     the token stolen (refresh_token_used, class rotation_lost). This is the only
//     window in which a grant is lost, and the old access token is served until it
//     expires.
//   - In 6 after the commit: the pair is stored, and the next read finds it.
//   - A process that is told to stop begins no further step 4 and waits for the
//     runs that are past it ([Source.Shutdown]).
//   - A process that was suspended in 5 or 6 for longer than its lease, and then
//     goes on: another replica may have ended the session meanwhile (step 7). That
//     does not move the version, so the late store of step 6 still finds its
//     version and makes the session active again. A consent or a revocation moves
//     the version: then the late pair is thrown away, and revoked at Lark if the
//     user had revoked.
//
// test/model checks these claims exhaustively for small numbers of replicas,
// and simulation_test.go checks them in random interleavings of the real code.
//
// The lease could go if Lark's token endpoint took an idempotency key, or
// accepted a spent refresh token for a while. Neither is documented.
package refresh
