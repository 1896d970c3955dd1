package larktest

import (
	"context"
	"crypto/rand"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Config says what kind of Lark to be. The zero value is a strict one with one
// app ([AppID], [AppSecret]), three users ([Alice], [Bob], [Carol]) and the
// documented lifetimes and limits.
type Config struct {
	// URL is the origin that links made by the emulator start with, without a
	// trailing slash. Empty: taken from each request's Host. [Start] sets it.
	URL string
	// Apps and Users exist from the start; nil means the defaults above.
	Apps  []App
	Users []User
	// AdHocUsers creates a user for any ou_… that is named and unknown, for
	// demos and load. The user is available to the app that named it.
	AdHocUsers bool
	// Now is the clock of every lifetime and limit; nil means time.Now.
	Now func() time.Time

	// AccessLife (2 h), RefreshLife (7 days), GrantLife (365 days), CodeLife
	// (5 min), TenantLife (2 h) and DeviceLife (240 s) replace the documented
	// lifetimes. RandomLives makes each access token live between half of
	// AccessLife and all of it, and device links that were left at 240 s up to
	// 600 s.
	AccessLife, RefreshLife, GrantLife, CodeLife, TenantLife, DeviceLife time.Duration
	RandomLives                                                          bool
	// DeviceInterval is the polling interval of the device flow, 5 s. Less
	// than a second is told as 0, which clients may take for the default.
	DeviceInterval time.Duration

	// Switches are the answers that differ by brand or that no source settles.
	// They can be changed later, unlike everything else here.
	Switches Switches
	// TokenSize is the length of issued user tokens in bytes, 1536 by default;
	// less than 256 is raised to that.
	TokenSize int

	// TokenPerSecond (50) and TokenPerMinute (1000) limit the token endpoint,
	// per app; negative means no limit.
	TokenPerSecond, TokenPerMinute int
	// RouteLimits applies the documented limit of each API route. Off by
	// default: 10 calls a second over all users would govern every other test.
	RouteLimits bool

	// Routes are API routes beside the built-in ones; see [Route].
	Routes []Route
	// AllowUnknown keeps [Start] from failing the test when a path is asked
	// for that the emulator doesn't know. It is answered 404 either way.
	AllowUnknown bool
	// KeepCalls bounds the calls, messages and violations that are remembered,
	// the oldest going first; 20,000 of each by default. KeepTokens bounds the tokens:
	// beyond it those that expired over a day ago are forgotten; 1,000,000.
	KeepCalls, KeepTokens int
	// Log gets each violation and each fault that struck; nil: nothing.
	Log *slog.Logger
}

// The defaults of an empty [Config].
const (
	AppID     = "cli_a1b2c3d4e5f6larktest"
	AppSecret = "larktest-secret-of-the-default-app"
	Alice     = "ou_a11ce00000000000000000000000000a"
	Bob       = "ou_b0b0000000000000000000000000000b"
	Carol     = "ou_ca40100000000000000000000000000c"
)

// Platform is a running emulator. It is an http.Handler that serves the open
// host and the accounts host on one origin; [Platform.Transport] reaches it
// without a socket. All methods are safe for concurrent use.
type Platform struct {
	// URL is the origin it is served at: Config.URL, or the listener of
	// [Start]. Read only.
	URL string

	config    Config
	log       *slog.Logger
	secret    [32]byte // what token texts are derived from
	routes    []*route
	pages     http.Handler
	events    *http.Client
	templates *template.Template
	// unknown is told of each request for a path nobody serves.
	unknown func(method, path string)

	// mu guards everything below, including what the pointers lead to.
	mu        sync.Mutex
	switches  Switches
	apps      map[string]*App
	appOrder  []string
	users     []*User
	byOpenID  map[string]identity // open_id → who, in which app
	ledger    ledger
	grants    map[identity]*consented // what each user has granted to each app
	grantSeq  int
	tokenSeq  int
	tokens    map[string]*token
	tenant    map[string]*token // app id → the tenant token that is handed out
	codes     map[string]*code
	devices   map[string]*device // by device code
	chat      chat
	data      map[workspaceKey]*workspace
	limits    map[string]*window
	faults    []*Injection
	faultSeq  int
	clicks    map[string]*clickToken
	tickets   map[string]string // of long connections to come → app id
	longConns []*longConn
	changed   chan struct{} // closed and replaced when something happened
	closed    chan struct{}
	streams   map[string]chan struct{} // gates of the sse helper
}

// New returns a Platform. Close it to free requests that a fault holds.
func New(config Config) *Platform {
	config.defaults()
	p := &Platform{
		URL: config.URL, config: config, log: config.Log, switches: config.Switches,
		apps: map[string]*App{}, byOpenID: map[string]identity{},
		grants: map[identity]*consented{}, tokens: map[string]*token{}, tenant: map[string]*token{},
		codes: map[string]*code{}, devices: map[string]*device{}, chat: newChat(),
		data: map[workspaceKey]*workspace{}, limits: map[string]*window{}, clicks: map[string]*clickToken{}, tickets: map[string]string{},
		changed: make(chan struct{}), closed: make(chan struct{}), streams: map[string]chan struct{}{},
	}
	rand.Read(p.secret[:])
	p.ledger.keep = config.KeepCalls
	p.routes = routeTable(config.Routes)
	p.templates = newTemplates()
	p.pages = p.newPages()
	p.events = newEventClient()
	for _, app := range config.Apps {
		p.AddApp(app)
	}
	for _, user := range config.Users {
		p.AddUser(user)
	}
	return p
}

// defaultDeviceLife is the shortest that was seen of Lark's device links.
const defaultDeviceLife = 240 * time.Second

func (c *Config) defaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	setDuration(&c.AccessLife, 2*time.Hour)
	setDuration(&c.RefreshLife, 7*24*time.Hour)
	setDuration(&c.GrantLife, 365*24*time.Hour)
	setDuration(&c.CodeLife, 5*time.Minute)
	setDuration(&c.TenantLife, 2*time.Hour)
	setDuration(&c.DeviceLife, defaultDeviceLife)
	setDuration(&c.DeviceInterval, 5*time.Second)
	c.Switches = c.Switches.clone()
	c.Switches.defaults()
	setInt(&c.TokenSize, 1536)
	setInt(&c.TokenPerSecond, 50)
	setInt(&c.TokenPerMinute, 1000)
	setInt(&c.KeepCalls, 20_000)
	setInt(&c.KeepTokens, 1_000_000)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Apps == nil {
		c.Apps = []App{{ID: AppID, Secret: AppSecret, Name: "Larktest Demo"}}
	}
	if c.Users == nil {
		c.Users = defaultUsers()
	}
}

func setDuration(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}

func setInt(n *int, to int) {
	if *n == 0 {
		*n = to
	}
}

// Close releases every request that a fault holds. The Platform can still be
// asked for its ledger.
func (p *Platform) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	p.events.CloseIdleConnections()
}

func (p *Platform) now() time.Time { return p.config.Now() }

// touch tells [Platform.Wait] that something happened. It is called with mu
// held.
func (p *Platform) touch() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Wait returns nil once done reports true. It asks again whenever a call was
// answered, a token issued, a message sent or a consent decided; done may use
// every method of p. It returns the context's error when that ends first.
func (p *Platform) Wait(ctx context.Context, done func() bool) error {
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if done() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ServeHTTP answers as Lark would: an API route, a page, or the plain-text 404
// of the open host.
func (p *Platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	logID := p.newLogID()
	w.Header().Set("X-Tt-Logid", logID)
	if route, vars := p.match(r.Method, r.URL.EscapedPath()); route != nil {
		p.serveRoute(&exchange{w: w, r: r, route: route, vars: vars, logID: logID})
		return
	}
	p.pages.ServeHTTP(w, r)
}

func (p *Platform) notFound(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.ledger.addCall(Call{
		At: p.now(), Method: r.Method, Target: r.RequestURI, Path: r.URL.EscapedPath(),
		Endpoint: Unknown, Status: http.StatusNotFound, LogID: w.Header().Get("X-Tt-Logid"),
	})
	p.touch()
	p.mu.Unlock()
	if p.unknown != nil && !p.config.AllowUnknown {
		p.unknown(r.Method, r.URL.EscapedPath())
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusNotFound)
	w.Write([]byte("404 page not found"))
}

// newLogID has the shape of Lark's: a timestamp and hexadecimal digits.
func (p *Platform) newLogID() string {
	var b [9]byte
	rand.Read(b[:])
	return p.now().UTC().Format("20060102150405") + hexUpper(b[:])
}

// origin is the base of links for people.
func (p *Platform) origin(r *http.Request) string {
	if p.URL != "" {
		return p.URL
	}
	return "http://" + r.Host
}

// Errors that steering methods wrap.
var (
	ErrNoUser    = errors.New("no such user")
	ErrNoApp     = errors.New("no such app")
	ErrNoDevice  = errors.New("no such device or user code")
	ErrNoMessage = errors.New("no such message")
	ErrRefused   = errors.New("refused by the emulator")
)

func itoa(n int) string { return strconv.Itoa(n) }
