package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const chartDir = root + "/deploy/helm/larkside"

// values are a chart's.
type values = map[string]any

// everyComponent are those that the overlay gateway offers.
var everyComponent = []string{"authz", "consent", "database-ca", "hpa", "otlp", "prometheus"}

// chartValues are the values that mean what the overlay gateway does with these
// components.
func chartValues(components ...string) values {
	v := values{
		"image": values{"repository": "larkside", "tag": "devel"},
		"settings": values{
			"APP_ID":          "cli_of_this_test",
			"SCOPES":          "app_engine:workspace.table:read app_engine:workspace.table.record:read",
			"EXPECT_SESSIONS": nil,
		},
	}
	for _, c := range components {
		switch c {
		case "authz":
			v["authz"] = values{"enabled": true}
		case "consent":
			v["consent"], v["events"] = values{"enabled": true}, "http"
		case "database-ca":
			v["databaseCA"] = values{"configMapName": "larkside-database-ca"}
		case "hpa":
			v["autoscaling"] = values{"enabled": true}
		case "otlp":
			v["otel"] = values{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel-collector.observability.svc.cluster.local:4317",
				"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
				"OTEL_METRICS_EXPORTER":       "none",
			}
		case "prometheus":
			v["podMonitor"], v["prometheusRule"] = values{"enabled": true}, values{"enabled": true}
		}
	}
	return v
}

// readChart reads it once: helm logs each symbolic link that it follows.
var readChart = sync.OnceValues(func() (*chart.Chart, error) { return loader.LoadDir(chartDir) })

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := readChart()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// helmFiles does what "helm template larkside --namespace larkside" does.
func helmFiles(t *testing.T, v values) (map[string]string, error) {
	t.Helper()
	c := loadChart(t)
	capabilities := *chartutil.DefaultCapabilities
	capabilities.KubeVersion = chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}
	if !chartutil.IsCompatibleRange(c.Metadata.KubeVersion, capabilities.KubeVersion.Version) {
		t.Fatalf("the chart does not take Kubernetes %s", capabilities.KubeVersion.Version)
	}
	all, err := chartutil.ToRenderValues(c, v, chartutil.ReleaseOptions{Name: "larkside", Namespace: "larkside", IsInstall: true}, &capabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// helmed are the documents of the chart, in the namespace that helm installs them in.
func helmed(t *testing.T, r rendering) (documents [][]byte) {
	t.Helper()
	files, err := helmFiles(t, r.chart)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) != ".yaml" {
			continue
		}
		for document := range strings.SplitSeq(files[name], "\n---\n") {
			object := values{}
			if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, document)
			}
			if len(object) == 0 {
				continue
			}
			object["metadata"].(values)["namespace"] = "larkside"
			text, err := yaml.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			documents = append(documents, text)
		}
	}
	return documents
}

// The chart and the overlay gateway, with each component and with all, are two ways
// to the same objects.
func TestChartEqualsOverlay(t *testing.T) {
	t.Parallel()
	cases := map[string][]string{"nothing": {}, "all": everyComponent}
	for _, c := range everyComponent {
		cases[c] = []string{c}
	}
	// None of these lists is a command, whose order would mean something.
	anyOrder := cmpopts.SortSlices(func(a, b any) bool { return fmt.Sprint(a) < fmt.Sprint(b) })
	for name, components := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			overlay := canonical(t, kustomized(t, rendering{dir: "overlays/gateway", components: components}))
			chart := canonical(t, helmed(t, rendering{chart: chartValues(components...)}))
			if len(chart) < 8 {
				t.Errorf("only %d objects", len(chart))
			}
			if diff := cmp.Diff(overlay, chart, anyOrder); diff != "" {
				t.Errorf("- overlay, + chart:\n%s", diff)
			}
		})
	}
}

// canonical are the objects by kind and name, without what is different in every
// release, and with one name for what means the same.
func canonical(t *testing.T, documents [][]byte) map[string]values {
	t.Helper()
	same := strings.NewReplacer(
		// The overlays select by labels that a sidecar has too. Here all mean the pods
		// of the one Deployment.
		`{"larkside":"true"}`, `{"app":"larkside"}`,
		`{"larkside-consent":"true"}`, `{"app":"larkside"}`,
		`,"larkside-consent":"true"`, ``,
		`,"imagePullPolicy":"IfNotPresent"`, ``, // the default
	)
	// kustomize puts a hash into the name, the chart into an annotation.
	hashed := regexp.MustCompile(`"larkside-[0-9a-z]{10}"`)
	objects := map[string]values{}
	for _, text := range documents {
		object, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := object.(*corev1.Namespace); ok {
			continue // helm install --create-namespace
		}
		encoded, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		o := values{}
		if err := json.Unmarshal([]byte(hashed.ReplaceAllString(same.Replace(string(encoded)), `"larkside"`)), &o); err != nil {
			t.Fatal(err)
		}
		metadata := o["metadata"].(values)
		if labels, ok := metadata["labels"].(values); ok {
			for _, l := range []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"} {
				delete(labels, l)
			}
		}
		if data, ok := o["data"].(values); ok {
			data["LARKSIDE_APP_ID"] = ""
		}
		if spec, ok := o["spec"].(values); ok && o["kind"] == "Deployment" {
			pod := spec["template"].(values)["metadata"].(values)
			delete(pod, "annotations")
			for _, l := range []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version"} {
				delete(pod["labels"].(values), l)
			}
		}
		objects[fmt.Sprint(o["kind"], " ", metadata["name"])] = o
	}
	return objects
}

// helm lint finds nothing to say, with the values as they stand and with all parts
// switched on.
func TestChartLint(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]values{"as it stands": {}, "all": chartValues(everyComponent...)} {
		for _, m := range lint.AllWithKubeVersion(chartDir, v, "larkside", &chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}).Messages {
			// A chart without an icon is one in a list of them.
			if m.Severity > support.InfoSev || !strings.Contains(m.Err.Error(), "icon is recommended") {
				t.Errorf("%s: %s", name, m)
			}
		}
	}
}

// What can't be meant is refused before anything is installed, with the value's name.
func TestChartRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(values)
		want   string
	}{
		"no app":                       {func(v values) { delete(v["settings"].(values), "APP_ID") }, "settings.APP_ID is missing"},
		"a value that is not there":    {func(v values) { v["replicas"] = 3 }, "replicas"},
		"a secret among the settings":  {func(v values) { v["settings"].(values)["APP_SECRET"] = "x" }, "APP_SECRET"},
		"its file":                     {func(v values) { v["settings"].(values)["CALLER_KEYS_FILE"] = "/x" }, "CALLER_KEYS_FILE"},
		"the prefix":                   {func(v values) { v["settings"].(values)["LARKSIDE_CARD"] = "off" }, "LARKSIDE_CARD"},
		"off without quotes":           {func(v values) { v["settings"].(values)["CARD"] = false }, "CARD"},
		"what the chart decides":       {func(v values) { v["settings"].(values)["LISTEN"] = ":1" }, "LISTEN"},
		"events to a closed listener":  {func(v values) { v["events"] = "http" }, "consent.enabled"},
		"a short digest":               {func(v values) { v["image"].(values)["digest"] = "sha256:0" }, "digest"},
		"two authorities":              {func(v values) { v["databaseCA"] = values{"configMapName": "a", "secretName": "b"} }, "databaseCA"},
		"a peer that is no object":     {func(v values) { v["networkPolicy"] = values{"postgres": []any{"10.0.0.0/8"}} }, "postgres"},
		"a variable of something else": {func(v values) { v["otel"] = values{"PATH": "/"} }, "PATH"},
		"another label that selects":   {func(v values) { v["podLabels"] = values{"app": "mine"} }, "'app'"},
		"a secret that it has already": {func(v values) { v["extraSecretFiles"] = values{"CALLER_KEYS": "keys"} }, "CALLER_KEYS"},
		"fewer at the most than at least": {func(v values) {
			v["autoscaling"] = values{"enabled": true, "minReplicas": 5, "maxReplicas": 4}
		}, "autoscaling.maxReplicas"},
	} {
		v := chartValues()
		c.change(v)
		if _, err := helmFiles(t, v); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No setting that is a secret, or that a secret can be in, gets into a release's
// values.
func TestChartTakesNoSecrets(t *testing.T) {
	t.Parallel()
	for name, s := range settings(t) {
		if name = strings.TrimPrefix(name, "LARKSIDE_"); !s.Secret && s.File == "" {
			continue
		}
		v := chartValues()
		v["settings"].(values)[name] = "postgres://u:p@h/d"
		if _, err := helmFiles(t, v); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Settings arrive as they were written.
func TestChartSettings(t *testing.T) {
	t.Parallel()
	v := chartValues()
	written := v["settings"].(values)
	for name, value := range (values{"CACHE_SIZE": 2e6, "REFRESH_THRESHOLD": 0.25, "REFRESH_SWEEP": 0.0, "PROPAGATE_TRACE": false, "EXPECT_SESSIONS": true, "CARD_TITLE": "", "CARD": "off"}) {
		written[name] = value
	}
	v["extraSecretFiles"] = values{"APPS": "apps"}
	v["extraHosts"] = []any{"lark.example.com"}
	m := render(t, rendering{chart: v})
	one := larkside(t, m.pods[0])
	env := m.environment(t, one)
	for name, want := range map[string]string{
		"CACHE_SIZE": "2000000", "REFRESH_THRESHOLD": "0.25", "REFRESH_SWEEP": "0", "PROPAGATE_TRACE": "false",
		"EXPECT_SESSIONS": "true", "CARD": "off", "APPS_FILE": "/run/secrets/larkside/apps",
		"ALLOW_HOSTS": "larkside,larkside.larkside,larkside.larkside.svc,larkside.larkside.svc.cluster.local,lark.example.com",
	} {
		if got := env["LARKSIDE_"+name]; got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	if _, ok := env["LARKSIDE_CARD_TITLE"]; ok {
		t.Error("an empty setting hides its default")
	}
	volumes := map[string]corev1.Volume{}
	for _, v := range m.pods[0].template.Spec.Volumes {
		volumes[v.Name] = v
	}
	if key, _ := secretKey(one, volumes, env["LARKSIDE_APPS_FILE"]); key != "apps" {
		t.Errorf("apps come from key %q", key)
	}
}

// Pods have the labels that people and tools group by, and theirs; and no hook that
// Kubernetes before 1.33 refuses.
func TestChartPods(t *testing.T) {
	t.Parallel()
	v := chartValues()
	v["podLabels"], v["preStopSeconds"] = values{"team": "crm"}, 0.0
	pod := render(t, rendering{chart: v}).pods[0].template
	for name, want := range map[string]string{"app.kubernetes.io/name": "larkside", "app.kubernetes.io/instance": "larkside", "team": "crm"} {
		if got := pod.Labels[name]; got != want {
			t.Errorf("label %s is %q, not %q", name, got, want)
		}
	}
	if l := larkside(t, render(t, rendering{chart: v}).pods[0]).Lifecycle; l != nil {
		t.Errorf("preStop sleeps for %+v", l.PreStop.Sleep)
	}
}

// The dashboard and the rules in the chart are those of deploy/observability, also
// once it is packaged.
func TestChartPackage(t *testing.T) {
	t.Parallel()
	v := chartValues("prometheus")
	v["dashboard"] = values{"enabled": true}
	archive, err := chartutil.Save(loadChart(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	packaged, err := loader.LoadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"alerts.yaml", "dashboard.json"} {
		want, err := os.ReadFile(filepath.Join(root, "deploy/observability", f))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(packaged.Files, func(p *chart.File) bool { return p.Name == "files/"+f && bytes.Equal(p.Data, want) }) {
			t.Errorf("the package lacks %s", f)
		}
	}
	m := render(t, rendering{chart: v})
	want, err := os.ReadFile(root + "/deploy/observability/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(m.configMaps, func(c *corev1.ConfigMap) bool { return c.Labels["grafana_dashboard"] == "1" })
	if i < 0 || strings.TrimSpace(m.configMaps[i].Data["larkside.json"]) != strings.TrimSpace(string(want)) {
		t.Error("the ConfigMap for Grafana does not hold the dashboard")
	}
}

// Nothing of a release stands on another one's feet.
func TestChartReleasesBesideEachOther(t *testing.T) {
	t.Parallel()
	c := loadChart(t)
	seen := map[string]string{}
	for _, release := range []string{"one", "two"} {
		all, err := chartutil.ToRenderValues(c, chartValues(everyComponent...), chartutil.ReleaseOptions{Name: release, Namespace: "apps"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		files, err := engine.Render(c, all)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if path.Ext(name) != ".yaml" {
				continue
			}
			for document := range strings.SplitSeq(text, "\n---\n") {
				var o struct {
					Kind     string
					Metadata struct{ Name string }
				}
				if err := yaml.Unmarshal([]byte(document), &o); err != nil || o.Kind == "" {
					continue
				}
				if id := o.Kind + " " + o.Metadata.Name; seen[id] != "" {
					t.Errorf("%s is in %s and %s", id, seen[id], release)
				} else {
					seen[id] = release
				}
				if strings.Contains(document, "app: larkside}") {
					t.Errorf("%s %s selects by a fixed name", o.Kind, o.Metadata.Name)
				}
			}
		}
	}
}
