// Package sdk has Lark's official Go SDK as the app behind Larkside. It is a
// package of its own because the SDK's root package links every service that
// Lark has, which takes long to compile.
package sdk

import (
	"context"
	"net/http"
	"os"
	"testing"

	lark "github.com/larksuite/oapi-sdk-go/v3"
	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
	larkapaas "github.com/larksuite/oapi-sdk-go/v3/service/apaas/v1"
	larkcontact "github.com/larksuite/oapi-sdk-go/v3/service/contact/v3"

	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// listTables is the app's own code: one call, for one user.
func listTables(ctx context.Context, client *lark.Client, openID string, options ...larkcore.RequestOptionFunc) (*larkapaas.ListWorkspaceTableResp, error) {
	request := larkapaas.NewListWorkspaceTableReqBuilder().WorkspaceId("workspace_test").Build()
	options = append(options, larkcore.WithHeaders(http.Header{"X-Lark-User-Id": {openID}}))
	return client.Apaas.V1.WorkspaceTable.List(ctx, request, options...)
}

// clients are the ways in which an app without secret and tokens sets up the
// SDK, with the options that its calls need.
func clients(url string) map[string]client {
	return map[string]client{
		"token cache off": {lark.NewClient(larktest.AppID, "larkside",
			lark.WithOpenBaseUrl(url), lark.WithEnableTokenCache(false)), nil},
		// The default. A call of a user's needs a token, so it gets one.
		"token cache on": {lark.NewClient(larktest.AppID, "larkside",
			lark.WithOpenBaseUrl(url)), []larkcore.RequestOptionFunc{larkcore.WithUserAccessToken("u-larkside")}},
	}
}

type client struct {
	*lark.Client
	options []larkcore.RequestOptionFunc
}

// The SDK lists the tables of two users, each their own, with no secret and no
// token in the app.
func TestTwoUsers(t *testing.T) {
	p := process.Seeded(t, process.Options{}, larktest.Alice, larktest.Bob)
	own := len(p.Lark.Calls(larktest.To(larktest.TenantEndpoint))) // Larkside's, at the start
	for name, c := range clients(p.URL) {
		t.Run(name, func(t *testing.T) {
			for _, openID := range []string{larktest.Alice, larktest.Bob} {
				res, err := listTables(t.Context(), c.Client, openID, c.options...)
				if err != nil {
					t.Fatal(err)
				}
				if !res.Success() || len(res.Data.Items) == 0 {
					t.Fatalf("%d %s", res.Code, res.Msg)
				}
				for _, table := range res.Data.Items {
					if table.Description == nil || *table.Description != "belongs to "+openID {
						t.Errorf("%s got table %s", openID, larkcore.Prettify(table))
					}
				}
			}
		})
	}
	if n := len(p.Lark.Calls(larktest.To(larktest.TenantEndpoint))); n != own {
		t.Errorf("%d calls for a tenant token reached Lark", n-own)
	}
	larktest.NoViolations(t, p.Lark)
}

// A user without session is reported as the SDK reports Lark's own errors, with
// the link within reach.
func TestAuthorizationRequired(t *testing.T) {
	platform := larktest.Start(t, nil)
	p := process.Start(t, process.Options{Lark: platform})
	for name, c := range clients(p.URL) {
		t.Run(name, func(t *testing.T) {
			res, err := listTables(t.Context(), c.Client, larktest.Carol, c.options...)
			if err != nil {
				t.Fatal(err)
			}
			if res.Success() || res.StatusCode != 401 || res.Code != 18401001 || res.Msg == "" {
				t.Errorf("%d %d %s", res.StatusCode, res.Code, res.Msg)
			}
			if res.Header.Get("X-Larkside-Authorize-Url") == "" {
				t.Errorf("no link: %v", res.Header)
			}
		})
	}
}

// On tenant paths the SDK needs no secret either: its call for the tenant token
// is answered by Larkside, and what it sends with the placeholder gets the real
// one.
func TestTenantPath(t *testing.T) {
	platform := larktest.Start(t, nil)
	p := process.Start(t, process.Options{Lark: platform, Env: map[string]string{"TENANT_PATHS": "/open-apis/contact/"}})
	for name, c := range clients(p.URL) {
		t.Run(name, func(t *testing.T) {
			res, err := c.Contact.V3.User.Get(t.Context(), larkcontact.NewGetUserReqBuilder().UserId(larktest.Alice).UserIdType("open_id").Build())
			if err != nil {
				t.Fatal(err)
			}
			if !res.Success() {
				t.Errorf("%d %d %s", res.StatusCode, res.Code, res.Msg)
			}
		})
	}
	for _, c := range platform.Calls(larktest.To(larktest.ContactEndpoint)) {
		if c.TokenKind != larktest.TenantToken {
			t.Errorf("%s came with %q", c.Path, c.TokenKind)
		}
	}
	larktest.NoViolations(t, platform)
}
