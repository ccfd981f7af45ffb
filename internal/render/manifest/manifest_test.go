package manifest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"quorate.dev/quorate/internal/spec"
)

// TestFlannelInstallsItsConfiguration holds both kinds of images to one outcome: exactly one of them writes the CNI
// configuration, the daemon that can or the tool beside the one that cannot.
func TestFlannelInstallsItsConfiguration(t *testing.T) {
	for _, published := range []bool{false, true} {
		manifests, err := Render(spec.DefaultLab("test"), func(short string) string { return "example.test/" + short + ":v1" }, published)
		if err != nil {
			t.Fatal(err)
		}
		pod := flannelPod(t, manifests[Flannel])
		byDaemon := slices.Contains(pod.Containers[0].Args, "--cni-config-source=/etc/kube-flannel/cni-conf.json")
		byTool := len(pod.InitContainers) == 1 && pod.InitContainers[0].Command[0] == "/opt/bin/install-conf"
		if byDaemon == published || byTool != published {
			t.Errorf("published %t: the daemon installs it: %t, the tool: %t", published, byDaemon, byTool)
		}
	}
}

func flannelPod(t *testing.T, m Manifest) corev1.PodSpec {
	t.Helper()
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(m.Objects), 4096)
	for {
		var set appsv1.DaemonSet
		if err := dec.Decode(&set); errors.Is(err, io.EOF) {
			t.Fatal("there is no DaemonSet")
		} else if err != nil {
			t.Fatal(err)
		}
		if set.Kind == "DaemonSet" {
			return set.Spec.Template.Spec
		}
	}
}

// TestFlannelUsesTheNetworkOfPods: the interface is found by the node's address, or by an address in the network that the spec names.
func TestFlannelUsesTheNetworkOfPods(t *testing.T) {
	for _, tc := range []struct{ pods, traffic, arg string }{
		{"10.244.0.0/16", "", "--iface=$(HOST_IP)"},
		{"10.244.0.0/16", "10.1.0.0/24", `--iface-regex=^(10\.1\.0\.[0-9]+)$`},
		{"fd00:10:244::/56,10.244.0.0/16", "fd00:1::/64,10.1.0.0/24", `--iface-regex=^(fd00:1:0:0:[0-9a-f:]+|fd00:1::([0-9a-f]{1,4}(:[0-9a-f]{1,4}){0,3})?|10\.1\.0\.[0-9]+)$`},
	} {
		c := spec.DefaultLab("test")
		c.Spec.Network.PodCIDR, c.Spec.Network.PodTrafficCIDR = tc.pods, tc.traffic
		manifests, err := Render(c, func(string) string { return "" }, false)
		if err != nil {
			t.Fatal(err)
		}
		args := flannelPod(t, manifests[Flannel]).Containers[0].Args
		interfaces := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return !strings.HasPrefix(a, "--iface") && !strings.HasPrefix(a, "--public") })
		if !slices.Equal(interfaces, []string{tc.arg}) {
			t.Errorf("%s: %q, want %q", tc.traffic, interfaces, tc.arg)
		}
	}
}

// TestFlannelConnectsEachFamily: IPv4 is flannel's default, and has to be switched off where pods have none.
func TestFlannelConnectsEachFamily(t *testing.T) {
	for ranges, want := range map[string]string{
		"10.244.0.0/16":                  `{"Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}`,
		"fd00:10:244::/56":               `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:244::/56", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}`,
		"10.244.0.0/16,fd00:10:244::/56": `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/56", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}`,
		"fd00:10:244::/56,10.244.0.0/16": `{"EnableIPv6": true, "IPv6Network": "fd00:10:244::/56", "Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}`,
	} {
		c := spec.DefaultLab("test")
		c.Spec.Network.PodCIDR = ranges
		manifests, err := Render(c, func(string) string { return "" }, false)
		if err != nil {
			t.Fatal(err)
		}
		if text := string(manifests[Flannel].Objects); !strings.Contains(text, "    "+want+"\n") {
			t.Errorf("%s: no %s in\n%s", ranges, want, text)
		} else if strings.Contains(text, "--public-ipv6=") != (ranges == "fd00:10:244::/56,10.244.0.0/16") {
			t.Errorf("%s: flannel looks for its interface by\n%s", ranges, text)
		}
	}
}

// TestApproverMayDoLittle: the program that reads what nodes send cannot approve any other certificate, and reads nothing else.
func TestApproverMayDoLittle(t *testing.T) {
	for _, cni := range []string{spec.CNIFlannel, spec.CNINone} {
		c := spec.DefaultLab("test")
		c.Spec.Network.CNI = cni
		manifests, err := Render(c, func(string) string { return "" }, false)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := manifests[Approver].Decode()
		if err != nil || len(objects) != 2 {
			t.Fatalf("%d objects, %v", len(objects), err)
		}
		var role rbacv1.ClusterRole
		var binding rbacv1.ClusterRoleBinding
		for i, into := range []any{&role, &binding} {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objects[i].Object, into, true); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range role.Rules {
			ok := slices.Equal(r.APIGroups, []string{"certificates.k8s.io"}) && len(r.Resources) == 1
			switch r.Resources[0] {
			case "certificatesigningrequests":
				ok = ok && !slices.ContainsFunc(r.Verbs, func(v string) bool { return !slices.Contains([]string{"get", "list", "watch"}, v) })
			case "certificatesigningrequests/approval":
				ok = ok && slices.Equal(r.Verbs, []string{"update"})
			case "signers":
				ok = ok && slices.Equal(r.Verbs, []string{"approve"}) && slices.Equal(r.ResourceNames, []string{"kubernetes.io/kubelet-serving"})
			default:
				ok = false
			}
			if !ok {
				t.Errorf("the approver may %+v", r)
			}
		}
		if len(role.Rules) != 3 || binding.RoleRef.Name != role.Name || len(binding.Subjects) != 1 || binding.Subjects[0].Kind != "User" || binding.Subjects[0].Name != "quorate:approver" {
			t.Errorf("%+v is bound to %+v", role.Rules, binding)
		}
	}
}

// TestExporterMayDoLittle: the program that strangers talk to asks three questions, and can ask them whatever else the cluster allows its users.
func TestExporterMayDoLittle(t *testing.T) {
	objects, err := Optional()[Exporter].Decode()
	if err != nil || len(objects) != 2 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	var role rbacv1.ClusterRole
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objects[0].Object, &role, true); err != nil {
		t.Fatal(err)
	}
	var may []string
	for _, r := range role.Rules {
		may = append(may, strings.Join(slices.Concat(r.Verbs, r.APIGroups, r.Resources, r.NonResourceURLs), " "))
	}
	want := []string{"create authentication.k8s.io tokenreviews", "create authorization.k8s.io subjectaccessreviews", "get /readyz"}
	if !slices.Equal(may, want) {
		t.Errorf("the exporter may %q, want %q", may, want)
	}
}

// TestPrometheusIsRemovedWhole: every object that any spec has installed goes, and the namespace, where others may have put something, stays.
func TestPrometheusIsRemovedWhole(t *testing.T) {
	list := func(m Manifest) (out []string) {
		objects, err := m.Decode()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.GetKind() != "Namespace" {
				out = append(out, o.GetAPIVersion()+" "+o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName())
			}
		}
		if (len(out) == len(objects)-1) != strings.Contains(string(m.Objects), "kind: Namespace") {
			t.Errorf("%d of %d objects", len(out), len(objects))
		}
		return out
	}
	gone := list(Optional()[Prometheus])
	if strings.Contains(string(Optional()[Prometheus].Objects), "kind: Namespace") || len(gone) < 10 {
		t.Errorf("removed: %v", gone)
	}
	for _, secret := range []string{"", "receivers"} {
		c := spec.DefaultLab("test")
		c.Spec.Monitoring = spec.Monitoring{Exporter: true, Prometheus: spec.Prometheus{Install: true, AlertmanagerSecret: secret}}
		c.Default()
		manifests, err := Render(c, func(short string) string { return short }, false)
		if err != nil {
			t.Fatal(err)
		}
		if installed := list(manifests[Prometheus]); !slices.Equal(installed, gone) {
			t.Errorf("installed: %v, removed: %v", installed, gone)
		}
		c.Spec.Monitoring.Prometheus.Install = false
		if manifests, err := Render(c, func(short string) string { return short }, false); err != nil || manifests[Prometheus].Objects != nil {
			t.Errorf("it is off: %v", err)
		}
	}
}
