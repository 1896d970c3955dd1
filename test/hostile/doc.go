// Package hostile has tests in which everything that speaks to larkside is an
// attacker: its callers, their browsers, Lark itself. They run the real binary
// and send it bytes; what reaches Lark is seen byte by byte.
package hostile
