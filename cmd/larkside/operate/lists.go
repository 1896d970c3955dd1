package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// newestFirst is a command that lists what grows for ever, the newest first.
type newestFirst struct {
	operation
	path, head, nothing string
	row                 func(item json.RawMessage, now time.Time) (string, error)

	app, user string
	limit     int
}

// command completes c. filter returns what else the list is narrowed by.
func (l *newestFirst) command(in Invocation, c *cobra.Command, filter func() (map[string]string, error)) *cobra.Command {
	c.Long += ` Asks a
running instance's admin listener (LARKSIDE_ADMIN_LISTEN, or --admin) with
LARKSIDE_ADMIN_KEY, if that is set. With -o json it is one array.`
	c.Args = cobra.NoArgs
	c.RunE = l.run(in, func(*operation) error {
		narrowed, err := filter()
		if err != nil {
			return err
		}
		if l.user != "" {
			if l.app, l.user, err = l.findUser(l.app, l.user); err != nil {
				return err
			}
		}
		narrowed["app_id"], narrowed["open_id"] = l.app, l.user
		return l.list(narrowed)
	})
	l.flags(c)
	c.Flags().StringVar(&l.app, "app", "", "only this app's (cli_…)")
	c.Flags().StringVar(&l.user, "user", "", "only this user's, as \"larkside sessions show\" takes them")
	c.Flags().IntVarP(&l.limit, "limit", "n", 100, "how many at most; 0: all")
	return c
}

func (l *newestFirst) list(narrowed map[string]string) error {
	query := parameters(narrowed)
	if l.limit > 0 {
		query.Set("limit", fmt.Sprint(min(l.limit, pageSize)))
	}
	if l.format == "json" {
		return l.listJSON(l.path, query, l.limit)
	}
	now := time.Now()
	table := tabwriter.NewWriter(l.in.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, l.head)
	n := 0
	err := l.client.pages(l.ctx, l.path, query, func(item json.RawMessage) error {
		row, err := l.row(item, now)
		if err != nil {
			return err
		}
		fmt.Fprintln(table, row)
		if n++; n == l.limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if n == 0 {
		fmt.Fprintln(l.in.ErrOut, l.nothing)
		return nil
	}
	if err != nil { // there may be more
		defer fmt.Fprintf(l.in.ErrOut, "these are the newest %d; -n 0 shows all\n", n)
	}
	return table.Flush()
}

// listJSON prints a list as one array, item by item as they come. limit 0: all.
func (o *operation) listJSON(path string, query url.Values, limit int) error {
	separator, n := "[\n  ", 0
	err := o.client.pages(o.ctx, path, query, func(item json.RawMessage) error {
		_, err := fmt.Fprintf(o.in.Out, "%s%s", separator, item)
		separator = ",\n  "
		if n++; n == limit && err == nil {
			return errEnough
		}
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err // the array stays open, so nobody takes it for all there is
	}
	end := "\n]\n"
	if n == 0 {
		end = "[]\n"
	}
	_, err = io.WriteString(o.in.Out, end)
	return err
}
