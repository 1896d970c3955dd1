package lark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"larkside/session"
)

// Config is what a [Client] needs.
type Config struct {
	// AppID is the app's cli_… identifier; required.
	AppID string
	// Secret returns the app's secret; required. It is called at each use,
	// possibly concurrently, since the secret may change at run time.
	Secret func() session.Secret
	// OpenURL and AccountsURL are base URLs without a trailing slash, such as
	// https://open.feishu.cn and https://accounts.feishu.cn; required.
	OpenURL, AccountsURL string
	// TokenURL is the complete address of the OAuth token endpoint for new
	// grants. Empty: v2 of OpenURL. See [Client.Exchange] for what happens if
	// it refuses.
	TokenURL string
	// Transport sends all requests. Nil: one with TLS 1.2 or newer, without a
	// proxy from the environment and without decompression.
	Transport http.RoundTripper
	// Log receives what an operator can act on. Nil: no log.
	Log *slog.Logger
}

// callTimeout bounds each request, including reading its answer. The context
// may end it earlier.
const callTimeout = 30 * time.Second

// Client speaks to Lark for one app. It is safe for concurrent use. Its methods
// block until Lark has answered, the context is done, or 30 s have passed.
type Client struct {
	appID                string
	secret               func() session.Secret
	openURL, accountsURL string
	endpoints            *tokenEndpoints
	http                 *http.Client
	log                  *slog.Logger
	sdk                  sdkHolder
	tenant               tenantToken
}

// New checks c and returns a client. It makes no connection.
func New(c Config) (*Client, error) {
	if c.AppID == "" || c.Secret == nil {
		return nil, errors.New("lark client: an app id and a secret are required")
	}
	if c.TokenURL == "" {
		c.TokenURL = c.OpenURL + tokenPathV2
	}
	for _, u := range []string{c.OpenURL, c.AccountsURL, c.TokenURL} {
		if err := checkURL(u); err != nil {
			return nil, fmt.Errorf("lark client: %w", err)
		}
	}
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	took, err := otel.Meter("larkside/session/lark").Float64Histogram("http.client.request.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of Larkside's own calls to Lark: tokens, consents, cards, users."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10))
	if err != nil {
		return nil, fmt.Errorf("lark client: %w", err)
	}
	return &Client{
		appID: c.AppID, secret: c.Secret,
		openURL: c.OpenURL, accountsURL: c.AccountsURL,
		endpoints: newTokenEndpoints(c.TokenURL, c.OpenURL, c.AccountsURL),
		http: &http.Client{
			Transport: &recorder{base: c.Transport, tracer: otel.Tracer("larkside/session/lark"), took: took},
			// A credential must not follow a redirect anywhere. The 3xx is
			// judged as the answer.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       callTimeout,
		},
		log: c.Log,
	}, nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		// url.Error would quote the address, which may hold a password.
		return errors.New("a base URL can't be parsed")
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("base URL %q is not http(s)://host", u.Redacted())
	case u.User != nil, u.RawQuery != "", u.Fragment != "", strings.HasSuffix(s, "/"):
		return fmt.Errorf("base URL %q has user, query, fragment or a trailing slash", u.Redacted())
	}
	return nil
}

// AuthorizeURL returns the page on which a user grants scopes to the app.
// challenge is the S256 code challenge (RFC 7636 section 4.2). With
// prompt=consent the page always asks. Without it, a web app inside the Lark
// client would be sent straight back. Lark accepts at most 200 scopes (50 until
// the middle of 2026). It issues a refresh token only if offline_access is
// among them. Source: Lark "obtain OAuth code", 2026-03-19; the limit: a crawl
// of 2026-09-11.
func (c *Client) AuthorizeURL(redirectURI, state, challenge string, scopes []string) string {
	q := url.Values{
		"client_id":             {c.appID},
		"response_type":         {"code"},
		"redirect_uri":          {redirectURI},
		"scope":                 {strings.Join(scopes, " ")},
		"state":                 {state},
		"code_challenge":        {challenge},
		"code_challenge_method": {"S256"},
		"prompt":                {"consent"},
	}
	// Lark's examples write the space between scopes as %20. A real plus has
	// become %2B already.
	return c.accountsURL + "/open-apis/authen/v1/authorize?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

// postForm sends one form and records the answer in x. RFC 6749 section 4
// prescribes a form for token endpoints, and Lark's device and revocation
// endpoints take nothing else.
func (c *Client) postForm(ctx context.Context, x *call, to string, form url.Values, prepare ...func(*http.Request)) {
	c.post(ctx, x, to, "application/x-www-form-urlencoded", form.Encode(), prepare...)
}

// postJSON sends the members of form as a JSON object of strings.
func (c *Client) postJSON(ctx context.Context, x *call, to string, form url.Values) {
	members := make(map[string]string, len(form))
	for name := range form {
		members[name] = form.Get(name)
	}
	body, err := json.Marshal(members)
	if err != nil {
		x.err, x.unsent = err, true
		return
	}
	c.post(ctx, x, to, "application/json; charset=utf-8", string(body))
}

func (c *Client) post(ctx context.Context, x *call, to, contentType, body string, prepare ...func(*http.Request)) {
	req, err := http.NewRequestWithContext(withCall(ctx, x), http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		x.err, x.unsent = err, true
		return
	}
	req.Header.Set("Content-Type", contentType)
	for _, f := range prepare {
		f(req)
	}
	c.do(req)
}

// do sends req. The call in its context records the result.
func (c *Client) do(req *http.Request) {
	req.Header.Set("Accept", "application/json")
	if resp, err := c.http.Do(req); err == nil {
		resp.Body.Close()
	}
}
