package operate

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"larkside/proxy/admin"
)

func newUsers(in Invocation) *cobra.Command {
	return group("users", "Work with what Lark says about users", newUsersSync(in))
}

func newUsersSync(in Invocation) *cobra.Command {
	var o operation
	c := &cobra.Command{
		Use:   "sync",
		Short: "Read name, email, mobile and status of all known users from Lark now",
		Long: `Read name, email, mobile and status of all known users from Lark now, as happens
every LARKSIDE_USER_SYNC by itself. Sessions of users who have left are disabled.
Who could not be read is outside the app's contact scope in Lark's console. Asks
a running instance's admin listener (LARKSIDE_ADMIN_LISTEN, or --admin) with
LARKSIDE_ADMIN_KEY, if that is set.`,
		Args: cobra.NoArgs,
		RunE: o.run(in, func(o *operation) error {
			var done admin.UserSync
			err := o.client.work(o.ctx, "/api/v1/users/sync", &done, func(line json.RawMessage) {
				var so admin.UserSync
				if json.Unmarshal(line, &so) == nil {
					o.progress(fmt.Sprintf("%d users so far", so.Users))
				}
			})
			if err != nil {
				return err
			}
			return o.print(done, func() error {
				_, err := fmt.Fprintf(in.Out, "%d users: %d read, %d could not be read\n", done.Users, done.Updated, done.Failed)
				return err
			})
		}),
	}
	o.flags(c)
	return c
}
