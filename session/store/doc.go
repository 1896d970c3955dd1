// Package store keeps sessions, consents and what belongs to them in a
// database: PostgreSQL (any number of replicas) or SQLite (one process).
//
// [Open] returns a [DB]. It has one field for each area, and each user takes
// the ones that it needs:
//
//   - [Sessions] reads and writes what users granted, with a cache of access
//     tokens in front.
//   - [Leases] is the way to a new pair of tokens. A refresh token works once, so
//     it is read from the row, under a [Lease], every time.
//   - [Profiles] has the personal data that is read from Lark.
//   - [Reminders] finds grants that end soon.
//   - [Consents] has the requests to users, from the first link to the answer.
//   - [Events] and [Rates] and [Elections] let replicas share work: each event is
//     handled once, limits hold for all together, a job has one owner.
//   - [Defaults] has who signed in by "larkside login".
//   - [Retention] deletes what is not needed any more.
//   - [Audit] is the trail of who did what.
//   - [Directory] is what people look at: lists, searches and counts.
//   - [Changes] tells a waiting request that a user's session or consent changed.
//
// While the database is down, access tokens in the cache are served until they
// expire, and everything else fails with [session.ErrUnavailable].
//
// Secrets are sealed (session/seal) before they are stored. One SQL text serves
// both databases and stands beside the code that scans its result; only the
// schemas differ, in migrations. larkside_now() is the database's clock in
// milliseconds. It judges leases, rates and consents, so that replicas whose
// clocks differ agree. The local clock judges the life of tokens.
package store
