// Package tokens has users and their access tokens. A token says whose it is, so
// that whoever sees one needs no table.
package tokens

import (
	"fmt"
	"strconv"
	"strings"
)

// Bytes is the length of an access token. Lark's are as long.
const Bytes = 1500

// User is the open_id of the i-th user.
func User(i int) string { return fmt.Sprintf("ou_load%06d", i) }

// Of is the access token of user.
func Of(user string) string {
	head := "u-" + user + "."
	return head + filler[:Bytes-len(head)]
}

// filler does not repeat itself too soon, as a token doesn't: HTTP/2 compresses
// headers by the letter.
var filler = func() string {
	var b strings.Builder
	for i := 0; b.Len() < Bytes; i++ {
		b.WriteString(strconv.FormatInt(int64(i)*7_919_997_773, 36))
	}
	return b.String()
}()

// Owner is whose token an Authorization header has; "" if it has no good one.
func Owner(authorization string) string {
	token, ok := strings.CutPrefix(authorization, "Bearer u-")
	user, rest, _ := strings.Cut(token, ".")
	if !ok || len(authorization) != len("Bearer ")+Bytes || !strings.HasPrefix(filler, rest) {
		return ""
	}
	return user
}

// Headers are the Authorization headers of the first n users.
func Headers(n int) map[string]string {
	all := make(map[string]string, n)
	for i := range n {
		all[User(i)] = "Bearer " + Of(User(i))
	}
	return all
}
