package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
	"larkside/session"
	"larkside/session/lark"
)

const (
	// checkTimeout bounds one check.
	checkTimeout = 20 * time.Second
	// skewWarn and skewFail are how far this clock may be from Lark's.
	skewWarn, skewFail = 10 * time.Second, 5 * time.Minute
)

// checkStatus is what a check came to.
type checkStatus string

const (
	checkOK   checkStatus = "ok"
	checkWarn checkStatus = "warn" // works, but likely not as meant, or could not be looked at
	checkFail checkStatus = "fail"
)

// checkResult is one line of the doctor's.
type checkResult struct {
	Name   string      `json:"name"`
	Status checkStatus `json:"status"`
	Detail string      `json:"detail"`
	// Do says what to do about it.
	Do string `json:"do,omitempty"`
}

func newDoctor(in operate.Invocation) *cobra.Command {
	var where, format string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check settings, database, keys, clock and everything at Lark",
		Long: `Check the settings, a running instance, the database and its keys, and at Lark the
app's credentials, its bot, its scopes, the token endpoint, the start of a
consent, and the clock. One line each: ok, warn or fail, what was found and what
to do. Exit status 1 if one fails.

It changes nothing, asks no user and sends no card, so whether a card arrives it
can't tell. The token endpoint is asked with a refresh token that is made up. A
SQLite database that a running instance has open is left to that instance, whose
admin listener is asked (LARKSIDE_ADMIN_LISTEN, or --admin).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return operate.UsageError(fmt.Sprintf("output format %q: want text or json", format))
			}
			d := &doctor{in: in, where: where}
			if format == "text" {
				d.out = in.Out
			}
			d.examine(c.Context())
			if format == "json" {
				if err := d.printJSON(in.Out); err != nil {
					return err
				}
			}
			if d.failed() {
				return operate.ErrLogged // each failure has its line
			}
			return nil
		},
	}
	operate.AdminFlag(c, &where)
	c.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	return c
}

// doctor looks at one configuration.
type doctor struct {
	in      operate.Invocation
	where   string    // --admin
	out     io.Writer // gets each result at once; nil: none
	results []checkResult

	cfg     *settings.Settings
	secrets *settings.Secrets
	clients map[string]*lark.Client
	clock   *dateRecorder
}

func (d *doctor) add(r checkResult) {
	d.results = append(d.results, r)
	if d.out == nil {
		return
	}
	line := fmt.Sprintf("%-4s  %s: %s", r.Status, r.Name, r.Detail)
	if r.Do != "" {
		line += "\n      → " + r.Do
	}
	fmt.Fprintln(d.out, line)
}

func (d *doctor) ok(name, detail string)       { d.add(checkResult{name, checkOK, detail, ""}) }
func (d *doctor) warn(name, detail, do string) { d.add(checkResult{name, checkWarn, detail, do}) }
func (d *doctor) fail(name, detail, do string) { d.add(checkResult{name, checkFail, detail, do}) }

func (d *doctor) failed() bool {
	return slices.ContainsFunc(d.results, func(r checkResult) bool { return r.Status == checkFail })
}

func (d *doctor) printJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(map[string]any{"ok": !d.failed(), "checks": d.results})
}

func (d *doctor) examine(ctx context.Context) {
	if !d.settings(ctx) {
		return
	}
	d.within(ctx, d.database)
	for _, id := range d.cfg.AppIDs() {
		client := d.clients[id]
		if d.within(ctx, func(ctx context.Context) bool { return d.credentials(ctx, id, client) }) {
			d.within(ctx, func(ctx context.Context) bool { return d.bot(ctx, id, client) })
			d.within(ctx, func(ctx context.Context) bool { return d.app(ctx, id, client) })
		}
		d.within(ctx, func(ctx context.Context) bool { return d.refresh(ctx, id, client) })
		if !d.cfg.Redirects() {
			d.within(ctx, func(ctx context.Context) bool { return d.device(ctx, id, client) })
		}
	}
	d.skew()
}

func (d *doctor) within(ctx context.Context, check func(context.Context) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return check(ctx)
}

// settings reads them and builds what the other checks need; false: there is
// nothing more to check.
func (d *doctor) settings(ctx context.Context) bool {
	const do = `"larkside env" prints every setting`
	var err error
	if d.cfg, err = settings.Parse(d.in.Environ); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			d.fail("settings", line, do)
		}
		return false
	}
	log := slog.New(slog.DiscardHandler)
	if d.secrets, err = settings.NewSecrets(ctx, d.cfg, log); err != nil {
		d.fail("settings", err.Error(), do)
		return false
	}
	transport, err := newTransport(d.cfg)
	if err != nil {
		d.fail("settings", err.Error(), do)
		return false
	}
	d.clock = &dateRecorder{base: transport}
	if d.clients, err = newClientsOver(d.clock, d.cfg, d.secrets, log); err != nil {
		d.fail("settings", err.Error(), do)
		return false
	}
	for _, w := range d.cfg.Warnings {
		d.warn("settings", w, "")
	}
	d.ok("settings", "they are valid together")
	return true
}

func (d *doctor) database(ctx context.Context) bool {
	kind := "SQLite"
	if d.cfg.Postgres() {
		kind = "PostgreSQL"
	}
	ring, err := d.ring()
	if err != nil {
		d.fail("keys", err.Error(), `"larkside keys new" prints a key of the right form`)
		return false
	}
	e, err := session.Examine(ctx, session.Config{URL: d.secrets.DatabaseURL.Get(), Keys: ring})
	switch {
	case errors.Is(err, session.ErrInUse):
		ready, says := operate.AskReady(ctx, d.in, d.where)
		if ready {
			d.ok("database", kind+", open in a running instance, which was asked instead: "+says)
		} else {
			d.warn("database", kind+", open in another process and not looked at: "+says,
				"start this beside the instance with its settings, or name its admin listener with --admin")
		}
	case err != nil:
		d.fail("database", fmt.Sprintf("%s: %v", kind, err), "check LARKSIDE_DATABASE_URL, and that the server runs and lets this host in")
	case e.Absent:
		d.ok("database", kind+", empty; the first start makes its tables")
	case e.Schema > e.Knows:
		d.fail("database", fmt.Sprintf("%s with schema version %d; this program knows %d", kind, e.Schema, e.Knows), "run the version of Larkside that raised it, or a newer one")
	case e.Schema < e.Knows:
		d.ok("database", fmt.Sprintf("%s with schema version %d; the next start raises it to %d", kind, e.Schema, e.Knows))
	default:
		d.ok("database", fmt.Sprintf("%s with schema version %d", kind, e.Schema))
	}
	if err == nil {
		d.keys(e, ring)
	}
	return err == nil
}

// ring is nil where SQLite has its own key file.
func (d *doctor) ring() (*session.Keyring, error) {
	keys := d.secrets.EncryptionKeys.Get()
	if keys.Empty() {
		return nil, nil
	}
	return session.ParseKeyring(keys)
}

func (d *doctor) keys(e *session.Examination, ring *session.Keyring) {
	first := "the key of SQLite's own key file"
	if ring != nil {
		first = ring.IDs()[0]
	}
	switch {
	case e.KeysErr != nil:
		d.fail("keys", e.KeysErr.Error(), "put the missing key back into LARKSIDE_ENCRYPTION_KEYS (behind the first); without it those sessions can't be read")
	case len(e.Keys) == 0:
		d.ok("keys", "nothing is sealed yet; "+first+" will seal")
	case ring != nil && (len(e.Keys) > 1 || e.Keys[0] != first):
		d.warn("keys", fmt.Sprintf("%s seals; sessions are stored under %s", first, strings.Join(e.Keys, ", ")), `"larkside keys rotate" seals everything under the first key`)
	default:
		d.ok("keys", "everything in the database opens with the keys that are configured: "+strings.Join(e.Keys, ", "))
	}
}

func (d *doctor) credentials(ctx context.Context, id string, client *lark.Client) bool {
	name := "credentials of " + id
	if _, err := client.TenantAccessToken(ctx); err != nil {
		d.larkFails(name, err)
		return false
	}
	d.ok(name, "Lark accepts the app's id and secret")
	return true
}

func (d *doctor) bot(ctx context.Context, id string, client *lark.Client) bool {
	name := "card of " + id
	if !bool(d.cfg.Card) {
		d.ok(name, "off (LARKSIDE_CARD): users get the link from the app")
		return true
	}
	const do = "in the developer console add the Bot feature, publish a version, and have the tenant's administrator approve it"
	bot, err := client.Bot(ctx)
	var e *lark.Error
	switch {
	case errors.As(err, &e) && e.Class == lark.Retry:
		d.larkFails(name, err)
	case err != nil:
		d.fail(name, "the app has no bot to send cards with: "+err.Error(), do)
	case bot.Status != botActive:
		d.fail(name, fmt.Sprintf("the bot is not active (activate_status %d)", bot.Status), do)
	default:
		d.ok(name, fmt.Sprintf("the bot %q is active; whether its card reaches a user shows only when one is sent (\"larkside consent send USER\")", bot.Name))
		return true
	}
	return false
}

// botActive is lark.Bot.Status of one that works.
const botActive = 2

// app compares what the console has with what will be asked for. Few apps may
// read that about themselves, so not being able to is no failure.
func (d *doctor) app(ctx context.Context, id string, client *lark.Client) bool {
	name := "scopes of " + id
	info, err := client.App(ctx)
	if err != nil {
		d.warn(name, "the app may not read its own configuration: "+err.Error(),
			"to have this checked, enable application:application:self_manage; else see in the developer console that each of LARKSIDE_SCOPES is enabled")
		return false
	}
	var missing []string
	for _, scope := range d.cfg.Scopes {
		if !info.ForUsers(scope) {
			missing = append(missing, scope)
		}
	}
	if len(missing) > 0 {
		d.fail(name, "not enabled on the app: "+strings.Join(missing, " "), switches[20027])
	} else {
		d.ok(name, fmt.Sprintf("enabled on the app: every one of LARKSIDE_SCOPES (%d, with offline_access)", len(d.cfg.Scopes)))
	}
	if d.cfg.Redirects() {
		d.redirect(id, info)
	}
	return len(missing) == 0
}

func (d *doctor) redirect(id string, info lark.AppInfo) {
	name, callback := "redirect URL of "+id, string(d.cfg.PublicURL)+"/consent/callback"
	if slices.Contains(info.RedirectURLs, callback) {
		d.ok(name, callback+" is registered")
		return
	}
	d.fail(name, callback+" is not registered", switches[20029])
}

// refresh asks the token endpoint to exchange a refresh token that was never
// issued: it is refused, for that reason and no other.
func (d *doctor) refresh(ctx context.Context, id string, client *lark.Client) bool {
	name := "token endpoint for " + id
	_, err := client.Refresh(ctx, "", session.NewSecret("larkside-doctor"))
	var e *lark.Error
	if errors.As(err, &e) && e.Class == lark.Reauthorize {
		d.ok(name, string(d.cfg.TokenURL)+" answers and knows the app; whether Lark's switch \"refresh user_access_token\" is on shows at the first refresh at the latest (20074)")
		return true
	}
	if err == nil {
		err = errors.New("it takes a refresh token that was made up")
	}
	d.larkFails(name, err)
	return false
}

func (d *doctor) device(ctx context.Context, id string, client *lark.Client) bool {
	name := "consent for " + id
	started, err := client.StartDevice(ctx, d.cfg.Scopes)
	if err != nil {
		d.larkFails(name, err)
		return false
	}
	d.ok(name, fmt.Sprintf("Lark starts a device flow, with %s to finish it; nobody was asked", started.ExpiresIn))
	return true
}

func (d *doctor) skew() {
	skew, seen := d.clock.last()
	const do = "set this host's clock by NTP"
	switch off := skew.Abs().Round(time.Second); {
	case !seen:
		d.warn("clock", "Lark did not answer with a date to compare with", "")
	case off > skewFail:
		d.fail("clock", fmt.Sprintf("%s away from Lark's", off), do+": events from Lark are refused, and tokens end earlier or later than they seem")
	case off > skewWarn:
		d.warn("clock", fmt.Sprintf("%s away from Lark's", off), do)
	default:
		d.ok("clock", fmt.Sprintf("within %s of Lark's", skewWarn))
	}
}

// larkFails adds a failure at Lark with the switch that mends it.
func (d *doctor) larkFails(name string, err error) {
	do := "look the code up in Lark's documentation; its support asks for the log id"
	var e *lark.Error
	if errors.As(err, &e) {
		if s, ok := switches[e.Code]; ok {
			do = s
		} else if e.Class == lark.Retry {
			do = "Lark can't be reached or fails for the moment: check LARKSIDE_BRAND, LARKSIDE_OPEN_URL, LARKSIDE_ACCOUNTS_URL and LARKSIDE_TOKEN_URL, the network, LARKSIDE_UPSTREAM_PROXY and LARKSIDE_UPSTREAM_CA_FILE"
		}
	}
	d.fail(name, err.Error(), do)
}

// What the codes of Lark's class "misconfigured" mean for who can mend it.
// Source: Lark "get user_access_token", "refresh user_access_token", "generic
// error codes".
const (
	fixBug     = "this is a mistake of Larkside's: please report it with the log id"
	fixSecret  = "the secret is not that app's: copy App Secret from Credentials & Basic Info in the developer console into LARKSIDE_APP_SECRET (or the entry in LARKSIDE_APPS)"
	fixID      = "there is no such app at this brand: check LARKSIDE_APP_ID and LARKSIDE_BRAND (feishu and lark are separate)"
	fixEnabled = "the app is not enabled: publish a version in the developer console and have the tenant's administrator enable it"
	fixInstall = "the app is not installed in the tenant: publish a version and have the tenant's administrator approve it, with its availability"
)

var switches = map[int]string{
	10003: fixID, 20048: fixID,
	10014: fixEnabled, 20069: fixEnabled, 99991662: fixEnabled,
	10015: fixSecret, 20002: fixSecret,
	20009: fixInstall, 99991673: fixInstall,
	20001: fixBug, 20036: fixBug, 20063: fixBug, 20067: fixBug, 20068: fixBug, 20070: fixBug,
	20024: "what is stored belongs to another app: check that LARKSIDE_APP_ID was not changed under this database",
	20027: "enable them under Permissions & Scopes in the developer console and publish a version, or take them out of LARKSIDE_SCOPES",
	20029: "add LARKSIDE_PUBLIC_URL followed by /consent/callback under Security Settings, Redirect URLs, in the developer console, exactly so",
	20043: "write LARKSIDE_SCOPES as Lark's console shows the scopes, separated by spaces or commas",
	20071: "LARKSIDE_PUBLIC_URL was changed while a consent was open: have the user start again",
	20074: "switch \"refresh user_access_token\" on under Security Settings in the developer console, and publish a version",

	99991400: "Lark is asked too often for the moment: run this again, and look at LARKSIDE_REFRESH_RATE",
	99991401: "this host's address is not on the app's list: add it under Security Settings, IP allow list, in the developer console, or empty the list",
	99991403: "the tenant's monthly quota of API calls is used up: see the tenant's plan",
	99991672: "enable the scope that the message names under Permissions & Scopes in the developer console, and publish a version",
}
