package http1

// Address is where t dials, and the name that it verifies.
func Address(t *Transport) (address, name string) { return t.address, t.c.TLS.ServerName }

// Expire makes what is left of the last exchanges' time limits run out on every
// idle connection.
func Expire(t *Transport) {
	for n := t.idle.top.Load(); n != nil; n = n.next {
		if c := n.c.Load(); c != nil && !c.limit.IsZero() {
			c.setLimit(past)
		}
	}
}
