package kubeadm

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

func config() Config {
	c := spec.DefaultLab("test")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprintf("10.0.0.%d", 11+i)
	}
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	return Config{Cluster: c, Token: "abcdef.0123456789abcdef", CA: "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n", Facts: []*facts.Facts{{CgroupV2: true, CanSetConntrack: true}}}
}

func mustContain(t *testing.T, text []byte, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(string(text), p) {
			t.Errorf("no %q in\n%s", p, text)
		}
	}
}

func TestOnlyTheFirstStartNamesTheEtcdMembers(t *testing.T) {
	c := config()
	h := c.Cluster.HostsWith(spec.RoleControlPlane)[1]
	boot, err := c.Init(h, []plan.Member{{Name: "cp-a", Address: "10.0.0.11"}, {Name: "cp-b", Address: "10.0.0.12"}})
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, boot, "value: cp-a=https://10.0.0.11:2380,cp-b=https://10.0.0.12:2380", "name: initial-cluster-state", "advertiseAddress: "+h.Address,
		"- name: initial-cluster-token\n      value: test-039058c6f2c0cb49\n")
	clean, err := c.Init(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(clean), "initial-cluster") {
		t.Errorf("what goes into the cluster would override what later joins compute:\n%s", clean)
	}
	mustContain(t, clean, "controlPlaneEndpoint: api.test.internal:6443", "encryptionAlgorithm: ECDSA-P256", "- 10.0.0.100", "cgroupDriver: systemd", "mode: nftables")
}

// TestIPFamilies: kubeadm takes ranges and addresses as the spec has them. An etcd member of an IPv6 host also answers at the loopback
// address at which Quorate asks it.
func TestIPFamilies(t *testing.T) {
	six := config()
	for i := range six.Cluster.Spec.Hosts {
		six.Cluster.Spec.Hosts[i].Address = fmt.Sprintf("fd00::%x", 11+i)
	}
	six.Cluster.Spec.LoadBalancer.Address = "fd00::100"
	six.Cluster.Spec.Network.PodCIDR, six.Cluster.Spec.Network.ServiceCIDR = "fd00:10:244::/56", "fd00:10:96::/112"
	dual := config()
	for i := range dual.Cluster.Spec.Hosts {
		dual.Cluster.Spec.Hosts[i].SecondaryAddress = fmt.Sprintf("fd00::%x", 11+i)
	}
	dual.Cluster.Spec.Network.PodCIDR, dual.Cluster.Spec.Network.ServiceCIDR = "10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/12,fd00:10:96::/112"
	const metrics = "name: listen-metrics-urls\n      value: http://[::1]:2381,http://127.0.0.1:2381\n"
	for _, tc := range []struct {
		what    string
		c       Config
		want    []string
		metrics bool
	}{
		{"IPv6", six, []string{"advertiseAddress: fd00::b", "value: fd00::b\n", "podSubnet: fd00:10:244::/56", "serviceSubnet: fd00:10:96::/112", "- fd00::100", "cp-a=https://[fd00::b]:2380"}, true},
		{"dual stack", dual, []string{"advertiseAddress: 10.0.0.11", "value: 10.0.0.11,fd00::b\n", "podSubnet: 10.244.0.0/16,fd00:10:244::/56", "serviceSubnet: 10.96.0.0/12,fd00:10:96::/112"}, false},
	} {
		h := tc.c.Cluster.Spec.Hosts[0]
		text, err := tc.c.Init(h, []plan.Member{{Name: "cp-a", Address: h.Address}})
		if err != nil {
			t.Fatal(err)
		}
		mustContain(t, text, tc.want...)
		if strings.Contains(string(text), metrics) != tc.metrics {
			t.Errorf("%s: etcd's metrics are elsewhere:\n%s", tc.what, text)
		}
	}
}

func TestBalancersBesideControlPlanesShareThePort(t *testing.T) {
	c := config()
	h := c.Cluster.Spec.Hosts[0]
	own, err := c.Init(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(own), "permit-port-sharing") {
		t.Error("the port is shared with nobody")
	}
	c.Cluster.Spec.Hosts = c.Cluster.Spec.Hosts[:5]
	shared, err := c.Init(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, shared, "- name: permit-port-sharing\n    value: \"true\"")
	c.Cluster.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal}
	byDNS, err := c.Init(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(byDNS), `- ""`) {
		t.Errorf("a certificate for no name:\n%s", byDNS)
	}
}

// TestPodsUseTheEndpoint: no API server lists itself for pods where Quorate makes the virtual IP the address of the API's Service.
func TestPodsUseTheEndpoint(t *testing.T) {
	const lists = "- name: endpoint-reconciler-type\n    value: "
	for name, tc := range map[string]struct {
		edit func(*Config)
		want string // the value; empty if the API servers list themselves, as they do without the argument
	}{
		"managed load balancers":        {func(*Config) {}, "none"},
		"a load balancer of the user's": {func(c *Config) { c.Cluster.Spec.LoadBalancer.Type = spec.BalancerExternal }, ""},
		"a setting": {func(c *Config) {
			c.Cluster.Spec.Settings.APIServer.ExtraArgs = map[string]string{"endpoint-reconciler-type": "lease"}
		}, "lease"},
	} {
		c := config()
		tc.edit(&c)
		h := c.Cluster.Spec.Hosts[0]
		out, err := c.Init(h, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(out), lists); got != (tc.want != "") || got && !strings.Contains(string(out), lists+tc.want+"\n") {
			t.Errorf("%s: want %q in\n%s", name, tc.want, out)
		}
		byHand, err := c.InitByHand(h)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(byHand), lists+"none") {
			t.Errorf("%s, by hand: nobody gives the Service an address:\n%s", name, byHand)
		}
	}
}

func TestOneOldHostDecidesForAll(t *testing.T) {
	c := config()
	c.Facts = append(c.Facts, &facts.Facts{})
	out, err := c.Init(c.Cluster.Spec.Hosts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, "cgroupDriver: cgroupfs", "failCgroupV1: false", "maxPerCore: 0")
}

func TestProfiles(t *testing.T) {
	c := config()
	fast, err := c.Init(c.Cluster.Spec.Hosts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, fast, "node-monitor-grace-period", "default-unreachable-toleration-seconds", "nodeLeaseDurationSeconds: 6")
	c.Cluster.Spec.Failover.Profile = spec.ProfileStandard
	standard, err := c.Init(c.Cluster.Spec.Hosts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"node-monitor", "toleration-seconds", "nodeLeaseDurationSeconds"} {
		if strings.Contains(string(standard), no) {
			t.Errorf("the standard profile sets %s", no)
		}
	}
	etcd := c.clusterConfiguration()["etcd"]
	c.Cluster.Spec.Failover.Profile = spec.ProfileFast
	if now := c.clusterConfiguration()["etcd"]; !reflect.DeepEqual(now, etcd) {
		t.Errorf("etcd depends on the profile: %v, %v", now, etcd)
	}
}

func TestJoinTrustsOnlyTheClustersCA(t *testing.T) {
	const discoveryFile = "/run/quorate/discovery.yaml"
	c := config()
	worker := c.Cluster.HostsWith(spec.RoleWorker)[0]
	out, err := c.Join(worker, discoveryFile)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, "kubeConfigPath: "+discoveryFile, "tlsBootstrapToken: "+c.Token, "topology.kubernetes.io/zone="+worker.Zone, "taints: []")
	if strings.Contains(string(out), "controlPlane:") || strings.Contains(string(out), "unsafeSkip") {
		t.Errorf("a worker joins as\n%s", out)
	}
	discovery, err := c.Discovery()
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, discovery, "certificate-authority-data: "+base64.StdEncoding.EncodeToString([]byte(c.CA)), "server: https://api.test.internal:6443")
	cp, err := c.Join(c.Cluster.HostsWith(spec.RoleControlPlane)[0], discoveryFile)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, cp, "controlPlane:", "node-role.kubernetes.io/control-plane")
}

func TestExternalEtcd(t *testing.T) {
	c := config()
	c.Cluster.Spec.ControlPlane.Topology = spec.TopologyExternal
	c.Cluster.Spec.Hosts = append(c.Cluster.Spec.Hosts, spec.Host{Name: "etcd-a", Address: "10.0.0.41", Roles: []string{spec.RoleEtcd}}, spec.Host{Name: "etcd-b", Address: "10.0.0.42", Roles: []string{spec.RoleEtcd}})
	files := []string{"caFile: /etc/kubernetes/pki/etcd/ca.crt", "certFile: /etc/kubernetes/pki/apiserver-etcd-client.crt", "keyFile: /etc/kubernetes/pki/apiserver-etcd-client.key"}
	out, err := c.Init(c.Cluster.Spec.Hosts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, append(files, "external:", "- https://10.0.0.41:2379\n    - https://10.0.0.42:2379")...)
	host, err := c.EtcdHost(c.Cluster.HostsWith(spec.RoleEtcd)[1])
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, host, "name: etcd-b", "advertiseAddress: 10.0.0.42", "encryptionAlgorithm: ECDSA-P256", "kubernetesVersion: "+c.Cluster.Spec.Kubernetes.Version)
	if strings.Contains(string(host), c.Token) || strings.Contains(string(host), "external") {
		t.Errorf("an etcd host is told more than it needs:\n%s", host)
	}
	c.Cluster.Spec.Etcd = spec.Etcd{Endpoints: []string{"https://e1:2379"}, CAFile: "/home/me/ca.pem"}
	if out, err = c.Init(c.Cluster.Spec.Hosts[0], nil); err != nil {
		t.Fatal(err)
	}
	mustContain(t, out, append(files, "- https://e1:2379")...)
	if strings.Contains(string(out), "/home/me") {
		t.Errorf("the caller's own paths reach the cluster:\n%s", out)
	}
}
