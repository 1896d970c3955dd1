// Package edge holds what Larkside's listeners have in common at their outer
// edge: who may speak to them, and how they say no.
//
// [Hosts] refuses the requests of web pages, and [AdminKey] those without the admin
// key. [Failure] is a kind of answer that is Larkside's own, such as
// [HostNotAllowed]: each has one name, one status and one code for all listeners.
// [For] finds the one for an error, and [Answer.Write] sends it in Lark's envelope,
// so that an official SDK reports it as it reports Lark's own errors.
package edge
