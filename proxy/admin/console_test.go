package admin_test

import (
	"io"
	"net/http"
	"testing"

	"larkside/proxy/admin"
)

// The console has a sign-in of its own, so it is asked without the key; nothing
// else is, by whatever spelling of its path.
func TestConsoleBesideTheKey(t *testing.T) {
	ask := serve(t, admin.Config{
		Key: lock("the-key"), Quit: func() { t.Error("stopped without the key") },
		Apps: []string{app}, Sessions: openStore(t).Sessions,
		Console: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "console "+r.Method+" "+r.URL.Path) }),
	})
	for _, at := range [][2]string{{"GET", "/"}, {"GET", "/sessions"}, {"POST", "/login"}, {"GET", "/a/b/c"}} {
		if got := ask(at[0], at[1], ""); got.status != 200 || got.body != "console "+at[0]+" "+at[1] {
			t.Errorf("%s %s: %+v", at[0], at[1], got)
		}
	}
	for _, path := range []string{"/api/v1/sessions", "/api/v1/nothing", "/api/", "/%61pi/v1/sessions", "/api/v1/openapi.json"} {
		if got := ask("GET", path, ""); got.status != 401 || got.name(t) != "admin_unauthenticated" {
			t.Errorf("GET %s without the key: %+v", path, got)
		}
	}
	for _, path := range []string{"//api/v1/sessions", "/x/../api/v1/sessions", "/api/../api/v1/sessions", "/./api/v1/sessions", "/API/v1/sessions", "/api%2Fv1%2Fsessions", "/quitquitquit/", "/quitquitquit%2F"} {
		for _, method := range []string{"GET", "POST"} {
			got := ask(method, path, "")
			if got.status == 200 && got.body[:7] != "console" {
				t.Errorf("%s %s without the key: %+v", method, path, got)
			}
		}
	}
	if got := ask("GET", "/api/v1/nothing", "", "Authorization", "Bearer the-key"); got.status != 404 || got.name(t) != "not_found" {
		t.Errorf("an unknown path of the API: %+v", got)
	}
	if got := ask("GET", "/", "", "Sec-Fetch-Site", "cross-site"); got.status != 403 {
		t.Errorf("another site's page: %+v", got)
	}
}
