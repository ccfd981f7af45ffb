package hostconfig

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestEtcdMember(t *testing.T) {
	c := cluster()
	c.Spec.ControlPlane.Topology = spec.TopologyExternal
	for _, name := range []string{"etcd-a", "etcd-b"} {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: name, Address: "10.0.1." + name[len(name)-1:], Roles: []string{spec.RoleEtcd}})
	}
	h := c.EtcdHosts()[1]
	fresh := Etcd(h, &facts.Facts{})
	env := file(t, fresh, "/etc/etcd/etcd.env")
	for _, want := range []string{"ETCD_NAME=etcd-b\n", "ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379,https://10.0.1.b:2379\n", "ETCD_LISTEN_PEER_URLS=https://10.0.1.b:2380\n",
		"ETCD_CLIENT_CERT_AUTH=true\n", "ETCD_PEER_CLIENT_CERT_AUTH=true\n", "ETCD_LISTEN_METRICS_URLS=http://127.0.0.1:2381\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("no %q in\n%s", want, env)
		}
	}
	if strings.Contains(env, "INITIAL_CLUSTER") {
		t.Error("what every plan compares says how the cluster began")
	}
	if len(fresh.Enable) != 0 {
		t.Errorf("a member that never started is started without the others: %v", fresh.Enable)
	}
	if again := Etcd(h, &facts.Facts{Kubernetes: facts.Kubernetes{EtcdData: true}}); !slices.Equal(again.Enable, []string{EtcdUnit}) {
		t.Errorf("a member with data is not kept running: %v", again.Enable)
	}
	for _, f := range fresh.Files {
		if len(f.Restart) != 0 {
			t.Errorf("%s restarts all members at once: %v", f.Path, f.Restart)
		}
	}
	if got := EtcdMembers(c); !strings.Contains(got, "ETCD_INITIAL_CLUSTER=etcd-a=https://10.0.1.a:2380,etcd-b=https://10.0.1.b:2380\n") {
		t.Errorf("members are\n%s", got)
	}
	if slices.Contains(SharedPKI(c), "etcd/ca.key") {
		t.Error("control planes share the key of an authority that is not theirs")
	}
	c.Spec.ControlPlane.Topology = spec.TopologyStacked
	if !slices.Contains(SharedPKI(c), "etcd/ca.key") {
		t.Error("control planes with an etcd lack the key of its authority")
	}
}
