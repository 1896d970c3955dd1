// Command load measures what the hop through larkside costs, beside the proxies
// that one would compare it with:
//
//	go run ./test/load
//	go run ./test/load -short
//	go run ./test/load -run closed,open -conns 16,64 -json figures.json
//	go run ./test/load -pgo cpu.pprof
//
// # What runs
//
// The real larkside, built as it is shipped, in its default configuration:
// metrics on, traces sampled at 1 % and exported over OTLP, no access log, SQLite.
// naive is httputil.ReverseProxy as one writes it in five lines; tuned is the
// same with a Rewrite, a buffer pool, a transport of the right size and an LRU
// for the tokens, and nothing else; nginx, HAProxy and Caddy where they are
// found. Each is a process of its own, and so are the upstream and the load
// generator. Everything is on loopback, and ends with this process.
//
// # How it is measured
//
// Everything shares the machine, so figures are only worth something beside
// each other: each round runs all proxies in a new random order, a figure is
// compared with tuned's of the same round, and the table has the median of
// these ratios with the least and the greatest.
//
// The upstream answers whose token came, and the generator looks at every
// answer: one wrong user ends the run with status 1.
//
// Closed loop: each connection sends when it has its answer. Open loop: requests
// are sent at a constant rate whatever the answers do, and a latency counts from
// when the request was meant to be sent, so that a stall is seen by all who
// would have been in it.
//
// CPU is user and system time from /proc/PID/stat, of all processes of a proxy.
// Allocations are what the Go runtime of the proxy counts.
package main
