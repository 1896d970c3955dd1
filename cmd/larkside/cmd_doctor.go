package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/doctor"
	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
	"larkside/session"
	"larkside/session/consent"
	"larkside/session/lark"
	"larkside/session/seal"
	"larkside/session/store"
)

// doctorFlags are those of the command.
type doctorFlags struct {
	where, format     string
	live, app, record string
	spend             bool
}

func newDoctor(in operate.Invocation) *cobra.Command {
	var flags doctorFlags
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check settings, database, keys, clock and everything at Lark",
		Long: `Check the settings, a running instance, the database and its keys, the issuer of
users' JWTs if there is one, and at Lark the app's credentials, its bot, its
scopes, the token endpoint, the start of a consent, and the clock. One line each:
ok, warn or fail, what was found and what to do. What depends on a line that
failed is left out. Exit status 1 if one fails.

It changes nothing, asks no user and sends no card, so whether a card arrives it
can't tell. The token endpoint is asked with a refresh token that is made up. A
SQLite database that a running instance has open is left to that instance, whose
admin listener is asked (LARKSIDE_ADMIN_LISTEN, or --admin).

With --live USER it goes the whole way with a real person, in about five minutes:
USER is your own open_id (ou_…), and Lark is open beside the terminal. It sends
three cards and asks for two authorizations, says at each step what to click, what
is believed about Lark (with the section of deploy/docs/lark.md) and what Lark
answered. It stores no token and revokes all
of them at the end. With --record it writes the exchanges to a file, without
tokens, codes, secrets, names and ids.`,
		Example: "  larkside doctor\n  larkside doctor --live ou_… --record lark.json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			if flags.live != "" {
				return liveDoctor(c, in, flags)
			}
			return examine(c.Context(), in, flags)
		},
	}
	operate.AdminFlag(c, &flags.where)
	c.Flags().StringVarP(&flags.format, "output", "o", "text", "text or json")
	c.Flags().StringVar(&flags.live, "live", "", "go the whole way with this user (ou_…), who has to click")
	c.Flags().StringVar(&flags.app, "app", "", "with --live: the app (cli_…; default: LARKSIDE_APP_ID)")
	c.Flags().BoolVar(&flags.spend, "spend", false, "with --live: also send a spent refresh token again, which may end the authorization")
	c.Flags().StringVar(&flags.record, "record", "", "with --live: write the exchanges to this new `file`")
	return c
}

func (f *doctorFlags) check() error {
	switch {
	case f.format != "text" && f.format != "json":
		return operate.UsageError(fmt.Sprintf("output format %q: want text or json", f.format))
	case f.live == "" && (f.app != "" || f.spend || f.record != ""):
		return operate.UsageError("--app, --spend and --record go with --live USER")
	case f.live != "" && f.format != "text":
		return operate.UsageError("--live talks to a person; --record writes JSON")
	case f.live != "" && !strings.HasPrefix(f.live, "ou_"):
		return operate.UsageError(fmt.Sprintf("--live %q: want the user's open_id (ou_…)", f.live))
	}
	return nil
}

func examine(ctx context.Context, in operate.Invocation, flags doctorFlags) error {
	report := &doctor.Report{}
	if flags.format == "text" {
		report.Out = in.Out
	}
	if err := examineInto(ctx, in, flags.where, report); err != nil {
		return err
	}
	if flags.format == "json" {
		if err := report.WriteJSON(in.Out); err != nil {
			return err
		}
	}
	if report.Failed() {
		return operate.ErrLogged // each failure has its line
	}
	return nil
}

// examineInto has the doctor look at the settings, if they can be used.
func examineInto(ctx context.Context, in operate.Invocation, where string, report *doctor.Report) error {
	s, err := readDoctorSettings(ctx, in)
	if err != nil {
		report.SettingsInvalid(strings.Split(err.Error(), "\n")...)
		return nil
	}
	report.SettingsValid(s.Warnings)
	c := doctor.Config{
		Apps: s.apps, Scopes: s.Scopes, Card: bool(s.Card),
		DatabaseURL: s.secrets.DatabaseURL.Get(), EncryptionKeys: s.secrets.EncryptionKeys.Get(),
		ExpectSessions: s.ExpectSessions,
		Instance:       func(ctx context.Context) (bool, string) { return operate.AskReady(ctx, in, where) },
	}
	users, err := newUserJWT(s.Settings, nil)
	if err != nil {
		return err
	}
	if users != nil {
		c.UserJWTIssuer, c.IssuerKeys = string(s.UserJWTIssuer), users.Keys
	}
	if s.Redirects() {
		c.RedirectURL = string(s.PublicURL) + "/consent/callback"
	}
	return doctor.Examine(ctx, c, report)
}

// doctorSettings are the settings and what the doctor needs of them.
type doctorSettings struct {
	*settings.Settings
	secrets *settings.Secrets
	apps    []lark.Config
}

func readDoctorSettings(ctx context.Context, in operate.Invocation) (*doctorSettings, error) {
	cfg, err := settings.Parse(in.Environ)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	secrets, err := settings.NewSecrets(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	return &doctorSettings{cfg, secrets, larkConfigs(cfg, secrets, transport, log)}, nil
}

// liveDoctor goes the whole way with the person at the terminal.
func liveDoctor(c *cobra.Command, in operate.Invocation, flags doctorFlags) error {
	s, err := readDoctorSettings(c.Context(), in)
	if err != nil {
		return err
	}
	app, err := s.app(flags.app)
	if err != nil {
		return err
	}
	return doctor.Live(c.Context(), doctor.LiveConfig{
		App: app, Brand: s.Brand, Version: in.Build.Version, User: flags.live, Scopes: s.Scopes,
		Card: consent.Config{CardTitle: s.CardTitle, CardMessage: s.CardMessage, PrivacyURL: string(s.PrivacyURL), AppLink: s.AppLink()},
		HasSession: func(ctx context.Context) (bool, error) {
			return s.hasSession(ctx, in, flags.where, session.Key{AppID: app.AppID, OpenID: flags.live})
		},
		Events:    s.Events,
		EventKeys: &lark.EventKeys{Token: s.secrets.EventToken.Get, EncryptKey: s.secrets.EventEncryptKey.Get},
		Listen:    func(ctx context.Context) (net.Listener, error) { return listen(ctx, "CONSENT_LISTEN", s.ConsentListen) },
		Spend:     flags.spend, Recording: flags.record, Secrets: s.everySecret(),
		In: c.InOrStdin(), Out: in.Out,
	})
}

// app is the one that is named, or the main one.
func (s *doctorSettings) app(id string) (lark.Config, error) {
	if id == "" {
		return s.apps[0], nil
	}
	i := slices.IndexFunc(s.apps, func(c lark.Config) bool { return c.AppID == id })
	if i < 0 {
		return lark.Config{}, operate.UsageError(fmt.Sprintf("--app %q is not configured", id))
	}
	return s.apps[i], nil
}

// hasSession looks into the database, or asks the instance that has it open.
func (s *doctorSettings) hasSession(ctx context.Context, in operate.Invocation, where string, key session.Key) (bool, error) {
	c := store.Config{URL: s.secrets.DatabaseURL.Get()}
	if keys := s.secrets.EncryptionKeys.Get(); !keys.Empty() {
		ring, err := seal.ParseKeyring(keys)
		if err != nil {
			return false, err
		}
		c.Keys = ring
	}
	there, err := store.HasSession(ctx, c, key)
	if errors.Is(err, store.ErrInUse) {
		return operate.AskSession(ctx, in, where, key)
	}
	return there, err
}

// everySecret are those of the settings, none of which may be recorded.
func (s *doctorSettings) everySecret() []session.Secret {
	all := []session.Secret{
		s.secrets.AppSecret.Get(), s.secrets.DatabaseURL.Get(), s.secrets.DatabaseListenURL.Get(), s.secrets.EncryptionKeys.Get(),
		s.secrets.AdminKey.Get(), s.secrets.EventToken.Get(), s.secrets.EventEncryptKey.Get(), s.UpstreamProxy,
	}
	for _, named := range slices.Concat(s.secrets.Apps.Get(), s.secrets.CallerKeys.Get()) {
		all = append(all, named.Secret)
	}
	return all
}
