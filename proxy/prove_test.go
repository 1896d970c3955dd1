package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/session"
)

// proofs are the tokens that prove somebody.
var proofs = map[string]string{
	"jwt-of-1": "ou_1", "jwt-of-2": "ou_2", "jwt-of-new": "ou_new", "jwt-of-union-1": "on_1", "jwt-of-jane": "jane", "jwt-of-nobody": "on_nobody",
	"jwt-empty": "", "jwt-control": "ou_1\r\nX-Lark-App-Id: cli_b", "jwt-nul": "ou_1\x00", "jwt-long": strings.Repeat("a", 129), "jwt-list": "ou_1,ou_2", "jwt-blank": " ou_1",
}

// proving lets only tokens say who the user is.
func proving(c *proxy.Config) {
	c.ProveUser = func(_ context.Context, token string) (string, error) {
		switch user, ok := proofs[token]; {
		case ok:
			return user, nil
		case token == "jwt-later":
			return "", &session.RetryError{Err: errors.New("can't be checked now"), After: 7 * time.Second}
		}
		return "", errors.New("is not valid")
	}
}

// Where users have to be proven, a request gets the token of the user who is proven,
// and of nobody else.
func TestProof(t *testing.T) {
	for _, listener := range []string{"proxy", "authz"} {
		b := start(t, proving)
		b.tokens.grant("ou_2")
		path := func(p string) string { return p }
		if listener == "authz" {
			b = b.authz()
			path = func(p string) string { return "/-/larkside/authz" + p }
		}
		for _, tc := range []struct {
			sentence, path string
			header         []string
			want           string // Authorization, or the name of a failure
		}{
			{"the token alone", table, []string{"X-Larkside-User-Token: jwt-of-1"}, "Bearer " + token("ou_1", 1)},
			{"the token and its user", table, []string{"X-Larkside-User-Token: jwt-of-2", "X-Lark-User-Id: ou_2"}, "Bearer " + token("ou_2", 1)},
			{"the token twice", table, []string{"X-Larkside-User-Token: jwt-of-1", "X-Larkside-User-Token: jwt-of-1"}, "Bearer " + token("ou_1", 1)},
			{"a union_id", table, []string{"X-Larkside-User-Token: jwt-of-union-1"}, "Bearer " + token("ou_1", 1)},
			{"a user_id", table, []string{"X-Larkside-User-Token: jwt-of-jane"}, "Bearer " + token("ou_1", 1)},
			{"two names of one user", table, []string{"X-Larkside-User-Token: jwt-of-union-1", "X-Lark-User-Id: ou_1"}, "Bearer " + token("ou_1", 1)},
			{"two names of one user, the other way round", table, []string{"X-Larkside-User-Token: jwt-of-1", "X-Lark-User-Id: jane"}, "Bearer " + token("ou_1", 1)},
			{"the app's own Authorization is replaced", table, []string{"X-Larkside-User-Token: jwt-of-1", "Authorization: Bearer u-own"}, "Bearer " + token("ou_1", 1)},
			{"no token", table, []string{"X-Lark-User-Id: ou_1"}, "user_unproven"},
			{"no token, of somebody who never consented", table, []string{"X-Lark-User-Id: ou_new"}, "user_unproven"},
			{"an empty token", table, []string{"X-Lark-User-Id: ou_1", "X-Larkside-User-Token: "}, "user_unproven"},
			{"an empty token alone", table, []string{"X-Larkside-User-Token: "}, "user_unproven"},
			{"a wrong token", table, []string{"X-Lark-User-Id: ou_1", "X-Larkside-User-Token: forged"}, "user_unproven"},
			{"a wrong token, of somebody who never consented", table, []string{"X-Lark-User-Id: ou_new", "X-Larkside-User-Token: forged"}, "user_unproven"},
			{"two tokens", table, []string{"X-Larkside-User-Token: jwt-of-1", "X-Larkside-User-Token: jwt-of-2"}, "user_unproven"},
			{"another spelling", table, []string{"X-Lark-User-Id: ou_1", "X_Larkside_User_Token: jwt-of-1"}, "user_unproven"},
			{"as a Bearer token", table, []string{"X-Lark-User-Id: ou_1", "Authorization: Bearer jwt-of-1"}, "user_unproven"},
			{"another user's token", table, []string{"X-Lark-User-Id: ou_1", "X-Larkside-User-Token: jwt-of-2"}, "user_unproven"},
			{"another user's token, named otherwise", table, []string{"X-Lark-User-Id: on_1", "X-Larkside-User-Token: jwt-of-2"}, "user_unproven"},
			{"a token of somebody unknown", table, []string{"X-Lark-User-Id: ou_1", "X-Larkside-User-Token: jwt-of-nobody"}, "user_unproven"},
			{"a name of nobody", table, []string{"X-Lark-User-Id: on_x", "X-Larkside-User-Token: jwt-of-1"}, "user_unproven"},
			{"an empty claim", table, []string{"X-Larkside-User-Token: jwt-empty"}, "user_unproven"},
			{"control characters", table, []string{"X-Larkside-User-Token: jwt-control"}, "user_unproven"},
			{"a NUL", table, []string{"X-Larkside-User-Token: jwt-nul"}, "user_unproven"},
			{"a blank", table, []string{"X-Larkside-User-Token: jwt-blank"}, "user_unproven"},
			{"a list", table, []string{"X-Larkside-User-Token: jwt-list"}, "user_unproven"},
			{"too long", table, []string{"X-Larkside-User-Token: jwt-long"}, "user_unproven"},
			{"another app", table, []string{"X-Larkside-User-Token: jwt-of-1", "X-Lark-App-Id: cli_b"}, "authorization_required"},
			{"a malformed name", table, []string{"X-Larkside-User-Token: jwt-of-1", "X-Lark-User-Id: "}, "invalid_user_id"},
			{"no user at all", table, nil, "user_id_required"},
			{"a token where no user may be", mail, []string{"X-Larkside-User-Token: jwt-of-1"}, "path_not_allowed"},
			{"the app's own token", mail, []string{"Authorization: Bearer t-own"}, "Bearer t-own"},
			{"the app's own token on an inject path", table, []string{"Authorization: Bearer t-own"}, "Bearer t-own"},
			{"a tenant path", pathIM, nil, "Bearer t-" + app},
			{"proven, and known to nobody", table, []string{"X-Larkside-User-Token: jwt-of-nobody"}, "authorization_required"},
		} {
			t.Run(listener+"/"+tc.sentence, func(t *testing.T) {
				b.lark.reset()
				asked := len(b.asker.all())
				got := b.raw(append([]string{"GET " + path(tc.path) + " HTTP/1.1"}, tc.header...)...)
				if name := got.Header.Get("X-Larkside-Error"); name != "" || !strings.Contains(tc.want, " ") {
					if name != tc.want {
						t.Errorf("answer %d %s, want %s", got.StatusCode, got.body, tc.want)
					}
					if name == "user_unproven" && (got.StatusCode != 401 || len(b.asker.all()) != asked || got.Header.Get("X-Larkside-Authorize-Url") != "" ||
						got.Header.Get("WWW-Authenticate") == "" || strings.Contains(got.body, "jwt-") || strings.Contains(got.body, "ou_")) {
						t.Errorf("answer %d %v %s, %d asked", got.StatusCode, got.Header, got.body, len(b.asker.all())-asked)
					}
					b.lark.none(t)
					return
				}
				auth, leaked := got.Header["Authorization"], got.Header
				if listener == "proxy" {
					auth, leaked = b.lark.one(t).auth(), b.lark.one(t).header
				}
				if len(auth) != 1 || auth[0] != tc.want {
					t.Errorf("Authorization %q, want %q", auth, tc.want)
				}
				if all := fmt.Sprint(leaked); strings.Contains(all, "jwt-") || strings.Contains(all, "User-Token") {
					t.Errorf("sent on: %s", all)
				}
			})
		}
	}
}

// The token never goes upstream, whether users have to be proven or not.
func TestProofIsNotForwarded(t *testing.T) {
	b := start(t, nil)
	b.get(table, "X-Larkside-User-Token: jwt-of-2", "X_Larkside_User_Token: jwt-of-2")
	got := b.lark.one(t)
	if all := fmt.Sprint(got.header); strings.Contains(all, "jwt-of-2") || got.auth()[0] != "Bearer "+token("ou_1", 1) {
		t.Errorf("sent on: %s", all)
	}
}

// Whoever is proven and has never consented is asked, as always.
func TestProvenUserIsAsked(t *testing.T) {
	b := start(t, proving)
	b.raw("GET "+table+" HTTP/1.1", "X-Larkside-User-Token: jwt-of-new").isError(t, 401, "authorization_required")
	if all := b.asker.all(); len(all) != 1 || all[0].key != key("ou_new") {
		t.Errorf("asked: %v", all)
	}
}

// A token that can't be checked now is refused, with the time of the next try.
func TestProofLater(t *testing.T) {
	got := start(t, proving).get(table, "X-Larkside-User-Token: jwt-later")
	got.isError(t, 401, "user_unproven")
	if got.Header.Get("Retry-After") != "7" {
		t.Errorf("Retry-After %q", got.Header.Get("Retry-After"))
	}
}

// An agent's request is for the proven user too.
func TestProofForMCP(t *testing.T) {
	b := startMCP(t, proving)
	b.mcp("ou_1", toolCall).isError(t, 401, "user_unproven")
	b.mcp("ou_2", toolCall, "X-Larkside-User-Token: jwt-of-1").isError(t, 401, "user_unproven")
	b.mcp("", toolCall).isError(t, 400, "user_id_required")
	b.lark.none(t)
	b.mcp("", toolCall, "X-Larkside-User-Token: jwt-of-1")
	got := b.lark.one(t)
	if got.header.Get("X-Lark-Mcp-Uat") != token("ou_1", 1) || got.header.Get("X-Larkside-User-Token") != "" {
		t.Errorf("sent on: %v", got.header)
	}
}

// The limits of a caller hold for the proven user, by the name that is sent.
func TestProofAndLimits(t *testing.T) {
	b := start(t, func(c *proxy.Config) {
		proving(c)
		c.CallerKeys = func() []proxy.Caller { return []proxy.Caller{{Name: "web", Key: session.NewSecret("web-key")}} }
		c.CallerLimits = map[string]proxy.CallerLimit{"web": {Users: []string{"on_1"}, Methods: []string{"GET"}}}
	})
	b.tokens.grant("ou_2")
	send := func(method string, header ...string) reply {
		return b.raw(append([]string{method + " " + table + " HTTP/1.1", "X-Larkside-Key: web-key"}, header...)...)
	}
	send("GET", "X-Larkside-User-Token: jwt-of-2").isError(t, 403, "caller_not_allowed")
	send("GET", "X-Larkside-User-Token: forged", "X-Lark-User-Id: on_1").isError(t, 401, "user_unproven")
	send("DELETE", "X-Larkside-User-Token: jwt-of-1", "X-Lark-User-Id: on_1").isError(t, 403, "caller_not_allowed")
	b.lark.none(t)
	for _, header := range [][]string{{"X-Larkside-User-Token: jwt-of-union-1"}, {"X-Larkside-User-Token: jwt-of-1", "X-Lark-User-Id: on_1"}} {
		if got := send("GET", header...); got.StatusCode != http.StatusOK {
			t.Errorf("%q: %d %s", header, got.StatusCode, got.body)
		}
	}
}

// With the database down nobody knows whether two names mean one user.
func TestProofWithoutDatabase(t *testing.T) {
	b := start(t, func(c *proxy.Config) {
		proving(c)
		c.Resolver = failingResolver{}
	})
	b.get(table, "X-Larkside-User-Token: jwt-of-union-1").isError(t, 503, "store_unavailable")
	if got := b.get(table, "X-Larkside-User-Token: jwt-of-1"); got.StatusCode != http.StatusOK {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

type failingResolver struct{}

func (failingResolver) Resolve(context.Context, string, string) (session.Key, error) {
	return session.Key{}, session.ErrUnavailable
}

// A line says why users are refused, without the token and without the user.
func TestProofInLog(t *testing.T) {
	var log lines
	b := start(t, func(c *proxy.Config) {
		proving(c)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 3 {
		b.get(table, "X-Larkside-User-Token: forged-canary")
	}
	b.get(table)
	text := log.String()
	if n := strings.Count(text, "a request whose user is not proven was refused"); n != 2 || strings.Contains(text, "canary") || strings.Contains(text, "ou_1") {
		t.Errorf("%d lines: %s", n, text)
	}
}

func TestProofAndDefaultUser(t *testing.T) {
	c := proxy.Config{}
	proving(&c)
	defaulting(&c)
	if _, err := proxy.New(c); err == nil || !strings.Contains(err.Error(), "a default user although users have to be proven") {
		t.Errorf("%v", err)
	}
}
