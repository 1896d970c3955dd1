// Package refresh keeps what is stored current: it finds a user's access token
// and renews it with a refresh token that works exactly once.
//
// Start with [Source.Token]. Its promise: one refresh of one session is under
// way at a time, over all replicas; a refresh token that Lark has answered is
// not sent again by anyone who can know; no failure but Lark's own word ends a
// session; and while the access token lives it is served, whatever else fails.
//
// # The protocol
//
// A row has a version (moved by each stored pair, consent or revocation), a
// lease (owner, deadline) and a count of attempts whose outcome is not stored.
// Leases are judged by the database's clock, expiry by the local one.
//
//  1. Calls for one session in one process share one run.
//  2. The row is read. If its access token is fresh (another replica has
//     refreshed it) that is the result. If it may not be tried yet (retry_at),
//     or the app's circuit is open, the run ends here.
//  3. A call to the token endpoint is admitted under the app's rate, which all
//     replicas share. Whoever waits for a token goes before the sweep. An
//     admission that turns out to be of no use, since another owner was faster,
//     goes to the next in line.
//  4. The lease is taken, by one run of a process after the other: UPDATE … WHERE
//     version = (the one read) AND the lease is free. The same statement counts
//     the attempt, which is the journal, and returns the row, which is the
//     re-read under the lease.
//  5. Lark is asked, on a context that no caller can cancel and that ends well
//     before the lease does. No connection or transaction is held meanwhile.
//  6. Both tokens are stored WHERE version = (the one read); only then does
//     anyone see the new access token. A failing database is asked again for as
//     long as the process lives: until it takes them, this process has the only
//     good copy.
//  7. An error of Lark's is settled by its class: refused and nothing spent
//     (attempt taken back, backoff); outcome unknown (attempt left open,
//     backoff); the refresh token is dead (the row is read again first; if the
//     version moved, another replica has won and its token is the result; else
//     the session ends with a reason); the app is refused (nothing is written,
//     the app rests); the user is gone (session disabled).
//
// # Why each crash point is safe
//
//   - Before 4: nothing has happened.
//   - Between 4 and 5, or in 5 before Lark saw the request: the refresh token is
//     unspent. When the lease runs out another replica takes it over, sends the
//     same token, and gets a pair. attempts is 2, which does no harm.
//   - In 5 after Lark rotated, or between 5 and 6: the new pair died with the
//     process. The next owner sends the spent token, gets 20064 or 20073 and
//     finds attempts > 1: the loss is recognised for what it is
//     (refresh_token_used, class rotation_lost). This is the only window in
//     which a grant is lost, and the old access token is served to its end.
//   - In 6 after the commit: the pair is stored; the next read finds it.
//   - A process that is told to stop begins no step 4 any more and waits for those
//     who are past it ([Source.Shutdown]).
//   - A process that was stopped for longer than its lease, in 5 or 6, and lives
//     on: another replica may have given the grant up meanwhile (step 7). Ending
//     a session does not move the version, so the late store of step 6 still
//     finds its version and brings the session back to life. A consent or a
//     revocation does move it: then the late pair is thrown away, and revoked at
//     Lark if the user had revoked.
//
// test/model checks these claims exhaustively for small numbers of replicas,
// simulation_test.go in random interleavings of the real code.
//
// What would change our minds about the lease: an idempotency key at Lark's
// token endpoint, or a grace period in which a spent refresh token may be sent
// again. Neither is documented.
package refresh
