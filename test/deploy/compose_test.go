package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// compose is what of the Compose specification's format is used here.
type compose struct {
	Services map[string]*service `json:"services"`
	Secrets  map[string]struct {
		File string `json:"file"`
	} `json:"secrets"`
	Configs map[string]struct {
		Content string `json:"content"`
	} `json:"configs"`
	Volumes map[string]*struct{} `json:"volumes"`
}

type service struct {
	Build *struct {
		Context string            `json:"context"`
		Args    map[string]string `json:"args"`
	} `json:"build"`
	Image     string `json:"image"`
	DependsOn map[string]struct {
		Condition string `json:"condition"`
		Restart   bool   `json:"restart"`
	} `json:"depends_on"`
	Environment map[string]string `json:"environment"`
	Secrets     []string          `json:"secrets"`
	Configs     []struct {
		Source string `json:"source"`
		Target string `json:"target"`
	} `json:"configs"`
	Ports       []string `json:"ports"`
	NetworkMode string   `json:"network_mode"`
	Profiles    []string `json:"profiles"`
	Entrypoint  []string `json:"entrypoint"`
	Command     []string `json:"command"`
	Volumes     []string `json:"volumes"`
	Healthcheck *struct {
		Test        []string `json:"test"`
		Interval    string   `json:"interval"`
		Timeout     string   `json:"timeout"`
		StartPeriod string   `json:"start_period"`
		Retries     int      `json:"retries"`
	} `json:"healthcheck"`
	ReadOnly        bool     `json:"read_only"`
	CapDrop         []string `json:"cap_drop"`
	SecurityOpt     []string `json:"security_opt"`
	MemLimit        string   `json:"mem_limit"`
	StopGracePeriod string   `json:"stop_grace_period"`
	Restart         string   `json:"restart"`
}

func readCompose(t *testing.T) *compose {
	t.Helper()
	text, err := os.ReadFile(root + "/deploy/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := &compose{}
	if err := yaml.UnmarshalStrict(text, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// What the compose file refers to is in it, and larkside is as closed there as
// in a cluster.
func TestCompose(t *testing.T) {
	t.Parallel()
	c, known := readCompose(t), settings(t)
	for name, s := range c.Services {
		for other, d := range s.DependsOn {
			if c.Services[other] == nil || d.Condition != "service_healthy" || c.Services[other].Healthcheck == nil {
				t.Errorf("%s waits for the health of %s, which has none", name, other)
			}
		}
		if other, ok := strings.CutPrefix(s.NetworkMode, "service:"); ok && c.Services[other] == nil {
			t.Errorf("%s shares the network of %s, which is not there", name, other)
		}
		for _, x := range s.Secrets {
			if c.Secrets[x].File == "" {
				t.Errorf("%s: there is no secret %s", name, x)
			}
		}
		for _, x := range s.Configs {
			if err := yaml.Unmarshal([]byte(c.Configs[x.Source].Content), &map[string]any{}); err != nil || c.Configs[x.Source].Content == "" {
				t.Errorf("%s: config %s: %v", name, x.Source, err)
			}
		}
		for _, v := range s.Volumes {
			if _, ok := c.Volumes[strings.Split(v, ":")[0]]; !ok {
				t.Errorf("%s: there is no volume %s", name, v)
			}
		}
		for variable, value := range s.Environment {
			if path, ok := strings.CutPrefix(value, "/run/secrets/"); ok && !slices.Contains(s.Secrets, path) {
				t.Errorf("%s: %s=%s is not among its secrets", name, variable, value)
			}
			if known[variable].Secret || known[variable].File != "" || strings.HasSuffix(variable, "PASSWORD") {
				t.Errorf("%s: %s should be a file", name, variable)
			}
		}
	}
	s := c.Services["larkside"]
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		t.Error("larkside is not closed in")
	}
	for _, p := range s.Ports {
		if !strings.HasPrefix(p, "127.0.0.1:") {
			t.Errorf("port %s is open to the network", p)
		}
	}
	grace, err := time.ParseDuration(s.Environment["LARKSIDE_SHUTDOWN_GRACE"])
	if stop, err2 := time.ParseDuration(s.StopGracePeriod); err != nil || err2 != nil || stop <= grace+afterGrace {
		t.Errorf("stop_grace_period %s, SHUTDOWN_GRACE %s: %v %v", s.StopGracePeriod, grace, err, err2)
	}
	if app := c.Services["app"]; len(app.Secrets) > 0 || app.NetworkMode != "service:larkside" {
		t.Error("the app has secrets, or is not beside larkside")
	}
}

// The real binary starts with the environment of the compose file, and its
// health check is one that it passes.
func TestComposeStart(t *testing.T) {
	t.Parallel()
	s := readCompose(t).Services["larkside"]
	db, dir := process.Postgres(t), dbtest.TempDir(t)
	o := process.Options{Lark: larktest.Start(t, nil), Env: map[string]string{"APP_SECRET": "", "DATABASE_URL": ""}}
	for name, value := range s.Environment {
		short, ours := strings.CutPrefix(name, "LARKSIDE_")
		if file, ok := strings.CutPrefix(value, "/run/secrets/"); ok {
			value = filepath.Join(dir, file)
			if err := os.WriteFile(value, []byte(secretValues(db.URL)[file]), 0o400); err != nil {
				t.Fatal(err)
			}
		}
		switch {
		case value == "${LARKSIDE_APP_ID:?}":
			value = larktest.AppID
		case value == ":8081":
			value = ":0"
		case strings.HasPrefix(value, "${"):
			value = regexp.MustCompile(`^\$\{[A-Z_]+:-(.*)\}$`).ReplaceAllString(value, "$1")
		}
		if ours {
			o.Env[short] = value
		} else {
			o.Environ = append(o.Environ, name+"="+value)
		}
	}
	running := process.Start(t, o)
	check := s.Healthcheck.Test
	if check[0] != "CMD" || check[1] != "/larkside" {
		t.Fatalf("the image can't run %q", check)
	}
	if r := running.Command(t, append(slices.Clone(check[2:]), "--admin", running.AdminURL)); r.Status != 0 {
		t.Errorf("%q: exit status %d: %s", check, r.Status, r.Stderr)
	}
}
