package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/session"
	"larkside/session/seal"
	"larkside/session/store"
)

const appID, appSecret = "cli_load", "load-app-secret"

// build compiles larkside as it is shipped, with further flags.
func build(ctx context.Context, to string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", to}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "larkside/cmd/larkside")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building larkside, which has to be done inside its repository: %w\n%s", err, out)
	}
	return nil
}

// database is a database with sessions in it.
type database struct {
	url string
	// keys are empty where larkside makes a key file of its own.
	keys session.Secret
	drop func()
}

func (b *bench) sqlite() (*database, error) {
	dir, err := os.MkdirTemp(b.dir, "db-")
	if err != nil {
		return nil, err
	}
	return &database{url: "sqlite:" + filepath.Join(dir, "larkside.db"), drop: func() { os.RemoveAll(dir) }}, nil
}

var errNoPostgres = errors.New("LARKSIDE_TEST_POSTGRES is not set")

// postgres is a new database on the server.
func (b *bench) postgres() (*database, error) {
	if b.postgresURL == nil {
		return nil, errNoPostgres
	}
	admin, err := sql.Open("postgres", b.postgresURL.String())
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("larkside_load_%d_%d", os.Getpid(), b.databases)
	b.databases++
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		admin.Close()
		return nil, fmt.Errorf("LARKSIDE_TEST_POSTGRES: %w", err)
	}
	u := *b.postgresURL
	u.Path = "/" + name
	return &database{url: u.String(), keys: seal.NewKey("load"), drop: func() {
		admin.Exec("DROP DATABASE " + name + " WITH (FORCE)")
		admin.Close()
	}}, nil
}

func (s *database) open(ctx context.Context, change func(*store.Config)) (*store.DB, error) {
	c := store.Config{URL: session.NewSecret(s.url)}
	if !s.keys.Empty() {
		ring, err := seal.ParseKeyring(s.keys)
		if err != nil {
			return nil, err
		}
		c.Keys = ring
	}
	if change != nil {
		change(&c)
	}
	return store.Open(ctx, c)
}

// seed stores the sessions of users first to first+n, as change makes them of a
// fresh one.
func (b *bench) seed(ctx context.Context, s *database, first, n int, change func(user int, g *session.Session)) error {
	open, err := s.open(ctx, func(c *store.Config) { c.CacheSize = 1 })
	if err != nil {
		return err
	}
	defer open.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for user := first; user < first+n; user++ {
		g.Go(func() error {
			one := b.fresh(user, 7200)
			if change != nil {
				change(user, &one)
			}
			_, err := open.Sessions.Put(ctx, one)
			return err
		})
	}
	return g.Wait()
}

// fresh is user's session a moment after the consent, whose renewed access
// tokens live for life seconds.
func (b *bench) fresh(user, life int) session.Session {
	now := time.Now()
	return session.Session{
		Key: session.Key{AppID: appID, OpenID: userName(user)}, State: session.Active,
		AccessToken: session.NewSecret(accessToken(user, 0)), RefreshToken: session.NewSecret(refreshToken(user, 0, life)),
		TokenType: "Bearer", TokenURL: "http://" + b.up.Plain + "/oauth/v3/token", Scope: "offline_access",
		IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour), RefreshExpiresAt: now.Add(7 * 24 * time.Hour),
		GrantedAt: now, SyncedAt: now,
	}
}

// larksideOptions are what differs from the default configuration.
type larksideOptions struct {
	name   string
	binary string // "": the one that was built
	store  *database
	secure bool
	// sampled is the fraction of requests traced, in OTEL_TRACES_SAMPLER_ARG's form.
	sampled string
	env     []string
}

// running is a larkside that is ready.
type running struct {
	*target
	admin string
	// took is from the start of the process to "ready" in its log.
	took time.Duration
}

func (b *bench) startLarkside(o larksideOptions) (*running, error) {
	if o.binary == "" {
		o.binary = b.binary
	}
	if o.sampled == "" {
		o.sampled = "0.01"
	}
	upstream := "http://" + b.up.Plain
	if o.secure {
		upstream = "https://" + b.up.TLS
	}
	cmd := exec.Command(o.binary)
	cmd.Dir = b.dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"LARKSIDE_APP_ID=" + appID, "LARKSIDE_APP_SECRET=" + appSecret,
		"LARKSIDE_LISTEN=127.0.0.1:0", "LARKSIDE_ADMIN_LISTEN=127.0.0.1:0",
		"LARKSIDE_OPEN_URL=" + upstream, "LARKSIDE_ACCOUNTS_URL=http://" + b.up.Plain,
		"LARKSIDE_UPSTREAM_CA_FILE=" + b.rootsFile,
		"LARKSIDE_DATABASE_URL=" + o.store.url,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + b.up.Plain + "/v1/traces", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf",
		"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=" + o.sampled,
	}, o.env...)
	if !o.store.keys.Empty() {
		cmd.Env = append(cmd.Env, "LARKSIDE_ENCRYPTION_KEYS="+o.store.keys.Expose())
	}
	log, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = in
	began := time.Now()
	c, err := spawn(cmd)
	in.Close()
	if err != nil {
		return nil, err
	}
	r := &running{target: &target{name: o.name, child: c}}
	log.SetReadDeadline(time.Now().Add(patience))
	lines := bufio.NewScanner(log)
	for r.took == 0 && lines.Scan() {
		var line struct{ Msg, Listener, Address string }
		json.Unmarshal(lines.Bytes(), &line) // what isn't JSON is for people
		c.stderr.Write(append(lines.Bytes(), '\n'))
		switch {
		case line.Msg == "ready":
			r.took = time.Since(began)
		case line.Listener == "proxy":
			r.addr = line.Address
		case line.Listener == "admin":
			r.admin = "http://" + line.Address
		}
	}
	if r.took == 0 {
		log.Close()
		c.stop()
		return nil, fmt.Errorf("larkside did not get ready: %s", c.stderr)
	}
	log.SetReadDeadline(time.Time{})
	go func() { // it must never wait for us
		for lines.Scan() {
			c.stderr.Write(append(lines.Bytes(), '\n'))
		}
		log.Close()
	}()
	r.stats = func() (runtimeStats, error) { return prometheusStats(r.admin + "/metrics") }
	return r, nil
}
