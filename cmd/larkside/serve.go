package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
	webconsole "larkside/proxy/console"
	"larkside/proxy/edge"
	"larkside/proxy/extauthz"
	"larkside/session"
	"larkside/session/lark"
	"larkside/telemetry"
)

// server is the running process: the parts that are there from the start. The
// parts that need the database come later.
type server struct {
	cfg     *settings.Settings
	log     *slog.Logger
	banner  *banner
	build   operate.Build
	secrets *settings.Secrets
	clients map[string]*lark.Client // by app
	users   telemetry.Users
	metrics http.Handler
	history *telemetry.History
	console *webconsole.Console
	// adminKey is the lock of the API and the console.
	adminKey *edge.AdminKey
	quit     context.CancelFunc

	parts    atomic.Pointer[parts] // nil until the store is open
	ready    atomic.Bool           // it has been ready once
	empty    atomic.Bool           // the store has no session at the last try, though some are expected
	stopping chan struct{}         // closed when the stop begins
	// app and authz are the handlers of these two listeners.
	app, authz inFlight
}

// run is the parts list. It builds what needs no database, serves until ctx
// ends, and stops in the reverse order.
func run(ctx context.Context, cfg *settings.Settings, build operate.Build, log *slog.Logger, banner *banner) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()

	// Telemetry. The console shows the log's last lines and the metrics' history.
	history, recent := telemetry.NewHistory(webconsole.Tracked()...), telemetry.NewRecent()
	log = slog.New(recent.Handler(log.Handler()))
	takeStandardLog(log)
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
	users, err := newUsers(cfg, secrets)
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, log: log, banner: banner, build: build, secrets: secrets, clients: clients, users: users,
		metrics: metrics, history: history, quit: quit, stopping: make(chan struct{}),
		adminKey: edge.NewAdminKey(secrets.AdminKey.Get, log)}
	if err := s.observeReadiness(); err != nil {
		return err
	}
	s.console = s.newConsole(history, recent)
	p, err := s.newProxy()
	if err != nil {
		return err
	}
	s.app.next, s.authz.next = p, extauthz.NewHandler(p.Authz(), log)
	return s.serve(ctx)
}

// flush gives what is not exported yet a last chance.
func flush(stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stop(ctx)
}

// newUsers decides how users appear in logs and spans. All replicas show a user
// alike, until the app's secret changes.
func newUsers(cfg *settings.Settings, secrets *settings.Secrets) (telemetry.Users, error) {
	return telemetry.NewUsers(telemetry.UserMode(cfg.TraceUsers), secrets.App(cfg.AppID).Derive("users in logs and spans"))
}

// serve listens, opens the database, and serves until ctx ends.
//
// It listens first, so that a port in use is known at once and the liveness
// probe is answered while PostgreSQL is late. Until the store is open, what
// needs it is answered with 503 store_unavailable.
func (s *server) serve(ctx context.Context) error {
	pages, operators := &swapHandler{}, &swapHandler{}
	operators.set(s.newAdmin(nil))
	listeners, err := s.listenAll(ctx, operators, pages)
	if err != nil {
		return err
	}
	// A listener that ends ends the process, also while the database is awaited.
	serving, end := context.WithCancelCause(ctx)
	defer end(nil)
	for _, l := range listeners {
		go func() {
			if err := l.serve(); err != nil {
				end(err)
			}
		}()
	}

	// Work in the background ends after the listeners do: a request that is
	// finishing may wait for it.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	work, background := errgroup.WithContext(background)
	work.Go(func() error { return s.secrets.Run(background) })
	work.Go(func() error { s.history.Run(background); return nil })

	verdicts := s.askLark(serving)
	p, err := s.openParts(serving)
	if err == nil && p != nil {
		s.begin(background, work, p)
		pages.set(p.consents.Handler())
		operators.set(s.newAdmin(p))
		s.banner.opened()
		go s.becomeReady(serving, p, verdicts)
		<-serving.Done()
	}
	if ctx.Err() == nil {
		err = errors.Join(err, context.Cause(serving))
	}
	return errors.Join(err, s.stop(listeners, p, stopBackground, work))
}

// begin lets requests reach the parts, and starts their work in the background.
func (s *server) begin(ctx context.Context, work *errgroup.Group, p *parts) {
	s.parts.Store(p)
	s.followDatabase(p.db)
	s.secrets.AppSecret.OnChange(func(session.Secret) { p.source.Reconsider() })
	s.secrets.Apps.OnChange(func(settings.NamedSecrets) { p.source.Reconsider() })
	work.Go(func() error { return p.source.Run(ctx) })
	work.Go(func() error { return p.forgetAudit(ctx, s.cfg.AuditRetention, s.log) })
	work.Go(func() error { return ignoreCanceled(p.consents.Run(ctx)) })
	if s.cfg.Events == "websocket" {
		s.listenForEvents(ctx, work, p.consents)
	}
	work.Go(func() error { limitHeap(ctx); return nil })
}

// stop lets accepted requests finish within SHUTDOWN_GRACE, and ends the parts in
// the reverse order of their start. The admin listener goes last, so that probes
// are answered to the end.
func (s *server) stop(listeners []*listener, p *parts, stopBackground context.CancelFunc, work *errgroup.Group) error {
	close(s.stopping)
	s.log.Info("stopping", "grace", s.cfg.ShutdownGrace.String())
	grace, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownGrace)
	defer cancel()
	s.app.wait(grace)
	s.authz.wait(grace)
	var g errgroup.Group
	for _, l := range listeners {
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
	for _, l := range listeners {
		if l.name == "admin" {
			err = errors.Join(err, l.stop(grace))
		}
	}
	s.log.Info("stopped")
	return err
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// started returns the parts, or errStarting while the store is not open yet.
func (s *server) started() (*parts, error) {
	if p := s.parts.Load(); p != nil {
		return p, nil
	}
	return nil, errStarting
}

var errStarting = &session.RetryError{Err: fmt.Errorf("starting: %w", session.ErrUnavailable), After: time.Second}
