package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/cmd/larkside/settings"
	"larkside/proxy"
	"larkside/proxy/admin"
	webconsole "larkside/proxy/console"
	"larkside/refresh"
	"larkside/session"
	"larkside/session/consent"
	"larkside/session/lark"
	"larkside/telemetry"
)

// run is the parts list: it listens, opens the database, builds the parts,
// serves until ctx ends, and stops in the reverse order.
//
// It listens before the database is there, so that a port in use is known at
// once and the liveness probe is answered while PostgreSQL is late; until the
// store is open, what needs it is answered with 503 store_unavailable.
func run(ctx context.Context, cfg *settings.Settings, log *slog.Logger) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	build := buildInfo()
	history, recent := telemetry.NewHistory(webconsole.Tracked()...), telemetry.NewRecent()
	log = slog.New(recent.Handler(log.Handler()))
	stopTelemetry, metrics, err := telemetry.Start(ctx, telemetry.Config{
		Version: build.Version, Revision: build.Revision, GoVersion: build.Go, History: history, Log: log,
	})
	if err != nil {
		return settings.Error{err.Error()}
	}
	defer flush(stopTelemetry)
	secrets, err := settings.NewSecrets(ctx, cfg, log)
	if err != nil {
		return err
	}
	clients, err := newClients(cfg, secrets, log)
	if err != nil {
		return err
	}
	// All replicas show a user alike, until the app secret changes.
	hashKey := secrets.App(cfg.AppID).Derive("users in logs and spans")
	users, err := telemetry.NewUsers(telemetry.UserMode(cfg.TraceUsers), hashKey)
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, log: log, secrets: secrets, clients: clients, users: users, metrics: metrics, history: history, quit: quit}
	s.console = s.newConsole(history, recent)
	return s.serve(ctx)
}

// flush gives what is not exported yet a last chance.
func flush(stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stop(ctx)
}

// newClients makes the client of each app. They share one pool of connections.
func newClients(cfg *settings.Settings, secrets *settings.Secrets, log *slog.Logger) (map[string]*lark.Client, error) {
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	return newClientsOver(transport, cfg, secrets, log)
}

func newClientsOver(transport http.RoundTripper, cfg *settings.Settings, secrets *settings.Secrets, log *slog.Logger) (map[string]*lark.Client, error) {
	clients := make(map[string]*lark.Client)
	var err error
	for _, id := range cfg.AppIDs() {
		clients[id], err = lark.New(lark.Config{
			AppID: id, Secret: func() session.Secret { return secrets.App(id) },
			OpenURL: string(cfg.OpenURL), AccountsURL: string(cfg.AccountsURL), TokenURL: string(cfg.TokenURL),
			Transport: transport, Log: log,
		})
		if err != nil {
			return nil, err
		}
	}
	return clients, nil
}

// newTransport goes to Lark as the settings say: extra roots, and a proxy only
// if one is named.
func newTransport(cfg *settings.Settings) (*http.Transport, error) {
	c, err := transportConfig(cfg)
	if err != nil {
		return nil, err
	}
	return proxy.NewTransport(c), nil
}

func transportConfig(cfg *settings.Settings) (proxy.TransportConfig, error) {
	c := proxy.TransportConfig{RootCAs: cfg.UpstreamCAs.Pool, ResponseHeaderTimeout: cfg.UpstreamTimeout}
	if !cfg.UpstreamProxy.Empty() {
		u, err := url.Parse(cfg.UpstreamProxy.Expose())
		if err != nil {
			return c, errors.New("the upstream proxy's URL does not parse") // the parser would quote its password
		}
		c.Proxy = u
	}
	return c, nil
}

// server is the running process.
type server struct {
	cfg     *settings.Settings
	log     *slog.Logger
	secrets *settings.Secrets
	clients map[string]*lark.Client
	users   telemetry.Users
	metrics http.Handler
	history *telemetry.History
	console *webconsole.Console
	quit    context.CancelFunc

	// parts is nil until the store is open.
	parts    atomic.Pointer[parts]
	draining atomic.Bool
	app      accepted
}

// parts is what needs the store.
type parts struct {
	store  *session.Store
	source *refresh.Source
	flow   *consent.Flow
}

func (s *server) serve(ctx context.Context) error {
	handler, err := s.newProxy()
	if err != nil {
		return err
	}
	s.app.next = handler
	// The consent pages of a store that is still to come are not found yet.
	pages, operators := &late{}, &late{}
	operators.set(s.newAdmin(nil))
	servers, err := s.listenAll(ctx, &s.app, operators, pages)
	if err != nil {
		return err
	}
	// Work in the background ends after the listeners do: a request that is
	// finishing may wait for it.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	work, background := errgroup.WithContext(background)
	work.Go(func() error { return s.secrets.Run(background) })
	work.Go(func() error { s.history.Run(background); return nil })

	failed := make(chan error, len(servers))
	for _, l := range servers {
		go func() { failed <- l.serve() }()
	}
	p, err := s.openParts(ctx)
	if err == nil && p != nil {
		s.parts.Store(p)
		s.followDatabase(p.store)
		s.secrets.AppSecret.OnChange(func(session.Secret) { p.source.Reconsider() })
		s.secrets.Apps.OnChange(func(settings.NamedSecrets) { p.source.Reconsider() })
		pages.set(p.flow.Handler())
		operators.set(s.newAdmin(p))
		work.Go(func() error { return p.source.Run(background) })
		work.Go(func() error { return p.forgetAudit(background, s.cfg.AuditRetention, s.log) })
		work.Go(func() error { return ignoreCanceled(p.flow.Run(background)) })
		if s.cfg.Events == "websocket" {
			s.listenForEvents(background, work, p.flow)
		}
		tuneCollector()
		s.log.Info("ready", "version", buildInfo().Version, "apps", len(s.clients))
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	return errors.Join(err, s.stop(servers, p, stopBackground, work))
}

// stop lets what was accepted finish, for SHUTDOWN_GRACE, in the reverse order
// of the start. The admin listener goes last, so that probes are answered to
// the end.
func (s *server) stop(servers []*listener, p *parts, stopBackground context.CancelFunc, work *errgroup.Group) error {
	s.draining.Store(true)
	s.log.Info("stopping", "grace", s.cfg.ShutdownGrace.String())
	grace, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownGrace)
	defer cancel()
	s.app.wait(grace)
	var g errgroup.Group
	for _, l := range servers {
		if l.name != "admin" {
			g.Go(func() error { return l.stop(grace) })
		}
	}
	err := g.Wait()
	stopBackground()
	err = errors.Join(err, work.Wait())
	if p != nil {
		err = errors.Join(err, p.stop(grace))
	}
	for _, l := range servers {
		if l.name == "admin" {
			err = errors.Join(err, l.stop(grace))
		}
	}
	s.log.Info("stopped")
	return err
}

// keepFor is how long at least what Lark may have issued is waited for: a call to
// the token endpoint, and the database.
const keepFor = 12 * time.Second

// stop lets the tokens that Lark issues now be stored before the process goes,
// also when streams have used up the grace period: else their users would have to
// authorize anew.
func (p *parts) stop(grace context.Context) error {
	until := time.Now().Add(keepFor)
	if d, ok := grace.Deadline(); ok && d.After(until) {
		until = d
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(grace), until)
	defer cancel()
	// The last renewal may end a session and so begin a consent.
	return errors.Join(p.source.Shutdown(ctx), p.flow.Shutdown(ctx), p.store.Close())
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// openParts opens the store, waiting for a database that is not there yet, and
// builds what needs it. Both results are nil when ctx ends first.
func (s *server) openParts(ctx context.Context) (*parts, error) {
	ring, err := s.keyring()
	if err != nil {
		return nil, err
	}
	store, err := s.openStore(ctx, session.Config{
		Keys: ring, MaxConns: s.cfg.DatabaseMaxConns,
		CacheSize: s.cfg.CacheSize, CacheTTL: s.cfg.CacheTTL, Log: s.log,
	})
	if store == nil {
		return nil, err
	}
	p, err := s.newParts(store)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return p, nil
}

// followDatabase lets new connections have the URL's present password.
func (s *server) followDatabase(store *session.Store) {
	reconnect := func(session.Secret) {
		if err := store.Reconnect(s.secrets.DatabaseURL.Get(), s.secrets.DatabaseListenURL.Get()); err != nil {
			s.log.Error("the changed database URL is not used; the one before stays", "error", err)
		}
	}
	s.secrets.DatabaseURL.OnChange(reconnect)
	s.secrets.DatabaseListenURL.OnChange(reconnect)
	if s.cfg.Postgres() {
		reconnect(session.Secret{}) // it may have changed since the store was opened
	}
}

// keyring is nil where SQLite is to use its key file.
func (s *server) keyring() (*session.Keyring, error) {
	if s.secrets.EncryptionKeys.Get().Empty() {
		return nil, nil
	}
	ring, err := session.ParseKeyring(s.secrets.EncryptionKeys.Get())
	if err != nil {
		return nil, err
	}
	s.secrets.EncryptionKeys.OnChange(func(keys session.Secret) {
		if err := ring.Set(keys); err != nil {
			s.log.Error("the new encryption keys are not valid; the ones before stay", "error", err)
		}
	})
	return ring, nil
}

func (s *server) openStore(ctx context.Context, c session.Config) (*session.Store, error) {
	for wait := 500 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		// The URL may be mended while it is waited for.
		c.URL, c.ListenURL = s.secrets.DatabaseURL.Get(), s.secrets.DatabaseListenURL.Get()
		store, err := session.Open(ctx, c)
		switch {
		case err == nil:
			return store, nil
		case ctx.Err() != nil:
			return nil, nil
		case errors.Is(err, session.ErrSetup), errors.Is(err, session.ErrSchemaNewer), errors.Is(err, session.ErrInUse):
			return nil, fmt.Errorf("%sDATABASE_URL: %w", settings.Prefix, err)
		}
		s.log.Warn("the database is not there yet; trying again", "retry_in", wait.String(), "error", err)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(wait):
		}
	}
}

func (s *server) newParts(store *session.Store) (*parts, error) {
	toRefresh := make(map[string]refresh.Lark)
	for id, client := range s.clients {
		toRefresh[id] = client
	}
	// The two know each other: a session that ends is a user to ask.
	var asking atomic.Pointer[consent.Flow]
	source, err := refresh.New(refresh.Config{
		Store: store, Apps: toRefresh, Threshold: s.cfg.RefreshThreshold, Rates: s.cfg.RefreshRate,
		Sweep: s.cfg.RefreshSweep, Sync: s.cfg.UserSync, Log: s.log,
		Ended: func(ctx context.Context, over *session.Session) {
			store.Audit(ctx, session.AuditEntry{Actor: session.ByLark, Action: session.AuditLost, Key: over.Key,
				Result: string(over.State), Detail: string(over.Reason)})
			if flow := asking.Load(); flow != nil {
				flow.Ended(ctx, over)
			}
		},
		Discard: func(ctx context.Context, key session.Key, access, refresh session.Secret) {
			if flow := asking.Load(); flow != nil {
				flow.Discard(ctx, key, access, refresh)
			}
		},
		Users: s.users,
	})
	if err != nil {
		return nil, err
	}
	toAsk := make(map[string]consent.Lark)
	for id, client := range s.clients {
		toAsk[id] = &watchedClient{client, func(err error) { source.Report(id, err) }}
	}
	flow, err := consent.New(consent.Config{
		Store: store, Apps: toAsk, Flow: s.flow(), Scopes: s.cfg.Scopes, PublicURL: string(s.cfg.PublicURL),
		ConsentTTL: s.cfg.ConsentTTL, Rate: s.cfg.ConsentRate[0], CardOff: !bool(s.cfg.Card),
		CardTitle: s.cfg.CardTitle, CardMessage: s.cfg.CardMessage, PrivacyURL: string(s.cfg.PrivacyURL),
		Events: s.cfg.Events != "off", EventKeys: s.eventKeys(),
		Refused: func(ctx context.Context, key session.Key, version int64) { source.Refused(ctx, key, version) },
		Users:   s.users, Log: s.log,
	})
	asking.Store(flow)
	return &parts{store, source, flow}, err
}

// listenForEvents keeps one long connection for each app.
func (s *server) listenForEvents(ctx context.Context, work *errgroup.Group, flow *consent.Flow) {
	for _, client := range s.clients {
		work.Go(func() error {
			return ignoreCanceled(client.Listen(ctx, func(ctx context.Context, e *lark.Event) (any, error) {
				return flow.HandleEvent(ctx, e)
			}))
		})
	}
}

// eventKeys is nil where Lark posts no events.
func (s *server) eventKeys() *lark.EventKeys {
	if s.cfg.Events != "http" {
		return nil
	}
	return &lark.EventKeys{Token: s.secrets.EventToken.Get, EncryptKey: s.secrets.EventEncryptKey.Get}
}

func (s *server) flow() session.Flow {
	if s.cfg.Redirects() {
		return session.RedirectFlow
	}
	return session.DeviceFlow
}

// callerLimits are the settings' in the proxy's type.
func callerLimits(all settings.CallerLimits) map[string]proxy.CallerLimit {
	limits := map[string]proxy.CallerLimit{}
	for name, limit := range all {
		limits[name] = proxy.CallerLimit(limit)
	}
	return limits
}

// watchedClient reports how Lark takes the app when a consent is started or
// finished: an app that is refused must not send cards.
type watchedClient struct {
	*lark.Client
	report func(error)
}

func (c *watchedClient) StartDevice(ctx context.Context, scopes []string) (lark.DeviceAuthorization, error) {
	d, err := c.Client.StartDevice(ctx, scopes)
	c.report(err)
	return d, err
}

func (c *watchedClient) Exchange(ctx context.Context, code session.Secret, redirectURI string, verifier session.Secret) (lark.Token, error) {
	t, err := c.Client.Exchange(ctx, code, redirectURI, verifier)
	c.report(err)
	return t, err
}

func (s *server) newProxy() (http.Handler, error) {
	upstream, err := url.Parse(string(s.cfg.OpenURL))
	if err != nil {
		return nil, fmt.Errorf("%sOPEN_URL: %w", settings.Prefix, err)
	}
	transport, err := transportConfig(s.cfg)
	if err != nil {
		return nil, err
	}
	doors, routes := &doors{s}, lark.NewRoutes()
	return proxy.New(proxy.Config{
		Upstream: upstream, Transport: proxy.NewUpstream(upstream, transport), UpstreamTimeout: s.cfg.UpstreamTimeout,
		Apps: s.cfg.AppIDs(), InjectPaths: s.cfg.InjectPaths, TenantPaths: s.cfg.TenantPaths,
		Tokens: doors, Asker: doors, Resolver: doors, Tenant: doors, Waiter: doors,
		MaxWait: s.cfg.MaxWait, ReplayBuffer: int(s.cfg.ReplayBuffer), AllowHosts: s.cfg.AllowHosts,
		CallerKeys: s.callers(), CallerLimits: callerLimits(s.cfg.CallerLimits), PropagateTrace: s.cfg.PropagateTrace, AccessLog: s.cfg.AccessLog,
		Route: func(method, path string) string {
			if template, ok := routes.Match(method, path); ok {
				return template
			}
			return "other"
		},
		UserAttr: func(k session.Key) string { return s.users.Show(k.OpenID) },
		Draining: s.draining.Load, Log: s.log,
	})
}

// callers is nil where everybody may call. The list is made when it changes,
// not when it is asked for.
func (s *server) callers() func() []proxy.Caller {
	if len(s.cfg.CallerKeys) == 0 {
		return nil
	}
	var present atomic.Pointer[[]proxy.Caller]
	set := func(keys settings.NamedSecrets) {
		list := make([]proxy.Caller, len(keys))
		for i, k := range keys {
			list[i] = proxy.Caller{Name: k.Name, Key: k.Secret}
		}
		present.Store(&list)
	}
	set(s.secrets.CallerKeys.Get())
	s.secrets.CallerKeys.OnChange(set)
	return func() []proxy.Caller { return *present.Load() }
}

// newAdmin returns the operators' handler; without parts, the probes and
// metrics of a process that is starting.
func (s *server) newAdmin(p *parts) http.Handler {
	c := admin.Config{
		Ready: s.ready, Metrics: s.metrics, Quit: s.quit, Key: s.secrets.AdminKey.Get,
		AllowHosts: s.cfg.AllowHosts, Apps: s.cfg.AppIDs(), Console: s.console, Log: s.log,
	}
	if p != nil {
		c.Sessions, c.Consents, c.Audit = p.store, p.store, p.store.ListAudit
		c.Refresh, c.Revoke = p.refreshByHand, p.revokeByHand
		c.Ask = func(ctx context.Context, key session.Key, scopes []string, by admin.Actor) (*session.Pending, error) {
			pending, _, err := p.askByHand(ctx, key, scopes, by)
			return pending, err
		}
		c.SyncUsers = func(ctx context.Context, progress func(admin.UserSync), by admin.Actor) (admin.UserSync, error) {
			n, err := s.syncUsers(ctx, p, progress)
			p.audit(ctx, by, session.AuditSync, session.Key{}, err)
			return n, err
		}
		c.RotateKeys = func(ctx context.Context, progress func(session.Resealed), by admin.Actor) (session.Resealed, error) {
			n, err := p.store.Reseal(ctx, progress)
			p.audit(ctx, by, session.AuditRotate, session.Key{}, err)
			return n, err
		}
	}
	return admin.New(c)
}

func (s *server) syncUsers(ctx context.Context, p *parts, progress func(admin.UserSync)) (admin.UserSync, error) {
	var total admin.UserSync
	for _, id := range s.cfg.AppIDs() {
		with := func(n refresh.Synced) admin.UserSync {
			sum := total
			sum.Users += n.Read + n.Disabled + n.Absent
			sum.Updated += n.Read + n.Disabled
			sum.Failed += n.Absent
			return sum
		}
		n, err := p.source.SyncUsers(ctx, id, time.Now(), func(n refresh.Synced) { progress(with(n)) })
		total = with(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// ready says whether requests should be sent here. A database that is away for
// a moment does not change it: cached users go on, and another replica would
// have the same database.
func (s *server) ready(context.Context) []admin.Check {
	p := s.parts.Load()
	checks := []admin.Check{
		{Name: "started", OK: p != nil, Detail: ifNot(p != nil, "waiting for the database")},
		{Name: "serving", OK: !s.draining.Load(), Detail: ifNot(!s.draining.Load(), "shutting down")},
	}
	if p == nil {
		return checks
	}
	for _, id := range s.cfg.AppIDs() {
		refusal := p.source.Refusal(id)
		c := admin.Check{Name: "app " + id, OK: refusal == nil}
		if refusal != nil {
			c.Detail = refusal.Error()
		}
		checks = append(checks, c)
	}
	return checks
}

func ifNot(ok bool, detail string) string {
	if ok {
		return ""
	}
	return detail
}

// doors are the proxy's ways into the parts, which may not be there yet.
type doors struct{ s *server }

var errStarting = &session.RetryError{Err: fmt.Errorf("starting: %w", session.ErrUnavailable), After: time.Second}

func (d *doors) Token(ctx context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	p := d.s.parts.Load()
	if p == nil {
		return nil, session.Missing, errStarting
	}
	a, lookup, err := p.source.Token(ctx, key)
	if why, ok := errors.AsType[*session.ConsentRequiredError](err); ok {
		err = &session.ConsentRequiredError{Reason: p.flow.Reason(ctx, key, why.Reason)}
	}
	return a, lookup, err
}

func (d *doors) Refused(ctx context.Context, key session.Key, version int64) (*session.Access, error) {
	if p := d.s.parts.Load(); p != nil {
		return p.source.Refused(ctx, key, version)
	}
	return nil, errStarting
}

func (d *doors) Ask(ctx context.Context, key session.Key, reason session.Reason, scopes []string) (session.Challenge, error) {
	p := d.s.parts.Load()
	if p == nil {
		return session.Challenge{}, errStarting
	}
	if err := p.source.Admitted(key.AppID); err != nil {
		return session.Challenge{}, err
	}
	ask := consent.Ask{Reason: reason, Scopes: scopes}
	if reason == proxy.MissingScope {
		ask.Scopes, ask.AnyOf = nil, scopes
	}
	return p.flow.Ask(ctx, key, ask)
}

func (d *doors) Resolve(ctx context.Context, appID, id string) (session.Key, error) {
	if p := d.s.parts.Load(); p != nil {
		return p.store.Resolve(ctx, appID, id)
	}
	return session.Key{}, errStarting
}

func (d *doors) Wait(ctx context.Context, key session.Key) error {
	p := d.s.parts.Load()
	if p == nil {
		return errStarting
	}
	changed, stop := p.store.Watch(key)
	defer stop()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *doors) TenantAccessToken(ctx context.Context, appID string) (session.Secret, error) {
	client, ok := d.s.clients[appID]
	if !ok {
		return session.Secret{}, fmt.Errorf("app %q is not configured", appID)
	}
	token, err := client.TenantAccessToken(ctx)
	if p := d.s.parts.Load(); p != nil {
		p.source.Report(appID, err)
	}
	return token, tenantError(err)
}

// tenantError gives what Lark says about the app's own token its meaning for a
// caller.
func tenantError(err error) error {
	var e *lark.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.Class == lark.AppRefused, e.Class == lark.Misconfigured:
		return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrAppMisconfigured, err), After: 30 * time.Second}
	}
	return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrRefreshUnavailable, err), After: max(time.Second, e.RetryAfter)}
}

// late is a handler that is set when what it needs is there.
type late struct{ handler atomic.Pointer[http.Handler] }

func (l *late) set(h http.Handler) { l.handler.Store(&h) }

func (l *late) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := l.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, "starting", http.StatusServiceUnavailable)
}

// accepted counts the app's running requests. At the stop they are waited for
// with the listener still open, so that who comes meanwhile is told that this
// instance is draining, and is not refused. It is one atomic counter rather
// than a WaitGroup and its lock, since every request passes here.
type accepted struct {
	next    http.Handler
	running atomic.Int64
}

func (a *accepted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.running.Add(1)
	defer a.running.Add(-1)
	a.next.ServeHTTP(w, r)
}

// wait returns when nothing runs, or ctx ends. A request that slips in behind
// its back is http.Server.Shutdown's to wait for.
func (a *accepted) wait(ctx context.Context) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for a.running.Load() > 0 {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// listener is one of the three.
type listener struct {
	name   string
	net    net.Listener
	server *http.Server
}

// listenAll opens every listener that is on, before any of them serves.
func (s *server) listenAll(ctx context.Context, app, operators, pages http.Handler) (all []*listener, err error) {
	for _, one := range []struct {
		name, setting string
		address       settings.Address
		handler       http.Handler
	}{
		{"proxy", "LISTEN", s.cfg.Listen, app},
		{"admin", "ADMIN_LISTEN", s.cfg.AdminListen, operators},
		{"consent", "CONSENT_LISTEN", s.cfg.ConsentListen, pages},
	} {
		if one.address.Off() {
			continue
		}
		l, err := listen(ctx, one.setting, one.address)
		if err != nil {
			for _, open := range all {
				open.net.Close()
			}
			return nil, err
		}
		server := proxy.NewServer(one.handler)
		server.ErrorLog = slog.NewLogLogger(s.log.With("listener", one.name).Handler(), slog.LevelDebug)
		if one.name != "proxy" {
			// Requests are small: what does not come in time does not come. Once one
			// is there net/http lifts the limit, so that long work and the stream of
			// events have the time that they take.
			server.ReadTimeout = 30 * time.Second
		}
		if one.name == "admin" {
			// A browser that watches must not hold up the stop.
			server.RegisterOnShutdown(s.console.Close)
		}
		all = append(all, &listener{one.name, patientListener{l, writePatience}, server})
		s.log.Info("listening", "listener", one.name, "address", l.Addr().String())
	}
	return all, nil
}

func (l *listener) serve() error {
	if err := l.server.Serve(l.net); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on the %s listener: %w", l.name, err)
	}
	return nil
}

// stop lets running requests finish until ctx ends, then cuts them.
func (l *listener) stop(ctx context.Context) error {
	if err := l.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("the %s listener: %w", l.name, err), l.server.Close())
	}
	return nil
}
