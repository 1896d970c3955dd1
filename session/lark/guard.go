package lark

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"larkside/session"
)

var errPanicked = errors.New("a panic; the log has more")

// guard calls f and returns its error. If f panics, guard logs the panic and
// returns errPanicked. f runs library code on data from the network, and such
// data must not end the process.
func (c *Client) guard(ctx context.Context, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errPanicked
			c.log.ErrorContext(ctx, "a panic in Larkside's client for Lark", "app_id", c.appID,
				"error", scrub(fmt.Sprint(v), []session.Secret{c.secret()}), "stack", string(debug.Stack()))
		}
	}()
	return f()
}
