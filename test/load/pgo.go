package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"larkside/proxy"
	"larkside/refresh"
	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/telemetry"
)

// larkside has no pprof listener, and none is wanted in a process that holds
// tokens. The profile comes from a process of this program that puts the same
// parts together as larkside does: its proxy, its transport, its token source on
// a real store, and its telemetry, on the listener's own server.

// profileGuided profiles the handler under load, builds larkside with and
// without the profile, and measures both, one against the other.
func (b *bench) profileGuided(ctx context.Context) error {
	if err := b.profile(ctx); err != nil {
		return err
	}
	file, err := filepath.Abs(b.pgo)
	if err != nil {
		return err
	}
	var targets []*target
	defer func() {
		for _, t := range targets {
			t.stop()
		}
	}()
	plain, guided := filepath.Join(b.dir, "plain"), filepath.Join(b.dir, "guided")
	if err := errors.Join(build(ctx, plain, "-pgo=off"), build(ctx, guided, "-pgo="+file)); err != nil {
		return err
	}
	for _, f := range []string{plain, guided} {
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "%s: %.1f MiB\n", filepath.Base(f), float64(info.Size())/(1<<20))
	}
	rows := [][]string{{"upstream", "connections", "throughput, guided vs plain", "CPU, guided vs plain"}}
	for _, p := range protocols {
		targets = nil
		for _, file := range []string{plain, guided} {
			s, err := b.sqlite()
			if err != nil {
				return err
			}
			if err := b.seed(ctx, s, 0, b.users, nil); err != nil {
				return err
			}
			r, err := b.startLarkside(larksideOptions{name: filepath.Base(file), binary: file, store: s, secure: p.secure})
			if err != nil {
				return err
			}
			targets = append(targets, r.target)
			if _, err := b.drive(ctx, r.to(job{Loop: onceEach, Conns: 4, Users: b.users})); err != nil {
				return err
			}
		}
		for _, conns := range b.conns {
			j := job{Loop: closedLoop, Conns: conns, Users: b.users, Warm: warm(b.length), Length: b.length}
			if err := b.settle(ctx, targets, j); err != nil {
				return err
			}
			all, err := b.interleave(ctx, targets, j)
			if err != nil {
				return err
			}
			of := fmt.Sprintf("%s, %d connections", p.name, conns)
			ratio := b.note("pgo", of, "guided", "requests/s", all["guided"].of(throughput), all["plain"].of(throughput))
			used := b.note("pgo", of, "guided", "CPU ms/1000 requests", all["guided"].of(cpu), all["plain"].of(cpu))
			rows = append(rows, []string{p.name, fmt.Sprint(conns), cell(ratio, "%.3f"), cell(used, "%.3f")})
		}
		for _, t := range targets {
			t.stop()
		}
	}
	b.table("larkside built with the profile, against larkside built without", rows)
	return nil
}

// profile writes the CPU profile of the wired handler to the file of -pgo.
func (b *bench) profile(ctx context.Context) error {
	s, err := b.sqlite()
	if err != nil {
		return err
	}
	if err := b.seed(ctx, s, 0, b.users, nil); err != nil {
		return err
	}
	c, p, err := b.role("wired", []string{
		"LOAD_PROFILE=" + b.pgo, "LOAD_DATABASE=" + s.url, "LOAD_ROOTS=" + b.up.Roots, "LOAD_USERS=" + fmt.Sprint(b.users),
		"LOAD_PLAIN=http://" + b.up.Plain, "LOAD_TLS=https://" + b.up.TLS,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + b.up.Plain + "/v1/traces", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf",
		"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01",
	})
	if err != nil {
		return err
	}
	defer c.stop()
	addrs := []string{p.Plain, p.TLS}
	for range b.rounds {
		for _, i := range rand.Perm(len(addrs)) {
			for _, conns := range b.conns {
				if _, err := b.drive(ctx, job{Loop: closedLoop, Addrs: addrs[i : i+1], Conns: conns, Users: b.users, Length: b.length}); err != nil {
					return err
				}
			}
		}
	}
	c.stop() // writes the profile
	if info, err := os.Stat(b.pgo); err != nil || info.Size() == 0 {
		return fmt.Errorf("no profile was written: %s", c.stderr)
	}
	return nil
}

// wiredMain serves the wired handler on two listeners, by whether the upstream
// is plain or TLS, and profiles itself from the first to the last request.
func wiredMain(ctx context.Context) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	stop, _, err := telemetry.Start(ctx, telemetry.Config{Version: "devel", Log: log})
	if err != nil {
		return err
	}
	defer stop(context.WithoutCancel(ctx))
	db, err := store.Open(ctx, store.Config{URL: session.NewSecret(os.Getenv("LOAD_DATABASE")), Log: log})
	if err != nil {
		return err
	}
	defer db.Close()
	users, err := telemetry.NewUsers("hash", nil)
	if err != nil {
		return err
	}
	client, err := lark.New(lark.Config{
		AppID: appID, Secret: func() session.Secret { return session.NewSecret(appSecret) },
		OpenURL: os.Getenv("LOAD_PLAIN"), AccountsURL: os.Getenv("LOAD_PLAIN"), TokenURL: os.Getenv("LOAD_PLAIN") + "/oauth/v3/token", Log: log,
	})
	if err != nil {
		return err
	}
	source, err := refresh.New(refresh.Config{
		Sessions: db.Sessions, Leases: db.Leases, Profiles: db.Profiles, Rates: db.Rates, Elections: db.Elections, Changes: db.Changes,
		Apps: map[string]refresh.Lark{appID: client}, Users: users, Log: log,
	})
	if err != nil {
		return err
	}
	out, err := os.Create(os.Getenv("LOAD_PROFILE"))
	if err != nil {
		return err
	}
	defer out.Close()
	var where places
	for _, l := range []struct {
		env  string
		addr *string
	}{{"LOAD_PLAIN", &where.Plain}, {"LOAD_TLS", &where.TLS}} {
		h, err := wired(os.Getenv(l.env), source, users, log)
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		server := proxy.NewServer(h)
		defer server.Close()
		go server.Serve(listener)
		*l.addr = listener.Addr().String()
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return report(ctx, where)
}

// wired is larkside's handler as cmd/larkside makes it.
func wired(target string, source *refresh.Source, users telemetry.Users, log *slog.Logger) (http.Handler, error) {
	upstream, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	routes := lark.NewRoutes()
	return proxy.New(proxy.Config{
		UserTokenRefusal: lark.UserTokenRefusal, TenantTokenRefusal: lark.TenantTokenRefusal,
		Upstream: upstream, Transport: proxy.NewTransport(proxy.TransportConfig{RootCAs: rootsFromEnv()}),
		UpstreamTimeout: 30 * time.Second, Apps: []string{appID}, InjectPaths: []string{"/open-apis/apaas/", "/open-apis/spark/"},
		Tokens: source, ReplayBuffer: 64 << 10,
		Route: func(method, path string) string {
			if template, ok := routes.Match(method, path); ok {
				return template
			}
			return "other"
		},
		UserAttr: func(k session.Key) string { return users.Show(k.OpenID) },
		Log:      log,
	})
}
