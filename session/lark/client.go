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

// Config says which app speaks, and where Lark is.
type Config struct {
	// AppID is the app's cli_… identifier; required.
	AppID string
	// Secret returns the app's secret. It is asked at each use, possibly
	// concurrently, since the secret may be rotated at run time; required.
	Secret func() session.Secret
	// OpenURL and AccountsURL are base URLs without a trailing slash, such as
	// https://open.feishu.cn and https://accounts.feishu.cn; required.
	OpenURL, AccountsURL string
	// TokenURL is the complete address of the OAuth token endpoint at which new
	// grants are made; empty: v2 of OpenURL. See [Client.Exchange] for what
	// happens where it refuses.
	TokenURL string
	// Transport carries all requests. Nil: one of our own, with TLS 1.2 or
	// newer, no proxy from the environment and no transparent decompression.
	Transport http.RoundTripper
	// Log receives what an operator may want to know; nil discards it.
	Log *slog.Logger
}

// callTimeout bounds each request, its answer read to the end, where the
// context does not end before.
const callTimeout = 30 * time.Second

// Client speaks to Lark for one app. Its methods may be called concurrently
// and block until Lark has answered or the context is done; each request is
// given up after 30 s.
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
			// A credential must not follow a redirect anywhere: the 3xx is
			// the answer, and judged as one.
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
		// url.Error would repeat the address, which may hold a password.
		return errors.New("a base URL can't be parsed")
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("base URL %q is not http(s)://host", u.Redacted())
	case u.User != nil, u.RawQuery != "", u.Fragment != "", strings.HasSuffix(s, "/"):
		return fmt.Errorf("base URL %q has user, query, fragment or a trailing slash", u.Redacted())
	}
	return nil
}

// AuthorizeURL returns the page on which a user grants scopes to the app.
// challenge is the S256 code challenge (RFC 7636 section 4.2). The page always
// asks (prompt=consent), also inside the Lark client, where a web app would
// otherwise be sent straight back. Lark accepts at most 200 scopes (50 until
// the middle of 2026), and offline_access must be among them for a refresh
// token to be issued.
// Source: Lark "obtain OAuth code", 2026-03-19; the limit: a crawl of
// 2026-09-11.
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
	// Lark's examples write the blank between scopes as %20; a real plus is
	// %2B by now.
	return c.accountsURL + "/open-apis/authen/v1/authorize?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

// postForm sends one form and leaves the answer in x. RFC 6749 section 4
// prescribes the form for token endpoints, and the device and revocation
// endpoints know nothing else.
func (c *Client) postForm(ctx context.Context, x *exchange, to string, form url.Values, prepare ...func(*http.Request)) {
	c.post(ctx, x, to, "application/x-www-form-urlencoded", form.Encode(), prepare...)
}

// postJSON sends the members of form as a JSON object of strings.
func (c *Client) postJSON(ctx context.Context, x *exchange, to string, form url.Values) {
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

func (c *Client) post(ctx context.Context, x *exchange, to, contentType, body string, prepare ...func(*http.Request)) {
	req, err := http.NewRequestWithContext(withExchange(ctx, x), http.MethodPost, to, strings.NewReader(body))
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

// do sends req; the exchange in its context has the result.
func (c *Client) do(req *http.Request) {
	req.Header.Set("Accept", "application/json")
	if resp, err := c.http.Do(req); err == nil {
		resp.Body.Close()
	}
}
