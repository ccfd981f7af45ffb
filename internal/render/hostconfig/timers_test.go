package hostconfig

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestEtcdTimers: a member begins with those of the spec, and one that exists keeps those of its file.
func TestEtcdTimers(t *testing.T) {
	c := cluster()
	c.Spec.ControlPlane.Topology = spec.TopologyExternal
	h := spec.Host{Name: "etcd-a", Address: "10.0.1.1", Roles: []string{spec.RoleEtcd}}
	c.Spec.Hosts = append(c.Spec.Hosts, h)
	env := func(f *facts.Facts) string { return file(t, Etcd(h, f, EtcdTimers(c)), EtcdEnvFile) }
	plain := env(&facts.Facts{})
	if strings.Contains(plain, "HEARTBEAT") || strings.Contains(plain, "ELECTION") {
		t.Errorf("without a timeout in the spec:\n%s", plain)
	}
	c.Spec.Failover.ElectionTimeout = "300ms"
	const own = "ETCD_HEARTBEAT_INTERVAL=30\nETCD_ELECTION_TIMEOUT=300\n"
	if got := env(&facts.Facts{}); got != plain+own {
		t.Errorf("a new member:\n%s", got)
	}
	for _, have := range []facts.EtcdTimers{{}, {Heartbeat: 30, Election: 1000}, {Heartbeat: 100, Election: 1000}, {Election: 2000}} {
		f := &facts.Facts{Kubernetes: facts.Kubernetes{EtcdData: true, EtcdTimers: &have}}
		got := env(f)
		if got != EtcdEnvironment(h, have).Content || strings.Contains(got, own) {
			t.Errorf("a member with %+v:\n%s", have, got)
		}
		values := map[string]string{}
		for line := range strings.Lines(got) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			values[name] = value
		}
		if read := ReadEtcdTimers(values); read != have {
			t.Errorf("%+v is read as %+v", have, read)
		}
	}
	if got := ReadEtcdTimers(EtcdArguments(EtcdTimers(c))); got != (facts.EtcdTimers{Heartbeat: 30, Election: 300}) {
		t.Errorf("%+v", got)
	}
	if got := ReadEtcdTimers(map[string]string{EtcdElectionArgument: "soon"}); got != (facts.EtcdTimers{}) {
		t.Errorf("%+v", got)
	}
}
