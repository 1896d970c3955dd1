package lark

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"

	"larkside/session"
)

// MaxUsers is how many users one [Client.Users] may ask for.
const MaxUsers = 50

// ContactUser is what the tenant's directory shows of a user to the app.
type ContactUser struct {
	// OpenID is never empty; UserID needs contact:user.employee_id:readonly.
	OpenID, UnionID, UserID string
	Profile                 session.Profile
}

// Users reads up to [MaxUsers] users from the directory, in any order. Users
// whom the app may not see are absent. Source: Lark "batch get users" (contact
// v3).
func (c *Client) Users(ctx context.Context, openIDs []string) ([]ContactUser, error) {
	if len(openIDs) > MaxUsers {
		return nil, fmt.Errorf("reading %d users: at most %d at once", len(openIDs), MaxUsers)
	}
	if len(openIDs) == 0 {
		return nil, nil
	}
	// The SDK's contact package would add half a megabyte to the binary for
	// this one call, so its core is used.
	req := &larkcore.ApiReq{
		HttpMethod:                http.MethodGet,
		ApiPath:                   "/open-apis/contact/v3/users/batch",
		QueryParams:               larkcore.QueryParams{"user_ids": openIDs, "user_id_type": {"open_id"}},
		SupportedAccessTokenTypes: []larkcore.AccessTokenType{larkcore.AccessTokenTypeTenant},
	}
	_, f, err := c.callAsApp(ctx, "read users", func(ctx context.Context, s *sdk, options ...larkcore.RequestOptionFunc) error {
		_, err := larkcore.Request(ctx, req, s.config, options...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return contactUsers(f.object("data")["items"]), nil
}

// contactUsers skips entries that are no user, so that one of them does not
// stop the rest.
func contactUsers(items json.RawMessage) []ContactUser {
	var list []json.RawMessage
	if json.Unmarshal(items, &list) != nil {
		return nil
	}
	var users []ContactUser
	for _, item := range list {
		f, _ := parseFields(item)
		u := ContactUser{OpenID: f.userID("open_id"), UnionID: f.userID("union_id"), UserID: f.userID("user_id"), Profile: profile(f)}
		u.Profile.Status = status(f.object("status"))
		if u.OpenID != "" {
			users = append(users, u)
		}
	}
	return users
}

// status returns the gravest status that is true, in the words of
// session.Profile, or "" if none is: the user was never activated, for
// instance.
func status(f fields) string {
	for _, s := range []struct{ flag, name string }{
		{"is_resigned", "resigned"},
		{"is_exited", "exited"},
		{"is_frozen", "frozen"},
		{"is_unjoin", "not_joined"},
		{"is_activated", "active"},
	} {
		if string(f[s.flag]) == "true" {
			return s.name
		}
	}
	return ""
}
