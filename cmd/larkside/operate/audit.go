package operate

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newAudit(in Invocation) *cobra.Command {
	return group("audit", "See what was done to sessions, and by whom", newAuditList(in))
}

// apiAudit is an audit entry in an answer of the API.
type apiAudit struct {
	Time   *time.Time
	Actor  string
	Action string
	AppID  string `json:"app_id"`
	OpenID string `json:"open_id"`
	Result string
	Detail string
}

func newAuditList(in Invocation) *cobra.Command {
	l := &newestFirst{path: "/api/v1/audit", head: "TIME\tACTOR\tACTION\tRESULT\tAPP\tUSER\tDETAIL", nothing: "no entries"}
	l.row = func(item json.RawMessage, _ time.Time) (string, error) {
		var e apiAudit
		err := json.Unmarshal(item, &e)
		at := "-"
		if e.Time != nil {
			at = e.Time.Format(time.RFC3339)
		}
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", at, visible(e.Actor), visible(e.Action), visible(e.Result),
			orDash(e.AppID), orDash(e.OpenID), orDash(e.Detail)), err
	}
	var action string
	c := l.command(in, &cobra.Command{
		Use:   "list",
		Short: "List what was done to sessions, the newest first",
		Long: `List who did what to which session, and what came of it, the newest first. Entries
are kept for LARKSIDE_AUDIT_RETENTION.`,
		Example: "  larkside audit list --action revoke\n  larkside audit list -n 0 -o json > audit.json",
	}, func() (map[string]string, error) { return map[string]string{"action": action}, nil })
	c.Flags().StringVar(&action, "action", "", "only consent, consent_send, login, refresh, revoke, purge, session_lost, users_sync, keys_rotate or backup")
	return c
}
