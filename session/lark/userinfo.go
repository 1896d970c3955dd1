package lark

import (
	"context"
	"errors"
	"net/http"

	"larkside/session"
)

// UserInfo is the user of an access token.
type UserInfo struct {
	// OpenID is never empty. UserID needs contact:user.employee_id:readonly.
	OpenID, UnionID, UserID string
	// Profile has what the granted scopes show. Administrators fill in email
	// and mobile, so these prove nothing. Status is empty.
	Profile session.Profile
}

// UserInfo asks Lark whose accessToken is. The class is [Reauthorize] if Lark
// refuses the token, and [UserDisabled] if the user is gone. Where that is
// known to be wrong at times (20008), Lark is asked once more. Source: Lark
// "get user information".
func (c *Client) UserInfo(ctx context.Context, accessToken session.Secret) (UserInfo, error) {
	u, err := c.userInfo(ctx, accessToken)
	var e *Error
	if errors.As(err, &e) && e.Doubtful() {
		u, err = c.userInfo(ctx, accessToken)
	}
	return u, err
}

func (c *Client) userInfo(ctx context.Context, accessToken session.Secret) (UserInfo, error) {
	x := &call{op: "read user info", limit: tokenLimit, secrets: []session.Secret{accessToken}}
	req, err := http.NewRequestWithContext(withCall(ctx, x), http.MethodGet, c.openURL+"/open-apis/authen/v1/user_info", nil)
	if err != nil {
		return UserInfo{}, x.failed()
	}
	req.Header.Set("Authorization", "Bearer "+accessToken.Expose())
	c.do(req)
	f, err := x.result(onUserInfo)
	if err != nil {
		return UserInfo{}, err
	}
	data := f.object("data")
	u := UserInfo{
		OpenID:  data.userID("open_id"),
		UnionID: data.userID("union_id"),
		UserID:  data.userID("user_id"),
		Profile: profile(data),
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
