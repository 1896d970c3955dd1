package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"larkside/test/load/tokens"
)

// upstream is a way in which the upstream is reached.
type upstream struct{ protocol, url string }

// hop is a way to the upstream: through a proxy, or straight.
type hop struct {
	name, url string
	// process is nil without a proxy.
	process *process
	// client is net/http's, fast is fasthttp's: see the package comment.
	client *http.Client
	fast   *fasthttp.HostClient
}

func newHop(name, url string, p *process) *hop {
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true, ResponseHeaderTimeout: patience}
	if p == nil {
		transport.TLSClientConfig, transport.ForceAttemptHTTP2 = &tls.Config{RootCAs: testRoots()}, true
	}
	return &hop{
		name: name, url: url, process: p,
		client: &http.Client{Transport: checked{transport}},
		fast: &fasthttp.HostClient{
			Addr: strings.TrimPrefix(url, "http://"), MaxConns: 1024, MaxIdleConnDuration: time.Minute,
			ReadTimeout: patience, WriteTimeout: patience, MaxIdemponentCallAttempts: 1,
		},
	}
}

// patience is how long anything may take. Only failures reach it.
const patience = 30 * time.Second

// start starts the proxies that are named, in front of up; "none" is no proxy.
// Each knows the tokens of some users.
func (b *bench) start(ctx context.Context, up upstream, names ...string) (hops []*hop, stop func(), err error) {
	stop = func() {
		for _, h := range hops {
			h.stop()
		}
	}
	for _, name := range names {
		var h *hop
		switch name {
		case "none":
			h = newHop(name, up.url, nil)
		case "naive", "tuned":
			h, err = b.startReference(ctx, name, up, someUsers)
		case "caddy":
			h, err = b.startCaddy(ctx, up)
		case "larkside":
			h, err = b.startSeeded(ctx, name, up, someUsers)
		case "traced":
			h, err = b.startSeeded(ctx, name, up, someUsers, "OTEL_TRACES_SAMPLER_ARG=1")
		}
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		hops = append(hops, h)
	}
	return hops, stop, nil
}

// someUsers is the number of users where it doesn't matter.
const someUsers = 64

func (b *bench) startReference(ctx context.Context, name string, up upstream, users int) (*hop, error) {
	addr := freeAddr()
	return b.startHop(ctx, name, addr, listens(addr), nil, b.reference, name, addr, up.url, b.roots, strconv.Itoa(users))
}

// startHop starts a proxy that listens at addr; see startProcess for the rest.
func (b *bench) startHop(ctx context.Context, name, addr string, ready func() bool, env []string, command ...string) (*hop, error) {
	p, err := b.startProcess(ctx, ready, env, command...)
	if err != nil {
		return nil, err
	}
	return newHop(name, "http://"+addr, p), nil
}

// startSeeded starts a larkside whose SQLite file has the sessions of users.
func (b *bench) startSeeded(ctx context.Context, name string, up upstream, users int, env ...string) (*hop, error) {
	db, err := b.seeded(ctx, b.sqlite, users, nil)
	if err != nil {
		return nil, err
	}
	return b.startLarkside(ctx, name, up, db, env...)
}

// startLarkside starts a larkside and returns when it is ready. env is added to
// the configuration that the package comment describes.
func (b *bench) startLarkside(ctx context.Context, name string, up upstream, db *database, env ...string) (*hop, error) {
	addr, admin := freeAddr(), freeAddr()
	env = append([]string{
		"LARKSIDE_APP_ID=" + appID, "LARKSIDE_APP_SECRET=load-app-secret",
		"LARKSIDE_LISTEN=" + addr, "LARKSIDE_ADMIN_LISTEN=" + admin,
		"LARKSIDE_OPEN_URL=" + up.url, "LARKSIDE_ACCOUNTS_URL=" + b.upstreams[0].url,
		"LARKSIDE_UPSTREAM_CA_FILE=" + b.roots, "LARKSIDE_DATABASE_URL=" + db.url,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + b.upstreams[0].url + spansPath, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf",
		"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01",
	}, env...)
	if !db.keys.Empty() {
		env = append(env, "LARKSIDE_ENCRYPTION_KEYS="+db.keys.Expose())
	}
	return b.startHop(ctx, name, addr, func() bool {
		res, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	}, env, b.binary)
}

// caddyModule is what Caddy is built from.
const caddyModule = "github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.4"

// startCaddy starts a Caddy with the smallest configuration that does the same.
func (b *bench) startCaddy(ctx context.Context, up upstream) (*hop, error) {
	binary := filepath.Join(b.dir, "caddy")
	if _, err := os.Stat(binary); err != nil {
		cmd := exec.CommandContext(ctx, "go", "install", caddyModule)
		cmd.Env = append(os.Environ(), "GOBIN="+b.dir, "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w\n%s", caddyModule, err, out)
		}
	}
	var users strings.Builder
	for user, token := range tokens.Headers(someUsers) {
		fmt.Fprintf(&users, "%s %q\n", user, token)
	}
	trust := ""
	if strings.HasPrefix(up.url, "https:") {
		trust = "tls_trust_pool file " + b.roots
	}
	addr := freeAddr()
	file := filepath.Join(b.dir, "Caddyfile")
	err := os.WriteFile(file, fmt.Appendf(nil, `
{
	admin off
	auto_https off
	persist_config off
}
http://%s {
	map {http.request.header.X-Lark-User-Id} {token} {
		%s
	}
	reverse_proxy %s {
		header_up Authorization {token}
		header_up -X-Lark-User-Id
		transport http {
			keepalive_idle_conns_per_host 1024
			compression off
			%s
		}
	}
}
`, addr, users.String(), up.url, trust), 0o600)
	if err != nil {
		return nil, err
	}
	return b.startHop(ctx, "caddy", addr, listens(addr), []string{"HOME=" + b.dir}, binary, "run", "--adapter", "caddyfile", "--config", file)
}

func (h *hop) stop() {
	h.client.CloseIdleConnections()
	h.fast.CloseIdleConnections()
	if h.process != nil {
		h.process.stop()
	}
}

// growth is the memory before f runs, and the most while it runs.
func (h *hop) growth(f func() error) (before, most float64, err error) {
	if before, err = h.process.residentMiB(); err != nil {
		return 0, 0, err
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	for {
		now, err := h.process.residentMiB()
		if err != nil {
			return 0, 0, err
		}
		most = max(most, now)
		select {
		case err := <-done:
			return before, most, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
