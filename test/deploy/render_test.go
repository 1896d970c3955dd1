package deploy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// kubernetes is where the manifests are.
const kubernetes = root + "/deploy/kubernetes"

// rendering is one thing that people apply: a directory, and components that
// they may add to it; or the chart with their values.
type rendering struct {
	name, dir  string
	components []string
	postgres   bool
	chart      values
}

var renderings = []rendering{
	{name: "sidecar-sqlite", dir: "overlays/sidecar-sqlite"},
	{name: "sidecar-postgres", dir: "overlays/sidecar-postgres", postgres: true},
	{name: "gateway", dir: "overlays/gateway", postgres: true},
	{name: "jobs", dir: "jobs", postgres: true},
	{name: "sidecar-sqlite with all", dir: "overlays/sidecar-sqlite", components: []string{"consent", "prometheus", "otlp"}},
	{name: "sidecar-postgres with all", dir: "overlays/sidecar-postgres", components: []string{"consent", "database-ca", "prometheus", "otlp"}, postgres: true},
	{name: "gateway with all", dir: "overlays/gateway", components: []string{"consent", "authz", "hpa", "database-ca", "prometheus", "otlp"}, postgres: true},
	{name: "chart", chart: chartValues(), postgres: true},
	{name: "chart with all", chart: chartValues(everyComponent...), postgres: true},
}

// eachRendering runs f on everything that people apply.
func eachRendering(t *testing.T, f func(t *testing.T, r rendering, m *manifests)) {
	for _, r := range renderings {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			f(t, r, render(t, r))
		})
	}
}

// manifests are what a cluster has after the apply, of each kind.
type manifests struct {
	pods       []pod
	configMaps []*corev1.ConfigMap
	secrets    []*corev1.Secret
	accounts   []*corev1.ServiceAccount
	claims     []*corev1.PersistentVolumeClaim
	services   []*corev1.Service
	ingresses  []*networkingv1.Ingress
	policies   []*networkingv1.NetworkPolicy
	budgets    []*policyv1.PodDisruptionBudget
	monitors   []*podMonitor
	rules      []*prometheusRule
	scalers    []*autoscalingv2.HorizontalPodAutoscaler
}

// pod is the pod of a Deployment or a Job.
type pod struct {
	name     string
	template corev1.PodTemplateSpec
	// replicas is 1 for a Job, and 0 where only an autoscaler knows it.
	replicas int32
}

// podMonitor is what of the Prometheus operator's type is used here.
type podMonitor struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
	Spec            struct {
		Selector            metav1.LabelSelector `json:"selector"`
		PodMetricsEndpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
			// Only what sets a label to a value.
			Relabelings []struct {
				TargetLabel string `json:"targetLabel"`
				Replacement string `json:"replacement"`
			} `json:"relabelings"`
		} `json:"podMetricsEndpoints"`
	} `json:"spec"`
}

// prometheusRule is the same of its rules, in the form of Prometheus' own files.
type prometheusRule struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
	Spec            ruleFile          `json:"spec"`
}

// externalSecret is what of the External Secrets operator's type is used here.
type externalSecret struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
	Spec            struct {
		RefreshInterval string `json:"refreshInterval"`
		SecretStoreRef  struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"secretStoreRef"`
		Target struct {
			Name           string `json:"name"`
			DeletionPolicy string `json:"deletionPolicy"`
		} `json:"target"`
		Data []struct {
			SecretKey string `json:"secretKey"`
			RemoteRef struct {
				Key      string `json:"key"`
				Property string `json:"property"`
			} `json:"remoteRef"`
		} `json:"data"`
	} `json:"spec"`
}

type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

// render makes what "kubectl apply -k" or "helm install" sends.
func render(t *testing.T, r rendering) *manifests {
	t.Helper()
	documents := helmed
	if r.chart == nil {
		documents = kustomized
	}
	m := &manifests{}
	for _, text := range documents(t, r) {
		object, err := decode(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		m.add(t, object)
	}
	m.scale(t)
	return m
}

// kustomizations are the documents of each overlay and its components, since each
// test looks at the same ones from another side.
var kustomizations = struct {
	sync.Mutex
	documents map[string][][]byte
}{documents: map[string][][]byte{}}

// kustomized are the documents that kustomize makes.
func kustomized(t *testing.T, r rendering) [][]byte {
	t.Helper()
	kustomizations.Lock()
	defer kustomizations.Unlock()
	key := fmt.Sprint(r.dir, r.components)
	if kustomizations.documents[key] == nil {
		kustomizations.documents[key] = runKustomize(t, r)
	}
	return kustomizations.documents[key]
}

func runKustomize(t *testing.T, r rendering) (documents [][]byte) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(kubernetes)); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, r.dir)
	if r.components != nil {
		// As the overlay would look with the lines in it no longer comments.
		path := filepath.Join(at, "kustomization.yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.components {
			line := "  # - ../../components/" + c + "\n"
			if !bytes.Contains(text, []byte(line)) {
				t.Fatalf("%s does not offer the component %s", path, c)
			}
			text = bytes.Replace(text, []byte(line), []byte("  - ../../components/"+c+"\n"), 1)
		}
		text = bytes.Replace(text, []byte("# components:\n"), []byte("components:\n"), 1)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), at)
	if err != nil {
		t.Fatal(err)
	}
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, text)
	}
	return documents
}

// scale gives each Deployment without a number of replicas its autoscaler's least.
func (m *manifests) scale(t *testing.T) {
	t.Helper()
	for _, s := range m.scalers {
		i := slices.IndexFunc(m.pods, func(p pod) bool { return p.name == s.Spec.ScaleTargetRef.Name })
		if i < 0 || m.pods[i].replicas != 0 {
			t.Errorf("HorizontalPodAutoscaler %s: its Deployment is not there, or an apply resets the replicas", s.Name)
			continue
		}
		m.pods[i].replicas = *s.Spec.MinReplicas
	}
	for _, p := range m.pods {
		if p.replicas == 0 {
			t.Errorf("%s: nobody says how many replicas", p.name)
		}
	}
}

func (m *manifests) add(t *testing.T, object any) {
	switch o := object.(type) {
	case *appsv1.Deployment:
		if s, err := metav1.LabelSelectorAsSelector(o.Spec.Selector); err != nil || s.Empty() || !s.Matches(labelsOf(o.Spec.Template.Labels)) {
			t.Errorf("Deployment %s does not select its own pods: %v", o.Name, err)
		}
		p := pod{o.Name, o.Spec.Template, 0}
		if o.Spec.Replicas != nil {
			p.replicas = *o.Spec.Replicas
		}
		m.pods = append(m.pods, p)
	case *batchv1.Job:
		m.pods = append(m.pods, pod{o.Name, o.Spec.Template, 1})
	case *corev1.ConfigMap:
		m.configMaps = append(m.configMaps, o)
	case *corev1.Secret:
		m.secrets = append(m.secrets, o)
	case *corev1.ServiceAccount:
		m.accounts = append(m.accounts, o)
	case *corev1.PersistentVolumeClaim:
		m.claims = append(m.claims, o)
	case *corev1.Service:
		m.services = append(m.services, o)
	case *networkingv1.Ingress:
		m.ingresses = append(m.ingresses, o)
	case *networkingv1.NetworkPolicy:
		m.policies = append(m.policies, o)
	case *policyv1.PodDisruptionBudget:
		m.budgets = append(m.budgets, o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		m.scalers = append(m.scalers, o)
	case *podMonitor:
		m.monitors = append(m.monitors, o)
	case *prometheusRule:
		m.rules = append(m.rules, o)
	case *corev1.Namespace:
	default:
		t.Errorf("the test does not know what to do with a %T", object)
	}
}

// newScheme knows the types of Kubernetes that are used here.
var newScheme = sync.OnceValues(func() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, batchv1.AddToScheme, autoscalingv2.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
})

// decode reads one document strictly: unknown fields, fields that stand twice
// and wrong types are errors.
func decode(text []byte) (any, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(text, &meta); err != nil {
		return nil, err
	}
	custom := map[metav1.TypeMeta]any{
		{APIVersion: "monitoring.coreos.com/v1", Kind: "PodMonitor"}:     &podMonitor{},
		{APIVersion: "monitoring.coreos.com/v1", Kind: "PrometheusRule"}: &prometheusRule{},
		{APIVersion: "external-secrets.io/v1", Kind: "ExternalSecret"}:   &externalSecret{},
	}
	if object, ok := custom[meta]; ok {
		return object, yaml.UnmarshalStrict(text, object)
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	object, _, err := strict.Decode(text, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", meta.APIVersion, meta.Kind, err)
	}
	return object, nil
}

// Each file by itself is strictly what it says, also patches, which are objects
// that lack most of their fields: kustomize itself drops what it does not know.
func TestFilesDecode(t *testing.T) {
	t.Parallel()
	decoded := 0
	for _, path := range files(t, kubernetes, ".yaml") {
		if filepath.Base(path) == "kustomization.yaml" {
			continue // read strictly by kustomize, when it is rendered
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			if _, err := decode([]byte(document)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			decoded++
		}
	}
	if decoded < 15 {
		t.Errorf("only %d files found", decoded)
	}
}

// What the cluster would refuse is refused here.
func TestDecodeIsStrict(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unknown field": "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {selectors: {a: b}}\n",
		"field twice":   "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  type: ClusterIP\n  type: NodePort\n",
		"wrong type":    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: many}\n",
		"unknown kind":  "apiVersion: v1\nkind: Servise\nmetadata: {name: x}\n",
		"quantity":      "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: x}\nspec: {resources: {requests: {storage: 1Gib}}}\n",
		"monitor":       "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: x}\nspec: {podMetricEndpoints: []}\n",
	} {
		if _, err := decode([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
