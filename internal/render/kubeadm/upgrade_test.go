package kubeadm

import (
	"strings"
	"testing"
)

// TestUpgradedKeepsWhatTheClusterHas: the stored configuration may have been changed by its administrator.
func TestUpgradedKeepsWhatTheClusterHas(t *testing.T) {
	c := config()
	h := c.Cluster.Spec.Hosts[0]
	const stored = `apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
apiServer:
  extraArgs:
  - {name: shutdown-delay-duration, value: 42s}
  - {name: max-requests-inflight, value: "800"}
etcd: {local: {dataDir: /var/lib/etcd}}
`
	out, err := Upgraded(h, stored, "v1.37.2")
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, "kubernetesVersion: v1.37.2", "value: 42s", "max-requests-inflight", "name: peer-ca-file\n    value: /etc/kubernetes/pki/ca.crt", "directory: /etc/kubernetes/patches", "advertiseAddress: "+h.Address)
	if n := strings.Count(string(out), "shutdown-delay-duration"); n != 1 {
		t.Errorf("the delay is set %d times", n)
	}
	external, err := Upgraded(h, strings.Replace(stored, "{local: {dataDir: /var/lib/etcd}}", "{external: {endpoints: [https://e1:2379]}}", 1), "v1.37.2")
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, external, "directory: /etc/kubernetes/patches")
	for _, bad := range []string{"", "kind: Other", "{"} {
		if _, err := Upgraded(h, bad, "v1.37.2"); err == nil {
			t.Errorf("%q is a configuration", bad)
		}
	}
}

func TestAddonsThatAreInstalledAreNotDisabled(t *testing.T) {
	const stored = "kind: ClusterConfiguration\ndns: {disabled: true, imageTag: v1}\nproxy: {disabled: true}\nkubernetesVersion: v1.36.3\n"
	out, err := WithAddons(stored, true, true)
	if err != nil || strings.Contains(out, "disabled") || !strings.Contains(out, "imageTag: v1") || !strings.Contains(out, "kubernetesVersion: v1.36.3") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = WithAddons(stored, false, true) // without kube-proxy, as its administrator wants it
	if err != nil || !strings.Contains(out, "proxy:\n  disabled: true") || strings.Count(out, "disabled") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	for _, same := range []string{"kind: ClusterConfiguration\n", "kind: ClusterConfiguration\ndns: {}\nproxy: {disabled: false}\n"} {
		if out, err := WithAddons(same, true, true); err != nil || out != same {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if _, err := WithAddons("kind: Other", true, true); err == nil {
		t.Error("anything is a configuration")
	}
}

func TestUpgradeRenewsNothing(t *testing.T) {
	out, err := Upgrade("v1.37.2")
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, "kubernetesVersion: v1.37.2")
	if n := strings.Count(string(out), "certificateRenewal: false"); n != 2 {
		t.Errorf("%s", out)
	}
}
