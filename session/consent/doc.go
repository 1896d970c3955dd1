// Package consent asks a user, in chat, to authorize the app: it is how a
// session is born.
//
// [Manager.Ask] is called for every request that only the user can help. It keeps
// at most one consent open for each user, over all replicas, and returns the
// link. [Manager.Run] does what needs a clock: it polls the device flow, closes
// what has expired and updates cards. [Manager.Handler] serves the redirect flow's
// two pages to browsers, and takes Lark's events. Every approval ends in finish.go,
// which stores the session.
//
// What always holds, and where it is enforced:
//
//  1. A user has one open consent: the partial unique index behind
//     [store.Consents.Begin]. If two replicas start one at the same time, both
//     answer with the link of the one that is stored. If a starter dies, another
//     takes over when its lease ends.
//  2. A consent has at most one card: the message's uuid is made of the consent's
//     id, so Lark drops a repetition after a crash.
//  3. A consent completes only for its user. Before anything is stored, user_info
//     says who has approved. Another user's tokens are revoked.
//  4. A consent that is over stores nothing. The grant is stored and the consent
//     closed in one transaction ([store.Consents.Finish]). If the grant were stored
//     first, a consent that was superseded in between would have stored something.
//     If the consent were closed first, a crash in between would show the user
//     "done" and store nothing. If the transaction finds the consent closed, the
//     tokens are revoked at Lark.
//  5. Tokens are not lost to a failure that passes. While the process runs,
//     user_info and the transaction are tried again, under the consent's lease, so
//     that no other replica polls with the spent code. A crash in that moment costs
//     the grant: the consent expires, and the next call asks again.
//
// When Lark is down, Ask answers without a link and the 401 goes out. When the
// database is down, Ask fails with [session.ErrUnavailable].
package consent
