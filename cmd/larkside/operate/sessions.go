package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
	"larkside/session"
)

// userHelp is for commands that take a USER.
const userHelp = `USER is an open_id (ou_…); or, of someone who has consented, the union_id (on_…),
the user_id, the whole name or email, or what stands as user in a log line. Asks a
running instance's admin listener (LARKSIDE_ADMIN_LISTEN, or --admin) with
LARKSIDE_ADMIN_KEY, if that is set.`

func newSessions(in Invocation) *cobra.Command {
	return group("sessions", "See and change users' sessions",
		newSessionsList(in), newSessionsShow(in), newSessionsRefresh(in), newSessionsRevoke(in), newSessionsPurge(in))
}

// apiSession is a session in an answer of the API.
type apiSession struct {
	AppID            string     `json:"app_id"`
	OpenID           string     `json:"open_id"`
	UnionID          string     `json:"union_id"`
	UserID           string     `json:"user_id"`
	Name             string     `json:"name"`
	State            string     `json:"state"`
	Reason           string     `json:"reason"`
	Scope            string     `json:"scope"`
	GrantedAt        *time.Time `json:"granted_at"`
	AccessExpiresAt  *time.Time `json:"access_expires_at"`
	RefreshExpiresAt *time.Time `json:"refresh_expires_at"`
	RefreshedAt      *time.Time `json:"refreshed_at"`
}

var sessionStates = []string{"active", "consent_required", "disabled"}

func newSessionsList(in Invocation) *cobra.Command {
	var o operation
	var app, state, search string
	c := &cobra.Command{
		Use:   "list",
		Short: "List all sessions",
		Long: `List all sessions, in the order of app and open_id. No token is shown. Asks a
running instance's admin listener (LARKSIDE_ADMIN_LISTEN, or --admin) with
LARKSIDE_ADMIN_KEY, if that is set. With -o json it is one array.`,
		Example: "  larkside sessions list --state consent_required\n  larkside sessions list -o json | jq -r '.[].open_id'",
		Args:    cobra.NoArgs,
		RunE: o.run(in, func(o *operation) error {
			if err := checkState(state, sessionStates); err != nil {
				return err
			}
			query := parameters(map[string]string{"app_id": app, "state": state, "search": search})
			if o.format == "json" {
				return o.listJSON("/api/v1/sessions", query, 0)
			}
			return o.listSessions(query)
		}),
	}
	o.flags(c)
	c.Flags().StringVar(&app, "app", "", "only this app's (cli_…)")
	c.Flags().StringVar(&state, "state", "", "only those that are active, consent_required or disabled")
	c.Flags().StringVar(&search, "search", "", "only users one of whose ids, name or email contains this, or who stand in a log line as this")
	c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(sessionStates, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// checkState returns an error that lists the states, unless state is one of them or
// empty.
func checkState(state string, states []string) error {
	if state == "" || slices.Contains(states, state) {
		return nil
	}
	last := len(states) - 1
	return UsageError(fmt.Sprintf("--state %q: want %s or %s", state, strings.Join(states[:last], ", "), states[last]))
}

// parameters leaves out what is empty.
func parameters(all map[string]string) url.Values {
	query := url.Values{}
	for name, value := range all {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}

// listSessions prints a table. Names are last: how wide they are is up to the
// terminal.
func (o *operation) listSessions(query url.Values) error {
	now := time.Now()
	table := tabwriter.NewWriter(o.in.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "APP\tUSER\tSTATE\tREASON\tACCESS ENDS\tREFRESH ENDS\tREFRESHED\tNAME")
	n := 0
	err := o.client.pages(o.ctx, "/api/v1/sessions", query, func(item json.RawMessage) error {
		var s apiSession
		if err := json.Unmarshal(item, &s); err != nil {
			return err
		}
		n++
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", visible(s.AppID), visible(s.OpenID), visible(s.State), orDash(s.Reason),
			relative(s.AccessExpiresAt, now), relative(s.RefreshExpiresAt, now), relative(s.RefreshedAt, now), orDash(s.Name))
		return nil
	})
	if err != nil {
		return err
	}
	if n == 0 {
		fmt.Fprintln(o.in.ErrOut, "no sessions")
		return nil
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return visible(s)
}

// oneUser is the operation on one user's session.
type oneUser struct {
	operation
	app string
}

func (o *oneUser) command(in Invocation, c *cobra.Command, do func(o *oneUser, user string) error) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.run(in, func(*operation) error {
			app, user, err := o.findUser(o.app, args[0])
			if err != nil {
				return err
			}
			o.app = app
			err = do(o, user)
			if notFound(err) {
				return o.noSession(args[0], app, user)
			}
			return err
		})(c, args)
	}
	o.flags(c)
	c.Flags().StringVar(&o.app, "app", "", "the app (cli_…; default: the instance's LARKSIDE_APP_ID)")
	return c
}

// path is the session's.
func (o *oneUser) path(user string) string { return sessionPath(o.app, user) }

// show prints what the API answers about a session.
func (o *oneUser) show(method, path string) error {
	var raw json.RawMessage
	err := o.client.call(o.ctx, method, path, nil, &raw)
	if err != nil {
		return err
	}
	return o.print(raw, func() error {
		var s apiSession
		if err = json.Unmarshal(raw, &s); err != nil {
			return err
		}
		var asked *apiConsent
		if s.State != string(session.Active) {
			if asked, err = o.lastAsked(s.AppID, s.OpenID); err != nil {
				return err
			}
		}
		return printSession(o.in.Out, &s, asked, time.Now())
	})
}

// printSession prints a session and, if there is one, the last consent of its user.
func printSession(w io.Writer, s *apiSession, asked *apiConsent, now time.Time) error {
	when := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return t.Format(time.RFC3339) + " (" + relative(t, now) + ")"
	}
	state := s.State
	if s.Reason != "" {
		state += " (" + s.Reason + ")"
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	lines := [][2]string{
		{"app", s.AppID}, {"open_id", s.OpenID}, {"union_id", s.UnionID}, {"user_id", s.UserID}, {"name", s.Name},
		{"state", state}, {"scope", s.Scope}, {"granted", when(s.GrantedAt)}, {"access ends", when(s.AccessExpiresAt)},
		{"refresh ends", when(s.RefreshExpiresAt)}, {"refreshed", when(s.RefreshedAt)},
	}
	if asked != nil {
		lines = append(lines, [2]string{"asked", asked.outcome(now)})
	}
	for _, line := range lines {
		fmt.Fprintf(table, "%s\t%s\n", line[0], orDash(line[1]))
	}
	return table.Flush()
}

func newSessionsShow(in Invocation) *cobra.Command {
	return new(oneUser).command(in, &cobra.Command{
		Use:   "show USER",
		Short: "Show one session",
		Long:  "Show one session: its state, why it is so, and when its tokens end. No token is\nshown. " + userHelp,
	}, func(o *oneUser, user string) error { return o.show(http.MethodGet, o.path(user)) })
}

func newSessionsRefresh(in Invocation) *cobra.Command {
	return new(oneUser).command(in, &cobra.Command{
		Use:   "refresh USER",
		Short: "Renew one session's tokens now, whether they need it or not",
		Long:  "Renew one session's tokens at Lark now, whether they need it or not, and show the\nsession. " + userHelp,
	}, func(o *oneUser, user string) error { return o.show(http.MethodPost, o.path(user)+"/refresh") })
}

func newSessionsRevoke(in Invocation) *cobra.Command {
	return new(oneUser).command(in, &cobra.Command{
		Use:   "revoke USER",
		Short: "End one session, here within a second and at Lark",
		Long: `End one session: every replica stops using its tokens within a second, and they
are revoked at Lark. The user is asked again at the next request. ` + userHelp,
	}, func(o *oneUser, user string) error {
		if err := o.client.call(o.ctx, http.MethodDelete, o.path(user), nil, nil); err != nil {
			return err
		}
		return o.print(map[string]any{"user": user, "revoked": true}, func() error {
			_, err := fmt.Fprintf(o.in.Out, "revoked the session of %s\n", visible(user))
			return err
		})
	})
}

// AskSession asks the instance whose admin listener --admin names, or else
// ADMIN_LISTEN, whether key has an active session.
func AskSession(ctx context.Context, in Invocation, where string, key session.Key) (bool, error) {
	client, err := newAdminClient(in, where)
	if err != nil {
		return false, err
	}
	if client.key, err = settings.AdminKey(in.Environ); err != nil {
		return false, err
	}
	var found apiSession
	err = client.call(ctx, http.MethodGet, "/api/v1/sessions/"+url.PathEscape(key.AppID)+"/"+url.PathEscape(key.OpenID), nil, &found)
	if notFound(err) {
		return false, nil
	}
	return found.State == string(session.Active), err
}
