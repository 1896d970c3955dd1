package deploy

import (
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func labelsOf(m map[string]string) labels.Set { return m }

// Every pod passes the strictest of Kubernetes' pod security standards, by the
// code that a cluster judges with, and a little more.
func TestPodSecurity(t *testing.T) {
	t.Parallel()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	eachRendering(t, func(t *testing.T, _ rendering, m *manifests) {
		for _, p := range m.pods {
			results := evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &p.template.ObjectMeta, &p.template.Spec)
			if r := policy.AggregateCheckResults(results); !r.Allowed {
				t.Errorf("%s: %s: %s", p.name, r.ForbiddenReason(), r.ForbiddenDetail())
			}
			s := p.template.Spec
			if s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken {
				t.Errorf("%s: has a token for the Kubernetes API", p.name)
			}
			if u := s.SecurityContext.RunAsUser; u == nil || *u != 65532 {
				t.Errorf("%s: not user 65532, as the image", p.name)
			}
			for _, one := range containers(p) {
				if o := one.SecurityContext.ReadOnlyRootFilesystem; o == nil || !*o {
					t.Errorf("%s/%s: may write to its root file system", p.name, one.Name)
				}
				if one.Resources.Requests.Cpu().IsZero() || one.Resources.Requests.Memory().IsZero() || one.Resources.Limits.Memory().IsZero() {
					t.Errorf("%s/%s: resources are missing", p.name, one.Name)
				}
			}
		}
	})
}

func containers(p pod) []corev1.Container {
	return slices.Concat(p.template.Spec.InitContainers, p.template.Spec.Containers)
}

// larkside is the pod's container with Larkside in it.
func larkside(t *testing.T, p pod) corev1.Container {
	t.Helper()
	all := containers(p)
	i := slices.IndexFunc(all, func(c corev1.Container) bool { return strings.HasPrefix(c.Image, "larkside:") })
	if i < 0 {
		t.Fatalf("%s has no larkside", p.name)
	}
	return all[i]
}

// environment is what a container sees, from ConfigMaps and by itself.
func (m *manifests) environment(t *testing.T, one corev1.Container) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, from := range one.EnvFrom {
		i := slices.IndexFunc(m.configMaps, func(m *corev1.ConfigMap) bool { return m.Name == from.ConfigMapRef.Name })
		if i < 0 {
			t.Fatalf("%s: there is no ConfigMap %s", one.Name, from.ConfigMapRef.Name)
		}
		for k, v := range m.configMaps[i].Data {
			env[k] = v
		}
	}
	for _, e := range one.Env {
		if e.ValueFrom != nil {
			t.Errorf("%s: the test does not follow valueFrom of %s", one.Name, e.Name)
		}
		env[e.Name] = e.Value
	}
	return env
}

// example is the Secret that people are told to make.
func example(t *testing.T) *corev1.Secret {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(kubernetes, "secret.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	object, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return object.(*corev1.Secret)
}

// The operator makes the same Secret that people make by hand.
func TestExternalSecret(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(kubernetes, "external-secret.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	object, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	made, byHand := object.(*externalSecret), example(t)
	var keys []string
	for _, d := range made.Spec.Data {
		keys = append(keys, d.SecretKey)
	}
	if want := slices.Collect(maps.Keys(byHand.StringData)); made.Spec.Target.Name != byHand.Name || !equalSets(keys, want) {
		t.Errorf("it makes %s with %q, and secret.example.yaml has %s with %q", made.Spec.Target.Name, keys, byHand.Name, want)
	}
}

func equalSets(a, b []string) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// Whatever is mounted, referred to or selected is there.
func TestReferences(t *testing.T) {
	t.Parallel()
	secret := example(t)
	eachRendering(t, func(t *testing.T, _ rendering, m *manifests) {
		for _, p := range m.pods {
			if a := p.template.Spec.ServiceAccountName; !slices.ContainsFunc(m.accounts, func(s *corev1.ServiceAccount) bool { return s.Name == a }) {
				t.Errorf("%s: there is no ServiceAccount %q", p.name, a)
			}
			mounted := map[string]bool{}
			volumes := map[string]corev1.Volume{}
			for _, v := range p.template.Spec.Volumes {
				volumes[v.Name] = v
				m.checkVolume(t, secret, p, v)
			}
			for _, one := range containers(p) {
				for _, m := range one.VolumeMounts {
					mounted[m.Name] = true
					if _, ok := volumes[m.Name]; !ok {
						t.Errorf("%s/%s mounts %s, which is no volume", p.name, one.Name, m.Name)
					}
					if m.SubPath != "" {
						t.Errorf("%s/%s: a subPath is never updated", p.name, one.Name)
					}
					if v := volumes[m.Name]; v.Projected != nil && one.Name != "larkside" {
						t.Errorf("%s/%s gets the secrets", p.name, one.Name)
					}
				}
				m.checkFiles(t, one, volumes)
			}
			for name := range volumes {
				if !mounted[name] {
					t.Errorf("%s: volume %s is mounted nowhere", p.name, name)
				}
			}
		}
		m.checkSelectors(t)
	})
}

func (m *manifests) checkVolume(t *testing.T, secret *corev1.Secret, p pod, v corev1.Volume) {
	if v.PersistentVolumeClaim != nil && !slices.ContainsFunc(m.claims, func(x *corev1.PersistentVolumeClaim) bool { return x.Name == v.PersistentVolumeClaim.ClaimName }) {
		t.Errorf("%s: there is no PersistentVolumeClaim %s", p.name, v.PersistentVolumeClaim.ClaimName)
	}
	if v.Projected == nil {
		return
	}
	// Readable by the group that fsGroup makes, and by nobody else.
	if m := v.Projected.DefaultMode; m == nil || *m != 0o440 || p.template.Spec.SecurityContext.FSGroup == nil {
		t.Errorf("%s: volume %s is not 0440 with an fsGroup", p.name, v.Name)
	}
	for _, source := range v.Projected.Sources {
		if source.Secret.Name != secret.Name {
			t.Errorf("%s: there is no Secret %s", p.name, source.Secret.Name)
		}
		for _, item := range source.Secret.Items {
			if _, ok := secret.StringData[item.Key]; !ok {
				t.Errorf("%s: secret.example.yaml lacks %s", p.name, item.Key)
			}
		}
	}
}

// checkFiles looks for the file that each setting with _FILE names.
func (m *manifests) checkFiles(t *testing.T, one corev1.Container, volumes map[string]corev1.Volume) {
	for name, value := range m.environment(t, one) {
		if !strings.HasPrefix(name, "LARKSIDE_") || !strings.HasSuffix(name, "_FILE") {
			continue
		}
		if _, ok := secretKey(one, volumes, value); !ok {
			t.Errorf("%s: %s=%s, and no volume has that file", one.Name, name, value)
		}
	}
}

// secretKey is the key of the Secret that a container sees as the file.
func secretKey(one corev1.Container, volumes map[string]corev1.Volume, file string) (string, bool) {
	for _, m := range one.VolumeMounts {
		if m.MountPath != path.Dir(file) || volumes[m.Name].Projected == nil {
			continue
		}
		for _, source := range volumes[m.Name].Projected.Sources {
			for _, item := range source.Secret.Items {
				if item.Path == path.Base(file) {
					return item.Key, true
				}
			}
		}
	}
	return "", false
}

// matching are the pods that a selector selects.
func (m *manifests) matching(t *testing.T, selector *metav1.LabelSelector) []pod {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	var found []pod
	for _, p := range m.pods {
		if s.Matches(labels.Set(p.template.Labels)) {
			found = append(found, p)
		}
	}
	return found
}

func (m *manifests) checkSelectors(t *testing.T) {
	for _, s := range m.services {
		pods := m.matching(t, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		if len(pods) == 0 {
			t.Errorf("Service %s selects nothing", s.Name)
		}
		for _, p := range pods {
			for _, port := range s.Spec.Ports {
				if portOf(p, port.TargetPort) == 0 {
					t.Errorf("Service %s: %s has no port %s", s.Name, p.name, port.TargetPort.String())
				}
			}
		}
	}
	for _, b := range m.budgets {
		for _, p := range m.matching(t, b.Spec.Selector) {
			if p.replicas < 2 {
				t.Errorf("PodDisruptionBudget %s: one replica could never be moved", b.Name)
			}
		}
		if len(m.matching(t, b.Spec.Selector)) == 0 {
			t.Errorf("PodDisruptionBudget %s selects nothing", b.Name)
		}
	}
	for _, p := range m.pods {
		if p.replicas > 1 && len(m.budgets) == 0 {
			t.Errorf("%s has no PodDisruptionBudget", p.name)
		}
	}
	for _, n := range m.policies {
		pods := m.matching(t, &n.Spec.PodSelector)
		if len(pods) == 0 {
			t.Errorf("NetworkPolicy %s selects nothing", n.Name)
		}
		for _, rule := range n.Spec.Ingress {
			for _, port := range rule.Ports {
				if !slices.ContainsFunc(pods, func(p pod) bool { return portOf(p, *port.Port) != 0 }) {
					t.Errorf("NetworkPolicy %s: no pod has port %s", n.Name, port.Port)
				}
			}
			if len(rule.From) == 0 {
				t.Errorf("NetworkPolicy %s lets everybody in", n.Name)
			}
		}
	}
	for _, p := range m.pods {
		if !slices.ContainsFunc(m.policies, func(n *networkingv1.NetworkPolicy) bool {
			return len(n.Spec.PolicyTypes) == 2 && slices.ContainsFunc(m.matching(t, &n.Spec.PodSelector), func(x pod) bool { return x.name == p.name })
		}) {
			t.Errorf("%s: no NetworkPolicy closes it", p.name)
		}
	}
	for _, monitor := range m.monitors {
		pods := m.matching(t, &monitor.Spec.Selector)
		for _, p := range pods {
			for _, e := range monitor.Spec.PodMetricsEndpoints {
				if portOf(p, intstr.FromString(e.Port)) == 0 || e.Path != "/metrics" {
					t.Errorf("PodMonitor %s: %s has no %s%s", monitor.Metadata.Name, p.name, e.Port, e.Path)
				}
			}
		}
		if len(pods) == 0 {
			t.Errorf("PodMonitor %s selects nothing", monitor.Metadata.Name)
		}
	}
	for _, i := range m.ingresses {
		for _, rule := range i.Spec.Rules {
			for _, p := range rule.HTTP.Paths {
				m.checkBackend(t, i.Name, p)
			}
		}
	}
}

// A cluster's DNS has other labels, ports and places with each provider, and a pod
// that can't resolve a name never gets ready.
func TestDNSIsReached(t *testing.T) {
	t.Parallel()
	eachRendering(t, func(t *testing.T, _ rendering, m *manifests) {
		for _, p := range m.pods {
			for name, to := range map[string]resolver{
				"CoreDNS as of kubeadm":      {labels: labels.Set{"k8s-app": "kube-dns"}, port: 53},
				"CoreDNS by its Helm chart":  {labels: labels.Set{"app.kubernetes.io/name": "coredns"}, port: 53},
				"OpenShift":                  {labels: labels.Set{"dns.operator.openshift.io/daemonset-dns": "default"}, port: 5353},
				"NodeLocal DNSCache":         {address: "169.254.20.10", port: 53},
				"a node's own":               {address: "10.0.3.7", port: 53},
				"a Service before its DNAT":  {address: "172.20.0.10", port: 53},
				"a Service's IPv6 address":   {address: "fd00::a", port: 53},
				"not a resolver of somebody": {address: "8.8.8.8", port: 53, refused: true},
			} {
				for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
					if m.reaches(t, p, to, protocol) == to.refused {
						t.Errorf("%s: %s by %s: reached is %t", p.name, name, protocol, !to.refused)
					}
				}
			}
		}
	})
}

// resolver is a name server: pods with labels in some namespace, or an address.
type resolver struct {
	labels  labels.Set
	address string
	port    int
	refused bool
}

// reaches reports whether a NetworkPolicy lets p send to it.
func (m *manifests) reaches(t *testing.T, p pod, to resolver, protocol corev1.Protocol) bool {
	t.Helper()
	for _, n := range m.policies {
		if !slices.ContainsFunc(m.matching(t, &n.Spec.PodSelector), func(x pod) bool { return x.name == p.name }) {
			continue
		}
		for _, rule := range n.Spec.Egress {
			port := slices.ContainsFunc(rule.Ports, func(x networkingv1.NetworkPolicyPort) bool {
				return *x.Protocol == protocol && x.Port.IntValue() == to.port
			})
			if port && slices.ContainsFunc(rule.To, func(peer networkingv1.NetworkPolicyPeer) bool { return to.isOf(t, peer) }) {
				return true
			}
		}
	}
	return false
}

// isOf reports whether a rule's peer means it. Its namespace has no known label.
func (r resolver) isOf(t *testing.T, peer networkingv1.NetworkPolicyPeer) bool {
	t.Helper()
	if peer.IPBlock != nil {
		address, err := netip.ParseAddr(r.address)
		return err == nil && netip.MustParsePrefix(peer.IPBlock.CIDR).Contains(address) &&
			!slices.ContainsFunc(peer.IPBlock.Except, func(x string) bool { return netip.MustParsePrefix(x).Contains(address) })
	}
	if r.labels == nil || peer.NamespaceSelector == nil || len(peer.NamespaceSelector.MatchLabels)+len(peer.NamespaceSelector.MatchExpressions) > 0 {
		return false
	}
	if peer.PodSelector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(peer.PodSelector)
	return err == nil && s.Matches(r.labels)
}

// checkBackend lets an Ingress lead to the consent listener's pages only.
func (m *manifests) checkBackend(t *testing.T, ingress string, p networkingv1.HTTPIngressPath) {
	if !strings.HasPrefix(p.Path, "/consent/") || p.PathType == nil || *p.PathType == networkingv1.PathTypeImplementationSpecific {
		t.Errorf("Ingress %s: path %s is open to the world", ingress, p.Path)
	}
	ok := slices.ContainsFunc(m.services, func(s *corev1.Service) bool {
		return s.Name == p.Backend.Service.Name && slices.ContainsFunc(s.Spec.Ports, func(x corev1.ServicePort) bool {
			return x.Name == p.Backend.Service.Port.Name && x.TargetPort.StrVal == "consent"
		})
	})
	if !ok {
		t.Errorf("Ingress %s: no Service leads %s to the consent listener", ingress, p.Path)
	}
}

// portOf is the number of a pod's port, by name or number; 0 if it has none.
func portOf(p pod, port intstr.IntOrString) int32 {
	for _, one := range containers(p) {
		for _, x := range one.Ports {
			if x.Name == port.StrVal && port.Type == intstr.String || x.ContainerPort == port.IntVal && port.Type == intstr.Int {
				return x.ContainerPort
			}
		}
	}
	return 0
}

// No secret stands in a manifest: neither a Secret with values nor a setting
// that should be a file.
func TestNoSecretInClear(t *testing.T) {
	t.Parallel()
	known := settings(t)
	for key, value := range example(t).StringData {
		if value != "" {
			t.Errorf("secret.example.yaml: %s has a value", key)
		}
	}
	eachRendering(t, func(t *testing.T, _ rendering, m *manifests) {
		for _, s := range m.secrets {
			t.Errorf("an apply would overwrite the Secret %s", s.Name)
		}
		for _, p := range m.pods {
			for name, value := range m.environment(t, larkside(t, p)) {
				if known[name].Secret || known[name].File != "" && !strings.HasPrefix(value, "sqlite:") {
					t.Errorf("%s: %s=%s should be a file", p.name, name, value)
				}
			}
		}
	})
}

// A pod that is told to go has the time that all of it takes, one after the
// other: preStop, the app's own end, SHUTDOWN_GRACE and what comes after it.
func TestGrace(t *testing.T) {
	t.Parallel()
	known := settings(t)
	eachRendering(t, func(t *testing.T, _ rendering, m *manifests) {
		for _, p := range m.pods {
			text := m.environment(t, larkside(t, p))["LARKSIDE_SHUTDOWN_GRACE"]
			if text == "" {
				text = known["LARKSIDE_SHUTDOWN_GRACE"].Default
			}
			grace, err := time.ParseDuration(text)
			if err != nil {
				t.Fatal(err)
			}
			need := grace + afterGrace
			for _, one := range containers(p) {
				if one.Lifecycle != nil && one.Lifecycle.PreStop != nil {
					if one.Lifecycle.PreStop.Sleep == nil {
						t.Fatalf("%s/%s: a preStop that the image can't run", p.name, one.Name)
					}
					need += time.Duration(one.Lifecycle.PreStop.Sleep.Seconds) * time.Second
				}
			}
			if g := p.template.Spec.TerminationGracePeriodSeconds; g == nil || time.Duration(*g)*time.Second <= need {
				t.Errorf("%s: terminationGracePeriodSeconds is not above %s", p.name, need)
			}
			// Behind a Service it must not be told to stop while requests are sent.
			one := larkside(t, p)
			served := slices.ContainsFunc(one.Ports, func(x corev1.ContainerPort) bool { return x.Name == "proxy" })
			if served && (one.Lifecycle == nil || one.Lifecycle.PreStop == nil) {
				t.Errorf("%s: larkside is drained while its Service still sends", p.name)
			}
		}
	})
}
