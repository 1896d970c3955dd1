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
	return group("consent", "Ask users for consent", newConsentSend(in))
}

// apiConsent is a consent in an answer of the API.
type apiConsent struct {
	ID        string
	OpenID    string `json:"open_id"`
	State     string
	Scopes    []string
	Card      string
	ExpiresAt *time.Time `json:"expires_at"`
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
	var p apiConsent
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	card := map[string]string{
		"sent": "a card was sent", "already_sent": "a card was sent before", "off": "no card was sent (LARKSIDE_CARD=off)",
		"rate_limited": "no card was sent (too many for this user)", "failed": "the card could not be sent (see the log)",
		"": "a card is on its way",
	}[p.Card]
	if card == "" {
		card = "card: " + visible(p.Card)
	}
	_, err := fmt.Fprintf(w, "consent %s of %s is %s: %s; it asks for %s and expires %s\n", visible(p.ID), visible(p.OpenID), visible(p.State),
		card, visible(strings.Join(p.Scopes, " ")), relative(p.ExpiresAt, time.Now()))
	return err
}
