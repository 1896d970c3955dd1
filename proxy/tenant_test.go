package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"larkside/proxy"
	"larkside/session"
)

// tenants is a Tenant whose token has a version.
type tenants struct {
	mu       sync.Mutex
	version  int
	lasting  bool // every replacement is the same token
	failing  error
	replaced int
}

func (t *tenants) TenantAccessToken(_ context.Context, appID string) (session.Secret, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token(appID), nil
}

func (t *tenants) ReplaceTenantAccessToken(_ context.Context, appID string, refused session.Secret) (session.Secret, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.replaced++
	if t.failing != nil {
		return session.Secret{}, t.failing
	}
	if refused.Equal(t.token(appID)) && !t.lasting {
		t.version++
	}
	return t.token(appID), nil
}

func (t *tenants) token(appID string) session.Secret {
	return session.NewSecret(fmt.Sprintf("t-%s-v%d", appID, t.version))
}

const refusedTenant = `{"code":99991663,"msg":"Invalid access token for authorization. Please make a request with token attached."}`

// withTenants is a proxy whose upstream refuses every tenant token older than
// version with that answer.
func withTenants(t *testing.T, tokens *tenants, version, status int, answer string) *bed {
	b := start(t, func(c *proxy.Config) { c.Tenant = tokens })
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		got := b.lark.record(r)
		for v := range version {
			if strings.HasSuffix(got.auth()[0], fmt.Sprintf("-v%d", v)) {
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				w.WriteHeader(status)
				io.WriteString(w, answer)
				return
			}
		}
		fmt.Fprintf(w, "served %s", got.body)
	})
	return b
}

func (b *bed) postAsTenant(body string) reply {
	return b.raw("POST "+pathIM+" HTTP/1.1", fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
}

// A tenant token that Lark refuses is fetched anew, and the request replayed once.
func TestRefusedTenantTokenIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		answer string
	}{
		"expired":       {400, refusedTenant},
		"invalid":       {400, `{"code":99991665,"msg":"invalid tenant code"}`},
		"malformed":     {400, `{"code":99991671,"msg":"token must start with t- or u-"}`},
		"under a 200":   {200, refusedTenant},
		"code is last":  {401, `{"msg":"x","code":99991663}`},
		"with HTTP 401": {401, refusedTenant},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := &tenants{}
			b := withTenants(t, tokens, 1, c.status, c.answer)
			a := b.postAsTenant("payload")
			if a.StatusCode != 200 || a.body != "served payload" || a.Header.Get("X-Larkside-Hint") != "" {
				t.Fatalf("answer %d %q, hint %q", a.StatusCode, a.body, a.Header.Get("X-Larkside-Hint"))
			}
			seen := b.lark.requests()
			if len(seen) != 2 || tokens.replaced != 1 {
				t.Fatalf("%d requests, %d replacements", len(seen), tokens.replaced)
			}
			sees(t, seen[0], "Bearer t-cli_a-v0")
			sees(t, seen[1], "Bearer t-cli_a-v1")
		})
	}
}

// Lark's answer is passed on when there is no other token, when the other one is
// refused too, and when there is none to be had.
func TestRefusedTenantTokenStays(t *testing.T) {
	for name, c := range map[string]struct {
		tokens   *tenants
		requests int
	}{
		"the same token again":   {&tenants{lasting: true}, 1},
		"the next token as well": {&tenants{}, 2},
		"no token for now":       {&tenants{failing: session.ErrRefreshUnavailable}, 1},
		"no token for this app":  {&tenants{failing: errors.New("app is not configured")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := withTenants(t, c.tokens, 9, 400, refusedTenant)
			a := b.postAsTenant("payload")
			if a.StatusCode != 400 || a.body != refusedTenant || a.Header.Get("X-Larkside-Hint") != "" {
				t.Errorf("answer %d %q, hint %q", a.StatusCode, a.body, a.Header.Get("X-Larkside-Hint"))
			}
			if n := len(b.lark.requests()); n != c.requests || c.tokens.replaced != 1 {
				t.Errorf("%d requests, want %d; %d replacements", n, c.requests, c.tokens.replaced)
			}
		})
	}
}

// A body that is not kept can't be sent again; the next request has the new
// token.
func TestRefusedTenantTokenWithLargeBody(t *testing.T) {
	tokens := &tenants{}
	b := withTenants(t, tokens, 1, 400, refusedTenant)
	large := strings.Repeat("x", 65<<10)
	a := b.postAsTenant(large)
	if a.StatusCode != 400 || a.body != refusedTenant || a.Header.Get("X-Larkside-Hint") != "not-replayed" {
		t.Errorf("answer %d %q, hint %q", a.StatusCode, a.body, a.Header.Get("X-Larkside-Hint"))
	}
	if a := b.postAsTenant(large); a.StatusCode != 200 || a.body != "served "+large {
		t.Errorf("answer %d", a.StatusCode)
	}
	if n := len(b.lark.requests()); n != 2 {
		t.Errorf("%d requests", n)
	}
}

// Only the refusal of a token that Larkside added is Larkside's to mend.
func TestTenantTokenIsNotReplacedForOthers(t *testing.T) {
	tokens := &tenants{}
	b := withTenants(t, tokens, 1, 400, refusedTenant)
	if a := b.raw("GET "+pathIM+" HTTP/1.1", "Authorization: Bearer t-own-v0"); a.body != refusedTenant {
		t.Errorf("own token: %s", a.body)
	}
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		io.WriteString(w, refusedTenant)
	})
	if a := b.get(table); a.body != refusedTenant {
		t.Errorf("user token: %s", a.body)
	}
	for _, answer := range []string{notForUsers, `{"code":99991677}`, `{"code":99991672}`, `{"code":20005}`} {
		b := withTenants(t, tokens, 1, 400, answer)
		if a := b.postAsTenant("x"); a.body != answer || a.Header.Get("X-Larkside-Hint") != "" {
			t.Errorf("%s became %s with hint %q", answer, a.body, a.Header.Get("X-Larkside-Hint"))
		}
	}
	if tokens.replaced != 0 || b.tokens.refreshed() != 0 {
		t.Errorf("%d tenant tokens replaced, %d user tokens refreshed", tokens.replaced, b.tokens.refreshed())
	}
}

// A compressed refusal is read as well.
func TestCompressedTenantRefusal(t *testing.T) {
	tokens := &tenants{}
	b := start(t, func(c *proxy.Config) { c.Tenant = tokens })
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		got := b.lark.record(r)
		if encoding := got.header.Get("Accept-Encoding"); encoding != "gzip" {
			t.Errorf("Accept-Encoding %q", encoding)
		}
		if strings.HasSuffix(got.auth()[0], "-v0") {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(400)
			w.Write(gz(refusedTenant))
			return
		}
		io.WriteString(w, "served")
	})
	if a := b.raw("GET "+pathIM+" HTTP/1.1", "Accept-Encoding: br, gzip"); a.body != "served" || tokens.replaced != 1 {
		t.Errorf("answer %d %q, %d replacements", a.StatusCode, a.body, tokens.replaced)
	}
}
