package lark_test

import (
	"net/http"
	"slices"
	"testing"

	"larkside/session/lark"
)

// A scope says for whose tokens it is enabled: one that is the app's alone gives
// users error 20027.
func TestApp(t *testing.T) {
	app := func(body string) lark.AppInfo {
		t.Helper()
		info, err := im(t, http.StatusOK, `{"code":0,"data":{"app":`+body+`}}`).client(t).App(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	info := app(`{"online_version_id":"oav_1","redirect_urls":["https://x.example/cb"],"scopes":[{"scope":"u","token_types":["user"]},{"scope":"t","token_types":["tenant"]},{"scope":"both","token_types":["tenant","user"]},{"scope":"untold"}]}`)
	for scope, want := range map[string][2]bool{"u": {true, false}, "t": {false, true}, "both": {true, true}, "untold": {true, true}, "none": {}} {
		if got := [2]bool{info.ForUsers(scope), info.ForTenant(scope)}; got != want {
			t.Errorf("%s: for users and for the tenant %v", scope, got)
		}
	}
	if !slices.Equal(info.RedirectURLs, []string{"https://x.example/cb"}) || info.Unpublished {
		t.Errorf("%+v", info)
	}
	if info := app(`{"online_version_id":"","scopes":[]}`); !info.Unpublished {
		t.Errorf("%+v", info)
	}
}

// An answer without what was asked for says nothing about the app.
func TestAppAndBotOddAnswers(t *testing.T) {
	for _, body := range []string{`{"code":0}`, `{"code":0,"bot":{"app_name":"x"},"data":{"app":{}}}`} {
		client := im(t, http.StatusOK, body).client(t)
		if _, err := client.App(t.Context()); asError(t, err).Class != lark.Retry {
			t.Errorf("app: %v", err)
		}
		if _, err := client.Bot(t.Context()); asError(t, err).Class != lark.Retry {
			t.Errorf("bot: %v", err)
		}
	}
}
