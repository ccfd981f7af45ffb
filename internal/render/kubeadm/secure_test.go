package kubeadm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

func TestConfigurationIsSecure(t *testing.T) {
	c := config()
	out, err := c.Init(c.Cluster.Spec.Hosts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, "name: encryption-provider-config\n    value: /etc/kubernetes/pki/encryption.yaml", "name: audit-policy-file", "name: authentication-config",
		"name: kubelet-certificate-authority", "mountPath: /var/log/kubernetes/audit", "serverTLSBootstrap: true", "seccompDefault: true", "value: TLS1.2")
	if n := strings.Count(string(out), "name: profiling\n    value: \"false\""); n != 3 {
		t.Errorf("profiling is off in %d of 3 programs", n)
	}
	if strings.Contains(string(out), "secret:") {
		t.Error("what goes into the cluster's ConfigMap holds a key")
	}
}

// TestStackedEtcdHasRoom: the quota is in what goes into the cluster, so that members that join have it too.
func TestStackedEtcdHasRoom(t *testing.T) {
	c := config()
	h := c.Cluster.HostsWith(spec.RoleControlPlane)[0]
	clean, err := c.Init(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, clean, "- name: quota-backend-bytes\n      value: \"8589934592\"")
	boot, err := c.Init(h, []plan.Member{{Name: h.Name, Address: h.Address}})
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, boot, "- name: quota-backend-bytes\n      value: \"8589934592\"")
}

// TestStackedEtcdHasTimers that the spec gives it, also in what goes into the cluster, and otherwise none.
func TestStackedEtcdHasTimers(t *testing.T) {
	c := config()
	h := c.Cluster.HostsWith(spec.RoleControlPlane)[0]
	for _, timeout := range []string{"", "300ms"} {
		c.Cluster.Spec.Failover.ElectionTimeout = timeout
		for _, members := range [][]plan.Member{nil, {{Name: h.Name, Address: h.Address}}} {
			out, err := c.Init(h, members)
			if err != nil {
				t.Fatal(err)
			}
			for _, arg := range []string{"- name: heartbeat-interval\n      value: \"30\"", "- name: election-timeout\n      value: \"300\""} {
				if strings.Contains(string(out), arg) != (timeout != "") {
					t.Errorf("with the timeout %q, %q is there: %t", timeout, arg, timeout == "")
				}
			}
		}
	}
}

// TestStaticPodsArePatched on every control plane: other hosts do not have the directory.
func TestStaticPodsArePatched(t *testing.T) {
	c := config()
	cp, worker := c.Cluster.HostsWith(spec.RoleControlPlane)[0], c.Cluster.HostsWith(spec.RoleWorker)[0]
	render := func(out []byte, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const patches = "patches:\n  directory: /etc/kubernetes/patches\n"
	if !strings.Contains(render(c.Init(cp, nil)), patches) || !strings.Contains(render(c.Join(cp, "d")), patches) {
		t.Error("a control plane is not patched")
	}
	if strings.Contains(render(c.Join(worker, "d")), patches) || strings.Contains(render(c.Worker(worker)), patches) {
		t.Error("a worker is patched")
	}
	for _, etcd := range []string{"{local: {dataDir: /var/lib/etcd}}", "{external: {endpoints: [https://e1:2379]}}"} {
		if !strings.Contains(render(WithClusterConfiguration(cp, "kind: ClusterConfiguration\netcd: "+etcd+"\n")), patches) {
			t.Errorf("a control plane of a cluster that exists, with etcd %s, is not patched", etcd)
		}
	}
	c.Cluster.Spec.ControlPlane.Topology = spec.TopologyExternal
	if !strings.Contains(render(c.Init(cp, nil)), patches) || !strings.Contains(render(c.Join(cp, "d")), patches) {
		t.Error("a control plane without an etcd member is not patched")
	}
}

// TestPatchedByHand: only control planes that are to have other probes than kubeadm's have the directory (see hostconfig.PlainAPIServerPatch).
func TestPatchedByHand(t *testing.T) {
	c := config()
	cp, worker := c.Cluster.HostsWith(spec.RoleControlPlane)[0], c.Cluster.HostsWith(spec.RoleWorker)[0]
	for _, topology := range []string{spec.TopologyStacked, spec.TopologyExternal} {
		c.Cluster.Spec.ControlPlane.Topology = topology
		patched := func(out []byte, err error) bool {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(out), "patches:\n  directory: /etc/kubernetes/patches\n")
		}
		want := topology == spec.TopologyExternal
		if patched(c.InitByHand(cp)) != want || patched(c.JoinByHand(cp, JoinWords{})) != want || patched(c.JoinByHand(worker, JoinWords{})) {
			t.Errorf("%s: init %t, join %t, a worker %t", topology, patched(c.InitByHand(cp)), patched(c.JoinByHand(cp, JoinWords{})), patched(c.JoinByHand(worker, JoinWords{})))
		}
	}
}

func TestTokensEndSoon(t *testing.T) {
	c := config()
	out, err := c.Init(c.Cluster.Spec.Hosts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if mustContain(t, out, "ttl: 10m0s"); TokenLifetime > 15*time.Minute {
		t.Errorf("a token is valid for %s", TokenLifetime)
	}
}

// TestWhatIsSetHereIsRefusedInTheSpec: whoever could set an argument that Quorate sets would replace it unnoticed.
func TestWhatIsSetHereIsRefusedInTheSpec(t *testing.T) {
	c := config()
	for _, balancers := range []bool{true, false} {
		if !balancers {
			c.Cluster.Spec.Hosts = slices.DeleteFunc(c.Cluster.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
		}
		cluster := c.clusterConfiguration()
		for section, program := range map[string]string{"apiServer": facts.APIServer, "controllerManager": facts.ControllerManager, "scheduler": facts.Scheduler} {
			for _, a := range cluster[section].(object)["extraArgs"].([]arg) {
				own, _ := hostconfig.WithoutSetting(c.Cluster, program, a.Name)
				if spec.Reserved(program, a.Name) == "" && own != a.Value {
					t.Errorf("the spec can set --%s of %s", a.Name, program)
				}
			}
		}
	}
}

func TestSettingsAreInEveryConfiguration(t *testing.T) {
	c := config()
	c.Cluster.Spec.Settings = spec.Settings{FeatureGates: map[string]bool{"Gate": true}, Kubelet: spec.KubeletSettings{MaxPods: 77, PodPidsLimit: 99},
		APIServer: spec.APIServerSettings{ExtraArgs: map[string]string{"audit-log-maxage": "7"}}, Scheduler: spec.ProgramSettings{ExtraArgs: map[string]string{"v": "4"}}}
	text, err := c.Init(c.Cluster.HostsWith(spec.RoleControlPlane)[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, text, "maxPods: 77", "podPidsLimit: 99", "- name: audit-log-maxage\n    value: \"7\"\n", "- name: v\n    value: \"4\"\n", "featureGates:\n  Gate: true")
	if n := strings.Count(string(text), "value: Gate=true"); n != 3 {
		t.Errorf("%d programs have the feature gate\n%s", n, text)
	}
	if strings.Contains(string(text), `"30"`) {
		t.Errorf("an argument that the spec replaces is there as well\n%s", text)
	}
}
