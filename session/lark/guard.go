package lark

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"larkside/session"
)

var errPanicked = errors.New("a panic; the log has more")

// guard returns f's error. A panic in f, or in what it calls, is logged and
// becomes [errPanicked]: f runs the code of libraries on what came from outside,
// and no answer and no event is worth the process.
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
