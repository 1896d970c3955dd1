package operate

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newConsent(in Invocation) *cobra.Command {
	return group("consent", "Ask users for consent, and see what they were asked", newConsentList(in), newConsentSend(in))
}

// apiConsent is a consent in an answer of the API.
type apiConsent struct {
	ID        string
	AppID     string `json:"app_id"`
	OpenID    string `json:"open_id"`
	Flow      string
	State     string
	Scopes    []string
	Card      string
	CreatedAt *time.Time `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// consentStates are in the order in which people think of them.
var consentStates = []string{"pending", "done", "declined", "expired", "superseded", "failed"}

// cards says what became of a card.
var cards = map[string]string{
	"sent": "a card was sent", "already_sent": "a card was sent before", "off": "no card was sent (LARKSIDE_CARD=off)",
	"rate_limited": "no card was sent (too many for this user)", "failed": "the card could not be sent (see the log)",
	"": "a card is on its way",
}

func (c *apiConsent) card() string {
	if text := cards[c.Card]; text != "" {
		return text
	}
	return "card: " + visible(c.Card)
}

// outcome says when the user was asked, and what came of it.
func (c *apiConsent) outcome(now time.Time) string {
	asked := "asked " + relative(c.CreatedAt, now)
	switch c.State {
	case "pending":
		return fmt.Sprintf("%s (%s), and has not answered; the link ends %s", asked, c.card(), relative(c.ExpiresAt, now))
	case "expired":
		return asked + ", and did not answer in time"
	}
	return asked + ": " + visible(c.State)
}

func newConsentList(in Invocation) *cobra.Command {
	l := &newestFirst{path: "/api/v1/consents", head: "APP\tUSER\tSTATE\tCARD\tASKED\tENDS\tSCOPES", nothing: "no consents"}
	l.row = func(item json.RawMessage, now time.Time) (string, error) {
		var c apiConsent
		err := json.Unmarshal(item, &c)
		if c.State != "pending" {
			c.ExpiresAt = nil // it is over
		}
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", visible(c.AppID), visible(c.OpenID), visible(c.State), orDash(c.Card),
			relative(c.CreatedAt, now), relative(c.ExpiresAt, now), visible(strings.Join(c.Scopes, " "))), err
	}
	var state string
	c := l.command(in, &cobra.Command{
		Use:   "list",
		Short: "List what users were asked, the newest first",
		Long: `List what users were asked and what came of it, the newest first. The link is not
shown: it is for the user only. Closed consents are kept for seven days.`,
		Example: "  larkside consent list --state pending\n  larkside consent list --user ou_7d8a6e6df7621556ce0d21922b676706ccs",
	}, func() (map[string]string, error) {
		return map[string]string{"state": state}, checkState(state, consentStates)
	})
	c.Flags().StringVar(&state, "state", "", "only those that are "+strings.Join(consentStates, ", "))
	c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(consentStates, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func newConsentSend(in Invocation) *cobra.Command {
	var scopes []string
	o := &oneUser{}
	c := o.command(in, &cobra.Command{
		Use:   "send USER",
		Short: "Ask one user for consent, by a card in the chat",
		Long: `Ask one user for consent, by a card in the chat (LARKSIDE_CARD), as a request for
a user without a session does. A consent that is open already is not started
again. ` + userHelp,
		Example: "  larkside consent send ou_7d8a6e6df7621556ce0d21922b676706ccs --scopes calendar:calendar:read",
	}, func(o *oneUser, user string) error {
		var raw json.RawMessage
		want := map[string]any{"app_id": o.app, "open_id": user, "scopes": scopes}
		if err := o.client.call(o.ctx, http.MethodPost, "/api/v1/consents", want, &raw); err != nil {
			return err
		}
		return o.print(raw, func() error { return printConsent(o.in.Out, raw) })
	})
	c.Flags().StringSliceVar(&scopes, "scopes", nil, "scopes to ask for, comma separated (default: LARKSIDE_SCOPES of the instance)")
	return c
}

func printConsent(w io.Writer, raw json.RawMessage) error {
	var c apiConsent
	if err := json.Unmarshal(raw, &c); err != nil {
		return err
	}
	now := time.Now()
	card := c.card()
	if c.Card == "already_sent" {
		card = "an older card, sent " + relative(c.CreatedAt, now) + ", is still open, so no other was sent"
	}
	_, err := fmt.Fprintf(w, "consent %s of %s is %s: %s; it asks for %s and expires %s\n", visible(c.ID), visible(c.OpenID), visible(c.State),
		card, visible(strings.Join(c.Scopes, " ")), relative(c.ExpiresAt, now))
	return err
}
