package proxy_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/session"
	larkapi "larkside/session/lark"
)

// limited is a bed with the callers "free", which has no limits, and "web",
// which has these.
func limited(t *testing.T, limit proxy.CallerLimit) *bed {
	b := start(t, func(c *proxy.Config) {
		c.CallerKeys = func() []proxy.Caller {
			return []proxy.Caller{{Name: "free", Key: session.NewSecret("free-key")}, {Name: "web", Key: session.NewSecret("web-key")}}
		}
		c.CallerLimits = map[string]proxy.CallerLimit{"web": limit}
	})
	for _, id := range []string{"ou_2", "ou_3"} {
		b.tokens.grant(id)
	}
	return b
}

const (
	free = "X-Larkside-Key: free-key"
	web  = "X-Larkside-Key: web-key"
)

// bare sends a GET with these header lines only.
func (b *bed) bare(path string, header ...string) reply {
	b.t.Helper()
	return b.raw(append([]string{"GET " + path + " HTTP/1.1"}, header...)...)
}

// call sends an SDK's call for its app's token.
func (b *bed) call(path, secret string, header ...string) reply {
	b.t.Helper()
	body := `{"app_id":"cli_a","app_secret":"` + secret + `"}`
	lines := append([]string{"POST " + path + " HTTP/1.1", fmt.Sprintf("Content-Length: %d", len(body))}, header...)
	return b.raw(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

// A caller with a list of users gets nobody else's token, by whatever name and
// on whatever route, nor the tenant's.
func TestCallerUsers(t *testing.T) {
	b := limited(t, proxy.CallerLimit{Users: []string{"ou_1", "ou_3"}})
	for route, b := range map[string]*bed{"": b, "/-/larkside/authz": b.authz()} {
		for _, tc := range []struct {
			sentence, path, user string
			ok                   bool
		}{
			{"a user on the list", table, "ou_1", true},
			{"the same by union_id", table, "on_1", true},
			{"the same by user_id", table, "jane", true},
			{"another on the list", table, "ou_3", true},
			{"one who isn't", table, "ou_2", false},
			{"in other letters", table, "OU_1", false},
			{"someone without a session", table, "ou_9", false},
			{"a name that nobody has", table, "on_9", false},
			{"the tenant's token", pathIM, "", false},
		} {
			header := []string{web}
			if tc.user != "" {
				header = append(header, "X-Lark-User-Id: "+tc.user)
			}
			a := b.bare(route+tc.path, header...)
			if tc.ok != (a.StatusCode == 200) {
				t.Errorf("%s%s: %d %s", route, tc.sentence, a.StatusCode, a.body)
			}
			if !tc.ok {
				a.isError(t, 403, "caller_not_allowed")
			}
		}
	}
	if len(b.asker.all()) != 0 {
		t.Errorf("someone was asked for a caller who may not: %v", b.asker.all())
	}
	for _, header := range [][]string{{free, "X-Lark-User-Id: ou_2"}, {web, "Authorization: Bearer t-its-own"}} {
		if a := b.bare(table, header...); a.StatusCode != 200 {
			t.Errorf("%v: %d %s", header, a.StatusCode, a.body)
		}
	}
}

// The path that counts is the canonical one, and the original one of a mesh.
func TestCallerPaths(t *testing.T) {
	b := limited(t, proxy.CallerLimit{Paths: []string{"/open-apis/apaas/v1/workspaces/w/", "/open-apis/im/v1/chats"}})
	for _, tc := range []struct {
		sentence, path string
		header         []string
		ok             bool
	}{
		{"under a prefix", table, []string{"X-Lark-User-Id: ou_1"}, true},
		{"under a prefix, escaped", strings.Replace(table, "tables", "t%61bles", 1), []string{"X-Lark-User-Id: ou_1"}, true},
		{"beside the prefix", "/open-apis/apaas/v1/workspaces/v/tables", []string{"X-Lark-User-Id: ou_1"}, false},
		{"a whole path, with the tenant's token", pathIM, nil, true},
		{"more than the whole path", pathIM + "/x", nil, false},
		{"with a token of its own", mail, []string{"Authorization: Bearer t-its-own"}, false},
	} {
		for route, b := range map[string]*bed{"": b, "/-/larkside/authz": b.authz()} {
			a := b.bare(route+tc.path, append(tc.header, web)...)
			if tc.ok != (a.StatusCode == 200) || !tc.ok && a.Header.Get("X-Larkside-Error") != "caller_not_allowed" {
				t.Errorf("%s%s: %d %s", route, tc.sentence, a.StatusCode, a.body)
			}
		}
	}
	forwarded := []string{web, "X-Lark-User-Id: ou_1", "X-Forwarded-Uri: /open-apis/apaas/v1/workspaces/v/tables"}
	b.authz().bare("/-/larkside/authz", forwarded...).isError(t, 403, "caller_not_allowed")

	// An SDK's call for its token is answered on the spot, and not passed on.
	fetch := "/open-apis/auth/v3/tenant_access_token/internal"
	b.lark.reset()
	if a := b.call(fetch, "larkside", web); a.StatusCode != 200 || !strings.Contains(a.body, "t-larkside") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	b.call(fetch, "real", web).isError(t, 403, "caller_not_allowed")
	b.authz().call("/-/larkside/authz"+fetch, "real", web).isError(t, 403, "caller_not_allowed")
	b.lark.none(t)
}

// A caller that may only read changes nothing, on whatever route. The method that
// counts is the original one of a mesh.
func TestCallerMethods(t *testing.T) {
	b := limited(t, proxy.CallerLimit{Methods: []string{"GET", "HEAD"}})
	for _, tc := range []struct {
		sentence, method, path string
		header                 []string
		ok                     bool
	}{
		{"reading as a user", "GET", table, []string{"X-Lark-User-Id: ou_1"}, true},
		{"the head alone", "HEAD", table, []string{"X-Lark-User-Id: ou_1"}, true},
		{"writing as a user", "DELETE", table, []string{"X-Lark-User-Id: ou_1"}, false},
		{"in other letters", "get", table, []string{"X-Lark-User-Id: ou_1"}, false},
		{"writing with the tenant's token", "PUT", pathIM, nil, false},
		{"writing with a token of its own", "PATCH", mail, []string{"Authorization: Bearer t-its-own"}, false},
	} {
		b.lark.reset()
		a := b.raw(append([]string{tc.method + " " + tc.path + " HTTP/1.1", web}, tc.header...)...)
		if tc.ok != (a.StatusCode == 200) || !tc.ok && a.Header.Get("X-Larkside-Error") != "caller_not_allowed" {
			t.Errorf("%s: %d %s", tc.sentence, a.StatusCode, a.body)
		}
		if !tc.ok {
			b.lark.none(t)
		}
		a = b.authz().bare("/-/larkside/authz"+tc.path, append(tc.header, web, "X-Forwarded-Method: "+tc.method)...)
		if tc.ok != (a.StatusCode == 200) || !tc.ok && a.Header.Get("X-Larkside-Error") != "caller_not_allowed" {
			t.Errorf("%s, asked by a mesh: %d %s", tc.sentence, a.StatusCode, a.body)
		}
	}

	// As with paths, an SDK's call for its token is answered, and not passed on.
	fetch := "/open-apis/auth/v3/tenant_access_token/internal"
	b.lark.reset()
	if a := b.call(fetch, "larkside", web); a.StatusCode != 200 || !strings.Contains(a.body, "t-larkside") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	b.call(fetch, "real", web).isError(t, 403, "caller_not_allowed")
	b.lark.none(t)
}

// Each caller has its own budget, refused requests count, and Retry-After says
// when the next is admitted.
func TestCallerRate(t *testing.T) {
	b := limited(t, proxy.CallerLimit{Requests: 5, Period: time.Minute})
	for i, path := range []string{table, "/-/larkside/authz" + table, mail, table, table} {
		b := b
		if strings.HasPrefix(path, "/-/") {
			b = b.authz()
		}
		if a := b.bare(path, web, "X-Lark-User-Id: ou_1"); a.StatusCode == 429 {
			t.Fatalf("request %d: %s", i+1, a.body)
		}
	}
	for range 20 {
		a := b.bare(table, web, "X-Lark-User-Id: ou_1")
		a.isError(t, 429, "caller_rate_limited")
		if after := a.Header.Get("Retry-After"); after != "12" && after != "11" {
			t.Errorf("Retry-After %q", after)
		}
	}
	if a := b.bare(table, free, "X-Lark-User-Id: ou_1"); a.StatusCode != 200 {
		t.Errorf("another caller: %d", a.StatusCode)
	}
}

// Wrong keys are answered cheaply beyond a rate; right ones never notice.
func TestWrongKeysAreLimited(t *testing.T) {
	b := limited(t, proxy.CallerLimit{})
	var mu sync.Mutex
	seen := map[int]int{}
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := range 50 {
				a := b.bare(table, fmt.Sprintf("X-Larkside-Key: wrong-%d-%d", w, i), "X-Lark-User-Id: ou_1")
				if a.StatusCode == 429 && (a.Header.Get("Retry-After") != "1" || a.Header.Get("X-Larkside-Error") != "caller_rate_limited") {
					t.Errorf("%v", a.Header)
				}
				mu.Lock()
				seen[a.StatusCode]++
				mu.Unlock()
				if a := b.bare(table, web, "X-Lark-User-Id: ou_1"); a.StatusCode != 200 {
					t.Errorf("a right key: %d %s", a.StatusCode, a.body)
				}
			}
		})
	}
	work.Wait()
	if seen[401] < 10 || seen[429] == 0 || seen[401]+seen[429] != 200 {
		t.Errorf("answers by status: %v", seen)
	}
}

// The log names who was refused for a key, once, and not the key.
func TestWrongKeysAreLogged(t *testing.T) {
	var log bytes.Buffer
	b := start(t, func(c *proxy.Config) {
		c.CallerKeys = func() []proxy.Caller { return []proxy.Caller{{Name: "web", Key: session.NewSecret("web-key")}} }
		c.CallerLimits = map[string]proxy.CallerLimit{"web": {Requests: 1, Period: time.Hour}}
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for _, want := range []int{200, 429} { // its own rate: that is no wrong key
		if a := b.bare(table, web, "X-Lark-User-Id: ou_1"); a.StatusCode != want {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	if log.Len() > 0 {
		t.Errorf("%s", &log)
	}
	for i := range 20 {
		b.bare(table, fmt.Sprintf("X-Larkside-Key: canary-%d", i), "X-Lark-User-Id: ou_1")
	}
	line := log.String()
	if strings.Count(line, "\n") != 1 || !strings.Contains(line, "a caller without a right key was refused") || !strings.Contains(line, "address=127.0.0.1:") || strings.Contains(line, "canary") {
		t.Errorf("%s", line)
	}
}

func TestCallerLimitsAreChecked(t *testing.T) {
	keys := func() []proxy.Caller { return nil }
	for sentence, tc := range map[string]struct {
		keys  func() []proxy.Caller
		limit proxy.CallerLimit
		want  string
	}{
		"limits without keys":    {nil, proxy.CallerLimit{}, "without keys"},
		"no user at all":         {keys, proxy.CallerLimit{Users: []string{}}, "at least one"},
		"an empty user":          {keys, proxy.CallerLimit{Users: []string{""}}, "none empty"},
		"a path with dots":       {keys, proxy.CallerLimit{Paths: []string{"/a/../b"}}, `path "/a/../b"`},
		"no method at all":       {keys, proxy.CallerLimit{Methods: []string{}}, "methods: want at least one"},
		"an empty method":        {keys, proxy.CallerLimit{Methods: []string{"GET", ""}}, "methods: want at least one"},
		"a rate without period":  {keys, proxy.CallerLimit{Requests: 1}, "a number and a period"},
		"a rate of less than no": {keys, proxy.CallerLimit{Requests: -1, Period: 1}, "a number and a period"},
	} {
		_, err := proxy.New(proxy.Config{
			UserTokenRefusal: larkapi.UserTokenRefusal, TenantTokenRefusal: larkapi.TenantTokenRefusal,
			Upstream: &url.URL{Scheme: "http", Host: "lark.test"}, Apps: []string{app}, Tokens: newTokens(),
			CallerKeys: tc.keys, CallerLimits: map[string]proxy.CallerLimit{"web": tc.limit},
		})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", sentence, err)
		}
	}
}
