package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/seal"
	"larkside/session/store"
)

const (
	// checkTimeout bounds one check.
	checkTimeout = 20 * time.Second
	// skewWarn and skewFail are how far this clock may be from Lark's.
	skewWarn, skewFail = 10 * time.Second, 5 * time.Minute
	// botActive is lark.Bot.Status of one that works.
	botActive = 2
	// offlineAccess is the scope without which Lark issues no refresh token.
	offlineAccess = "offline_access"
)

// sendScopes are alternatives: each of them lets the bot send a card.
// Source: Lark "send message".
var sendScopes = []string{"im:message", "im:message:send_as_bot", "im:message:send"}

// Examine checks c and adds what it finds to r.
func Examine(ctx context.Context, c Config, r *Report) error {
	x := &examination{Config: c, r: r, told: map[string]bool{}}
	if err := x.clients(); err != nil {
		return err
	}
	x.database(ctx)
	if x.UserJWTIssuer != "" {
		x.issuer(ctx)
	}
	for _, a := range x.apps {
		x.examineApp(ctx, a)
	}
	x.skew()
	return nil
}

// examination is one run of [Examine].
type examination struct {
	Config
	r    *Report
	apps []app
	// clocks watch the answers, one for each app.
	clocks []*dateRecorder
	// told are the causes that have a line already.
	told map[string]bool
}

// app is one of the configured ones.
type app struct {
	lark.Config
	client *lark.Client
}

func (x *examination) clients() error {
	for _, c := range x.Apps {
		clock := &dateRecorder{base: c.Transport}
		x.clocks = append(x.clocks, clock)
		c.Transport = clock
		client, err := lark.New(c)
		if err != nil {
			return err
		}
		x.apps = append(x.apps, app{c, client})
	}
	return nil
}

// examineApp goes from what everything depends on to what depends on it.
func (x *examination) examineApp(ctx context.Context, a app) {
	if !x.credentials(ctx, a) {
		return
	}
	canPoll := x.tokenEndpoint(ctx, a)
	if !x.console(ctx, a) {
		return
	}
	x.card(ctx, a)
	if x.RedirectURL == "" {
		x.device(ctx, a, canPoll)
	}
}

func (x *examination) database(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	kind := "PostgreSQL"
	if strings.HasPrefix(x.DatabaseURL.Expose(), "sqlite:") {
		kind = "SQLite"
	}
	ring, err := x.ring()
	if err != nil {
		x.r.fail("keys", err.Error(), `"larkside keys new" prints a key of the right form`)
		return
	}
	e, err := store.Examine(ctx, store.Config{URL: x.DatabaseURL, Keys: ring})
	switch {
	case errors.Is(err, store.ErrInUse):
		ready, says := x.Instance(ctx)
		if ready {
			x.r.ok("database", kind+", open in a running instance, which was asked instead: "+says)
		} else {
			x.r.warn("database", kind+", open in another process and not looked at: "+says,
				"start this beside the instance with its settings, or name its admin listener with --admin")
		}
	case err != nil:
		x.r.fail("database", fmt.Sprintf("%s: %v", kind, err), "check LARKSIDE_DATABASE_URL, and that the server runs and lets this host in")
	case e.NoSessions && x.ExpectSessions:
		x.r.fail("database", kind+" without a session, and LARKSIDE_EXPECT_SESSIONS=true says that there are some",
			"check that LARKSIDE_DATABASE_URL leads to the right database; for a new one leave LARKSIDE_EXPECT_SESSIONS out until the first user has consented")
	case e.Absent:
		x.r.ok("database", kind+", empty; the first start makes its tables")
	case e.Oldest > e.Knows:
		x.r.fail("database", fmt.Sprintf("%s with schema version %d, which works with programs that know version %d or newer; this one knows %d", kind, e.Schema, e.Oldest, e.Knows), "run the version of Larkside that raised it, or a newer one")
	case e.Schema > e.Knows:
		x.r.ok("database", fmt.Sprintf("%s with schema version %d; this program knows %d and works with it", kind, e.Schema, e.Knows))
	case e.Schema < e.Knows:
		x.r.ok("database", fmt.Sprintf("%s with schema version %d; the next start raises it to %d", kind, e.Schema, e.Knows))
	default:
		x.r.ok("database", fmt.Sprintf("%s with schema version %d", kind, e.Schema))
	}
	if err != nil {
		return
	}
	x.keys(e, ring)
	if e.NotRenewable > 0 {
		x.r.warn("sessions", fmt.Sprintf("%d of them have no refresh token: each ends with its access token, after two hours, and its user is asked again", e.NotRenewable), fixOffline)
	}
}

func (x *examination) issuer(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	n, err := x.IssuerKeys(ctx)
	if err != nil {
		x.r.fail("issuer", fmt.Sprintf("%s gives no keys: %v", x.UserJWTIssuer, err),
			"check LARKSIDE_USER_JWT_ISSUER against iss of a token, byte by byte, and that this host reaches it (LARKSIDE_UPSTREAM_CA_FILE and LARKSIDE_UPSTREAM_PROXY hold for it)")
		return
	}
	x.r.ok("issuer", fmt.Sprintf("%s answers; keys that prove users: %d", x.UserJWTIssuer, n))
}

// ring is nil where SQLite has its own key file.
func (x *examination) ring() (*seal.Keyring, error) {
	if x.EncryptionKeys.Empty() {
		return nil, nil
	}
	return seal.ParseKeyring(x.EncryptionKeys)
}

func (x *examination) keys(e *store.Examination, ring *seal.Keyring) {
	first := "the key of SQLite's own key file"
	if ring != nil {
		first = ring.IDs()[0]
	}
	switch {
	case e.KeysErr != nil:
		x.r.fail("keys", e.KeysErr.Error(), "put the missing key back into LARKSIDE_ENCRYPTION_KEYS (behind the first); without it those sessions can't be read")
	case e.KeyFileOpen != "":
		x.r.warn("keys", "every user of this machine may read the key file "+e.KeyFileOpen, "chmod 600 "+e.KeyFileOpen)
	case len(e.Keys) == 0:
		x.r.ok("keys", "nothing is sealed yet; "+first+" will seal")
	case ring != nil && (len(e.Keys) > 1 || e.Keys[0] != first):
		x.r.warn("keys", fmt.Sprintf("%s seals; sessions are stored under %s", first, strings.Join(e.Keys, ", ")), `"larkside keys rotate" seals everything under the first key`)
	default:
		x.r.ok("keys", "everything in the database opens with the keys that are configured: "+strings.Join(e.Keys, ", "))
	}
}

func (x *examination) credentials(ctx context.Context, a app) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	name := "credentials of " + a.AppID
	if _, err := a.client.TenantAccessToken(ctx); err != nil {
		x.larkFails(name, a, openHost(a), err)
		return false
	}
	x.r.ok(name, "Lark accepts the app's id and secret")
	return true
}

// tokenEndpoint asks for the exchange of a refresh token that was never issued:
// it is refused, for that reason and no other.
func (x *examination) tokenEndpoint(ctx context.Context, a app) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	name := "token endpoint for " + a.AppID
	_, err := a.client.Refresh(ctx, "", session.NewSecret("larkside-doctor"))
	var e *lark.Error
	if errors.As(err, &e) && e.Class == lark.Reauthorize {
		x.r.ok(name, a.TokenURL+" answers and knows the app; whether Lark's switch \"refresh user_access_token\" is on shows at the first refresh at the latest (20074)")
		return true
	}
	if err == nil {
		x.r.fail(name, a.TokenURL+" takes a refresh token that was made up, so it is not Lark's", "check LARKSIDE_TOKEN_URL")
		return false
	}
	x.larkFails(name, a, tokenURL(a), err)
	return false
}

func (x *examination) card(ctx context.Context, a app) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	const do = "in the developer console add the Bot feature, publish a version, and have the tenant's administrator approve it"
	name := "card of " + a.AppID
	if !x.Card {
		x.r.ok(name, "off (LARKSIDE_CARD): users get the link from the app")
		return
	}
	bot, err := a.client.Bot(ctx)
	var e *lark.Error
	switch {
	case errors.As(err, &e) && e.Code == lark.NoBot:
		x.r.fail(name, "the app has no bot to send cards with: "+err.Error(), do)
	case err != nil && !spoke(err):
		x.notChecked(name, a, openHost(a), err)
	case err != nil:
		x.larkFails(name, a, openHost(a), err)
	case bot.Status != botActive:
		x.r.fail(name, fmt.Sprintf("the bot is not active (activate_status %d)", bot.Status), do)
	default:
		x.r.ok(name, fmt.Sprintf("the bot %q is active; whether its card reaches a user shows only when one is sent (\"larkside consent send USER\")", bot.Name))
	}
}

// console compares what the developer console has with what Larkside needs. Few
// apps may read that about themselves, so not being able to is no failure. It
// returns false if nothing in the console counts yet.
func (x *examination) console(ctx context.Context, a app) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	name := "scopes of " + a.AppID
	info, err := a.client.App(ctx)
	switch {
	case mayNotRead(err):
		x.r.warn(name, "the app may not read its own configuration: "+err.Error(),
			"to have this checked, enable application:application:self_manage; else see in the developer console that each of LARKSIDE_SCOPES is enabled for users")
		return true
	case err != nil:
		x.notChecked(name, a, openHost(a), err)
		return true
	case info.Unpublished:
		x.r.fail("version of "+a.AppID, "no version of the app is published, so neither its bot nor its scopes count yet",
			"publish a version in the developer console and have the tenant's administrator approve it")
		return false
	}
	x.scopes(name, info)
	if x.RedirectURL != "" {
		x.redirect(a, info)
	}
	return true
}

// mayNotRead reports whether Lark keeps the app's configuration from it.
// Source: Lark "get application information", its codes 2105xx.
func mayNotRead(err error) bool {
	var e *lark.Error
	return errors.As(err, &e) && (e.Code == 99991672 || e.Code/100 == 2105)
}

// scopes finds those that a user can't grant, and the one that the bot lacks.
func (x *examination) scopes(name string, info lark.AppInfo) {
	var missing, tenantOnly []string
	offline := true
	for _, scope := range x.Scopes {
		switch {
		case info.ForUsers(scope):
		case scope == offlineAccess:
			offline = false
		case info.ForTenant(scope):
			tenantOnly = append(tenantOnly, scope)
		default:
			missing = append(missing, scope)
		}
	}
	if len(missing) > 0 {
		x.r.fail(name, "not enabled on the app: "+strings.Join(missing, " "), remedies[20027])
	}
	if len(tenantOnly) > 0 {
		x.r.fail(name, "enabled for the app itself and not for users, who get error 20027: "+strings.Join(tenantOnly, " "),
			"enable them as user token scopes too, under Permissions & Scopes in the developer console, and publish a version")
	}
	if !offline {
		x.r.fail(name, "offline_access is not enabled for users: Lark issues no refresh token, and each user is asked again after two hours", fixOffline)
	}
	maySend := !x.Card || slices.ContainsFunc(sendScopes, info.ForTenant)
	if !maySend {
		x.r.fail(name, "the bot may send no messages: none of "+strings.Join(sendScopes, ", ")+" is enabled for the app itself",
			"enable im:message:send_as_bot as a tenant token scope under Permissions & Scopes in the developer console, and publish a version")
	}
	if offline && maySend && len(missing)+len(tenantOnly) == 0 {
		x.r.ok(name, fmt.Sprintf("enabled for users: every one of LARKSIDE_SCOPES (%d, with offline_access)", len(x.Scopes)))
	}
}

func (x *examination) redirect(a app, info lark.AppInfo) {
	name := "redirect URL of " + a.AppID
	if slices.Contains(info.RedirectURLs, x.RedirectURL) {
		x.r.ok(name, x.RedirectURL+" is registered")
		return
	}
	x.r.fail(name, x.RedirectURL+" is not registered", remedies[20029])
}

// device starts a device flow and polls it once: nobody was asked, so it must be
// pending. Without a token endpoint that works there is nothing to poll.
func (x *examination) device(ctx context.Context, a app, poll bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	name := "consent for " + a.AppID
	started, err := a.client.StartDevice(ctx, x.Scopes)
	var e *lark.Error
	switch {
	case errors.As(err, &e) && e.HTTPStatus == http.StatusForbidden && !spoke(err):
		x.r.fail(name, "could not be checked: "+err.Error(), "a firewall in front of Lark refuses some long lists of scopes: try with fewer LARKSIDE_SCOPES, or with the redirect flow (LARKSIDE_PUBLIC_URL)")
		return
	case err != nil:
		x.larkFails(name, a, accountsHost(a), err)
		return
	case !poll:
		x.r.ok(name, fmt.Sprintf("Lark starts a device flow, with %s to finish it; it was not polled, since the token endpoint fails", started.ExpiresIn))
		return
	}
	_, err = a.client.PollDevice(ctx, started.DeviceCode)
	refused := err
	if spoke(err) && !pending(err) && !transient(err) {
		// Where one version of the token endpoint knows no device flows, the
		// client turns to the other one.
		_, err = a.client.PollDevice(ctx, started.DeviceCode)
	}
	switch {
	case err == nil:
		x.r.fail(name, "a device flow that nobody was shown is answered with a token", "check LARKSIDE_TOKEN_URL: whatever answers there must not be trusted")
	case pending(err) && !pending(refused):
		x.r.warn(name, fmt.Sprintf("Lark starts a device flow, and %s does not know it: %v; its other version does, and Larkside turns to that by itself", a.TokenURL, refused),
			"leave LARKSIDE_TOKEN_URL out")
	case pending(err):
		x.r.ok(name, fmt.Sprintf("Lark starts a device flow, with %s to finish it, and it waits for the user; nobody was asked", started.ExpiresIn))
	default:
		x.larkFails(name, a, tokenURL(a), err)
	}
}

// pending reports whether a device flow waits for its user.
func pending(err error) bool {
	return errors.Is(err, lark.ErrAuthorizationPending) || errors.Is(err, lark.ErrSlowDown)
}

func (x *examination) skew() {
	const do = "set this host's clock by NTP"
	var skew time.Duration
	answered, dated := false, false
	for _, clock := range x.clocks {
		off, there := clock.last()
		answered = answered || clock.answered()
		if there {
			skew, dated = off, true
		}
	}
	switch off := skew.Abs().Round(time.Second); {
	case !answered: // which has its line
	case !dated:
		x.r.warn("clock", "Lark did not answer with a date to compare with", "")
	case off > skewFail:
		x.r.fail("clock", fmt.Sprintf("%s away from Lark's", off), do+": events from Lark are refused, and tokens end earlier or later than they seem")
	case off > skewWarn:
		x.r.warn("clock", fmt.Sprintf("%s away from Lark's", off), do)
	default:
		x.r.ok("clock", fmt.Sprintf("within %s of Lark's", skewWarn))
	}
}
