// Package chaos runs three real larkside processes on a real PostgreSQL, puts
// load on them and breaks things: kill -9, stopped processes (also for longer
// than a lease), connections to the database and to Lark that are cut or hang, a
// token endpoint that hangs, slow, lost and spoiled answers of the token endpoint,
// callers that hang up. Of PostgreSQL it has:
//
//   - an immediate restart
//   - a failover: the standby is promoted, and the old primary is dead, or lives
//     on, read-only and with its connections
//   - a server that takes no more connections (53300), with and without ending
//     those that there are
//   - a LISTEN connection that says nothing any more, without having ended
//
// With -clock the clock of one replica is off, too.
//
//	go test -v ./test/chaos                                              # a short one
//	go test -v ./test/chaos -seed 7                                      # the same faults again
//	go test -v ./test/chaos -duration 10m -timeout 20m                   # by hand
//	go test -v ./test/chaos -duration 10m -timeout 20m -clock 90s        # by hand; also -90s
//
// The emulator's ledger is the judge, after the fact; see judge_test.go for what
// counts as a failure and which fault excuses what. Everything that was excused
// is counted in the report.
//
// The seed decides which fault strikes when and for how long. When a request
// meets it is up to the machine. The clock is its own run, since it needs access
// tokens that live for minutes, and in the others they end every few seconds:
// there, callers depend on each renewal. It also needs larkside built anew, with a
// standard library whose time.Now is off (clock_test.go), which takes a minute or
// two the first time.
//
// What the judge does not see: the standby is synchronous. With an asynchronous
// one a failover is a restore of a backup some seconds old, and costs grants
// (deploy/docs/operating.md). A silent LISTEN connection seldom stays silent for long
// enough to be noticed by its ping, since the process is killed before; the
// store's TestListening waits for that.
//
// A caller whose token has ended may get 503 for as long as faults strike. So a
// replica that is slow to leave the old primary, or fails instead of waiting for a
// connection, serves fewer calls here and fails nothing: the store's TestFailover
// and TestServerHasNoMoreConnections find those.
//
// Connections are cut by a small TCP proxy (cutter_test.go). toxiproxy
// does the same and more, but as a library it brings zerolog, gorilla/mux and
// tomb, and versions of 2022 for the rest, for two of its toxics.
package chaos
