package monitoring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/golden"
	"quorate.dev/quorate/internal/spec"
)

// withPrometheus is a cluster with workers in zones.
func withPrometheus(zones ...string) *spec.Cluster {
	c := spec.DefaultLab("prod")
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleWorker) })
	c.Spec.NodePools = nil
	for i, zone := range zones {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("worker-", i+1), Roles: []string{spec.RoleWorker}, Zone: zone})
	}
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprint("10.0.0.", 11+i)
	}
	c.Spec.Monitoring = spec.Monitoring{Exporter: true, Prometheus: spec.Prometheus{Install: true}}
	c.Default()
	return c
}

func install(t *testing.T, c *spec.Cluster) ([]unstructured.Unstructured, string) {
	t.Helper()
	text, err := Install(c, func(short string) string { return "quorate.dev/" + short + ":v1" })
	if err != nil {
		t.Fatal(err)
	}
	var out []unstructured.Unstructured
	for dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		var o unstructured.Unstructured
		if err := dec.Decode(&o.Object); errors.Is(err, io.EOF) {
			return out, string(text)
		} else if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		out = append(out, o)
	}
}

// object finds one of them. It has no field that its type does not know.
func object[T any](t *testing.T, all []unstructured.Unstructured, kind, name string) (out T) {
	t.Helper()
	for _, o := range all {
		if o.GetKind() == kind && o.GetName() == name {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &out, true); err != nil {
				t.Fatalf("%s %s: %v", kind, name, err)
			}
			return out
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return out
}

// TestInstall has everything as it is applied, for workers in two zones.
func TestInstall(t *testing.T) {
	all := rules
	defer func() { rules = all }()
	rules = []byte("groups: [] # the rules have tests of their own\n")
	_, text := install(t, withPrometheus("a", "b"))
	golden.Compare(t, "install.yaml", text)
}

// TestWorkloadsAreInstalled: what is observed is what is installed.
func TestWorkloadsAreInstalled(t *testing.T) {
	var have []string
	all, _ := install(t, withPrometheus("a", "b"))
	for _, o := range all {
		if strings.HasPrefix(o.GetAPIVersion(), appsv1.GroupName+"/") {
			have = append(have, o.GetKind()+" "+o.GetName())
		}
	}
	var want []string
	for _, w := range Workloads {
		want = append(want, w.Kind+" "+w.Name)
	}
	if !slices.Equal(have, want) {
		t.Errorf("installed: %v, observed: %v", have, want)
	}
}

// TestObjectsAreKnown: the API knows every kind and every field.
func TestObjectsAreKnown(t *testing.T) {
	all, _ := install(t, withPrometheus("a", "b"))
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, o := range all {
		text, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := strict.Decode(text, nil, nil); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		if cluster := o.GetKind() == "Namespace" || strings.HasPrefix(o.GetKind(), "ClusterRole"); cluster == (o.GetNamespace() == Namespace) {
			t.Errorf("%s %s is in the namespace %q", o.GetKind(), o.GetName(), o.GetNamespace())
		}
	}
}

// TestReplicasAreApart: on different nodes always, and in different zones where there are two.
func TestReplicasAreApart(t *testing.T) {
	for name, tc := range map[string]struct {
		zones []string
		when  corev1.UnsatisfiableConstraintAction
	}{
		"three zones": {[]string{"a", "b", "c"}, corev1.DoNotSchedule},
		"two zones":   {[]string{"a", "b"}, corev1.DoNotSchedule},
		"one zone":    {[]string{"a", "a"}, corev1.ScheduleAnyway},
	} {
		all, _ := install(t, withPrometheus(tc.zones...))
		for _, program := range []string{"prometheus", "alertmanager", "kube-state-metrics"} {
			d := object[appsv1.Deployment](t, all, "Deployment", program)
			pod := d.Spec.Template.Spec
			apart := pod.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
			spread := pod.TopologySpreadConstraints
			if *d.Spec.Replicas != 2 || len(apart) != 1 || apart[0].TopologyKey != corev1.LabelHostname || len(spread) != 1 || spread[0].TopologyKey != corev1.LabelTopologyZone || spread[0].WhenUnsatisfiable != tc.when {
				t.Errorf("%s: %s: %+v, %+v", name, program, apart, spread)
			}
			for _, selects := range []map[string]string{apart[0].LabelSelector.MatchLabels, spread[0].LabelSelector.MatchLabels, d.Spec.Selector.MatchLabels} {
				for k, v := range selects {
					if d.Spec.Template.Labels[k] != v {
						t.Errorf("%s: %s selects %v, and its pods have %v", name, program, selects, d.Spec.Template.Labels)
					}
				}
			}
		}
	}
}

// TestPodsAreConfined: none is privileged, and only the one that needs the host's network has it. None but those that ask the API have a token.
func TestPodsAreConfined(t *testing.T) {
	all, _ := install(t, withPrometheus("a", "b"))
	pods := map[string]corev1.PodSpec{"node-exporter": object[appsv1.DaemonSet](t, all, "DaemonSet", "node-exporter").Spec.Template.Spec}
	for _, name := range []string{"prometheus", "alertmanager", "kube-state-metrics"} {
		pods[name] = object[appsv1.Deployment](t, all, "Deployment", name).Spec.Template.Spec
	}
	if len(pods) != len(Images) {
		t.Errorf("%d programs have %d images", len(pods), len(Images))
	}
	for name, pod := range pods {
		c := pod.Containers[0]
		if s := c.SecurityContext; s.Privileged != nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
			t.Errorf("%s: %+v", name, s)
		}
		if !*pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile == nil {
			t.Errorf("%s: %+v", name, pod.SecurityContext)
		}
		if token := pod.AutomountServiceAccountToken == nil; token != (name == "prometheus" || name == "kube-state-metrics") {
			t.Errorf("%s has a token: %t", name, token)
		}
		if host := name == "node-exporter"; pod.HostNetwork != host || pod.HostPID != host {
			t.Errorf("%s: the network of the host: %t", name, pod.HostNetwork)
		}
		if len(c.Resources.Requests) < 2 || c.Image != "quorate.dev/"+name+":v1" || !slices.Contains(Images, name) {
			t.Errorf("%s: %+v, %s", name, c.Resources, c.Image)
		}
		for _, m := range c.VolumeMounts {
			if strings.HasPrefix(m.MountPath, "/host/") && !m.ReadOnly {
				t.Errorf("%s can write to %s", name, m.MountPath)
			}
		}
	}
}

// TestThePolicySelectsNoHost: kube-network-policies takes the address of a selected pod for one whose connections it judges, even if it is that of the node.
func TestThePolicySelectsNoHost(t *testing.T) {
	all, _ := install(t, withPrometheus("a", "b"))
	policy := object[networkingv1.NetworkPolicy](t, all, "NetworkPolicy", "clients")
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil {
		t.Fatal(err)
	}
	templates := map[string]corev1.PodTemplateSpec{"node-exporter": object[appsv1.DaemonSet](t, all, "DaemonSet", "node-exporter").Spec.Template}
	for _, name := range []string{"prometheus", "alertmanager", "kube-state-metrics"} {
		templates[name] = object[appsv1.Deployment](t, all, "Deployment", name).Spec.Template
	}
	for name, pod := range templates {
		if selected := selector.Matches(labels.Set(pod.Labels)); selected == pod.Spec.HostNetwork {
			t.Errorf("%s has the network of the host: %t, and is selected: %t", name, pod.Spec.HostNetwork, selected)
		}
	}
}

// TestImagesAreInTheBundle: the bundle of a cluster with Prometheus has exactly these images more.
func TestImagesAreInTheBundle(t *testing.T) {
	for _, r := range components.Releases() {
		var added []string
		for _, i := range r.Monitored().Images[len(r.Images):] {
			added = append(added, i.Short)
		}
		if !slices.Equal(added, Images) {
			t.Errorf("%s: the bundle has %v more, and %v are needed", r.Kubernetes, added, Images)
		}
	}
}

// TestVolumesHideNoProgram: the program of an image is a file in its root, and a volume that is mounted over it keeps the container from starting.
func TestVolumesHideNoProgram(t *testing.T) {
	all, _ := install(t, withPrometheus("a", "b"))
	release, _ := components.Lookup(spec.DefaultVersion)
	for _, name := range []string{"prometheus", "alertmanager"} {
		image := release.Monitored().Images[slices.IndexFunc(release.Monitored().Images, func(i components.Image) bool { return i.Short == name })]
		for _, v := range object[appsv1.Deployment](t, all, "Deployment", name).Spec.Template.Spec.Containers[0].VolumeMounts {
			if v.MountPath == image.Entrypoint[0] || strings.HasPrefix(image.Entrypoint[0], v.MountPath+"/") {
				t.Errorf("%s: the volume %s hides %s", name, v.Name, image.Entrypoint[0])
			}
		}
	}
}

// TestLacking: a bundle that was made for another cluster is found out, and a cluster without Prometheus needs no images.
func TestLacking(t *testing.T) {
	c := withPrometheus("a", "b")
	has := map[string]string{"prometheus": "quorate.dev/prometheus:v1", "alertmanager": "quorate.dev/alertmanager:v1", "node-exporter": "quorate.dev/node-exporter:v1"}
	image := func(short string) string { return has[short] }
	if got := Lacking(c, image, "amd64"); !strings.Contains(got, "the image kube-state-metrics") {
		t.Errorf("it lacks %q", got)
	}
	has["kube-state-metrics"] = "quorate.dev/kube-state-metrics:v1"
	if got := Lacking(c, image, "amd64"); got != "" {
		t.Errorf("it has all, and lacks %q", got)
	}
	clear(has)
	c.Spec.Monitoring.Prometheus.Install = false
	if got := Lacking(c, image, "amd64"); got != "" {
		t.Errorf("the spec installs nothing: %q", got)
	}
}

// TestAccessIsLeast: Prometheus gets metrics, kube-state-metrics what it was told to count, and nobody a secret.
func TestAccessIsLeast(t *testing.T) {
	all, _ := install(t, withPrometheus("a", "b"))
	var args []string
	for _, a := range object[appsv1.Deployment](t, all, "Deployment", "kube-state-metrics").Spec.Template.Spec.Containers[0].Args {
		if list, ok := strings.CutPrefix(a, "--resources="); ok {
			args = strings.Split(list, ",")
		}
	}
	var may []string
	for _, r := range object[rbacv1.ClusterRole](t, all, "ClusterRole", "quorate:kube-state-metrics").Rules {
		may = append(may, r.Resources...)
		if !slices.Equal(r.Verbs, []string{"list", "watch"}) || len(r.NonResourceURLs) > 0 {
			t.Errorf("%+v", r)
		}
	}
	slices.Sort(may)
	if !slices.Equal(may, args) || slices.Contains(may, "secrets") || len(may) == 0 {
		t.Errorf("it counts %v, and may read %v", args, may)
	}
	for _, r := range object[rbacv1.ClusterRole](t, all, "ClusterRole", "quorate:prometheus").Rules {
		if !slices.Equal(r.Verbs, []string{"get"}) || !slices.Equal(r.Resources, []string{"nodes/metrics"}) && !slices.Equal(r.NonResourceURLs, []string{"/metrics"}) {
			t.Errorf("%+v", r)
		}
	}
	for _, o := range all {
		if k := o.GetKind(); k == "Secret" || k == "Role" || strings.Contains(k, "Binding") && o.Object["roleRef"].(map[string]any)["name"] == "cluster-admin" {
			t.Errorf("%s %s", k, o.GetName())
		}
	}
}

// serverFile is what the ConfigMap has of prometheus.yml.
func serverFile(t *testing.T, c *spec.Cluster) (out struct {
	Storage       any `json:"storage"`
	ScrapeConfigs []struct {
		Job           string         `json:"job_name"`
		Scheme        string         `json:"scheme"`
		Authorization map[string]any `json:"authorization"`
		TLS           map[string]any `json:"tls_config"`
		Static        []struct {
			Targets []string          `json:"targets"`
			Labels  map[string]string `json:"labels"`
		} `json:"static_configs"`
	} `json:"scrape_configs"`
}) {
	t.Helper()
	all, _ := install(t, c)
	if err := yaml.Unmarshal([]byte(object[corev1.ConfigMap](t, all, "ConfigMap", "prometheus").Data["prometheus.yml"]), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTargets are all hosts of the spec that have one, and what belongs to the cluster is asked with its CA, and a token.
func TestTargets(t *testing.T) {
	c := withPrometheus("a", "b")
	var control, all []string
	for _, h := range c.Spec.Hosts {
		if h.Has(spec.RoleControlPlane) {
			control = append(control, h.Address)
		}
		if h.IsNode() {
			all = append(all, h.Address)
		}
	}
	want := map[string][]string{}
	for job, of := range map[string]struct {
		hosts []string
		port  string
	}{"quorate": {control, ":10270"}, "kube-apiserver": {control, ":6443"}, "kubelet": {all, ":10250"}, "cadvisor": {all, ":10250"}, "node-exporter": {all, ":9100"}} {
		for _, h := range of.hosts {
			want[job] = append(want[job], h+of.port)
		}
	}
	seen := 0
	for _, s := range serverFile(t, c).ScrapeConfigs {
		var got []string
		for _, x := range s.Static {
			got = append(got, x.Targets...)
			if h, ok := c.Host(x.Labels["node"]); x.Labels != nil && (!ok || !strings.HasPrefix(x.Targets[0], h.Address+":")) {
				t.Errorf("%s: %v is called %s", s.Job, x.Targets, x.Labels["node"])
			}
		}
		if w, known := want[s.Job]; known {
			seen++
			if !slices.Equal(got, w) {
				t.Errorf("%s scrapes %v, want %v", s.Job, got, w)
			}
			if secure := s.Scheme == "https" && s.TLS["ca_file"] == podCA && s.Authorization["credentials_file"] == podToken; secure != (s.Job != "node-exporter") {
				t.Errorf("%s: authentication and TLS: %t", s.Job, secure)
			}
		}
	}
	if seen != len(want) {
		t.Errorf("%d of %d jobs", seen, len(want))
	}
}

// TestRestartsAreRare: a host that comes or goes changes what the servers scrape, and not their pods, which would lose what they have stored.
func TestRestartsAreRare(t *testing.T) {
	small, large := withPrometheus("a", "b"), withPrometheus("a", "b", "a", "b", "a")
	pod := func(c *spec.Cluster) string {
		all, _ := install(t, c)
		text, err := yaml.Marshal(object[appsv1.Deployment](t, all, "Deployment", "prometheus").Spec.Template)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if pod(small) != pod(large) {
		t.Errorf("three more workers restart the servers:\n%s\n%s", pod(small), pod(large))
	}
	large.Spec.Size.Nodes = 200
	if !strings.Contains(pod(large), "memory: 8Gi") && !strings.Contains(pod(large), "memory: 8192Mi") {
		t.Errorf("200 nodes:\n%s", pod(large))
	}
}

// TestIPv6: every program listens at the addresses at which it is asked, and says them in brackets in front of a port.
func TestIPv6(t *testing.T) {
	c := withPrometheus("a", "b")
	c.Spec.Network.PodCIDR, c.Spec.Network.ServiceCIDR = spec.DefaultPodCIDR6, spec.DefaultServiceCIDR6
	all, text := install(t, c)
	for _, want := range []string{"--web.listen-address=[::]:9090", "--cluster.listen-address=[::]:9094", "--cluster.advertise-address=[$(POD_IP)]:9094", "--web.listen-address=[$(HOST_IP)]:9100", "type: AAAA"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s", want)
		}
	}
	for _, a := range object[appsv1.Deployment](t, all, "Deployment", "kube-state-metrics").Spec.Template.Spec.Containers[0].Args {
		if strings.Contains(a, "host=") { // its default is ::
			t.Errorf("kube-state-metrics has %s", a)
		}
	}
	if strings.Contains(text, "0.0.0.0") {
		t.Error("something listens at IPv4 addresses only")
	}
	c.Spec.Network.PodCIDR, c.Spec.Network.ServiceCIDR = spec.DefaultPodCIDR+","+spec.DefaultPodCIDR6, spec.DefaultServiceCIDR+","+spec.DefaultServiceCIDR6
	if _, text := install(t, c); strings.Contains(text, "AAAA") || strings.Contains(text, "[::]") {
		t.Error("the first family of a dual-stack cluster is IPv4, and so are the addresses of its hosts")
	}
}

// TestTheSecretIsTheUsers: it is mounted, and in no ConfigMap. Without one, nobody is told.
func TestTheSecretIsTheUsers(t *testing.T) {
	c := withPrometheus("a", "b")
	volume := func() corev1.Volume {
		all, _ := install(t, c)
		return object[appsv1.Deployment](t, all, "Deployment", "alertmanager").Spec.Template.Spec.Volumes[0]
	}
	if v := volume(); v.ConfigMap == nil || v.ConfigMap.Name != "alertmanager" || v.Secret != nil {
		t.Errorf("%+v", v)
	}
	c.Spec.Monitoring.Prometheus.AlertmanagerSecret = "receivers"
	if v := volume(); v.Secret == nil || v.Secret.SecretName != "receivers" || v.ConfigMap != nil {
		t.Errorf("%+v", v)
	}
}

// TestStorage is what the disk may hold, and the samples are fewer.
func TestStorage(t *testing.T) {
	c := withPrometheus("a", "b")
	c.Spec.Monitoring.Prometheus.Retention, c.Spec.Monitoring.Prometheus.Storage = "8w", "50Gi"
	all, _ := install(t, c)
	pod := object[appsv1.Deployment](t, all, "Deployment", "prometheus").Spec.Template.Spec
	if limit := pod.Volumes[1].EmptyDir.SizeLimit; limit.String() != "50Gi" {
		t.Errorf("the limit is %s", limit)
	}
	if got := fmt.Sprint(serverFile(t, c).Storage); got != "map[tsdb:map[retention:map[size:40960MB time:8w]]]" {
		t.Error(got)
	}
}

// TestAlertsOfInstalledServers: Prometheus' own tool reads the configuration. That of Debian 12 does not know the part about storage yet.
func TestAlertsOfInstalledServers(t *testing.T) {
	all, _ := install(t, withPrometheus("a", "b"))
	var config map[string]any
	if err := yaml.Unmarshal([]byte(object[corev1.ConfigMap](t, all, "ConfigMap", "prometheus").Data["prometheus.yml"]), &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "storage")
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if said, err := promtool(ctx, t, "check", "config", "--syntax-only", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}
