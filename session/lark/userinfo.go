package lark

import (
	"context"
	"errors"
	"net/http"

	"larkside/session"
)

// UserInfo says whose token it is.
type UserInfo struct {
	// OpenID is never empty. UserID needs contact:user.employee_id:readonly.
	OpenID, UnionID, UserID string
	TenantKey               string
	// Profile has what the granted scopes show. Email and mobile are filled in
	// by administrators and prove nothing; Status is empty.
	Profile session.Profile
}

// UserInfo asks Lark who accessToken belongs to. Errors come mostly with HTTP
// 200: a token that Lark does not take is class Reauthorize, a user who is
// gone UserDisabled, after asking again once where that is known to be wrong
// at times (20008). Source: Lark "get user information".
func (c *Client) UserInfo(ctx context.Context, accessToken session.Secret) (UserInfo, error) {
	u, err := c.userInfo(ctx, accessToken)
	var e *Error
	if errors.As(err, &e) && e.Doubtful() {
		u, err = c.userInfo(ctx, accessToken)
	}
	return u, err
}

func (c *Client) userInfo(ctx context.Context, accessToken session.Secret) (UserInfo, error) {
	x := &exchange{op: "read user info", limit: tokenLimit, secrets: []session.Secret{accessToken}}
	req, err := http.NewRequestWithContext(withExchange(ctx, x), http.MethodGet, c.openURL+"/open-apis/authen/v1/user_info", nil)
	if err != nil {
		return UserInfo{}, x.failed()
	}
	req.Header.Set("Authorization", "Bearer "+accessToken.Expose())
	c.do(req)
	f, err := x.verdict(onUserInfo)
	if err != nil {
		return UserInfo{}, err
	}
	data := f.object("data")
	u := UserInfo{
		OpenID:    data.text("open_id"),
		UnionID:   data.text("union_id"),
		UserID:    data.text("user_id"),
		TenantKey: data.text("tenant_key"),
		Profile:   profile(data),
	}
	if u.OpenID == "" {
		return UserInfo{}, x.unusable("open_id")
	}
	return u, nil
}

func profile(f fields) session.Profile {
	p := session.Profile{Name: f.text("name"), Email: f.text("email"), Mobile: f.text("mobile")}
	if p.Name == "" {
		p.Name = f.text("en_name")
	}
	return p
}
