package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/doctor"
	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
)

func newDoctor(in operate.Invocation) *cobra.Command {
	var where, format string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check settings, database, keys, clock and everything at Lark",
		Long: `Check the settings, a running instance, the database and its keys, and at Lark the
app's credentials, its bot, its scopes, the token endpoint, the start of a
consent, and the clock. One line each: ok, warn or fail, what was found and what
to do. What depends on a line that failed is left out. Exit status 1 if one
fails.

It changes nothing, asks no user and sends no card, so whether a card arrives it
can't tell. The token endpoint is asked with a refresh token that is made up. A
SQLite database that a running instance has open is left to that instance, whose
admin listener is asked (LARKSIDE_ADMIN_LISTEN, or --admin).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return operate.UsageError(fmt.Sprintf("output format %q: want text or json", format))
			}
			report := &doctor.Report{}
			if format == "text" {
				report.Out = in.Out
			}
			if cfg, ok := doctorConfig(c.Context(), in, where, report); ok {
				if err := doctor.Examine(c.Context(), cfg, report); err != nil {
					return err
				}
			}
			if format == "json" {
				if err := report.WriteJSON(in.Out); err != nil {
					return err
				}
			}
			if report.Failed() {
				return operate.ErrLogged // each failure has its line
			}
			return nil
		},
	}
	operate.AdminFlag(c, &where)
	c.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	return c
}

// doctorConfig reads the settings for the doctor. What is wrong with them is in
// the report; then there is nothing more to look at.
func doctorConfig(ctx context.Context, in operate.Invocation, where string, report *doctor.Report) (doctor.Config, bool) {
	cfg, err := settings.Parse(in.Environ)
	if err != nil {
		report.SettingsInvalid(strings.Split(err.Error(), "\n")...)
		return doctor.Config{}, false
	}
	log := slog.New(slog.DiscardHandler)
	secrets, err := settings.NewSecrets(ctx, cfg, log)
	if err != nil {
		report.SettingsInvalid(err.Error())
		return doctor.Config{}, false
	}
	transport, err := newTransport(cfg)
	if err != nil {
		report.SettingsInvalid(err.Error())
		return doctor.Config{}, false
	}
	report.SettingsValid(cfg.Warnings)
	c := doctor.Config{
		Apps: larkConfigs(cfg, secrets, transport, log), Scopes: cfg.Scopes, Card: bool(cfg.Card),
		DatabaseURL: secrets.DatabaseURL.Get(), EncryptionKeys: secrets.EncryptionKeys.Get(),
		Instance: func(ctx context.Context) (bool, string) { return operate.AskReady(ctx, in, where) },
	}
	if cfg.Redirects() {
		c.RedirectURL = string(cfg.PublicURL) + "/consent/callback"
	}
	return c, true
}
