package hostconfig

import (
	"net/url"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// kubeadmsServer is what kubeadm 1.36 and 1.37 write for an API server, as far as its probes and what they need are concerned.
const kubeadmsServer = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --secure-port=6443]
    image: registry.k8s.io/kube-apiserver:v1.37.2
    livenessProbe:
      failureThreshold: 8
      httpGet: {host: 10.0.0.11, path: /livez, port: probe-port, scheme: HTTPS}
      initialDelaySeconds: 10
      periodSeconds: 10
      timeoutSeconds: 15
    ports: [{containerPort: 6443, name: probe-port, protocol: TCP}]
    readinessProbe:
      failureThreshold: 3
      httpGet: {host: 10.0.0.11, path: /readyz, port: probe-port, scheme: HTTPS}
      periodSeconds: 1
      timeoutSeconds: 15
    startupProbe:
      failureThreshold: 24
      httpGet: {host: 10.0.0.11, path: /livez, port: probe-port, scheme: HTTPS}
      initialDelaySeconds: 10
      periodSeconds: 10
      timeoutSeconds: 15
  hostNetwork: true
`

// TestAPIServersAreNotRestartedBecauseOfEtcd applies the patch as kubeadm does. Liveness and startup leave out etcd, a start may take longer than with
// kubeadm and ends if it hangs, and everything else stays.
func TestAPIServersAreNotRestartedBecauseOfEtcd(t *testing.T) {
	var want, got, strict corev1.Pod
	patch := []byte(apiServerPatch().Content)
	if err := yaml.UnmarshalStrict(patch, &strict); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(kubeadmsServer), &want); err != nil {
		t.Fatal(err)
	}
	original, err := yaml.YAMLToJSON([]byte(kubeadmsServer))
	if err != nil {
		t.Fatal(err)
	}
	if patch, err = yaml.YAMLToJSON(patch); err != nil {
		t.Fatal(err)
	}
	patched, err := strategicpatch.StrategicMergePatch(original, patch, corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(patched, &got); err != nil {
		t.Fatal(err)
	}
	c := &want.Spec.Containers[0]
	c.LivenessProbe.HTTPGet.Path, c.StartupProbe.HTTPGet.Path = "/livez?exclude=etcd", "/livez?exclude=etcd"
	c.StartupProbe.FailureThreshold = 90
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got.Spec.Containers, want.Spec.Containers)
	}
	// Kubelets have no credentials for their probes.
	if u, err := url.Parse(LivePath); err != nil || !slices.Contains(AnonymousPaths, u.Path) {
		t.Errorf("%s: %v", LivePath, err)
	}
}

func TestEveryControlPlaneHasThePatch(t *testing.T) {
	c := cluster()
	cp, worker := c.HostsWith(spec.RoleControlPlane)[0], c.HostsWith(spec.RoleWorker)[0]
	has := func(d facts.Desired) bool {
		return slices.ContainsFunc(d.Files, func(f facts.File) bool { return f.Path == apiServerPatchFile })
	}
	for _, topology := range []string{spec.TopologyStacked, spec.TopologyExternal} {
		c.Spec.ControlPlane.Topology = topology
		if !has(ControlPlane(c)) || !has(Adopted(c, cp)) || has(Adopted(c, worker)) {
			t.Errorf("%s: a control plane %t, an adopted one %t, a worker %t", topology, has(ControlPlane(c)), has(Adopted(c, cp)), has(Adopted(c, worker)))
		}
		if !slices.Contains(Request(c).Files, apiServerPatchFile) {
			t.Errorf("%s: nobody asks hosts whether they have it", topology)
		}
	}
}

// TestProbesByHand: without a watchdog, the kubelet's restart is all that ends an API server whose only member of etcd is dead, unless a load balancer asks for etcd.
func TestProbesByHand(t *testing.T) {
	for _, tc := range []struct {
		topology, balancer string
		want               bool
	}{
		{spec.TopologyStacked, spec.BalancerManaged, false},
		{spec.TopologyStacked, spec.BalancerExternal, true},
		{spec.TopologyExternal, spec.BalancerManaged, true},
		{spec.TopologyExternal, spec.BalancerExternal, true},
	} {
		c := cluster()
		c.Spec.ControlPlane.Topology, c.Spec.LoadBalancer.Type = tc.topology, tc.balancer
		if patch, has := PlainAPIServerPatch(c); has != tc.want || patch.Path != apiServerPatchFile {
			t.Errorf("%s, %s: %t, %s", tc.topology, tc.balancer, has, patch.Path)
		}
	}
}
