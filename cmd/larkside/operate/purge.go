package operate

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"larkside/proxy/admin"
	"larkside/session"
)

func newSessionsPurge(in Invocation) *cobra.Command {
	var o operation
	var w admin.PurgeWish
	var state string
	var dryRun, yes bool
	c := &cobra.Command{
		Use:   "purge --left | --state STATE | --user USER",
		Short: "Delete sessions for good, here and at Lark",
		Long: `Delete sessions for good: those of users who have left or are frozen (--left),
those in a state (--state), or those of one user in all apps (--user). Their tokens
are revoked at Lark; the sessions, with names and ids, and what the users were asked
are deleted. The audit trail stays, and says who was purged by whom.

Use --dry-run first: it shows whose sessions would be deleted. Then use --yes instead.
It may be interrupted and run again. A user who is active is asked again at the next
request.

--user finds the other apps' sessions by the union_id. ` + userHelp,
		Example: "  larkside sessions purge --left --dry-run\n  larkside sessions purge --user ou_… --yes",
		Args:    cobra.NoArgs,
		RunE: o.run(in, func(o *operation) error {
			chosen := 0
			for _, given := range []bool{w.Left, state != "", w.User != ""} {
				if given {
					chosen++
				}
			}
			switch {
			case chosen != 1 || w.AppID != "" && w.User == "":
				return UsageError("say one of --left, --state and --user; --app goes with --user only")
			case dryRun == yes:
				return UsageError("say --dry-run to see which sessions would be deleted, or --yes to delete them")
			case checkState(state, sessionStates) != nil:
				return checkState(state, sessionStates)
			}
			w.State, w.DryRun = session.State(state), &dryRun
			if w.User != "" {
				var err error
				if w.AppID, w.User, err = o.findUser(w.AppID, w.User); err != nil {
					return err
				}
			}
			return o.purge(w)
		}),
	}
	o.flags(c)
	c.Flags().BoolVar(&w.Left, "left", false, "those of users who have left or are frozen")
	c.Flags().StringVar(&state, "state", "", "those that are active, consent_required or disabled")
	c.Flags().StringVar(&w.User, "user", "", "those of one user, in all apps")
	c.Flags().StringVar(&w.AppID, "app", "", "with --user: look for the user in this app only (cli_…)")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show which they are, and change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "delete them")
	c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(sessionStates, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// purge has sessions deleted, or listed, and prints each.
func (o *operation) purge(w admin.PurgeWish) error {
	table := tabwriter.NewWriter(o.in.Out, 0, 8, 2, ' ', 0)
	items := []admin.PurgedSession{}
	var done admin.Purge
	err := o.client.workOn(o.ctx, "/api/v1/sessions/purge", w, &done, func(line json.RawMessage) {
		var so admin.Purge
		if json.Unmarshal(line, &so) != nil || so.Session == nil {
			return
		}
		if items = append(items, *so.Session); !so.DryRun {
			o.progress(fmt.Sprintf("%d sessions so far", so.Sessions))
		}
	})
	if notFound(err) {
		return fmt.Errorf("there is no session of %s", visible(w.User))
	}
	if err != nil {
		return err
	}
	return o.print(struct {
		admin.Purge
		Items []admin.PurgedSession `json:"items"`
	}{done, items}, func() error {
		if len(items) > 0 {
			fmt.Fprintln(table, "APP\tUSER\tSTATE\tREASON\tNAME")
		}
		for _, s := range items {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", visible(s.AppID), visible(s.OpenID), visible(string(s.State)), orDash(string(s.Reason)), orDash(s.Name))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		_, err := fmt.Fprintln(o.in.Out, purgeDone(done))
		return err
	})
}

func purgeDone(p admin.Purge) string {
	switch {
	case p.DryRun && p.Sessions == 0:
		return "no session would be deleted; nothing was changed"
	case p.DryRun:
		return fmt.Sprintf("%d sessions would be revoked at Lark and deleted; nothing was changed. To do it, say --yes instead of --dry-run", p.Sessions)
	}
	if p.Deleted+p.Kept == 0 {
		return "there is no such session; nothing was deleted"
	}
	parts := []string{fmt.Sprintf("deleted %d sessions and %d consents; the audit trail has an entry for each session", p.Deleted, p.Consents)}
	if p.Kept > 0 {
		parts = append(parts, fmt.Sprintf("%d users consented anew meanwhile and were kept", p.Kept))
	}
	if p.Unrevoked > 0 {
		parts = append(parts, fmt.Sprintf("Lark has not taken back the tokens of %d at once; it is tried for half a minute, and the log says if that failed", p.Unrevoked))
	}
	return strings.Join(parts, "\n")
}
