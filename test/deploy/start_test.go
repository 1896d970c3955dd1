package deploy

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// secretValues are what people put into the Secret, by key.
func secretValues(databaseURL string) map[string]string {
	return map[string]string{
		"app-secret": larktest.AppSecret, "encryption-keys": process.Keys, "admin-key": "an admin key of this test",
		"database-url": databaseURL, "caller-keys": "app:a-caller-key-of-this-test",
		"event-token": "an event token", "event-encrypt-key": "an encrypt key",
	}
}

// listeners are the settings of the four and the names of their ports.
var listeners = map[string]string{"LISTEN": "proxy", "ADMIN_LISTEN": "admin", "AUTHZ_LISTEN": "authz", "CONSENT_LISTEN": "consent"}

var intstrProxy = intstr.FromString("proxy")

// options are those with which the real binary gets a container's environment:
// as it stands, but for the port numbers, the files' places and what people
// have to fill in.
func options(t *testing.T, m *manifests, p pod, secret map[string]string) process.Options {
	t.Helper()
	one := larkside(t, p)
	volumes := map[string]corev1.Volume{}
	for _, v := range p.template.Spec.Volumes {
		volumes[v.Name] = v
	}
	// What the harness sets by default is not set, but the process needs ports.
	o := process.Options{Env: map[string]string{"APP_ID": "", "APP_SECRET": "", "DATABASE_URL": ""}}
	dir := dbtest.TempDir(t)
	for name, value := range m.environment(t, one) {
		short, ours := strings.CutPrefix(name, "LARKSIDE_")
		switch {
		case !ours:
			o.Environ = append(o.Environ, name+"="+value)
			continue
		case strings.HasSuffix(short, "_FILE"):
			key, _ := secretKey(one, volumes, value)
			value = filepath.Join(dir, key)
			if err := os.WriteFile(value, []byte(secret[key]), 0o400); err != nil {
				t.Fatal(err)
			}
		case listeners[short] != "":
			host, _, err := net.SplitHostPort(value)
			if err != nil {
				t.Fatal(err)
			}
			value = net.JoinHostPort(host, "0")
		case strings.HasPrefix(value, "sqlite:"):
			at := strings.TrimPrefix(value, "sqlite:")
			if !slices.ContainsFunc(one.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == filepath.Dir(at) && !m.ReadOnly }) {
				t.Errorf("%s: %s is on no volume", p.name, value)
			}
			value = "sqlite:" + filepath.Join(dir, filepath.Base(at))
		}
		o.Env[short] = value
	}
	return o
}

// The real binary starts with the settings of each pod, once the placeholders
// are filled in, and every probe, port and path that a manifest names is one
// that it serves.
func TestStart(t *testing.T) {
	t.Parallel()
	known := settings(t)
	eachRendering(t, func(t *testing.T, r rendering, m *manifests) {
		databaseURL := ""
		if r.postgres {
			databaseURL = process.Postgres(t).URL
		}
		for _, p := range m.pods {
			t.Run(p.name, func(t *testing.T) {
				o := options(t, m, p, secretValues(databaseURL))
				o.Lark = larktest.Start(t, nil)
				o.Env["APP_ID"] = larktest.AppID
				running := process.Start(t, o)
				checkPorts(t, m, p, known)
				checkProbes(t, p, running)
				checkConsent(t, p, running)
				checkCalls(t, m, p, running)
				if status := running.Stop(); status != 0 {
					t.Errorf("exit status %d", status)
				}
			})
		}
	})
}

// As the files stand, without what people have to fill in, it refuses to start
// and says what is missing.
func TestPlaceholdersAreRefused(t *testing.T) {
	t.Parallel()
	empty := example(t).StringData
	eachRendering(t, func(t *testing.T, r rendering, m *manifests) {
		for _, p := range m.pods {
			o := options(t, m, p, empty)
			if r.chart != nil {
				o.Env["APP_ID"] = "" // the chart refuses that itself
			}
			result := process.Run(t, o)
			if result.Status != 2 {
				t.Errorf("%s: exit status %d\n%s", p.name, result.Status, result.Stderr)
			}
			missing := []string{"LARKSIDE_APP_ID"}
			for name := range o.Env {
				if strings.HasSuffix(name, "_FILE") {
					missing = append(missing, "LARKSIDE_"+name)
				}
			}
			for _, name := range missing {
				if !strings.Contains(result.Stderr, name+": ") {
					t.Errorf("%s: no line about %s:\n%s", p.name, name, result.Stderr)
				}
			}
		}
	})
}

// checkPorts compares the ports that a container says it has with the settings.
func checkPorts(t *testing.T, m *manifests, p pod, known map[string]setting) {
	one := larkside(t, p)
	env := m.environment(t, one)
	for name, port := range listeners {
		address := cmp.Or(env["LARKSIDE_"+name], known["LARKSIDE_"+name].Default)
		i := slices.IndexFunc(one.Ports, func(x corev1.ContainerPort) bool { return x.Name == port })
		if i < 0 {
			if address != "off" && !strings.HasPrefix(address, "127.0.0.1:") {
				t.Errorf("%s: %s=%s is open to others and no port of the container", p.name, name, address)
			}
			continue
		}
		if want := fmt.Sprintf(":%d", one.Ports[i].ContainerPort); address != want {
			t.Errorf("%s: port %s is %s, LARKSIDE_%s is %s", p.name, port, want, name, address)
		}
	}
}

// checkProbes asks what the kubelet would ask.
func checkProbes(t *testing.T, p pod, running *process.Process) {
	one := larkside(t, p)
	probes := map[string]*corev1.Probe{"startup": one.StartupProbe, "readiness": one.ReadinessProbe, "liveness": one.LivenessProbe}
	if probes["liveness"] == nil {
		t.Errorf("%s: no liveness probe", p.name)
	}
	for name, probe := range probes {
		switch {
		case probe == nil:
		case probe.HTTPGet != nil:
			// Never the proxy listener, which answers for Lark.
			if probe.HTTPGet.Port.StrVal != "admin" || portOf(p, probe.HTTPGet.Port) == 0 {
				t.Errorf("%s: the %s probe asks port %s", p.name, name, probe.HTTPGet.Port.String())
			}
			// As the kubelet does: by the pod's address, without a key.
			a := running.Admin(t, http.MethodGet, probe.HTTPGet.Path, "Host", "10.1.2.3:8081")
			if a.Status != http.StatusOK {
				t.Errorf("%s: the %s probe: %d %s", p.name, name, a.Status, a.Body)
			}
			if name == "liveness" && probe.HTTPGet.Path != "/healthz" {
				t.Errorf("%s: a restart mends nothing that %s tells of", p.name, probe.HTTPGet.Path)
			}
		case probe.Exec != nil:
			checkCommand(t, p, running, probe.Exec.Command)
		default:
			t.Errorf("%s: the %s probe is of an unknown kind", p.name, name)
		}
		if probe != nil && probe.Exec != nil && slices.Contains(probe.Exec.Command, "wait") {
			timeout, err := time.ParseDuration(strings.TrimPrefix(probe.Exec.Command[2], "--timeout="))
			if err != nil || timeout >= time.Duration(probe.TimeoutSeconds)*time.Second {
				t.Errorf("%s: the %s probe is given up before it has an answer: %v", p.name, name, err)
			}
		}
	}
	if one.Lifecycle != nil && one.Lifecycle.PostStart != nil {
		checkCommand(t, p, running, one.Lifecycle.PostStart.Exec.Command)
	}
	native := one.RestartPolicy != nil && *one.RestartPolicy == corev1.ContainerRestartPolicyAlways
	if native && one.StartupProbe == nil {
		t.Errorf("%s: the app would not wait for larkside", p.name)
	}
	if p.template.Spec.RestartPolicy == corev1.RestartPolicyNever && !native {
		checkQuits(t, p)
	}
}

// checkCommand runs a command that a manifest runs in the container.
func checkCommand(t *testing.T, p pod, running *process.Process, command []string) {
	if command[0] != "/larkside" {
		t.Errorf("%s: the image has no %s", p.name, command[0])
		return
	}
	// Port 0 is known to the running process only.
	if r := running.Command(t, append(slices.Clone(command[1:]), "--admin", running.AdminURL)); r.Status != 0 {
		t.Errorf("%s: %q: exit status %d: %s", p.name, command, r.Status, r.Stderr)
	}
}

// checkConsent asks for the consent pages where they are on.
func checkConsent(t *testing.T, p pod, running *process.Process) {
	if running.ConsentURL == "" {
		return
	}
	a := process.Do(t, process.NewRequest(t, http.MethodGet, running.ConsentURL+"/consent/start", "", ""))
	if a.Status != http.StatusBadRequest {
		t.Errorf("%s: /consent/start: %d %s", p.name, a.Status, a.Body)
	}
}

// checkCalls calls as an app would: beside a sidecar without a key, through the
// gateway's Service under each of its names with one.
func checkCalls(t *testing.T, m *manifests, p pod, running *process.Process) {
	const path = "/open-apis/apaas/v1/larktest/echo"
	if portOf(p, intstrProxy) == 0 {
		if a := running.Get(t, path, larktest.Alice); a.Name() != "authorization_required" {
			t.Errorf("%s: %d %s", p.name, a.Status, a.Body)
		}
		return
	}
	for _, s := range m.services {
		if s.Spec.Ports[0].TargetPort != intstrProxy {
			continue
		}
		for _, host := range []string{s.Name, s.Name + "." + s.Namespace, s.Name + "." + s.Namespace + ".svc", s.Name + "." + s.Namespace + ".svc.cluster.local"} {
			a := running.Get(t, path, larktest.Alice, "Host", host, "X-Larkside-Key", "a-caller-key-of-this-test")
			if a.Name() != "authorization_required" {
				t.Errorf("%s as %s: %d %s", p.name, host, a.Status, a.Body)
			}
			if a := running.Get(t, path, larktest.Alice, "Host", host); a.Name() != "caller_unauthenticated" {
				t.Errorf("%s as %s without a key: %d %s", p.name, host, a.Status, a.Body)
			}
		}
	}
}

// checkQuits looks for a way to the end of a Job with two ordinary containers.
func checkQuits(t *testing.T, p pod) {
	all := p.template.Spec.Containers
	if all[0].Name != "larkside" || all[0].Lifecycle == nil || all[0].Lifecycle.PostStart == nil {
		t.Errorf("%s: the job may start before larkside is ready", p.name)
	}
	if !strings.Contains(strings.Join(all[1].Args, " "), "/quitquitquit") {
		t.Errorf("%s: nobody tells larkside to stop", p.name)
	}
}

// The script of the Job without a native sidecar ends larkside, also when its
// work fails, and keeps the work's exit status.
func TestJobQuits(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the script is for an image with curl, and there is none here")
	}
	jobs := render(t, rendering{dir: "jobs"})
	i := slices.IndexFunc(jobs.pods, func(p pod) bool { return p.name == "job-quitquitquit" })
	script := jobs.pods[i].template.Spec.Containers[1]
	for name, want := range map[string]int{"work done": 0, "work failed": 22} { // curl's for an HTTP error
		t.Run(name, func(t *testing.T) {
			lark, db := larktest.Start(t, nil), process.SQLite(t)
			if want == 0 {
				process.Seed(t, db, lark, 0, larktest.Alice)
			}
			running := process.Start(t, process.Options{Lark: lark, DB: db})
			work := strings.NewReplacer("http://127.0.0.1:8080", running.URL, "http://127.0.0.1:8081", running.AdminURL,
				"ou_7d8a6e6df7621556ce0d21922b676706", larktest.Alice,
				"/open-apis/apaas/v1/workspaces/workspace_aadimx5uzpsls/tables", "/open-apis/apaas/v1/larktest/echo").Replace(script.Args[0])
			cmd := exec.CommandContext(t.Context(), script.Command[0], script.Command[1], work)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("exit status %d, not %d\n%s", got, want, out)
			}
			if status := running.Wait(); status != 0 {
				t.Errorf("larkside's exit status %d", status)
			}
		})
	}
}
