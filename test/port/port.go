// Package port reserves TCP ports, for servers that are started later and for
// addresses where nobody listens.
//
// Whoever closes a listener to learn a free port lets any other process have it
// in the meantime: on a busy machine another test's server gets it.
package port

import (
	"net"
	"strconv"
	"testing"
)

// Reserve returns an address on loopback, on a port that the system gives to
// nobody else until release is called: neither to a listener on port 0 nor to an
// outgoing connection. Connections to it are refused while nobody listens there.
// A server that is told the address can listen there, and again after it has
// stopped.
//
// Only Linux can do this. Elsewhere the port is one that was free just now.
func Reserve() (address string, release func(), err error) {
	number, release, err := reserve()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(number)), release, err
}

// Address is [Reserve] until the test ends.
func Address(t testing.TB) string {
	t.Helper()
	address, release, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return address
}
