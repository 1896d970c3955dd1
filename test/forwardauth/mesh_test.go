package forwardauth

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"larkside/proxy/extauthz"
	"larkside/test/port"
	"larkside/test/process"
)

// missing skips the test by name, and fails it with CI set.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// run starts a server until the test ends, and returns when it takes
// connections.
func run(t *testing.T, addr string, cmd *exec.Cmd) {
	t.Helper()
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s says:\n%s", filepath.Base(cmd.Path), out.String())
		}
	})
	process.Eventually(t, filepath.Base(cmd.Path)+" listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s has ended:\n%s", cmd.Path, out.String())
		default:
		}
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// nginx is its path, or the test ends here.
func nginx(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "no nginx on PATH or in /usr/sbin (Debian: nginx-light)")
	return ""
}

// nginxMain is what a distribution has around conf.d, in a directory of the
// test's.
const nginxMain = `daemon off;
%[2]s
worker_processes 2;
pid %[1]s/pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path %[1]s/body;
    proxy_temp_path %[1]s/proxy;
    fastcgi_temp_path %[1]s/fastcgi;
    uwsgi_temp_path %[1]s/uwsgi;
    scgi_temp_path %[1]s/scgi;
    include %[1]s/larkside.conf;
}
`

func startNginx(t *testing.T, larkside string, lark *front) string {
	t.Helper()
	path := nginx(t)
	addr := port.Address(t)
	dir := t.TempDir()
	site := shipped(t, "nginx.conf",
		"listen 127.0.0.1:8090", "listen "+addr,
		"server 127.0.0.1:8083;", "server "+larkside+";",
		"server open.feishu.cn:443;", "server "+lark.addr+";",
		"/etc/ssl/certs/ca-certificates.crt", lark.roots)
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // dir is closed to the one that it would become
	}
	for name, content := range map[string]string{"larkside.conf": site, "nginx.conf": fmt.Sprintf(nginxMain, dir, user)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, addr, exec.Command(path, "-p", dir, "-c", filepath.Join(dir, "nginx.conf")))
	return addr
}

const (
	caddyVersion = "v2.11.4"
	caddyModule  = "github.com/caddyserver/caddy/v2/cmd/caddy@" + caddyVersion
)

// caddy is the path of the real one, built by Go on the machine's first use and
// kept in the user's cache. It is not in go.mod: nothing of ours links it.
func caddy(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "larkside-test")
	path := filepath.Join(cache, "caddy-"+caddyVersion)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	build := exec.CommandContext(t.Context(), "go", "install", caddyModule)
	build.Dir = dir
	build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		missing(t, "building Caddy: %v\n%s", err, out)
	}
	if err := os.Rename(filepath.Join(dir, "caddy"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

func startCaddy(t *testing.T, larkside string, lark *front) string {
	t.Helper()
	path := caddy(t)
	addr := port.Address(t)
	_, number, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	site := shipped(t, "Caddyfile",
		":8090", ":"+number,
		"forward_auth 127.0.0.1:8083", "forward_auth "+larkside,
		"reverse_proxy https://open.feishu.cn:443", "reverse_proxy https://"+lark.addr)
	if err := os.WriteFile(file, []byte(site), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "run", "--adapter", "caddyfile", "--config", file)
	cmd.Env = []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "SSL_CERT_FILE=" + lark.roots}
	run(t, addr, cmd)
	return addr
}

// traefikProgram is the variable that names a Traefik. To build one takes several
// minutes, and what its module needs can't all be had from every module proxy, so
// it is for who changes its files: see deploy/forward-auth/README.md.
const traefikProgram = "LARKSIDE_TEST_TRAEFIK"

func startTraefik(t *testing.T, larkside string, lark *front) string {
	t.Helper()
	path := os.Getenv(traefikProgram)
	if path == "" {
		t.Skipf("%s names no Traefik, and nothing else here needs it, in CI neither", traefikProgram)
	}
	addr := port.Address(t)
	dir := t.TempDir()
	dynamic := filepath.Join(dir, "traefik.yaml")
	for name, content := range map[string]string{
		"static.yaml":  shipped(t, "traefik-static.yaml", "127.0.0.1:8090", addr, "/etc/traefik/traefik.yaml", dynamic),
		"traefik.yaml": shipped(t, "traefik.yaml", "http://127.0.0.1:8083/", "http://"+larkside+"/"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path, "--configFile="+filepath.Join(dir, "static.yaml"))
	// The file names Lark by its own name, which leads to lark here.
	cmd.Env = []string{"HOME=" + dir, "SSL_CERT_FILE=" + lark.roots, "HTTPS_PROXY=" + tunnel(t, lark.addr)}
	run(t, addr, cmd)
	process.Eventually(t, "Traefik has read its files", func() bool {
		return process.Send(t, addr, "GET "+outside, "", "Host: 127.0.0.1").Status != http.StatusNotFound
	})
	return addr
}

// tunnel is the URL of a proxy that leads each CONNECT to addr.
func tunnel(t *testing.T, addr string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", addr)
		if err != nil || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer from.Close()
		io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(to, from)
			to.Close()
		}()
		io.Copy(from, to)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func pass(w http.ResponseWriter, res *http.Response) {
	for name, values := range res.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(res.StatusCode)
	http.NewResponseController(w).Flush()
	buffer := make([]byte, 32<<10)
	for {
		n, err := res.Body.Read(buffer)
		if n > 0 {
			w.Write(buffer[:n])
			http.NewResponseController(w).Flush()
		}
		if err != nil {
			return
		}
	}
}

// Between nginx's two questions the user may authorize. The answer must not look
// like success, and the token must not reach the app.
func TestNginxBetweenTwoQuestions(t *testing.T) {
	for _, first := range []int{401, 403, 400, 405, 429, 503} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			t.Parallel()
			lark := newFront(t, nil)
			var asked atomic.Int32
			larkside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) == 1 {
					w.WriteHeader(first)
					io.WriteString(w, "no")
					return
				}
				if r.Header.Get("Prefer") != "" {
					t.Error("asked to wait once more")
				}
				w.Header().Set("Authorization", "Bearer u-secret")
			}))
			t.Cleanup(larkside.Close)
			mesh := startNginx(t, process.Host(larkside.URL), lark)
			a := process.Send(t, mesh, "GET "+echo, "", "X-Lark-User-Id: "+alice, "Prefer: wait=1")
			if a.Status != first || a.Body != "" || a.Header["Authorization"] != nil || len(lark.requests()) > 0 {
				t.Errorf("%d %q %v", a.Status, a.Body, a.Header)
			}
		})
	}
}

// Whoever answers at Lark's address without Lark's certificate gets no token.
func TestCertificate(t *testing.T) {
	larkside := httptest.NewUnstartedServer(extauthz.NewHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Authorization", "Bearer u-secret")
		w.WriteHeader(http.StatusOK)
	}), slog.New(slog.DiscardHandler)))
	larkside.Config.Protocols = new(http.Protocols)
	larkside.Config.Protocols.SetHTTP1(true)
	larkside.Config.Protocols.SetUnencryptedHTTP2(true)
	larkside.Start()
	t.Cleanup(larkside.Close)
	for _, mesh := range meshes {
		t.Run(mesh.name, func(t *testing.T) {
			t.Parallel()
			impostor, lark := newFront(t, nil), newFront(t, nil)
			addr := mesh.start(t, process.Host(larkside.URL), &front{addr: impostor.addr, roots: lark.roots, pool: lark.pool})
			a := process.Send(t, addr, "GET "+echo, "", "X-Lark-User-Id: "+alice)
			status := 502
			if mesh.traefik {
				status = 500
			}
			if a.Status != status || len(impostor.requests()) > 0 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
	}
}
