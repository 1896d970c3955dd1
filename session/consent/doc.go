// Package consent asks a user, in chat, to authorize the app: it is how a
// session is born.
//
// [Flow.Ask] is called for every request that only the user can help. It keeps
// at most one consent open for one user, over all replicas, and answers with
// the link. [Flow.Run] does what needs a clock: it polls the device flow,
// closes what has expired and brings cards up to date. [Flow.Handler] serves
// the redirect flow's two pages to browsers. All of them end in the same place,
// finish.go, which stores the session.
//
// What holds, and where it is enforced:
//
//  1. One open consent per user: the partial unique index behind
//     [store.DB.BeginConsent]. Who loses that insert answers with the
//     winner's link. A starter that died is taken over when its lease ends.
//  2. At most one card per consent: the message's uuid is made of the
//     consent's id, so a repetition after a crash is dropped by Lark.
//  3. Only the user it was started for: whoever approves, user_info says who
//     that was before anything is stored. A wrong user's tokens are revoked.
//  4. A consent that is over stores nothing. The grant is stored and the
//     consent closed in one transaction ([store.DB.FinishConsent]). With
//     the store first and the close after it, one that was superseded in
//     between would have stored; with the close first, a crash in between
//     would show the user "done" and keep nothing. When the transaction finds
//     the consent closed, the tokens are revoked at Lark.
//  5. Tokens in hand are not lost to a blip: while the process runs, user_info
//     and the transaction are tried again, with the claim on the consent held so
//     that no other replica polls the spent code. A crash in that moment costs
//     the grant: the consent expires and the next call asks again.
//
// When Lark is down, Ask answers without a link and the 401 goes out all the
// same. When the database is down, Ask fails with [session.ErrUnavailable].
package consent
