package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metricLabels are the labels of each of our metrics, by the name that
// Prometheus sees.
var metricLabels = map[string][]string{
	"http_client_request_duration_seconds":             {"error_type", "http_request_method", "http_response_status_code", "url_template"},
	"http_server_request_duration_seconds":             {"caller", "http_request_method", "http_response_status_code", "http_route", "outcome"},
	"larkside_app_refused":                             {"app_id"},
	"larkside_build_info":                              {"goversion", "revision", "version"},
	"larkside_cache_capacity":                          {},
	"larkside_cache_entries":                           {},
	"larkside_cache_evictions_total":                   {},
	"larkside_cards_total":                             {"result"},
	"larkside_circuit_open":                            {"app_id"},
	"larkside_consent_duration_seconds":                {"flow", "state"},
	"larkside_consents_total":                          {"flow", "state"},
	"larkside_database_connections":                    {"state"},
	"larkside_database_connections_max":                {},
	"larkside_database_connections_wait_seconds_total": {},
	"larkside_database_failures_total":                 {},
	"larkside_database_listening":                      {},
	"larkside_encryption_keys":                         {},
	"larkside_events_connected":                        {"app_id"},
	"larkside_events_total":                            {"result"},
	"larkside_governor_wait_seconds":                   {"priority"},
	"larkside_lease_wait_seconds":                      {},
	"larkside_leases_total":                            {"result"},
	"larkside_profile_syncs_total":                     {"app_id", "result"},
	"larkside_readiness":                               {"check"},
	"larkside_refresh_duration_seconds":                {"class"},
	"larkside_refresh_time_to_expiry_seconds":          {},
	"larkside_refreshes_total":                         {"class"},
	"larkside_requests_waiting":                        {},
	"larkside_sessions":                                {"state"},
	"larkside_sweep_due":                               {},
	"larkside_sweep_lag_seconds":                       {},
	"larkside_token_endpoint_budget_used_ratio":        {"app_id", "period"},
	"larkside_token_lookups_total":                     {"result"},
	"larkside_tokens_unstored":                         {},
}

// elsewhere are metrics that are not ours.
var elsewhere = []string{"up", "process_resident_memory_bytes", "go_goroutines"}

// The table above, on which the others are checked, has what the code makes.
func TestMetricsAreListed(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(metricLabels)), instruments(t); !slices.Equal(got, want) {
		t.Errorf("the list has\n%q\nand the code makes\n%q", got, want)
	}
}

// Whoever builds a query reads the labels in the table of metrics.
func TestDocumentedMetricLabels(t *testing.T) {
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:larkside|http)_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(read(t, "deploy/docs/metrics.md"), -1) {
		var got []string
		for _, label := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[2], -1) {
			got = append(got, label[1])
		}
		slices.Sort(got)
		if !slices.Equal(got, metricLabels[row[1]]) {
			t.Errorf("%s has the labels %q and should have %q", row[1], got, metricLabels[row[1]])
		}
	}
}

type dashboard struct {
	Title         string
	UID           string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Definition string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr, RefID string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "deploy/observability/dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// What Grafana needs to show it: unique ids, no panel over another, variables
// that are used and defined.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 36 {
		t.Errorf("title %q, uid %q, schema version %d", d.Title, d.UID, d.SchemaVersion)
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.Type == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: an id twice, or nothing to show", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies over %q, or outside", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
	}
	var defined []string
	for _, v := range d.Templating.List {
		defined = append(defined, v.Name)
	}
	if !slices.Equal(defined, []string{"datasource", "job", "app"}) {
		t.Errorf("variables %q", defined)
	}
	for _, used := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(read(t, "deploy/observability/dashboard.json"), -1) {
		if !slices.Contains(append(defined, "__rate_interval", "__all"), used[1]) {
			t.Errorf("variable $%s is not defined", used[1])
		}
	}
}

// A panel or an alert on a metric that nobody makes is quietly empty for ever.
func TestQueriesNameWhatExists(t *testing.T) {
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			checkQuery(t, "panel "+p.Title, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if inner, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			metric, label, _ := strings.Cut(strings.TrimSuffix(inner, ")"), ", ")
			checkQuery(t, "variable "+v.Name, fmt.Sprintf("sum by (%s) (%s)", label, metric))
		}
	}
	for _, rule := range alerts(t) {
		checkQuery(t, "alert "+rule["alert"], rule["expr"])
	}
}

// alerts reads the rules, whose YAML is one "key: value" a line and whose quoted
// values are JSON too.
func alerts(t *testing.T) (rules []map[string]string) {
	t.Helper()
	for line := range strings.Lines(read(t, "deploy/observability/alerts.yaml")) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if name, ok := strings.CutPrefix(key, "- alert"); ok && name == "" {
			rules, key = append(rules, map[string]string{}), "alert"
		}
		if len(rules) == 0 {
			continue
		}
		if strings.HasPrefix(value, `"`) {
			if err := json.Unmarshal([]byte(value), &value); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		rules[len(rules)-1][key] = value
	}
	return rules
}

// Someone who is woken up reads what it is and what to do, and the page for
// whoever is on call has it (TestOperatingNamesEverything).
func TestAlertsSayWhatToDo(t *testing.T) {
	rules := alerts(t)
	if len(rules) < 10 {
		t.Fatalf("%d rules", len(rules))
	}
	for _, rule := range rules {
		for _, key := range []string{"summary", "description", "runbook", "severity", "expr"} {
			if rule[key] == "" {
				t.Errorf("alert %s has no %s", rule["alert"], key)
			}
		}
		for _, c := range regexp.MustCompile(`"larkside ([a-z]+)`).FindAllStringSubmatch(rule["runbook"], -1) {
			if !slices.Contains([]string{"doctor", "keys"}, c[1]) {
				t.Errorf("alert %s: command %q", rule["alert"], c[1])
			}
		}
	}
}

var (
	quoted   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	braces   = regexp.MustCompile(`\{[^}]*\}`)
	grouping = regexp.MustCompile(`\b(by|without|on|ignoring)\s*\(([^)]*)\)`)
	ranges   = regexp.MustCompile(`\[[^\]]*\]|\boffset \w+`)
	word     = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	matcher  = regexp.MustCompile(`([a-zA-Z_]\w*)\s*(=~|!~|!=|=)`)
)

// checkQuery splits a query of PromQL into the metrics and labels that it
// names. That it is a query at all is promtool's to say.
func checkQuery(t *testing.T, where, expr string) {
	t.Helper()
	plain := ranges.ReplaceAllString(quoted.ReplaceAllString(expr, `""`), "")
	var labels []string
	for _, b := range braces.FindAllString(plain, -1) {
		for _, m := range matcher.FindAllStringSubmatch(b, -1) {
			labels = append(labels, m[1])
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(plain, -1) {
		for label := range strings.SplitSeq(g[2], ",") {
			labels = append(labels, strings.TrimSpace(label))
		}
	}
	known := []string{"job", "namespace", "instance", "otel_metric_overflow", "__name__"}
	found := false
	for _, w := range word.FindAllString(grouping.ReplaceAllString(braces.ReplaceAllString(plain, ""), ""), -1) {
		if strings.HasSuffix(w, "(") || slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, strings.TrimSpace(w)) {
			continue
		}
		name := strings.TrimSpace(w)
		found = true
		base, histogram := name, false
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if b, ok := strings.CutSuffix(name, suffix); ok && strings.HasSuffix(b, "_seconds") {
				base, histogram = b, true
			}
		}
		of, ours := metricLabels[base]
		if !ours && !slices.Contains(elsewhere, name) {
			t.Errorf("%s: there is no metric %s", where, name)
		}
		if histogram {
			known = append(known, "le")
		}
		known = append(known, of...)
	}
	if !found && !strings.Contains(expr, "__name__") {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	for _, label := range labels {
		if !slices.Contains(known, label) {
			t.Errorf("%s: there is no label %s in %s", where, label, expr)
		}
	}
}

// promtool runs Prometheus's own tool in deploy/observability.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing: apt-get install prometheus")
		}
		t.Skip("promtool is not installed")
	}
	c := exec.Command(path, args...)
	c.Dir = "../deploy/observability"
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Each alert fires on what it is about, and none on a healthy day.
func TestAlertsFire(t *testing.T) {
	if testing.Short() {
		t.Skip("promtool goes through hours of samples")
	}
	promtool(t, "check", "rules", "alerts.yaml")
	promtool(t, "test", "rules", "alerts_test.yaml")
	fires := map[string]bool{} // in the test that bears its name
	for _, test := range strings.Split(read(t, "deploy/observability/alerts_test.yaml"), "\n  - name: ")[1:] {
		name, _, _ := strings.Cut(test[:strings.Index(test, "\n")], ",")
		if strings.Contains(test, `- labels: '{alertname="`+name+`"}'`+"\n            value: 1") {
			fires[name] = true
		}
	}
	for _, rule := range alerts(t) {
		if !fires[rule["alert"]] {
			t.Errorf("no test of promtool's has alert %s fire", rule["alert"])
		}
	}
}

// Every query of the dashboard is one that Prometheus parses.
func TestDashboardQueriesParse(t *testing.T) {
	var b strings.Builder
	b.WriteString("groups:\n- name: dashboard\n  rules:\n")
	n := 0
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$app", ".*").Replace(target.Expr)
			text, err := json.Marshal(expr)
			if err != nil {
				t.Fatal(err)
			}
			n++
			fmt.Fprintf(&b, "  - record: panel:%d:%d\n    expr: %s\n", p.ID, n, text)
		}
	}
	file := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}
