package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"larkside/proxy"
	"larkside/session"
)

// oneUser is a TokenSource that has one user's token.
type oneUser struct {
	openID string
	access *session.Access
}

func (u oneUser) Token(_ context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	if key.OpenID != u.openID {
		return nil, session.Missing, &session.ConsentRequiredError{Reason: session.NoSession}
	}
	return u.access, session.FromCache, nil
}

func (u oneUser) ReplaceRefused(context.Context, session.Key, int64) (*session.Access, error) {
	return nil, &session.ConsentRequiredError{Reason: session.TokenRefused}
}

// A request goes upstream with the token of the user whom it names. Without a
// token nothing goes upstream.
func ExampleNew() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s with %s", r.URL.Path, r.Header.Get("Authorization"))
	}))
	defer upstream.Close()
	to, err := url.Parse(upstream.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	// Package session/lark has the functions that know all of Lark's codes.
	refusal := func(code int, _ string) session.Refusal {
		if code == 99991677 {
			return session.TokenInvalid
		}
		return session.NotRefused
	}
	handler, err := proxy.New(proxy.Config{
		Upstream:         to,
		Apps:             []string{"cli_a1b2c3"},
		InjectPaths:      []string{"/open-apis/apaas/"},
		UserTokenRefusal: refusal, TenantTokenRefusal: refusal,
		Tokens: oneUser{"ou_alice", session.NewAccess(&session.Session{
			Key:   session.Key{AppID: "cli_a1b2c3", OpenID: "ou_alice"},
			State: session.Active, AccessToken: session.NewSecret("alices-token"), TokenType: "Bearer",
			IssuedAt: time.Now(), ExpiresAt: time.Now().Add(2 * time.Hour),
		})},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	larkside := httptest.NewServer(handler)
	defer larkside.Close()

	for _, user := range []string{"ou_alice", "ou_bob"} {
		r, err := http.NewRequest("GET", larkside.URL+"/open-apis/apaas/v1/apps", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		r.Header.Set("X-Lark-User-Id", user)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer res.Body.Close()
		if failure := res.Header.Get("X-Larkside-Error"); failure != "" {
			fmt.Println(user, res.StatusCode, failure)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		fmt.Println(user, res.StatusCode, string(body))
	}
	// Output:
	// ou_alice 200 /open-apis/apaas/v1/apps with Bearer alices-token
	// ou_bob 401 authorization_required
}
