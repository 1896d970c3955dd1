package lark

import (
	"bytes"
	"context"
	"net/url"

	"larkside/session"
)

// Revoke ends token at Lark. With the hint access_token it ends that token.
// With refresh_token it ends the grant's refresh token, and access tokens stay
// valid. A successful answer may have an empty body. Source: RFC 7009; Lark
// "revoke token".
func (c *Client) Revoke(ctx context.Context, token session.Secret, hint string) error {
	secret := c.secret()
	x := &call{op: "revoke " + hint, limit: tokenLimit, secrets: []session.Secret{token, secret}}
	c.postForm(ctx, x, c.accountsURL+"/oauth/v1/revoke", url.Values{
		"token":           {token.Expose()},
		"token_type_hint": {hint},
		"client_id":       {c.appID},
		"client_secret":   {secret.Expose()},
	})
	_, err := x.result(onRefresh)
	if x.answered() && x.succeeded() && len(bytes.TrimSpace(x.body)) == 0 {
		return nil
	}
	return err
}
