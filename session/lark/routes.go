package lark

import (
	_ "embed"
	"slices"
	"strings"
)

// routesText is one operation of Lark's open API per line: a method and a path
// with :name for what varies. It is made of the SDK; see TestRoutesAreTheSDKs.
//
//go:generate go test -run ^TestRoutesAreTheSDKs$ -update .
//go:embed routes.txt
var routesText string

// Routes finds the template of a path out of the closed set of Lark's
// documented operations, for metrics and spans: what a caller invents makes no
// new label. It is safe for concurrent use.
type Routes struct{ root routeNode }

type routeNode struct {
	literal []routeEdge // sorted by segment
	any     *routeNode  // a :name
	ends    []routeEnd  // the operations that end here
}

type routeEdge struct {
	segment string
	to      *routeNode
}

type routeEnd struct{ method, template string }

// NewRoutes reads the operations of the SDK that Larkside was built with.
func NewRoutes() *Routes {
	r := new(Routes)
	for line := range strings.Lines(routesText) {
		method, template, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		r.root.add(method, template)
	}
	return r
}

func (n *routeNode) add(method, template string) {
	for segment := range strings.SplitSeq(strings.TrimPrefix(template, "/"), "/") {
		n = n.child(segment)
	}
	n.ends = append(n.ends, routeEnd{method, template})
}

func (n *routeNode) child(segment string) *routeNode {
	if strings.HasPrefix(segment, ":") {
		if n.any == nil {
			n.any = new(routeNode)
		}
		return n.any
	}
	i, found := n.find(segment)
	if !found {
		n.literal = slices.Insert(n.literal, i, routeEdge{segment, new(routeNode)})
	}
	return n.literal[i].to
}

func (n *routeNode) find(segment string) (int, bool) {
	return slices.BinarySearchFunc(n.literal, segment, func(e routeEdge, s string) int { return strings.Compare(e.segment, s) })
}

// Match returns the template of an operation, such as
// /open-apis/contact/v3/users/:user_id, and false for what is none. A literal
// segment wins over a variable one; HEAD counts as GET. It does not allocate.
func (r *Routes) Match(method, path string) (template string, ok bool) {
	if method == "HEAD" {
		method = "GET"
	}
	rest, rooted := strings.CutPrefix(path, "/")
	if !rooted {
		return "", false
	}
	return r.root.match(method, rest)
}

// match goes down by one segment of rest. It goes back up where a literal turns
// out to have been a name, at most once for each node of the tree.
func (n *routeNode) match(method, rest string) (string, bool) {
	segment, rest, more := strings.Cut(rest, "/")
	if i, found := n.find(segment); found {
		if template, ok := n.literal[i].to.after(method, rest, more); ok {
			return template, true
		}
	}
	if n.any == nil || segment == "" {
		return "", false
	}
	return n.any.after(method, rest, more)
}

func (n *routeNode) after(method, rest string, more bool) (string, bool) {
	if more {
		return n.match(method, rest)
	}
	for _, end := range n.ends {
		if end.method == method {
			return end.template, true
		}
	}
	return "", false
}
