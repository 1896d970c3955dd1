package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
	"larkside/session"
)

const (
	// adminTimeout bounds one question for health or readiness.
	adminTimeout = 5 * time.Second
	// maxAdminAnswer is more than any answer of the admin listener.
	maxAdminAnswer = 16 << 20
)

// Client speaks to the admin listener of a running instance.
type Client struct {
	Base string // without trailing slash
	http *http.Client
	key  session.Secret // for the API; may be empty
}

// NewClient speaks to where, "http(s)://host:port" or "unix:/path.sock", or
// to ADMIN_LISTEN of the environment when where is empty.
func NewClient(in Invocation, where string) (*Client, error) {
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
	return &Client{Base: strings.TrimRight(where, "/"), http: newHTTPClient(nil)}, nil
}

// clientFor speaks to a listener of this machine.
func clientFor(a settings.Address) *Client {
	if a.Network == "unix" {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.Addr)
		}
		return &Client{Base: "http://localhost", http: newHTTPClient(dial)}
	}
	host, port, _ := net.SplitHostPort(a.Addr) // was parsed before
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // listens on every address, so on this one
	}
	return &Client{Base: "http://" + net.JoinHostPort(host, port), http: newHTTPClient(nil)}
}

// newHTTPClient never goes through a proxy of the environment: the admin
// listener is near, and its answers are nobody else's business. Nor does it
// follow redirects, which would take the key along.
func newHTTPClient(dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Get returns the status and body of one request, within adminTimeout.
func (c *Client) Get(ctx context.Context, path string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Base+path, nil)
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

func newHealthcheck(in Invocation) *cobra.Command {
	var where string
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the running instance whether it lives; exit 1 if not",
		Long: `Ask GET /healthz of the admin listener (LARKSIDE_ADMIN_LISTEN, or --admin). For
the HEALTHCHECK of a container; Kubernetes asks by HTTP itself.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := NewClient(in, where)
			if err != nil {
				return err
			}
			status, _, err := client.Get(c.Context(), "/healthz")
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("GET %s/healthz: status %d", client.Base, status)
			}
			return err
		},
	}
	AdminFlag(c, &where)
	return c
}

// AdminFlag adds --admin.
func AdminFlag(c *cobra.Command, where *string) {
	c.Flags().StringVar(where, "admin", "", "admin listener, http://host:port or unix:/path.sock (default: LARKSIDE_ADMIN_LISTEN)")
}

// waitPoll is the time between two questions of "larkside wait".
const waitPoll = 200 * time.Millisecond

func newWait(in Invocation) *cobra.Command {
	var where string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the running instance is ready; exit 1 if it is not in time",
		Long: `Wait until GET /readyz of the admin listener says ready. For the entrypoint of
the app beside it:

    larkside wait && exec my-app`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := NewClient(in, where)
			if err != nil {
				return err
			}
			ctx := c.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			return client.waitReady(ctx)
		},
	}
	AdminFlag(c, &where)
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait; 0: for ever")
	return c
}

// waitReady asks until the instance is ready. When ctx ends first, the error
// says what was missing last.
func (c *Client) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(waitPoll)
	defer ticker.Stop()
	last := "nothing was asked"
	for {
		status, body, err := c.Get(ctx, "/readyz")
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			last = NotReady(status, body)
		case ctx.Err() == nil:
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready (%s): %w", last, ctx.Err())
		case <-ticker.C:
		}
	}
}

// NotReady names the checks that fail in an answer of /readyz.
func NotReady(status int, body []byte) string {
	var answer struct {
		Checks []struct {
			Name, Detail string
			OK           bool
		}
	}
	failing := []string{fmt.Sprintf("status %d", status)}
	if json.Unmarshal(body, &answer) == nil {
		for _, check := range answer.Checks {
			if !check.OK {
				failing = append(failing, strings.TrimSuffix(check.Name+": "+check.Detail, ": "))
			}
		}
	}
	return strings.Join(failing, "; ")
}
