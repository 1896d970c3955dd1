// Package edge holds what Larkside's listeners have in common at their outer
// edge: who may speak to them, and how they say no.
//
// [Hosts] refuses the requests of web pages. [Failure] is the table of all
// answers that are Larkside's own, in Lark's envelope; [For] finds the row for
// an error, and [Answer] writes it. A name means the same status and code on
// each listener.
package edge
