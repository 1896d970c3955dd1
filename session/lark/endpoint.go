package lark

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// The two versions of Lark's OAuth token endpoint. v2 works for everything that
// Larkside asks, on both brands:
//
//   - v3 answers 20049 to a code that was requested with a PKCE challenge: [P] a
//     public project's live test of 2026-09-26, oapi-sdk-go issue 230.
//   - Released clients of Lark's poll device codes at v2: [S] lark-cli 1.0.96,
//     openclaw-lark 2026.7.16; [P] a project whose test says "verified live".
//   - v3 of larksuite.com answers invalid_grant to real codes: [P] two
//     repositories, lark-cli issue 1470.
//
// None of it is documented, so it may change. See note.
const (
	tokenPathV2 = "/open-apis/authen/v2/oauth/token"
	tokenPathV3 = "/oauth/v3/token"
)

// tokenEndpoints are the addresses to which an app's secret may be sent, and
// which of them makes new grants.
type tokenEndpoints struct {
	configured, v2, v3 string
	// wantsJSON is set once v2 has taken JSON after it had refused a form.
	wantsJSON atomic.Bool

	mu sync.Mutex
	// unfit are the endpoints that answered that they can't make a grant, in
	// the order of their answers.
	unfit []string
	// pkceFailures counts v2's answers 20049 since its last success.
	pkceFailures int
}

func newTokenEndpoints(configured, openURL, accountsURL string) *tokenEndpoints {
	return &tokenEndpoints{configured: configured, v2: openURL + tokenPathV2, v3: accountsURL + tokenPathV3}
}

// allowed reports whether the app's secret and a refresh token may be sent to
// an address. The address comes from a database row. Lark's hosts serve
// customers' webhooks, too, so whole addresses are compared.
func (t *tokenEndpoints) allowed(to string) bool {
	return to == t.configured || to == t.v2 || to == t.v3
}

// forGrants returns the endpoint for new grants: the configured one until it
// has answered that it can't make them, then the other version.
func (t *tokenEndpoints) forGrants() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.unfit) == 1 && t.unfit[0] == t.configured {
		return t.other()
	}
	return t.configured
}

// other returns the version that is not configured.
func (t *tokenEndpoints) other() string {
	if t.configured == t.v2 {
		return t.v3
	}
	return t.v2
}

// note records the outcome of an attempt at the endpoint to. It returns what
// forGrants returns from now on, and whether to has just turned out to be
// unfit. If both versions are unfit, the configured one is asked.
func (t *tokenEndpoints) note(to string, err error) (next string, news bool) {
	var e *Error
	errors.As(err, &e)
	t.mu.Lock()
	if news = t.unfitBy(to, e) && !slices.Contains(t.unfit, to); news {
		t.unfit = append(t.unfit, to)
	}
	t.mu.Unlock()
	return t.forGrants(), news
}

// maxPKCEFailures is after how many answers 20049 in a row v2 counts as
// refusing PKCE. One alone may come from a user with somebody else's code.
const maxPKCEFailures = 2

// unfitBy reports whether e says that the endpoint can't make this kind of
// grant: it does not know the grant type, or it refuses PKCE. t.mu is held.
func (t *tokenEndpoints) unfitBy(to string, e *Error) bool {
	switch {
	case e == nil:
		if to == t.v2 {
			t.pkceFailures = 0
		}
	case e.HTTPStatus/100 != 4:
	case e.Code == 20036, e.Name == "unsupported_grant_type":
		return true
	case e.Code == 20049 && to == t.v2:
		t.pkceFailures++
		return t.pkceFailures >= maxPKCEFailures
	case e.Code == 20049:
		return true
	}
	return false
}

// askGrants makes a grant at the endpoint for new grants. If that endpoint
// can't make it, the other version is asked from the next grant on.
func (c *Client) askGrants(ctx context.Context, ask func(to string) (Token, error)) (Token, error) {
	to := c.endpoints.forGrants()
	t, err := ask(to)
	switch next, news := c.endpoints.note(to, err); {
	case news && next != to:
		c.log.WarnContext(ctx, "Lark's token endpoint can't make this kind of grant; the other version is asked from now on",
			"app_id", c.appID, "endpoint", to, "next", next, "do", "set LARKSIDE_TOKEN_URL to the next", "error", err)
	case news:
		c.log.ErrorContext(ctx, "both versions of Lark's token endpoint refuse this kind of grant", "app_id", c.appID, "endpoint", to, "error", err)
	}
	return t, err
}

// malformed is Lark's code for a body that it can't read or that lacks a field.
const malformed = 20063

// sendsJSON reports whether a body is sent to a token endpoint as JSON. A form
// is tried first: RFC 6749 section 4 prescribes it, Lark advises it for v3, and
// Lark's own clients send it to v2 ([S] lark-cli, openclaw-lark), for which
// Lark documents JSON ([D]). One project says that v2 takes JSON only ([P]).
// Then v2 answers 20063 and does nothing, and is asked again in JSON.
func (t *tokenEndpoints) sendsJSON(to string) bool {
	return t.takesJSON(to) && t.wantsJSON.Load()
}

func (t *tokenEndpoints) takesJSON(to string) bool { return strings.HasSuffix(to, tokenPathV2) }

// readable reports whether Lark could read the request's body.
func (x *call) readable() bool {
	return !(x.answered() && x.status == http.StatusBadRequest && x.fields.code() == malformed)
}
