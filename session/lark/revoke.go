package lark

import (
	"bytes"
	"context"
	"net/url"

	"larkside/session"
)

// Revoke ends token at Lark. hint is access_token (ends that token only) or
// refresh_token (ends the grant's ability to refresh; access tokens live on).
// Success may come with an empty body. Source: RFC 7009; Lark "revoke token".
func (c *Client) Revoke(ctx context.Context, token session.Secret, hint string) error {
	secret := c.secret()
	x := &exchange{op: "revoke " + hint, limit: tokenLimit, secrets: []session.Secret{token, secret}}
	c.postForm(ctx, x, c.accountsURL+"/oauth/v1/revoke", url.Values{
		"token":           {token.Expose()},
		"token_type_hint": {hint},
		"client_id":       {c.appID},
		"client_secret":   {secret.Expose()},
	})
	_, err := x.verdict(onRefresh)
	if x.answered() && x.succeeded() && len(bytes.TrimSpace(x.body)) == 0 {
		return nil
	}
	return err
}
