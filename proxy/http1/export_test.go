package http1

// Address is where t dials, and the name that it verifies.
func Address(t *Transport) (address, name string) { return t.address, t.c.TLS.ServerName }
