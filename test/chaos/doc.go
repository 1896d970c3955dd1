// Package chaos runs three real larkside processes on a real PostgreSQL, puts
// load on them and breaks things: kill -9, stopped processes (also for longer
// than a lease), an immediate restart of PostgreSQL, connections to the database
// and to Lark that are cut or hang, a token endpoint that hangs, slow, lost and
// spoiled answers of the token endpoint, callers that hang up.
//
//	go test -v ./test/chaos                                        # a short one
//	go test -v ./test/chaos -seed 7                                # the same faults again
//	go test -v ./test/chaos -duration 10m -timeout 20m             # by hand
//
// The emulator's ledger is the judge, after the fact; see judge_test.go for what
// counts as a failure and which fault excuses what. Everything that was excused
// is counted in the report.
//
// The seed decides which fault strikes when and for how long. When a request
// meets it is up to the machine.
//
// Connections are cut by a TCP proxy of 100 lines (cutter_test.go). toxiproxy
// does the same and more, but as a library it brings zerolog, gorilla/mux and
// tomb, and versions of 2022 for the rest, for two of its toxics.
package chaos
