package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"larkside/cmd/larkside/settings"
	"larkside/proxy/admin"
)

func newLogin(in Invocation) *cobra.Command {
	var o operation
	var app string
	c := &cobra.Command{
		Use:   "login",
		Short: "Sign in at this terminal and become the default user (LARKSIDE_DEFAULT_USER=login)",
		Long: `Sign in at this terminal: open the link in a browser, or scan the code with Lark's
app, and approve. Whoever approves is the default user from then on, also after a
restart: a request on an inject path that names no user is theirs. It is for one
person's own machine.

Asks a running instance's admin listener (LARKSIDE_ADMIN_LISTEN, or --admin) with
LARKSIDE_ADMIN_KEY, if that is set. So start larkside first: it has the database,
and a SQLite database takes one process.`,
		Args: cobra.NoArgs,
		RunE: o.run(in, func(o *operation) error {
			var who admin.Login
			err := o.client.work(o.ctx, "/api/v1/login?"+url.Values{"app_id": {app}}.Encode(), &who, func(line json.RawMessage) {
				var open admin.Login
				if json.Unmarshal(line, &open) == nil && open.AuthorizeURL != "" {
					showLink(in.ErrOut, open.AuthorizeURL, time.Duration(open.ExpiresIn)*time.Second, IsTerminal(in.ErrOut))
				}
			})
			switch {
			case o.ctx.Err() != nil:
				return errors.New("stopped before anybody had signed in")
			case err != nil:
				return loginError(o.client.base, err)
			}
			return o.print(who, func() error {
				_, err := fmt.Fprintf(in.Out, "Signed in as %s (%s). Requests that name no user are yours now.\n", visible(who.Name), visible(who.OpenID))
				return err
			})
		}),
	}
	o.flags(c)
	c.Flags().StringVar(&app, "app", "", "the app to sign in to (default: LARKSIDE_APP_ID of the instance)")
	return c
}

// loginError says what to do about err, which came from the instance at base.
func loginError(base string, err error) error {
	var e *apiError
	errors.As(err, &e)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist): // the port, the Unix socket
		return fmt.Errorf("%w; start larkside first", err)
	case e == nil:
		return err
	case e.name == "not_found", e.name == "method_not_allowed":
		return fmt.Errorf("the instance at %s takes no login: start it with %[2]sDEFAULT_USER=%[3]s, or name another by %[2]sADMIN_LISTEN or --admin", base, settings.Prefix, settings.SignedIn)
	case e.name == "not_signed_in" && e.reason == "declined":
		return errors.New("the request was declined; run this again to be asked again")
	case e.name == "not_signed_in" && e.reason == "expired":
		return errors.New("nobody approved in time; run this again for a new link")
	case e.name == "not_signed_in" && e.reason == "stopping":
		return errors.New("larkside is stopping; run this again when it is up")
	}
	return err
}

// showLink writes the link and how long it works, and on a terminal its QR code.
func showLink(w io.Writer, link string, life time.Duration, terminal bool) {
	fmt.Fprintf(w, "Open this link and approve:\n\n  %s\n\n", visible(link))
	if code, err := qr.Encode(link, qr.L); err == nil && terminal {
		fmt.Fprintf(w, "Or scan this with Lark's app:\n\n%s\n", halfBlocks(code))
	}
	fmt.Fprintf(w, "Waiting; the link works for %d minutes. Ctrl-C gives up.\n", max(1, int(life.Round(time.Minute).Minutes())))
}

// quietZone is the margin that readers need, in modules (ISO 18004 has 4; two are
// enough on screens, and leave room).
const quietZone = 2

// halfBlocks draws code with two modules in each character. It sets both colours,
// since a reader needs dark modules on a light ground whatever the terminal's theme
// is.
func halfBlocks(code *qr.Code) string {
	const blackOnWhite, reset = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
	var b strings.Builder
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		b.WriteString("  " + blackOnWhite)
		for x := -quietZone; x < code.Size+quietZone; x++ {
			// Outside of the code Black is false.
			switch upper, lower := code.Black(x, y), code.Black(x, y+1); {
			case upper && lower:
				b.WriteString("█")
			case upper:
				b.WriteString("▀")
			case lower:
				b.WriteString("▄")
			default:
				b.WriteString(" ")
			}
		}
		b.WriteString(reset + "\n")
	}
	return b.String()
}
