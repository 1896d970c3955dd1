package deploy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"larkside/test/larktest"
	"larkside/test/process"
)

// sources copies what .dockerignore lets into the image's build, so that a file
// that it forgets fails here and not only in docker.
func sources(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(root + "/.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	var take []string
	var leave []*regexp.Regexp
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "!"); ok {
			take = append(take, name)
		} else if pattern, ok := strings.CutPrefix(line, "**/"); ok {
			leave = append(leave, regexp.MustCompile("^"+strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")+"$"))
		} else if line != "" && line != "*" && !strings.HasPrefix(line, "#") {
			t.Fatalf(".dockerignore: the test does not understand %q", line)
		}
	}
	to := t.TempDir()
	for _, name := range take {
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || slices.ContainsFunc(leave, func(r *regexp.Regexp) bool { return r.MatchString(d.Name()) }) {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			target := filepath.Join(to, relative)
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			return os.WriteFile(target, content, info.Mode().Perm())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// image runs the image's one build step on a fresh copy of the sources and
// returns its output directory.
func image(t *testing.T, more ...string) string {
	t.Helper()
	if _, err := os.Stat("/etc/ssl/certs/ca-certificates.crt"); err != nil && os.Getenv("CA_CERTIFICATES") == "" {
		t.Skip("the certificates of the image come from the build stage's Debian, and this is none")
	}
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join(sources(t), "deploy/image/rootfs.sh"), out)
	cmd.Env = append(os.Environ(), "VERSION=v1.2.3", "REVISION=0123abc")
	cmd.Env = append(cmd.Env, more...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rootfs.sh: %v\n%s", err, text)
	}
	return out
}

// digests are the files of a tree: mode, time and content.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum := ""
		if d.Type().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = fmt.Sprintf("%x", sha256.Sum256(content))
		}
		all[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%s %d %s", info.Mode(), info.ModTime().Unix(), sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const (
	documents = "/rootfs/usr/share/doc/larkside"
	program   = "/rootfs/larkside"
)

// What the image consists of, in it, and that it runs.
func TestImage(t *testing.T) {
	t.Parallel()
	out := image(t)
	before := digests(t, out)
	t.Run("nothing else", func(t *testing.T) { onlyWhatIsNeeded(t, out) })
	t.Run("SBOM and licences", func(t *testing.T) { declared(t, out) })
	t.Run("runs", func(t *testing.T) { runs(t, out) })
	t.Run("same bytes again", func(t *testing.T) {
		// In another directory. Packages come from the same build cache, so that
		// says little about them; that nothing tells where they were compiled does.
		again := digests(t, image(t))
		for path := range before {
			if before[path] != again[path] {
				t.Errorf("%s: %s, then %s", path, before[path], again[path])
			}
		}
		if len(again) != len(before) {
			t.Errorf("%d files, then %d", len(before), len(again))
		}
		nowhere(t, out+program)
	})
	t.Run("arm64", func(t *testing.T) {
		if os.Getenv("CI") == "" {
			t.Skip("compiles everything for another machine; CI does")
		}
		f, err := elf.Open(image(t, "TARGETOS=linux", "TARGETARCH=arm64") + program)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Machine != elf.EM_AARCH64 {
			t.Errorf("built for %s", f.Machine)
		}
	})
}

// nowhere: the program does not hold the directories that it was compiled in.
func nowhere(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	places, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range append(strings.Fields(string(places)), os.TempDir()+"/Test") {
		if bytes.Contains(text, []byte(place)) {
			t.Errorf("the program holds %s", place)
		}
	}
}

// onlyWhatIsNeeded: no shell, no library, no set-uid file, and a program that
// needs none.
func onlyWhatIsNeeded(t *testing.T, out string) {
	want := []string{"/etc/group", "/etc/passwd", "/etc/ssl/certs/ca-certificates.crt", "/larkside",
		"/usr/share/doc/larkside/LICENSE", "/usr/share/doc/larkside/THIRD_PARTY_NOTICES", "/usr/share/doc/larkside/sbom.cdx.json"}
	var got []string
	for path, what := range digests(t, out+"/rootfs") {
		if strings.HasPrefix(what, "d") {
			if !strings.HasPrefix(what, "drwxr-xr-x ") {
				t.Errorf("%s: %s", path, what)
			}
			continue
		}
		got = append(got, path)
		if !strings.HasPrefix(what, "-rw-r--r-- ") && (path != "/larkside" || !strings.HasPrefix(what, "-rwxr-xr-x ")) {
			t.Errorf("%s: %s", path, what)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the image has %q", got)
	}
	f, err := elf.Open(out + program)
	if err != nil {
		t.Skipf("no Linux program: %v", err)
	}
	defer f.Close()
	if libraries, _ := f.ImportedLibraries(); len(libraries) > 0 || f.Section(".interp") != nil {
		t.Errorf("the program needs %q", libraries)
	}
}

// declared: the SBOM has every module of the program, the notices have a licence
// of each.
func declared(t *testing.T, out string) {
	info, err := buildinfo.ReadFile(out + program)
	if err != nil {
		t.Fatal(err)
	}
	var sbom struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	text, err := os.ReadFile(out + documents + "/sbom.cdx.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &sbom); err != nil {
		t.Fatal(err)
	}
	if sbom.BOMFormat != "CycloneDX" || sbom.Metadata.Component.Name != "larkside" || sbom.Metadata.Component.Version != "v1.2.3" {
		t.Errorf("%+v", sbom.Metadata)
	}
	listed := map[string]string{}
	for _, c := range sbom.Components {
		listed[c.Name] = c.Version
	}
	want := map[string]string{"std": info.GoVersion}
	for _, m := range info.Deps {
		want[m.Path] = m.Version
	}
	if !maps.Equal(listed, want) {
		t.Errorf("SBOM %v\nprogram %v", listed, want)
	}
	// Nothing of the tests gets into the program.
	for _, m := range info.Deps {
		if strings.HasPrefix(m.Path, "k8s.io/") || strings.HasPrefix(m.Path, "sigs.k8s.io/") {
			t.Errorf("the program has %s", m.Path)
		}
	}
	notices, err := os.ReadFile(out + documents + "/THIRD_PARTY_NOTICES")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range info.Deps {
		if !strings.Contains(string(notices), "\n==== "+m.Path+" "+m.Version+" (") {
			t.Errorf("no licence of %s", m.Path)
		}
	}
	if !strings.Contains(string(notices), "\n==== the Go standard library (LICENSE)") {
		t.Error("no licence of Go")
	}
}

// container runs the program in the image's root file system, which is
// read-only but for /data, as the image's user. Docker does no more that matters
// here.
func container(t *testing.T, out string, env []string, args ...string) *exec.Cmd {
	const enter = `mount --bind "$1/rootfs" "$1/rootfs" && mount --bind "$1/data" "$1/rootfs/data" &&
		mount -o remount,bind,ro "$1/rootfs" && root=$1 && shift && cd / && exec chroot --userspec=65532:65532 "$root/rootfs" /larkside "$@"`
	// Not bound to the test's context: a stop has to be looked at.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "unshare", append([]string{"--mount", "sh", "-c", enter, "sh", out}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

func runs(t *testing.T, out string) {
	if os.Getuid() != 0 {
		t.Skip("a chroot needs root")
	}
	if err := exec.CommandContext(t.Context(), "unshare", "--mount", "chroot", "--userspec=65532:65532", "/", "true").Run(); err != nil {
		t.Skipf("no mount namespace here: %v", err)
	}
	// What the Dockerfile's COPY --chown and WORKDIR do.
	if err := os.Chown(out+"/data", 65532, 65532); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(out+"/rootfs/data", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(out + "/rootfs/data") })
	lark := larktest.Start(t, nil)
	env := []string{
		"LARKSIDE_APP_ID=" + larktest.AppID, "LARKSIDE_APP_SECRET=" + larktest.AppSecret,
		"LARKSIDE_OPEN_URL=" + lark.URL, "LARKSIDE_ACCOUNTS_URL=" + lark.URL,
		"LARKSIDE_DATABASE_URL=sqlite:/data/larkside.db",
		"LARKSIDE_LISTEN=unix:/data/proxy.sock", "LARKSIDE_ADMIN_LISTEN=unix:/data/admin.sock",
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	t.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s", text)
		}
	})
	serve := container(t, out, env)
	serve.Stderr = log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	t.Cleanup(func() { serve.Process.Kill() })

	for _, args := range [][]string{{"wait", "--timeout=20s"}, {"healthcheck"}, {"version"}, {"sessions", "list"}} {
		text, err := container(t, out, env, args...).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v\n%s", args, err, text)
		}
		if args[0] == "version" && !strings.HasPrefix(string(text), "larkside v1.2.3 (commit 0123abc, ") {
			t.Errorf("version: %s", text)
		}
	}
	if a := ask(t, out, "/open-apis/apaas/v1/larktest/echo"); a.Header.Get("X-Larkside-Error") != "authorization_required" {
		t.Errorf("a request: %s", a.Status)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", serve.Process.Pid))
	if err != nil || !strings.Contains(string(status), "\nUid:\t65532\t65532\t65532\t65532\n") {
		t.Errorf("not user 65532: %v\n%s", err, status)
	}
	if info, err := os.Stat(out + "/data/larkside.db"); err != nil || info.Sys().(*syscall.Stat_t).Uid != 65532 {
		t.Errorf("the database: %v %v", info, err)
	}
	serve.Process.Signal(syscall.SIGTERM)
	if err := <-ended; err != nil {
		t.Errorf("the stop: %v", err)
	}

	// The rest is read-only, and not only by its owner.
	elsewhere := append(slices.Clone(env), "LARKSIDE_DATABASE_URL=sqlite:/usr/share/doc/larkside/x.db")
	if text, err := container(t, out, elsewhere, "migrate").CombinedOutput(); err == nil {
		t.Errorf("a database outside /data: %s", text)
	}
}

// ask sends one request for alice through the container's socket.
func ask(t *testing.T, out, path string) *http.Response {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", out+"/data/proxy.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := process.NewRequest(t, http.MethodGet, "http://127.0.0.1"+path, larktest.Alice, "")
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	a, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	return a
}

// The Dockerfile makes the image of what the script has made and of nothing
// else.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(root + "/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	// Instructions, each on one line, without comments.
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	last := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "FROM scratch") })
	if last < 0 {
		t.Fatal("the image is not made from scratch")
	}
	build, final := lines[:last], lines[last:]
	for _, want := range []string{"COPY --from=build /out/rootfs/ /", "COPY --from=build --chown=65532:65532 /out/data /data",
		"USER 65532:65532", "WORKDIR /data", `ENTRYPOINT ["/larkside"]`} {
		if !slices.Contains(final, want) {
			t.Errorf("no %q", want)
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(final), func(l string) bool { return !strings.HasPrefix(l, "COPY") })); n != 2 {
		t.Errorf("%d times COPY", n)
	}
	if !slices.ContainsFunc(build, func(l string) bool {
		return strings.HasPrefix(l, `RUN TARGETOS="$TARGETOS" TARGETARCH="$TARGETARCH"`) && strings.HasSuffix(l, "deploy/image/rootfs.sh /out")
	}) {
		t.Error("the build stage does not run rootfs.sh")
	}
	for _, label := range []string{"title", "description", "licenses", "version", "revision"} {
		if !strings.Contains(strings.Join(final, "\n"), "org.opencontainers.image."+label+"=") {
			t.Errorf("no label %s", label)
		}
	}
	// The health check is a command that there is.
	i := slices.IndexFunc(final, func(l string) bool { return strings.HasPrefix(l, "HEALTHCHECK ") })
	if i < 0 || !strings.HasSuffix(final[i], `CMD ["/larkside", "healthcheck"]`) {
		t.Error("no health check")
	}
	if r := process.Run(t, process.Options{Args: []string{"healthcheck", "--help"}}); r.Status != 0 {
		t.Errorf("larkside healthcheck: exit status %d", r.Status)
	}
}
