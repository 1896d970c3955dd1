package operate

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
)

// operation is one use of the API by a command.
type operation struct {
	where, format string // flags

	in       Invocation
	ctx      context.Context
	client   *adminClient
	terminal bool // for progress
	shown    bool // a line of progress stands there
}

// flags adds the flags that every such command has.
func (o *operation) flags(c *cobra.Command) {
	AdminFlag(c, &o.where)
	c.Flags().StringVarP(&o.format, "output", "o", "text", "text or json")
}

// run makes the RunE of a command that speaks to the API.
func (o *operation) run(in Invocation, do func(*operation) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		if o.format != "text" && o.format != "json" {
			return UsageError(fmt.Sprintf("output format %q: want text or json", o.format))
		}
		var err error
		if o.client, err = newAdminClient(in, o.where); err != nil {
			return err
		}
		if o.client.key, err = settings.AdminKey(in.Environ); err != nil {
			return err
		}
		o.in, o.ctx, o.terminal = in, c.Context(), IsTerminal(in.ErrOut)
		err = do(o)
		o.progressEnds()
		return err
	}
}

// print writes v as JSON, or what text writes.
func (o *operation) print(v any, text func() error) error {
	o.progressEnds()
	if o.format != "json" {
		return text()
	}
	enc := json.NewEncoder(o.in.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// progress shows how far long work has got, on a terminal only.
func (o *operation) progress(text string) {
	if o.terminal {
		fmt.Fprintf(o.in.ErrOut, "\r\x1b[K%s", text)
		o.shown = true
	}
}

func (o *operation) progressEnds() {
	if o.shown {
		fmt.Fprint(o.in.ErrOut, "\r\x1b[K")
		o.shown = false
	}
}

// AdminFlag adds --admin, which names the admin listener to ask.
func AdminFlag(c *cobra.Command, where *string) {
	c.Flags().StringVar(where, "admin", "", "admin listener, http://host:port or unix:/path.sock (default: LARKSIDE_ADMIN_LISTEN)")
}
