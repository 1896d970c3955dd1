package operate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"larkside/cmd/larkside/settings"
	"larkside/session"
)

const (
	// apiTimeout bounds one request to the API; some wait for Lark.
	apiTimeout = time.Minute
	// adminTimeout bounds one question for health or readiness.
	adminTimeout = 5 * time.Second
	// pageSize is the most items that the API answers at once.
	pageSize = 500
	// maxAdminAnswer is more than any answer of the admin listener.
	maxAdminAnswer = 16 << 20
)

// adminClient speaks to the admin listener of a running instance.
type adminClient struct {
	base string // without trailing slash
	http *http.Client
	key  session.Secret // for the API; may be empty
}

// newAdminClient speaks to where, "http(s)://host:port" or "unix:/path.sock", or
// to ADMIN_LISTEN of the environment when where is empty.
func newAdminClient(in Invocation, where string) (*adminClient, error) {
	if where == "" {
		a, err := settings.AdminAddress(in.Environ)
		if err != nil {
			return nil, err
		}
		if a.Port() == "0" {
			return nil, UsageError(settings.Prefix + "ADMIN_LISTEN has port 0, so the port is known to the running instance only; name it with --admin")
		}
		return clientFor(a), nil
	}
	if strings.HasPrefix(where, "unix:") {
		a, err := settings.ParseAddress(where)
		if err != nil {
			return nil, UsageError(fmt.Sprintf("--admin %q: %v", where, err))
		}
		return clientFor(a), nil
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, UsageError("--admin takes http://host:port or unix:/path.sock")
	}
	return &adminClient{base: strings.TrimRight(where, "/"), http: newHTTPClient(nil)}, nil
}

// clientFor speaks to a listener of this machine.
func clientFor(a settings.Address) *adminClient {
	if a.Network == "unix" {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.Addr)
		}
		return &adminClient{base: "http://localhost", http: newHTTPClient(dial)}
	}
	host, port, _ := net.SplitHostPort(a.Addr) // was parsed before
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // listens on every address, so on this one
	}
	return &adminClient{base: "http://" + net.JoinHostPort(host, port), http: newHTTPClient(nil)}
}

// newHTTPClient ignores the environment's proxy, since the admin listener is
// near. It follows no redirect, since the key would go along.
func newHTTPClient(dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get returns the status and body of one request, within adminTimeout.
func (c *adminClient) get(ctx context.Context, path string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	return resp.StatusCode, body, err
}

// apiError is a failure that the API has answered.
type apiError struct {
	status    int
	name, msg string // name is error.type
	reason    string
}

func (e *apiError) Error() string {
	switch {
	case e.name == "":
		return fmt.Sprintf("status %d, which no admin listener of Larkside answers; is that the right address?", e.status)
	case e.name == "admin_unauthenticated":
		return "the running instance wants its admin key: set LARKSIDE_ADMIN_KEY, or LARKSIDE_ADMIN_KEY_FILE, to the one that it has (admin_unauthenticated)"
	case e.reason != "":
		return fmt.Sprintf("%s (%s: %s)", e.msg, e.name, e.reason)
	}
	return fmt.Sprintf("%s (%s)", e.msg, e.name)
}

// notFound reports whether the API knows no such thing.
func notFound(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.name == "not_found"
}

// parseAPIError returns nil if content is no error's envelope.
func parseAPIError(status int, content []byte) *apiError {
	var envelope struct {
		Code  int
		Msg   string
		Error struct{ Type, Reason string }
	}
	if json.Unmarshal(content, &envelope) != nil || envelope.Code == 0 || envelope.Error.Type == "" {
		return nil
	}
	return &apiError{status, envelope.Error.Type, envelope.Msg, envelope.Error.Reason}
}

// call sends one request and decodes the answer into v, if that is not nil. An
// error is an [*apiError], or the instance could not be asked.
func (c *adminClient) call(ctx context.Context, method, path string, body, v any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, body, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.base, err)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(content, v); err != nil {
		return &apiError{status: resp.StatusCode}
	}
	return nil
}

// send returns an answer of success, whose body is the caller's to close.
func (c *adminClient) send(ctx context.Context, method, path string, body any, accept string) (*http.Response, error) {
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !c.key.Empty() {
		req.Header.Set("Authorization", "Bearer "+c.key.Expose())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var inURL *url.Error
		if errors.As(err, &inURL) {
			err = inURL.Err
		}
		return nil, fmt.Errorf("can't ask a running instance at %s (LARKSIDE_ADMIN_LISTEN or --admin names it): %w", c.base, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if e := parseAPIError(resp.StatusCode, answer); e != nil {
		return nil, e
	}
	return nil, &apiError{status: resp.StatusCode}
}

// pages calls each with every item of a list, over all pages, until it returns an
// error. They have pageSize items unless query says otherwise.
func (c *adminClient) pages(ctx context.Context, path string, query url.Values, each func(json.RawMessage) error) error {
	if query.Get("limit") == "" {
		query.Set("limit", fmt.Sprint(pageSize))
	}
	for {
		var page struct {
			Items []json.RawMessage
			Next  string
		}
		if err := c.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := each(item); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		query.Set("cursor", page.Next)
	}
}

// work has long work done. Its reports go to progress, its result into v.
func (c *adminClient) work(ctx context.Context, path string, v any, progress func(json.RawMessage)) error {
	return c.workOn(ctx, path, nil, v, progress)
}

// workOn is work with a body.
func (c *adminClient) workOn(ctx context.Context, path string, body, v any, progress func(json.RawMessage)) error {
	resp, err := c.send(ctx, http.MethodPost, path, body, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if e := parseAPIError(resp.StatusCode, lines.Bytes()); e != nil {
			return e
		}
		var report struct{ Done *bool }
		switch err := json.Unmarshal(lines.Bytes(), &report); {
		case err != nil || report.Done == nil:
			return &apiError{status: resp.StatusCode}
		case *report.Done:
			return json.Unmarshal(lines.Bytes(), v)
		}
		progress(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the instance broke off before it was done; run this again: %w", err)
	}
	return errors.New("the instance broke off before it was done; run this again")
}
