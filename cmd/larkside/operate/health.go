package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealthcheck(in Invocation) *cobra.Command {
	var where string
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the running instance whether it lives; exit 1 if not",
		Long: `Ask GET /healthz of the admin listener (LARKSIDE_ADMIN_LISTEN, or --admin). For
the HEALTHCHECK of a container; Kubernetes asks by HTTP itself.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := newAdminClient(in, where)
			if err != nil {
				return err
			}
			status, _, err := client.get(c.Context(), "/healthz")
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("GET %s/healthz: status %d", client.base, status)
			}
			return err
		},
	}
	AdminFlag(c, &where)
	return c
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
			client, err := newAdminClient(in, where)
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
func (c *adminClient) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(waitPoll)
	defer ticker.Stop()
	last := "nothing was asked"
	for {
		status, body, err := c.get(ctx, "/readyz")
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			last = notReady(status, body)
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

// AskReady asks the instance whose admin listener --admin names, or else
// ADMIN_LISTEN, whether it is ready, and returns what came of it as a sentence.
func AskReady(ctx context.Context, in Invocation, where string) (ready bool, says string) {
	client, err := newAdminClient(in, where)
	if err != nil {
		return false, err.Error()
	}
	status, body, err := client.get(ctx, "/readyz")
	switch {
	case err != nil:
		return false, "its admin listener can't be asked: " + err.Error()
	case status != http.StatusOK:
		return false, "it says that it is not ready: " + notReady(status, body)
	}
	return true, "it says at " + client.base + "/readyz that it is ready"
}

// notReady names the checks that fail in an answer of /readyz.
func notReady(status int, body []byte) string {
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
