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

// The two versions of Lark's OAuth token endpoint. v2 is the one that works for
// all that Larkside asks, on both brands:
//
//   - v3 answers 20049 to a code that was asked for with a PKCE challenge: [P] a
//     public project's live test of 2026-09-26, oapi-sdk-go issue 230.
//   - Released clients of Lark's poll device codes at v2: [S] lark-cli 1.0.96,
//     openclaw-lark 2026.7.16; [P] a project whose test says "verified live".
//   - v3 of larksuite.com answers invalid_grant to real codes: [P] two
//     repositories, lark-cli issue 1470.
//
// None of it is documented, so either version may change its mind. See note.
const (
	tokenPathV2 = "/open-apis/authen/v2/oauth/token"
	tokenPathV3 = "/oauth/v3/token"
)

// tokenEndpoints are the addresses at which an app may spend a secret, and the
// one that new grants are made at.
type tokenEndpoints struct {
	configured, v2, v3 string
	// wantsJSON is set once v2 has taken JSON after it had refused a form.
	wantsJSON atomic.Bool

	mu sync.Mutex
	// unfit are those that said that they can't make a grant, in the order in
	// which they said so.
	unfit []string
	// pkceFailures counts the 20049 of v2 since its last success.
	pkceFailures int
}

func newTokenEndpoints(configured, openURL, accountsURL string) *tokenEndpoints {
	return &tokenEndpoints{configured: configured, v2: openURL + tokenPathV2, v3: accountsURL + tokenPathV3}
}

// allowed reports whether to may get the app's secret and a refresh token. It
// comes out of a database row, and a host of Lark's serves more than its own
// endpoints (customers' webhooks live there), so only whole addresses count.
func (t *tokenEndpoints) allowed(to string) bool {
	return to == t.configured || to == t.v2 || to == t.v3
}

// forGrants is where new grants are made: the configured endpoint until it has
// said that it can't, then the other version.
func (t *tokenEndpoints) forGrants() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.unfit) == 1 && t.unfit[0] == t.configured {
		return t.other()
	}
	return t.configured
}

// other is the version that the configured endpoint is not.
func (t *tokenEndpoints) other() string {
	if t.configured == t.v2 {
		return t.v3
	}
	return t.v2
}

// note takes what an attempt at to came to. When it says that to can't make
// grants, note reports what forGrants returns from now on, and whether that is
// news. When both versions refuse, the configured one is asked again.
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

// maxPKCEFailures is how many 20049 in a row are taken to say that v2 refuses
// PKCE. One alone may be a user who was handed somebody else's code.
const maxPKCEFailures = 2

// unfitBy reports whether e is about the endpoint rather than about what was
// sent to it: it does not know the grant type, or it refuses PKCE. t.mu is held.
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

// askGrants makes a grant with ask at the endpoint for new grants, and turns to
// the other version from the next one on when that one can't.
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

// malformed is Lark's code for a body that it can't read, or that lacks a field.
const malformed = 20063

// encoding picks how a body is sent to a token endpoint. A form is tried first:
// RFC 6749 section 4 prescribes it, Lark advises it for v3, and its own clients
// send it to v2 ([S] lark-cli, openclaw-lark), for which Lark documents JSON ([D]).
// One project says that v2 takes JSON only ([P]): then it answers 20063, having
// done nothing, and is asked once more in JSON.
func (t *tokenEndpoints) encoding(to string) (json bool) {
	return t.takesJSON(to) && t.wantsJSON.Load()
}

func (t *tokenEndpoints) takesJSON(to string) bool { return strings.HasSuffix(to, tokenPathV2) }

// readable reports whether Lark could read the body of an exchange.
func (x *exchange) readable() bool {
	return !(x.answered() && x.status == http.StatusBadRequest && x.fields.code() == malformed)
}
