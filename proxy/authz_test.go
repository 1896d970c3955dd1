package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/session"
)

// A mesh is told which token to add, or gets the answer for the app.
func TestForwardAuth(t *testing.T) {
	const authz = "/-/larkside/authz"
	user := "X-Lark-User-Id: ou_1"
	for name, c := range map[string]struct {
		target string
		header []string
		status int
		want   string // Authorization, or the name of the error
	}{
		"Traefik, Caddy":              {authz, []string{"X-Forwarded-Uri: " + table + "?x=/../", user}, 200, user1},
		"nginx":                       {authz, []string{"X-Original-URI: " + table, user}, 200, user1},
		"Envoy":                       {authz + table + "?a=b", []string{user}, 200, user1},
		"Envoy, escaped slash":        {authz + "/open-apis/sheets/v2/a%2Fb", []string{user}, 200, user1},
		"sources agree":               {authz + table, []string{"X-Forwarded-Uri: " + table + "?q", "X-Original-URI: " + table, user}, 200, user1},
		"own token":                   {authz + mail, []string{"Authorization: Bearer own"}, 200, "Bearer own"},
		"own token beside a user":     {authz + table, []string{"Authorization: Bearer own", user}, 200, user1},
		"tenant path":                 {authz + pathIM, nil, 200, "Bearer t-cli_a"},
		"original method":             {authz + table, []string{"X-Forwarded-Method: DELETE", user}, 200, user1},
		"no source":                   {authz, []string{user}, 400, "ambiguous_path"},
		"no source but a slash":       {authz + "/", []string{user}, 403, "path_not_allowed"},
		"rest and header contradict":  {authz + table, []string{"X-Forwarded-Uri: " + pathIM, user}, 400, "ambiguous_path"},
		"headers contradict":          {authz, []string{"X-Forwarded-Uri: " + table, "X-Original-URI: " + pathIM, user}, 400, "ambiguous_path"},
		"one header contradicts":      {authz, []string{"X-Forwarded-Uri: " + table, "X-Forwarded-Uri: " + pathIM, user}, 400, "ambiguous_path"},
		"only spelled differently":    {authz, []string{"X-Forwarded-Uri: " + table, "X-Original-URI: /open-apis/%61paas/v1/workspaces/w/tables", user}, 400, "ambiguous_path"},
		"dot segment":                 {authz, []string{"X-Forwarded-Uri: /open-apis/apaas/../im", user}, 400, "ambiguous_path"},
		"encoded dot segment":         {authz, []string{"X-Original-URI: /open-apis/apaas/%252e%252e/im", user}, 400, "ambiguous_path"},
		"dot segment in the rest":     {authz + "/open-apis/apaas/../im", []string{user}, 400, "ambiguous_path"},
		"fragment":                    {authz, []string{"X-Forwarded-Uri: " + table + "#/../im", user}, 400, "ambiguous_path"},
		"fragment in the query":       {authz, []string{"X-Forwarded-Uri: " + table + "?x#/../im", user}, 400, "ambiguous_path"},
		"empty beside a path":         {authz, []string{"X-Forwarded-Uri:", "X-Original-URI: " + table, user}, 400, "ambiguous_path"},
		"empty beside the rest":       {authz + table, []string{"X-Forwarded-Uri:", user}, 400, "ambiguous_path"},
		"query only beside a path":    {authz, []string{"X-Forwarded-Uri: ?x", "X-Forwarded-Uri: " + table, user}, 400, "ambiguous_path"},
		"two headers made one":        {authz, []string{"X-Forwarded-Uri: " + table + ", " + mail, user}, 400, "ambiguous_path"},
		"made one behind a query":     {authz, []string{"X-Forwarded-Uri: " + table + "?, " + mail, user}, 400, "ambiguous_path"},
		"the same twice":              {authz, []string{"X-Forwarded-Uri: " + table, "X-Forwarded-Uri: " + table, user}, 200, user1},
		"another spelling is ignored": {authz + table, []string{"X_Forwarded_Uri: " + mail, "X-Original-Url: " + mail, "X-Rewrite-Url: " + mail, user}, 200, user1},
		"encoded slash":               {authz, []string{"X-Original-URI: /open-apis%2Fapaas/v1/x", user}, 400, "ambiguous_path"},
		"broken escape":               {authz, []string{"X-Original-URI: /open-apis/apaas/%zz", user}, 400, "ambiguous_path"},
		"host in the path":            {authz, []string{"X-Forwarded-Uri: //evil.example" + table, user}, 400, "ambiguous_path"},
		"asterisk":                    {authz, []string{"X-Forwarded-Uri: *", "X-Forwarded-Method: OPTIONS", user}, 400, "ambiguous_path"},
		"own prefix, encoded":         {authz, []string{"X-Forwarded-Uri: /%2D/larkside/authz" + table, "Authorization: Bearer own"}, 403, "path_not_allowed"},
		"where tokens are made":       {authz, []string{"X-Forwarded-Uri: /open-apis/authen/v2/oauth/token", "X-Forwarded-Method: POST", user}, 403, "path_not_allowed"},
		"absolute":                    {authz, []string{"X-Forwarded-Uri: http://evil.example" + table, user}, 400, "ambiguous_path"},
		"not an inject path":          {authz + mail, []string{user}, 403, "path_not_allowed"},
		"allowed only in the query":   {authz, []string{"X-Forwarded-Uri: /x?" + table, user}, 403, "path_not_allowed"},
		"itself":                      {authz + authz + table, []string{user}, 403, "path_not_allowed"},
		"itself with a token":         {authz + authz + table, []string{"Authorization: Bearer own"}, 403, "path_not_allowed"},
		"nobody":                      {authz + table, nil, 400, "user_id_required"},
		"malformed user":              {authz + table, []string{user, "X-Lark-User-Id: ou_2"}, 400, "invalid_user_id"},
		"unknown user":                {authz + table, []string{"X-Lark-User-Id: ou_new"}, 401, "authorization_required"},
		"unknown app":                 {authz + table, []string{user, "X-Lark-App-Id: x"}, 400, "unknown_app"},
		"original TRACE":              {authz + table, []string{"X-Forwarded-Method: TRACE", user}, 405, "method_not_allowed"},
		"original CONNECT":            {authz, []string{"X-Forwarded-Uri: " + table, "X-Original-Method: CONNECT", user}, 405, "method_not_allowed"},
		"original TRACE, in a list":   {authz + table, []string{"X-Forwarded-Method: GET, TRACE", user}, 405, "method_not_allowed"},
		"original method is no token": {authz + table, []string{"X-Forwarded-Method: GET?", user}, 405, "method_not_allowed"},
		"original method is empty":    {authz + table, []string{"X-Forwarded-Method:", user}, 405, "method_not_allowed"},
		"user in another spelling":    {authz + table, []string{"X_Lark_User_Id: ou_1"}, 400, "user_id_required"},
		"user twice":                  {authz + table, []string{user, user}, 200, user1},
		"users in a list":             {authz + table, []string{"X-Lark-User-Id: ou_1, ou_2"}, 400, "invalid_user_id"},
		"user named in Connection":    {authz + table, []string{user, "Connection: X-Lark-User-Id, Authorization"}, 200, user1},
		"rebound name":                {authz + table, []string{user, "Host: evil.example"}, 403, "host_not_allowed"},
		"a page's GET":                {authz + table, []string{user, "Sec-Fetch-Site: cross-site"}, 403, "host_not_allowed"},
		"original methods contradict": {authz + table, []string{"X-Forwarded-Method: GET", "X-Original-Method: POST", user}, 405, "method_not_allowed"},
		"a page's request":            {authz + table, []string{"Origin: https://evil.example", user}, 403, "host_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil).authz()
			for _, method := range []string{"GET", "POST"} {
				a := b.raw(append([]string{method + " " + c.target + " HTTP/1.1", "Content-Length: 0"}, c.header...)...)
				if c.status != 200 {
					a.isError(t, c.status, c.want)
					if a.Header.Get("Authorization") != "" {
						t.Error("a token beside an error")
					}
					continue
				}
				if a.StatusCode != 200 || a.body != "" || !slices.Equal(a.Header["Authorization"], []string{c.want}) {
					t.Errorf("answer %d %q, Authorization %q", a.StatusCode, a.body, a.Header["Authorization"])
				}
				if a.Header.Get("Cache-Control") != "no-store" {
					t.Error("a token that may be cached")
				}
				for name := range a.Header {
					if !slices.Contains([]string{"Authorization", "Cache-Control", "Content-Length", "Date"}, name) {
						t.Errorf("%s on an answer to copy from", name)
					}
				}
			}
			b.lark.none(t)
		})
	}
}

func TestForwardAuthWaits(t *testing.T) {
	b := start(t, nil).authz()
	answer := b.hold("GET /-/larkside/authz"+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", "Prefer: wait=30")
	b.tokens.grant("ou_new")
	if a := answer(); a.StatusCode != 200 || a.Header.Get("Authorization") != "Bearer "+token("ou_new", 1) || a.Header.Get("Preference-Applied") != "wait" {
		t.Errorf("answer %d, header %v", a.StatusCode, a.Header)
	}
}

func TestForwardAuthChecksTheToken(t *testing.T) {
	fake := newTokens()
	other := fake.access(session.Key{AppID: "cli_b", OpenID: "ou_1"}, fake.grant("ou_1"))
	b := start(t, func(c *proxy.Config) { c.Tokens = stranger{other} })
	a := b.authz().get("/-/larkside/authz" + table)
	a.isError(t, 503, "store_unavailable")
	if a.Header.Get("Authorization") != "" {
		t.Error("another app's token was handed out")
	}
}

// Whatever the authz listener is asked for besides, it hands nothing out and
// forwards nothing.
func TestAuthzListenerForwardsNothing(t *testing.T) {
	b := start(t, nil).authz()
	for _, path := range []string{table, pathIM, "/", "/-/larkside", "/-/larkside/", "/-/larkside/x", "/-/larkside/authzx", "/-/larkside/authz%2F" + table[1:], "/%2D/larkside/authz" + table} {
		b.get(path).isError(t, 403, "path_not_allowed")
		b.raw("GET "+path+" HTTP/1.1", "Authorization: Bearer own").isError(t, 403, "path_not_allowed")
	}
	b.lark.none(t)
}

// The requests of an HTTP/2 connection don't end with each other: a mesh that stops
// waiting for one still waits for the others.
func TestRequestsOfOneConnection(t *testing.T) {
	b := start(t, func(c *proxy.Config) { c.HalfClosePatience = time.Millisecond })
	b.asker.began = make(chan struct{}, 2)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	ask := func(ctx context.Context, user string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+b.authzAddr+"/-/larkside/authz"+table, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Lark-User-Id", user)
		r.Header.Set("Prefer", "wait=20")
		return transport.RoundTrip(r)
	}

	answered := make(chan error, 1)
	go func() {
		a, err := ask(t.Context(), "ou_new")
		if err == nil && (a.StatusCode != 200 || a.ProtoMajor != 2) {
			err = fmt.Errorf("%s %d", a.Proto, a.StatusCode)
		}
		answered <- err
	}()
	gone, cancel := context.WithCancel(t.Context())
	left := make(chan bool)
	go func() {
		ask(gone, "ou_gone")
		close(left)
	}()
	<-b.asker.began
	<-b.asker.began
	cancel()
	<-left
	for range 100 {
		if a, err := ask(t.Context(), "ou_1"); err != nil || a.StatusCode != 200 {
			t.Fatalf("another request of the connection: %v", err)
		}
	}
	b.tokens.grant("ou_new")
	if err := <-answered; err != nil {
		t.Error(err)
	}
}
