package consent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/singleflight"
	"larkside/session/store"
	"larkside/telemetry"
)

// Lark is what a consent needs of one app's client. [lark.Client] is one. Its
// methods say what each error means.
type Lark interface {
	StartDevice(ctx context.Context, scopes []string) (lark.DeviceAuthorization, error)
	PollDevice(ctx context.Context, deviceCode session.Secret) (lark.Token, error)
	Exchange(ctx context.Context, code session.Secret, redirectURI string, verifier session.Secret) (lark.Token, error)
	AuthorizeURL(redirectURI, state, challenge string, scopes []string) string
	UserInfo(ctx context.Context, accessToken session.Secret) (lark.UserInfo, error)
	Revoke(ctx context.Context, token session.Secret, hint string) error
	SendCard(ctx context.Context, openID, uuid string, card []byte) (messageID string, err error)
	UpdateCard(ctx context.Context, messageID string, card []byte) error
	App(ctx context.Context) (lark.AppInfo, error)
	Bot(ctx context.Context) (lark.Bot, error)
}

// Config is what a [Manager] needs.
type Config struct {
	// Sessions, Retention, Consents, Reminders, Events, Rates, Elections, Audit,
	// Changes and Defaults are those of one database; required.
	Sessions  *store.Sessions
	Retention *store.Retention
	Consents  *store.Consents
	Reminders *store.Reminders
	Events    *store.Events
	Rates     *store.Rates
	Elections *store.Elections
	Audit     *store.Audit
	Changes   *store.Changes
	Defaults  *store.Defaults
	// Apps has the client of each app, by the app's id (cli_…); required. It is
	// not changed after New.
	Apps map[string]Lark
	// Flow is how consents are obtained. Empty: the redirect flow if PublicURL
	// is set, else the device flow.
	Flow session.Flow
	// Scopes are asked for if a request names none. offline_access is always
	// added.
	Scopes []string
	// PublicURL is the URL under which browsers reach Handler, without a
	// trailing slash. The redirect flow needs it. Plain http is accepted on
	// loopback only.
	PublicURL string
	// ConsentTTL is how long a consent stays open. 0: ten minutes. In the
	// device flow Lark may make it shorter.
	ConsentTTL time.Duration
	// Rate is how many consents may be started for one user. Zero: 5 in a
	// minute.
	Rate session.Limit
	// CardOff: answer with the link and send no card.
	CardOff bool
	// CardTitle and CardMessage replace the built-in texts of the card that
	// asks, in all languages. At most 100 and 2,000 characters are shown.
	// Markdown in them is shown as plain text.
	CardTitle, CardMessage string
	// PrivacyURL is linked from the card that asks. It is http(s), or empty.
	PrivacyURL string
	// AppLink is the base URL of Lark's AppLinks, such as
	// https://applink.feishu.cn. With it the card's button opens the link
	// inside the client, where the right account is signed in. Empty: the
	// button opens it in the browser.
	AppLink string
	// ChatLink is the base URL of the AppLinks by which a consent page leads back
	// to the chat. Empty: no page does.
	ChatLink string
	// Buttons adds to the cards the buttons whose clicks reach
	// [Manager.HandleEvent].
	Buttons bool
	// EventKeys verify what Lark posts to /consent/events. Nil: that path is
	// 404. Events may still come over the long connection.
	EventKeys *lark.EventKeys
	// TokenRefused is called when Lark says that the access token of key at version,
	// and not its refresh token, is revoked, so that it can be replaced. Nil:
	// no callback. The next request finds out.
	TokenRefused func(ctx context.Context, key session.Key, version int64)
	// AwaitTurn waits until a call to an app's token endpoint may be made, and
	// returns an error if ctx ends before that, or if the database can't count
	// the call. It keeps all calls of all replicas under Lark's rate. Nil: calls
	// are made at once.
	AwaitTurn func(ctx context.Context, appID string, call session.TokenCall) error
	// Keep is how long a session that can't be used any more is kept. 0: for
	// ever.
	Keep time.Duration
	// Callers returns how many callers share what MaxPending, MaxStarting and
	// Lark's rates allow, so that each gets a share ([session.Share]). Nil: one.
	Callers func() int
	// MaxPending bounds the open consents of all users. 0: 10,000.
	MaxPending int
	// MaxStarting bounds how many consents this process starts at once. 0: 16.
	MaxStarting int
	// Users writes user ids to spans and logs.
	Users telemetry.Users
	// Now judges the life of tokens. Nil: time.Now. The database's clock judges
	// consents.
	Now func() time.Time
	// Log receives what an operator can act on. Nil: no log.
	Log *slog.Logger
}

const (
	// startLease is how long a replica has to start a consent before another
	// takes over; startTimeout is shorter, so that it has stopped by then.
	startLease   = 20 * time.Second
	startTimeout = 12 * time.Second
	// storeTimeout bounds a write that is made even if the caller's time is up.
	storeTimeout = 5 * time.Second
	// cutOffGrace is how long Shutdown waits for tasks that it has cut off.
	cutOffGrace = 2 * time.Second
)

// Manager obtains consents, and ends the sessions that they began. It is safe for
// concurrent use.
type Manager struct {
	sessions   *store.Sessions
	retention  *store.Retention
	consents   *store.Consents
	reminders  *store.Reminders
	events     *store.Events
	rates      *store.Rates
	elections  *store.Elections
	audit      *store.Audit
	changes    *store.Changes
	defaults   *store.Defaults
	apps       apps
	flow       session.Flow
	scopes     scopes
	publicURL  string
	cookie     cookieKind
	ttl        time.Duration
	rate       session.Limit
	cards      *cards
	cardOff    bool
	pages      *pages
	maxPending int
	slots      *slots
	callers    func() int
	// polls, quietPolls and cardTasks have one value for each task under way.
	polls        chan struct{}
	quietPolls   chan struct{}
	cardTasks    chan struct{}
	awaitTurn    func(ctx context.Context, appID string, call session.TokenCall) error
	eventKeys    *lark.EventKeys
	tokenRefused func(ctx context.Context, key session.Key, version int64)
	keep         time.Duration
	// retiring has an item while sessions that can't be used are looked after.
	// leaveUntil has, by app, until when its tokens are left alone; only that work
	// uses it.
	retiring     chan struct{}
	leaveUntil   map[string]time.Time
	users        telemetry.Users
	now          func() time.Time
	log          *slog.Logger
	complaints   *telemetry.Complaints
	asks         singleflight.Group[askKey, outcome]
	cardRefusals *lru.Cache[session.Key, cardRefusal]
	wakeUp       chan struct{}
	tracer       trace.Tracer
	stateCount   metric.Int64Counter
	cardCount    metric.Int64Counter
	eventCount   metric.Int64Counter
	took         metric.Float64Histogram

	// life ends when Shutdown cuts tasks off.
	life    context.Context
	endLife context.CancelFunc
	mu      sync.Mutex
	closing bool
	tasks   sync.WaitGroup
}

// New checks c and returns a Manager. It makes no connection.
func New(c Config) (*Manager, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	m := &Manager{
		sessions: c.Sessions, retention: c.Retention, keep: c.Keep, retiring: make(chan struct{}, 1), leaveUntil: make(map[string]time.Time), consents: c.Consents, reminders: c.Reminders, events: c.Events,
		rates: c.Rates, elections: c.Elections, audit: c.Audit, changes: c.Changes, defaults: c.Defaults, apps: newApps(c.Apps), flow: c.Flow,
		scopes: newScopes(c.Scopes...).with(offlineAccess), publicURL: c.PublicURL,
		ttl: orDefault(c.ConsentTTL, 10*time.Minute), rate: orDefault(c.Rate, session.Limit{N: 5, Period: time.Minute}),
		cardOff: c.CardOff, maxPending: orDefault(c.MaxPending, 10_000),
		slots: newSlots(orDefault(c.MaxStarting, 16)), callers: c.Callers,
		polls: make(chan struct{}, maxPolls), quietPolls: make(chan struct{}, maxQuietPolls),
		cardTasks: make(chan struct{}, maxTasks), awaitTurn: c.AwaitTurn,
		eventKeys: c.EventKeys, tokenRefused: c.TokenRefused,
		users: c.Users, now: c.Now, log: c.Log, wakeUp: make(chan struct{}, 1),
		tracer: otel.Tracer("larkside/session/consent"),
	}
	m.cards = newCards(c)
	m.cookie = cookieFor(c.PublicURL)
	if m.flow == "" {
		m.flow = session.DeviceFlow
		if c.PublicURL != "" {
			m.flow = session.RedirectFlow
		}
	}
	if m.tokenRefused == nil {
		m.tokenRefused = func(context.Context, session.Key, int64) {}
	}
	if m.awaitTurn == nil {
		m.awaitTurn = func(context.Context, string, session.TokenCall) error { return nil }
	}
	if m.callers == nil {
		m.callers = func() int { return 1 }
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.life, m.endLife = context.WithCancel(context.Background())
	var err error
	if m.cardRefusals, err = lru.New[session.Key, cardRefusal](10_000); err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	if m.pages, err = newPages(c); err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	m.complaints = telemetry.NewComplaints(m.log)
	return m, m.instruments()
}

func (c Config) check() error {
	if c.Sessions == nil || c.Retention == nil || c.Consents == nil || c.Reminders == nil || c.Events == nil || c.Rates == nil || c.Elections == nil || c.Audit == nil || c.Changes == nil || c.Defaults == nil {
		return errors.New("a part of the store is missing")
	}
	if len(c.Apps) == 0 {
		return errors.New("at least one app is required")
	}
	if c.Flow != "" && c.Flow != session.DeviceFlow && c.Flow != session.RedirectFlow {
		return fmt.Errorf("unknown flow %q", c.Flow)
	}
	if c.Flow == session.RedirectFlow && c.PublicURL == "" {
		return errors.New("the redirect flow needs a public URL")
	}
	if c.PublicURL != "" {
		if err := checkPublicURL(c.PublicURL); err != nil {
			return err
		}
	}
	if c.PrivacyURL != "" && !isWebURL(c.PrivacyURL) {
		return errors.New("the privacy URL is not an http(s) address")
	}
	return nil
}

func checkPublicURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || !isWebURL(s) || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(s, "/"):
		return errors.New("the public URL is not http(s)://host[/path] without a trailing slash")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("the public URL is plain http and not loopback: authorization codes and the browser's cookie would travel in clear")
	}
	return nil
}

func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func (m *Manager) instruments() error {
	meter := otel.Meter("larkside/session/consent")
	var err1, err2, err3, err4 error
	m.stateCount, err1 = meter.Int64Counter("larkside.consents",
		metric.WithUnit("{consent}"), metric.WithDescription("Consents by what became of them; pending: started."))
	m.cardCount, err2 = meter.Int64Counter("larkside.cards",
		metric.WithUnit("{card}"), metric.WithDescription("What callers were told about the auth card."))
	m.eventCount, err3 = meter.Int64Counter("larkside.events",
		metric.WithUnit("{event}"), metric.WithDescription("Lark's events by what became of them."))
	m.took, err4 = meter.Float64Histogram("larkside.consent.duration",
		metric.WithUnit("s"), metric.WithDescription("Time from the start of a consent to its end; of done ones, how long users take."),
		metric.WithExplicitBucketBoundaries(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	// Alerts look at how much these have grown. Prometheus takes no increase from
	// a series that begins above zero.
	ctx := context.Background()
	for _, flow := range []session.Flow{session.DeviceFlow, session.RedirectFlow} {
		for _, state := range []session.ConsentState{session.ConsentPending, session.ConsentFailed} {
			m.stateCount.Add(ctx, 0, consentLabels(flow, state))
		}
	}
	for _, card := range []session.CardResult{session.CardSent, session.CardFailed} {
		m.cardCount.Add(ctx, 0, metric.WithAttributes(telemetry.Result.String(string(card))))
	}
	return nil
}

func consentLabels(flow session.Flow, state session.ConsentState) metric.MeasurementOption {
	return metric.WithAttributes(telemetry.Flow.String(string(flow)), telemetry.State.String(string(state)))
}

// count counts that p has entered state. If that is final, it records how long
// p was open.
func (m *Manager) count(p *session.Consent, state session.ConsentState) {
	labels := consentLabels(p.Flow, state)
	m.stateCount.Add(context.Background(), 1, labels)
	if state != session.ConsentPending {
		m.took.Record(context.Background(), max(0, age(p)).Seconds(), labels)
	}
}

// errClosing: the process is going down.
var errClosing = errors.New("shutting down")

// task runs work on a goroutine. Its context has parent's values and ends when
// Shutdown cuts it off, not when the caller hangs up. Once Shutdown has begun,
// task runs nothing and returns false.
func (m *Manager) task(parent context.Context, work func(context.Context)) bool {
	if !m.enter() {
		return false
	}
	go func() {
		defer m.tasks.Done()
		ctx, cancel := m.detach(parent)
		defer cancel()
		work(ctx)
	}()
	return true
}

func (m *Manager) enter() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closing {
		m.tasks.Add(1)
	}
	return !m.closing
}

func (m *Manager) detach(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	stop := context.AfterFunc(m.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// Shutdown waits until consents that are being started and tokens that are
// being stored are done. When ctx ends it cuts them off. Nothing new begins
// after it. End Run first.
func (m *Manager) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	idle := make(chan struct{})
	go func() { m.tasks.Wait(); close(idle) }()
	defer m.endLife()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	m.endLife()
	select {
	case <-idle:
		return nil
	case <-time.After(cutOffGrace):
		return fmt.Errorf("stopping consents: %w", context.Cause(ctx))
	}
}

// logThrottled logs an error that may occur a thousand times, at a bounded
// rate.
func (m *Manager) logThrottled(ctx context.Context, msg string, key session.Key, err error) {
	m.complaints.Log(ctx, slog.LevelError, msg, key.AppID, "app_id", key.AppID, m.users.Log(key.OpenID), "error", err)
}
