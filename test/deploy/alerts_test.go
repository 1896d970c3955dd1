package deploy

import (
	"os"
	"reflect"
	"regexp"
	"testing"

	"sigs.k8s.io/yaml"
)

// alertRules are the rules of deploy/observability.
func alertRules(t *testing.T) (rules ruleFile, text string) {
	t.Helper()
	content, err := os.ReadFile(root + "/deploy/observability/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(content, &rules); err != nil {
		t.Fatal(err)
	}
	return rules, string(content)
}

// Each PrometheusRule has the rules of alerts.yaml, whose tests are promtool's,
// and each PodMonitor makes the job that they look for.
func TestAlertsInTheCluster(t *testing.T) {
	t.Parallel()
	rules, text := alertRules(t)
	jobs := regexp.MustCompile(`job=\\"([^"\\]*)\\"`).FindAllStringSubmatch(text, -1)
	if len(jobs) == 0 {
		t.Fatal("no rule names the job")
	}
	eachRendering(t, func(t *testing.T, _ rendering, m *manifests) {
		for _, r := range m.rules {
			if !reflect.DeepEqual(r.Spec, rules) {
				t.Errorf("PrometheusRule %s is not alerts.yaml", r.Metadata.Name)
			}
		}
		if len(m.rules) != len(m.monitors) {
			t.Errorf("%d PodMonitors, %d PrometheusRules", len(m.monitors), len(m.rules))
		}
		for _, monitor := range m.monitors {
			for _, e := range monitor.Spec.PodMetricsEndpoints {
				// The Prometheus operator's default.
				job := monitor.Metadata.Namespace + "/" + monitor.Metadata.Name
				for _, r := range e.Relabelings {
					if r.TargetLabel == "job" {
						job = r.Replacement
					}
				}
				for _, want := range jobs {
					if job != want[1] {
						t.Errorf("PodMonitor %s makes the job %q, and a rule looks for %q", monitor.Metadata.Name, job, want[1])
					}
				}
			}
		}
	})
}
